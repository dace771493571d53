"""The environment: contract, limits, snapshots; the oracle against search; the checker against broken environments."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ipr import envs
from ipr.envs import checker
from ipr.envs.alfworld import games
from ipr.envs.alfworld.engine import Game
from ipr.envs.alfworld.oracle import steps_to_goal
from ipr.envs.alfworld.world import Household
from ipr.policies.scripted import ScriptedPolicy
from ipr.rollout import play
from ipr.types import EnvSpec, IprError, Job, Outcome, Prefix, Sampling


@pytest.fixture(scope="module")
def spec() -> EnvSpec:
    return envs.get("alfworld")


def test_registry() -> None:
    assert {"alfworld", "sql", "webshop"} <= set(envs.names())
    with pytest.raises(IprError, match="did you mean 'alfworld'"):
        envs.get("alfword")
    with pytest.raises(IprError, match="there are alfworld, "):
        envs.get("chess")
    with pytest.raises(IprError, match="max_steps"):
        envs.get("alfworld", max_steps=0)
    with pytest.raises(IprError, match="/no/such"):
        envs.get("alfworld", "/no/such")


def test_spec(spec: EnvSpec, real: Path) -> None:
    assert (spec.name, spec.max_steps, envs.get("alfworld", max_steps=7).max_steps) == ("alfworld", 20, 7)
    instruction, ok = spec.prompt
    assert (instruction.role, ok.role, ok.content) == ("user", "assistant", "OK")
    assert len(instruction.content.split()) <= 90
    assert "put O in/on R" in instruction.content
    assert spec.prompt == envs.get("alfworld", str(real)).prompt
    assert envs.get("alfworld", real).version != spec.version
    with pytest.raises(IprError, match="split 'test'"):
        spec.task_ids("test")


def test_the_contract_holds_for_generated_games(spec: EnvSpec) -> None:
    report = checker.check(spec, [i for s in ("train", "dev", "seen", "unseen") for i in spec.task_ids(s)[:12]])
    assert report["problems"] == []
    assert report["ok"]
    assert report["expert_wins"] == report["games"] == 48
    assert report["steps_per_s"] > 8_000


def test_the_contract_holds_for_real_games(real: Path) -> None:
    spec = envs.get("alfworld", real)
    report = checker.check(spec, spec.task_ids("unseen")[::4])
    assert report["problems"] == []


def test_step_limit() -> None:
    policy = ScriptedPolicy(lambda conversation, seed: "Thought: x\nAction: look")
    (played,) = play(envs.get("alfworld", max_steps=3), policy, [Job(Prefix("train/000000"))], Sampling())
    assert (played.ending, len(played.steps), played.invalid) == ("truncated", 3, 0)


def test_the_goal_ends_the_episode_with_reward(spec: EnvSpec) -> None:
    expert, env = spec.expert("train/000000"), spec.make()
    env.reset("train/000000")
    outcomes = [env.step(s.action) for s in expert.steps]
    assert [(o.reward, o.terminated) for o in outcomes[:-1]] == [(0.0, False)] * (len(outcomes) - 1)
    assert (outcomes[-1].reward, outcomes[-1].terminated) == (1.0, True)
    after = env.step("Thought: x\nAction: look")
    assert (after.reward, after.terminated, after.valid) == (1.0, True, False)


def test_an_action_without_the_mark_is_malformed(spec: EnvSpec) -> None:
    env = spec.make()
    env.reset("train/000000")
    assert env.step("inventory") == Outcome("Nothing happens.", 0.0, False, valid=False)
    assert env.step("Action: INVENTORY.").observation == "You are not carrying anything."


def test_reset_comes_first(spec: EnvSpec) -> None:
    with pytest.raises(IprError, match="reset"):
        spec.make().step("Action: look")


def test_snapshots_equal_replays_on_random_walks(spec: EnvSpec) -> None:
    rng = random.Random(5)
    env, other = Household(games), Household(games)
    for task_id in spec.task_ids("dev")[:12]:
        env.reset(task_id)
        walk, states, seen = [], [env.snapshot()], []
        for _ in range(40):
            walk.append(rng.choice([*env.admissible(), "open fridge 1", "nonsense"]))
            seen.append(env.command(walk[-1]))
            states.append(env.snapshot())
        for t in rng.sample(range(40), 5):
            other.reset(task_id)
            for command in walk[:t]:
                other.command(command)
            assert other.snapshot() == states[t]
            env.restore(states[t])
            assert env.admissible() == other.admissible()
            assert [env.command(c) for c in walk[t:]] == seen[t:]


# The oracle ----------------------------------------------------------------------------------------------------------


def searched(game: Game, state: int, most: int) -> float:
    """Fewest steps by breadth-first search over every admissible command."""
    layer, known = {state}, {state}
    for depth in range(most + 1):
        if any(game.won(s) for s in layer):
            return depth
        layer = {game.play(s, c)[0] for s in layer for c in game.admissible(s) if not c.startswith(("examine", "look"))}
        layer -= known
        known |= layer
    return float("inf")


def test_the_oracle_equals_search_near_the_goal(spec: EnvSpec) -> None:
    rng = random.Random(3)
    compared = 0
    for task_id in spec.task_ids("dev")[:36]:
        game = games.game(task_id)
        states, state = [game.start], game.start
        for step in spec.expert(task_id).steps:
            if rng.random() < 0.3:  # off the expert's way
                state, _ = game.play(state, rng.choice(game.admissible(state)))
            state, _ = game.play(state, step.action.rsplit("Action: ", 1)[1])
            states.append(state)
        for near in [s for s in states if steps_to_goal(game, s) <= 3][:3]:
            assert searched(game, near, 3) == steps_to_goal(game, near)
            compared += 1
        for far in [s for s in states if steps_to_goal(game, s) > 3][:1]:
            assert searched(game, far, 2) == float("inf")
    assert compared > 40


def test_following_the_oracle_reaches_the_goal_in_the_steps_it_says(spec: EnvSpec) -> None:
    """No step gains more than one, some step always gains one: so it is exact everywhere on the way."""
    rng = random.Random(4)
    for task_id in spec.task_ids("dev")[:24]:
        game = games.game(task_id)
        state = game.start
        for _ in range(rng.randint(0, 12)):
            state, _ = game.play(state, rng.choice(game.admissible(state)))
        left = steps_to_goal(game, state)
        while left:
            following = [game.play(state, c)[0] for c in game.admissible(state)]
            costs = [steps_to_goal(game, s) for s in following]
            assert min(costs) == left - 1, task_id
            state, left = following[costs.index(min(costs))], left - 1
        assert game.won(state)


def test_the_oracle_works_on_real_games(real: Path) -> None:
    spec = envs.get("alfworld", real)
    assert spec.oracle is not None
    env = spec.make()
    for task_id in spec.task_ids("seen")[::5]:
        expert = spec.expert(task_id)
        env.reset(task_id)
        before = spec.oracle(env)
        assert -before <= len(expert.steps)
        for step in expert.steps[: spec.max_steps]:
            env.step(step.action)
            assert spec.oracle(env) <= before + 1
            before = spec.oracle(env)


# The checker ---------------------------------------------------------------------------------------------------------


class Broken(Household):
    """A household with one fault."""

    fault: str
    calls = 0

    def reset(self, task_id: str) -> str:
        Broken.calls += 1
        first = super().reset(task_id)
        return first + str(Broken.calls) if self.fault == "moody" else first

    def step(self, action: str) -> Outcome:
        Broken.calls += 1
        if self.fault == "raises" and "Action:" not in action:
            raise ValueError(action)
        outcome = super().step(action)
        match self.fault:
            case "rich":
                return replace(outcome, reward=5.0)
            case "early":
                return replace(outcome, terminated=True)
            case "credulous":
                return replace(outcome, valid=True)
            case "random":
                return replace(outcome, observation=outcome.observation + str(Broken.calls))
        return outcome

    def restore(self, state: Any) -> None:
        begun = (state[0], self._games.game(state[0]).start, True)
        super().restore(begun if self.fault == "forgetful" and state[2] else state)


@pytest.mark.parametrize(
    ("fault", "found"),
    [
        ("moody", "first observation"),
        ("raises", "raised ValueError"),
        ("rich", "reward of 5.0"),
        ("early", "ends the episode"),
        ("credulous", "counts as valid"),
        ("random", "observed"),
        ("forgetful", "continues in another way"),
    ],
)
def test_the_checker_finds_a_broken_environment(spec: EnvSpec, fault: str, found: str) -> None:
    def make() -> Household:
        env = Broken(games)
        env.fault = fault
        return env

    report = checker.check(replace(spec, make=make), games=3)
    assert not report["ok"]
    assert any(found in problem for problem in report["problems"]), report["problems"]


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda e: replace(e, reward=0.0), "reward is 1.0, recorded 0.0"),
        (lambda e: replace(e, steps=e.steps[:-1]), "reward is 0.0"),
        (lambda e: replace(e, steps=(*e.steps, e.steps[0])), "ends after step"),
        (lambda e: replace(e, first_observation="x"), "first observation is another"),
        (lambda e: replace(e, steps=()), "is empty"),
        (lambda e: replace(e, steps=(replace(e.steps[0], observation="x"), *e.steps[1:])), "recorded 'x'"),
    ],
)
def test_the_checker_finds_a_wrong_expert(spec: EnvSpec, change: Callable[[Any], Any], found: str) -> None:
    report = checker.check(replace(spec, expert=lambda i: change(spec.expert(i))), games=2)
    assert any(found in problem for problem in report["problems"]), report["problems"]
