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
    """A base, two adapters on it, one of a rank that is too high, another base and its adapter; whole folders each."""
    found = {name: models.save_model(toy.model(seed, **SIZES), toy.tokenizer(), root / name) for seed, name in BASES}
    for seed, (name, base, rank) in enumerate(ADAPTERS):
        config = MODEL.model_copy(update={"lora": LoraConfig(rank=rank)})
        found[name] = models.save_model(toy.adapted(found[base], config, seed), toy.tokenizer(), root / name)
    return found


BASES = [(0, "base"), (1, "other")]
ADAPTERS = [("sft", "base", 4), ("iteration-1", "base", 4), ("large", "base", 16), ("foreign", "other", 4)]
