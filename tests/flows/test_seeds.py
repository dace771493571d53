"""`ipr run --seeds` on runs that are complete: they are not played again, and what they say together is written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flows.cli import main
from ipr import store
from ipr.runs import seeds
from tests.runs.laid import lay

pytestmark = pytest.mark.integration


def test_seeds_are_one_experiment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("IPR_ROOT", str(tmp_path))
    folder = tmp_path / "runs" / "mine"
    settings = ["track.enabled=false", "data.publish=false"]
    for seed in (0, 1):
        run = lay(seeds.member(folder, seed), problems=1, iterations=1, overrides=settings, seed=seed)
    preset = tmp_path / "mine.yaml"
    preset.write_text((run.folder / "config.yaml").read_text().replace("seed: 1", "seed: 0"))

    asked = ["run", str(preset), "--seeds", "2", "--dir", str(folder)]
    assert main(asked) == 0
    told = capsys.readouterr().out
    assert "reported against sft" in told
    assert f"plot: {folder}/plots/seeds.png" in told
    assert store.read_json(folder / "seeds.json")["seeds"] == [0, 1]

    events = {name: (folder / name / "events.jsonl").read_text() for name in (".", "mine-0", "mine-1")}
    start = json.loads(events["."].splitlines()[0])
    assert (start["kind"], start["name"]) == ("start", "mine")
    for name in ("mine-0", "mine-1"):
        (group,) = [e for e in map(json.loads, events[name].splitlines()) if e["kind"] == "group"]
        assert group["run_key"] == start["run_key"]
    assert '"FINISHED"' in events["."]

    assert main(["status", str(folder)]) == 0
    assert "seed 1" in capsys.readouterr().out
    assert main(["status", str(folder), "--sync"]) == 2
    assert f"ipr status {folder}/mine-1 --sync" in capsys.readouterr().err
    assert main(["run", str(preset), "--seeds", "2", "--dir", str(folder / "mine-0")]) == 2
    assert "holds a single run" in capsys.readouterr().err
    # Seed 1 is of another config: told before seed 0 goes on.
    assert main([*asked[:2], "--seeds", "2", "--dir", str(folder), "algorithm.tau=0.2"]) == 2
    assert "mine-0 holds a run with another config (algorithm.tau: 0.1 -> 0.2)" in capsys.readouterr().err
    # Three seeds would play one; what it costs is told before.
    assert main(["run", str(preset), "--seeds", "3", "--dry-run"]) == 0
    assert "3, each of which costs that" in capsys.readouterr().out


def test_the_plot_is_named_at_the_end_of_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("IPR_ROOT", str(tmp_path))
    run = lay(tmp_path / "one", problems=1, iterations=1, overrides=["track.enabled=false", "data.publish=false"])
    assert main(["run", str(run.folder / "config.yaml"), "--dir", str(run.folder)]) == 0
    assert f"plot: {run.folder}/plots/learning.png" in capsys.readouterr().out
