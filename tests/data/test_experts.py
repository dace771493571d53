"""A run with given experts: its environment, what is refused before the long work, and the run's own record."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from ipr import config as configs
from ipr import envs, store
from ipr.apps import start
from ipr.config import EnvConfig
from ipr.data import experts
from ipr.runs.run import Run
from ipr.types import IprError, PreferencePair, Step, Trajectory
from tasks.experts import experts as experts_task

SPEC = envs.get("alfworld")
PRESETS = Path(__file__).parents[2] / "flows" / "configs"


def given(split: str = "train", count: int = 4, first: int = 6) -> list[Trajectory]:
    return [replace(SPEC.expert(i), policy="person") for i in SPEC.task_ids(split)[first : first + count]]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return store.save(tmp_path / "given.parquet", given())


def test_the_train_split_is_the_tasks_that_have_an_expert(file: Path) -> None:
    spec = experts.environment(EnvConfig(experts=str(file)))
    assert spec.task_ids("train") == [t.task_id for t in given()]
    assert [spec.expert(i) for i in spec.task_ids("train")] == given()
    assert spec.task_ids("dev") == SPEC.task_ids("dev")
    assert spec.expert(SPEC.task_ids("dev")[0]) == SPEC.expert(SPEC.task_ids("dev")[0])


def test_the_best_of_several_counts_the_first_of_equals(tmp_path: Path) -> None:
    (t,) = given(count=1)
    rows = [replace(t, reward=0.0), replace(t, seed=1), replace(t, seed=2)]
    spec = experts.environment(EnvConfig(experts=str(store.save(tmp_path / "many.parquet", rows))))
    assert spec.expert(t.task_id).seed == 1


def test_what_a_run_is_measured_on_is_no_expert(tmp_path: Path) -> None:
    file = store.save(tmp_path / "test.parquet", given("unseen"))
    with pytest.raises(IprError, match=r"test\.parquet: none of its trajectories is of a train task"):
        experts.environment(EnvConfig(experts=str(file)))


@pytest.mark.parametrize("broken", ["missing", "no Parquet", "pairs", "another game"])
def test_a_broken_file_is_refused_before_the_work_begins(broken: str, file: Path) -> None:
    match broken:
        case "missing":
            file.unlink()
        case "no Parquet":
            file.write_text("x")
        case "pairs":
            shutil.copyfile(store.save(file.with_name("pairs.parquet"), [], PreferencePair), file)
        case "another game":
            store.save(file, [replace(given()[0], task_id=given()[1].task_id)])
    config = configs.load("smoke", [f"env.experts={file}"], PRESETS)
    with pytest.raises(IprError, match=str(file)) as raised:
        start.check(config)
    assert "\n" not in str(raised.value)


def test_the_plan_is_of_the_given_experts(file: Path) -> None:
    plan = start.dry_run(configs.load("smoke", [f"env.experts={file}"], PRESETS))
    assert plan["experts"] == 4
    assert plan["expert_steps"] == pytest.approx(sum(len(t.steps) for t in given()) / 4, abs=0.05)


def test_a_run_holds_the_given_experts_and_what_they_were(file: Path, tmp_path: Path) -> None:
    config = configs.load("smoke", [f"env.experts={file}", "env.tasks=3"], PRESETS)
    run = Run.open(tmp_path / "run", config)
    published = store.save(tmp_path / "published.parquet", [SPEC.expert(t.task_id) for t in given()])
    run.identify()
    experts_task.fn(str(run.folder), str(published))
    assert store.load(run.folder / "experts.parquet", Trajectory) == given(count=3)
    begun = run.manifest["identity"]["experts"][:12]
    store.save(file, given(count=2))
    with pytest.raises(IprError, match=rf"has changed since it began \(experts: {begun} -> "):
        run.identify()


def test_every_given_expert_is_played_before_it_is_taken(file: Path, tmp_path: Path) -> None:
    rows = given(count=2)
    store.save(file, [rows[0], replace(rows[1], reward=0.5)])
    run = Run.open(tmp_path / "run", configs.load("smoke", [f"env.experts={file}"], PRESETS))
    with pytest.raises(IprError, match=rf"{rows[1].task_id}: reward"):
        experts_task.fn(str(run.folder), None)


def test_experts_that_earned_nothing_are_left_out(file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Given, published or the environment's own."""
    env, failed = SPEC.make(), []
    for t in given(count=3):
        env.reset(t.task_id)
        outcomes = [env.step("Thought: t\nAction: look") for _ in range(SPEC.max_steps)]
        steps = tuple(Step("Thought: t\nAction: look", o.observation) for o in outcomes)
        failed.append(replace(t, steps=steps, reward=0.0, ending="truncated", invalid=0))
    wins = [*given()[2:4]]
    store.save(file, [*failed[:2], *wins])
    run = Run.open(tmp_path / "run", configs.load("smoke", [f"env.experts={file}"], PRESETS))
    experts_task.fn(str(run.folder), None)
    assert store.load(run.folder / "experts.parquet", Trajectory) == wins
    assert "2 of 4 experts earned nothing and are left out" in caplog.text

    first = SPEC.task_ids("train")[:2]
    own = [SPEC.expert(first[0]), replace(failed[0], task_id=first[1])]
    published = store.save(tmp_path / "published.parquet", own)
    keys = ["env.tasks=2", "env.max_steps=1"]  # too few for the look whether they replay
    run = Run.open(tmp_path / "other", configs.load("smoke", keys, PRESETS))
    experts_task.fn(str(run.folder), str(published))
    assert store.load(run.folder / "experts.parquet", Trajectory) == own[:1]

    store.save(file, failed)
    run = Run.open(tmp_path / "none", configs.load("smoke", [f"env.experts={file}"], PRESETS))
    with pytest.raises(IprError, match=f"{file}: none of 3 experts earned more than 0"):
        experts_task.fn(str(run.folder), None)


def test_an_expert_may_be_longer_than_an_episode(file: Path) -> None:
    longest = max(len(t.steps) for t in given())
    config = EnvConfig(experts=str(file), max_steps=longest - 1)
    experts.check(config)
    assert max(len(experts.environment(config).expert(t.task_id).steps) for t in given()) == longest
