"""The whole job of other environments and methods, tiny."""

from __future__ import annotations

from pathlib import Path

import pytest

from ipr import store
from ipr.types import Demonstration, Trajectory
from tests.conftest import Lay
from tests.flows.tiny import command, counts_hold, played

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, with_data: Lay) -> Path:
    folder = tmp_path_factory.mktemp("project")
    (folder / "runs").mkdir()
    return with_data(folder)


@pytest.mark.parametrize("env", ["sql", "webshop"])
def test_the_loop_of_another_environment(root: Path, env: str) -> None:
    tiny = ["env.tasks=2", "env.max_steps=6", "eval.games=2", "eval.dev_games=2", "eval.bootstrap=200"]
    tiny += ["algorithm.iterations=1", "sft.epochs=1", "train.epochs=1"]
    summary = played(root, command(root, env, env, *tiny))
    assert [s["name"] for s in summary["stages"]] == ["base", "sft", "iteration-1"]
    assert (root / "data" / env / env / "iteration-1" / "pairs.parquet").is_file()


def test_the_loop_of_practice_on_new_problems(root: Path) -> None:
    practice = ["algorithm.explore_tasks=5", "algorithm.explore_temperature=0.7", "algorithm.draws=2"]
    practice += ["algorithm.iterations=1", "train.temperature=2"]
    asked = command(root, "practice", "smoke", "algorithm.name=best", *practice)
    summary = played(root, [part for part in asked if part != "algorithm.tau=0"])  # best has no step rewards
    stage = root / "runs" / "practice" / "iteration-1"
    known = {t.task_id for t in store.load(root / "runs" / "practice" / "experts.parquet", Trajectory)}
    explored = store.load(stage / "explored.parquet", Trajectory)
    assert len({t.task_id for t in explored} - known) == 5
    assert 5 <= len(explored) <= 10
    counts_hold(root / "runs" / "practice", 1)
    rows = store.load(stage / "demonstrations.parquet", Demonstration)
    solved = {t.task_id for t in explored if t.reward >= 1}
    assert {row.task_id for row in rows} == known | solved
    (trained,) = [s for s in summary["stages"] if s["name"] == "iteration-1"]
    assert trained["pairs"]["demonstrations"] == len(rows) == trained["train"]["examples"]
