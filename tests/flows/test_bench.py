"""`ipr bench` from the plan to the tables, on the smallest runs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import fmean

import pandas
import psutil
import pytest

from flows import bench as flow
from ipr import config
from ipr.runs import bench
from ipr.runs.run import Run
from ipr.runs.seeds import member
from ipr.types import IprError
from tests.conftest import Lay
from tests.living import alive

ROOT = Path(__file__).parents[2]
PRESETS = ROOT / "flows" / "configs"


@pytest.mark.parametrize("env", ["alfworld", "sql", "webshop"])
def test_a_plan_gives_all_methods_one_sft_agent(env: str) -> None:
    plan = bench.plan(env, PRESETS, [], ["train.beta=0.3"])
    assert list(plan.methods) == ["best", "sft+", "rft", "eto", "ipr"]
    assert {m.algorithm.name for m in plan.methods.values()} == {"sft", "rft", "eto", "ipr", "best"}
    assert plan.methods["ipr"].train.beta == 0.3, "an override is for the methods that have a use for it"
    assert plan.methods["best"].train.beta == config.PreferenceConfig().beta
    one = bench.plan(env, PRESETS, [], ["algorithm.explore_tasks=9", "best:algorithm.explore_tasks=7"])
    assert [one.methods[name].algorithm.explore_tasks for name in ("best", "rft", "ipr")] == [7, 9, 9]
    more = bench.plan(env, PRESETS, ["ipr", "sft+"], [])
    assert list(more.methods) == ["ipr", "sft+"]


def test_a_plan_of_ones_own_is_read_as_a_preset_is(tmp_path: Path) -> None:
    shutil.copytree(PRESETS, tmp_path, dirs_exist_ok=True)
    keys = "keys: {train.mixed_precision: 'no', train.updates: null}"
    own = f"preset: quick\n{keys}\nmethods: {{best: {{algorithm.name: best}}}}"
    (tmp_path / "bench" / "own.yaml").write_text(own)
    (best,) = bench.plan("own", tmp_path, [], []).methods.values()
    assert (best.train.mixed_precision, best.train.updates) == ("no", None)
    for key in ("preset", "keys", "methods"):
        (tmp_path / "bench" / "own.yaml").write_text(own.replace(f"{key}:", f"not-{key}:"))
        with pytest.raises(IprError, match=rf"own\.yaml: '{key}' is missing"):
            bench.plan("own", tmp_path, [], [])


def test_bad_plans_are_told_in_one_line() -> None:
    with pytest.raises(IprError, match="no bench for 'alfwrld'; did you mean 'alfworld'"):
        bench.plan("alfwrld", PRESETS, [], [])
    with pytest.raises(IprError, match="no method 'rlo'; did you mean 'rloo'"):
        bench.plan("alfworld", PRESETS, ["rlo"], [])
    with pytest.raises(IprError, match=r"bst:train\.epochs=2: method 'bst' is not played; did you mean 'best'"):
        bench.plan("alfworld", PRESETS, [], ["bst:train.epochs=2"])
    with pytest.raises(IprError, match="differ in 'sft'"):
        bench.plan("alfworld", PRESETS, [], ["rft:sft.epochs=2"])
    with pytest.raises(IprError, match="differ in 'rollout'"):
        bench.plan("alfworld", PRESETS, [], ["ipr:rollout.max_new_tokens=160"])
    with pytest.raises(IprError, match=r"train\.beta=0\.3: none of best, sft\+ has a use for it; leave it out"):
        bench.plan("alfworld", PRESETS, ["best", "sft+"], ["train.epochs=2", "train.beta=0.3"])
    with pytest.raises(IprError, match=r"unknown key 'train\.bta'; did you mean 'train\.beta'"):
        bench.plan("alfworld", PRESETS, ["rft"], ["train.bta=0.3"])
    with pytest.raises(IprError, match=r"differ in 'algorithm\.success'"):
        bench.plan("webshop", PRESETS, [], ["best:algorithm.success=0.9"])
    assert bench.plan("webshop", PRESETS, [], ["algorithm.success=0.9"]).methods["rft"].algorithm.success == 0.9
    fewer = "ipr:algorithm.samples=3"
    assert bench.plan("alfworld", PRESETS, [], [fewer]).methods["ipr"].algorithm.samples == 3
    with pytest.raises(IprError, match=r"differ in 'algorithm\.samples'"):
        bench.plan("alfworld", PRESETS, [], [fewer, "eval.step_reward_games=2"])
    judged = bench.plan("alfworld", PRESETS, [], ["algorithm.samples=3", "eval.step_reward_games=2"]).methods
    assert {method.algorithm.samples for method in judged.values()} == {3}


def test_best_is_compared_with_every_method() -> None:
    assert set(bench.against(["sft+", "rft", "best"])) == {
        *(("sft", method) for method in ("sft+", "rft", "best")),
        *(("sft+", method) for method in ("rft", "best")),
        ("rft", "best"),
    }
    assert bench.against(["rft", "eto"]) == [("sft", "rft"), ("sft", "eto")]


def test_runs_of_another_plan_are_told_before_any_is_played(tmp_path: Path) -> None:
    methods = bench.plan("alfworld", PRESETS, ["sft+", "rft"], ["rft:algorithm.draws=3"]).methods
    Run.open(member(tmp_path / "rft", 7), methods["rft"].model_copy(update={"seed": 7}), "quick")
    plan = bench.plan("alfworld", PRESETS, ["sft+", "rft"], [])
    with pytest.raises(IprError, match=r"rft-7 holds a run with another config \(algorithm\.draws: 3 -> 1\)"):
        flow.play(tmp_path, plan, seeds=1, samples=2)
    assert [path.name for path in tmp_path.iterdir()] == ["rft"]


@pytest.mark.integration
def test_methods_share_the_sft_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_data: Lay) -> None:
    """Played side by side, and again from what is there."""
    monkeypatch.setenv("IPR_ROOT", str(with_data(tmp_path)))
    monkeypatch.delenv("IPR_CHECK_KERNELS")
    small = [
        *("env.tasks=4", "env.max_steps=6", "sft.epochs=1", "train.updates=1", "algorithm.iterations=1"),
        *("eval.games=3", "eval.dev_games=3", "rollout.max_new_tokens=24", "rollout.workers=1", "track.enabled=false"),
        *("algorithm.explore_tasks=3", "algorithm.draws=2"),
    ]

    def played(methods: str, jobs: int) -> dict:
        command = [sys.executable, "-m", "flows.cli", "bench", "alfworld", "--methods", methods, "--seeds", "1"]
        command += ["--samples", "2", "--json", "--dir", str(tmp_path / "b"), "--jobs", str(jobs), *small]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout.splitlines()[-1])

    found = played("sft+,best", 2)
    assert [row["name"] for row in found["rows"]] == ["sft", "sft+", "best"]
    assert found["seeds"] == [0]
    assert found["rows"][1]["stages"] == {"0": "iteration-1"}, "the control's last stage, whatever dev says"
    assert {(c["a"], c["b"], c["what"]) for c in found["comparisons"]} == {
        (a, b, what) for a, b in (("sft", "sft+"), ("sft", "best"), ("sft+", "best")) for what in ("greedy", "T = 1")
    }
    weights = [tmp_path / "b" / m / f"{m}-0" / "sft" / "model" / "model.safetensors" for m in ("sft+", "best")]
    assert weights[0].samefile(weights[1])
    first = tmp_path / "b" / "best" / "best-0" / "manifest.json"
    assert json.loads(first.read_text())["sft_of"] == "sft+-0"
    games = pandas.read_parquet(tmp_path / "b" / "games.parquet")
    for row in found["rows"]:
        mine = games[games["method"] == row["name"]]
        assert len(mine) == found["games"]
        assert fmean(mine["greedy"]) == pytest.approx(row["greedy"]["reward"])
        assert fmean(mine["sampled"]) == pytest.approx(row["sampled"]["reward"])
    assert [(row["method"], row["stage"]) for row in found["iterations"]] == [
        ("sft+", "iteration-1"),
        ("best", "iteration-1"),
    ]
    assert found["iterations"][0]["test"] == found["rows"][1]["greedy"]
    assert [row["compared"] for row in found["iterations"]] == [
        1,
        int(found["rows"][2]["stages"]["0"] == "iteration-1"),
    ]
    text = (tmp_path / "b" / "bench.md").read_text()
    assert "| sft+ | iteration-1 |" in text
    assert "| sft+ | iteration-1 x1 |" in text
    base = json.loads((weights[0].parents[2] / "base" / "evaluate.json").read_text())["test"]["reward"]
    assert f"; the base model, greedy: {100 * base:.1f}\n" in text
    assert "| best |" in text
    assert "best against sft+, greedy" in text
    page = (tmp_path / "b" / "bench.html").read_text()
    assert "<svg" in page
    assert "http" not in page.split("<svg")[0]
    record = weights[0].parents[1] / "train.json"
    before = record.stat().st_mtime_ns
    assert played("sft+,best", 1) == found
    assert record.stat().st_mtime_ns == before


@pytest.mark.integration
@pytest.mark.skipif(sys.platform != "linux", reason="a process is told of its parent's end on Linux only")
def test_runs_side_by_side_end_with_the_bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else what it had begun would hold its runs' locks against the same command."""
    monkeypatch.setenv("IPR_ROOT", str(tmp_path))
    with subprocess.Popen(side_by_side(tmp_path / "b"), cwd=ROOT, stderr=subprocess.PIPE) as bench:
        assert bench.stderr is not None
        try:
            told = {bench.stderr.readline().decode() for _ in range(2)}
            children = psutil.Process(bench.pid).children()
        finally:
            bench.kill()
    assert told == {f"seed {s}, best: {tmp_path / 'b' / 'best' / f'best-{s}.log'}\n" for s in (0, 1)}
    assert len(children) >= 2
    ended(children)


def test_a_run_that_has_only_been_started_ends_with_the_bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IPR_ROOT", str(tmp_path))
    with subprocess.Popen([*side_by_side(tmp_path / "b"), "--seeds", "1"], cwd=ROOT) as bench:
        try:
            children: list[psutil.Process] = []
            while not any("spawn_main" in " ".join(child.cmdline()) for child in children):
                children = psutil.Process(bench.pid).children()
        finally:
            bench.kill()
    ended(children, 300)  # it imports what it needs first
    assert not [*tmp_path.glob("b/best/best-*/manifest.json")]


def side_by_side(folder: Path) -> list[str]:
    bench = [sys.executable, "-m", "flows.cli", "bench", "alfworld", "--jobs", "2", "--dir", str(folder)]
    return [*bench, "env.tasks=4", "track.enabled=false"]


def ended(children: list[psutil.Process], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while any(alive(child) for child in children):
        assert time.monotonic() < deadline
        time.sleep(0.1)
