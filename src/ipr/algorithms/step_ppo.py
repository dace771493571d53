"""Step-PPO, a baseline of the paper: PPO on the step reward, without a critic.

The loss is PPO's, the advantage `step_rloo`'s: the Monte-Carlo value of the state after the action less that of the
state before it, which stands in for the critic.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ipr.algorithms import Training
from ipr.algorithms.ppo import TRAINING
from ipr.algorithms.step_rloo import StepRLOO


@dataclass(frozen=True)
class StepPPO(StepRLOO):
    training: ClassVar[Training] = TRAINING


method = StepPPO
