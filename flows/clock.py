"""A scheduled flow run and the clock: its name, a late start, and what its schedule missed.

One run of a schedule is active at a time (its deployment's concurrency limit), and what was due meanwhile (a long run,
a worker that was down) is one run, not one for each night.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas import filters
from prefect.client.schemas.objects import StateType
from prefect.runtime import deployment, flow_run
from prefect.states import Cancelled

from flows.killed import note_process
from ipr import store
from ipr.apps import schedule
from ipr.config import RunConfig
from ipr.runs import alerts
from ipr.runs.project import project_root
from tasks.common import log


def name() -> str:
    """Of a scheduled flow run that has just begun: preset, number and date. The number is the next of the folders here
    until the run has one of its own (`numbered`)."""
    given = flow_run.parameters
    preset = Path(given["preset"]).stem
    places = (project_root() / given["runs"]).glob(f"{preset}-*/{schedule.FILE}")
    return _name(preset, 1 + max((store.read_json(place).get("number", 0) for place in places), default=0))


def numbered(folder: Path) -> None:
    """Give the flow run the number that the run in `folder` has in its schedule. Never raises."""
    place = folder / schedule.FILE
    claim = store.read_json(place) if place.is_file() else {}
    if "number" not in claim:
        return
    try:
        with get_client(sync_client=True) as client:
            client.update_flow_run(UUID(str(flow_run.id)), name=_name(claim["preset"], claim["number"]))
    except Exception as error:  # a name is not worth a run
        log.debug("the flow run keeps its name: %s", error)


def _name(preset: str, number: int) -> str:
    at = flow_run.scheduled_start_time or datetime.now(UTC)
    return f"retrain-{preset}-{number}-{at:%Y-%m-%d}"


def on_time(config: RunConfig, runs: Path) -> None:
    """Note who plays; a late start is told; other runs of the schedule that are due are cancelled: this is theirs."""
    note_process()
    run, book = str(flow_run.name), runs / alerts.BOOK
    due = flow_run.scheduled_start_time
    minutes = (datetime.now(UTC) - due).total_seconds() / 60 if due and deployment.id else 0.0
    if minutes > config.alerts.late_minutes:
        alerts.tell(config.alerts, "late", run, f"due {due:%Y-%m-%d %H:%M} UTC, started {minutes:.0f} min later", book)
    if missed := collapse():
        words = f"{len(missed)} missed runs of the schedule are this one: {', '.join(missed)}"
        alerts.tell(config.alerts, "skipped", run, words, book, title=f"ipr: {run} stands for missed runs")


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
