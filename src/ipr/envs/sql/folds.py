"""Aggregates that SQLite lacks: a value of many rows."""

from __future__ import annotations

import math
from typing import Any

from ipr.envs.sql.collation import key
from ipr.envs.sql.errors import ONE_ROW, MySqlError

MOST = 1_000_000
"""Characters that GROUP_CONCAT takes in."""


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


class _Least:
    """The first of texts in MySQL's order."""

    sign = 1

    def __init__(self) -> None:
        self.value: str | None = None

    def step(self, value: Any) -> None:
        if value is not None and (self.value is None or self._before(key(value), key(self.value))):
            self.value = value

    def _before(self, a: str, b: str) -> bool:
        return a < b

    def finalize(self) -> Any:
        return self.value


class _Most(_Least):
    def _before(self, a: str, b: str) -> bool:
        return a > b


class _Spread:
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

    def finalize(self) -> Any:
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
        for k in reversed(range(len(self.how) - 1)):
            rows = sorted(rows, key=lambda r: (r[2][k] is not None, r[2][k]), reverse=self.how[k + 1] == "d")
        joined = self.separator.join(r[0] for r in rows)
        return joined.encode(errors="replace")[: self.MOST].decode(errors="ignore")


AGGREGATES: dict[str, tuple[int, type]] = {
    "only": (1, _Only),
    "first_seen": (1, _FirstSeen),
    "min_text": (1, _Least),
    "max_text": (1, _Most),
    "std_pop": (1, _Spread),
    "std_samp": (1, _SampleSpread),
    "var_pop": (1, _Variance),
    "var_samp": (1, _SampleVariance),
    "join_texts": (-1, _Joined),
}
