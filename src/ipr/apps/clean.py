"""`ipr clean`: removes what old runs left behind, and nothing that anybody still needs.

Decided here: a run is the unit. One that goes takes along its folder, its runs, models and versions in MLflow, its
files in `data/`, what only they named in DVC's cache and remote, and Prefect's rows of its time. Kept are runs that can
be resumed or are running, the newest, what is tagged, champions, and what another kept run was made from.
Left out: rows of a Prefect or MLflow server, which their keepers clean (docs/operations.md).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ipr import store
from ipr.config import TrackConfig
from ipr.data import unused
from ipr.runs.project import defaults
from ipr.runs.run import Run
from ipr.tracking import retention
from ipr.types import IprError

TAG = "KEEP"
"""A file of this name in a run's folder keeps the run."""
GONE = ".gone-"
"""How the name of a folder begins that is being removed; a killed `clean` left it, the next one removes it."""


def clean(root: Path, folder: Path, keep: int, yes: bool, remote: bool) -> dict[str, Any]:
    """What goes ({"runs": name -> bytes, "bytes": place -> bytes}) and what stays and why; `yes` removes it.

    `folder` holds the runs, `keep` is how many of the newest finished ones stay. Raises IprError, and has removed
    nothing, where MLflow cannot say who is champion.
    """
    if yes:
        clean(root, folder, keep, False, remote)  # what cannot be told now is not found out halfway
    defaults(root)
    runs, stay = _runs(folder, root, keep)
    gone = [run for run in runs if run.name not in stay]
    kept = [run for run in runs if run.name in stay]
    found: dict[str, Any] = {"runs": {}, "stay": stay, "removed": yes}
    published = {name for run in kept for name in run.manifest.get("data_files", {})}
    files = {name for run in gone for name in run.manifest.get("data_files", {})} - published
    tracks = {run.config.track.uri: run.config.track for run in runs if retention.sent_ids(run, root)}
    if retention.is_there(TrackConfig(), root):  # also where no run of here has told it anything, or none is left
        tracks.setdefault(None, TrackConfig())
    ids = {run_id for run in gone for run_id in retention.sent_ids(run, root)}
    # First: it is refused where another checkout has changed one of them.
    told = f"ipr clean: {', '.join(run.name for run in gone)}"
    data = unused.drop_files(root, files, yes, gone[0].config.data.remote if gone else None, told)
    sizes = {"runs": 0, "mlflow": 0, "data": data}
    for run in gone:
        mine = retention.bytes_of(run.folder)
        sent = retention.size(run, root) if retention.sent_ids(run, root) else 0
        found["runs"][run.name] = mine + sent
        sizes |= {"runs": sizes["runs"] + mine, "mlflow": sizes["mlflow"] + sent}
        if yes:
            _remove(run, root)
    for left in folder.glob(f"{GONE}*"):
        sizes["runs"] += retention.bytes_of(left)
        if yes:
            shutil.rmtree(left, ignore_errors=True)
    sizes["downloads"] = 0
    for old in {f for track in tracks.values() for f in retention.downloads(track, root)}:
        sizes["downloads"] += retention.bytes_of(old)
        if yes:
            shutil.rmtree(old, ignore_errors=True)
    named = {md5 for track in tracks.values() for md5 in retention.data_sets(track, root, ids)}
    named |= {md5 for run in [*kept, *_in_groups(folder)] for md5 in _data_of(run)}
    sizes |= unused.collect(root, named, yes, remote)
    newest = [run.manifest["created"] for run in runs if run.manifest.get("complete")][:keep]
    found["flow_runs"] = _prefect(newest[-1], yes) if len(newest) == keep and keep else 0
    if yes:
        _shrink(root)
    return found | {"bytes": sizes, "total": sum(sizes.values())}


