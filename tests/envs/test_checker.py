"""The checker against environments with one fault each, made from the example of docs/environments.md."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import ipr_guess
import pytest

from ipr.envs import checker
from ipr.types import EnvSpec, Message

SPEC: EnvSpec = ipr_guess.spec()


class Faulty(ipr_guess.Guess):
    """The example with one fault."""

    fault: ClassVar[str]

    def reset(self, task_id: str) -> Any:
        if self.fault == "takes any game" and "/" not in task_id:
            task_id = "dev/0"
        if self.fault == "falls over an unknown game":
            task_id = f"dev/{task_id.index('/')}"
        return super().reset(task_id)

    def step(self, action: str) -> Any:
        match self.fault:
            case "falls over NUL" if "\x00" in action:
                raise ValueError("embedded null byte")
            case "falls over huge" if len(action) > 1000:
                raise RecursionError("too long")
            case "falls over empty" if not action.strip():
                raise IndexError("list index out of range")
        outcome = super().step(action)
        match self.fault:
            case "draws":
                return replace(outcome, observation=f"{outcome.observation} {random.random()}")
            case "rich":
                return replace(outcome, reward=100.0)
            case "poor":
                return replace(outcome, reward=-0.5)
            case "no number":
                return replace(outcome, reward=float("nan"))
            case "bytes":
                return replace(outcome, observation=outcome.observation.encode())
        return outcome

    def restore(self, state: Any) -> None:
        super().restore(state | {"low": 1, "high": 15} if self.fault == "forgets" else state)


class Shared(ipr_guess.Guess):
    """All instances have one state."""

    state: ClassVar[dict[str, Any]] = {}

    def __init__(self) -> None:
        self.__dict__ = Shared.state


@pytest.mark.parametrize(
    ("fault", "found"),
    [
        ("takes any game", "an unknown task id is not refused"),
        ("falls over an unknown game", "an unknown task id raises ValueError"),
        ("falls over NUL", r"malformed 'Action: \\x00' raised ValueError\('embedded null byte'\); answer it"),
        ("falls over huge", "malformed 'Action: go to go to go to go t' raised RecursionError"),
        ("falls over empty", "malformed '' raised IndexError"),
        ("draws", "observed '.*', recorded"),
        ("rich", r"a reward of 100.0, not from 0 \(the spec's `lowest`\) to 1"),
        ("poor", r"a reward of -0.5, not from 0 \(the spec's `lowest`\) to 1"),
        ("no number", "a reward of nan"),
        ("bytes", "an observation is no text"),
        ("forgets", "the episode continues in another way"),
    ],
)
def test_a_fault_of_the_world(fault: str, found: str) -> None:
    assert_found(replace(SPEC, make=type(fault, (Faulty,), {"fault": fault})), found)


def other(change: Callable[[Any], Any]) -> Callable[[str], Any]:
    return lambda task_id: change(SPEC.expert(task_id))


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"make": Shared}, "another instance that is played meanwhile changes"),
        ({"make": lambda: 1 / 0}, "EnvSpec cannot be used: ZeroDivisionError"),
        ({"prompt": "Play."}, "EnvSpec cannot be used: AttributeError"),
        ({"version": ""}, "version is empty"),
        ({"max_steps": 0}, "max_steps is 0; give 1 or more"),
        ({"prompt": (Message("user", "Play."),)}, "roles user; they are user and assistant in turn"),
        ({"prompt": (Message("system", "Play."),)}, "roles system"),
        ({"expert": other(lambda e: replace(e, reward=0.5))}, "the expert's reward is 1.0, recorded 0.5"),
        ({"expert": other(lambda e: replace(e, task_id="dev/1"))}, "is of the game 'dev/1'"),
        ({"expert": other(lambda e: replace(e, seed=random.getrandbits(60)))}, "in another way when asked again"),
        ({"expert": other(lambda e: replace(e, ending="truncated"))}, "ending is recorded as truncated"),
        ({"task_type": lambda task_id: 3}, "task_type gives 3, no text"),
        ({"oracle": lambda env: float("nan")}, "the oracle's value is nan"),
        (
            {"oracle": lambda env: env.step("Action: 1").reward + env.step("Action: 15").reward},
            "the same actions give another episode",
        ),
        ({"task_ids": lambda split: []}, "split 'train' has no games"),
        ({"task_ids": lambda split: ["dev/0"]}, "splits 'train' and 'dev' share 1 games, e.g. dev/0"),
        ({"task_ids": lambda split: [f"{split}/0"] * 2}, "split 'train' has a game twice"),
        ({"task_ids": lambda split: [f"{split}/{random.random()}"]}, "has other games when asked again"),
        ({"task_ids": lambda split: [f"{split}/0"]}, "an unknown split is not refused"),
        ({"task_ids": {"dev": ["dev/0"]}.__getitem__}, "an unknown split raises KeyError"),
    ],
)
def test_a_fault_of_the_specification(changes: dict[str, Any], found: str) -> None:
    assert_found(replace(SPEC, **changes), found)


def assert_found(spec: EnvSpec, found: str) -> None:
    report = checker.check(spec, games=12)
    assert not report["ok"]
    assert any(re.search(found, problem) for problem in report["problems"]), report["problems"]


def test_a_slow_answer_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checker, "SLOW", -1.0)
    assert_found(SPEC, r"the answer to 'Action: .*' \(120008 characters\) takes")


def test_the_same_fault_in_many_games_is_one_line() -> None:
    report = checker.check(replace(SPEC, expert=other(lambda e: replace(e, reward=0.5))), games=12)
    assert report["problems"] == ["dev/0: the expert's reward is 1.0, recorded 0.5 (and in 11 more games)"]


def test_the_example_is_sound() -> None:
    report = checker.check(SPEC)
    assert report["ok"], report["problems"]
    assert (report["games"], report["expert_wins"]) == (12, 12)
    assert report["steps_per_s"] > 6_000
