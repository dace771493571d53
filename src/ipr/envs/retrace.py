"""Recorded steps taken again: the one place where a record is compared with what an environment answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ipr.types import Environment, Outcome, Step


def _equal(recorded: str, outcome: Outcome) -> bool:
    return recorded == outcome.observation


def retrace(
    env: Environment, steps: Sequence[Step], same: Callable[[str, Outcome], bool] = _equal
) -> tuple[list[Outcome], tuple[str, str] | None]:
    """What the environment answers to recorded steps, and the first observation that differs: (recorded, got).

    It stops there, and where the episode is over, so that fewer outcomes than steps mean that the record goes on.
    `same` says whether a recorded observation is that of an outcome.
    """
    outcomes: list[Outcome] = []
    for step in steps:
        outcomes.append(env.step(step.action))
        if not same(step.observation, outcomes[-1]):
            return outcomes, (step.observation, outcomes[-1].observation)
        if outcomes[-1].terminated:
            break
    return outcomes, None
