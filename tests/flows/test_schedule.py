"""A schedule on a real Prefect server: work pool, one run at a time, missed runs, killed ones, who is told."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prefect.client.base import PrefectHttpxSyncClient

from ipr import store
from ipr.config import AlertsConfig
from ipr.runs.project import answers
from tests.conftest import Lay
from tests.sinks import Sink, serving

pytestmark = pytest.mark.integration

CHECKOUT = Path(__file__).parents[2]
TINY = ["env.tasks=4", "env.max_steps=6", "eval.games=2", "eval.dev_games=2", "algorithm.samples=1"]
TINY += ["algorithm.tau=0", "rollout.max_new_tokens=16", "eval.bootstrap=100"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, with_data: Lay) -> Path:
    return with_data(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="module")
def settings(root: Path) -> Iterator[dict[str, str]]:
    """The environment of a machine that knows a Prefect server, which runs while the tests do."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MLFLOW_", "OMP_", "IPR_"))}
    env = kept | {
        "IPR_ROOT": str(root),
        "PREFECT_HOME": str(root / ".prefect"),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(str(CHECKOUT / p) for p in ("src", ".")),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    command = [
        sys.executable,
        "-m",
        "prefect",
        "server",
        "start",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--no-ui",
    ]
    log = open(root / "server.log", "w")  # noqa: SIM115
    server = subprocess.Popen(command, env=env, cwd=root, stdout=log, stderr=log, start_new_session=True)
    try:
        within(120, lambda: answers(f"{env['PREFECT_API_URL']}/health"))
        yield env
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
        log.close()


def within(seconds: float, happens: Callable[[], Any]) -> Any:
    limit = time.monotonic() + seconds
    while not (found := happens()):
        assert time.monotonic() < limit, happens
        time.sleep(0.2)
    return found


def asked(env: dict[str, str], path: str, body: Any = None) -> Any:
    """Prefect's API, as it is. A busy server whose SQLite is locked answers 503: its client then asks again."""
    data = None if body is None else json.dumps(body, default=str)
    with PrefectHttpxSyncClient(headers={"Content-Type": "application/json"}, timeout=30) as client:
        answer = client.request("GET" if data is None else "POST", env["PREFECT_API_URL"] + path, content=data)
    return json.loads(answer.content or "null")


def prefect(env: dict[str, str], *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", *arguments],
        env=env, cwd=CHECKOUT, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def inside(env: dict[str, str], code: str, **more: str) -> Any:
    """What a process of this machine answers, as JSON in its last line."""
    done = subprocess.run(
        [sys.executable, "-c", code], env=env | more, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def deployments(settings: dict[str, str]) -> dict[str, Any]:
    """What `prefect deploy --all` makes of prefect.yaml, by name."""
    asked(settings, "/work_pools/", {"name": "ipr", "type": "process"})
    prefect(settings, "deploy", "--all")
    return {d["name"]: d for d in asked(settings, "/deployments/filter", {})}


def test_a_worker_plays_the_smoke_run(root: Path, settings: dict[str, str], deployments: dict[str, Any]) -> None:
    assert set(deployments) == {"nightly", "smoke", "evaluate"}
    assert deployments["nightly"]["schedules"][0]["schedule"]["cron"] == "0 3 * * *"
    for name in ("nightly", "smoke"):
        assert deployments[name]["global_concurrency_limit"]["limit"] == 1
        assert deployments[name]["concurrency_options"]["collision_strategy"] == "ENQUEUE"
    (root / "runs" / "smoke-by-hand").mkdir(parents=True)  # no run of the schedule, so it has no number
    given = {"preset": "smoke", "overrides": TINY, "runs": "runs"}
    made = asked(settings, f"/deployments/{deployments['smoke']['id']}/create_flow_run", {"parameters": given})
    prefect(settings, "worker", "start", "--pool", "ipr", "--run-once")
    flow_run = asked(settings, f"/flow_runs/{made['id']}")
    assert flow_run["state"]["type"] == "COMPLETED", (flow_run["state"], (root / "server.log").read_text()[-2000:])
    assert re.fullmatch(r"retrain-smoke-1-\d{4}-\d\d-\d\d", flow_run["name"])
    verdict = "is not promoted: runs of this preset do not promote (track.promote=false)"
    assert verdict in flow_run["state"]["message"]
    (folder,) = (root / "runs").glob("smoke-0001-*")
    assert verdict in store.read_json(folder / "summary.json")["champion"]["verdict"]
    below = {f["name"]: f for f in asked(settings, "/flow_runs/filter", {})}
    refine = below[f"refine-{folder.name}"]
    assert {"ipr", "env:alfworld", "preset:smoke", "method:ipr"} <= set(refine["tags"])
    assert verdict in refine["state"]["message"]
    artifacts = asked(settings, "/artifacts/filter", {})
    assert any(verdict in str(a["data"]) for a in artifacts if a["key"].endswith("-champion"))
    messages = [line["message"] for line in asked(settings, "/logs/filter", {})]
    assert any(re.match(r"sft train: \d+/\d+ updates", line) for line in messages)
    assert any(verdict in line for line in messages)


FLOWS = """
import time
from prefect import flow, task
from flows.killed import note_process

@task
def play():
    print("playing", flush=True)
    time.sleep(100)

@flow
def below():
    play()

@flow
def above():
    note_process()
    below()

above()
"""
MEND = "import json; from flows.killed import mend_flows; print(json.dumps([str(i) for i in mend_flows()]))"


def test_flows_of_a_killed_process_do_not_stay_running(settings: dict[str, str]) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", FLOWS], env=settings, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "playing"
    # The server records task runs a little later than they tell of themselves.
    playing = {"task_runs": {"name": {"like_": "play"}, "state": {"type": {"any_": ["RUNNING"]}}}}
    within(60, lambda: asked(settings, "/task_runs/filter", playing))
    assert inside(settings, MEND) == []  # it lives
    process.kill()
    process.wait()
    found = inside(settings, MEND)
    assert len(found) == 2
    states = {asked(settings, f"/flow_runs/{flow_run}")["state"]["type"] for flow_run in found}
    assert states == {"CRASHED"}
    wanted = {"flow_runs": {"id": {"any_": found}}}
    (task_run,) = [t for t in asked(settings, "/task_runs/filter", wanted) if t["name"].startswith("play")]
    assert task_run["state"]["type"] == "CRASHED"


@pytest.fixture
def sink() -> Iterator[Sink]:
    yield from serving(Sink())


ON_TIME = """
import json, os
from pathlib import Path
from flows.clock import on_time
from ipr import config
for _ in range(2):
    on_time(config.load(None, ["alerts.webhook=" + os.environ["SINK"]]), Path(os.environ["IPR_ROOT"]) / "runs")
print("null")
"""


def test_missed_runs_of_a_schedule_are_one_and_told(
    settings: dict[str, str], deployments: dict[str, Any], sink: Sink
) -> None:
    nightly = deployments["nightly"]["id"]
    now = datetime.now(UTC)
    span = {"start_time": now - timedelta(days=3), "end_time": now}
    asked(settings, f"/deployments/{nightly}/schedule", span)
    by_hand = asked(settings, f"/deployments/{nightly}/create_flow_run", {})["id"]
    wanted = {
        "deployments": {"id": {"any_": [nightly]}},
        "flow_runs": {"expected_start_time": {"before_": str(datetime.now(UTC))}},
    }
    due = [f for f in asked(settings, "/flow_runs/filter", wanted) if f["auto_scheduled"]]
    assert len(due) == 3
    inside(settings, ON_TIME, SINK=sink.url, PREFECT__FLOW_RUN_ID=due[0]["id"])
    states = {f["id"]: f["state"]["type"] for f in asked(settings, "/flow_runs/filter", wanted)}
    assert states[due[0]["id"]] == states[by_hand] == "SCHEDULED"
    assert [states[f["id"]] for f in due[1:]] == ["CANCELLED"] * 2
    told = {body["event"]: body["text"] for body, _ in sink.got}
    assert len(sink.got) == 2
    assert re.search(r"started \d+ min later", told["late"])
    assert told["skipped"].startswith("2 missed runs of the schedule are this one")


def test_the_server_itself_tells_of_late_and_crashed_runs(
    settings: dict[str, str], deployments: dict[str, Any], sink: Sink
) -> None:
    config = AlertsConfig(webhook=sink.url)
    code = "import json, sys; from ipr.config import AlertsConfig; from flows import automations;"
    code += f"print(json.dumps(automations.make(AlertsConfig(**{config.model_dump()!r}))))"
    inside(settings, code)
    names = inside(settings, code)  # again, with another config perhaps: still one of each
    assert len(names) == 3
    assert sorted(a["name"] for a in asked(settings, "/automations/filter", {})) == sorted(names)
    smoke = deployments["smoke"]["id"]
    made = asked(settings, f"/deployments/{smoke}/create_flow_run", {})

    def told(event: str) -> Any:
        mine = (body for body, _ in sink.got if body["run"] == made["name"])  # others may be late, too
        return next((body for body in mine if body["event"] == event), None)

    for event, kind, name in (("late", "SCHEDULED", "Late"), ("crashed", "CRASHED", "Crashed")):
        state = {"state": {"type": kind, "name": name}, "force": True}

        def once_more(event: str = event, state: dict[str, Any] = state) -> Any:
            # The server reads its triggers every second or so; what happens before that sets none off.
            asked(settings, f"/flow_runs/{made['id']}/set_state", state)
            time.sleep(2)
            return told(event)

        assert event in within(90, once_more)["title"]
