"""Who acts: `hf` (a transformers model, CPU or GPU), `vllm` (one on a GPU, in vLLM or behind its server), `openai` (any
chat endpoint) and `scripted` (given words, for tests). Imports none of them itself.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ipr.config import RunConfig
    from ipr.types import Policy


def load(path: str, name: str, config: RunConfig) -> Policy:
    """The model of a folder or hub name as a policy called `name`, by the backend that the config names."""
    if config.rollout.backend == "vllm":
        from ipr.policies import vllm

        return vllm.load(path, name, config)
    from ipr.policies import hf

    return hf.load(path, name, config.model, config.rollout)


def rest() -> None:
    """Leave a GPU's memory to others until it is played again."""
    if vllm := sys.modules.get("ipr.policies.vllm"):
        vllm.rest()
