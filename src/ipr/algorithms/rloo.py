"""RLOO: policy gradient on the agent's own episodes, each against the others of its problem.

The agent plays every problem K times (`draws`). An episode's advantage is its outcome less the mean of the other K - 1
(REINFORCE leave-one-out: Kool et al. 2019; Ahmadian et al. 2024, arXiv 2402.14740), the same at each of its turns.
Problems whose episodes all earn the same say nothing and are left out (DAPO's dynamic sampling, arXiv 2503.14476).
The next agent is trained on from the one that played, with the loss `policy_gradient`, which counts tokens, not
episodes.

Left out: a KL term to the SFT agent (DAPO does without, too), division by the group's standard deviation (Dr. GRPO,
arXiv 2503.20783), and an importance ratio. So rows are on-policy at the first update alone: take one epoch, or few
updates (`ppo` has the ratio). Episodes drawn at another temperature than 1 are taken as if they were drawn at 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from ipr.algorithms import OF_IMITATION, OF_PAIRS, Examples, Scores, Training, Wanted
from ipr.algorithms.pairs import has_action
from ipr.types import Demonstration, IprError, Prefix, StepReward, Trajectory


@dataclass(frozen=True)
class RLOO:
    draws: int

    training: ClassVar[Training] = Training(
        "policy_gradient", "agent", "train", ignores=(*OF_PAIRS, *OF_IMITATION, "clip")
    )
    scores: ClassVar[Scores] = False
    shortens: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.draws < 2:
            raise IprError(
                "this method compares several episodes of a problem; set algorithm.draws to 2 or more and"
                " algorithm.explore_temperature above 0"
            )

    def explore(self, experts: Sequence[Trajectory], problems: Sequence[str]) -> list[Prefix]:
        """New problems from their start, each `draws` times; the experts' own where there are no others."""
        ids = problems or [expert.task_id for expert in experts]
        return [Prefix(task_id) for task_id in ids for _ in range(self.draws)]

    def score(self, experts: Sequence[Trajectory], explored: Sequence[Trajectory]) -> Wanted:
        """No step rewards."""
        return Wanted()

    def examples(
        self,
        experts: Sequence[Trajectory],
        explored: Sequence[Trajectory],
        rewards: Mapping[Prefix, StepReward],
    ) -> Examples:
        """Every episode of a mixed group, its turns weighted by their advantages."""
        found = Examples()
        for group in groups(explored):
            if not mixed(group):
                for _ in group:
                    found.drop("demonstration: group without a difference")
                continue
            for episode in group:
                row = weighted(episode, self.advantages(episode, group, rewards))
                if any(row.weights):
                    found.demonstrations.append(row)
                else:
                    found.drop("demonstration: no advantage")
        return found

    def advantages(
        self, episode: Trajectory, group: Sequence[Trajectory], rewards: Mapping[Prefix, StepReward]
    ) -> list[float]:
        """Of the episode's turns: r - mean of the other K - 1 outcomes, at each."""
        others = [other.reward for other in group if other is not episode]
        return [episode.reward - sum(others) / len(others)] * len(episode.steps)


def groups(explored: Sequence[Trajectory]) -> list[list[Trajectory]]:
    """The episodes by their problem; those without an action (the context was full) are left out."""
    found: dict[str, list[Trajectory]] = {}
    for episode in explored:
        if has_action(episode):
            found.setdefault(episode.task_id, []).append(episode)
    return list(found.values())


def mixed(group: Sequence[Trajectory]) -> bool:
    """Whether the outcomes differ."""
    return len({episode.reward for episode in group}) > 1


def weighted(episode: Trajectory, advantages: Sequence[float]) -> Demonstration:
    """The whole episode, its t-th turn weighted by the t-th advantage; what the environment says weighs nothing."""
    turns = (*episode.history(0), *episode.continuation(0))
    # User and agent in turn, user first.
    weights = tuple(advantages[i // 2] if i % 2 else 0.0 for i in range(len(turns)))
    return Demonstration(episode.task_id, turns, episode.policy, weights)


method = RLOO
