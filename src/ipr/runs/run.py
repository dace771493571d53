"""A run's folder: what is in it, what is done, and what is refused.

Decided here: a stage is complete when its record (`<stage>/<task>.json`) exists, which is written last; everything
before is written aside and renamed, so a killed run continues with the same command. Long stages are played in shards
whose files are named by what they hold. A folder belongs to one config: another one is refused with what differs.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ipr import models, profiling, store
from ipr.config import RunConfig, difference, read_yaml, validate
from ipr.types import IprError, Job, Trajectory


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

    @classmethod
    def open(cls, folder: str | Path, config: RunConfig, preset: str = "") -> Run:
        """Start a run in `folder`, or continue the one that is there if its config decides the same results."""
        folder = Path(folder)
        if (folder / "config.yaml").is_file():
            run = cls(folder)
            changed = difference(run.config, config)
            if changed:
                raise IprError(
                    f"{folder} holds a run with another config ({'; '.join(changed)}); use another --dir, or remove it"
                )
            if config != run.config:  # tracking, publishing or workers changed, which decides nothing
                store.write_text(folder / "config.yaml", config.to_yaml())
            return cls(folder)
        store.write_text(folder / "config.yaml", config.to_yaml())
        run = cls(folder)
        run.note(preset=preset, created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
        run.note(config_hash=config.hash(), seed=config.seed, versions=_versions(), git=git_state(Path.cwd()))
        return run

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

    def record(self, iteration: int, task: str) -> dict[str, Any] | None:
        """What a completed task of a stage left on record; None where it is not complete."""
        path = self.stage(iteration) / f"{task}.json"
        return store.read_json(path) if path.exists() else None

    def once(self, iteration: int, task: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Do `work` unless its record is there; its facts and the profile of its seconds become the record."""
        done = self.record(iteration, task)
        if done is not None:
            return done
        start = profiling.now()
        facts = work()
        facts["profile"] = profiling.since(start)
        facts["seconds"] = round(facts["profile"]["seconds"], 2)
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
        paths = [folder / f"{task}-{_digest([jobs[i] for i in shard])}.parquet" for shard in shards]
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
            except IprError:
                status = "running"
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
            except OSError:
                raise IprError(
                    f"{self.folder} is in use by another process; wait for it or use another --dir"
                ) from None
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


def git_state(folder: Path) -> dict[str, Any]:
    """Commit of the code that runs and whether it was changed; empty outside git."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.CalledProcessError):
        return {}


def check_space(folder: Path, needed: int) -> None:
    """Raise IprError where `folder` cannot be written or its disk has less than `needed` bytes."""
    existing = next(p for p in (folder.resolve(), *folder.resolve().parents) if p.exists())
    if not existing.is_dir():
        raise IprError(f"{folder}: {existing} is a file; choose another --dir")
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise IprError(
            f"{folder}: {free >> 20} MiB free, about {needed >> 20} MiB needed; free space or use another --dir"
        )
    if not os.access(existing, os.W_OK):
        raise IprError(f"{folder}: not writable; choose another --dir")


def _digest(jobs: Sequence[Job]) -> str:
    return hashlib.sha256("".join(f"{job.prefix.key()}{job.seed}" for job in jobs).encode()).hexdigest()[:16]


def _versions() -> dict[str, str]:
    packages = ("ipr", "torch", "transformers", "peft", "prefect", "mlflow", "dvc", "pyarrow")
    return {"python": platform.python_version()} | {name: version(name) for name in packages}
