"""Tiny models that vLLM's CPU build takes too: its attention has kernels for heads of 32 numbers and more."""

from __future__ import annotations

from pathlib import Path

from ipr import models
from ipr.config import LoraConfig, ModelConfig
from tests import toy

SIZES = {"hidden": 64, "heads": 2, "kv_heads": 1}
MODEL = ModelConfig(device="cpu", max_length=300, lora=LoraConfig(rank=4))
RANK_THERE = 8
"""The server's --max-lora-rank."""


def make(root: Path) -> dict[str, Path]:
    """A base, two adapters on it, and one of a rank that is too high; whole folders each."""
    found = {"base": models.save_model(toy.model(**SIZES), toy.tokenizer(), root / "base")}
    for seed, (name, rank) in enumerate(ADAPTERS.items()):
        config = MODEL.model_copy(update={"lora": LoraConfig(rank=rank)})
        found[name] = models.save_model(toy.adapted(found["base"], config, seed), toy.tokenizer(), root / name)
    return found


ADAPTERS = {"sft": 4, "iteration-1": 4, "large": 16}
