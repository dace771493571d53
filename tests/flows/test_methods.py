"""Methods beside IPR as a run goes through them, stage by stage as the command does it, on the world of two doors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from flows.cli import main
from ipr import config as configs
from ipr import models, rollout, store
from ipr.apps.plan import plan
from ipr.runs import ITERATION
from ipr.runs.report import table
from ipr.runs.run import Run
from ipr.runs.summary import summarise
from ipr.training import trainer
from ipr.types import Demonstration, IprError, StepReward, Trajectory
from tests import doors
from tests.conftest import Install
from tests.training import tiny

COSTS = ("explore_episodes", "step_reward_rollouts")
TINY = [
    *("env.name=doors", "sft.epochs=0", "env.tasks=2", "eval.splits=[unseen]", "eval.games=2", "eval.dev_games=2"),
    *("model.max_length=128", "rollout.max_new_tokens=4", "data.publish=false", "track.enabled=false"),
    *("algorithm.iterations=2", "algorithm.draws=6", "algorithm.explore_tasks=3", "algorithm.explore_temperature=1"),
    *("train.learning_rate=3e-3", "train.batch_size=8", "train.epochs=2", "eval.bootstrap=100"),
]


@pytest.fixture(scope="module")
def beginner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("beginner")
    chat, model = doors.beginner(folder / "out")
    return models.save_model(model, chat.tokenizer, folder / "model")


@pytest.fixture
def begun(beginner: Path, install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Starts a run with these settings and makes its SFT agent."""
    install("plug-doors", {"doors": "plug_doors"}, plug_doors="from tests.doors import spec")
    monkeypatch.setenv("IPR_ROOT", str(tmp_path))

    def begin(*settings: str) -> Run:
        run = Run.open(tmp_path / "run", configs.load(None, [*TINY, f"model.path={beginner}", *settings]))
        assert main(["sft", "--dir", str(run.folder)]) == 0
        return run

    return begin


def iterate(run: Run, iteration: int) -> None:
    for task in ITERATION:
        assert main([task, "--dir", str(run.folder), "--iteration", str(iteration)]) == 0


