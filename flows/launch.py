"""How the command line starts a run: bad input is refused first, then the servers' defaults are set, then it plays.

Prefect is imported late: it reads the defaults then.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from ipr import identity, policies, store
from ipr.apps import champion, start
from ipr.apps.chosen_model import base_of
from ipr.config import RunConfig, Told
from ipr.runs import ITERATION, alerts, mirror, workers
from ipr.runs.project import defaults, launched, project_root
from ipr.runs.report import verdict
from ipr.runs.run import Run, check_space, stage_name
from ipr.runs.seeds import check, member
from ipr.runs.telling import may_fail
from ipr.tracking import Tracker, links
from ipr.types import IprError

RECORDS = {"sft": "train"}
"""The record of a task, where it is not called as the task."""
TOLD = "ipr_told"
"""Attribute of an error that an alert was sent of."""


def run(
    folder: Path,
    config: RunConfig,
    preset: str,
    profile: bool = False,
    opened: Callable[[Run], None] | None = None,
) -> dict[str, Any]:
    """Run or resume the whole job in `folder`; returns its summary. With `profile` it also says where the time went.

    `opened` is told the run as soon as it has its folder.
    """
    root = project_root()
    check_space(folder, 200 << 20)
    start.check_servers(config, root)
    start.check(config)
    policies.check(config, folder)
    start.check_memory(config)
    defaults(root)
    bring(folder, config)
    run = Run.open(folder, config, preset)
    with may_fail("looking at the champion"):
        if told := champion.of_other_games(config, root):
            print(f"note: {told}", file=sys.stderr)
    with run.lock(), mirror.kept(folder, config.run.store):
        if opened is not None:
            opened(run)
        base = base_of(run)
        if config.model.path == "champion" and config.rollout.endpoint:  # now it is known
            model = config.model.model_copy(update={"path": run.base})
            policies.check(config.model_copy(update={"model": model}), folder)
        run.identify()
        run.note(base=base)
        if profile:
            run.note(profile=True)
        if not run.manifest.get("complete"):
            _play(run)
        from tasks.champion import settle
        from tasks.report import finish

        settle(run)
        summary = finish(run)
        if (decision := summary["champion"]) and decision["outcome"] in ("promoted", "worse"):
            _tell(run, decision["outcome"], decision["verdict"])
        return summary


def bring(folder: Path, config: RunConfig, removed: bool = False) -> None:
    """Take over what the store has more of the run (see `mirror.bring`). Raises IprError where it has another run."""
    try:
        if mirror.bring(folder, config.run.store, identity.of_config(config), removed):
            print(f"note: {folder} continues what {config.run.store} has of it", file=sys.stderr)
    except mirror.Taken:
        raise
    except IprError as error:
        print(f"note: run.store: {error}; the run goes on without it", file=sys.stderr)


def deliver(run: Run) -> bool:
    """Send MLflow what it lacks of a run, and tell of a promotion that waited for it; whether it has everything."""
    from tasks.champion import settle
    from tasks.report import finish

    sent = Tracker(run.folder, run.config.track, project_root()).sync()
    if sent and (decision := settle(run)):
        finish(run)
        if decision["promote"]:
            _tell(run, "promoted", verdict(decision))
    return sent


def _deliver_others(folder: Path) -> None:
    """The runs beside `folder` whose promotion waits for MLflow."""
    for record in sorted(folder.resolve().parent.glob("*/iteration-*/champion.json")):
        place = record.parent.parent
        with contextlib.suppress(IprError):  # played by another process, or no run's folder any more
            if place != folder.resolve() and store.read_json(record).get("outcome") == "waits":
                other = Run(place)
                with other.lock():
                    deliver(other)


def _play(run: Run) -> None:
    """The flow, and what is to be said where it does not come to its end."""
    from prefect import tags

    from flows import killed
    from flows.refine import refine

    start.end_orphans()
    killed.mend_runs(run.folder)
    killed.mend_flows()
    _deliver_others(run.folder)
    run.note(playing=True)
    config = run.config
    about = {"env": config.env.name, "preset": run.manifest.get("preset") or "none", "method": config.algorithm.name}
    try:
        with workers.opened(config.rollout), tags("ipr", *(f"{key}:{value}" for key, value in about.items())):
            refine(str(run.folder.resolve()), config.algorithm.iterations, run.name)
    except KeyboardInterrupt:
        _ended(run, "KILLED")
        raise
    except Exception as error:
        _ended(run, "FAILED")
        _tell(run, "failed", " ".join(str(error).split())[:1000] or type(error).__name__)
        setattr(error, TOLD, True)
        raise
    run.note(complete=True, playing=False)


def _ended(run: Run, status: Literal["FAILED", "KILLED"]) -> None:
    """Never raises: the disk may be full, and why the run ended is what is to be said."""
    with contextlib.suppress(IprError):
        run.note(playing=False)
        tracker = Tracker(run.folder, run.config.track, project_root())
        tracker.end(status)
        tracker.sync()


def _tell(run: Run, event: Told, words: str) -> None:
    shown: dict[str, str] = {}
    with contextlib.suppress(IprError):  # a broken mlflow.json
        shown = links(run.config.track, project_root(), run.folder)
    facts = {"env": run.config.env.name, "preset": run.manifest.get("preset"), "folder": str(run.folder.resolve())}
    link = shown.get("mlflow run") if "mlflow server" not in shown else None  # a page that nobody serves is no link
    alerts.tell(run.config.alerts, event, run.name, words, run.folder / alerts.BOOK, link=link, **facts)


def run_seeds(folder: Path, config: RunConfig, preset: str, count: int, profile: bool = False) -> dict[str, Any]:
    """Run or resume `count` runs in `folder`, of the config's seed and the next ones; returns what they say together.

    Each is a run as any other, in a folder named after its seed; they are played one after the other.
    """
    if (folder / "config.yaml").exists():
        raise IprError(f"{folder} holds a single run; use another --dir for --seeds")
    check(folder, config)
    from tasks import seeds

    tracker = Tracker(folder, config.track, project_root())
    try:
        for seed in range(config.seed, config.seed + count):
            print(f"seed {seed}", file=sys.stderr)
            mine = config.model_copy(update={"seed": seed})
            run(member(folder, seed), mine, preset, profile, lambda one: seeds.begin(folder, one, tracker))
    except BaseException as error:
        if tracker.events:
            tracker.end("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
            tracker.sync()
        raise
    return seeds.finish(folder, tracker)


def one_task(folder: Path, name: str, iteration: int, config: RunConfig | None = None, source: str = "") -> dict:
    """One stage of a run, as plain Python: no flow, no server; returns its record.

    With a config (of the file `source`) the run is begun, or goes on, by stages (see `Run.open`).
    """
    defaults(project_root())
    if config is not None:
        start.check(config)
    if launched() == 1:  # of several, the others would read meanwhile
        bring(folder, config or Run(folder).config, removed=True)
    run = Run(folder) if config is None else Run.open(folder, config, source, by_stage=True)
    for task in ITERATION[: ITERATION.index(name)] if name in ITERATION else ():
        if run.record(iteration, task) is None:
            raise IprError(f"{stage_name(iteration)} has no {task} yet; first: ipr {task} --dir {folder}")
    if name == "explore" and run.record(iteration - 1, "train") is None:
        before = "sft" if iteration == 1 else f"train --iteration {iteration - 1}"
        raise IprError(f"no model of {stage_name(iteration - 1)} yet; first: ipr {before} --dir {folder}")
    if run.keeper and run.record(iteration, RECORDS.get(name, name)) is None:  # before what takes long
        if name in ("experts", "sft"):
            policies.check(run.config, folder)
        if name in ("sft", "train"):  # here it is seen how many processes train
            start.check_memory(run.config)
    with run.lock(), mirror.kept(folder, run.config.run.store), workers.opened(run.config.rollout):
        run.identify()
        if name == "report":
            from tasks.report import write

            return write(run, "complete" if run.evaluated() else "stopped")
        if name in ("experts", "sft"):
            from tasks.common import wait_for_all
            from tasks.experts import experts
            from tasks.publish import ensure_data

            if run.keeper:
                if name == "experts" and run.record(0, "experts") is None:
                    run.drop_begun()
                experts.fn(str(folder), ensure_data.fn(str(folder)))
            wait_for_all(run)
        if name != "experts":
            getattr(importlib.import_module(f"tasks.{name}"), name).fn(str(folder), iteration)
    record = run.record(iteration, RECORDS.get(name, name)) or {}
    return {key: value for key, value in record.items() if key not in ("history", "profile")}
