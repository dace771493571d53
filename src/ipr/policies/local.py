"""`rollout.backend=transformers`: a model of transformers, played in this process, on CPU or GPU, by our own engine;
what that cannot play, by transformers' own cache.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from ipr import models
from ipr.config import EMBEDDED, RunConfig
from ipr.engine import kv
from ipr.engine.batching import TransformersEngine
from ipr.engine.own_cache import OwnCacheEngine, lacks, looks_ahead
from ipr.models import plug
from ipr.policies.chat import ChatPolicy, end_tokens
from ipr.tokens import ChatTokens
from ipr.types import IprError

log = logging.getLogger("ipr")


def policy(
    model: Any, tokenizer: Any, name: str, *, max_length: int, slots: int, kv_dtype: torch.dtype | None = None
) -> ChatPolicy:
    """Of a model in memory, as `TransformersEngine` takes it; `max_length` is the model's own where that is smaller."""
    chat = ChatTokens(tokenizer)
    ends = end_tokens(chat, getattr(model, "generation_config", None))
    most = min(max_length, models.longest(plug.own_config(model)))
    if lacking := lacks(model, most):
        log.warning("%s plays by transformers' own cache, which is slower: %s", name, lacking)
        return ChatPolicy(OwnCacheEngine(model, ends, max_length=most, slots=slots), chat, name)
    engine = TransformersEngine(model, ends, max_length=most, slots=slots, kv_dtype=kv_dtype)
    return ChatPolicy(engine, chat, name)


def load(path: str, name: str, config: RunConfig) -> ChatPolicy:
    """See `ipr.policies.load`."""
    return policy(
        models.load_model(path, config.model),
        models.load_tokenizer(path, config.model.date),
        name,
        max_length=config.model.max_length,
        slots=config.rollout.slots,
        kv_dtype=torch.bfloat16 if config.rollout.kv_dtype == "bfloat16" else None,
    )


def check(config: RunConfig, folder: Path | None) -> str:
    """See `ipr.policies.check`: a GPU that has no room for one conversation.

    How a model plays is tried with a tiny copy of its architecture, before its weights are read.
    """
    where = f"in the run's own process, {config.model.device}"
    path = config.model.path
    if path == "champion" or path.startswith(EMBEDDED):
        return where
    found = models.config_of(path)
    limit = min(config.model.max_length, models.longest(found))
    try:
        tiny = models.tiny_copy(found)
        lacking, encodes = lacks(tiny, limit), looks_ahead(tiny)
    except Exception as error:  # of an architecture that cannot be made small, or of transformers itself
        return f"{where}; untried, as a tiny {found.model_type} fails: {' '.join(str(error).split())[:200]}"
    if encodes:
        raise IprError(
            f"model {path} is an encoder ({found.model_type}): what it says of a word depends on later ones, which an"
            " agent has not written yet; take a model that generates"
        )
    if lacking:
        return f"{where}, by transformers' own cache, which is slower: {lacking}"
    device = models.device(config.model)
    if (room := kv.free(device)) is not None:
        text, dtype = found.get_text_config(), getattr(torch, config.model.dtype)
        kept = torch.bfloat16 if config.rollout.kv_dtype == "bfloat16" else dtype
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(text, dtype=dtype).eval()
        room //= config.rollout.on_a_gpu(len(models.gpus(config.model)))
        room -= model.num_parameters() * dtype.itemsize
        with plug.without_numbers(model):
            slots = kv.fitting(config.rollout.slots, room, limit, model, kept)
        where += f", {slots} episodes at a time"
    return where


def rest() -> None:
    """See `ipr.policies.rest`: key-values go with their policy."""
