"""A run's folder: what is in it, what is done, and what is refused.

Decided here: a stage is complete when its record (`<stage>/<task>.json`) exists, which is written last; everything
before is written aside and renamed, so a killed run continues with the same command. Long stages are played in shards
whose files are named by what they hold. A folder belongs to one config: another one is refused with what differs.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ipr import envs, identity, models, profiling, store
from ipr.config import RunConfig, flat, read_yaml, validate
from ipr.runs import DECIDED_BY, ITERATION, mirror
from ipr.runs.project import code_state
from ipr.types import IprError, Job, Sampling, Trajectory

FIRST_BASE = "ipr.first_base"
"""Tag in MLflow: what model an agent's first run started from (`first_base`), however many champions lie between."""


def first_base(path: str) -> str:
    """A folder's hash, wherever it is; a hub name, whatever commit it stands for."""
    name = models.resolve(path)
    return models.model_hash(name) if Path(name).is_dir() else name


class InUse(IprError):
    """Another process plays the run."""


class Run:
    """Paths and records of one run."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        # Of several processes (`accelerate launch`) the first keeps the folder; the others only compute.
        self.keeper = int(os.environ.get("RANK", "0")) == 0
        if not (self.folder / "config.yaml").is_file():
            if inside := sorted(self.folder.glob("*/config.yaml")):
                raise IprError(f"{folder} is a folder of runs; name one of them, e.g. {inside[0].parent}")
            raise IprError(f"{self.folder} is no run folder (no config.yaml); start one: ipr run quick --dir {folder}")
        tree = read_yaml(self.folder / "config.yaml")
        self.config: RunConfig = validate(tree, str(self.folder / "config.yaml"))
        self._kept = True
        """Whether config.yaml is the config."""

    @classmethod
    def open(cls, folder: str | Path, config: RunConfig, preset: str = "", by_stage: bool = False) -> Run:
        """Start a run in `folder`, or continue the one that is there if its config decides the same results.

        One that is made stage by stage (`ipr experts --config FILE --dir DIR`, as in dvc.yaml) may be given another
        config `by_stage`: what the change decides is undone, and made again when its turn comes.
        """
        folder = Path(folder)
        if (folder / "config.yaml").is_file():
            run = cls(folder)
            # What those keys stand for is compared in `identify`; by stages, a change of them undoes what they decide.
            champion = "champion" in (run.config.model.path, config.model.path)
            meant = identity.MEANT if by_stage else ("model.path",) if champion else ()
            before, now = (identity.deciding(c) | {key: flat(c)[key] for key in meant} for c in (run.config, config))
            changed = identity.differences(before, now)
            if changed and not (by_stage and run.manifest.get("by_stage")):
                raise IprError(
                    f"{folder} holds a run with another config ({'; '.join(changed)}); use another --dir, or remove it"
                )
            if changed:
                with run.lock():
                    run._undo([line.partition(":")[0] for line in changed])
                    run.note(identity=None, keys=identity.of_config(config), seed=config.seed)
                    cls._keep(folder, config)
            elif config != run.config:  # what decides nothing, or where something lies: `identify` looks what it is
                run._kept = False
            run.config = config
            return run
        if any((folder / name).exists() for name in ("config.json", "adapter_config.json")):
            raise IprError(f"{folder} is a model's folder; choose another --dir for the run")
        cls._keep(folder, config)
        (folder / mirror.MARK).unlink(missing_ok=True)  # of a run that was removed
        run = cls(folder)
        run.note(id=uuid.uuid4().hex[:8], preset=preset, created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
        run.note(keys=identity.of_config(config), seed=config.seed, versions=_versions(), git=code_state())
        run.note(policy=config.track.registered_model)
        if by_stage:
            run.note(by_stage=True)
        return run

    @staticmethod
    def _keep(folder: Path, config: RunConfig) -> None:
        """Write config.yaml. Secrets are refused in it; should one slip in, only the owner and the group read it."""

        def write(path: Path) -> None:
            path.touch(mode=0o640)
            path.write_text(config.to_yaml())

        store.replace(folder / "config.yaml", write)

    def identify(self) -> None:
        """Note what decides the results; IprError where that is something else than when the run began. A config that
        the run was opened with is kept only then: a refused one would be that of the next command."""
        env = self.config.env
        spec = envs.get(env.name, env.data, env.max_steps, env.shots, env.server)
        now = identity.run(self.config, spec, models.model_hash(self.base))
        before = self.manifest.get("identity")
        if before and (changed := identity.differences(before, now)):
            raise IprError(
                f"{self.folder}: what decides its results has changed since it began ({'; '.join(changed)}); restore"
                " that, or use another --dir"
            )
        greedy = identity.playing(spec, Sampling(0.0, self.config.rollout.max_new_tokens), "", self.config)
        self.note(identity=now, config_hash=identity.digest(now)[:16])
        if self.config.model.path != "champion":
            self.note(first_base=first_base(self.base))
        self.note(games=identity.of_games(spec), episodes=identity.digest(greedy)[:16])
        if self.keeper and not self._kept:
            self._keep(self.folder, self.config)
            self._kept = True

    @property
    def base(self) -> str:
        """The model the run starts from: `model.path`, or the copy of the champion that it stood for at first."""
        copy = self.folder / "base" / "model"
        if self.config.model.path == "champion" and copy.is_dir():  # wherever the run's folder is now
            return str(copy)
        return self.config.model.path

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    def stage(self, iteration: int) -> Path:
        """The folder of a stage: "base" (-1), "sft" (0) or "iteration-K"."""
        return self.folder / stage_name(iteration)

    def model(self, iteration: int) -> Path:
        """The trained model of a stage."""
        return self.stage(iteration) / "model"

    @property
    def manifest(self) -> dict[str, Any]:
        path = self.folder / "manifest.json"
        return store.read_json(path) if path.exists() else {}

    def note(self, **facts: Any) -> None:
        """Add facts to the manifest; dictionaries are merged one level deep."""
        if not self.keeper:
            return
        manifest = self.manifest
        for key, value in facts.items():
            if isinstance(value, dict) and isinstance(manifest.get(key), dict):
                value = manifest[key] | value
            manifest[key] = value
        store.write_json(self.folder / "manifest.json", manifest)

    @property
    def schedule(self) -> dict[str, Any] | None:
        """What a scheduled run has taken for itself (`ipr.apps.schedule.Claim`); None for a run by hand."""
        path = self.folder / "schedule.json"
        return store.read_json(path) if path.exists() else None

    def record(self, iteration: int, task: str) -> dict[str, Any] | None:
        """What a completed task of a stage left on record; None where it is not complete."""
        path = self.stage(iteration) / f"{task}.json"
        return store.read_json(path) if path.exists() else None

    def once(self, iteration: int, task: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Do `work` unless its record is there; its facts and the profile of its seconds become the record.

        Facts that have "seconds", of all processes that were at it, keep them where they are more than this one's.
        """
        done = self.record(iteration, task)
        if done is not None:
            return done
        if self.keeper and task == "train":
            self._drop_played(iteration)
        start = profiling.now()
        facts = work()
        facts["profile"] = profiling.since(start)
        facts["seconds"] = round(max(facts["profile"]["seconds"], facts.get("seconds", 0.0)), 2)
        if self.keeper:
            store.write_json(self.stage(iteration) / f"{task}.json", facts)
        return facts

    def in_shards(
        self,
        iteration: int,
        task: str,
        jobs: Sequence[Job],
        play: Callable[[list[list[Job]]], Iterable[tuple[int, list[Trajectory]]]],
    ) -> list[Trajectory]:
        """Play `jobs` in shards; one that is on disk is not played again (see `drop_shards`).

        `play` is given the shards that lack and yields (shard's place, trajectories) in any order, each as soon as it
        is played. Trajectories are in the order of the jobs; what was played beyond them comes last.
        """
        folder = self.stage(iteration) / "shards"
        shards = cut(jobs, shard_size(len(jobs), self.config))
        paths = [folder / f"{task}-{identity.of_jobs(jobs[i] for i in shard)}.parquet" for shard in shards]
        lacking = [k for k, path in enumerate(paths) if not path.exists()]
        if lacking:
            for place, played in play([[jobs[i] for i in shards[k]] for k in lacking]):
                store.save(paths[lacking[place]], played, Trajectory)
        found: dict[int, Trajectory] = {}
        beyond: list[Trajectory] = []
        for shard, path in zip(shards, paths, strict=True):
            played = store.load(path, Trajectory)
            found |= zip(shard, played[: len(shard)], strict=True)
            beyond += played[len(shard) :]
        return [found[i] for i in range(len(jobs))] + beyond

    def drop_shards(self, iteration: int) -> None:
        """Remove the shards of a stage whose result is written."""
        shutil.rmtree(self.stage(iteration) / "shards", ignore_errors=True)

    def evaluated(self) -> bool:
        """Whether every stage is."""
        return all(self.record(k, "evaluate") for k in range(-1, self.config.algorithm.iterations + 1))

    def drop_begun(self) -> None:
        """Remove what stages that are not finished have begun: it was made of what was there then."""
        for stage in (p for p in self.folder.iterdir() if p.is_dir()):
            for name in ("shards", "checkpoint", "reward_checkpoint"):
                shutil.rmtree(stage / name, ignore_errors=True)
            (stage / "reference.json").unlink(missing_ok=True)

    def _undo(self, changed: Sequence[str]) -> None:
        """Forget that tasks are done which the changed keys decide, and those that follow from them."""

        def decided(task: str) -> bool:
            return any(key == part or key.startswith(f"{part}.") for key in changed for part in DECIDED_BY[task])

        self.drop_begun()
        stale = [(-1, "evaluate")] if decided("evaluate") else []
        gone = False
        for k in range(self.config.algorithm.iterations + 1):
            for task in ITERATION if k else ("experts", "sft"):
                gone = gone or decided(task)
                stale += [(k, "train" if task == "sft" else task)] * gone
            stale += [(k, "evaluate")] * (gone or decided("evaluate"))
        for k, task in stale:
            (self.stage(k) / f"{task}.json").unlink(missing_ok=True)
            if task in ("train", "evaluate"):
                self._drop_played(k)
            elif task == "reward":  # which may fit none now
                (self.stage(k) / "reward_model.safetensors").unlink(missing_ok=True)

    def _drop_played(self, iteration: int) -> None:
        """Remove what else a stage's agent has played, which would be taken for the next one's."""
        stage = self.stage(iteration)
        shutil.rmtree(stage / "best_of", ignore_errors=True)
        scored = self.folder.glob("*/eval/step_rewards.parquet") if iteration == 0 else ()  # all by the SFT agent
        for path in (stage / "best_of.json", self.folder / "quality" / f"{stage.name}.parquet", *scored):
            path.unlink(missing_ok=True)

    def status(self) -> dict[str, Any]:
        """ "complete", "running" (a process holds the folder) or "stopped", and the tasks that are done by stage."""
        done = {
            stage_name(k): sorted(p.stem for p in self.stage(k).glob("*.json") if p.stem != "reference")
            for k in range(-1, self.config.algorithm.iterations + 1)
            if self.stage(k).is_dir()
        }
        if self.manifest.get("complete"):
            status = "complete"
        else:
            try:
                with self.lock():
                    status = "stopped"
            except InUse:
                status = "running"
            except IprError:  # it cannot be written, so no process of ours plays it
                status = "stopped"
        return {"folder": str(self.folder), "status": status, "done": done}

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder; a second process is refused. The lock goes with the process, however it dies."""
        if not self.keeper:
            yield
            return
        try:
            opened = open(self.folder / ".lock", "w")  # noqa: SIM115
        except OSError as error:
            raise IprError(f"{self.folder}: cannot be written ({error.strerror}); use another --dir") from None
        with opened as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InUse(f"{self.folder} is in use by another process; wait for it or use another --dir") from None
            except OSError as error:
                raise IprError(f"{self.folder}: cannot be locked ({error.strerror}); use another --dir") from None
            yield


def shard_size(episodes: int, config: RunConfig) -> int:
    """Episodes of a shard: `rollout.shard` at most.

    On a CPU an even number of shards, so that two workers end together, but with 16 episodes at least in each.
    """
    most = config.rollout.shard
    if models.device(config.model).type != "cpu":
        return most
    shards = 2 * max(1, -(-episodes // (2 * most)))
    return min(most, max(16, -(-episodes // shards)))


def cut(jobs: Sequence[Job], size: int) -> list[list[int]]:
    """The jobs' indices in shards of about `size` and of about equal length; those of a problem stay together.

    Follows from the jobs and the size alone: what is played together, and with it every rounding, is the same however
    many workers play. Of a problem, because its episodes have states and key-values in common, and may join.
    """
    problems: dict[str, list[int]] = {}
    for index, job in enumerate(jobs):
        problems.setdefault(job.prefix.task_id, []).append(index)
    shards: list[list[int]] = [[] for _ in range(-(-len(jobs) // size))]
    taken = 0
    for indices in problems.values():
        for first in range(0, len(indices), size):
            piece = indices[first : first + size]
            middle = taken + len(piece) / 2
            shards[int(middle * len(shards) / len(jobs))] += piece
            taken += len(piece)
    return [shard for shard in shards if shard]


def stage_name(iteration: int) -> str:
    return {-1: "base", 0: "sft"}.get(iteration, f"iteration-{iteration}")


def check_space(folder: Path, needed: int) -> None:
    """Raise IprError where `folder` cannot be written or its disk has less than `needed` bytes."""
    existing = next(p for p in (folder.resolve(), *folder.resolve().parents) if p.exists())
    if not existing.is_dir():
        raise IprError(f"{folder}: {existing} is a file; choose another folder")
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise IprError(
            f"{folder}: {free >> 20} MiB free, about {needed >> 20} MiB needed; free space or choose another folder"
        )
    if not os.access(existing, os.W_OK):
        raise IprError(f"{folder}: not writable; choose another folder")


def _versions() -> dict[str, str]:
    packages = ("ipr", "torch", "transformers", "peft", "prefect", "mlflow", "dvc", "pyarrow")
    return {"python": platform.python_version()} | {name: version(name) for name in packages}
