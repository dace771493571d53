"""What MLflow's pages show of a run: a view of its events that can be made again.

Decided here: `sync` sends what is new, in order, and keeps in `<run>/mlflow.json` how far it came, for each server.
Sending an event twice is harmless: runs, models and versions are looked for by a tag before they are made, and MLflow
ignores a metric of the same key, step, time and value.

In MLflow: a parent run (curves over the iterations), a child run for each iteration (0 is SFT; curves over the
updates), a logged model and a registered version for each checkpoint, and the alias `champion`.
Several seeds are such runs below one more run. A drawn sample of the episodes are traces (`traces`).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ipr import store
from ipr.config import TrackConfig, public
from ipr.data import datasets
from ipr.models import model_hash
from ipr.runs.run import stage_name
from ipr.tracking import packaging, registry
from ipr.tracking.client import Refused, connect, cut, final, first_words, tracking_uri
from ipr.tracking.events import Event, Kind
from ipr.tracking.traces import send_games, send_sample
from ipr.types import IprError

log = logging.getLogger("ipr")

BATCH = 500
"""Metrics in one request (MLflow takes at most 1000)."""
RANKING = "ipr"
"""Key of the experiment's view that ranks its runs: of its own accord MLflow's page has no metric in a column."""


def sync(events: Sequence[Event], folder: Path, config: TrackConfig, root: Path, quietly: bool = False) -> bool:
    """Make MLflow's view of a run complete; False, with a warning, where it did not take everything. Never raises."""
    sent = None
    try:
        with _locked(folder):
            sent = Sent(folder / "mlflow.json", config, root)
            # Even with nothing new: the database may be another one than before.
            _View(connect(config, root), sent, folder, root, events).send()
    except Exception as error:  # whatever MLflow, its database, its server or the network raise
        left = len(events) - (sent.count if sent else 0)
        level = logging.DEBUG if quietly else logging.WARNING
        log.log(level, "MLflow: %s; %d events wait for the next sync", first_words(error), left)
        return False
    return True


def links(config: TrackConfig, root: Path, run_dir: Path) -> dict[str, str]:
    """Where to look in MLflow: the run, the comparison of all runs, the models; how to start a local one."""
    if not config.enabled:
        return {}
    sent = Sent(Path(run_dir) / "mlflow.json", config, root)
    found = {}
    base = public(sent.uri).rstrip("/")
    if not base.startswith("http"):
        found["mlflow server"] = (
            f"{sys.executable} -m mlflow server --backend-store-uri {shlex.quote(base)} --port 5000 --workers 1"
        )
        base = "http://127.0.0.1:5000"
    if None in sent.runs:
        experiment = f"{base}/#/experiments/{sent.experiment_id}"
        found["mlflow run"] = f"{experiment}/runs/{sent.runs[None]}"
        found["mlflow ranking"] = f"{experiment}/runs?viewStateShareKey={RANKING}"
        found["mlflow comparison"] = f"{experiment}/runs?compareRunsMode=CHART"
        found["mlflow models"] = f"{base}/#/models/{config.registered_model}"
    return found


class Sent:
    """How far a run has come in one server and experiment: `mlflow.json`."""

    def __init__(self, path: Path, config: TrackConfig, root: Path):
        self.path = path
        self.uri = tracking_uri(config, root)
        # A server decides itself where artifacts go.
        self.artifacts = (
            None if self.uri.startswith(("http", "databricks")) else str(root.resolve() / "mlflow/artifacts")
        )
        self.experiment, self.registered_model = config.experiment, config.registered_model
        # The uri may hold a password, so it is not written.
        self._key = f"{self.experiment}@{hashlib.sha256(self.uri.encode()).hexdigest()[:12]}"
        state = self._everything().get(self._key) or {"sent": 0, "experiment": None, "runs": {}}
        self.count: int = state["sent"]
        """Events sent."""
        self.experiment_id: str | None = state["experiment"]
        self.refused: dict[str, str] = state.get("refused", {})
        """What MLflow will never take: event -> its words."""
        self.runs: dict[int | None, str] = {None if k == "None" else int(k): v for k, v in state["runs"].items()}
        """MLflow's run of each iteration; of None the run itself."""

    def save(self) -> None:
        runs = {str(k): v for k, v in self.runs.items()}
        state = {"sent": self.count, "experiment": self.experiment_id, "runs": runs, "refused": self.refused}
        store.write_json(self.path, self._everything() | {self._key: state})

    def _everything(self) -> dict[str, Any]:
        return store.read_json(self.path) if self.path.is_file() else {}


