"""ETO (Song et al. 2024, arXiv 2403.02502): whole trajectories only, ordered by their outcome rewards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from ipr.algorithms import Examples, Settings, Wanted
from ipr.algorithms.pairs import outcome_pairs
from ipr.types import Prefix, StepReward, Trajectory


class ETO:
    loss: Literal["preference", "sft"] = "preference"

    def __init__(self, settings: Settings):
        self.settings = settings

    def explore(self, experts: Sequence[Trajectory]) -> list[Prefix]:
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
        return outcome_pairs(experts, explored, self.settings)
