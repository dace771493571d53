"""What Prefect's server does by itself: it tells of late runs, of crashed ones, where no process of ours is alive to do
it, and ends flow runs whose process sends no sign of life any more (another machine's, a pod that is gone).

Decided here: one set of automations for the flow `retrain`, whatever deployments it has. The first two call the webhook
of `alerts`, whose address the server keeps in a block of its own; without one they only leave an event on its pages.
"""

from __future__ import annotations

import json
import os
from datetime import timedelta
from typing import Any

from ipr.config import AlertsConfig, Told
from ipr.runs import alerts
from tasks.common import log

NAMES = {"late": "ipr: a run is late", "crashed": "ipr: a run crashed", "gone": "ipr: a process is gone"}
HEARTBEAT = 30
"""Seconds between two signs of life of a flow run (`PREFECT_FLOWS_HEARTBEAT_FREQUENCY`)."""
SILENCE = timedelta(minutes=5)
"""Without a sign of life for so long a flow run has crashed."""


def make(config: AlertsConfig) -> list[str]:
    """Make the automations, or bring them to what the config says; returns their names. None where the server has no
    automations: a warning."""
    from prefect.client.orchestration import get_client

    try:
        with get_client(sync_client=True) as client:
            wanted = _wanted(config)
            for automation in wanted:
                for old in client.read_automations_by_name(automation.name):
                    client.delete_automation(old.id)
                client.create_automation(automation)
            return [automation.name for automation in wanted]
    except Exception as error:  # a server without automations, or one that is down: schedules go on
        log.warning("no automations for late and crashed runs: %s", " ".join(str(error).split())[:200])
        return []


def _wanted(config: AlertsConfig) -> list[Any]:
    from prefect.events.actions import ChangeFlowRunState
    from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
    from prefect.events.schemas.events import ResourceSpecification

    ours = ResourceSpecification({"prefect.resource.role": "flow", "prefect.resource.name": "retrain"})
    states: dict[Told, str] = {"late": "Late", "crashed": "Crashed"}
    found = []
    for event, state in states.items():
        trigger = EventTrigger(
            expect={f"prefect.flow-run.{state}"}, match_related=ours, posture=Posture.Reactive, threshold=1
        )
        found.append(AutomationCore(name=NAMES[event], trigger=trigger, actions=[_call(config, event)]))
    over = {f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Cancelled", "Crashed")}
    silent = EventTrigger(
        after={"prefect.flow-run.heartbeat"},
        expect={"prefect.flow-run.heartbeat", *over},
        match=ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"}),
        # By their tag: what retrain has started is to end, too.
        match_related=ResourceSpecification({"prefect.resource.role": "tag", "prefect.resource.id": "prefect.tag.ipr"}),
        for_each={"prefect.resource.id"},
        posture=Posture.Proactive,
        threshold=1,
        within=SILENCE,
    )
    crash = ChangeFlowRunState.model_validate({"state": "CRASHED", "message": "no sign of life of its process"})
    return [*found, AutomationCore(name=NAMES["gone"], trigger=silent, actions=[crash])]


def _call(config: AlertsConfig, event: Told) -> Any:
    """The webhook's call, in the form of `alerts.posted`, or nothing where there is none."""
    from prefect.blocks.webhook import Webhook
    from prefect.events.actions import CallWebhook, DoNothing

    url = alerts.webhook(config)
    if not url or event not in config.events:
        return DoNothing()
    headers = {"Content-Type": "application/json"}
    if token := os.environ.get(alerts.TOKEN):
        headers["Authorization"] = f"Bearer {token}"
    block: Any = Webhook.model_validate({"method": "POST", "url": url, "headers": headers})
    block_id = block.save("ipr-alerts", overwrite=True)
    run = "{{ flow_run.name }}"
    alert = {
        "id": "{{ flow_run.id }}/" + event,
        "event": event,
        "run": run,
        "title": f"ipr: {run} {'is' if event == 'late' else 'has'} {event}",
        "text": "told by Prefect's server: {{ flow_run.state.name }}",
        "link": "{{ flow_run|ui_url }}",
    }
    return CallWebhook(block_document_id=block_id, payload=json.dumps(alerts.posted(config, alert)))
