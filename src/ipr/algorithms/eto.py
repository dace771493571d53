"""ETO (Song et al. 2024, arXiv 2403.02502): whole trajectories only, ordered by their outcome rewards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from ipr.algorithms import OF_IMITATION, Examples, Training, Wanted
from ipr.algorithms.pairs import outcome_pairs
from ipr.types import Prefix, StepReward, Trajectory


@dataclass(frozen=True)
class ETO:
    outcome_margin: float
    agent_wins: bool

    training: ClassVar[Training] = Training(
        "outcome_dpo", "agent", "train", ignores=(*OF_IMITATION, "step_dpo", "sft", "sft_on", "clip")
    )
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
        """D_t."""
        return outcome_pairs(experts, explored, self.outcome_margin, self.agent_wins)


method = ETO
