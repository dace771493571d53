"""Key-values of many rows in one pool, and the attention over it that `hf` plugs into transformers.

Decided here: all tokens of a pass are packed into one sequence, so the model's matrices see no padding; only attention
knows which token belongs to which row (`Layout`). Memory is what limits decoding on a CPU, so there rows that write
read together what they have in common (`Sharing`), where it lies.
"""

from __future__ import annotations

import mmap
from contextlib import nullcontext
from functools import cached_property
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ipr.engine.kernels import TILE, attention, store
from ipr.models import plug

Ids = NDArray[np.int64]

SEGMENT_TOKENS = 512
"""Most tokens (padding included) whose attention is computed together, where rows do not share: bounds its mask."""
_WORTH_A_BRANCH = 16
"""Tokens in common that are worth to be read together."""


class Pool(plug.KeyValues):
    """The key-values, by layer; to transformers, a cache.

    Values are [slots, heads, capacity, width]. Keys are [slots, heads, capacity / tile, width, tile]: `tile` tokens lie
    together, as `kernels` read them, or 1 for everybody else.
    """

    def __init__(self, slots: int, max_length: int, dtype: torch.dtype | None, device: torch.device, tile: int = 1):
        super().__init__()
        self.layout: Layout
        """Of the pass that is under way."""
        self._slots, self._max_length, self._dtype, self._tile = slots, -(-max_length // tile) * tile, dtype, tile
        self._device, self._lazy = device, device.type == "cpu"
        """Memory costs nothing until it is written, so all is there from the start."""
        self._capacity = self._max_length if self._lazy else 0
        self._sides: tuple[list[Tensor], list[Tensor]] = ([], [])
        """Keys and values, by layer; made when a layer first writes."""

    def reserve(self, length: int) -> None:
        """Have room for `length` tokens in every row; grows by half at least."""
        if length <= self._capacity:
            return
        old = self._capacity
        self._capacity = min(self._max_length, max(length, old * 3 // 2) + 63 & ~63)
        for side in self._sides:
            for layer, small in enumerate(side):
                side[layer] = self._empty(small.shape[1], small.shape[3], small.dtype, keys=side is self._sides[0])
                side[layer][:, :, :old] = small

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any) -> Any:
        """Write the pass's key-values [1, heads, N, width]; returns the layer's whole tensors."""
        for side, states in zip(self._sides, (key_states, value_states), strict=True):
            keys = side is self._sides[0]
            if layer_idx == len(side):
                side.append(self._empty(states.shape[1], states.shape[3], self._dtype or states.dtype, keys=keys))
            if keys and self._tile > 1:
                store(side[layer_idx].numpy(), states[0].numpy(), self.layout.rows, self.layout.places)
                continue
            flat = side[layer_idx].view(-1, states.shape[-1])
            targets = self.layout.targets(states.shape[1], self._capacity)
            flat.index_copy_(0, targets, states[0].flatten(0, 1).to(flat.dtype))
        return self._sides[0][layer_idx], self._sides[1][layer_idx]

    def copy(self, source: int, target: int, start: int, end: int) -> None:
        """Of one row's tokens to another's; both have the same before."""
        for side, size in zip(self._sides, (self._tile, 1), strict=True):
            for layer in side:
                layer[target, :, start // size : -(-end // size)] = layer[source, :, start // size : -(-end // size)]

    def _empty(self, heads: int, width: int, dtype: torch.dtype, *, keys: bool) -> Tensor:
        # Zeros, because what attention masks out must at least be finite; torch's own would all be written.
        shape = self._slots, heads, self._capacity, width
        if keys:
            shape = self._slots, heads, self._capacity // self._tile, width, self._tile
        if not self._lazy:
            return torch.zeros(shape, dtype=dtype, device=self._device)
        pages = mmap.mmap(-1, prod(shape) * dtype.itemsize, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        return torch.frombuffer(pages, dtype=dtype).view(shape)


class Layout:
    """Which rows and positions the packed tokens of a pass have: piece i is tokens [starts[i], starts[i] + counts[i]).

    The first `together` pieces are of rows that write, the others of rows that read, in an order in which neighbours
    are of like length. With `sharing`, which knows the rows that write, these attend by it.
    """

    def __init__(
        self,
        rows: Ids,
        starts: Ids,
        counts: Ids,
        *,
        together: int,
        block: int,
        device: torch.device,
        sharing: Sharing | None = None,
    ):
        ends = np.cumsum(counts)
        self.rows = np.repeat(rows, counts)
        """[N]"""
        self.places = np.arange(ends[-1]) - np.repeat(ends - counts - starts, counts)
        """[N], in their rows."""
        self.positions = torch.from_numpy(self.places).to(device)
        """[N]"""
        self.written = int(ends[together - 1]) if together else 0
        """Tokens of rows that write; they come first."""
        self.small = bool(counts.max() == 1)
        """One token a row: attention is many tiny products."""
        self._pieces = rows, starts, counts
        self._together, self._block = together, block
        self._sharing = sharing if together else None
        if self._sharing:
            self._sharing.begin(rows[:together], starts[:together], counts[:together])
        self._targets: dict[tuple[int, int], Tensor] = {}

    def targets(self, heads: int, capacity: int) -> Tensor:
        """Where the tokens' key-values go in a pool seen as [slots * heads * capacity, width]; head by head."""
        key = (heads, capacity)
        if key not in self._targets:
            flat = (self.rows * heads + np.arange(heads)[:, None]) * capacity + self.places
            self._targets[key] = torch.from_numpy(flat.ravel()).to(self.positions.device)
        return self._targets[key]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, window: int | None) -> Tensor:
        """query [N, heads, width] -> [N, heads, width of value], over the tokens of each query's row up to itself.

        key, value: the pool's; a group of query heads shares a key-value head.
        """
        found, segments = [], self._reading
        if self._sharing and window is None:
            found.append(self._sharing.attend(query[: self.written], key, value))
        else:
            segments = self._writing + segments
        asked = query.to(value.dtype)
        found += [segment.attend(asked, key, value, window).to(query.dtype) for segment in segments]
        return torch.cat(found) if len(found) > 1 else found[0]

    @cached_property
    def _writing(self) -> list[_Segment]:
        return self._segments(0, self._together)

    @cached_property
    def _reading(self) -> list[_Segment]:
        return self._segments(self._together, len(self._pieces[0]))

    def _segments(self, a: int, last: int) -> list[_Segment]:
        rows, starts, counts = self._pieces
        ends, found = np.cumsum(counts), []
        while a < last:
            b = min(last, a + min(self._block, max(1, SEGMENT_TOKENS // int(counts[a]))))
            offset = int(ends[a] - counts[a])
            found.append(_Segment(rows[a:b], starts[a:b], counts[a:b], offset, self.positions.device))
            a = b
        return found


class Sharing:
    """What rows have in common, so that a pass in which they write reads it once for all of them.

    Sorted, the rows form a tree: what several have in common (instruction, game, the beginning of an episode) is a
    branch, which is read where it lies. What a row sees is put together from branches and its own rest.
    """

    def __init__(self, ids: Ids, rows: Ids, lengths: Ids):
        """ids [slots, T]: of the pool's rows, of which `rows` hold `lengths` tokens. These tokens must stay."""
        held = [ids[row, :length] for row, length in zip(rows, lengths, strict=True)]
        order = np.array(sorted(range(len(rows)), key=lambda i: held[i].tobytes()))
        common = [common_length(held[i], held[j]) for i, j in pairwise(order)]
        self.size = len(rows)
        self.starts = np.full(len(ids), -1)
        """By row: how many first tokens are read in branches; -1 for a row that is not known."""
        self._branches, self.starts[rows[order]] = _branches(common)
        # Rows a to b in the order of the tree are to be read where the first of them lies.
        self._branches[:, 0] = rows[order][self._branches[:, 3]]
        self._places = np.zeros(len(ids), dtype=np.int64)
        self._places[rows[order]] = np.arange(len(rows))

    def begin(self, rows: Ids, starts: Ids, counts: Ids) -> None:
        """A pass of known rows [n], which hold `starts` tokens; `counts` more of each."""
        places = self._places[rows]
        self._members = np.argsort(places)
        """In the order of the tree, so that those of a branch are neighbours."""
        branches = self._branches.copy()
        branches[:, 3:] = np.searchsorted(places[self._members], branches[:, 3:])
        in_order, n = rows[self._members], np.arange(len(rows))
        ends = (starts + counts)[self._members]
        own = np.column_stack([in_order, self.starts[in_order], ends, n, n + 1])
        self._parts = np.concatenate([branches, own])
        self._firsts, self._seen, self._total = np.cumsum([0, *counts]), starts + 1, int(ends.max())

    def attend(self, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """query [N, heads, width] -> [N, heads, width of value]; keys, values as for `Layout.attend`."""
        score, mix = attention(query.shape[-1], values.shape[-1], torch.get_num_threads() > 1)
        scores = query.new_empty(*query.shape[:2], -(-self._total // TILE) * TILE)
        where = self._parts, self._members, self._firsts
        score(scores.numpy(), query.contiguous().numpy(), keys.numpy(), *where, self._seen)
        out = query.new_zeros(*query.shape[:2], values.shape[-1])
        mix(out.numpy(), scores.softmax(-1).numpy(), values.numpy(), *where)
        return out


def _branches(common: list[int]) -> tuple[Ids, Ids]:
    """What sorted rows read together, `common[i]` being the tokens that rows i and i + 1 have in common.

    Branches [., 5] (_, s, e, a, b): rows a to b, all of the same tokens s to e. Then, of each row, how many first
    tokens are read so.
    """
    found: list[tuple[int, int, int, int, int]] = []
    starts = np.zeros(len(common) + 1, dtype=np.int64)
    waiting = [(0, len(starts), 0)]
    while waiting:
        a, b, start = waiting.pop()
        if b - a == 1:
            continue
        end = min(common[a : b - 1])
        if end - start >= _WORTH_A_BRANCH:
            found.append((0, start, end, a, b))
            starts[a:b] = start = end
        edges = [a, *(i + 1 for i in range(a, b - 1) if common[i] == end), b]
        waiting += [(c, d, start) for c, d in pairwise(edges)]
    return np.array(found, dtype=np.int64).reshape(-1, 5), starts


class _Segment:
    """B pieces of at most T tokens whose attention is computed together; packed from `offset` on."""

    def __init__(self, rows: Ids, starts: Ids, counts: Ids, offset: int, device: torch.device):
        self._size, self._width = len(rows), int(counts.max())
        self._length = int((starts + counts).max())
        """Keys looked at."""
        self._tokens = slice(offset, offset + int(counts.sum()))
        self._starts, self._counts, self._device = starts, counts, device
        self._known = int(starts.min()) + 1
        """Keys that every query sees."""
        # Rows that lie together are looked at, others copied together.
        self._slice = slice(int(rows[0]), int(rows[-1]) + 1) if (np.diff(rows) == 1).all() else None
        self._rows = None if self._slice else torch.from_numpy(rows).to(device)
        self._padded = self._real = None
        if (counts < self._width).any():
            # Where a piece's tokens are in the packed sequence; its padding stands for its last token.
            steps = np.minimum(np.arange(self._width), counts[:, None] - 1)
            padded = offset + (np.cumsum(counts) - counts)[:, None] + steps
            self._padded = torch.from_numpy(padded).to(device)
            self._real = torch.from_numpy(np.arange(self._width) < counts[:, None]).to(device)
        self._masks: dict[tuple[int, int | None], Tensor] = {}

    def attend(self, query: Tensor, key: Tensor, value: Tensor, window: int | None) -> Tensor:
        """As `Layout.attend`, for the segment's tokens."""
        size, width, heads, groups = self._size, self._width, query.shape[1], value.shape[1]
        asked = query[self._tokens].view(size, width, heads, -1) if self._padded is None else query[self._padded]
        asked = asked.transpose(1, 2).reshape(size, groups, heads // groups * width, -1)
        mask = self._mask(heads // groups, window, asked.dtype)
        # Scaled before; in bfloat16 twice as fast on a CPU as the products and softmax one by one, in float32 the same.
        out = F.scaled_dot_product_attention(asked, self._keys(key), self._values(value), attn_mask=mask, scale=1.0)
        out = out.view(size, heads, width, -1).transpose(1, 2)
        return out.flatten(0, 1) if self._real is None else out[self._real]

    def _keys(self, pool: Tensor) -> Tensor:
        """The rows' keys [B, groups, length, width]."""
        seen = self._of_rows(pool[:, :, : -(-self._length // pool.shape[-1])])
        return seen.transpose(-1, -2).flatten(2, 3)[:, :, : self._length]

    def _values(self, pool: Tensor) -> Tensor:
        """The rows' values [B, groups, length, width]."""
        return self._of_rows(pool[:, :, : self._length])

    def _of_rows(self, pool: Tensor) -> Tensor:
        return pool[self._slice] if self._rows is None else pool.index_select(0, self._rows)

    def _mask(self, repeats: int, window: int | None, dtype: torch.dtype) -> Tensor | None:
        """[B, 1, repeats * T, length], added to the scores: a query head after another, as in `attend`."""
        if window is None and self._known >= self._length:
            return None
        if (repeats, window) not in self._masks:
            steps = np.minimum(np.arange(self._width), self._counts[:, None] - 1)
            positions = torch.from_numpy(self._starts[:, None] + steps).to(self._device)[..., None]
            keys = torch.arange(self._length, device=self._device)
            hidden = keys > positions
            if window is not None:
                hidden |= keys <= positions - window
            mask = torch.zeros(hidden.shape, device=self._device, dtype=dtype).masked_fill_(hidden, -torch.inf)
            self._masks[repeats, window] = mask.repeat(1, repeats, 1)[:, None]
        return self._masks[repeats, window]


def _attend(
    layer: int,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float | None,
    window: int | None,
    dropout: float,
    *,
    ipr_layout: Layout,
    **_: Any,
) -> Tensor:
    """See `plug.register`; key and value are the whole pool's."""
    asked = query[0].transpose(0, 1) * (query.shape[-1] ** -0.5 if scale is None else scale)
    with plug.small_products() if ipr_layout.small else nullcontext():
        return ipr_layout.attend(layer, asked, key, value, window)[None]


plug.register("ipr", _attend)


def common_length(a: Ids, b: Ids) -> int:
    """How many first tokens two sequences share."""
    n = min(len(a), len(b))
    different = a[:n] != b[:n]
    return int(different.argmax()) if different.any() else n
