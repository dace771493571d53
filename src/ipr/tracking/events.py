"""The durable queue of what goes to MLflow: `<run>/events.jsonl`, one event a line. It is the truth about a run.

Decided here: events are only appended, so that no training waits for a server. Each has an id that follows from what it
says, and is appended once: a stage that is tracked again after a kill adds nothing (for metrics the first value stays;
tags and artifacts are events again where their content has changed).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ipr.data import datasets
from ipr.runs.run import stage_name
from ipr.types import IprError

Kind = Literal[
    "start",
    "params",
    "tags",
    "iteration",
    "metrics",
    "dataset",
    "artifact",
    "model",
    "champion",
    "traces",
    "games",
    "group",
    "status",
]

CARRIED = ("git.", "dvc.", "prefect.", "ipr.", "scorer.", "mlflow.source.")
"""Tags with these beginnings go from the run to its iterations, models and versions."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened in a run."""

    id: str
    """Follows from what it says; of what may change, with "@" and its place in the queue."""
    time: int
    """Milliseconds since 1970."""
    kind: Kind
    iteration: int | None
    """None: of the run itself."""
    data: dict[str, Any]
    """What the kind holds: see the method of `Events` that appends it."""

    def line(self) -> bytes:
        """JSON, the fields and the data side by side."""
        own = {"id": self.id, "time": self.time, "kind": self.kind, "iteration": self.iteration}
        return json.dumps(own | self.data, default=str).encode()

    @classmethod
    def read(cls, line: bytes) -> Event:
        """Of a `line`. Raises ValueError where a kill cut it short."""
        data = json.loads(line)
        return cls(data.pop("id"), data.pop("time"), data.pop("kind"), data.pop("iteration"), data)


