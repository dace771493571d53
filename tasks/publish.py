"""The data sets under `data/`: brought here before a run, published after each iteration.

Every stage becomes a version in the DVC remote (`ipr.data.datasets`); data.dvc is left to a person.
"""

from __future__ import annotations

from pathlib import Path

from ipr import identity, store
from ipr.apps import data_commands
from ipr.data import datasets
from ipr.runs.project import project_root
from ipr.runs.run import Run, stage_name
from tasks.common import log, stage_task

KINDS = ("explored", "step_rewards", "pairs", "demonstrations")


@stage_task("ensure-data")
def ensure_data(run_dir: str, iteration: int = 0) -> str | None:
    """Where there is no `data/`, bring what `data.dvc` names (DVC's cache, its remote, or the generator); returns the
    experts' file, or None where what is played (a real data set, an environment of one's own) has none published.
    """
    run = Run(run_dir)
    root = project_root()
    ours = run.config.env.data is None and run.config.env.name in data_commands.EXPERTS
    if run.config.data.publish and (ours or datasets.recorded(root) is not None):
        datasets.ensure(root, data_commands.generate_published)
    path = root / "data" / run.config.env.name / "experts.parquet"
    return str(path) if path.is_file() else None


@stage_task("publish", timeout=3600, needed=False)
def publish(run_dir: str, iteration: int) -> dict[str, str]:
    """Publish the stage's data sets as a new version; returns file -> md5.

    Iteration 0 has the run's experts where the published ones do not hold them all, else none.
    """
    run = Run(run_dir)
    if not run.config.data.publish:
        return {}
    root = project_root()
    own = f"{run.config.env.name}/{run.name}"
    own_id = run.manifest.get("id") or identity.of_config(run.config)[:8]
    place = run.manifest.get("data_place", own)
    files: dict[str, Path] = {}
    if iteration > 0:
        stage = run.stage(iteration)
        found = {kind: stage / f"{kind}.parquet" for kind in KINDS}
        files = {f"{place}/iteration-{iteration}/{kind}.parquet": p for kind, p in found.items() if p.exists()}
    elif (made := run.record(0, "experts")) and made["published"] < made["experts"]:
        files = {f"{place}/experts.parquet": run.folder / "experts.parquet"}
    published = datasets.publish(
        root,
        files,
        remote=run.config.data.remote,
        message=f"{run.name}: {stage_name(iteration)}",
        place=place,
        aside=f"{own}-{own_id}",  # where another checkout has a run of this name
    )
    if published.files:
        run.note(data_place="/".join(next(iter(published.files)).split("/")[:2]))
    if not published.pushed:
        log.warning("data sets are added to DVC but not pushed; the next publish tries again (see `ipr doctor`)")
    run.note(data={"md5": published.md5}, data_files=published.files)
    store.write_json(run.stage(iteration) / "published.json", {"md5": published.md5, "files": published.files})
    return published.files
