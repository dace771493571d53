"""Pairs of an expert and an agent trajectory, shared by the methods that train on preferences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import NormalDist
from typing import Literal

from ipr.algorithms import Examples
from ipr.types import PreferencePair, StepReward, Trajectory, trimmed


def outcome_pairs(
    experts: Sequence[Trajectory], explored: Sequence[Trajectory], margin: float, agent_wins: bool
) -> Examples:
    """D_t: from t = 1, whole trajectories, ordered by r_o."""
    found = Examples()
    for expert, agent in together(experts, explored):
        if agent.start > 0:
            continue
        if not has_action(agent):
            found.drop("outcome: context was full")
        elif (winner := winner_by_outcome(expert, agent, margin, agent_wins)) is None:
            found.drop("outcome: no margin")
        else:
            found.pairs.append(pair("outcome", expert, agent, 0, abs(expert.reward - agent.reward), winner))
    return found


def winner_by_outcome(
    expert: Trajectory, agent: Trajectory, margin: float, agent_wins: bool
) -> Literal["expert", "agent"] | None:
    """Who is ahead in outcome reward by more than the margin; the agent counts only where it may win."""
    if expert.reward - agent.reward > margin:
        return "expert"
    if agent_wins and agent.reward - expert.reward > margin:
        return "agent"
    return None


def difference(ahead: StepReward, behind: StepReward, confidence: float) -> float:
    """The difference of two step rewards: of their means, or, with `confidence`, its one-sided lower bound.

    The bound is that of Agresti and Caffo (2000) for outcomes of 0 and 1 (others vary less, so it is on the safe side):
    a success and a failure are added to the samples of each, and their difference is taken to be normal.
    """
    if not confidence:
        return ahead.mean - behind.mean
    (a, spread_a), (b, spread_b) = _rate(ahead), _rate(behind)
    return a - b - NormalDist().inv_cdf(confidence) * (spread_a + spread_b) ** 0.5


def above(gap: float, tau: float) -> bool:
    """gap > tau, where means of outcomes that are equal but for rounding (4/5 - 3/5 and 0.2) are equal."""
    return gap > tau + 1e-9


def _rate(reward: StepReward) -> tuple[float, float]:
    """Estimate and variance; where the action ended the episode its outcome is known."""
    if not reward.n:
        return reward.mean, 0.0
    rate = (sum(reward.samples) + 1) / (reward.n + 2)
    return rate, max(rate * (1 - rate), 0.0) / (reward.n + 2)


def pair(
    level: Literal["outcome", "step"],
    expert: Trajectory,
    agent: Trajectory,
    t: int,
    margin: float,
    winner: Literal["expert", "agent"],
) -> PreferencePair:
    """Prompt e_{t-1}; the winner's remainder is chosen, the other's rejected."""
    chosen, rejected = (expert, agent) if winner == "expert" else (agent, expert)
    return PreferencePair(
        task_id=expert.task_id,
        t=t,
        level=level,
        prompt=tuple(expert.history(t)),
        chosen=tuple(chosen.continuation(t)),
        rejected=tuple(rejected.continuation(t)),
        margin=margin,
        winner=winner,
    )


def has_action(agent: Trajectory) -> bool:
    """False where the context was full before the agent could act."""
    return len(agent.steps) > agent.start


def same_action(expert: Trajectory, agent: Trajectory) -> bool:
    """Whether the agent's first action of its own is the expert's; blanks at a turn's ends say nothing."""
    t = agent.start
    return trimmed(agent.steps[t].action) == trimmed(expert.steps[t].action)


def together(experts: Sequence[Trajectory], explored: Sequence[Trajectory]) -> Iterator[tuple[Trajectory, Trajectory]]:
    by_task = {expert.task_id: expert for expert in experts}
    for agent in explored:
        yield by_task[agent.task_id], agent
