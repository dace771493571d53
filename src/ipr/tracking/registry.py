"""MLflow's model registry: versions of the agents, the alias `champion`, and the way from a model back to its data."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ipr import store
from ipr.config import TrackConfig
from ipr.data import datasets
from ipr.tracking.client import Refused, asking, missing
from ipr.types import IprError

CHAMPION = "champion"


def champion_info(config: TrackConfig, root: Path) -> dict[str, Any] | None:
    """The champion: version, run_id, tags, `folder` of its model, and `dev`, its dev trajectories (None if not logged).

    None where there is no champion. Raises IprError where MLflow cannot be asked, which is not the same.
    """
    with asking(config, root) as client:
        version = _champion(client, config.registered_model)
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

    {"model", "version", "run_id", "git_commit", "git_dirty", "config_hash", "games" and "scorer" (see `ipr.identity`),
    "data" (md5 of data/), "datasets" (name -> md5), "commands"}.
    """
    with asking(config, root) as client:
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
        "games": tags.get("ipr.games"),
        "scorer": tags.get("scorer.hash"),
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


# What `view` sends ---------------------------------------------------------------------------------------------------


def version_of(client: Any, run: str, event: str) -> Any:
    """The registered version of an iteration's run that was made for `event`; None where there is none."""
    found = client.search_model_versions(f"run_id = '{run}'")
    return next((v for v in found if v.tags.get("ipr.event") == event), None)


def register(client: Any, name: str, run: str, model_id: str, tags: dict[str, str]) -> None:
    """A logged model becomes a version of the registered model `name`."""
    from mlflow.exceptions import MlflowException

    with contextlib.suppress(MlflowException):  # it is there already; if not, the next line says why
        client.create_registered_model(name)
    made = client.create_model_version(name, f"models:/{model_id}", run, tags, model_id=model_id)
    named = json.dumps([{"name": name, "version": made.version}])
    client.set_logged_model_tags(model_id, {"mlflow.modelVersions": named})  # the link in the model's page


def decide(client: Any, name: str, mine: Any, decision: Mapping[str, Any], event: str) -> None:
    """Move the alias to the version `mine` where the decision says so; the version's tags say what was decided.

    Raises Refused where the champion is no longer the one that was compared with.
    """
    if mine.tags.get("champion.event") == event:
        return  # done before; the alias may have moved on since
    present = _champion(client, name)
    now, then = str(present.version) if present else "none", str(decision.get("champion") or "none")
    changed = decision["promote"] and now not in (then, str(mine.version))
    if decision["promote"] and not changed:
        client.set_registered_model_alias(name, CHAMPION, mine.version)
    why = f"not moved: compared with {then}, but now it is {now}" if changed else decision.get("why", "")
    note = {"promoted": decision["promote"] and not changed, "why": why, "compared_with": then, "event": event}
    for key, value in note.items():
        client.set_model_version_tag(name, mine.version, f"champion.{key}", str(value))
    if changed:
        raise Refused(f"champion {why}; compare version {mine.version} with it by hand: ipr compare")


# Looking up ----------------------------------------------------------------------------------------------------------


def _look_up(client: Any, ref: str, config: TrackConfig) -> tuple[str | None, str, dict[str, str]]:
    from mlflow.exceptions import MlflowException

    name = config.registered_model
    try:
        if ref == CHAMPION or ref.isdigit():
            found = _champion(client, name) if ref == CHAMPION else client.get_model_version(name, ref)
            if found is None:
                raise IprError(f"'{name}' has no champion yet; give a version or a run id")
            return str(found.version), found.run_id, dict(found.tags)
        return None, ref, dict(client.get_run(ref).data.tags)
    except MlflowException as error:
        if not missing(error):
            raise
        raise IprError(f"MLflow knows no '{ref}'; give 'champion', a version number of '{name}', or a run id") from None


def _champion(client: Any, name: str) -> Any:
    """The champion's version; None where there is none."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_model_version_by_alias(name, CHAMPION)
    except MlflowException as error:
        if missing(error):
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
