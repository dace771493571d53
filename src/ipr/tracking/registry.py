"""MLflow's model registry: versions of the agents, the alias `champion`, and the way from a model back to its data.

Decided here: whoever moves the alias (a run, a person, a rollback) leaves a line with the reason, as a tag of the
registered model: `champion.<time>`. The line is written first and the alias moved then, so no move is unexplained.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ipr import store
from ipr.config import TrackConfig
from ipr.data import datasets
from ipr.tracking import packaging
from ipr.tracking.client import Refused, asking, missing
from ipr.types import IprError

CHAMPION = "champion"
KEPT = ("ipr.event", "ipr.stage", "ipr.config_hash", "git.commit", "dvc.data.md5")
"""Tags of a version, by which it is looked for; its page tells the rest, and its run has every tag."""
_RULE = "\n\n---\n"
"""Parts a version's description: above what the agent is, below what was decided of it."""


def champion_info(config: TrackConfig, root: Path) -> dict[str, Any] | None:
    """The champion: version, run_id, tags, `folder` of its model, and `dev`, its dev trajectories (None if not logged).

    The tags are its run's and its version's.

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
            "tags": _all_tags(client, version),
            "folder": folder,
            "dev": _bring_dev(client, version, root),
        }


def champion_page(config: TrackConfig, root: Path) -> dict[str, Any]:
    """What a person wants to know of the champion: {"model", "version", "run_id", "run", "stage", "dev_reward",
    "description", "history": who made which version champion, when, how and why; newest first}.

    Version is None where there is no champion. Raises IprError where MLflow cannot be asked.
    """
    with asking(config, root) as client:
        name = config.registered_model
        version, lines = _champion(client, name), _history(client, name)
        page: dict[str, Any] = {"model": name, "version": None, "history": lines[::-1]}
        if version is None:
            return page
        run = client.get_run(version.run_id)
        if not lines or lines[-1]["version"] != str(version.version):
            page["note"] = "the alias was moved in MLflow itself; nobody left a reason"
        return page | {
            "version": str(version.version),
            "run": run.data.tags.get("ipr.run_folder"),
            "stage": run.info.run_name,
            "run_id": version.run_id,
            "dev_reward": run.data.metrics.get("dev/reward"),
            "description": (version.description or "").partition(_RULE)[0],
        }


def promote(config: TrackConfig, root: Path, version: str, reason: str) -> dict[str, Any]:
    """A person makes `version` champion, for a reason; returns the line of the history. Raises IprError."""
    from mlflow.exceptions import MlflowException

    name = config.registered_model
    with asking(config, root) as client:
        try:
            found = client.get_model_version(name, version)
        except MlflowException as error:
            if not missing(error):
                raise
            there = sorted(int(v.version) for v in client.search_model_versions(f"name = '{name}'"))
            known = f"there are {', '.join(map(str, there[-10:]))}" if there else "there is none yet: ipr run quick"
            raise IprError(f"MLflow has no version {version} of '{name}'; {known}") from None
        present = _champion(client, name)
        if present is not None and str(present.version) == str(found.version):
            raise IprError(f"version {version} of '{name}' is the champion already")
        return _crown(client, name, found, "by hand", reason)


def roll_back(config: TrackConfig, root: Path, reason: str) -> dict[str, Any]:
    """The champion before the present one is champion again; returns the line of the history. Raises IprError."""
    name = config.registered_model
    with asking(config, root) as client:
        present = _champion(client, name)
        if present is None:
            raise IprError(f"'{name}' has no champion; make one: ipr champion promote VERSION --reason ...")
        before = previous(_history(client, name), str(present.version))
        there = {str(v.version): v for v in client.search_model_versions(f"name = '{name}'")}
        before = [v for v in before if v in there]
        if not before:
            raise IprError(f"version {present.version} of '{name}' is the first champion; nothing to go back to")
        return _crown(client, name, there[before[-1]], "rollback", reason)


def previous(history: list[dict[str, Any]], present: str) -> list[str]:
    """The champions before `present` that were not rolled back from, oldest first."""
    reigns: list[str] = []
    for line in history:
        if line["how"] == "rollback" and line["version"] in reigns:
            reigns = reigns[: reigns.index(line["version"])]
        reigns = [*(v for v in reigns if v != line["version"]), line["version"]]
    return [v for v in reigns if v != present]


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


def register(client: Any, name: str, run: str, model_id: str, tags: dict[str, str], description: str) -> None:
    """A logged model becomes a version of the registered model `name`."""
    from mlflow.exceptions import MlflowException

    with contextlib.suppress(MlflowException):  # it is there already; if not, the next line says why
        client.create_registered_model(name)
    kept = {key: tags[key] for key in KEPT if key in tags}
    made = client.create_model_version(
        name, f"models:/{model_id}", run, kept, model_id=model_id, description=description
    )
    linked = json.loads(client.get_logged_model(model_id).tags.get("mlflow.modelVersions", "[]"))
    named = json.dumps([*linked, {"name": name, "version": made.version}])
    client.set_logged_model_tags(model_id, {"mlflow.modelVersions": named})  # the link in the model's page


def decide(client: Any, name: str, mine: Any, decision: Mapping[str, Any], event: str, at: int) -> None:
    """Move the alias to the version `mine` where the decision says so; the version's page says what was decided.

    `event` and its time `at` tell a decision that is sent twice. Raises Refused where the champion is no longer the
    one that was compared with.
    """
    if mine.tags.get("champion.event") == event:
        return  # done before; the alias may have moved on since
    present = _champion(client, name)
    now, then = str(present.version) if present else "none", str(decision.get("champion") or "none")
    changed = decision["promote"] and now not in (then, str(mine.version))
    why = f"not moved: compared with {then}, but now it is {now}" if changed else decision.get("why", "")
    if decision["promote"] and not changed:
        _crown(client, name, mine, "by a run", why, decision.get("by"), at)
    else:
        _note(client, name, mine, f"Not promoted: {why}")
    client.set_model_version_tag(name, mine.version, "champion.event", event)
    if changed:
        raise Refused(f"champion {why}; compare version {mine.version} with it by hand: ipr compare")


def _crown(
    client: Any, name: str, version: Any, how: str, why: str, by: str | None = None, at: int | None = None
) -> dict[str, Any]:
    """Move the alias, and keep who did it and why; returns the line of the history."""
    at = at or time.time_ns() // 1_000_000
    present = _champion(client, name)
    day = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at / 1000))
    line = {
        "version": str(version.version),
        "before": str(present.version) if present else None,
        "how": how,
        "why": why[:2000],
        "by": by or person(),
        "when": day,
    }
    client.set_registered_model_tag(name, f"champion.{at}", json.dumps(line))
    _note(client, name, version, f"Champion from {day}, {how} ({line['by']}): {why}")
    client.set_registered_model_alias(name, CHAMPION, version.version)
    return line


def _note(client: Any, name: str, version: Any, line: str) -> None:
    """Add a line to what was decided of a version, in its description."""
    above, _, below = (client.get_model_version(name, version.version).description or "").partition(_RULE)
    if line not in below:
        client.update_model_version(name, version.version, f"{above}{_RULE}{below}{chr(10) * 2 * bool(below)}{line}")


def _history(client: Any, name: str) -> list[dict[str, Any]]:
    """The lines that `_crown` left, oldest first."""
    from mlflow.exceptions import MlflowException

    try:
        tags = client.get_registered_model(name).tags
    except MlflowException as error:
        if missing(error):
            return []
        raise
    moves = {int(k[9:]): v for k, v in tags.items() if k.startswith("champion.") and k[9:].isdigit()}
    return [json.loads(moves[at]) for at in sorted(moves)]


def person() -> str:
    """Who acts: user@machine."""
    try:
        return f"{getpass.getuser()}@{socket.gethostname()}"
    except (OSError, KeyError):  # a container's user without a name
        return socket.gethostname()


# Looking up ----------------------------------------------------------------------------------------------------------


def _look_up(client: Any, ref: str, config: TrackConfig) -> tuple[str | None, str, dict[str, str]]:
    from mlflow.exceptions import MlflowException

    name = config.registered_model
    try:
        if ref == CHAMPION or ref.isdigit():
            found = _champion(client, name) if ref == CHAMPION else client.get_model_version(name, ref)
            if found is None:
                raise IprError(f"'{name}' has no champion yet; give a version or a run id")
            return str(found.version), found.run_id, _all_tags(client, found)
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


def _all_tags(client: Any, version: Any) -> dict[str, str]:
    return client.get_run(version.run_id).data.tags | dict(version.tags)


def _bring_model(client: Any, version: Any, root: Path) -> Path:
    """The model's folder: where MLflow keeps it if that is a local folder, else a download that is made once."""
    from mlflow.artifacts import download_artifacts

    model_id = _model_id(version)
    place = packaging.local(client.get_logged_model(model_id).artifact_location)
    if place is not None and place.is_dir():
        return place
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
