"""What is compiled, and the plain form where it cannot be: the one place that chooses between the two.

Decided here: loops over arrays are written in Python and compiled by numba at first use (kept on disk), because a pass
of a small model takes milliseconds and each of numpy's calls microseconds of it. Attention of few queries over many
slots and what it reads are in LLVM's vectors (`vectors`); where numba or AVX is missing `reference` takes their place.
With IPR_CHECK_KERNELS in the environment, as in tests, each call's arguments are looked at first (`checks`): compiled
loops read and write addresses, and nothing else would tell.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any

import numpy as np
import torch

from ipr.engine import checks, reference
from ipr.engine.reference import TILE

try:
    import numba
except ImportError:
    numba: Any = None

__all__ = ["TILE", "attention", "checked", "compiled", "store", "vectorised"]


def compiled(function: Callable[..., Any], **options: Any) -> Any:
    """By numba; as it is where there is none, where numbers that go round past 2**64 warn."""
    if numba is None:

        @wraps(function)
        def plain(*arguments: Any) -> Any:
            with np.errstate(over="ignore"):
                return function(*arguments)

        return plain
    jit: Any = numba.njit
    try:
        return jit(cache=True, **options)(function)
    except RuntimeError:  # there is no place to keep it
        return jit(**options)(function)


def checked(check: Callable[..., None]) -> Callable[[Any], Any]:
    """Decorates a kernel that Python calls: `check` has its arguments first, in tests."""

    def decorate(kernel: Any) -> Any:
        if "IPR_CHECK_KERNELS" not in os.environ:
            return kernel

        @wraps(kernel)
        def call(*arguments: Any) -> Any:
            check(*arguments)
            return kernel(*arguments)

        return call

    return decorate


def vectorised() -> bool:
    """Whether attention is compiled: numba is there, and the processor has AVX2."""
    return numba is not None and bool(torch.cpu.get_capabilities().get("avx2"))


@lru_cache
def attention(width: int, value_width: int, threads: bool) -> tuple[Callable[..., None], Callable[..., None]]:
    """`reference.score` and `reference.mix`, or the same compiled for these widths."""
    score, mix = reference.score, reference.mix
    if vectorised():
        from ipr.engine import vectors

        score, mix = (compiled(one, parallel=threads) for one in vectors.attention(width, value_width, threads))
    return checked(checks.score)(score), checked(checks.mix)(mix)


@lru_cache
def _store() -> Callable[..., None]:
    kernel = reference.store
    if vectorised():
        from ipr.engine import vectors

        kernel = compiled(vectors.store)
    return checked(checks.store)(kernel)


def store(keys: Any, states: Any, slots: Any, places: Any) -> None:
    """See `reference.store`."""
    _store()(keys, states, slots, places)
