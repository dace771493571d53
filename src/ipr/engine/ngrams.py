"""Speculative decoding by n-grams (prompt lookup): what came after the same tokens before is drafted, and fed too.

A draft that is right saves a pass, a wrong one is overwritten, and no token depends on it. Decided here: one table for
all sequences, and a draft is fed only where drafts of its kind have been right often enough of late.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ipr.engine import checks
from ipr.engine.kernels import checked, compiled
from ipr.engine.slots import Ids

_CONTEXTS = (3, 8)
"""Tokens that a draft of the next one is made from (n - 1 of the n-gram)."""
_WEIGHTS = np.random.default_rng(0).integers(1 << 40, size=_CONTEXTS[-1]) | 1
_PLACES = 1 << 17
"""Contexts that a token is kept for."""
_MOST_DRAFTED = 15
_CONFIRMED = 3
"""How often an n-gram may be confirmed until it makes no difference any more."""


class Ngrams(NamedTuple):
    """What came after the same tokens the last time that they were read or written: the same 8, or else the same 3.

    Of how many tokens, and how often that was confirmed, is a draft's kind; how often those of its kind are right is
    what is expected of it.
    """

    next: Ids
    """[contexts, places], by a hash of the context; two that share one only make each other's drafts wrong."""
    confirmed: Ids
    right: NDArray[np.float64]
    """The share that is right, of late, by kind; kind 0 is no draft at all."""

    @classmethod
    def empty(cls) -> Ngrams:
        shape = len(_CONTEXTS), _PLACES
        return cls(np.full(shape, -1), np.zeros(shape, np.int64), np.zeros(1 + len(_CONTEXTS) * (_CONFIRMED + 1)))

    def forget(self) -> None:
        self.next[:] = -1
        self.confirmed[:], self.right[:] = 0, 0


@compiled
def _place(tokens, end, size):
    """Of the context of this size before `end`."""
    found = np.int64(0)
    for j in range(size):
        found += tokens[end - size + j] * _WEIGHTS[j]
    return (found >> 12) % _PLACES


@compiled
def _enter(ngrams, tokens, n):
    """That tokens[n] comes after those before it."""
    for c in range(len(_CONTEXTS)):
        if n >= _CONTEXTS[c]:
            place = _place(tokens, n, _CONTEXTS[c])
            same = ngrams.next[c, place] == tokens[n]
            ngrams.confirmed[c, place] = min(ngrams.confirmed[c, place] + 1, _CONFIRMED) if same else 0
            ngrams.next[c, place] = tokens[n]


@checked(checks.learn)
@compiled
def learn(ngrams, sequences, slot, start):
    """Enter a slot's known tokens from `start` on."""
    for n in range(start, sequences.known[slot]):
        _enter(ngrams, sequences.ids[slot], n)


@checked(checks.draft)
@compiled
def draft(ngrams, sequences, slots, enough):
    """Write after each slot's known tokens what probably comes next: as much as is right with `enough` chance.

    How many are drafted [n]; then the likeliest tokens [n, T], one more than are drafted, and their kinds.
    """
    likely = np.zeros((len(slots), _MOST_DRAFTED + 1), dtype=np.int64)
    kinds, drafts = np.zeros_like(likely), np.zeros(len(slots), dtype=np.int64)
    for i in range(len(slots)):
        tokens, known, chance = sequences.ids[slots[i]], sequences.known[slots[i]], 1.0
        most = min(_MOST_DRAFTED, sequences.limits[slots[i]] - known - 1)
        for t in range(most + 1):
            for c in range(len(_CONTEXTS)):
                if known + t >= _CONTEXTS[c]:
                    place = _place(tokens, known + t, _CONTEXTS[c])
                    if ngrams.next[c, place] >= 0:
                        likely[i, t] = ngrams.next[c, place]
                        kinds[i, t] = 1 + c * (_CONFIRMED + 1) + ngrams.confirmed[c, place]
            chance *= ngrams.right[kinds[i, t]]
            if chance < enough or t == most:
                break
            tokens[known + t] = likely[i, t]
            drafts[i] += 1
    return drafts, likely, kinds


@checked(checks.judge)
@compiled
def judge(ngrams, sequences, slots, taken, likely, kinds):
    """Enter the last taken[i] tokens of slots[i], and whether they were the likely ones.

    likely and kinds are those that `draft` had for the first slots; for others nothing was drafted.
    """
    tried, hits = np.zeros_like(ngrams.right), np.zeros_like(ngrams.right)
    for i in range(len(slots)):
        tokens, first = sequences.ids[slots[i]], sequences.known[slots[i]] - taken[i]
        for t in range(taken[i]):
            _enter(ngrams, tokens, first + t)
            if i < len(likely):
                tried[kinds[i, t]] += 1
                hits[kinds[i, t]] += likely[i, t] == tokens[first + t]
    for kind in range(1, len(tried)):
        if tried[kind] > 0:
            ngrams.right[kind] += (1 - 0.97 ** tried[kind]) * (hits[kind] / tried[kind] - ngrams.right[kind])
