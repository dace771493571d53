"""What MLflow still needs of a run's folder, what of a run goes with it, and the data sets that tags name.

Decided here: a run is the unit. With its folder go its runs, models and versions, but only those that this folder has
sent (`mlflow.json`): other machines' runs are theirs to clean. Rows are deleted for good where the database is ours;
behind a server they are marked deleted, and its keeper runs `mlflow gc`.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Container
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from ipr.config import TrackConfig
from ipr.runs.run import Run
from ipr.tracking.client import asking, missing, tracking_uri
from ipr.tracking.events import read
from ipr.tracking.view import Sent

KEEP = "keep"
"""Tag of a run or version in MLflow that keeps it, whatever its value."""


def is_there(config: TrackConfig, root: Path) -> bool:
    """Whether there is an MLflow to ask: a server that is named, or a database file."""
    uri = tracking_uri(config, root)
    return not uri.startswith("sqlite:///") or Path(uri.removeprefix("sqlite:///")).is_file()


def sent_ids(run: Run, root: Path) -> list[str]:
    """MLflow's ids of what the run has sent: its iterations, then itself."""
    if not (run.config.track.enabled and (run.folder / "mlflow.json").is_file()):
        return []
    found = Sent(run.folder / "mlflow.json", run.config.track, root).runs
    return [i for k, i in found.items() if k is not None] + [i for k, i in found.items() if k is None]


def needed(run: Run, root: Path) -> str:
    """Why MLflow needs the run: it has not been told all, a version has an alias or was champion before the present
    one, something is tagged; else ""."""
    told = Sent(run.folder / "mlflow.json", run.config.track, root).count
    if run.config.track.enabled and sum(1 for _ in read(run.folder / "events.jsonl")) > told:
        return f"has more to tell MLflow: ipr status {run.folder} --sync"
    ids = sent_ids(run, root)
    if not ids:
        return ""
    with asking(run.config.track, root) as client:
        model = _found(client.get_registered_model, run.config.track.registered_model)
        named = {str(v): f"has the alias {alias}" for alias, v in (model.aliases if model else {}).items()}
        named |= dict.fromkeys(_last_champions(model), "is or was the last champion") if model else {}
        for run_id in ids:
            found = _run(client, run_id)
            if found is not None and KEEP in found.data.tags:
                return f"is tagged {KEEP} in MLflow"
            for version in client.search_model_versions(f"run_id = '{run_id}'"):
                if why := named.get(str(version.version), f"is tagged {KEEP}" if KEEP in version.tags else ""):
                    return f"its version {version.version} {why}"
    return ""


def size(run: Run, root: Path) -> int:
    """Bytes of the run's artifacts and models where MLflow keeps them in a folder."""
    with asking(run.config.track, root) as client:
        sent = [found for run_id in sent_ids(run, root) if (found := _run(client, run_id)) is not None]
        places = [s.info.artifact_uri for s in sent]
        places += [model.artifact_location for s in sent for model in _models(client, s)]
    return sum(bytes_of(_local(place)) for place in places)


def remove(run: Run, root: Path) -> None:
    """Delete what the run has sent: versions, models with their files, traces, evaluation data sets, runs."""
    ours = not tracking_uri(run.config.track, root).startswith(("http", "databricks"))
    with asking(run.config.track, root) as client:
        for run_id in sent_ids(run, root):
            if (sent := _run(client, run_id)) is None:
                continue
            for version in client.search_model_versions(f"run_id = '{run_id}'"):
                client.delete_model_version(version.name, version.version)
            for model in _models(client, sent):
                client.delete_logged_model(model.model_id)
                if ours:
                    _erase(model.artifact_location)
                    _store(client)._hard_delete_logged_model(model.model_id)
            _forget(client, sent)
            client.delete_run(run_id)
            if ours:
                _erase(sent.info.artifact_uri)
                _store(client)._hard_delete_run(run_id)


def data_sets(config: TrackConfig, root: Path, without: Container[str] = ()) -> set[str]:
    """The md5 of every data set that a run in MLflow names, whoever made it, but the runs `without`.

    Raises IprError where MLflow cannot be asked.
    """
    found: set[str] = set()
    with asking(config, root) as client:
        for experiment in client.search_experiments():
            token = None
            while True:
                page = client.search_runs([experiment.experiment_id], max_results=1000, page_token=token)
                for run in page:
                    tags = () if run.info.run_id in without else run.data.tags.items()
                    found |= {v for k, v in tags if k.startswith("dvc.") and k.endswith(".md5")}
                token = page.token
                if not token:
                    break
    return found


def downloads(config: TrackConfig, root: Path) -> list[Path]:
    """Folders of champions that were brought here and are champion no more."""
    folders = sorted((root / "mlflow" / "downloads").glob("*"))
    if not folders:
        return []
    with asking(config, root) as client:
        champions = [
            client.get_model_version(model.name, version).source.removeprefix("models:/")
            for model in client.search_registered_models()
            for version in model.aliases.values()
        ]
    return [f for f in folders if f.name.removesuffix("-dev") not in champions]


def bytes_of(place: Path) -> int:
    """Of a file, or of all files of a folder."""
    return sum(f.lstat().st_size for f in (place, *place.rglob("*")) if f.is_file() or f.is_symlink())


def _models(client: Any, sent: Any) -> list[Any]:
    """The logged models that a run made itself (the run's page names its iterations' too)."""
    outputs = sent.outputs.model_outputs if sent.outputs else []
    found = [_found(client.get_logged_model, output.model_id) for output in outputs]
    return [model for model in found if model is not None and model.source_run_id == sent.info.run_id]


def _forget(client: Any, sent: Any) -> None:
    """Delete the traces and evaluation data sets of a run, which MLflow would keep without it."""
    run_id, experiment = sent.info.run_id, sent.info.experiment_id
    while traces := client.search_traces(locations=[experiment], run_id=run_id, include_spans=False, max_results=100):
        if not client.delete_traces(experiment, trace_ids=[trace.info.trace_id for trace in traces]):
            break
    with contextlib.suppress(NotImplementedError):  # a store without a database keeps none
        for games in client.search_datasets([experiment], filter_string=f"tags.mlflow_run = '{run_id}'"):
            client.delete_dataset(games.dataset_id)


def _store(client: Any) -> Any:
    """Where `mlflow gc` deletes for good. (The command itself also takes every other deleted experiment with it.)"""
    return client._tracking_client.store


def _erase(uri: str) -> None:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    get_artifact_repository(uri).delete_artifacts()
    with contextlib.suppress(OSError):
        _local(uri).parent.rmdir()  # of the run or model alone


def _local(uri: str) -> Path:
    return Path(unquote(urlsplit(uri).path) if uri.startswith("file:") else uri)


def _last_champions(model: Any) -> list[str]:
    """The versions of the last two moves of the alias, which `champion.<time>` tags of the registered model tell."""
    moves = sorted((int(k[9:]), v) for k, v in model.tags.items() if k.startswith("champion.") and k[9:].isdigit())
    return [v for _, line in moves[-2:] for v in (json.loads(line)["version"], json.loads(line).get("before")) if v]


def _run(client: Any, run_id: str) -> Any:
    found = _found(client.get_run, run_id)
    return found if found is not None and found.info.lifecycle_stage == "active" else None


def _found(get: Callable[[str], Any], name: str) -> Any:
    """What MLflow has of this name or id; None where it has nothing."""
    from mlflow.exceptions import MlflowException

    try:
        return get(name)
    except MlflowException as error:
        if missing(error):
            return None
        raise
