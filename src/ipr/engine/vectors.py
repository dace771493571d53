"""The kernels of `reference` in LLVM's vectors: attention of few queries each, of which many read the same keys.

torch's own attention packs the keys for every few queries, and each part that slots share would be a call of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import torch
from llvmlite import ir
from numba import extending, types
from numba.core import cgutils, errors

from ipr.engine.reference import TILE

_TILES, _BLOCK = 8, 32
"""Tiles of keys, and tokens' values, that are read for one sequence after the other: they stay in the fastest cache."""
_SUMS = 8 if torch.cpu.get_capabilities().get("avx512_f") else 4
"""Vectors of 16 sums that are in registers at once; with AVX2 each takes two of 16."""

_intrinsic: Any = extending.intrinsic


@_intrinsic
def _product(typing_context, lanes, add, n, blocks, c, c_step, c_next, a, a_step, b, b_step, b_next, count):
    """c[n, lanes] = or += sum over k < count of a[n, k] * b[k, lanes], in float32; addresses, and steps in bytes.

    The same for `blocks` of c and b, each c_next and b_next after the one before. Up to `_SUMS` sums [lanes] are kept
    in registers, which loops in Python cannot say: LLVM would store each for each k. They are of up to four rows, which
    share what is read of b, and of as many blocks as there is room for: one sum alone would wait for itself at each k.
    """
    for known in (lanes, add):
        if not isinstance(known, types.Literal):
            raise errors.RequireLiteralValue(known)
    real = ir.FloatType()
    vector = ir.VectorType(real, lanes.literal_value)

    def code(context, builder, signature, arguments):
        n, blocks, c, c_step, c_next, a, a_step, b, b_step, b_next, count = arguments[2:]

        def load(address, kind):
            loaded = builder.load(builder.inttoptr(address, kind.as_pointer()))
            loaded.align = 4
            return loaded

        def plus(address, step, times):
            return builder.add(address, builder.mul(step, times))

        def in_powers(whole, most, do):
            """do(first, size) for pieces of `whole`: of the size `most`, a power of two, then of the smaller ones."""
            of = whole.type
            with cgutils.for_range(builder, builder.udiv(whole, of(most))) as loop:
                do(builder.mul(loop.index, of(most)), most)
            while most := most // 2:
                with builder.if_then(builder.icmp_signed("!=", builder.and_(whole, of(most)), of(0))):
                    do(builder.and_(whole, of(-2 * most)), most)

        def rows(first, size):
            """Of `size` rows of c from the `first` on."""
            places = [builder.add(first, n.type(i)) for i in range(size)]
            factors = [plus(a, a_step, place) for place in places]

            def together(first_block, many):
                numbers = [builder.add(first_block, n.type(i)) for i in range(many)]
                ends = [plus(plus(c, c_step, place), c_next, number) for place in places for number in numbers]
                starts = [plus(b, b_next, number) for number in numbers]
                sums = [cgutils.alloca_once(builder, vector) for _ in ends]
                for end, total in zip(ends, sums, strict=True):
                    builder.store(load(end, vector) if add.literal_value else vector([0.0] * vector.count), total)
                with cgutils.for_range(builder, count) as loop:
                    read = [load(plus(start, b_step, loop.index), vector) for start in starts]
                    for i, factor in enumerate(factors):
                        one = builder.insert_element(
                            vector(ir.Undefined), load(plus(factor, n.type(4), loop.index), real), ir.IntType(32)(0)
                        )
                        zeros = ir.VectorType(ir.IntType(32), vector.count)([0] * vector.count)
                        weight = builder.shuffle_vector(one, vector(ir.Undefined), zeros)
                        for row, total in zip(read, sums[i * many : (i + 1) * many], strict=True):
                            product = builder.fmul(weight, row, flags=("contract",))
                            builder.store(builder.fadd(product, builder.load(total), flags=("contract",)), total)
                for end, total in zip(ends, sums, strict=True):
                    builder.store(builder.load(total), builder.inttoptr(end, vector.as_pointer())).align = 4

            in_powers(blocks, _SUMS // size, together)

        in_powers(n, 4, rows)
        return context.get_dummy_value()

    return types.void(lanes, add, *[types.int64] * 11), code


def attention(width: int, value_width: int, threads: bool) -> tuple[Callable[..., None], Callable[..., None]]:
    """`reference.score` and `reference.mix` for these widths, to be compiled."""
    each: Any = numba.prange if threads else range
    lanes = next(n for n in (16, 8, 4, 2, 1) if value_width % n == 0)

    def score(scores, query, keys, parts, members, firsts, seen):
        heads = query.shape[1] // keys.shape[1]
        s, q, x = scores.ctypes.data, query.ctypes.data, keys.ctypes.data
        for g in each(keys.shape[1]):
            for p in range(parts.shape[0]):
                part = parts[p]
                slot, start, end, a, b = part.slot, part.start, part.end, part.first, part.last  # into registers
                # Whole tiles: what they have of before is the same again, what of later is overwritten.
                tiles = (end + TILE - 1) // TILE
                for first in range(start // TILE, tiles, _TILES):
                    last = min(first + _TILES, tiles)
                    for m in range(a, b):
                        n = firsts[members[m]]
                        for h in range(g * heads, (g + 1) * heads):
                            for tile in range(first, last):
                                _product(
                                    TILE,
                                    False,
                                    firsts[members[m] + 1] - n,
                                    1,
                                    s + n * scores.strides[0] + h * scores.strides[1] + tile * TILE * 4,
                                    scores.strides[0],
                                    0,
                                    q + n * query.strides[0] + h * query.strides[1],
                                    query.strides[0],
                                    x + slot * keys.strides[0] + g * keys.strides[1] + tile * keys.strides[2],
                                    keys.strides[3],
                                    0,
                                    width,
                                )
            for i in range(seen.shape[0]):
                for n in range(firsts[i], firsts[i + 1]):
                    for h in range(g * heads, (g + 1) * heads):
                        for k in range(seen[i] + n - firsts[i], scores.shape[2]):
                            scores[n, h, k] = -np.inf

    def mix(out, weights, values, parts, members, firsts):
        heads = out.shape[1] // values.shape[1]
        o, w, x = out.ctypes.data, weights.ctypes.data, values.ctypes.data
        for g in each(values.shape[1]):
            for p in range(parts.shape[0]):
                part = parts[p]
                slot, start, end, a, b = part.slot, part.start, part.end, part.first, part.last
                for first in range(start, end, _BLOCK):
                    last = min(first + _BLOCK, end)
                    for m in range(a, b):
                        n = firsts[members[m]]
                        for h in range(g * heads, (g + 1) * heads):
                            _product(
                                lanes,
                                True,
                                firsts[members[m] + 1] - n,
                                value_width // lanes,
                                o + n * out.strides[0] + h * out.strides[1],
                                out.strides[0],
                                lanes * 4,
                                w + n * weights.strides[0] + h * weights.strides[1] + first * 4,
                                weights.strides[0],
                                x + slot * values.strides[0] + g * values.strides[1] + first * values.strides[2],
                                values.strides[2],
                                lanes * 4,
                                last - first,
                            )

    return score, mix


def store(keys, states, slots, places):
    for n in range(len(slots)):
        tile, place = places[n] // TILE, places[n] % TILE
        for g in range(states.shape[0]):
            for d in range(states.shape[2]):
                keys[slots[n], g, tile, d, place] = states[g, n, d]
