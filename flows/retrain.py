"""Scheduled retraining: on from the champion, on the newest data and problems that are new."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from prefect import flow, serve
from prefect.client.schemas.schedules import CronSchedule
from prefect.states import Completed

from flows import launch
from flows.refine import evaluate_stages
from ipr.apps import schedule
from ipr.runs.project import project_root
from ipr.runs.run import Run
from ipr.types import IprError

log = logging.getLogger("ipr")


@flow(name="retrain", flow_run_name="retrain-{preset}")
def retrain(preset: str, overrides: list[str], runs: str) -> Any:
    """One scheduled run: an unfinished earlier one is continued, else a new one starts from the champion on problems
    that were not explored before; where nothing could be new it ends as skipped (`ipr.apps.schedule`)."""
    root = project_root()
    found = schedule.next_run(preset, overrides, Path(runs), root, Path(__file__).parent / "configs")
    if isinstance(found, schedule.Skipped):
        log.info("skipped: %s", found.why)
        return Completed(name="Skipped", message=found.why, data={"skipped": found.why})
    summary = launch.run(found.folder, found.config, Path(preset).stem)
    schedule.ended(Run(found.folder), root)
    return {"folder": str(found.folder), "reported": summary["reported"]}


def deploy(preset: str, overrides: list[str], cron: str, name: str, runs: Path) -> None:
    """Serve scheduled retraining until stopped, with a Prefect server. Raises IprError where `cron` is no schedule."""
    try:
        CronSchedule(cron=cron)
    except ValueError:
        raise IprError(
            f"--cron '{cron}' is no schedule; five fields, e.g. '0 3 * * *' (every night at three)"
        ) from None
    parameters = {"preset": preset, "overrides": overrides, "runs": str(runs.resolve())}
    deployments: list[Any] = [
        retrain.to_deployment(name=name, cron=cron, tags=["ipr", "retrain"], parameters=parameters),
        evaluate_stages.to_deployment(name=name, tags=["ipr", "evaluate"]),
    ]
    serve(*deployments, limit=1)
