"""RFT (rejection sampling): the agent's own successes are added to the expert trajectories and imitated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from ipr.algorithms import Examples, Training, Wanted
from ipr.types import Demonstration, Prefix, StepReward, Trajectory


@dataclass(frozen=True)
class RFT:
    training: ClassVar[Training] = Training("sft", "base", "sft")
    scores: ClassVar[bool] = False
    shortens: ClassVar[bool] = False

    def explore(self, experts: Sequence[Trajectory], problems: Sequence[str]) -> list[Prefix]:
        """Every problem from its start."""
        return [expert.prefix(0) for expert in experts]

    def score(self, experts: Sequence[Trajectory], explored: Sequence[Trajectory]) -> Wanted:
        """No step rewards."""
        return Wanted()

    def examples(
        self,
        experts: Sequence[Trajectory],
        explored: Sequence[Trajectory],
        rewards: Mapping[Prefix, StepReward],
    ) -> Examples:
        """Experts, and the agent's trajectories that do as well as the expert on the same problem."""
        outcome = {expert.task_id: expert.reward for expert in experts}
        found = Examples(demonstrations=[demonstration(expert) for expert in experts])
        for agent in explored:
            if agent.steps and agent.reward >= outcome[agent.task_id]:
                found.demonstrations.append(demonstration(agent))
            else:
                found.drop("demonstration: below the expert")
        return found


def demonstration(trajectory: Trajectory) -> Demonstration:
    """The whole trajectory as a conversation to imitate."""
    turns = (*trajectory.history(0), *trajectory.continuation(0))
    return Demonstration(trajectory.task_id, turns, trajectory.policy)


method = RFT