class _View:
    """MLflow's copy of one run: a method for each kind of event, which may be called again with the same event."""

    def __init__(self, client: Any, sent: Sent, folder: Path, root: Path, events: Sequence[Event]):
        self.client, self.sent, self.folder, self.root, self.events = client, sent, folder, root, events
        self.run_key = next(e.data["run_key"] for e in events if e.kind == "start")

    def send(self) -> None:
        sent = self.sent
        if sent.runs and not self._known(sent.runs[None]):
            sent.runs.clear()  # the database is another one than before: everything again
            sent.refused.clear()
            sent.count = 0
        sent.experiment_id = _experiment(self.client, sent)
        self._offer_ranking()
        before = len(sent.refused)
        for batch in _batches(self.events[sent.count :]):
            sent.refused |= self._deliver(batch)
            sent.count += len(batch)
            sent.save()
        if refused := list(sent.refused.items())[before:]:
            log.warning("MLflow refused %d events, e.g. %s", len(refused), ": ".join(refused[0]))

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
        tag, experiment = f"mlflow.sharedViewState.{RANKING}", self.sent.experiment_id
        if self.client.get_experiment(experiment).tags.get(tag) != json.dumps(view):
            self.client.set_experiment_tag(experiment, tag, json.dumps(view))

    def _deliver(self, batch: list[Event]) -> dict[str, str]:
        """Send events of one kind; returns what MLflow will never take, and why. Raises where it may later."""
        try:
            if batch[0].kind == "metrics":
                self.metrics(batch)
            else:
                _SHOWN_BY[batch[0].kind](self, batch[0])
        except Exception as error:
            if not final(error):
                raise
            if len(batch) > 1:  # one of them spoils the batch
                return {k: v for event in batch for k, v in self._deliver([event]).items()}
            return {batch[0].id: first_words(error)}
        return {}

    def start(self, event: Event) -> None:
        self._make_run(event, self.run_key, {})

    def iteration(self, event: Event) -> None:
        parent = {"mlflow.parentRunId": self.sent.runs[None]}
        self._make_run(event, f"{self.run_key}/{event.iteration}", event.data["tags"] | parent)

    def params(self, event: Event) -> None:
        from mlflow.entities import Param

        params = [Param(k[:250], v[:6000]) for k, v in event.data["params"].items()]
        for first in range(0, len(params), 100):
            self.client.log_batch(self._run(event), params=params[first : first + 100])

    def tags(self, event: Event) -> None:
        from mlflow.entities import RunTag

        self.client.log_batch(self._run(event), tags=[RunTag(k, v) for k, v in cut(event.data["tags"]).items()])

    def metrics(self, events: Sequence[Event]) -> None:
        from mlflow.entities import Metric

        for run in dict.fromkeys(self._run(e) for e in events):
            mine = [e for e in events if self._run(e) == run]
            points = [Metric(k, v, e.time, e.data["step"]) for e in mine for k, v in e.data["values"].items()]
            for first in range(0, len(points), BATCH):
                self.client.log_batch(run, metrics=points[first : first + BATCH])

    def dataset(self, event: Event) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        name, md5 = event.data["name"], event.data["md5"]
        place = self.root / event.data["path"]
        seen = packaging.schema_and_profile(place) if place.is_file() and datasets.md5_of(place) == md5 else None
        source = json.dumps({"path": event.data["path"], "md5": md5})
        data = Dataset(name, md5[:36], "dvc", source, *(seen or ()))
        context = "training" if event.data["role"] == "input" else "published"
        self.client.log_inputs(self._run(event), [DatasetInput(data, [InputTag("mlflow.data.context", context)])])
        self.client.set_tag(self._run(event), f"dvc.{name}.md5", md5)

    def artifact(self, event: Event) -> None:
        path = self.folder / event.data["path"]
        if not path.is_file():
            raise Refused(f"{path} is gone")
        place = Path(event.data["path"]).parent
        if event.iteration is not None and place.parts[:1] == (stage_name(event.iteration),):
            place = place.relative_to(place.parts[0])
        self.client.log_artifact(
            self._run(event), str(path), place.as_posix() if place.parts and place.parts[0] != ".." else None
        )

    def model(self, event: Event) -> None:
        from mlflow.entities import LoggedModelOutput, Metric

        path, run, k = self.folder / event.data["path"], self._run(event), _iteration_of(event)
        if not path.is_dir():
            raise Refused(f"{path} is gone")
        tag = f"{self.run_key}/{event.id}"
        tags = cut(event.data["tags"]) | {"ipr.event": tag}
        model = self._logged(path, run, k, tags, event.data.get("example", ()))
        for place in (run, self.sent.runs[None]):  # the run's own page names its models, too
            outputs = self.client.get_run(place).outputs
            if model.model_id not in [m.model_id for m in (outputs.model_outputs if outputs else [])]:
                self.client.log_outputs(place, [LoggedModelOutput(model.model_id, k)])
        points = [Metric(n, v, event.time, k, model_id=model.model_id) for n, v in event.data["metrics"].items()]
        if points:
            self.client.log_batch(run, metrics=points)
        if registry.version_of(self.client, run, tag) is None:
            text = _described(event, self.client.get_run(self.sent.runs[None]).info.run_name)
            registry.register(self.client, self.sent.registered_model, run, model.model_id, tags, text)

    def _logged(self, path: Path, run: str, k: int, tags: dict[str, str], example: Sequence[dict[str, str]]) -> Any:
        """The logged model of an event, or the run's own of before with the same weights: these are stored once.

        Not another run's: each run's models go when the run goes.
        """
        from mlflow.entities import LoggedModelStatus

        weights = model_hash(path) if packaging.is_model(path) else None
        ask = [f"tags.`ipr.event` = '{tags['ipr.event']}'"]
        ask += [f"tags.`ipr.weights` = '{weights}'"] if weights else []
        for wanted in ask:
            known = self.client.search_logged_models([self.sent.experiment_id], wanted)
            ours = [m for m in known if wanted == ask[0] or m.source_run_id in self.sent.runs.values()]
            model = next((m for m in ours if m.status == LoggedModelStatus.READY or wanted == ask[0]), None)
            if model is not None:
                break
        else:
            own = tags | ({"ipr.weights": weights} if weights else {})
            model = self.client.create_logged_model(
                self.sent.experiment_id, stage_name(k), run, own, model_type="agent"
            )
        if model.status != LoggedModelStatus.READY:
            about = {key: tags[key] for key in ("dvc.data.md5", "git.commit", "ipr.config_hash") if key in tags}
            self._send_files(path, model, example, about)
            self.client.finalize_logged_model(model.model_id, "READY")
        return model

    def _send_files(self, path: Path, model: Any, example: Sequence[dict[str, str]], about: dict[str, str]) -> None:
        """The model's folder as an MLflow model; into a store on this machine without a second copy of the weights."""

        def write(aside: Path) -> None:
            if packaging.is_model(path):
                packaging.package(path, aside, example, about)
            else:
                shutil.copytree(path, aside, dirs_exist_ok=True)

        if (place := packaging.local(model.artifact_location)) is not None:
            store.replace_folder(place, write)
            return
        with tempfile.TemporaryDirectory(dir=self.folder, prefix=".mlflow-") as aside:
            write(Path(aside))
            self.client.log_model_artifacts(model.model_id, aside)

    def champion(self, event: Event) -> None:
        k = _iteration_of(event)
        mine = registry.version_of(self.client, self._run(event), f"{self.run_key}/model/{k}")
        if mine is None:
            raise Refused(f"{stage_name(k)} is no registered model")
        registry.decide(self.client, self.sent.registered_model, mine, event.data["decision"], event.id, event.time)

    def traces(self, event: Event) -> None:
        path, experiment = self.folder / event.data["path"], str(self.sent.experiment_id)
        send_sample(self.sent.uri, experiment, self._run(event), self.run_key, path, event.time)

    def games(self, event: Event) -> None:
        run, experiment = self.sent.runs[None], str(self.sent.experiment_id)
        name = self.client.get_run(run).info.run_name
        send_games(self.client, experiment, run, name, self.run_key, event.data, self.folder)

    def group(self, event: Event) -> None:
        """The parent may not have been sent yet; it is then found by its key."""
        parent = self._found_run(event.data["run_key"]) or self._new_run(event, event.data["run_key"], {})
        self.client.set_tag(self._run(event), "mlflow.parentRunId", parent)

    def status(self, event: Event) -> None:
        if event.data["status"] == "RUNNING":
            self.client.update_run(self._run(event), status="RUNNING")
        else:
            self.client.set_terminated(self._run(event), event.data["status"], event.time)

    def _make_run(self, event: Event, key: str, tags: dict[str, str]) -> None:
        self.sent.runs[event.iteration] = self._found_run(key) or self._new_run(event, key, tags)

    def _found_run(self, key: str) -> str | None:
        found = self.client.search_runs([self.sent.experiment_id], f"tags.`ipr.run_key` = '{key}'", max_results=1)
        return found[0].info.run_id if found else None

    def _new_run(self, event: Event, key: str, tags: dict[str, str]) -> str:
        tags = cut(tags) | {"ipr.run_key": key}
        return self.client.create_run(self.sent.experiment_id, event.time, tags, event.data["name"][:250]).info.run_id

    def _run(self, event: Event) -> str:
        return self.sent.runs[event.iteration]

    def _known(self, run: str) -> bool:
        from mlflow.exceptions import MlflowException

        try:
            self.client.get_run(run)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise
        return True


