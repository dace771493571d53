"""Cascade attention over a prefix tree: what slots have in common is read once for all of them, where it lies.

Decoding on a CPU is limited by memory. Sorted, the sequences form a tree: what several have in common (instruction,
game, the beginning of an episode) is a branch. What a slot sees is put together from branches and its own rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ipr.engine.kernels import TILE, attention
from ipr.engine.reference import PART
from ipr.engine.slots import Ids, common_length

Parts = NDArray[Any]
"""[., PART]"""

WORTH_A_BRANCH = 16
"""Tokens in common that are worth to be read together."""


class PrefixTree:
    """Of the sequences in some slots, by the tokens that are in their cache now."""

    def __init__(self, ids: Ids, slots: Ids, lengths: Ids):
        """ids [slots, T]: of all slots, of which `slots` have `lengths` tokens. These must stay where they are."""
        held = [ids[slot, :length] for slot, length in zip(slots, lengths, strict=True)]
        order = np.array(sorted(range(len(slots)), key=lambda i: held[i].tobytes()))
        common = [common_length(held[i], held[j]) for i, j in pairwise(order)]
        self.size = len(slots)
        self.shared = np.full(len(ids), -1)
        """By slot: how many first tokens are read in branches; -1 for a slot that is not in the tree."""
        self.branches, self.shared[slots[order]] = _branches(common)
        """Members are places in the order of the tree. A branch is read where the first of them lies."""
        self.branches["slot"] = slots[order][self.branches["first"]]
        self._places = np.zeros(len(ids), dtype=np.int64)
        self._places[slots[order]] = np.arange(len(slots))

    def cascade(self, slots: Ids, starts: Ids, counts: Ids) -> Cascade:
        """For a pass of slots [n] of the tree, which have `starts` tokens in the cache; `counts` more of each are fed.

        Slots that were left out since keep their places: a branch is read by those of its members that are there.
        """
        places = self._places[slots]
        members = np.argsort(places)
        """In the order of the tree, so that those of a branch are neighbours."""
        branches = self.branches.copy()
        for side in ("first", "last"):
            branches[side] = np.searchsorted(places[members], branches[side])
        branches = branches[branches["first"] < branches["last"]]  # of the others all members have gone
        own = np.zeros(len(slots), dtype=PART)
        own["slot"], own["start"] = slots[members], self.shared[slots[members]]
        own["end"] = (starts + counts)[members]
        own["first"] = np.arange(len(slots))
        own["last"] = own["first"] + 1
        firsts = np.cumsum([0, *counts])
        return Cascade(np.concatenate([branches, own]), members, firsts, starts + 1, int(own["end"].max()))


@dataclass(frozen=True, slots=True)
class Cascade:
    """Attention of the N tokens that a pass feeds to n slots; see `reference` for the arrays."""

    parts: Parts
    members: Ids
    """[n]"""
    firsts: Ids
    """[n + 1]"""
    seen: Ids
    """[n]"""
    length: int
    """Tokens of the longest sequence."""

    def attend(self, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """query [N, heads, width] -> [N, heads, width of value]; keys and values as `kv.Pool` has them in tiles."""
        score, mix = attention(query.shape[-1], values.shape[-1], torch.get_num_threads() > 1)
        scores = query.new_empty(*query.shape[:2], -(-self.length // TILE) * TILE)
        where = self.parts, self.members, self.firsts
        score(scores.numpy(), query.contiguous().numpy(), keys.numpy(), *where, self.seen)
        out = query.new_zeros(*query.shape[:2], values.shape[-1])
        mix(out.numpy(), scores.softmax(-1).numpy(), values.numpy(), *where)
        return out


def _branches(common: list[int]) -> tuple[Parts, Ids]:
    """What sorted sequences read together, `common[i]` being the tokens that i and i + 1 have in common.

    Parts whose members are places in that order; then, of each sequence, how many first tokens are read so.
    """
    found: list[tuple[int, int, int, int, int]] = []
    shared = np.zeros(len(common) + 1, dtype=np.int64)
    waiting = [(0, len(shared), 0)]
    while waiting:
        first, last, start = waiting.pop()
        if last - first == 1:
            continue
        end = min(common[first : last - 1])
        if end - start >= WORTH_A_BRANCH:
            found.append((0, start, end, first, last))
            shared[first:last] = start = end
        edges = [first, *(i + 1 for i in range(first, last - 1) if common[i] == end), last]
        waiting += [(a, b, start) for a, b in pairwise(edges)]
    return np.array(found, dtype=PART), shared
