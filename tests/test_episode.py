"""What an environment of one's own gets from `Episode`, on one with a list as its state."""

from __future__ import annotations

from typing import Any

import pytest

from ipr.envs import checker
from ipr.episode import Episode, Outcome, compose
from ipr.policies.scripted import ScriptedPolicy
from ipr.rollout import play
from ipr.types import IprError, Job, Prefix, Sampling


class Count(Episode):
    """Say the numbers from 1 to a goal. No oracle."""

    name, max_steps, prompt = "count", 5, "Count."
    splits = {"train": 2, "dev": 2, "seen": 2, "unseen": 2}  # noqa: RUF012

    def start(self, seed: int) -> str:
        self.goal, self.said = 2 + seed % 2, []
        return f"Count to {self.goal}."

    def act(self, action: str) -> Outcome | None:
        if action != str(len(self.said) + 1):
            return None
        self.said.append(action)
        done = len(self.said) == self.goal
        return Outcome(" ".join(self.said), float(done), done)

    def expert(self, conversation: Any) -> str:
        return compose("The next one.", str((len(conversation) - 1) // 2))


class Cheat(Count):
    def expert(self, conversation: Any) -> str:
        return compose("I know it.", str(self.goal))


class Alone(Count):
    expert = Episode.expert


def test_the_contract_holds() -> None:
    report = checker.check(Count.spec())
    assert report["problems"] == []
    assert report["expert_wins"] == 2
    assert checker.check(Count.spec(max_steps=3))["problems"] == []


def test_spec() -> None:
    spec = Count.spec(max_steps=4)
    assert (spec.name, spec.max_steps, spec.version, spec.oracle) == ("count", 4, "1", None)
    assert [(m.role, m.content) for m in spec.prompt] == [("user", "Count."), ("assistant", "OK")]
    assert spec.task_ids("dev") == ["dev/0", "dev/1"]
    for act, said in (
        (lambda: spec.task_ids("test"), "count: no split 'test'; there are train, dev, seen, unseen"),
        (lambda: spec.make().reset("dev/2"), "count: no problem 'dev/2'"),
        (lambda: Count.spec("folder"), "count: has no real data set, so env.data=folder cannot be"),  # type: ignore
        (lambda: Alone.spec().expert("dev/0"), "count: has no expert; give trajectories: env.experts=FILE"),
    ):
        with pytest.raises(IprError, match=said):
            act()


def test_turns_that_do_nothing_count_to_the_limit() -> None:
    spec, policy = Count.spec(max_steps=2), ScriptedPolicy({"Count to": ["1", "Action: 7", "Action: 1"]})
    env = spec.make()
    env.reset("dev/0")
    assert env.step("1") == env.step("Action: 7") == Outcome("Nothing happens.", valid=False)
    (played,) = play(spec, policy, [Job(Prefix("dev/0"))], Sampling())
    assert (played.ending, len(played.steps), played.invalid) == ("truncated", 2, 2)


class Leaky(Count):
    """Remembers in an attribute that `start` does not set."""

    def act(self, action: str) -> Outcome | None:
        self.tried = getattr(self, "tried", 0) + 1
        return Outcome(f"try {self.tried}")


def test_no_attribute_goes_from_one_episode_into_the_next() -> None:
    env = Leaky.spec().make()
    for _ in range(2):
        env.reset("dev/0")
        assert [env.step("Action: 1").observation for _ in range(2)] == ["try 1", "try 2"]


def test_a_snapshot_is_a_copy_of_all_attributes() -> None:
    spec = Count.spec()
    env, other = spec.make(), spec.make()
    env.reset("dev/0")
    env.step("Action: 1")
    state = env.snapshot()
    for one in (env, other, env):
        one.restore(state)
        assert one.step("Action: 2").observation == "1 2"


def test_an_expert_that_looks_behind_the_conversation_fails() -> None:
    with pytest.raises(AttributeError, match="goal"):
        Cheat.spec().expert("dev/0")
