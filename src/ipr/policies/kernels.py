"""Loops for CPUs that torch and numpy have no fast form of, compiled by numba at first use and kept on disk.

Attention of rows that write: few queries each, of which many rows read the same keys. torch's own attention packs the
keys for every few queries, and each part that rows share would be a call of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numba
import numpy as np

_BLOCK = 32
"""Tokens of a part that are read for one row after the other: they stay in the fastest cache."""


def compiled(function: Callable[..., Any], **options: Any) -> Any:
    jit: Any = numba.njit
    try:
        return jit(cache=True, **options)(function)
    except RuntimeError:  # there is no place to keep it
        return jit(**options)(function)


@lru_cache
def attention(width: int, value_width: int, threads: bool) -> tuple[Callable[..., None], Callable[..., None]]:
    """score(scores, query, keys, parts, members, firsts, seen), mix(out, weights, values, parts, members, firsts).

    query [N, heads, width], keys and values [slots, groups, capacity, width], scores and weights [N, heads, tokens],
    out [N, heads, value_width] (added to); all float32. Row i's tokens are those of N from firsts[i] to firsts[i + 1];
    the first of them sees its row's first seen[i] tokens, the next one more; other scores become -inf. parts [., 5]:
    what is seen, of slot parts[0] from token parts[1] to parts[2], by the rows members[parts[3]] to members[parts[4]].
    """
    each: Any = numba.prange if threads else range

    def score(scores, query, keys, parts, members, firsts, seen):
        heads = query.shape[1] // keys.shape[1]
        for g in each(keys.shape[1]):
            for p in range(parts.shape[0]):
                slot, low, high, a, b = parts[p]
                for first in range(low, high, _BLOCK):
                    last = min(first + _BLOCK, high)
                    for m in range(a, b):
                        for h in range(g * heads, (g + 1) * heads):
                            n, end = firsts[members[m]], firsts[members[m] + 1]
                            while n + 4 <= end:  # four at once, so a key is loaded once for them
                                for k in range(first, last):
                                    s0 = s1 = s2 = s3 = np.float32(0)
                                    for d in range(width):
                                        x = keys[slot, g, k, d]
                                        s0 += query[n, h, d] * x
                                        s1 += query[n + 1, h, d] * x
                                        s2 += query[n + 2, h, d] * x
                                        s3 += query[n + 3, h, d] * x
                                    scores[n, h, k], scores[n + 1, h, k] = s0, s1
                                    scores[n + 2, h, k], scores[n + 3, h, k] = s2, s3
                                n += 4
                            while n < end:
                                for k in range(first, last):
                                    s0 = np.float32(0)
                                    for d in range(width):
                                        s0 += query[n, h, d] * keys[slot, g, k, d]
                                    scores[n, h, k] = s0
                                n += 1
            for i in range(seen.shape[0]):
                for n in range(firsts[i], firsts[i + 1]):
                    for h in range(g * heads, (g + 1) * heads):
                        for k in range(seen[i] + n - firsts[i], scores.shape[2]):
                            scores[n, h, k] = -np.inf

    def mix(out, weights, values, parts, members, firsts):
        heads = out.shape[1] // values.shape[1]
        for g in each(values.shape[1]):
            for p in range(parts.shape[0]):
                slot, low, high, a, b = parts[p]
                for first in range(low, high, _BLOCK):
                    last = min(first + _BLOCK, high)
                    for m in range(a, b):
                        for h in range(g * heads, (g + 1) * heads):
                            n, end = firsts[members[m]], firsts[members[m] + 1]
                            while n < end:  # two tokens and four values at once, so that less is loaded and stored
                                k = first
                                while n + 2 <= end and k + 4 <= last:
                                    a0, a1, b0, b1 = (
                                        weights[n, h, k],
                                        weights[n, h, k + 1],
                                        weights[n + 1, h, k],
                                        weights[n + 1, h, k + 1],
                                    )
                                    a2, a3, b2, b3 = (
                                        weights[n, h, k + 2],
                                        weights[n, h, k + 3],
                                        weights[n + 1, h, k + 2],
                                        weights[n + 1, h, k + 3],
                                    )
                                    for d in range(value_width):
                                        x0, x1 = values[slot, g, k, d], values[slot, g, k + 1, d]
                                        x2, x3 = values[slot, g, k + 2, d], values[slot, g, k + 3, d]
                                        out[n, h, d] += (a0 * x0 + a1 * x1) + (a2 * x2 + a3 * x3)
                                        out[n + 1, h, d] += (b0 * x0 + b1 * x1) + (b2 * x2 + b3 * x3)
                                    k += 4
                                both = min(n + 2, end)
                                for i in range(n, both):
                                    for j in range(k, last):
                                        w = weights[i, h, j]
                                        for d in range(value_width):
                                            out[i, h, d] += w * values[slot, g, j, d]
                                n = both

    options = {"fastmath": {"reassoc", "contract"}, "parallel": threads}
    return compiled(score, **options), compiled(mix, **options)
