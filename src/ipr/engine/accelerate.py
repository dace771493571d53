"""What spares a CPU passes, tokens and memory, as one object; and its null form, for a GPU.

`Accelerator` merges equal histories (`merging`), drafts tokens by n-grams (`ngrams`) and reads what slots have in
common by cascade attention (`cascade`). No token depends on it, up to float32's rounding; without it the engine does
the same work plainly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from ipr.engine import merging, ngrams
from ipr.engine.cascade import PrefixTree
from ipr.engine.kernels import TILE
from ipr.engine.merging import Histories
from ipr.engine.ngrams import Ngrams
from ipr.engine.slots import Ids, Sequences, accept
from ipr.profiling import count

NEAR = 64
"""Tokens that a slot may lack to be read through the prefix tree, as one that decodes."""
_WORTH = 0.8
"""A draft is fed while it is right with this chance; with less where few slots decode, as a pass then costs as much."""


class Merged(NamedTuple):
    """What is left to do in a pass."""

    ended: Ids
    """Slots whose turns ended without one; where there are any the pass waits."""
    left: Ids
    """Slots that are fed."""
    copies: Sequence[tuple[int, int]] = ()
    """(slot, other): key-values that the slot takes over from another, in this order."""


class NoAccelerator:
    """The null form: each slot is fed all its tokens and draws one a pass."""

    near = 1
    """Slots that lack no more tokens decode; of others a prompt is read."""
    tile = 1
    """See `kv.Pool`."""

    def __init__(self, sequences: Sequences, ends: Ids):
        self._sequences, self._ends = sequences, ends

    def forget(self) -> None:
        """Nothing that was played before makes a difference."""

    def start(self) -> None:
        """A stream begins."""

    def admit(self, slot: int, cached: int) -> None:
        """A turn has begun in the slot, of whose prompt so many tokens are in the cache."""

    def distinct(self, fresh: Sequence[int]) -> Sequence[int]:
        """Those of the slots whose prompts are read first, for all."""
        return fresh

    def prefilled(self) -> None:
        """Prompts were read into slots that were empty."""

    def merge(self, active: Ids, sampled: bool) -> Merged:
        """Before a pass of the active slots [n]: which are fed."""
        return Merged(active[:0], active)

    def draft(self, decoding: Ids) -> Ids:
        """How many tokens after their known ones are fed of these slots too; written there."""
        return np.zeros_like(decoding)

    def tree(self, left: Ids, decoding: Ids) -> PrefixTree | None:
        """By which those that decode attend; `left` are all slots of the pass."""
        return None

    def accept(self, slots: Ids, drafts: Ids, drawn: Ids, cumulative: Tensor | None) -> Ids:
        """Take what was drawn after each slot's known tokens and after each draft; the slots whose turn ended."""
        ended, _ = accept(self._sequences, slots, drafts, drawn, self._ends)
        return slots[ended]


class Accelerator(NoAccelerator):
    """On a CPU. Cascade attention only where `cascade`: its kernels take float32."""

    def __init__(self, sequences: Sequences, ends: Ids, *, cascade: bool):
        super().__init__(sequences, ends)
        if cascade:
            self.near, self.tile = NEAR, TILE
        self._cascade = cascade
        self._tree: PrefixTree | None = None
        self._histories = Histories.empty(len(sequences.ids))
        self._ngrams = Ngrams.empty()
        nothing: Ids = np.zeros((0, 0), dtype=np.int64)
        self._drafted = nothing, nothing
        """The likeliest tokens of the slots that decode in this pass, and their kinds."""

    def forget(self) -> None:
        self._ngrams.forget()

    def start(self) -> None:
        self._histories.forget()
        self._tree = None

    def admit(self, slot: int, cached: int) -> None:
        if self._tree and cached < self._tree.shared[slot]:
            self._tree = None  # a branch was read where tokens are overwritten now
        self._histories.leaders[slot] = -1
        ngrams.learn(self._ngrams, self._sequences, slot, cached)

    def distinct(self, fresh: Sequence[int]) -> Sequence[int]:
        hashes, known = self._sequences.hashes, self._sequences.known
        return list({int(hashes[slot, known[slot]]): slot for slot in sorted(fresh, reverse=True)}.values())

    def prefilled(self) -> None:
        self._tree = None

    def merge(self, active: Ids, sampled: bool) -> Merged:
        sequences, leaders = self._sequences, self._histories.leaders
        ended, followed = merging.follow(sequences, active, self._histories, sampled, self._ends)
        count("followed", followed)
        if ended.any():
            return Merged(active[ended], active)
        # Slots with equal tokens would draw from the same distribution: one is fed, the others follow it.
        left = merging.distinct(sequences, active)
        copies = [(int(s), int(leaders[s])) for s in left[(leaders[left] >= 0) & (sequences.uncached(left) > 1)]]
        leaders[left] = -1
        return Merged(active[:0], left, copies)

    def draft(self, decoding: Ids) -> Ids:
        enough = _WORTH * len(decoding) / (len(decoding) + 15)
        drafts, *self._drafted = ngrams.draft(self._ngrams, self._sequences, decoding, enough)
        return drafts

    def tree(self, left: Ids, decoding: Ids) -> PrefixTree | None:
        if self._tree and 2 * len(left) <= self._tree.size:
            self._tree = None  # the others have gone
        if self._cascade and len(decoding) and (self._tree is None or (self._tree.shared[decoding] < 0).any()):
            self._tree = PrefixTree(self._sequences.ids, left, self._sequences.cached[left])
        return self._tree

    def accept(self, slots: Ids, drafts: Ids, drawn: Ids, cumulative: Tensor | None) -> Ids:
        probabilities = np.empty((len(drawn), 0)) if cumulative is None else cumulative.numpy()
        merging.remember(self._sequences, slots, self._histories, drafts, drawn, probabilities)
        ended, taken = accept(self._sequences, slots, drafts, drawn, self._ends)
        ngrams.judge(self._ngrams, self._sequences, slots, taken, *self._drafted)
        return slots[ended]
