"""Scheduled retraining: continue from the champion model on the newest data.

One run of a schedule is active at a time, and what was missed meanwhile (a long run, a worker that was down) is one
run, not one for each night.
"""

from __future__ import annotations

import json
import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import flow, serve
from prefect.client.orchestration import get_client
from prefect.client.schemas import filters
from prefect.client.schemas.objects import ConcurrencyLimitConfig, State, StateType
from prefect.client.schemas.schedules import CronSchedule
from prefect.runtime import deployment, flow_run
from prefect.states import Cancelled, Completed

from flows import automations, launch
from flows.killed import note_process
from flows.refine import evaluate_stages
from ipr.config import RunConfig, load
from ipr.data import datasets
from ipr.runs import alerts
from ipr.runs.project import project_root
from ipr.tracking import champion_info
from ipr.types import IprError
from tasks.common import log

PRESETS = Path(__file__).parent / "configs"


def _name() -> str:
    """Of a scheduled flow run: preset, number and date."""
    given = flow_run.parameters
    at = flow_run.scheduled_start_time or datetime.now(UTC)
    number = 1 + len(_folders(project_root() / given["runs"], given["preset"]))
    return f"retrain-{given['preset']}-{number}-{at:%Y-%m-%d}"


@flow(name="retrain", flow_run_name=_name)
def retrain(preset: str, overrides: list[str], runs: str) -> State[dict[str, Any]]:
    """One scheduled run: an unfinished earlier one is continued, else a new one starts from the champion.

    Without a champion the run starts from the preset's base model; its best agent then becomes the first champion.
    The champion has been through SFT, so it is the new run's SFT agent (reference and scorer) as it is.
    """
    root = project_root()
    config = load(preset, overrides, PRESETS)
    _on_time(config, root / runs)
    try:
        folder, config = _next(preset, overrides, root / runs, config)
        summary = launch.run(folder, config, preset)
    except Exception as error:  # of a run that has begun it is told already
        book = root / runs / alerts.BOOK
        if not getattr(error, launch.TOLD, False):
            alerts.tell(config.alerts, "failed", str(flow_run.name), " ".join(str(error).split())[:1000], book)
        raise
    decision = summary["champion"]
    told = {"folder": str(folder), "reported": summary["reported"]}
    return Completed(message=decision["verdict"] if decision else f"{folder.name} is complete", data=told)


def _next(preset: str, overrides: list[str], runs: Path, config: RunConfig) -> tuple[Path, RunConfig]:
    """The folder and config of the run that is to be played: an unfinished one, or a new one."""
    root = project_root()
    datasets.pull_newest(root)
    if (folder := _unfinished(runs, preset)) is not None:
        return folder, load(folder / "config.yaml")
    if champion_info(config.track, root) is not None:
        config = load(preset, ["model.path=champion", "sft.epochs=0", *overrides], PRESETS)
    return runs / f"{preset}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}", config


def _on_time(config: RunConfig, runs: Path) -> None:
    """Note who plays; a late start is told; other runs of the schedule that are due are cancelled: this is theirs."""
    note_process()
    name, book = str(flow_run.name), runs / alerts.BOOK
    due = flow_run.scheduled_start_time
    minutes = (datetime.now(UTC) - due).total_seconds() / 60 if due and deployment.id else 0.0
    if minutes > config.alerts.late_minutes:
        alerts.tell(config.alerts, "late", name, f"due {due:%Y-%m-%d %H:%M} UTC, started {minutes:.0f} min later", book)
    if missed := collapse():
        words = f"{len(missed)} missed runs of the schedule are this one: {', '.join(missed)}"
        alerts.tell(config.alerts, "skipped", name, words, book)


def collapse() -> list[str]:
    """Cancel the other runs of this schedule that are due and wait; returns when they were due. Never raises."""
    if not deployment.id:
        return []
    waiting = filters.FlowRunFilter(
        deployment_id=filters.FlowRunFilterDeploymentId(any_=[UUID(str(deployment.id))]),
        state=filters.FlowRunFilterState(type=filters.FlowRunFilterStateType(any_=[StateType.SCHEDULED])),
        expected_start_time=filters.FlowRunFilterExpectedStartTime.model_validate({"before_": datetime.now(UTC)}),
    )
    missed = []
    try:
        with get_client(sync_client=True) as client:
            for other in client.read_flow_runs(flow_run_filter=waiting):
                if str(other.id) == str(flow_run.id) or not other.auto_scheduled:  # a person's own start stays
                    continue
                client.set_flow_run_state(other.id, Cancelled(message=f"missed; {flow_run.name} is run instead"))
                missed.append(f"{other.expected_start_time:%Y-%m-%d %H:%M}")
    except Exception as error:  # they run one after another then
        log.warning("missed runs of the schedule: %s", " ".join(str(error).split())[:200])
    return missed


def deploy(preset: str, overrides: list[str], cron: str, name: str, runs: Path, config: RunConfig) -> None:
    """Serve scheduled retraining until stopped, with a Prefect server. Raises IprError where `cron` is no schedule."""
    try:
        CronSchedule(cron=cron)
    except ValueError:
        raise IprError(
            f"--cron '{cron}' is no schedule; five fields, e.g. '0 3 * * *' (every night at three)"
        ) from None
    parameters = {"preset": preset, "overrides": overrides, "runs": str(runs.resolve())}
    os.environ.setdefault("PREFECT_FLOWS_HEARTBEAT_FREQUENCY", str(automations.HEARTBEAT))
    automations.make(config.alerts)
    one = ConcurrencyLimitConfig(limit=1)  # the next one waits, and takes the missed ones along
    deployments: list[Any] = [
        retrain.to_deployment(
            name=name, cron=cron, tags=["ipr", "retrain"], parameters=parameters, concurrency_limit=one
        ),
        evaluate_stages.to_deployment(name=name, tags=["ipr", "evaluate"]),
    ]
    serve(*deployments, limit=1)


def _unfinished(runs: Path, preset: str) -> Path | None:
    """The newest run of this schedule that was killed before it was complete."""
    for folder in reversed(_folders(runs, preset)):
        manifest = folder / "manifest.json"
        if manifest.is_file() and not json.loads(manifest.read_text()).get("complete"):
            return folder
    return None


def _folders(runs: Path, preset: str) -> list[Path]:
    """The runs of this schedule, oldest first."""
    return sorted(runs.glob(f"{preset}-*"))