class Events:
    """Appends what happened in a run; `iteration=None` is the run itself, a number one of its iterations."""

    def __init__(self, run_dir: Path, root: Path):
        """`root`: the project, in which data sets have their paths."""
        self.folder, self.root = Path(run_dir), Path(root)
        self.path = self.folder / "events.jsonl"
        self.events = list(read(self.path))
        self._ids: set[str] = set()
        self._tags: dict[int | None, dict[str, str]] = {}
        self._status: dict[int | None, str] = {}
        self._versions: dict[str, str] = {}
        for event in self.events:
            self._remember(event)

    def start(self, name: str, params: Mapping[str, Any], tags: Mapping[str, Any]) -> None:
        """The run has started or goes on. Name and params of the first start stay."""
        self._append("start", "start", {"name": name, "run_key": uuid.uuid4().hex})
        self._append("params", "params", {"params": {k: str(v) for k, v in params.items()}})
        self.tags(tags)
        self._set_status(None, "RUNNING")

    def tags(self, tags: Mapping[str, Any], iteration: int | None = None) -> None:
        present = self._tags.get(iteration, {})
        new = {k: str(v) for k, v in tags.items() if v is not None and present.get(k) != str(v)}
        if new:
            self._append("tags", f"tags/{iteration}", {"tags": new}, iteration, version=json.dumps(new))

    def iteration(self, k: int, tags: Mapping[str, Any] | None = None) -> None:
        """Open iteration `k`; the open ones before it are finished."""
        if f"iteration/{k}" not in self._ids:
            for open_one in [i for i, s in self._status.items() if i is not None and s == "RUNNING"]:
                self._set_status(open_one, "FINISHED")
            carried = _carried(self._tags.get(None, {})) | {"ipr.iteration": str(k)}
            self._append("iteration", f"iteration/{k}", {"name": stage_name(k), "tags": carried}, k)
        self.tags(tags or {}, k)

    def metrics(self, values: Mapping[str, Any], *, step: int, iteration: int | None = None) -> None:
        """Numbers at a step: of the run (step is the iteration) or of an iteration (step is the update)."""
        named = _numbers(values)
        new = {k: v for k, v in named.items() if f"metrics/{iteration}/{step}/{k}" not in self._ids}
        if new:
            first = next(iter(new))
            self._append("metrics", f"metrics/{iteration}/{step}/{first}", {"values": new, "step": step}, iteration)

    def dataset(
        self, name: str, path: Path | str, digest: str, role: Literal["input", "output"], iteration: int | None = None
    ) -> None:
        """A data set used or made, by its DVC md5; becomes tag `dvc.<name>.md5`. Name "data" is the whole `data/`."""
        place = Path(path)
        if place.is_relative_to(self.root):
            place = place.relative_to(self.root)
        data = {"name": name, "path": place.as_posix(), "md5": digest, "role": role}
        self._append("dataset", f"dataset/{iteration}/{name}", data, iteration, version=digest)

    def artifact(self, path: Path, iteration: int | None = None) -> None:
        """A file of the run. In MLflow it has its path in the run's (or the iteration's) folder."""
        inside = self._inside(path)
        version = datasets.md5_of(path)
        self._append("artifact", f"artifact/{iteration}/{inside}", {"path": inside}, iteration, version=version)

    def model(
        self,
        path: Path,
        iteration: int,
        metrics: Mapping[str, Any],
        tags: Mapping[str, Any],
        example: Sequence[Mapping[str, str]] = (),
    ) -> None:
        """The checkpoint folder of an iteration: a logged model and a registered version.

        `example`: chat messages that the agent answers.
        """
        self.iteration(iteration)
        carried = _carried(self._tags.get(None, {})) | _carried(self._tags[iteration])
        data = {
            "path": self._inside(path),
            "metrics": _numbers(metrics),
            "tags": carried | {k: str(v) for k, v in tags.items() if v is not None},
            "example": [dict(message) for message in example],
        }
        self._append("model", f"model/{iteration}", data, iteration)

    def champion(self, decision: Mapping[str, Any]) -> None:
        """Record a decision {"iteration", "promote", "why", "champion": version compared with, or absent}.

        The alias moves only if the decision says so and the champion still is the one that was compared with.
        """
        k = decision["iteration"]
        self._append("champion", f"champion/{k}/{decision.get('champion')}", {"decision": dict(decision)}, k)

    def decision(self, iteration: int) -> dict[str, Any] | None:
        """The last decision on an iteration's agent."""
        made = (e.data["decision"] for e in reversed(self.events) if e.kind == "champion" and e.iteration == iteration)
        return next(made, None)

    def traces(self, path: Path, iteration: int | None = None) -> None:
        """The episodes of a file that `traces.write_sample` wrote, once."""
        data = {"path": self._inside(path)}
        self._append("traces", f"traces/{data['path']}", data, iteration)

    def games(self, stage: str, splits: Mapping[str, Path], success: float, iteration: int | None = None) -> None:
        """What a stage earned on each game; `splits`: name -> Parquet of trajectories; solved from `success` on."""
        files = {split: self._inside(path) for split, path in splits.items()}
        self._append("games", f"games/{stage}", {"stage": stage, "success": success, "splits": files}, iteration)

    def group(self, of: Events) -> None:
        """The run is one of several that belong together: `of` is their own queue, which has started."""
        start = next(e for e in of.events if e.kind == "start")
        data = {"name": start.data["name"], "run_key": start.data["run_key"]}
        self._append("group", f"group/{data['run_key']}", data)

    def end(self, status: Literal["FINISHED", "FAILED", "KILLED"]) -> None:
        for iteration in [i for i, s in self._status.items() if i is not None and s == "RUNNING"]:
            self._set_status(iteration, status)
        self._set_status(None, status)

    def _append(
        self, kind: Kind, key: str, data: dict[str, Any], iteration: int | None = None, *, version: str | None = None
    ) -> None:
        """Once for a key; with a `version`, whenever that is another than the key's last one."""
        if key in self._ids if version is None else self._versions.get(key) == version:
            return
        if kind != "start" and "start" not in self._ids:
            self._append("start", "start", {"name": self.folder.resolve().name, "run_key": uuid.uuid4().hex})
        if iteration is not None and kind != "iteration" and f"iteration/{iteration}" not in self._ids:
            self.iteration(iteration)
        if version is not None:
            data = data | {"version": version}
            key = f"{key}@{len(self.events)}"
        event = Event(key, time.time_ns() // 1_000_000, kind, iteration, data)
        _write(self.path, event.line())
        self.events.append(event)
        self._remember(event)

    def _remember(self, event: Event) -> None:
        kind, iteration, data = event.kind, event.iteration, event.data
        self._ids.add(event.id)
        if "version" in data:
            self._versions[event.id.rpartition("@")[0]] = data["version"]
        if kind == "metrics":
            self._ids |= {f"metrics/{iteration}/{data['step']}/{name}" for name in data["values"]}
        elif kind in ("tags", "iteration"):
            self._tags[iteration] = self._tags.get(iteration, {}) | data["tags"]
        elif kind == "dataset":
            self._tags[iteration] = self._tags.get(iteration, {}) | {f"dvc.{data['name']}.md5": data["md5"]}
        if kind in ("start", "iteration", "status"):
            self._status[iteration] = data.get("status", "RUNNING")

    def _set_status(self, iteration: int | None, status: str) -> None:
        if self._status.get(iteration) != status:
            self._append("status", f"status/{iteration}", {"status": status}, iteration, version=status)

    def _inside(self, path: Path) -> str:
        """`path` relative to the run's folder: the folder may be moved."""
        return str(os.path.relpath(Path(path).resolve(), self.folder.resolve()))


def read(path: Path) -> Iterator[Event]:
    """The events of a file; none where there is no file."""
    if not path.is_file():
        return
    with open(path, "rb") as file:
        for line in file:
            with contextlib.suppress(ValueError):
                yield Event.read(line)


def _write(path: Path, line: bytes) -> None:
    """Append a line, safe from a power cut. One that a kill cut short before is no JSON and is skipped when reading."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a+b") as file:
            cut = file.tell() and os.pread(file.fileno(), 1, file.tell() - 1) != b"\n"
            file.write(b"\n" * bool(cut) + line + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise IprError(f"cannot write {path}: {error.strerror or error}; free space or choose another folder") from None


def _carried(tags: Mapping[str, str]) -> dict[str, str]:
    return {k: v for k, v in tags.items() if k.startswith(CARRIED)}


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """The numbers among them, with names of what MLflow takes in a metric's."""
    return {_metric_name(k): float(v) for k, v in values.items() if isinstance(v, int | float)}


def _metric_name(name: str) -> str:
    return re.sub(r"/+", "/", re.sub(r"[^A-Za-z0-9_./-]+", "_", name)).strip("/.")[:250]
