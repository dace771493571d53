"""What goes to MLflow. The event log of a run is the truth; MLflow is a view of it that can be made again.

Decided here: `Tracker` only appends lines to `<run>/events.jsonl`, so that no training waits for a server. Each event
has an id that follows from what it says, and is appended once: a stage that is tracked again after a kill adds nothing
(for metrics the first value stays; tags and artifacts are events again where their content has changed). `sync` sends
what is new, in order, and keeps in `<run>/mlflow.json` how far it came, for each server. Sending an event twice is
harmless: runs, models and versions are looked for by a tag before they are made, and MLflow ignores a metric of the
same key, step, time and value.

In MLflow: a parent run (curves over the iterations), a child run for each iteration (0 is SFT; curves over the
updates), a logged model and a registered version for each checkpoint, and the alias `champion`.
Left out on purpose: traces (hundreds of thousands of episodes; they are in `data/`, as Parquet).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import re
import shlex
import sys
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit, urlunsplit

from ipr import store
from ipr.config import TrackConfig
from ipr.data import datasets
from ipr.runs.project import answers, default_tracking_uri, defaults
from ipr.runs.run import stage_name
from ipr.types import IprError

log = logging.getLogger("ipr")

CHAMPION = "champion"
CARRIED = ("git.", "dvc.", "prefect.", "ipr.", "scorer.", "mlflow.source.")
"""Tags with these beginnings go from the run to its iterations, models and versions."""
BATCH = 500
"""Metrics in one request (MLflow takes at most 1000)."""
RANKING = "ipr"
"""Key of the experiment's view that ranks its runs: of its own accord MLflow's page has no metric in a column."""


class Tracker:
    """Appends what happened in a run; `iteration=None` is the run itself, a number one of its iterations."""

    def __init__(self, run_dir: Path, config: TrackConfig, root: Path):
        self.folder, self.config, self.root = Path(run_dir), config, Path(root)
        self.path = self.folder / "events.jsonl"
        self._events = list(_read(self.path))
        self._ids: set[str] = set()
        self._tags: dict[int | None, dict[str, str]] = {}
        self._status: dict[int | None, str] = {}
        self._versions: dict[str, str] = {}
        for event in self._events:
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
        named = {_metric_name(k): float(v) for k, v in values.items() if isinstance(v, int | float)}
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

    def model(self, path: Path, iteration: int, metrics: Mapping[str, Any], tags: Mapping[str, Any]) -> None:
        """The checkpoint folder of an iteration: a logged model and a registered version."""
        self.iteration(iteration)
        carried = _carried(self._tags.get(None, {})) | _carried(self._tags[iteration])
        data = {
            "path": self._inside(path),
            "metrics": {_metric_name(k): float(v) for k, v in metrics.items() if isinstance(v, int | float)},
            "tags": carried | {k: str(v) for k, v in tags.items() if v is not None},
        }
        self._append("model", f"model/{iteration}", data, iteration)

    def champion(self, decision: Mapping[str, Any]) -> None:
        """Record a decision {"iteration", "promote", "why", "champion": version compared with, or absent}.

        The alias moves only if the decision says so and the champion still is the one that was compared with.
        """
        k = decision["iteration"]
        self._append("champion", f"champion/{k}/{decision.get('champion')}", {"decision": dict(decision)}, k)

    def end(self, status: Literal["FINISHED", "FAILED", "KILLED"]) -> None:
        for iteration in [i for i, s in self._status.items() if i is not None and s == "RUNNING"]:
            self._set_status(iteration, status)
        self._set_status(None, status)

    def sync(self) -> bool:
        """Make MLflow's view complete; False, with a warning, where it did not take everything. Never raises."""
        if not self.config.enabled or not self._events:
            return True
        target = None
        try:
            with _locked(self.folder):
                target = _Target(self.folder / "mlflow.json", self.config, self.root)
                # Even with nothing new: the database may be another one than before.
                _View(_client(self.config, self.root), target, self.folder, self._events).send()
        except Exception as error:  # whatever MLflow, its database, its server or the network raise
            left = len(self._events) - (target.sent if target else 0)
            log.warning("MLflow: %s; %d events wait for the next sync", _line(error), left)
            return False
        return True

    def _append(
        self, kind: str, key: str, data: dict[str, Any], iteration: int | None = None, *, version: str | None = None
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
            key = f"{key}@{len(self._events)}"
        event = {"id": key, "time": time.time_ns() // 1_000_000, "kind": kind, "iteration": iteration} | data
        _write(self.path, json.dumps(event, default=str).encode())
        self._events.append(event)
        self._remember(event)

    def _remember(self, event: dict[str, Any]) -> None:
        kind, iteration = event["kind"], event["iteration"]
        self._ids.add(event["id"])
        if "version" in event:
            self._versions[event["id"].rpartition("@")[0]] = event["version"]
        if kind == "metrics":
            self._ids |= {f"metrics/{iteration}/{event['step']}/{name}" for name in event["values"]}
        elif kind in ("tags", "iteration"):
            self._tags[iteration] = self._tags.get(iteration, {}) | event["tags"]
        elif kind == "dataset":
            self._tags[iteration] = self._tags.get(iteration, {}) | {f"dvc.{event['name']}.md5": event["md5"]}
        if kind in ("start", "iteration", "status"):
            self._status[iteration] = event.get("status", "RUNNING")

    def _set_status(self, iteration: int | None, status: str) -> None:
        if self._status.get(iteration) != status:
            self._append("status", f"status/{iteration}", {"status": status}, iteration, version=status)

    def _inside(self, path: Path) -> str:
        """`path` relative to the run's folder: the folder may be moved."""
        return str(os.path.relpath(Path(path).resolve(), self.folder.resolve()))


class _Refused(Exception):
    """An event that MLflow will never take; the others go on."""


class _Target:
    """How far a run has come in one server and experiment: `mlflow.json`."""

    def __init__(self, path: Path, config: TrackConfig, root: Path):
        self.path = path
        self.uri = tracking_uri(config, root)
        # A server decides itself where artifacts go.
        self.artifacts = (
            None if self.uri.startswith(("http", "databricks")) else str(root.resolve() / "mlflow/artifacts")
        )
        self.experiment = config.experiment
        self.registered_model = config.registered_model
        # The uri may hold a password, so it is not written.
        self.key = f"{self.experiment}@{hashlib.sha256(self.uri.encode()).hexdigest()[:12]}"
        everything = store.read_json(path) if path.is_file() else {}
        self.state: dict[str, Any] = everything.get(self.key) or {"sent": 0, "experiment": None, "runs": {}}

    @property
    def sent(self) -> int:
        return self.state["sent"]

    def save(self) -> None:
        everything = store.read_json(self.path) if self.path.is_file() else {}
        store.write_json(self.path, everything | {self.key: self.state})


class _View:
    """MLflow's copy of one run. A method for each kind of event; each may be called again with the same event."""

    def __init__(self, client: Any, target: _Target, folder: Path, events: list[dict[str, Any]]):
        self.client, self.target, self.folder, self.events = client, target, folder, events
        self.run_key = next(e["run_key"] for e in events if e["kind"] == "start")
        self.runs: dict[str, str] = target.state["runs"]

    def send(self) -> None:
        if self.runs and not self._known(self.runs["None"]):
            self.runs.clear()  # the database is another one than before: everything again
            self.target.state |= {"sent": 0}
        self.target.state["experiment"] = _experiment(self.client, self.target)
        self._offer_ranking()
        refused = []
        for batch in _batches(self.events[self.target.sent :]):
            refused += self._deliver(batch)
            self.target.state["sent"] += len(batch)
            self.target.save()
        if refused:
            log.warning("MLflow refused %d events, e.g. %s", len(refused), refused[0])

    def _offer_ranking(self) -> None:
        """The view that `links` names: one line a run, best on dev first. MLflow's pages keep shared views as tags."""
        figures = [f"metrics.`reported/{name}`" for name in ("dev/reward", "test/reward", "iteration")]
        view = {
            "selectedColumns": ["attributes.`Source`", *figures, "params.`env.name`", "params.`seed`"],
            "orderByKey": figures[0],
            "orderByAsc": False,
            "searchFilter": f"{figures[0]} >= 0",  # finished runs; an iteration has no such figure
            "startTime": "ALL",
            "lifecycleFilter": "Active",
            "datasetsFilter": [],
            "modelVersionFilter": "All Runs",
        }
        tag, experiment = f"mlflow.sharedViewState.{RANKING}", self.target.state["experiment"]
        if self.client.get_experiment(experiment).tags.get(tag) != json.dumps(view):
            self.client.set_experiment_tag(experiment, tag, json.dumps(view))

    def _deliver(self, batch: list[dict[str, Any]]) -> list[str]:
        """Send events of one kind; returns what MLflow will never take. Raises where it may take them later."""
        try:
            getattr(self, "_" + batch[0]["kind"])(*batch)
        except Exception as error:
            if not (isinstance(error, _Refused) or _final(error)):
                raise
            if len(batch) > 1:  # one of them spoils the batch
                return [line for event in batch for line in self._deliver([event])]
            return [f"{batch[0]['id']}: {_line(error)}"]
        return []

    def _start(self, event: dict[str, Any]) -> None:
        self._make_run(event, self.run_key, {})

    def _iteration(self, event: dict[str, Any]) -> None:
        parent = {"mlflow.parentRunId": self.runs["None"]}
        self._make_run(event, f"{self.run_key}/{event['iteration']}", event["tags"] | parent)

    def _params(self, event: dict[str, Any]) -> None:
        from mlflow.entities import Param

        params = [Param(k[:250], v[:6000]) for k, v in event["params"].items()]
        for first in range(0, len(params), 100):
            self.client.log_batch(self._run(event), params=params[first : first + 100])

    def _tags(self, event: dict[str, Any]) -> None:
        from mlflow.entities import RunTag

        self.client.log_batch(self._run(event), tags=[RunTag(k, v) for k, v in _cut(event["tags"]).items()])

    def _metrics(self, *events: dict[str, Any]) -> None:
        from mlflow.entities import Metric

        for run in dict.fromkeys(self._run(e) for e in events):
            mine = [e for e in events if self._run(e) == run]
            points = [Metric(k, v, e["time"], e["step"]) for e in mine for k, v in e["values"].items()]
            for first in range(0, len(points), BATCH):
                self.client.log_batch(run, metrics=points[first : first + BATCH])

    def _dataset(self, event: dict[str, Any]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        source = json.dumps({"path": event["path"], "md5": event["md5"]})
        data = Dataset(event["name"], event["md5"][:36], "dvc", source)
        context = "training" if event["role"] == "input" else "published"
        self.client.log_inputs(self._run(event), [DatasetInput(data, [InputTag("mlflow.data.context", context)])])
        self.client.set_tag(self._run(event), f"dvc.{event['name']}.md5", event["md5"])

    def _artifact(self, event: dict[str, Any]) -> None:
        path = self.folder / event["path"]
        if not path.is_file():
            raise _Refused(f"{path} is gone")
        place = Path(event["path"]).parent
        if event["iteration"] is not None and place.parts[:1] == (stage_name(event["iteration"]),):
            place = place.relative_to(place.parts[0])
        self.client.log_artifact(
            self._run(event), str(path), place.as_posix() if place.parts and place.parts[0] != ".." else None
        )

    def _model(self, event: dict[str, Any]) -> None:
        from mlflow.entities import LoggedModelOutput, LoggedModelStatus, Metric

        path, run, k = self.folder / event["path"], self._run(event), event["iteration"]
        if not path.is_dir():
            raise _Refused(f"{path} is gone")
        tag = f"{self.run_key}/{event['id']}"
        tags = _cut(event["tags"]) | {"ipr.event": tag}
        experiment = self.target.state["experiment"]
        known = self.client.search_logged_models([experiment], f"tags.`ipr.event` = '{tag}'")
        model = known[0] if known else None
        if model is None:
            model = self.client.create_logged_model(experiment, stage_name(k), run, tags, model_type="agent")
        if model.status != LoggedModelStatus.READY:
            self.client.log_model_artifacts(model.model_id, str(path))
            self.client.finalize_logged_model(model.model_id, "READY")
        for place in (run, self.runs["None"]):  # the run's own page names its models, too
            outputs = self.client.get_run(place).outputs
            if model.model_id not in [m.model_id for m in (outputs.model_outputs if outputs else [])]:
                self.client.log_outputs(place, [LoggedModelOutput(model.model_id, k)])
        points = [Metric(n, v, event["time"], k, model_id=model.model_id) for n, v in event["metrics"].items()]
        if points:
            self.client.log_batch(run, metrics=points)
        if self._version(k) is None:
            self._register(run, model.model_id, tags)

    def _register(self, run: str, model_id: str, tags: dict[str, str]) -> None:
        from mlflow.exceptions import MlflowException

        name = self.target.registered_model
        with contextlib.suppress(MlflowException):  # it is there already; if not, the next line says why
            self.client.create_registered_model(name)
        made = self.client.create_model_version(name, f"models:/{model_id}", run, tags, model_id=model_id)
        named = json.dumps([{"name": name, "version": made.version}])
        self.client.set_logged_model_tags(model_id, {"mlflow.modelVersions": named})  # the link in the model's page

    def _champion(self, event: dict[str, Any]) -> None:
        decision, name = event["decision"], self.target.registered_model
        mine = self._version(event["iteration"])
        if mine is None:
            raise _Refused(f"{stage_name(event['iteration'])} is no registered model")
        if mine.tags.get("champion.event") == event["id"]:
            return  # done before; the alias may have moved on since
        present = _champion_version(self.client, name)
        now, then = str(present.version) if present else "none", str(decision.get("champion") or "none")
        changed = decision["promote"] and now not in (then, str(mine.version))
        if decision["promote"] and not changed:
            self.client.set_registered_model_alias(name, CHAMPION, mine.version)
        why = f"not moved: compared with {then}, but now it is {now}" if changed else decision.get("why", "")
        note = {
            "promoted": decision["promote"] and not changed,
            "why": why,
            "compared_with": then,
            "event": event["id"],
        }
        for key, value in note.items():
            self.client.set_model_version_tag(name, mine.version, f"champion.{key}", str(value))
        if changed:
            raise _Refused(f"champion {why}; compare version {mine.version} with it by hand: ipr compare")

    def _status(self, event: dict[str, Any]) -> None:
        if event["status"] == "RUNNING":
            self.client.update_run(self._run(event), status="RUNNING")
        else:
            self.client.set_terminated(self._run(event), event["status"], event["time"])

    def _make_run(self, event: dict[str, Any], key: str, tags: dict[str, str]) -> None:
        experiment = self.target.state["experiment"]
        found = self.client.search_runs([experiment], f"tags.`ipr.run_key` = '{key}'", max_results=1)
        if found:
            run = found[0].info.run_id
        else:
            tags = _cut(tags) | {"ipr.run_key": key}
            run = self.client.create_run(experiment, event["time"], tags, event["name"]).info.run_id
        self.runs[str(event["iteration"])] = run

    def _run(self, event: dict[str, Any]) -> str:
        return self.runs[str(event["iteration"])]

    def _known(self, run: str) -> bool:
        from mlflow.exceptions import MlflowException

        try:
            self.client.get_run(run)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise
        return True

    def _version(self, k: int) -> Any:
        """The registered version of an iteration's model, if there is one."""
        found = self.client.search_model_versions(f"run_id = '{self.runs[str(k)]}'")
        tag = f"{self.run_key}/model/{k}"
        return next((v for v in found if v.tags.get("ipr.event") == tag), None)


# Reading MLflow ------------------------------------------------------------------------------------------------------


def tracking_uri(config: TrackConfig, root: Path) -> str:
    return config.uri or os.environ.get("MLFLOW_TRACKING_URI") or default_tracking_uri(root)


def champion_info(config: TrackConfig, root: Path) -> dict[str, Any] | None:
    """The champion: version, run_id, tags, `folder` of its model, and `dev`, its dev trajectories (None if not logged).

    None where there is no champion. Raises IprError where MLflow cannot be asked, which is not the same.
    """
    with _asking(config, root) as client:
        version = _champion_version(client, config.registered_model)
        if version is None:
            return None
        folder = _bring_model(client, version, root)
        return {
            "version": str(version.version),
            "run_id": version.run_id,
            "tags": dict(version.tags),
            "folder": folder,
            "dev": _bring_dev(client, version, root),
        }


def lineage(ref: str, config: TrackConfig, root: Path) -> dict[str, Any]:
    """What made a model: `ref` is "champion", a version number or an MLflow run id. Raises IprError.

    {"model", "version", "run_id", "git_commit", "git_dirty", "config_hash", "data" (md5 of data/), "datasets" (name ->
    md5), "commands"}.
    """
    with _asking(config, root) as client:
        version, run_id, tags = _look_up(client, ref, config)
    hashes = {k[4:-4]: v for k, v in tags.items() if k.startswith("dvc.") and k.endswith(".md5")}
    data = hashes.pop("data", None)
    commit = tags.get("git.commit")
    commands = [f"git checkout {commit}"] if commit else []
    if data:
        recipe = f"outs:\\n- md5: {data}\\n  hash: md5\\n  path: data\\n"
        commands += [f"ipr data restore {ref} --out restored", f"printf '{recipe}' > data.dvc && dvc pull data.dvc"]
    return {
        "model": config.registered_model if version else None,
        "version": version,
        "run_id": run_id,
        "git_commit": commit,
        "git_dirty": tags.get("git.dirty"),
        "config_hash": tags.get("ipr.config_hash"),
        "data": data,
        "datasets": hashes,
        "commands": commands,
    }


def restore_data(ref: str, out: Path, config: TrackConfig, root: Path) -> dict[str, Any]:
    """Fetch the very data that made a model (see `lineage`) into the new folder `out`."""
    found = lineage(ref, config, root)
    if not found["data"]:
        raise IprError(f"{ref} has no tag dvc.data.md5 in MLflow: its run did not publish data (data.publish=false)")
    return found | {"folder": str(datasets.restore(root, found["data"], out))}


def links(config: TrackConfig, root: Path, run_dir: Path) -> dict[str, str]:
    """Where to look in MLflow: the run, the comparison of all runs, the models; how to start a local one."""
    if not config.enabled:
        return {}
    target = _Target(Path(run_dir) / "mlflow.json", config, root)
    found = {}
    base = _public(target.uri).rstrip("/")
    if not base.startswith("http"):
        found["mlflow server"] = (
            f"{sys.executable} -m mlflow server --backend-store-uri {shlex.quote(base)} --port 5000"
        )
        base = "http://127.0.0.1:5000"
    if "None" in target.state["runs"]:
        experiment = f"{base}/#/experiments/{target.state['experiment']}"
        found["mlflow run"] = f"{experiment}/runs/{target.state['runs']['None']}"
        found["mlflow ranking"] = f"{experiment}/runs?viewStateShareKey={RANKING}"
        found["mlflow comparison"] = f"{experiment}/runs?compareRunsMode=CHART"
        found["mlflow models"] = f"{base}/#/models/{config.registered_model}"
    return found


def _look_up(client: Any, ref: str, config: TrackConfig) -> tuple[str | None, str, dict[str, str]]:
    from mlflow.exceptions import MlflowException

    name = config.registered_model
    try:
        if ref == CHAMPION or ref.isdigit():
            found = _champion_version(client, name) if ref == CHAMPION else client.get_model_version(name, ref)
            if found is None:
                raise IprError(f"'{name}' has no champion yet; give a version or a run id")
            return str(found.version), found.run_id, dict(found.tags)
        return None, ref, dict(client.get_run(ref).data.tags)
    except MlflowException as error:
        if not _missing(error):
            raise
        raise IprError(f"MLflow knows no '{ref}'; give 'champion', a version number of '{name}', or a run id") from None


def _champion_version(client: Any, name: str) -> Any:
    from mlflow.exceptions import MlflowException

    try:
        return client.get_model_version_by_alias(name, CHAMPION)
    except MlflowException as error:
        if _missing(error):
            return None
        raise


def _bring_model(client: Any, version: Any, root: Path) -> Path:
    """The model's folder: where MLflow keeps it if that is a local folder, else a download that is made once."""
    from mlflow.artifacts import download_artifacts

    model_id = _model_id(version)
    where = client.get_logged_model(model_id).artifact_location
    local = Path(urlsplit(where).path if where.startswith("file:") else where)
    if local.is_dir():
        return local
    folder = root / "mlflow" / "downloads" / model_id
    if not folder.is_dir():

        def fetch(aside: Path) -> None:
            download_artifacts(f"models:/{model_id}", dst_path=str(aside))

        store.replace_folder(folder, fetch)
    return folder


def _bring_dev(client: Any, version: Any, root: Path) -> Path | None:
    names = [a.path for a in client.list_artifacts(version.run_id, "eval")]
    if "eval/dev.parquet" not in names:
        return None
    folder = root / "mlflow" / "downloads" / f"{_model_id(version)}-dev"
    folder.mkdir(parents=True, exist_ok=True)
    return Path(client.download_artifacts(version.run_id, "eval/dev.parquet", str(folder)))


def _model_id(version: Any) -> str:
    return version.source.removeprefix("models:/")


# Helpers -------------------------------------------------------------------------------------------------------------


def _client(config: TrackConfig, root: Path) -> Any:
    uri = tracking_uri(config, root)
    if uri.startswith("http") and not answers(uri.rstrip("/") + "/health"):
        raise IprError(f"no answer from the MLflow server {_public(uri)}; start it, or change track.uri")
    defaults(root)
    if uri.startswith("sqlite:///"):
        Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    from mlflow import MlflowClient, set_tracking_uri

    set_tracking_uri(uri)  # MLflow's registry and artifact code ask the global one
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # it logs whole tracebacks; our own line says what matters
    return MlflowClient(uri)


@contextlib.contextmanager
def _asking(config: TrackConfig, root: Path) -> Iterator[Any]:
    """A client; what goes wrong while asking is one IprError."""
    try:
        yield _client(config, root)
    except IprError:
        raise
    except Exception as error:  # as in Tracker.sync
        raise IprError(f"MLflow {_public(tracking_uri(config, root))}: {_line(error)}") from error


def _experiment(client: Any, target: _Target) -> str:
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(target.experiment)
    if found is None:
        try:
            return client.create_experiment(target.experiment, target.artifacts)
        except MlflowException:  # another process was quicker, or the next line says why
            found = client.get_experiment_by_name(target.experiment)
            if found is None:
                raise
    if found.lifecycle_stage != "active":
        raise IprError(f"MLflow's experiment '{target.experiment}' is deleted; restore it, or change track.experiment")
    return found.experiment_id


def _read(path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        return
    with open(path, "rb") as file:
        for line in file:
            with contextlib.suppress(ValueError):
                yield json.loads(line)


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


def _batches(events: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Neighbouring metrics together, other events alone."""
    batch: list[dict[str, Any]] = []
    for event in events:
        if batch and (event["kind"] != "metrics" or batch[0]["kind"] != "metrics" or len(batch) >= BATCH):
            yield batch
            batch = []
        batch.append(event)
    if batch:
        yield batch


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One sync at a time for a run: two would make its runs twice."""
    with open(folder / ".mlflow.lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise IprError("another process is sending them") from None
        yield


def _carried(tags: Mapping[str, str]) -> dict[str, str]:
    return {k: v for k, v in tags.items() if k.startswith(CARRIED)}


def _cut(tags: Mapping[str, str]) -> dict[str, str]:
    return {k[:250]: v[:5000] for k, v in tags.items()}


def _metric_name(name: str) -> str:
    return re.sub(r"/+", "/", re.sub(r"[^A-Za-z0-9_./-]+", "_", name)).strip("/.")[:250]


def _missing(error: Any) -> bool:
    """MLflow's "there is no such run, version or alias"; for an alias it is called an invalid parameter."""
    return error.error_code in ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND", "INVALID_PARAMETER_VALUE")


def _final(error: BaseException) -> bool:
    """Refused for what it says, so that sending it again is no use."""
    return getattr(error, "error_code", None) in ("INVALID_PARAMETER_VALUE", "BAD_REQUEST")


def _public(uri: str) -> str:
    """The uri without user and password."""
    parts = urlsplit(uri)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])) if parts.netloc else uri


def _line(error: BaseException) -> str:
    return " ".join((str(error) or type(error).__name__).split())[:300]
