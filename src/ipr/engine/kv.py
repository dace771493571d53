"""The key-value cache: one pool of memory for all slots."""

from __future__ import annotations

import logging
import mmap
from math import prod
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ipr.engine.kernels import store
from ipr.models import plug
from ipr.types import IprError

if TYPE_CHECKING:
    from ipr.engine.attention import Layout


log = logging.getLogger("ipr")

_SPARE = 0.85
"""Share of a GPU's free memory that key-values and what is drawn from may take; the rest is for a pass."""
_DRAWN = 40
"""Bytes of a token's logit, its probability in float64 while it is drawn, and copies of both."""


def free(device: torch.device) -> int | None:
    """Bytes of the device that may be taken; None on a CPU, where memory costs nothing until it is written.

    Of a GPU that processes share, of this one's part (`torch.cuda.set_per_process_memory_fraction`).
    """
    if device.type != "cuda":
        return None
    there, whole = torch.cuda.mem_get_info(device)
    held = torch.cuda.memory_allocated(device)
    unused = torch.cuda.memory_reserved(device) - held  # torch's, for whoever asks
    return min(there + unused, int(whole * torch.cuda.get_per_process_memory_fraction(device)) - held)


@torch.no_grad()
def bytes_a_token(model: Any, dtype: torch.dtype) -> int:
    """Key-values of a token in all layers of a model, which may be without numbers.

    Its own cache is looked at with a token and with two: layers may have other widths or heads, or none of their own.
    """
    one, two = (sum(t.numel() for t in plug.kept(plug.go_on(model, [0] * n, None, keep=True)[1])) for n in (1, 2))
    return (two - one) * dtype.itemsize


def bytes_a_slot(max_length: int, model: Any, dtype: torch.dtype) -> tuple[int, int]:
    """Of the key-values of `max_length` tokens, and of what one of them is drawn from."""
    vocabulary = plug.own_config(model).get_text_config().vocab_size
    return bytes_a_token(model, dtype) * (max_length + 63 & ~63), _DRAWN * vocabulary


def slots_in(room: int, slot: tuple[int, int]) -> int:
    """Slots (`bytes_a_slot`) that fit into `room` bytes."""
    return int(_SPARE * max(0, room) / sum(slot))


def fitting(slots: int, room: int, max_length: int, model: Any, dtype: torch.dtype) -> int:
    """Of so many slots those whose `max_length` tokens fit into `room` bytes. Raises IprError where none does."""
    slot = bytes_a_slot(max_length, model, dtype)
    fit, each = min(slots, slots_in(room, slot)), slot[0]
    told = f"key-values of {max_length} tokens take {each / 2**30:.2f} GiB, {max(room, 0) / 2**30:.1f} GiB are free"
    if fit < 1:
        raise IprError(f"not one conversation fits: {told} beside the weights; lower model.max_length")
    if fit < slots:
        log.warning("%d slots instead of %d (rollout.slots): %s", fit, slots, told)
    return fit


class Pool(plug.KeyValues):
    """The key-values, by layer; to transformers, a cache.

    Values are [slots, heads, capacity, width]. Keys are [slots, heads, capacity / tile, width, tile]: `tile` tokens lie
    together, as cascade attention reads them, or 1 for everybody else.
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
        """Have room for `length` tokens in every slot; grows by half at least."""
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
                store(side[layer_idx].numpy(), states[0].numpy(), self.layout.slots, self.layout.places)
                continue
            flat = side[layer_idx].view(-1, states.shape[-1])
            targets = self.layout.targets(states.shape[1], self._capacity)
            flat.index_copy_(0, targets, states[0].flatten(0, 1).to(flat.dtype))
        return self._sides[0][layer_idx], self._sides[1][layer_idx]

    def copy(self, source: int, target: int, start: int, end: int) -> None:
        """Of one slot's tokens to another's; both have the same before."""
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
