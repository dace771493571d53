"""A run that fails or is killed: MLflow is told, and people, once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ipr import config as configs
from ipr import store
from ipr.runs.run import Run
from ipr.types import IprError
from tests.sinks import Sink, serving

pytestmark = pytest.mark.integration

PRESETS = Path(__file__).parents[2] / "flows" / "configs"


@pytest.fixture
def sink() -> Iterator[Sink]:
    yield from serving(Sink())


def opened(folder: Path, sink: Sink) -> Run:
    settings = [f"alerts.webhook={sink.url}", "track.uri=http://127.0.0.1:9"]
    return Run.open(folder, configs.load("smoke", settings, PRESETS), "smoke")


def statuses(run: Run) -> list[str]:
    lines = (run.folder / "events.jsonl").read_text().splitlines()
    return [e["status"] for e in map(json.loads, lines) if e["kind"] == "status" and e["iteration"] is None]


def test_a_run_that_fails_is_told_once_however_often_it_fails(
    tmp_path: Path, sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows import killed, launch, refine

    monkeypatch.setenv("IPR_ROOT", str(tmp_path))
    monkeypatch.setattr(killed, "mend_flows", list)  # no server is started here
    why: list[BaseException] = [RuntimeError("the disk\nis full"), RuntimeError("again"), KeyboardInterrupt()]

    def fails(*_: Any) -> None:
        raise why.pop(0)

    monkeypatch.setattr(refine, "refine", fails)
    run = opened(tmp_path / "runs" / "a", sink)
    for error in (RuntimeError, RuntimeError, KeyboardInterrupt):
        with pytest.raises(error):
            launch._play(run)
        assert run.manifest["playing"] is False
    (posted,) = [body for body, _ in sink.got]
    assert (posted["id"], posted["text"]) == ("a/failed", "the disk is full")
    assert (posted["env"], posted["preset"]) == ("alfworld", "smoke")
    assert statuses(run) == ["FAILED", "KILLED"]  # no server takes them now: the next start sends them


def test_a_killed_run_is_found_by_the_next_start_and_a_running_one_left_alone(
    tmp_path: Path, sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.killed import mend_runs

    monkeypatch.setenv("IPR_ROOT", str(tmp_path))
    dead, alive, ended, mine = (opened(tmp_path / "runs" / name, sink) for name in ("dead", "alive", "ended", "mine"))
    for run in (dead, alive, mine):
        run.note(playing=True)
    (tmp_path / "runs" / "other").mkdir()
    (tmp_path / "runs" / "other" / "manifest.json").write_text("{}")  # no run of ours
    with alive.lock(), mine.lock():
        for _ in range(2):
            mend_runs(mine.folder)
    assert statuses(dead) == statuses(mine) == ["KILLED"]
    assert not (alive.folder / "events.jsonl").exists()
    assert not (ended.folder / "events.jsonl").exists()
    assert sorted(body["id"] for body, _ in sink.got) == ["dead/crashed", "mine/crashed"]
    assert store.read_json(dead.folder / "alerts.json") == {"dead/crashed": ["webhook"]}


def test_a_schedule_has_five_fields_and_a_timezone() -> None:
    from flows.retrain import schedule_of

    assert schedule_of("0 3 * * *", "Europe/Berlin").timezone == "Europe/Berlin"
    with pytest.raises(IprError, match=r"--cron 'at three' is no schedule"):
        schedule_of("at three", "UTC")
    with pytest.raises(IprError, match=r"--timezone 'Mars/Olympus' is not known"):
        schedule_of("0 3 * * *", "Mars/Olympus")
