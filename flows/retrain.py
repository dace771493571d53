"""Scheduled retraining: on from the champion, on the newest data and problems that are new."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from prefect import flow, serve
from prefect.client.schemas.objects import ConcurrencyLimitConfig, State
from prefect.client.schemas.schedules import CronSchedule
from prefect.runtime import flow_run
from prefect.schedules import Cron, Schedule
from prefect.states import Completed

from flows import automations, clock, launch
from flows.refine import evaluate_stages
from ipr.apps import schedule
from ipr.config import RunConfig, load
from ipr.runs import alerts
from ipr.runs.project import project_root
from ipr.runs.run import Run
from ipr.types import IprError
from tasks.common import log

PRESETS = Path(__file__).parent / "configs"


@flow(name="retrain", flow_run_name=clock.name)
def retrain(preset: str, overrides: list[str], runs: str) -> State[dict[str, Any]]:
    """One scheduled run: an unfinished earlier one is continued, else a new one starts from the champion on problems
    that were not explored before; where nothing could be new it ends as skipped (`ipr.apps.schedule`)."""
    root = project_root()
    name, book = str(flow_run.name), root / runs / alerts.BOOK
    config = None
    try:
        config = load(preset, overrides, PRESETS)
        clock.on_time(config, root / runs)
        found = schedule.next_run(preset, overrides, root / runs, root, PRESETS)
        if isinstance(found, schedule.Skipped):
            log.info("skipped: %s", found.why)
            alerts.tell(config.alerts, "skipped", name, found.why, book)
            return Completed(name="Skipped", message=found.why, data={"skipped": found.why})
        clock.numbered(found.folder)
        summary = launch.run(found.folder, found.config, Path(preset).stem)
    except Exception as error:  # of a run that has begun it is told already
        if not getattr(error, launch.TOLD, False):
            alerts.tell((config or RunConfig()).alerts, "failed", name, " ".join(str(error).split())[:1000], book)
        raise
    schedule.ended(Run(found.folder), root)
    decision = summary["champion"]
    told = {"folder": str(found.folder), "reported": summary["reported"]}
    return Completed(message=decision["verdict"] if decision else f"{found.folder.name} is complete", data=told)


def schedule_of(cron: str, timezone: str) -> Schedule:
    """Raises IprError where `cron` is no schedule or there is no such timezone."""
    told = f"--cron '{cron}' is no schedule; five fields, e.g. '0 3 * * *' (every night at three)"
    for zone in ("UTC", timezone):
        try:
            CronSchedule(cron=cron, timezone=zone)
        except ValueError:
            raise IprError(told) from None
        told = f"--timezone '{timezone}' is not known; e.g. UTC, or Europe/Berlin"
    return Cron(cron, timezone=timezone)


def deploy(preset: str, overrides: list[str], cron: Schedule, name: str, runs: Path, config: RunConfig) -> None:
    """Serve scheduled retraining until stopped, with a Prefect server."""
    parameters = {"preset": preset, "overrides": overrides, "runs": str(runs.resolve())}
    os.environ.setdefault("PREFECT_FLOWS_HEARTBEAT_FREQUENCY", str(automations.HEARTBEAT))
    automations.make(config.alerts)
    one = ConcurrencyLimitConfig(limit=1)  # the next one waits, and takes the missed ones along
    deployments: list[Any] = [
        retrain.to_deployment(
            name=name, schedule=cron, tags=["ipr", "retrain"], parameters=parameters, concurrency_limit=one
        ),
        evaluate_stages.to_deployment(name=name, tags=["ipr", "evaluate"]),
    ]
    serve(*deployments, limit=1)
