"""The next run of a schedule: its number, its seed, the problems it explores, or why there is nothing new to do.

Decided here: a schedule belongs to a registered model, whoever runs it: checkouts that share a remote share its numbers
and its problems. What each run takes is a claim, an object in the DVC remote beside the data
(`ipr/schedules/MODEL/000007.json`) that is written only where its number is free, and `schedule.json` in the run's
folder. History is both together: a folder that is gone is remembered by the remote, and a remote that was down is told
later. Without publishing (`data.publish=false`) `run.store` takes the remote's place, or the folders are all there is.
"""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ipr import algorithms, identity, models, store
from ipr.apps.data_commands import EXPERTS
from ipr.config import RunConfig, load
from ipr.data import datasets
from ipr.data.experts import environment, without_expert
from ipr.runs import bucket, mirror
from ipr.runs.run import FIRST_BASE, Run, first_base
from ipr.tracking import champion_info
from ipr.types import IprError, Trajectory, derive_seed

log = logging.getLogger("ipr")

DAY = 24 * 3600
"""Seconds for which the problems of a run that has not ended count as explored; it may have died."""
FILE = "schedule.json"


@dataclass(frozen=True)
class Claim:
    """What one scheduled run takes for itself."""

    number: int
    """Of the run in its schedule, from 1 on."""
    run: str
    preset: str
    seed: int
    start: str
    """The model it starts from: its hash, or a name."""
    data: str | None
    """md5 of the experts."""
    config: str
    """Hash of the config with the preset's own seed."""
    before: int
    """Iterations that the policy has behind it."""
    with_experts: bool
    """Whether the problems are explored from their experts' prefixes."""
    problems: tuple[str, ...]
    """Of the train split, to be explored."""
    time: float
    """Seconds since 1970."""
    done: bool = False
    base: str | None = None
    """The preset's own model, which the schedule's first run starts from (`first_base`); old runs have none."""

    @property
    def same(self) -> tuple[str, str | None, str]:
        """Two runs with the same can differ by seed and problems alone."""
        return self.start, self.data, self.config


@dataclass(frozen=True)
class Next:
    folder: Path
    config: RunConfig


@dataclass(frozen=True)
class Skipped:
    why: str


def next_run(preset: str, overrides: Sequence[str], runs: Path, root: Path, presets: Path) -> Next | Skipped:
    """Continue an unfinished run of the schedule, else claim a new one that starts from the champion.

    Without a champion the run starts from the preset's base model. The champion has been through SFT, so it is the new
    run's SFT agent (reference and scorer) as it is. Raises IprError for bad config and a tracker that is down.
    """
    plain = load(preset, overrides, presets)
    if plain.data.publish:
        datasets.pull_newest(root)
    name = Path(preset).stem
    policy = plain.track.registered_model
    if (begun := _unfinished(runs, name, policy)) is not None:
        if begun.status()["status"] == "running":
            return Skipped(f"{begun.folder} is still running")
        return Next(begun.folder, begun.config)
    if plain.run.store and (begun := _in_store(plain.run.store, runs, name, policy)) is not None:
        return Next(begun.folder, begun.config)
    config, start, before = plain, plain.model.path, 0
    base = None if start == "champion" else first_base(start)
    champion = champion_info(plain.track, root) if plain.track.enabled else None
    if champion is not None:
        tags = champion["tags"]
        if base and tags.get(FIRST_BASE) not in (None, base):
            raise IprError(
                f"the champion of '{policy}' was trained from another model than {plain.model.path}; give this schedule"
                " a policy of its own: track.registered_model=NAME"
            )
        config = load(preset, [*overrides, "model.path=champion", "sft.epochs=0"], presets)
        start = models.model_hash(champion["folder"])
        before = int(tags.get("ipr.policy_iteration") or tags.get("ipr.iteration") or 0)
    experts = Path(config.env.experts or root / "data" / config.env.name / "experts.parquet")
    wanted = Claim(
        number=0,
        run=name,
        preset=name,
        seed=config.seed,
        start=start,
        data=datasets.md5_of(experts) if experts.is_file() else None,
        config=identity.of_config(config),
        before=before,
        with_experts=False,
        problems=(),
        time=time.time(),
        base=base,
    )
    pool, with_experts, need = _pool(config)
    if with_experts and config.env.experts is None and experts.is_file():
        shown = [t.task_id for t in store.load(experts, Trajectory)]
        pool = traces_first(pool, shown[EXPERTS.get(config.env.name, 0) :])
    place = f"ipr/schedules/{config.track.registered_model}"
    while True:
        try:
            shared = _shared(config, root)
            known = history(shared, place, runs)
        except IprError as error:
            log.warning("the schedule's history is that of %s alone: %s", runs, error)
            shared, known = None, history(None, place, runs)
        problems = choose(pool, known, need, wanted)
        if isinstance(problems, Skipped):
            return problems
        number = max((c.number for c in known), default=0) + 1
        claim = replace(
            wanted,
            number=number,
            run=f"{name}-{number:04d}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}",
            # So that neighbours differ, and a schedule's runs from those by hand.
            seed=derive_seed(config.seed, "schedule", number) % 2**31,
            with_experts=with_experts,
            problems=tuple(problems),
        )
        try:
            if shared is not None:
                shared.write(_key(place, number), _content(claim), bucket.FREE)
        except bucket.Changed:
            continue  # another checkout has taken this number, and problems with it
        folder = runs / claim.run
        store.write_json(folder / FILE, asdict(claim))
        return Next(folder, config.model_copy(update={"seed": claim.seed}))


