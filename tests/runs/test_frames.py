"""A run as pandas frames: what they hold, and that the recipes of the documentation run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import ipr
from ipr import store
from ipr.config import load
from ipr.runs import frames
from ipr.runs.run import Run
from ipr.types import IprError, StepReward
from tests.runs.laid import lay

CONCEPTS = (Path(__file__).parents[2] / "docs" / "concepts.md").read_text()
FRAMES = {
    "stages": frames.STAGES,
    "evaluations": frames.EVALUATIONS,
    "trajectories": frames.TRAJECTORIES,
    "step_rewards": frames.STEP_REWARDS,
    "pairs": frames.PAIRS,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs, in runs/."""
    root = tmp_path_factory.mktemp("project")
    lay(root / "runs" / "quick")
    lay(root / "runs" / "other", seed=1)
    return root


def test_what_the_frames_hold(folder: Path) -> None:
    run = ipr.open(folder / "runs" / "quick")
    assert "stages, evaluations, trajectories, step_rewards, pairs" in repr(run)
    assert list(run.stages.stage) == ["base", "sft", "iteration-1", "iteration-2"]
    assert run.stages.reported.sum() == 1
    assert run.stages.step_pairs.isna().tolist() == [True, True, False, False]
    assert len(run.evaluations) == 4 * 4
    assert ((run.evaluations.reward_low <= run.evaluations.reward) & (run.evaluations.reward_high <= 1)).all()
    played = run.trajectories
    assert played.kind.value_counts().to_dict() == {"evaluated": 96, "explored": 60, "expert": 6}
    assert [len(a) for a in played.actions] == played.steps.tolist()
    assert played.query("kind == 'explored'").start.max() == 4
    one = store.load(folder / "runs/quick/iteration-2/step_rewards.parquet", StepReward)
    mine = run.step_rewards.query("stage == 'iteration-2'")
    assert sorted(mine["mean"]) == sorted(r.mean for r in one)
    assert set(mine.who) == {"expert", "agent"}
    assert (mine.step >= 1).all()
    assert len(run.pairs) == sum(run.stages[["outcome_pairs", "step_pairs"]].sum())
    assert run.pairs.query("level == 'outcome'").step.tolist() == [1] * (run.pairs.level == "outcome").sum()


@pytest.mark.parametrize("name", FRAMES)
def test_columns_are_those_of_the_documentation_with_or_without_rows(name: str, folder: Path, tmp_path: Path) -> None:
    empty = Run.open(tmp_path / "empty", load())
    for run in (folder / "runs" / "quick", empty.folder):
        frame = getattr(ipr.open(run), name)
        assert {column: str(kind) for column, kind in frame.dtypes.items()} == FRAMES[name]
    (told,) = re.findall(rf"^- `{name}`, a row [^:]*: `([^`]+)`$", CONCEPTS, re.M)
    assert told.split() == list(FRAMES[name])


def test_the_recipes_run(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    recipes = re.findall(r"```python\n(.*?)```", CONCEPTS.partition("## A run in Python")[2], re.S)
    assert len(recipes) == 4
    monkeypatch.chdir(folder)
    names: dict = {}
    told = []
    for recipe in recipes:
        exec(recipe, names)
        told.append(capsys.readouterr().out)
    worst, by_position, pairs, gain = told
    assert "pick" in worst
    assert "iteration-2" in by_position
    assert "rejected_action" in pairs
    assert re.match(r"[+-]\d\.\d+ on 8 games, standard error \d", gain)


def test_another_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IprError, match="is no run folder"):
        ipr.open(tmp_path)


def test_importing_ipr_imports_nothing() -> None:
    code = "import sys, ipr; print({'torch', 'pandas', 'pyarrow', 'mlflow'} & set(sys.modules), callable(ipr.open))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set() True"
