"""Recorded steps taken again: the one place where a record is compared with what an environment answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ipr.types import Environment, Outcome, Step


def retrace(
    env: Environment, steps: Sequence[Step], read: Callable[[str], str] = str
) -> tuple[list[Outcome], tuple[str, str] | None]:
    """What the environment answers to recorded steps, and the first observation that differs: (recorded, got).

    It stops there, and where the episode is over, so that fewer outcomes than steps mean that the record goes on.
    Observations are compared as `read` gives them.
    """
    outcomes: list[Outcome] = []
    for step in steps:
        outcomes.append(env.step(step.action))
        recorded, got = read(step.observation), read(outcomes[-1].observation)
        if recorded != got:
            return outcomes, (recorded, got)
        if outcomes[-1].terminated:
            break
    return outcomes, None
