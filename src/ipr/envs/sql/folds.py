"""Aggregates that SQLite lacks: a value of many rows."""

from __future__ import annotations

import math
from typing import Any

from ipr.envs.sql.collation import key
from ipr.envs.sql.errors import ONE_ROW, MySqlError, NotExactError
from ipr.envs.sql.filesort import Sorting, arranged

MOST = 1_000_000
"""Characters that GROUP_CONCAT takes in."""


class _Running:
    """An aggregate that may stand over a window, where rows only come and none goes."""

    value: Any

    def inverse(self, *_: Any) -> None:
        raise NotExactError("This function over a window whose rows go again")

    def finalize(self) -> Any:
        return self.value()


class _Only:
    """The value of a nested query that may give one row at most."""

    def __init__(self) -> None:
        self.value, self.rows = None, 0

    def step(self, value: Any) -> None:
        self.value, self.rows = value, self.rows + 1
        if self.rows > 1:
            raise MySqlError(ONE_ROW)

    def finalize(self) -> Any:
        return self.value


class _FirstSeen:
    def __init__(self) -> None:
        self.value, self.seen = None, False

    def step(self, value: Any) -> None:
        if not self.seen:
            self.value, self.seen = value, True

    def finalize(self) -> Any:
        return self.value


class _Least(_Running):
    """The first of texts in MySQL's order."""

    def __init__(self) -> None:
        self.best: str | None = None

    def step(self, value: Any) -> None:
        if value is not None and (self.best is None or self._before(key(value), key(self.best))):
            self.best = value

    def _before(self, a: str, b: str) -> bool:
        return a < b

    def value(self) -> Any:
        return self.best


class _Most(_Least):
    def _before(self, a: str, b: str) -> bool:
        return a > b


class _Spread(_Running):
    """Variance by Welford's method, as the server works it out."""

    samples, root = 0, True

    def __init__(self) -> None:
        self.n, self.mean, self.sum = 0, 0.0, 0.0

    def step(self, value: Any) -> None:
        if value is None:
            return
        self.n += 1
        before = self.mean
        self.mean += (value - before) / self.n
        self.sum += (value - before) * (value - self.mean)

    def value(self) -> Any:
        if self.n <= self.samples:
            return None
        found = self.sum / (self.n - self.samples)
        return math.sqrt(found) if self.root else found


class _SampleSpread(_Spread):
    samples = 1


class _Variance(_Spread):
    root = False


class _SampleVariance(_Variance):
    samples = 1


class _Bits(_Running):
    """BIT_OR and its like, of integers in 64 bits with their sign."""

    start = 0

    def __init__(self) -> None:
        self.bits = self.start

    def step(self, value: Any) -> None:
        if value is not None:
            self.bits = self._joined(value)

    def _joined(self, value: int) -> int:
        return self.bits | value

    def value(self) -> Any:
        return self.bits


class _AllBits(_Bits):
    start = -1

    def _joined(self, value: int) -> int:
        return self.bits & value


class _OddBits(_Bits):
    def _joined(self, value: int) -> int:
        return self.bits ^ value


class _Joined:
    """GROUP_CONCAT: separator, how, text, its key, and the keys of its order."""

    MOST = 1024

    def __init__(self) -> None:
        self.found: list[tuple[Any, ...]] = []
        self.size, self.separator, self.how = 0, ",", "N"

    def step(self, separator: str, how: str, text: Any, same: Any, *keys: Any) -> None:
        if text is None:
            return
        self.separator, self.how = separator, how
        self.size += len(text)
        if self.size > MOST:
            raise OverflowError
        self.found.append((text, same, keys))

    def finalize(self) -> Any:
        rows = self.found
        if not rows:
            return None
        if self.how[0] == "D":
            seen: set[Any] = set()
            rows = [r for r in rows if not (r[1] in seen or seen.add(r[1]))]
        if len(self.how) > 1:  # its tree puts what is equal before what came earlier
            rows = rows[::-1]
        for k in reversed(range(len(self.how) - 1)):
            rows = sorted(rows, key=lambda r: (r[2][k] is not None, r[2][k]), reverse=self.how[k + 1] == "d")
        joined = self.separator.join(r[0] for r in rows)
        return joined.encode(errors="replace")[: self.MOST].decode(errors="ignore")


class _Filesorted:
    """For each row its place, from 1, in 4 bytes; 0 where LIMIT leaves it out. Of number, places, and how to sort."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, ...]] = []
        self.sorting: Sorting | None = None

    def step(self, number: int, first: int | None, place: int, *how: int) -> None:
        if self.sorting is None:
            texts, queue, limit, offset, limited = how
            self.sorting = Sorting(bool(texts), bool(queue), limit, offset, first is not None, bool(limited))
        self.rows.append((number, place) if first is None else (number, first, place))

    def finalize(self) -> bytes:
        rows = sorted(self.rows)
        places = [0] * len(rows)
        for place, k in enumerate(arranged(rows, self.sorting) if self.sorting is not None else (), 1):
            places[k] = place
        return b"".join(place.to_bytes(4, "big") for place in places)


AGGREGATES: dict[str, tuple[int, type]] = {
    "only": (1, _Only),
    "first_seen": (1, _FirstSeen),
    "min_text": (1, _Least),
    "max_text": (1, _Most),
    "std_pop": (1, _Spread),
    "std_samp": (1, _SampleSpread),
    "var_pop": (1, _Variance),
    "var_samp": (1, _SampleVariance),
    "bits_or": (1, _Bits),
    "bits_and": (1, _AllBits),
    "bits_xor": (1, _OddBits),
    "join_texts": (-1, _Joined),
    "filesorted": (8, _Filesorted),
}
WINDOWED = frozenset(name for name, (_, made) in AGGREGATES.items() if issubclass(made, _Running))