def choose(pool: Sequence[str], known: Sequence[Claim], need: int, wanted: Claim) -> list[str] | Skipped:
    """The `need` problems of `pool` that were explored least, in the pool's order; or that nothing could be new: a run
    with the same start, data and config was there, and every problem has been explored."""
    explored, begun = Counter[str](), Counter[str]()
    for claim in known:
        (explored if claim.done or wanted.time - claim.time < DAY else begun).update(claim.problems)
    alike = [c for c in known if c.same == wanted.same and (c.done or wanted.time - c.time < DAY)]
    if alike and all(explored[task_id] for task_id in pool):
        return Skipped(
            f"nothing could be new: {alike[-1].run} had the same start, data and config, and all {len(pool)} problems"
            " of the train split have been explored; bring data (ipr data import --append), or change the config"
        )
    place = {task_id: k for k, task_id in enumerate(pool)}
    least = sorted(pool, key=lambda task_id: (explored[task_id], begun[task_id], place[task_id]))[:need]
    return sorted(least, key=place.__getitem__)


def traces_first(pool: Sequence[str], appended: Sequence[str]) -> list[str]:
    """The problems with those before all others that were brought as traces (`ipr data import --append`)."""
    brought = set(appended)
    return sorted(pool, key=lambda task_id: task_id not in brought)


def history(shared: bucket.Bucket | None, place: str, runs: Path) -> list[Claim]:
    """The claims of a schedule, by number. Those of folders that the remote lacks are put there. Raises IprError where
    the remote is down."""
    found: dict[str, Claim] = {}
    for key in shared.keys(f"{place}/") if shared else ():
        content = shared.read(key) if shared else None
        claim = _claim(json.loads(content[0])) if content else None
        if claim is not None:
            found[claim.run] = claim
    for file in sorted(runs.glob(f"*/{FILE}")):
        claim = _claim(store.read_json(file))
        manifest = file.with_name("manifest.json")
        if claim is None or place != f"ipr/schedules/{_model_of(file.parent)}":
            continue
        done = manifest.is_file() and bool(store.read_json(manifest).get("complete"))
        known = found.get(claim.run)
        found[claim.run] = replace(known or claim, done=done or (known is not None and known.done))
        if shared and known is None:
            found[claim.run] = _put(shared, place, found[claim.run])
        elif shared and known and done and not known.done:
            shared.write(_key(place, known.number), _content(found[claim.run]))
    return sorted(found.values(), key=lambda c: (c.number, c.run))


def ended(run: Run, root: Path) -> None:
    """Tell the others that a scheduled run is complete; where that fails, the schedule's next run does."""
    place = f"ipr/schedules/{run.config.track.registered_model}"
    try:
        history(_shared(run.config, root), place, run.folder.parent)
    except IprError as error:
        log.warning("the schedule's history is not up to date (%s); its next run brings it there", error)


def _pool(config: RunConfig) -> tuple[list[str], bool, int]:
    """The problems of which a run explores some, whether from their experts' prefixes, and how many it takes."""
    method, settings = algorithms.make(config.algorithm), config.algorithm
    ids = environment(config.env).task_ids("train")
    # A method that plays new problems says so when it is asked.
    if {prefix.task_id for prefix in method.explore([], ["?"])} == {"?"}:
        new = without_expert(config.env, set(ids[: config.env.tasks]))
        if new:
            few = settings.explore_tasks or len(new)
            return new, False, min(few * settings.iterations, len(new))
    few = settings.explore_tasks
    most = config.env.tasks if few is None else min(few * settings.iterations, config.env.tasks)
    return list(ids), True, min(most, len(ids))


def _shared(config: RunConfig, root: Path) -> bucket.Bucket | None:
    if config.data.publish:
        return datasets.shared(root, config.data.remote)
    return bucket.at(config.run.store) if config.run.store else None


def _unfinished(runs: Path, preset: str, policy: str) -> Run | None:
    """The newest run of this schedule that was killed before it was complete."""
    for file in sorted(runs.glob(f"{preset}-*/{FILE}"), reverse=True):
        if (file.parent / "config.yaml").is_file():
            run = Run(file.parent)
            ours = (run.manifest.get("preset"), run.config.track.registered_model) == (preset, policy)
            if ours and not run.manifest.get("complete"):
                return run
    return None


def _in_store(url: str, runs: Path, preset: str, policy: str) -> Run | None:
    """The newest run of this schedule that a machine left unfinished in the store, brought here."""
    try:
        for name in mirror.unfinished(url, preset, policy):
            mirror.bring(runs / name, url)
            return Run(runs / name)
    except IprError as error:
        log.warning("run.store: %s; whether a run was left unfinished there is not known", error)
    return None


def _put(shared: bucket.Bucket, place: str, claim: Claim) -> Claim:
    """A claim that could not be written when it was made, with its number or the next that is free."""
    while True:
        try:
            shared.write(_key(place, claim.number), _content(claim), bucket.FREE)
            return claim
        except bucket.Changed:
            claim = replace(claim, number=claim.number + 1)


def _key(place: str, number: int) -> str:
    return f"{place}/{number:06d}.json"


def _content(claim: Claim) -> bytes:
    return (json.dumps(asdict(claim), indent=1) + "\n").encode()


def _claim(row: dict) -> Claim | None:
    try:
        return replace(Claim(**row), problems=tuple(row["problems"]))
    except (TypeError, KeyError):
        return None


def _model_of(folder: Path) -> str | None:
    try:
        return Run(folder).config.track.registered_model
    except IprError:  # killed before it began
        return None
