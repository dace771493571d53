"""The attention that the engine plugs into transformers: of a packed pass, over the key-values in the slots.

Decided here: all tokens of a pass are packed into one sequence, so the model's matrices see no padding; only attention
knows which token belongs to which slot (`Layout`).
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ipr.engine.cascade import Cascade, PrefixTree
from ipr.engine.slots import Ids
from ipr.models import plug

SEGMENT_TOKENS = 512
"""Most tokens (padding included) whose attention is computed together, without a prefix tree: bounds its mask."""


class Layout:
    """Which slots and positions the packed tokens of a pass have: piece i is tokens [starts[i], starts[i] + counts[i]).

    The first `decoding` pieces are of slots that decode, the others of prompts, in an order in which neighbours are of
    like length. With a `tree`, which knows the slots that decode, these attend by it.
    """

    def __init__(
        self,
        slots: Ids,
        starts: Ids,
        counts: Ids,
        *,
        decoding: int,
        device: torch.device,
        tree: PrefixTree | None = None,
    ):
        ends = np.cumsum(counts)
        self.slots = np.repeat(slots, counts)
        """[N]"""
        self.places = np.arange(ends[-1]) - np.repeat(ends - counts - starts, counts)
        """[N], in their slots."""
        self.positions = torch.from_numpy(self.places).to(device)
        """[N]"""
        self.decoded = int(ends[decoding - 1]) if decoding else 0
        """Tokens of slots that decode; they come first."""
        self.small = bool(counts.max() == 1)
        """One token a slot: attention is many tiny products."""
        self._pieces = slots, starts, counts
        self._decoding = decoding
        self._cascade: Cascade | None = None
        if tree and decoding:
            self._cascade = tree.cascade(slots[:decoding], starts[:decoding], counts[:decoding])
        self.block = 1 if device.type == "cpu" else len(slots)
        """Pieces computed together, at most; on a CPU they gain nothing by it, and lose what is copied."""
        self._targets: dict[tuple[int, int], Tensor] = {}

    def targets(self, heads: int, capacity: int) -> Tensor:
        """Where the tokens' key-values go in a pool seen as [slots * heads * capacity, width]; head by head."""
        key = (heads, capacity)
        if key not in self._targets:
            flat = (self.slots * heads + np.arange(heads)[:, None]) * capacity + self.places
            self._targets[key] = torch.from_numpy(flat.ravel()).to(self.positions.device)
        return self._targets[key]

    def attend(self, query: Tensor, key: Tensor, value: Tensor, window: int | None) -> Tensor:
        """query [N, heads, width] -> [N, heads, width of value], over the tokens of each query's slot up to itself.

        key, value: the pool's; a group of query heads shares a key-value head.
        """
        found, segments = [], self._of_prompts
        if self._cascade and window is None:
            found.append(self._cascade.attend(query[: self.decoded], key, value))
        else:
            segments = self._of_decoding + segments
        asked = query.to(value.dtype)
        found += [segment.attend(asked, key, value, window).to(query.dtype) for segment in segments]
        return torch.cat(found) if len(found) > 1 else found[0]

    @cached_property
    def _of_decoding(self) -> list[_Segment]:
        return self._segments(0, self._decoding)

    @cached_property
    def _of_prompts(self) -> list[_Segment]:
        return self._segments(self._decoding, len(self._pieces[0]))

    def _segments(self, a: int, last: int) -> list[_Segment]:
        slots, starts, counts = self._pieces
        ends, found = np.cumsum(counts), []
        while a < last:
            b = min(last, a + min(self.block, max(1, SEGMENT_TOKENS // int(counts[a]))))
            offset = int(ends[a] - counts[a])
            found.append(_Segment(slots[a:b], starts[a:b], counts[a:b], offset, self.positions.device))
            a = b
        return found


class _Segment:
    """B pieces of at most T tokens whose attention is computed together; packed from `offset` on."""

    def __init__(self, slots: Ids, starts: Ids, counts: Ids, offset: int, device: torch.device):
        self._size, self._width = len(slots), int(counts.max())
        self._length = int((starts + counts).max())
        """Keys looked at."""
        self._tokens = slice(offset, offset + int(counts.sum()))
        self._starts, self._counts, self._device = starts, counts, device
        self._known = int(starts.min()) + 1
        """Keys that every query sees."""
        # Slots that lie together are looked at, others copied together.
        self._slice = slice(int(slots[0]), int(slots[-1]) + 1) if (np.diff(slots) == 1).all() else None
        self._slots = None if self._slice else torch.from_numpy(slots).to(device)
        self._padded = self._real = None
        if (counts < self._width).any():
            # Where a piece's tokens are in the packed sequence; its padding stands for its last token.
            steps = np.minimum(np.arange(self._width), counts[:, None] - 1)
            padded = offset + (np.cumsum(counts) - counts)[:, None] + steps
            self._padded = torch.from_numpy(padded).to(device)
            real = (np.arange(self._width) < counts[:, None]).ravel().nonzero()[0]  # found here: a GPU would wait
            self._real = torch.from_numpy(real).to(device)
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
        packed = out.flatten(0, 1)
        return packed if self._real is None else packed.index_select(0, self._real)

    def _keys(self, pool: Tensor) -> Tensor:
        """The slots' keys [B, groups, length, width]."""
        seen = self._of_slots(pool[:, :, : -(-self._length // pool.shape[-1])])
        return seen.transpose(-1, -2).flatten(2, 3)[:, :, : self._length]

    def _values(self, pool: Tensor) -> Tensor:
        """The slots' values [B, groups, length, width]."""
        return self._of_slots(pool[:, :, : self._length])

    def _of_slots(self, pool: Tensor) -> Tensor:
        return pool[self._slice] if self._slots is None else pool.index_select(0, self._slots)

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
        return ipr_layout.attend(asked, key, value, window)[None]


plug.register("ipr", _attend)