def test_agents_are_judged_by_step_rewards_and_the_base_before_there_is_a_scorer_is_not(
    beginner: Path, install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("plug-doors", {"doors": "plug_doors"}, plug_doors="from tests.doors import spec")
    monkeypatch.setenv("IPR_ROOT", str(tmp_path))
    few = ["eval.step_reward_games=2", "algorithm.samples=2", "algorithm.name=best"]
    run = Run.open(tmp_path / "run", configs.load(None, [*TINY, f"model.path={beginner}", *few]))
    for command in (["experts"], ["eval", "--iteration", "-1"], ["sft"], ["eval"]):  # as the flow does
        assert main([*command, "--dir", str(run.folder)]) == 0
    base, sft = (store.read_json(run.stage(k) / "evaluate.json")["test"] for k in (-1, 0))
    assert base["step_reward"] is None
    assert 0 <= sft["step_reward"] <= 1
    assert len(store.load(run.stage(0) / "eval" / "step_rewards.parquet", StepReward)) > 0


def test_an_agent_is_the_mean_of_all_before_it(begun, monkeypatch: pytest.MonkeyPatch) -> None:
    run = begun("algorithm.name=best", "train.average=true")
    trained, run_updates = [], trainer.run_updates

    def watched(model: Any, *rest: Any) -> Any:
        result = run_updates(model, *rest)
        trained.append([p.detach().clone() for p in model.parameters()])
        return result

    monkeypatch.setattr(trainer, "run_updates", watched)
    for iteration in (1, 2):
        iterate(run, iteration)
    sft, first, second = (list(models.load_model(str(run.model(k)), run.config.model).parameters()) for k in range(3))
    for start, one, two, mean, last in zip(sft, *trained, first, second, strict=True):
        assert torch.allclose(mean, (start + one) / 2, atol=1e-6)
        assert torch.allclose(last, (start + one + two) / 3, atol=1e-6)
    assert any(not torch.allclose(a, b, atol=1e-4) for a, b in zip(sft, second, strict=True))


def test_a_training_whose_model_was_not_saved_goes_on_from_its_checkpoint(
    begun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run: Run = begun("train.checkpoint_every=1", "train.epochs=3")
    for task in ITERATION[: ITERATION.index("train")]:
        assert main([task, "--dir", str(run.folder), "--iteration", "1"]) == 0
    saved, made, left = models.save_model, [], run.stage(1) / "checkpoint"

    def full(model: Any, *rest: Any) -> None:
        made.append(model.state_dict())
        raise IprError("no space left")

    monkeypatch.setattr(models, "save_model", full)
    assert main(["train", "--dir", str(run.folder), "--iteration", "1"]) == 2
    assert trainer.checkpoint(left)
    monkeypatch.setattr(models, "save_model", saved)
    steps: list[None] = []
    with register_optimizer_step_pre_hook(lambda *_: steps.append(None)):
        assert main(["train", "--dir", str(run.folder), "--iteration", "1"]) == 0
    updates = store.read_json(run.stage(1) / "train.json")["updates"]
    assert len(steps) <= 2 < updates  # torch makes the optimizer's state by a step of its own
    again = models.load_model(str(run.model(1)), run.config.model).state_dict()
    assert all(torch.equal(again[name], value) for name, value in made[0].items())
    assert not left.exists()


def test_what_a_stage_lacks_memory_for_is_told_with_the_key_to_lower(
    begun, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run: Run = begun()

    def refused(where: Any, name: str, error: Exception, task: str) -> str:
        with monkeypatch.context() as patched:
            patched.setattr(where, name, mock.Mock(side_effect=error))
            assert main([task, "--dir", str(run.folder), "--iteration", "1"]) == 2
        return capsys.readouterr().err

    cuda = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB.")
    cpu = RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory")
    said = refused(rollout, "play", cuda, "explore")
    assert "out of memory (CUDA out of memory" in said
    assert "lower rollout.slots or rollout.workers" in said
    for task in ITERATION[: ITERATION.index("train")]:
        assert main([task, "--dir", str(run.folder), "--iteration", "1"]) == 0
    assert "lower train.micro_batch_tokens" in refused(trainer, "reference_logps", cpu, "train")
    assert "lower train.micro_batch_tokens" in refused(trainer, "train", cuda, "train")
    assert "below the longest example it changes nothing, then train adapters" in refused(
        trainer, "train", cuda, "train"
    )
    for told in ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling", "NCCL error\nCuda failure 2 'out of memory'"):
        assert "lower train.micro_batch_tokens" in refused(trainer, "train", RuntimeError(told), "train")
    said = refused(torch.nn.Module, "to", cuda, "train")
    assert "train adapters" in said
    assert "micro_batch_tokens" not in said
    with pytest.raises(RuntimeError, match="something else"):
        refused(trainer, "train", RuntimeError("something else"), "train")


def test_step_ppo_with_a_reward_model_and_best_of_n(
    begun, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = begun("algorithm.name=step-ppo", "algorithm.rewards=model", "algorithm.samples=4")
    iterate(run, 1)
    explored = store.load(run.stage(1) / "explored.parquet", Trajectory)
    assert [t.task_id for t in explored] == [i for i in dict.fromkeys(t.task_id for t in explored) for _ in range(6)]
    assert len({t.seed for t in explored}) == len(explored) == 18
    asked = plan(run.config, doors.spec(), tiny.make_chat())
    assert asked["explore_episodes_per_iteration_at_most"] == 18
    rows = store.load(run.stage(1) / "demonstrations.parquet", Demonstration)
    rewards = {r.prefix: r.mean for r in store.load(run.stage(1) / "step_rewards.parquet", StepReward)}
    episode = next(t for t in explored if t.prefix(1) in rewards and len(t.steps) == 2)
    values = [rewards[episode.prefix(t)] for t in range(3)]
    expected = (0.0, values[1] - values[0], 0.0, values[2] - values[1])
    assert expected in [row.weights for row in rows if row.task_id == episode.task_id] or not any(expected)
    record = run.record(1, "train")
    assert record is not None
    assert record["history"][0]["kl_to_start"] == pytest.approx(0, abs=1e-5)
    fitted = (run.record(1, "reward") or {})["reward_model"]
    assert fitted["fitted"] > 0

    iterate(run, 2)
    later = store.load(run.stage(2) / "step_rewards.parquet", StepReward)
    assert {r.source for r in later} <= {"model", "outcome"}
    assert "model" in {r.source for r in later}
    assert (run.record(2, "reward") or {})["rollouts"]["played"] == 0

    for stage in (0, 1, 2):
        assert main(["eval", "--dir", str(run.folder), "--iteration", str(stage)]) == 0
    capsys.readouterr()
    command = ["eval", "--dir", str(run.folder), "--iteration", "1", "--best-of", "4", "--json"]
    with monkeypatch.context() as patched:
        patched.setattr(store, "write_json", mock.Mock(side_effect=IprError("full")))
        assert main(command) == 2
    assert not (run.stage(1) / "best_of").exists(), "episodes that have no figures are not taken for done"
    capsys.readouterr()
    assert main(command) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    played = store.load(run.stage(1) / "best_of" / "4-at-1.parquet", Trajectory)
    by_game = [[t.reward for t in played if t.task_id == i] for i in dict.fromkeys(t.task_id for t in played)]
    assert [len(group) for group in by_game] == [4, 4]
    assert found["oracle"]["reward"] == sum(map(max, by_game)) / 2
    assert found["one"]["reward"] == pytest.approx(sum(map(sum, by_game)) / 8)
    assert found["one"]["reward"] <= found["oracle"]["reward"] >= found["model"]["reward"]
    assert (found["games"], found["episodes"]) == (2, 8)
    assert main(command) == 0  # again: in place of the one before
    summary = summarise(run, "stopped")
    assert [(row["stage"], row["n"]) for row in summary["best_of"]] == [("iteration-1", 4)]
    shown = table(summary)
    assert "the best by its outcome (an oracle picks: an upper bound)" in shown
    assert "8 episodes in place of 2" in shown
    assert "step reward model fitted to" in shown
    assert main(["eval", "--model", "embedded", "--best-of", "4"]) == 2
    assert "ipr eval --dir RUN --iteration K --best-of N" in capsys.readouterr().err
    for change, said in (
        (["--best-of", "1"], "--best-of 1 --temperature 1: give 2 or more"),
        (["--temperature", "0"], "--best-of 4 --temperature 0: give 2 or more, and a temperature above 0"),
        (["--iteration", "3"], "iteration-3/model"),
    ):
        assert main([*command, *change]) == 2
        assert said in capsys.readouterr().err


def test_ipr_takes_a_reward_model_and_its_quality_is_told(begun, capsys: pytest.CaptureFixture[str]) -> None:
    run = begun("algorithm.name=ipr", "algorithm.rewards=model", "env.tasks=8", "algorithm.explore_tasks=8")
    for iteration in (1, 2):
        iterate(run, iteration)
    assert {r.source for r in store.load(run.stage(2) / "step_rewards.parquet", StepReward)} <= {"model", "outcome"}
    capsys.readouterr()
    assert main(["reward", "--quality", str(run.folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {row["scorer"] for row in found["rows"]} == {"-", "sft", "model"}
    assert "is judged on what it was fitted to" in found["note"]


def test_the_control_takes_as_many_updates_as_it_is_told(begun) -> None:
    run = begun("algorithm.name=sft", "train.updates=5", "algorithm.iterations=1")
    iterate(run, 1)
    record = run.record(1, "train")
    assert record is not None
    assert (record["updates"], record["examples"]) == (5, 2)
    assert (run.record(1, "explore") or {})["episodes"] == 0


def test_what_the_step_rewards_of_turns_cost_is_planned() -> None:
    chat = tiny.make_chat()
    counted = {}
    for name in ("ipr", "rloo", "step-rloo"):
        config = configs.load(None, [*TINY, f"algorithm.name={name}", "algorithm.samples=5"])
        planned = plan(config, doors.spec(), chat)
        counted[name] = [planned[f"{what}_per_iteration_at_most"] for what in COSTS]
    # Two experts of two steps each, each gone on from six times; three new problems six times, each with three states.
    assert counted == {"ipr": [24, 24 * 2 * 5], "rloo": [18, 0], "step-rloo": [18, 18 * 3 * 5]}


def test_a_reward_model_wants_whole_samples_and_a_second_iteration() -> None:
    for setting in ("algorithm.curtail=true", "algorithm.confidence=0.9", "algorithm.iterations=1"):
        with pytest.raises(configs.IprError, match=r"algorithm\.rewards.*rewards=monte_carlo"):
            configs.load(None, ["algorithm.rewards=model", setting])
