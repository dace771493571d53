"""RAFT (Dong et al. 2023, arXiv 2304.06767): the agent imitates the best of its own episodes, and nothing else.

Each iteration the agent plays new problems and is trained on from where it is, on the shortest success of each. Without
experts beside them and at a low temperature of play this makes the sampled agent steadier rather than wiser
(docs/lab-notes.md). No step rewards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ipr.algorithms import Examples
from ipr.algorithms.best import Best, shortest_successes
from ipr.algorithms.rft import demonstration
from ipr.types import Prefix, StepReward, Trajectory


class Raft(Best):
    def examples(
        self,
        experts: Sequence[Trajectory],
        explored: Sequence[Trajectory],
        rewards: Mapping[Prefix, StepReward],
    ) -> Examples:
        """Of each problem the shortest success."""
        found = Examples()
        found.demonstrations = [demonstration(t) for t in shortest_successes(explored, self.success, found)]
        return found


method = Raft