_SHOWN_BY: Mapping[Kind, Callable[[_View, Event], None]] = {
    "start": _View.start,
    "params": _View.params,
    "tags": _View.tags,
    "iteration": _View.iteration,
    "dataset": _View.dataset,
    "artifact": _View.artifact,
    "model": _View.model,
    "champion": _View.champion,
    "traces": _View.traces,
    "games": _View.games,
    "group": _View.group,
    "status": _View.status,
}
"""What shows an event of each kind but "metrics", of which many are shown at once."""


def _described(event: Event, run: str) -> str:
    """A version's page: what the agent is, what it can, what it was made of."""
    tags = event.data["tags"]
    figures = ", ".join(f"{name.replace('dev/', '')} {value:.3g}" for name, value in event.data["metrics"].items())
    facts = {
        "base model": tags.get("ipr.base_model"),
        "preset": tags.get("ipr.preset"),
        "seed": tags.get("ipr.seed"),
        "config": tags.get("ipr.config_hash"),
        "code": tags.get("git.commit", "")[:12] + (" (changed)" if tags.get("git.dirty") == "True" else ""),
        "data/": tags.get("dvc.data.md5"),
    }
    lines = [f"- {name}: `{value}`" for name, value in facts.items() if value]
    return "\n".join([f"**{stage_name(_iteration_of(event))}** of run **{run}**. On dev: {figures}.", "", *lines])


def _iteration_of(event: Event) -> int:
    assert event.iteration is not None
    return event.iteration


def _experiment(client: Any, sent: Sent) -> str:
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(sent.experiment)
    if found is None:
        try:
            return client.create_experiment(sent.experiment, sent.artifacts)
        except MlflowException:  # another process was quicker, or the next line says why
            found = client.get_experiment_by_name(sent.experiment)
            if found is None:
                raise
    if found.lifecycle_stage != "active":
        raise IprError(f"MLflow's experiment '{sent.experiment}' is deleted; restore it, or change track.experiment")
    return found.experiment_id


def _batches(events: Iterable[Event]) -> Iterator[list[Event]]:
    """Neighbouring metrics together, other events alone."""
    batch: list[Event] = []
    for event in events:
        if batch and (event.kind != "metrics" or batch[0].kind != "metrics" or len(batch) >= BATCH):
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
