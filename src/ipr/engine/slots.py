"""The slots of the engine's batch (the field's word): what token ids the sequence in each has, and whose it is."""

from __future__ import annotations

from collections.abc import Container, Hashable, Iterable
from heapq import heappop, heappush
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ipr.engine import checks
from ipr.engine.kernels import checked, compiled

Ids = NDArray[np.int64]
Hashes = NDArray[np.uint64]

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
"""2**64 over the golden ratio, odd: its multiples and powers are spread evenly (Knuth)."""


class Sequences(NamedTuple):
    """The token ids in the slots, one sequence each: arrays, in a form that compiled loops take."""

    ids: Ids
    """[slots, T]; those after the `known` ones may be drafts (see `accelerate`)."""
    hashes: Hashes
    """[slots, T + 1], of the first n tokens: equal for equal tokens, else with a probability of about 2**-64."""
    powers: Hashes
    """[T], by which tokens count in hashes."""
    cached: Ids
    """[slots], tokens whose key-values the pool holds."""
    known: Ids
    """[slots], tokens that are there: the turn's prompt and what was drawn after it."""
    prompts: Ids
    """[slots], tokens of the turn's prompt."""
    limits: Ids
    """[slots], of `known`."""
    seeds: Hashes
    """[slots], the turns'."""

    @classmethod
    def empty(cls, slots: int, max_length: int) -> Sequences:
        return cls(
            ids=np.zeros((slots, max_length), dtype=np.int64),
            hashes=np.zeros((slots, max_length + 1), dtype=np.uint64),
            powers=np.cumprod(np.full(max_length, GOLDEN, dtype=np.uint64)),
            cached=np.zeros(slots, dtype=np.int64),
            known=np.zeros(slots, dtype=np.int64),
            prompts=np.zeros(slots, dtype=np.int64),
            limits=np.zeros(slots, dtype=np.int64),
            seeds=np.zeros(slots, dtype=np.uint64),
        )

    def begin(self, slot: int, prompt: Ids, *, cached: int, seed: int, limit: int) -> None:
        """A turn, of whose prompt the slot has so many tokens in the cache already."""
        self.known[slot] = self.cached[slot] = cached
        _extend(self, slot, prompt[cached:])
        self.prompts[slot], self.limits[slot], self.seeds[slot] = len(prompt), limit, seed

    def written(self, slot: int) -> Ids:
        """What was drawn in the turn."""
        return self.ids[slot, self.prompts[slot] : self.known[slot]]

    def uncached(self, slots: Ids) -> Ids:
        """How many tokens are to be fed."""
        return self.known[slots] - self.cached[slots]

    def in_cache(self, slot: int) -> Ids:
        return self.ids[slot, : self.cached[slot]]

    def holder(self, ids: Ids) -> int:
        """The slot in whose cache most of the beginning of `ids` is."""
        same = self.ids[:, : len(ids)] == ids
        common = np.where(same.all(1), len(ids), same.argmin(1)) if len(ids) else self.cached
        return int(np.minimum(common, self.cached).argmax())


class Slots:
    """Which session owns which slot."""

    def __init__(self, sequences: Sequences):
        self._sequences = sequences
        self._of: dict[Hashable, int] = {}
        """Session -> slot, the session that was idle longest first."""
        self._free = list(range(len(sequences.ids)))
        """A heap: lowest slots first, so that neighbours in a call are neighbours in the pool."""

    def take(self, session: Hashable, busy: Container[int]) -> int:
        """The session's slot, or an empty one, if need be that of a session that is not busy; not all slots are."""
        if session in self._of:
            slot = self._of[session] = self._of.pop(session)
            if slot in busy:
                raise ValueError("a session has one turn at a time")
            return slot
        if not self._free:
            self.close(next(other for other, slot in self._of.items() if slot not in busy))
        slot = heappop(self._free)
        self._sequences.cached[slot] = 0
        if session is not None:
            self._of[session] = slot
        return slot

    @property
    def idle(self) -> bool:
        """No session owns any."""
        return not self._of

    def close(self, session: Hashable) -> None:
        if session in self._of:
            self.free([self._of[session]])

    def free(self, slots: Iterable[int]) -> None:
        gone = set(slots) - set(self._free)
        self._of = {session: slot for session, slot in self._of.items() if slot not in gone}
        for slot in gone:
            heappush(self._free, slot)  # what is in its cache may still be taken over

    def forget(self) -> None:
        """What is in the cache of slots that nobody owns."""
        self._sequences.cached[self._free] = 0


def common_length(a: Ids, b: Ids) -> int:
    """How many first tokens two sequences share."""
    n = min(len(a), len(b))
    different = a[:n] != b[:n]
    return int(different.argmax()) if different.any() else n


@compiled
def hash_on(sequences, before, place, token):
    """The hash of the tokens whose hash is `before` and this one after them."""
    return before + np.uint64(token + 1) * sequences.powers[place]


@compiled
def append(sequences, slot, token):
    n = sequences.known[slot]
    sequences.ids[slot, n] = token
    sequences.hashes[slot, n + 1] = hash_on(sequences, sequences.hashes[slot, n], n, token)
    sequences.known[slot] = n + 1


@checked(checks.extend)
@compiled
def _extend(sequences, slot, tokens):
    for token in tokens:
        append(sequences, slot, token)


@checked(checks.accept)
@compiled
def accept(sequences, slots, drafts, drawn, ends):
    """Take what was drawn [sum of drafts + 1], of slots[i] the next drafts[i] + 1, as far as the drafts were right.

    Which of the slots [n] ended their turn, and how many tokens each took [n].
    """
    ended, taken, at = np.zeros(len(slots), dtype=np.bool_), np.zeros_like(slots), 0
    for i in range(len(slots)):
        slot = slots[i]
        for t in range(drafts[i] + 1):
            token, known = drawn[at + t], sequences.known[slot]
            right = t < drafts[i] and sequences.ids[slot, known] == token
            append(sequences, slot, token)
            taken[i] += 1
            if token in ends or known + 1 == sequences.limits[slot]:
                ended[i] = True
                break
            if not right:
                break
        sequences.cached[slot] = sequences.known[slot] - 1
        at += drafts[i] + 1
    return ended, taken
