"""Attention over parts of slots, and storing keys for it, in plain torch: what the compiled kernels have to equal.

Shapes: query [N, heads, width]; keys [slots, groups, tiles, width, TILE]; values [slots, groups, capacity,
value_width]; scores and weights [N, heads, tokens, filled up to whole tiles]; out [N, heads, value_width]; all float32.
heads / groups query heads after another share a key-value head.

The N tokens are of n sequences: those of sequence i are firsts[i] to firsts[i + 1]. What they see is cut into parts
[PART]: the tokens `start` to `end` of a slot, seen by the sequences members[first:last].
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

TILE = 16
"""Tokens whose keys lie together, [width, TILE]."""
PART = np.dtype([(name, np.int64) for name in ("slot", "start", "end", "first", "last")])
"""Of a slot the tokens start to end, and the members first to last, by whom they are seen."""


def score(scores: Any, query: Any, keys: Any, parts: Any, members: Any, firsts: Any, seen: Any) -> None:
    """Write the products of queries and keys, and -inf where a token sees nothing.

    The first token of sequence i sees its first seen[i] tokens, the next one more. A part of a sequence comes after
    those of its tokens before, and its slot holds the same tokens before: a part's first tile is written whole.
    """
    to, asked, pool = map(torch.from_numpy, (scores, query, keys))
    groups, width = pool.shape[1], pool.shape[3]
    for part in parts:
        tokens = _tokens(part, members, firsts)
        low, high = int(part["start"]) // TILE, -(-int(part["end"]) // TILE)
        found = pool[int(part["slot"]), :, low:high].transpose(-1, -2).reshape(groups, -1, width)
        each = asked[tokens].unflatten(1, (groups, -1))
        product = torch.einsum("nghw,gkw->nghk", each, found).flatten(1, 2)
        to[tokens, :, low * TILE : high * TILE] = product
    for i in range(len(seen)):
        for n in range(firsts[i], firsts[i + 1]):
            to[n, :, int(seen[i] + n - firsts[i]) :] = -torch.inf


def mix(out: Any, weights: Any, values: Any, parts: Any, members: Any, firsts: Any) -> None:
    """Add the values, weighted, to `out`."""
    to, given, pool = map(torch.from_numpy, (out, weights, values))
    for part in parts:
        tokens = _tokens(part, members, firsts)
        start, end = int(part["start"]), int(part["end"])
        each = given[tokens, :, start:end].unflatten(1, (pool.shape[1], -1))
        product = torch.einsum("nghk,gkw->nghw", each, pool[int(part["slot"]), :, start:end])
        to[tokens] += product.flatten(1, 2)


def store(keys: Any, states: Any, slots: Any, places: Any) -> None:
    """Put keys [groups, N, width] of tokens at these places [N] of these slots [N] into `keys`."""
    pool, new = torch.from_numpy(keys), torch.from_numpy(states)
    where, at = torch.from_numpy(slots), torch.from_numpy(places)
    pool[where, :, at // TILE, :, at % TILE] = new.transpose(0, 1)


def _tokens(part: Any, members: Any, firsts: Any) -> torch.Tensor:
    """Of the N tokens those of the part's members."""
    each = [np.arange(firsts[m], firsts[m + 1]) for m in members[part["first"] : part["last"]]]
    return torch.from_numpy(np.concatenate(each))