def _runs(folder: Path, root: Path, keep: int) -> tuple[list[Run], dict[str, str]]:
    """The runs of a folder, newest first, and why those stay that do."""
    found = [path.parent for path in sorted(folder.glob("*/config.yaml"))]
    runs = [Run(path) for path in found if not path.name.startswith(GONE)]
    runs.sort(key=lambda run: run.manifest.get("created", ""), reverse=True)
    stay: dict[str, str] = {}
    for run in runs:
        status = run.status()["status"]
        if status != "complete" or _held(run):
            stay[run.name] = "running" if status == "running" or status == "complete" else "can be resumed"
    finished = [run for run in runs if run.name not in stay]
    for place, run in enumerate(finished):
        if (run.folder / TAG).exists():
            stay[run.name] = f"has a file {TAG}"
        elif why := retention.needed(run, root) or ("among the newest" if place < keep else ""):
            stay[run.name] = why
    groups = _in_groups(folder)
    while True:  # what is kept needs what it was made from
        used = {
            other.name: f"{run.name} was made from it"
            for run in [*(run for run in runs if run.name in stay), *groups]
            for place in _sources(run, root)
            for other in runs
            if other.name not in stay and place.is_relative_to(other.folder.resolve())
        }
        if not used:
            return runs, stay
        stay |= used


def _in_groups(folder: Path) -> list[Run]:
    """The runs of several seeds, and those of benches: they stay."""
    found = (path.parent for depth in ("*/*", "*/*/*") for path in sorted(folder.glob(f"{depth}/config.yaml")))
    return [Run(path) for path in found if not any(part.startswith(GONE) for part in path.parts)]


def _held(run: Run) -> bool:
    """Whether a process holds the folder: a finished run's too, while it is written to."""
    try:
        with run.lock():
            return False
    except IprError:
        return True


def _sources(run: Run, root: Path) -> Iterator[Path]:
    """Files and folders outside of the run that it needs to go on, or that its models need."""
    named = [run.config.model.path, run.config.env.experts, run.config.env.data, run.manifest.get("base")]
    for config in run.folder.glob("*/model/adapter_config.json"):
        named.append(store.read_json(config).get("base_model_name_or_path"))
    for name in filter(None, named):
        yield Path(name).resolve()
        yield (root / name).resolve()


def _data_of(run: Run) -> Iterator[str]:
    """The md5s of what the run has published."""
    yield from filter(None, [run.manifest.get("data", {}).get("md5")])
    for path in run.folder.glob("*/published.json"):
        published = store.read_json(path)
        yield published["md5"]
        yield from published["files"].values()


def _remove(run: Run, root: Path) -> None:
    """MLflow first, the folder last: a clean that is killed finds the run again."""
    with run.lock():
        if retention.sent_ids(run, root):
            retention.remove(run, root)
        aside = run.folder.with_name(GONE + run.name[:200])
        run.folder.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)


def _prefect(created: str, yes: bool) -> int:
    """Finished flow runs that ended before `created`, in the database of runs without a server; how many."""
    file = Path(os.environ["PREFECT_HOME"]) / "prefect.db"
    if os.environ.get("PREFECT_API_URL") or not file.is_file():
        return 0
    before = datetime.strptime(created, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    with contextlib.closing(sqlite3.connect(file, timeout=60)) as database:
        query = "select count(*) from flow_run where end_time < ?"
        (count,) = database.execute(query, (before.strftime("%Y-%m-%d %H:%M:%S"),)).fetchone()
    if yes and count:
        asyncio.run(_vacuum(datetime.now(UTC) - before))
    return count


async def _vacuum(age: timedelta) -> None:
    """Prefect's own clean-up, of what is older than `age`, once."""
    from prefect.server.database import provide_database_interface
    from prefect.server.services import db_vacuum
    from prefect.settings import get_current_settings

    server, database = get_current_settings().server, provide_database_interface()
    server.services.db_vacuum.retention_period = age
    server.events.retention_period = age
    for clean_up in (
        db_vacuum.vacuum_old_flow_runs,
        db_vacuum.vacuum_orphaned_logs,
        db_vacuum.vacuum_orphaned_artifacts,
        db_vacuum.vacuum_stale_artifact_collections,
        db_vacuum.vacuum_old_events,
    ):
        await clean_up(db=database)


def _shrink(root: Path) -> None:
    """Give the room of deleted rows back, where nobody else has the database open."""
    for file in (Path(os.environ["PREFECT_HOME"]) / "prefect.db", root / "mlflow" / "mlflow.db"):
        if file.is_file():
            with contextlib.suppress(sqlite3.OperationalError), contextlib.closing(sqlite3.connect(file)) as database:
                database.execute("vacuum")
