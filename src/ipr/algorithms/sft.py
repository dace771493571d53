"""SFT+: the experts alone, imitated on from the agent. The control of every method that trains on from it.

With `train.updates` as many as another method used, and its learning rate, what is left of that method's gain is not
just more training. It explores nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from ipr.algorithms import OF_PAIRS, Examples, Training, Wanted
from ipr.algorithms.rft import demonstration
from ipr.types import Prefix, StepReward, Trajectory


@dataclass(frozen=True)
class SFT:
    training: ClassVar[Training] = Training("sft", "agent", "train", ignores=(*OF_PAIRS, "clip"))
    scores: ClassVar[bool] = False
    shortens: ClassVar[bool] = False

    def explore(self, experts: Sequence[Trajectory], problems: Sequence[str]) -> list[Prefix]:
        """Nothing."""
        return []

    def score(self, experts: Sequence[Trajectory], explored: Sequence[Trajectory]) -> Wanted:
        """No step rewards."""
        return Wanted()

    def examples(
        self,
        experts: Sequence[Trajectory],
        explored: Sequence[Trajectory],
        rewards: Mapping[Prefix, StepReward],
    ) -> Examples:
        """The experts."""
        return Examples(demonstrations=[demonstration(expert) for expert in experts])


method = SFT
