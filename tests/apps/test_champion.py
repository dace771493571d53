"""What is said of the champion before a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ipr import config as configs
from ipr import envs, identity, store, tracking
from ipr.apps.champion import of_other_games
from ipr.types import IprError, Trajectory


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Makes a champion that was measured on some games; without any there is none."""

    def champion(*task_ids: str, **tags: str) -> None:
        dev = [Trajectory(i, "room", (), 1.0, "terminated") for i in task_ids]
        file = store.save(tmp_path / "dev.parquet", dev, Trajectory)
        info = {"version": "3", "dev": file, "tags": tags} if task_ids else None
        monkeypatch.setattr(tracking, "champion_info", lambda *_: info)

    return champion


def test_a_champion_of_other_games_is_told_of(measured: Any, tmp_path: Path) -> None:
    config = configs.load(None, ["env.name=sql"])
    measured()
    assert of_other_games(config, tmp_path) == ""
    measured(*envs.get("sql").task_ids("dev")[3:5])
    assert of_other_games(config, tmp_path) == ""
    measured(envs.get("sql").task_ids("dev")[3], **{"ipr.games": identity.of_games(envs.get("sql"))})
    assert of_other_games(config, tmp_path) == ""
    measured(envs.get("sql").task_ids("dev")[3], **{"ipr.games": "those of other data, with the same ids"})
    assert "is of other games" in of_other_games(config, tmp_path)
    measured("ic_spider_dev/00000")
    told = of_other_games(config, tmp_path)
    assert "the champion of 'ipr-agent-sql' (version 3) is of other games" in told
    assert "track.registered_model=NAME" in told
    assert of_other_games(configs.load(None, ["env.name=sql", "track.enabled=false"]), tmp_path) == ""


def test_a_tracker_that_is_down_is_no_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def down(*_: object) -> None:
        raise IprError("MLflow is down")

    monkeypatch.setattr(tracking, "champion_info", down)
    assert of_other_games(configs.load(None, []), tmp_path) == ""
