"""RLOO with step rewards: a turn's advantage is what it changes in the chance to succeed.

A(s_t, a_t) = r_s(s_t, a_t) - r_s(s_{t-1}, a_{t-1}): the Monte-Carlo step reward after the action less that before it.
VinePPO's advantage (Kazemnejad et al. 2024, arXiv 2410.01679), at turns as GiGPO has them (Feng et al. 2025, arXiv
2505.10978), by the project's fixed scorer. Before the first action it is the scorer's chance from the start; where the
action ends the episode, the outcome. Only episodes of mixed groups are scored: each of their turns costs N rollouts.

Decided here: the scorer stays the SFT agent, so that step rewards are those of every other method and may be reused.
In the first iteration it is the agent that played, as VinePPO asks; later the advantage is over the SFT agent's play.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from ipr.algorithms import Scores, Wanted
from ipr.algorithms.rloo import RLOO, groups, mixed
from ipr.types import Prefix, StepReward, Trajectory


@dataclass(frozen=True)
class StepRLOO(RLOO):
    scores: ClassVar[Scores] = "turns"

    def score(self, experts: Sequence[Trajectory], explored: Sequence[Trajectory]) -> Wanted:
        """Every state of the episodes of mixed groups, from their start on."""
        return Wanted(values=[p for group in groups(explored) if mixed(group) for e in group for p in _states(e)])

    def advantages(
        self, episode: Trajectory, group: Sequence[Trajectory], rewards: Mapping[Prefix, StepReward]
    ) -> list[float]:
        """Of the episode's turns: the step reward after less the one before."""
        values = [rewards[prefix].mean for prefix in _states(episode)]
        return [after - before for before, after in pairwise(values)]


def _states(episode: Trajectory) -> list[Prefix]:
    return [episode.prefix(t) for t in range(len(episode.steps) + 1)]


method = StepRLOO
