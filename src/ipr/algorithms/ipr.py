"""IPR (arXiv 2406.11176): outcome pairs and step pairs from exploring every prefix of the expert trajectories."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from ipr.algorithms import OF_IMITATION, Contrast, Examples, Training, Wanted
from ipr.algorithms.pairs import (
    above,
    difference,
    has_action,
    outcome_pairs,
    pair,
    same_action,
    together,
    winner_by_outcome,
)
from ipr.types import Prefix, StepReward, Trajectory


@dataclass(frozen=True)
class IPR:
    tau: float
    outcome_margin: float
    confidence: float
    agent_wins: bool
    gate: bool
    skip_equal: bool

    training: ClassVar[Training] = Training("ipr", "agent", "train", ignores=(*OF_IMITATION, "clip"))
    scores: ClassVar[bool] = True
    shortens: ClassVar[bool] = False

    def explore(self, experts: Sequence[Trajectory], problems: Sequence[str]) -> list[Prefix]:
        """e_{t-1} for every expert trajectory and every t."""
        return [expert.prefix(t) for expert in experts for t in range(len(expert.steps))]

    def score(self, experts: Sequence[Trajectory], explored: Sequence[Trajectory]) -> Wanted:
        """a_t and â_t wherever the two could become a step pair.

        Both savings are exact. A pair needs the outcome margin, and outcomes are known before any sampling (gate). An
        equal action leads to an equal state, hence to the same step reward, and a difference of 0 is never above tau.
        """
        wanted = Wanted()
        for expert, agent in together(experts, explored):
            t = agent.start
            if not has_action(agent):
                continue
            if self.skip_equal and same_action(expert, agent):
                wanted.saved["equal"] = wanted.saved.get("equal", 0) + 1
            elif self.gate and self._winner(expert, agent) is None:
                wanted.saved["gated"] = wanted.saved.get("gated", 0) + 1
            else:
                a, a_hat = expert.prefix(t + 1), agent.prefix(t + 1)
                ahead_is_agent = self._winner(expert, agent) == "agent"
                wanted.contrasts.append(Contrast(a_hat, a) if ahead_is_agent else Contrast(a, a_hat))
        return wanted

    def examples(
        self,
        experts: Sequence[Trajectory],
        explored: Sequence[Trajectory],
        rewards: Mapping[Prefix, StepReward],
    ) -> Examples:
        """D_t and D_s (paper, section 3.4)."""
        found = outcome_pairs(experts, explored, self.outcome_margin, self.agent_wins)
        for expert, agent in together(experts, explored):
            t = agent.start
            if not has_action(agent):
                found.drop("step: context was full")
            elif same_action(expert, agent):
                found.drop("step: same action")
            elif (winner := self._winner(expert, agent)) is None:
                found.drop("step: no outcome margin")
            else:
                # r_s(s_t, a_t) - r_s(s_t, â_t) > tau, and the other way round where the agent wins.
                ahead, behind = rewards[expert.prefix(t + 1)], rewards[agent.prefix(t + 1)]
                if winner == "agent":
                    ahead, behind = behind, ahead
                if above(difference(ahead, behind, self.confidence), self.tau):
                    found.pairs.append(pair("step", expert, agent, t, ahead.mean - behind.mean, winner))
                else:
                    found.drop("step: no step-reward margin")
        return found

    def _winner(self, expert: Trajectory, agent: Trajectory) -> Literal["expert", "agent"] | None:
        return winner_by_outcome(expert, agent, self.outcome_margin, self.agent_wins)


method = IPR
