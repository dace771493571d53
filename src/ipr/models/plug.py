"""The only touch on the internals of torch and transformers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any


@contextmanager
def fast_products() -> Iterator[None]:
    """float32 matrix products by oneDNN instead of MKL on CPUs where that is faster and still float32.

    MKL runs at half speed on AMD: 190 against 430 GFLOP/s on two cores of an EPYC with AVX-512 (with 16 rows or more;
    below, MKL is faster). torch takes oneDNN when bfloat16 is allowed, but oneDNN rounds to bfloat16 only where there
    is AMX (or ARM), so there it is left alone.
    """
    import torch

    onednn: Any = torch.backends.mkldnn
    setting, cpu = onednn.matmul, torch.cpu.get_capabilities()
    before = setting.fp32_precision
    if cpu.get("avx512_f") and not cpu.get("amx_tile"):
        setting.fp32_precision = "bf16"
    try:
        yield
    finally:
        setting.fp32_precision = before


def lacks(wanted: Mapping[str, Any]) -> str | None:
    """What a model wants of an attention that those plugged in here lack."""
    return next((n for n in ("softcap", "s_aux", "position_bias") if wanted.get(n) is not None), None)


def own_config(model: Any) -> Any:
    """The model's own, where peft has wrapped it."""
    return (model.get_base_model() if hasattr(model, "peft_config") else model).config


def pluggable(model: Any) -> bool:
    """Whether attention of ours can take the place of the model's own, by what the model says of itself."""
    base = model.get_base_model() if hasattr(model, "peft_config") else model
    kinds = set(getattr(base.config.get_text_config(), "layer_types", None) or ())
    return getattr(base, "_supports_attention_backend", False) and kinds <= {"full_attention", "sliding_attention"}


@contextmanager
def plugged_in(config: Any, name: str) -> Iterator[None]:
    """The model of this config attends by what is registered under `name`; afterwards it is as it was."""
    before = config._attn_implementation
    config._attn_implementation = name
    try:
        yield
    finally:
        config._attn_implementation = before
