"""Attention of rows that write on a CPU: few queries each, of which many rows read the same keys.

torch's own attention packs the keys for every few queries, and each part that rows share would be a call of its own.
Compiled at first use, for the widths of a model's heads.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numba
import numpy as np

_BLOCK = 32
"""Tokens of a part that are read for one row after the other: they stay in the fastest cache."""


@lru_cache
def kernels(width: int, value_width: int, threads: bool) -> tuple[Callable[..., None], Callable[..., None]]:
    """`score(scores, query, keys, parts, members, lengths, steps)` and `mix(out, weights, values, parts, members)`.

    query [n, groups, Q, width], keys and values [slots, groups, capacity, width], scores and weights
    [n, groups, Q, tokens], out [n, groups, Q, value_width] (added to); all float32. parts [., 5]: the tokens that are
    seen, of slot parts[0], from parts[1] to parts[2], by the rows members[parts[3]] to members[parts[4]]. Query q of
    row i sees its first lengths[i] + q % steps tokens; the scores after these become -inf.
    """
    jit: Any = numba.njit(fastmath={"reassoc", "contract"}, parallel=threads)
    heads: Any = numba.prange if threads else range

    @jit
    def score(scores, query, keys, parts, members, lengths, steps):
        queries, total = query.shape[2], scores.shape[3]
        for h in heads(query.shape[1]):
            for p in range(parts.shape[0]):
                row, low, high, a, b = parts[p]
                for first in range(low, high, _BLOCK):
                    for m in range(a, b):
                        i = members[m]
                        q = 0
                        while q + 4 <= queries:  # four at once, so a key is loaded once for them
                            for k in range(first, min(first + _BLOCK, high)):
                                s0 = s1 = s2 = s3 = np.float32(0)
                                for d in range(width):
                                    x = keys[row, h, k, d]
                                    s0 += query[i, h, q, d] * x
                                    s1 += query[i, h, q + 1, d] * x
                                    s2 += query[i, h, q + 2, d] * x
                                    s3 += query[i, h, q + 3, d] * x
                                scores[i, h, q, k], scores[i, h, q + 1, k] = s0, s1
                                scores[i, h, q + 2, k], scores[i, h, q + 3, k] = s2, s3
                            q += 4
                        while q < queries:
                            for k in range(first, min(first + _BLOCK, high)):
                                s0 = np.float32(0)
                                for d in range(width):
                                    s0 += query[i, h, q, d] * keys[row, h, k, d]
                                scores[i, h, q, k] = s0
                            q += 1
            for i in range(query.shape[0]):
                for q in range(queries):
                    for k in range(lengths[i] + q % steps, total):
                        scores[i, h, q, k] = -np.inf

    @jit
    def mix(out, weights, values, parts, members):
        for h in heads(out.shape[1]):
            for p in range(parts.shape[0]):
                row, low, high, a, b = parts[p]
                for first in range(low, high, _BLOCK):
                    last = min(first + _BLOCK, high)
                    for m in range(a, b):
                        i = members[m]
                        for q in range(out.shape[2]):
                            k = first
                            while k + 4 <= last:  # four at once, so a sum is stored once for them
                                w0, w1 = weights[i, h, q, k], weights[i, h, q, k + 1]
                                w2, w3 = weights[i, h, q, k + 2], weights[i, h, q, k + 3]
                                for d in range(value_width):
                                    out[i, h, q, d] += (w0 * values[row, h, k, d] + w1 * values[row, h, k + 1, d]) + (
                                        w2 * values[row, h, k + 2, d] + w3 * values[row, h, k + 3, d]
                                    )
                                k += 4
                            while k < last:
                                w0 = weights[i, h, q, k]
                                for d in range(value_width):
                                    out[i, h, q, d] += w0 * values[row, h, k, d]
                                k += 1

    return score, mix
