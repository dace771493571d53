"""`best`: the agent practises on problems that have no expert, and goes on learning from experts and its own successes.

What was found to gain (docs/results.md). Each iteration the agent plays new problems, each until it succeeds or has
tried `draws` times; of each solved problem the shortest success is kept, without the stretches that its end did not
need. With `weigh` a success of the k-th draw counts k times: a problem that is solved in one of n draws with chance p
is kept with 1 - (1 - p)^n, and so counts with about n p where p is small and 1 where it is not, nearly as often as it
is asked. The next agent is trained on from this one at SFT's own rate. Sources: rejection sampling (RFT, Yuan et al.
2023) and ReST-EM (Singh et al. 2023, arXiv 2312.06585), which starts from the base each time. No step rewards.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from ipr.algorithms import OF_PAIRS, Examples, Training, Wanted
from ipr.algorithms.rft import demonstration
from ipr.types import Prefix, StepReward, Trajectory


@dataclass(frozen=True)
class Best:
    success: float
    weigh: bool = False

    training: ClassVar[Training] = Training("sft", "agent", "train", ignores=(*OF_PAIRS, "clip"))
    scores: ClassVar[bool] = False
    shortens: ClassVar[bool] = True

    def explore(self, experts: Sequence[Trajectory], problems: Sequence[str]) -> list[Prefix]:
        """New problems from their start; the experts' own where there are no others."""
        return [Prefix(task_id) for task_id in problems or [expert.task_id for expert in experts]]

    def score(self, experts: Sequence[Trajectory], explored: Sequence[Trajectory]) -> Wanted:
        """No step rewards."""
        return Wanted()

    def examples(
        self,
        experts: Sequence[Trajectory],
        explored: Sequence[Trajectory],
        rewards: Mapping[Prefix, StepReward],
    ) -> Examples:
        """The experts, and of each other problem the shortest success, with the weight of its draws."""
        found = Examples(demonstrations=[demonstration(expert) for expert in experts])
        known = {expert.task_id for expert in experts}
        drawn = Counter(agent.task_id for agent in explored)
        for agent in shortest_successes(explored, self.success, found):
            if agent.task_id not in known:
                row = demonstration(agent)
                count = drawn[agent.task_id] if self.weigh else 1
                found.demonstrations.append(replace(row, weights=(float(count),) * len(row.messages) * (count > 1)))
        return found


def shortest_successes(explored: Sequence[Trajectory], success: float, found: Examples) -> list[Trajectory]:
    """The shortest success of each problem; failures are counted as dropped in `found`."""
    solved: dict[str, Trajectory] = {}
    for agent in explored:
        if not agent.steps or agent.reward < success:
            found.drop("demonstration: no success")
        elif agent.task_id not in solved or len(agent.steps) < len(solved[agent.task_id].steps):
            solved[agent.task_id] = agent
    return list(solved.values())


method = Best
