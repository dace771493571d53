"""What is said of the champion before a run, and the rule by which an agent becomes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flows.cli import main
from ipr import config as configs
from ipr import envs, identity, store, tracking
from ipr.apps.champion import judge, of_other_games, text
from ipr.config import TrackConfig
from ipr.runs.report import verdict
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


def played(*rewards: float, room: str = "room") -> list[Trajectory]:
    return [Trajectory(f"g{i}", room, (), reward, "terminated") for i, reward in enumerate(rewards)]


def test_the_first_agent_is_no_champion_because_it_is_the_first() -> None:
    found = judge(TrackConfig(), played(0, 0, 0, 0.2), None, None, 100)
    assert (found["promote"], found["outcome"]) == (False, "kept")
    assert found["why"] == "dev reward 0.050 is below the minimum of 0.1 (track.min_dev_reward)"
    smoke = configs.load("smoke", [], Path(__file__).parents[2] / "flows" / "configs").track
    assert "track.promote=false" in judge(smoke, played(1, 1), None, None, 100)["why"]
    first = judge(TrackConfig(), played(1, 0), None, None, 100)
    assert first["promote"]
    assert verdict(first | {"stage": "sft"}) == (
        "Champion: sft is promoted: first champion, dev reward 0.500 (at least 0.1)."
    )


def test_the_champion_yields_only_to_a_better_one_on_the_same_games() -> None:
    weak, strong = played(*[0.0] * 30, *[1.0] * 10), played(*[1.0] * 40)
    found = judge(TrackConfig(), strong, weak, "3", 200)
    assert (found["promote"], found["outcome"]) == (True, "promoted")
    assert found["why"].startswith("better than version 3 on the same 40 dev games: +75.0 points [")
    assert "30 won, 10 equal, 0 lost" in found["why"]
    assert judge(TrackConfig(), weak, strong, "3", 200)["outcome"] == "worse"
    equal = judge(TrackConfig(), strong, strong, "3", 200)
    assert (equal["promote"], equal["outcome"]) == (False, "kept")
    assert "not better than version 3" in verdict(equal | {"stage": "iteration-1"})
    low = judge(TrackConfig(min_dev_reward=2), strong, weak, "3", 200)  # better, and not good enough
    assert not low["promote"]
    assert low["comparison"]["win"] == 30


def test_games_are_the_same_only_where_they_look_the_same() -> None:
    """Another version of a world has other games of the same names."""
    found = judge(TrackConfig(), played(1, 1), played(0, 0, room="another room"), "3", 100)
    assert not found["promote"]
    assert "is of other games" in found["why"]
    assert "comparison" not in found


def test_the_page_of_the_champion_says_who_and_why() -> None:
    line = {"when": "2026-11-29T03:00:00Z", "version": "4", "before": "3", "how": "by hand", "by": "eve", "why": "no"}
    page = {"model": "ipr-agent", "version": "4", "run": "n-1", "stage": "iteration-2", "dev_reward": 0.5}
    shown = text(page | {"lineage": {"data": "abc"}, "history": [line]})
    assert "champion of ipr-agent: version 4, iteration-2 of run n-1, dev reward 0.500" in shown
    assert "2026-11-29T03:00:00Z  version 4  by hand (eve): no" in shown
    assert "has no champion yet" in text({"model": "ipr-agent", "version": None, "history": []})


def test_a_registered_model_of_ones_own_is_the_one_that_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("IPR_ROOT", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    mine = ["--registered-model", "mine"]
    assert main(["champion", *mine]) == 0
    assert "mine has no champion yet" in capsys.readouterr().out
    for asked in (["export", "champion", "--out", str(tmp_path / "out")], ["data", "lineage"]):
        assert main([*asked, *mine]) == 2
        assert "mine" in capsys.readouterr().err
    assert main(["export", "champion", "--env", "sql", "--out", str(tmp_path / "out")]) == 2
    assert "'ipr-agent-sql' has no champion yet" in capsys.readouterr().err
