"""`ipr env check`, as it is typed; and what `ipr` sets in the environment."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from flows.cli import main

SPIDER = Path(__file__).parents[2] / "../shared/data/spider"


@pytest.mark.parametrize("name", ["alfworld", "sql", "webshop"])
def test_the_contract_holds(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env", "check", name, "--games", "3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["ok"], found["problems"]


@pytest.mark.parametrize("name", ["alfworld", "sql", "webshop"])
@pytest.mark.parametrize("preset", ["smoke", "quick"])
def test_a_preset_takes_every_environment(name: str, preset: str) -> None:
    """Episodes of usual length fit into the preset's context; else the plan is refused."""
    assert main(["run", preset, f"env.name={name}", "env.tasks=3", "model.path=embedded", "--dry-run"]) == 0


@pytest.mark.skipif(not SPIDER.is_dir(), reason="no Spider folder in ../shared")
def test_every_gold_query_earns_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env", "check", "sql", "--data", str(SPIDER)]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["full_reward"] == found["questions"] > 0


@pytest.mark.parametrize("name", ["alfworld", "sql", "webshop"])
def test_a_folder_without_data_is_refused(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env", "check", name, "--data", str(tmp_path)]) == 2
    assert str(tmp_path) in capsys.readouterr().err


def test_alfworlds_data_as_it_is_downloaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No transcripts there: the contract is played, also from the folder above. A part of the data is data too."""
    made = ["data", "games", "--count", "72", "--out", str(tmp_path / "json_2.1.1"), "--json"]
    assert main([*made, "--split", "train"]) == 0
    for split in ("seen", "unseen"):
        assert main([*made[:3], "3", *made[4:], "--split", split]) == 0
    for folder in (tmp_path, tmp_path / "json_2.1.1"):
        assert main(["env", "check", "alfworld", "--data", str(folder), "--games", "1"]) == 0
        assert "expert_wins: 1" in capsys.readouterr().out


@pytest.mark.parametrize(("given", "found"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_sleep_while_they_wait(given: str | None, found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless the user has said otherwise. That workers inherit it: `test_killed_and_continued_ends_with_the_same`."""
    monkeypatch.setenv("OMP_WAIT_POLICY", given or "")
    if given is None:
        monkeypatch.delenv("OMP_WAIT_POLICY")
    assert main(["env", "list"]) == 0
    assert os.environ["OMP_WAIT_POLICY"] == found
