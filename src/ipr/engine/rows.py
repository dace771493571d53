"""The tokens of each row of the pool: what they have come to, what was drawn after the same ones, what to guess next.

Loops over arrays, compiled: a pass of a small model takes milliseconds, and each of numpy's calls microseconds of it.
"""

from __future__ import annotations

from collections.abc import Container, Hashable, Iterable
from heapq import heappop, heappush
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ipr.engine.attention import Ids
from ipr.engine.kernels import compiled

Hashes = NDArray[np.uint64]
Uniforms = NDArray[np.float64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_SEEN, _LIKELIEST = 1 << 16, 8
"""Distributions that are remembered, and tokens of each."""
_LIKELY = 1 / 64
"""Probability of tokens that are remembered."""
_STRIDE = 16
"""Tokens whose probabilities are looked at together first."""
_MOST_FOLLOWED = 32
"""Most tokens that a row follows others before the next pass, for which all wait."""
_CONTEXTS = (3, 8)
"""Tokens that a guess of the next one is made from."""
_WEIGHTS = np.random.default_rng(0).integers(1 << 40, size=_CONTEXTS[-1]) | 1
_PLACES = 1 << 17
"""Contexts that a guess is kept for."""
_MOST_GUESSES = 15
_CONFIRMED = 3
"""How often a guess may be confirmed until it makes no difference any more."""


class Texts(NamedTuple):
    """Arrays [slots] of what rows have, in a form that compiled loops take."""

    ids: Ids
    """[slots, T]"""
    hashes: Hashes
    """[slots, T + 1], of the first n tokens: equal for equal tokens, else with a probability of about 2**-64."""
    powers: Hashes
    """[T], by which tokens count in hashes."""
    lengths: Ids
    """Tokens whose key-values the pool holds."""
    known: Ids
    """Tokens that are there: the turn's prompt and what was drawn after it."""
    starts: Ids
    """Where the turn's prompt ends."""
    limits: Ids
    """Of `known`."""
    seeds: Hashes
    leaders: Ids
    """The row that was fed what this one drew without being fed; -1 where it was fed itself."""

    @classmethod
    def empty(cls, slots: int, max_length: int) -> Texts:
        return cls(
            ids=np.zeros((slots, max_length), dtype=np.int64),
            hashes=np.zeros((slots, max_length + 1), dtype=np.uint64),
            powers=np.cumprod(np.full(max_length, _GOLDEN, dtype=np.uint64)),
            lengths=np.zeros(slots, dtype=np.int64),
            known=np.zeros(slots, dtype=np.int64),
            starts=np.zeros(slots, dtype=np.int64),
            limits=np.zeros(slots, dtype=np.int64),
            seeds=np.zeros(slots, dtype=np.uint64),
            leaders=np.full(slots, -1),
        )

    def begin(self, row: int, held: int, prompt: Ids, seed: int, limit: int, guesses: Guesses) -> None:
        """A turn of which the row holds so many tokens."""
        self.known[row] = self.lengths[row] = held
        _extend(self, row, guesses, prompt[held:])
        self.starts[row], self.limits[row], self.seeds[row], self.leaders[row] = len(prompt), limit, seed, -1

    def written(self, row: int) -> Ids:
        """What was drawn in the turn."""
        return self.ids[row, self.starts[row] : self.known[row]]

    def lacking(self, rows: Ids) -> Ids:
        """How many tokens are to be fed."""
        return self.known[rows] - self.lengths[rows]

    def held(self, row: int) -> Ids:
        return self.ids[row, : self.lengths[row]]

    def holder(self, ids: Ids) -> int:
        """The row that holds most of the beginning of `ids`."""
        same = self.ids[:, : len(ids)] == ids
        common = np.where(same.all(1), len(ids), same.argmin(1)) if len(ids) else self.lengths
        return int(np.minimum(common, self.lengths).argmax())


class Rows:
    """Which session owns which row of the texts."""

    def __init__(self, texts: Texts):
        self._texts = texts
        self._of: dict[Hashable, int] = {}
        """Session -> row, the session that was idle longest first."""
        self._free = list(range(len(texts.ids)))
        """A heap: lowest rows first, so that neighbours in a call are neighbours in the pool."""

    def take(self, session: Hashable, busy: Container[int]) -> int:
        """The session's row, or an empty one, if need be that of a session that is not busy; not all rows are."""
        if session in self._of:
            row = self._of[session] = self._of.pop(session)
            if row in busy:
                raise ValueError("a session has one turn at a time")
            return row
        if not self._free:
            self.close(next(other for other, row in self._of.items() if row not in busy))
        row = heappop(self._free)
        self._texts.lengths[row] = 0
        if session is not None:
            self._of[session] = row
        return row

    @property
    def idle(self) -> bool:
        return not self._of

    def close(self, session: Hashable) -> None:
        if session in self._of:
            self.free([self._of[session]])

    def free(self, rows: Iterable[int]) -> None:
        gone = set(rows) - set(self._free)
        self._of = {session: row for session, row in self._of.items() if row not in gone}
        for row in gone:
            heappush(self._free, row)  # what it holds may still be taken over

    def forget(self) -> None:
        """What rows hold that nobody owns."""
        self._texts.lengths[self._free] = 0


class Seen(NamedTuple):
    """What was drawn from after which tokens, so that others draw from the same without a pass.

    Kept are likely tokens with the piece of [0, 1) that each of them is drawn for: what falls elsewhere is not known.
    A new distribution takes the place of an old one by its hash.
    """

    hashes: Hashes
    rows: Ids
    tokens: Ids
    low: Uniforms
    high: Uniforms

    @classmethod
    def empty(cls) -> Seen:
        shape = _SEEN, _LIKELIEST
        hashes, rows = np.zeros(_SEEN, dtype=np.uint64), np.zeros(_SEEN, dtype=np.int64)
        return cls(hashes, rows, np.zeros(shape, dtype=np.int64), np.zeros(shape), np.zeros(shape))

    def forget(self) -> None:
        self.hashes[:] = 0


class Guesses(NamedTuple):
    """What came after the same tokens the last time that they were read or written: the same 8, or else the same 3.

    Of how many tokens, and how often that was confirmed, is a guess's kind; how often those of its kind are right is
    what is expected of it.
    """

    next: Ids
    """[contexts, places], by a hash of the context; two that share one only make each other's guesses wrong."""
    confirmed: Ids
    right: NDArray[np.float64]
    """The share that is right, of late, by kind; kind 0 is no guess at all."""

    @classmethod
    def empty(cls) -> Guesses:
        shape = len(_CONTEXTS), _PLACES
        return cls(np.full(shape, -1), np.zeros(shape, np.int64), np.zeros(1 + len(_CONTEXTS) * (_CONFIRMED + 1)))

    def forget(self) -> None:
        self.next[:] = -1
        self.confirmed[:], self.right[:] = 0, 0


def uniforms(seeds: Hashes, index: int | Ids) -> Uniforms:
    """In [0, 1): element `index` of the SplitMix64 stream that starts at each seed (Steele et al. 2014)."""
    return _uniforms(seeds, np.broadcast_to(index, seeds.shape))


@compiled
def chances(texts, rows, worth):
    """Uniforms [N] to draw the next worth[i] + 1 tokens of rows[i] by."""
    found, at = np.empty(worth.sum() + len(rows)), 0
    for i in range(len(rows)):
        place = texts.known[rows[i]] - texts.starts[rows[i]]
        for t in range(worth[i] + 1):
            found[at] = _uniform(texts.seeds[rows[i]], place + t)
            at += 1
    return found


@compiled
def _uniforms(seeds, index):
    found = np.empty(len(seeds))
    for i in range(len(seeds)):
        found[i] = _uniform(seeds[i], index[i])
    return found


@compiled
def _uniform(seed, index):
    z = seed + np.uint64(index + 1) * _GOLDEN
    z = (z ^ (z >> np.uint64(30))) * _MIX[0]
    z = (z ^ (z >> np.uint64(27))) * _MIX[1]
    return np.float64((z ^ (z >> np.uint64(31))) >> np.uint64(11)) * 2.0**-53


@compiled
def _hash(texts, before, place, token):
    return before + np.uint64(token + 1) * texts.powers[place]


@compiled
def _place(tokens, end, size):
    """Of the context of this size before `end`."""
    found = np.int64(0)
    for j in range(size):
        found += tokens[end - size + j] * _WEIGHTS[j]
    return (found >> 12) % _PLACES


@compiled
def _learn(texts, row, guesses, token):
    """Enter what comes after the row's last tokens."""
    for c in range(len(_CONTEXTS)):
        if texts.known[row] >= _CONTEXTS[c]:
            place = _place(texts.ids[row], texts.known[row], _CONTEXTS[c])
            same = guesses.next[c, place] == token
            guesses.confirmed[c, place] = min(guesses.confirmed[c, place] + 1, _CONFIRMED) if same else 0
            guesses.next[c, place] = token


@compiled
def _append(texts, row, token):
    n = texts.known[row]
    texts.ids[row, n] = token
    texts.hashes[row, n + 1] = _hash(texts, texts.hashes[row, n], n, token)
    texts.known[row] = n + 1


@compiled
def _extend(texts, row, guesses, tokens):
    for token in tokens:
        _learn(texts, row, guesses, token)
        _append(texts, row, token)


@compiled
def different(texts, rows):
    """Of rows with the same tokens the one that lacks least."""
    kept, n = np.empty_like(rows), 0
    for row in rows:
        same, known = 0, texts.known[row]
        while same < n and texts.hashes[kept[same], texts.known[kept[same]]] != texts.hashes[row, known]:
            same += 1
        if same == n or known - texts.lengths[row] < texts.known[kept[same]] - texts.lengths[kept[same]]:
            kept[same] = row
            n = max(n, same + 1)
    return kept[:n]


@compiled
def _slot(hashed):
    """Of what is seen after the tokens of this hash."""
    return np.int64(hashed >> np.uint64(40)) % _SEEN


@compiled
def follow(texts, rows, seen, sampled, ends):
    """Draw what follows on tokens after which others have drawn; which of the rows [n] ended, and how many tokens."""
    ended, n = np.zeros(len(rows), dtype=np.bool_), 0
    for i in range(len(rows)):
        row = rows[i]
        for _ in range(_MOST_FOLLOWED):
            known = texts.known[row]
            hashed = texts.hashes[row, known]
            place = _slot(hashed)
            if seen.hashes[place] != hashed:
                break
            u = _uniform(texts.seeds[row], known - texts.starts[row]) if sampled else 0.0
            token = -1
            for j in range(seen.tokens.shape[1]):
                if seen.low[place, j] <= u < seen.high[place, j]:
                    token = seen.tokens[place, j]
                    break
            if token < 0:
                break
            _append(texts, row, token)
            texts.leaders[row] = seen.rows[place]
            n += 1
            if token in ends or texts.known[row] == texts.limits[row]:
                ended[i] = True
                break
    return ended, n


@compiled
def keep(texts, rows, seen, likely, worth, drawn, cumulative):
    """Remember what was drawn from after each row's tokens, and after each guess that was fed.

    drawn [N] are the tokens and cumulative [N, V] the probabilities, added up, that they were drawn from; [N, 0] where
    nothing else would be drawn. Of rows[i] they are the next worth[i] + 1, likely[i] being its guesses.
    """
    size, at = cumulative.shape[1], 0
    for i in range(len(rows)):
        known = texts.known[rows[i]]
        hashed = texts.hashes[rows[i], known]
        for t in range(worth[i] + 1):
            place = _slot(hashed)
            seen.hashes[place], seen.rows[place] = hashed, rows[i]
            seen.low[place], seen.high[place] = 0, 0
            if size == 0:
                seen.tokens[place, 0], seen.high[place, 0] = drawn[at], 1
            else:
                found, whole, below = 0, cumulative[at, size - 1], 0.0
                for start in range(0, size, _STRIDE):  # most are unlikely together
                    end = min(start + _STRIDE, size)
                    if cumulative[at, end - 1] - below >= _LIKELY * whole:
                        for token in range(start, end):
                            if cumulative[at, token] - below >= _LIKELY * whole and found < seen.tokens.shape[1]:
                                seen.tokens[place, found] = token
                                seen.low[place, found] = below / whole
                                seen.high[place, found] = cumulative[at, token] / whole
                                found += 1
                            below = cumulative[at, token]
                    below = cumulative[at, end - 1]
            if t < worth[i]:
                hashed = _hash(texts, hashed, known + t, likely[i, t])
            at += 1


@compiled
def guess(texts, rows, guesses, enough):
    """What may be drawn next [n, T], its kinds, and how much of that is fed [n]: what is right with `enough` chance.

    What is fed is written after what is known.
    """
    likely = np.zeros((len(rows), _MOST_GUESSES + 1), dtype=np.int64)
    kinds, worth = np.zeros_like(likely), np.zeros(len(rows), dtype=np.int64)
    for i in range(len(rows)):
        text, known, chance = texts.ids[rows[i]], texts.known[rows[i]], 1.0
        most = min(_MOST_GUESSES, texts.limits[rows[i]] - known - 1)
        for t in range(most + 1):
            for c in range(len(_CONTEXTS)):
                if known + t >= _CONTEXTS[c]:
                    place = _place(text, known + t, _CONTEXTS[c])
                    if guesses.next[c, place] >= 0:
                        likely[i, t] = guesses.next[c, place]
                        kinds[i, t] = 1 + c * (_CONFIRMED + 1) + guesses.confirmed[c, place]
            chance *= guesses.right[kinds[i, t]]
            if chance < enough or t == most:
                break
            text[known + t] = likely[i, t]
            worth[i] += 1
    return likely, kinds, worth


@compiled
def accept(texts, rows, guesses, likely, kinds, worth, drawn, ends):
    """Take what was drawn [N], of rows[i] the next worth[i] + 1, as far as it was drawn after right guesses.

    Which of the rows [n] ended. likely and kinds are those of the first rows, others were not guessed for.
    """
    ended, at = np.zeros(len(rows), dtype=np.bool_), 0
    tried, hits = np.zeros_like(guesses.right), np.zeros_like(guesses.right)
    for i in range(len(rows)):
        row = rows[i]
        for t in range(worth[i] + 1):
            token = drawn[at + t]
            _learn(texts, row, guesses, token)
            _append(texts, row, token)
            right = i < len(likely) and likely[i, t] == token
            if i < len(likely):
                tried[kinds[i, t]] += 1
                hits[kinds[i, t]] += right
            if token in ends or texts.known[row] == texts.limits[row]:
                ended[i] = True
                break
            if not right:
                break
        texts.lengths[row] = texts.known[row] - 1
        at += worth[i] + 1
    for kind in range(1, len(tried)):
        if tried[kind] > 0:
            guesses.right[kind] += (1 - 0.97 ** tried[kind]) * (hits[kind] / tried[kind] - guesses.right[kind])
    return ended
