"""Merging of equal histories: of slots that have come to the same tokens one is fed, the others draw from what it got.

Equal tokens give equal distributions, so a sample stays what it is: each slot draws with its own random numbers.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ipr.engine import checks
from ipr.engine.kernels import checked, compiled
from ipr.engine.sampling import Uniforms, uniform
from ipr.engine.slots import Hashes, Ids, append, hash_on

_HISTORIES, _LIKELIEST = 1 << 16, 8
"""Distributions that are remembered, and tokens of each."""
_LIKELY = 1 / 64
"""Probability of tokens that are remembered."""
_STRIDE = 16
"""Tokens whose probabilities are looked at together first."""
_MOST_FOLLOWED = 32
"""Most tokens that a slot follows others before the next pass, for which all wait."""


class Histories(NamedTuple):
    """What was drawn from after which tokens, so that others draw from the same without a pass.

    Kept are likely tokens with the piece of [0, 1) that each of them is drawn for: what falls elsewhere is not known.
    A new distribution takes the place of an old one by its hash.
    """

    hashes: Hashes
    slots: Ids
    """Where it was drawn."""
    tokens: Ids
    """[histories, likeliest], as `low` and `high`, between which a uniform draws the token."""
    low: Uniforms
    high: Uniforms
    leaders: Ids
    """By slot: the one that was fed what this one drew without being fed; -1 where it was fed itself."""

    @classmethod
    def empty(cls, slots: int) -> Histories:
        shape = _HISTORIES, _LIKELIEST
        hashes, where = np.zeros(_HISTORIES, dtype=np.uint64), np.zeros(_HISTORIES, dtype=np.int64)
        tokens, leaders = np.zeros(shape, dtype=np.int64), np.full(slots, -1)
        return cls(hashes, where, tokens, np.zeros(shape), np.zeros(shape), leaders)

    def forget(self) -> None:
        self.hashes[:] = 0


@compiled
def _place(hashed):
    """Of what is drawn after the tokens of this hash."""
    return np.int64(hashed >> np.uint64(40)) % _HISTORIES


@checked(checks.distinct)
@compiled
def distinct(sequences, slots):
    """Of slots with the same tokens the one that has least to be fed."""
    kept, n = np.empty_like(slots), 0
    for slot in slots:
        same, known = 0, sequences.known[slot]
        while same < n and sequences.hashes[kept[same], sequences.known[kept[same]]] != sequences.hashes[slot, known]:
            same += 1
        if same == n or known - sequences.cached[slot] < sequences.known[kept[same]] - sequences.cached[kept[same]]:
            kept[same] = slot
            n = max(n, same + 1)
    return kept[:n]


@checked(checks.follow)
@compiled
def follow(sequences, slots, histories, sampled, ends):
    """Draw what follows on tokens after which others have drawn; which of the slots [n] ended, and how many tokens."""
    ended, n = np.zeros(len(slots), dtype=np.bool_), 0
    for i in range(len(slots)):
        slot = slots[i]
        for _ in range(_MOST_FOLLOWED):
            known = sequences.known[slot]
            hashed = sequences.hashes[slot, known]
            place = _place(hashed)
            if histories.hashes[place] != hashed:
                break
            u = uniform(sequences.seeds[slot], known - sequences.prompts[slot]) if sampled else 0.0
            token = -1
            for j in range(histories.tokens.shape[1]):
                if histories.low[place, j] <= u < histories.high[place, j]:
                    token = histories.tokens[place, j]
                    break
            # That slot has their key-values, also for whoever draws an unlikely token and so has to be fed.
            histories.leaders[slot] = histories.slots[place]
            if token < 0:
                break
            append(sequences, slot, token)
            n += 1
            if token in ends or sequences.known[slot] == sequences.limits[slot]:
                ended[i] = True
                break
    return ended, n


@checked(checks.remember)
@compiled
def remember(sequences, slots, histories, drafts, drawn, cumulative):
    """Remember what was drawn from after each slot's tokens, and after each draft that was fed.

    drawn [N] are the tokens and cumulative [N, V] the probabilities, added up, that they were drawn from; [N, 0] where
    nothing else would be drawn. Of slots[i] they are the next drafts[i] + 1.
    """
    size, at = cumulative.shape[1], 0
    for i in range(len(slots)):
        known = sequences.known[slots[i]]
        hashed = sequences.hashes[slots[i], known]
        for t in range(drafts[i] + 1):
            place = _place(hashed)
            histories.hashes[place], histories.slots[place] = hashed, slots[i]
            histories.low[place], histories.high[place] = 0, 0
            if size == 0:
                histories.tokens[place, 0], histories.high[place, 0] = drawn[at], 1
            else:
                found, whole, below = 0, cumulative[at, size - 1], 0.0
                for start in range(0, size, _STRIDE):  # most are unlikely together
                    end = min(start + _STRIDE, size)
                    if cumulative[at, end - 1] - below >= _LIKELY * whole:
                        for token in range(start, end):
                            likely = cumulative[at, token] - below >= _LIKELY * whole
                            if likely and found < histories.tokens.shape[1]:
                                histories.tokens[place, found] = token
                                histories.low[place, found] = below / whole
                                histories.high[place, found] = cumulative[at, token] / whole
                                found += 1
                            below = cumulative[at, token]
                    below = cumulative[at, end - 1]
            if t < drafts[i]:
                hashed = hash_on(sequences, hashed, known + t, sequences.ids[slots[i], known + t])
            at += 1
