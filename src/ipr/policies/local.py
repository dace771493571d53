"""`rollout.backend=transformers`: a model of transformers, played by our own engine in this process, on CPU or GPU."""

from __future__ import annotations

from typing import Any

import torch

from ipr import models
from ipr.config import RunConfig
from ipr.engine.batching import TransformersEngine
from ipr.models import plug
from ipr.policies.chat import ChatPolicy, end_tokens
from ipr.tokens import ChatTokens


def policy(
    model: Any, tokenizer: Any, name: str, *, max_length: int, slots: int, kv_dtype: torch.dtype | None = None
) -> ChatPolicy:
    """Of a model in memory, as `TransformersEngine` takes it; `max_length` is the model's own where that is smaller."""
    chat = ChatTokens(tokenizer)
    engine = TransformersEngine(
        model,
        end_tokens(chat, getattr(model, "generation_config", None)),
        max_length=min(max_length, models.longest(plug.own_config(model))),
        slots=slots,
        kv_dtype=kv_dtype,
    )
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


def check(config: RunConfig) -> str:
    """See `ipr.policies.check`: its model is looked at with every run's."""
    return f"in the run's own process, {config.model.device}"


def rest() -> None:
    """See `ipr.policies.rest`: key-values go with their policy."""
