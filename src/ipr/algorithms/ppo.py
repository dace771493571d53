"""PPO on the outcome reward, a baseline of the paper, without a critic.

PPO (Schulman et al. 2017, arXiv 1707.06347): several epochs (`train.epochs`) on the agent's episodes with the ratio to
the agent that played clipped at 1 +- `train.clip`. The advantage is RLOO's: the mean of the problem's other episodes
stands in for the critic, as in GRPO. Such a group mean is unbiased, and a critic learned from some hundred episodes
would not be. Left out: the critic with its GAE, an entropy term and a KL term.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ipr.algorithms import OF_IMITATION, OF_PAIRS, Training
from ipr.algorithms.rloo import RLOO

TRAINING = Training("ppo", "agent", "train", ignores=(*OF_PAIRS, *OF_IMITATION))


@dataclass(frozen=True)
class PPO(RLOO):
    training: ClassVar[Training] = TRAINING


method = PPO
