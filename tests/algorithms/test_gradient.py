"""Policy gradients: rows by hand, the control, and agents that find the optimum of a world where it is known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from ipr import algorithms, config, credit, rollout
from ipr.config import AlgorithmConfig, PreferenceConfig
from ipr.policies import local
from ipr.tokens import ChatTokens
from ipr.training.trainer import train
from ipr.types import (
    Demonstration,
    IprError,
    Job,
    Message,
    More,
    Prefix,
    Sampling,
    Step,
    StepReward,
    Trajectory,
    derive_seed,
)
from tests import doors
from tests.training import tiny

A, B, X, Y = (Step(f"do {c}", f"saw {c}") for c in "abxy")


def played(steps: Sequence[Step], reward: float, task: str = "t", seed: int = 0) -> Trajectory:
    return Trajectory(task, "room", tuple(steps), reward, "terminated", "agent", seed)


def method(name: str, draws: int = 3) -> Any:
    settings = {"name": name, "draws": draws, "explore_temperature": 0.7}
    return algorithms.make(AlgorithmConfig.model_validate(settings))


@pytest.mark.parametrize("name", ["rloo", "ppo"])
def test_an_episode_counts_by_the_others_of_its_problem(name: str) -> None:
    group = [played([A, B], 1.0), played([X], 0.0), played([Y, B], 0.5)]
    same = [played([A], 1.0, "same"), played([B], 1.0, "same")]
    full = played([], 0.0, "full")
    assert method(name).explore([played([A], 1.0)], ["n", "m"]) == [Prefix("n")] * 3 + [Prefix("m")] * 3
    assert method(name).explore([played([A], 1.0)], []) == [Prefix("t")] * 3
    found = method(name).examples([], [*group, *same, full], {})
    # 1 - (0 + 0.5) / 2, 0 - (1 + 0.5) / 2, and 0.5 - (1 + 0) / 2 = 0, which says nothing
    assert [d.weights for d in found.demonstrations] == [(0.0, 0.75, 0.0, 0.75), (0.0, -0.75)]
    assert found.demonstrations[0].messages[1] == Message("assistant", "do a")
    assert found.dropped == {"demonstration: group without a difference": 2, "demonstration: no advantage": 1}


@pytest.mark.parametrize("name", ["step-rloo", "step-ppo"])
def test_a_turn_counts_by_what_it_changes(name: str) -> None:
    win, loss = played([A, B], 1.0), played([A, X], 0.0)
    states = [Prefix("t"), Prefix("t", (A,)), Prefix("t", (A, B)), Prefix("t", (A, X))]
    wanted = method(name).score([], [win, loss, played([A], 1.0, "same"), played([A], 1.0, "same")])
    assert wanted.prefixes == states
    assert not wanted.contrasts
    rewards = {p: StepReward(p, v, 5, (), 5) for p, v in zip(states, (0.25, 0.5, 1.0, 0.0), strict=True)}
    found = method(name).examples([], [win, loss], rewards)
    assert [d.weights for d in found.demonstrations] == [(0.0, 0.25, 0.0, 0.5), (0.0, 0.25, 0.0, -0.5)]


@pytest.mark.parametrize("name", ["rloo", "step-rloo", "ppo", "step-ppo"])
def test_a_group_of_one_is_refused(name: str) -> None:
    with pytest.raises(IprError, match=r"algorithm\.draws to 2 or more and algorithm\.explore_temperature above 0"):
        algorithms.make(AlgorithmConfig(name=name, draws=1, explore_temperature=1.0))
    for knob in ("observation_weight", "temperature"):
        with pytest.raises(IprError, match=rf"'train\.{knob}' has no effect"):
            config.load(None, [f"algorithm.name={name}", f"train.{knob}=0.1"])
    if "ppo" not in name:
        with pytest.raises(IprError, match=r"'train\.clip' has no effect"):
            config.load(None, [f"algorithm.name={name}", "train.clip=0.1"])


def test_the_control_imitates_the_experts_for_as_many_updates_as_are_asked_for(tmp_path: Path) -> None:
    control = algorithms.make(AlgorithmConfig(name="sft"))
    assert control.explore([played([A], 1.0)], ["n"]) == []
    assert [d.weights for d in control.examples([played([A], 1.0)], [], {}).demonstrations] == [()]
    assert (control.training.start, control.training.loss) == ("agent", "sft")
    chat = tiny.make_chat()
    rows = tiny.make_demonstrations()  # 10, so 3 updates an epoch
    for asked in (2, 3, 7):
        settings = PreferenceConfig(batch_size=4, epochs=9, updates=asked)
        result = train(
            tiny.make_model(chat), chat, rows, lambda _: (), "sft", settings, max_length=512, seed=0, out=tmp_path
        )
        assert result.updates == len(result.history) == asked
    assert result.tokens == 2 * sum(len(chat.conversation(r.messages).ids) for r in rows) + _first_update(chat, rows)


def _first_update(chat: ChatTokens, rows: Sequence[Demonstration]) -> int:
    """Tokens of the first update of the third epoch."""
    from ipr.training.batches import demonstration_example, updates

    examples = [demonstration_example(chat, (), row) for row in rows]
    return sum(examples[i].tokens for i in updates(examples, 4, 3, 0)[6])


# The known optimum ----------------------------------------------------------------------------------------------------


def play(model: Any, chat: ChatTokens, jobs: list[Job], more: More | None = None) -> list[Trajectory]:
    policy = local.policy(model.eval(), chat.tokenizer, "agent", max_length=128, slots=64)
    return rollout.play(doors.spec(), policy, jobs, Sampling(1.0, 4), more=more)


@pytest.fixture(scope="module")
def beginner(tmp_path_factory: pytest.TempPathFactory) -> tuple[ChatTokens, dict[str, torch.Tensor]]:
    chat, model = doors.beginner(tmp_path_factory.mktemp("beginner"))
    return chat, model.state_dict()


@pytest.mark.parametrize("name", ["rloo", "ppo", "step-rloo", "step-ppo"])
def test_the_optimum_of_two_doors_is_found(name: str, beginner: Any, tmp_path: Path) -> None:
    chat, start = beginner
    model, scorer = tiny.make_model(chat), tiny.make_model(chat)
    model.load_state_dict(start)
    scorer.load_state_dict(start)
    plays = method(name, draws=16)
    several = {"epochs": 4, "learning_rate": 3e-3} if "ppo" in name else {"epochs": 1, "learning_rate": 7e-3}
    settings = PreferenceConfig.model_validate({"batch_size": 32, "schedule": "constant", "warmup": 0} | several)
    told, won = doors.spec().told, []
    for iteration in range(16):
        prefixes = plays.explore([], ["train/0", "train/1"])
        jobs = [Job(p, derive_seed(iteration, k)) for k, p in enumerate(prefixes)]
        explored = play(model, chat, jobs)
        won.append(sum(t.reward for t in explored) / len(explored))
        if won[-1] > 0.9:
            break
        wanted = plays.score([], explored).prefixes
        rewards, _ = credit.estimate(
            wanted,
            lambda jobs, more: play(scorer, chat, jobs, more),
            samples=8,
            seed=0,
            known=credit.known_outcomes(explored),
        )
        if rows := plays.examples([], explored, rewards).demonstrations:
            loss = plays.training.loss
            train(model, chat, rows, told, loss, settings, max_length=128, seed=iteration, out=tmp_path)
    assert won[0] < 0.5
    assert won[-1] > 0.9, won
