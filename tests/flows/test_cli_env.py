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


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("eval --model m --endpoint http://127.0.0.1:1/v1 --out {} --games -1", "--games: '-1'"),
        ("eval --model m --endpoint http://127.0.0.1:1/v1 --out {} --games 0", "--games: '0'"),
        ("eval --dir {} --iteration -2", "--iteration: '-2'"),
        ("data experts --model m --endpoint http://127.0.0.1:1/v1 --out {} --games -1", "--games: '-1'"),
        ("data games --out {} --count -1", "--count: '-1'"),
        ("data games --out {} --count 0", "--count: '0'"),
        ("data generate --count -2", "--count: '-2'"),
        ("env check alfworld --games -2", "--games: '-2'"),
        ("run smoke --dry-run --seeds 0", "--seeds: '0'"),
        ("run smoke --dir {} --seeds -4", "--seeds: '-4'"),
        ("explore --dir {} --iteration 0", "--iteration: '0'"),
        ("bench alfworld --dir {} --seeds 0", "--seeds: '0'"),
        ("bench alfworld --dir {} --samples 1", "--samples: '1'"),
        ("bench alfworld --dir {} --jobs many", "--jobs: 'many'"),
        ("compare a b --resamples 0", "--resamples: '0'"),
        ("clean --keep -1", "--keep: '-1'"),
        ("serve embedded --max-requests 0", "--max-requests: '0'"),
    ],
)
def test_numbers_out_of_their_range(typed: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything is done."""
    with pytest.raises(SystemExit) as end:
        main(typed.format(tmp_path / "out").split())
    assert end.value.code == 2
    assert f"error: argument {told} is no whole number of " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_games_and_restored_data_need_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main(["data", "games", "--count", "1", "--out", str(tmp_path / "file")]) == 2
    assert "file: Not a directory; choose another folder" in capsys.readouterr().err
    assert main(["data", "restore", "champion", "--out", str(tmp_path / "file" / "out")]) == 2
    assert f"{tmp_path / 'file'} is a file; choose another folder" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["[]", '[{"value": 5}, {"value": 6}]', "[" * 100_000, "{"])
def test_a_transcript_that_is_none_is_named(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "games", "--count", "1", "--out", str(tmp_path)]) == 0
    (game,) = tmp_path.rglob("game.tw-pddl")
    game.with_name("gt_traj.json").write_text(text)
    capsys.readouterr()
    assert main(["env", "check", "alfworld", "--data", str(tmp_path)]) == 1
    assert f"{game.with_name('gt_traj.json')} is no recorded transcript" in capsys.readouterr().out


def test_only_what_trains_is_started_by_several_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    for command in (["run", "smoke"], ["explore", "--dir", str(tmp_path)], ["env", "list"]):
        assert main(command) == 2
        assert "only `ipr sft` and `ipr train` share out their work" in capsys.readouterr().err
    assert main(["train", "--dir", str(tmp_path)]) == 2
    assert "is no run folder" in capsys.readouterr().err
