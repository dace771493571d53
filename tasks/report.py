"""After each stage: summary.json, report.html, Prefect artifacts, and the events that become MLflow's view of the run."""

from __future__ import annotations

from typing import Any

from prefect.artifacts import create_link_artifact, create_markdown_artifact

from ipr import report as reports
from ipr import store
from ipr.config import flat
from ipr.project import project_root
from ipr.run import Run, stage_name
from ipr.summary import summarise
from ipr.tracking import Tracker, links
from tasks.common import stage_task


@stage_task("report", timeout=3600)
def report(run_dir: str, iteration: int, status: str = "running") -> str:
    """Write the run's summary and report, and send what is new to MLflow; returns the report's path."""
    run = Run(run_dir)
    summary = _write(run, status)
    track(run, iteration, summary)
    name = f"{run.name}-{stage_name(iteration)}".lower().replace("_", "-").replace(".", "-")
    create_markdown_artifact(reports.markdown(summary), key=name, description=f"{run.name} after {stage_name(iteration)}")
    create_link_artifact((run.folder / "report.html").resolve().as_uri(), key=f"{name}-report", link_text="report.html")
    return str(run.folder / "report.html")


def finish(run: Run) -> dict[str, Any]:
    """The summary of a complete run; what MLflow could not take before is sent now."""
    tracker = Tracker(run.folder, run.config.track, project_root())
    tracker.end("FINISHED")
    tracker.sync()
    return _write(run, "complete")


def _write(run: Run, status: str) -> dict[str, Any]:
    found = links(run.config.track, project_root(), run.folder) | {"report": str(run.folder / "report.html")}
    summary = summarise(run, status, found)
    store.write_json(run.folder / "summary.json", summary)
    reports.write(run.folder)
    return summary


def track(run: Run, iteration: int, summary: dict[str, Any]) -> None:
    """Append the stage's events and send them; a server that is down costs a warning, not the run."""
    tracker = Tracker(run.folder, run.config.track, project_root())
    manifest = run.manifest
    git = manifest.get("git", {})
    tags = {
        "ipr.config_hash": manifest["config_hash"],
        "ipr.seed": manifest["seed"],
        "ipr.preset": manifest.get("preset", ""),
        "ipr.run": run.name,
        "git.commit": git.get("commit", ""),
        "git.dirty": git.get("dirty", ""),
        "scorer.hash": manifest.get("scorer", ""),
        "mlflow.source.name": f"ipr run {manifest.get('preset', '')}".strip(),
        **_prefect_ids(),
    }
    tracker.start(run.name, flat(run.config), tags)
