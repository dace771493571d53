"""Runs whose process is gone: told to MLflow, to Prefect and to whom it concerns, by the next start at the latest.

Nothing can say that it was killed. So a run's manifest says that it is playing, and a flow run says which process plays
it; what says so with no process behind it was killed. Only this machine's processes can be looked at: flow runs of
another one (a pod that is gone) are Prefect's automation's matter (`flows.automations`).
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from ipr.runs import alerts
from ipr.runs.project import project_root
from ipr.runs.run import Run
from ipr.tracking import Tracker
from ipr.types import IprError
from tasks.common import log


def mend_runs(folder: Path) -> None:
    """The runs beside `folder` (and the one in it, which the caller holds) that were killed: KILLED in MLflow, and an
    alert."""
    for manifest in sorted(folder.resolve().parent.glob("*/manifest.json")):
        try:
            run = Run(manifest.parent)
            if not run.manifest.get("playing"):
                continue
            if manifest.parent == folder.resolve():
                _killed(run)
                continue
            with run.lock():
                _killed(run)
                run.note(playing=False)
        except IprError:  # played by another process, or no run's folder any more
            continue


def _killed(run: Run) -> None:
    tracker = Tracker(run.folder, run.config.track, project_root())
    tracker.end("KILLED")
    tracker.sync()
    words = f"its process was killed; the same command continues it in {run.folder}"
    alerts.tell(run.config.alerts, "crashed", run.name, words, run.folder / alerts.BOOK, env=run.config.env.name)


def note_process() -> None:
    """In a flow: Prefect is told which process plays it, where no worker has said so. Never raises."""
    from prefect.client.orchestration import get_client
    from prefect.context import FlowRunContext

    context = FlowRunContext.get()
    if context is None or context.flow_run is None or context.flow_run.infrastructure_pid:
        return
    try:
        with get_client(sync_client=True) as client:
            client.update_flow_run(context.flow_run.id, infrastructure_pid=f"{socket.gethostname()}:{os.getpid()}")
    except Exception as error:  # whatever Prefect's client or server raise
        log.warning("Prefect does not know which process plays this flow: %s", " ".join(str(error).split())[:200])


def mend_flows() -> list[UUID]:
    """Flow runs that are "Running" in Prefect, by a process of this machine that is gone, and what is below them (flows
    and tasks): Crashed. Returns the flow runs. Never raises: one that looks alive is no reason not to start."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas import filters
    from prefect.client.schemas.objects import StateType
    from prefect.states import Crashed

    state = Crashed(message="its process is gone; found by the next start of ipr")
    found: list[UUID] = []
    try:
        with get_client(sync_client=True) as client:
            for flow_run in _running(client):
                if _plays(flow_run.infrastructure_pid, flow_run.start_time):
                    continue
                client.set_flow_run_state(flow_run.id, state, force=True)
                found.append(flow_run.id)
            running = filters.TaskRunFilterState(type=filters.TaskRunFilterStateType(any_=[StateType.RUNNING]))
            theirs = filters.FlowRunFilter(id=filters.FlowRunFilterId(any_=found))
            tasks = filters.TaskRunFilter(state=running)
            for task_run in client.read_task_runs(flow_run_filter=theirs, task_run_filter=tasks) if found else ():
                client.set_task_run_state(task_run.id, state, force=True)
    except Exception as error:  # whatever Prefect's client or server raise
        log.warning("flow runs of killed processes stay Running in Prefect: %s", " ".join(str(error).split())[:200])
    return found


def _running(client: Any) -> Iterator[Any]:
    """The flow runs that are Running: those that name their process, and what is below one that is gone."""
    from prefect.client.schemas import filters
    from prefect.client.schemas.objects import StateType

    running = filters.FlowRunFilterState(type=filters.FlowRunFilterStateType(any_=[StateType.RUNNING]))
    above = [r for r in client.read_flow_runs(flow_run_filter=filters.FlowRunFilter(state=running)) if _here(r)]
    yield from above
    gone = [r for r in above if not _plays(r.infrastructure_pid, r.start_time)]
    while gone:
        parents = filters.FlowRunFilterParentFlowRunId(any_=[r.id for r in gone])
        wanted = filters.FlowRunFilter(state=running, parent_flow_run_id=parents)
        gone = [r for r in client.read_flow_runs(flow_run_filter=wanted) if not _here(r)]
        yield from gone


def _here(flow_run: Any) -> bool:
    """Whether it names a process of this machine."""
    host, _, pid = (flow_run.infrastructure_pid or "").rpartition(":")
    return host == socket.gethostname() and pid.isdigit()


def _plays(where: str | None, since: datetime | None) -> bool:
    """Whether the process "machine:id" is alive, and not a later one of the same id."""
    import psutil

    if not where:
        return False
    try:
        process = psutil.Process(int(where.rpartition(":")[2]))
        begun = process.create_time()
        return process.status() != psutil.STATUS_ZOMBIE and (since is None or begun <= since.timestamp() + 1)
    except psutil.Error:
        return False
