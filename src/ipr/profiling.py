"""Where the time of this process goes: seconds by part, and what was done in them. Always on: a microsecond a call.

Decided here: one account a process, so that no signature carries it; who wants a stage's share takes the difference of
two moments (`since`). A worker's share is handed over with its results and added to the main process's (`add`).
Not for threads: only one thread of a process plays or trains.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

PARTS = ("model", "environment", "tokenizer", "io", "training", "waiting")
"""model: forward passes and drawing tokens; io: data sets and models, read and written; waiting: for workers."""
COUNTS = ("episodes", "joined", "tokens", "followed")
"""episodes: played here; joined: not played, because another one was; tokens: that the agent wrote; followed: of
these, the ones that took no forward pass, as another episode had come to the same tokens."""
WORKERS = "workers"
"""Seconds of the workers, which run beside those of the main process."""

_spent: Counter[str] = Counter()
_in_parts = 0.0


@contextmanager
def timed(part: str) -> Iterator[None]:
    """Count the time in the block as `part`'s, less what parts inside it take."""
    global _in_parts
    before, start = _in_parts, time.perf_counter()
    try:
        yield
    finally:
        own = time.perf_counter() - start - (_in_parts - before)
        _spent[part] += own  # type: ignore[assignment]  # seconds are no whole numbers
        _in_parts += own


def count(what: str, n: int) -> None:
    _spent[what] += n


def add(share: Mapping[str, float]) -> None:
    """A worker's share, as `since` has it."""
    _spent.update({key: share[key] for key in (*PARTS, *COUNTS) if key in share})  # type: ignore[arg-type]
    _spent[WORKERS] += share["seconds"]  # type: ignore[assignment]


def now() -> tuple[float, Counter[str]]:
    """The present moment, for `since`."""
    return time.perf_counter(), _spent.copy()


def since(moment: tuple[float, Mapping[str, float]]) -> dict[str, float]:
    """ "seconds" on the clock, "workers" (their seconds together), the seconds of each part and "other", the counts.

    Parts and other make up the seconds and the workers' seconds.
    """
    start, before = moment
    seconds = time.perf_counter() - start
    found = {key: _spent[key] - before.get(key, 0) for key in (WORKERS, *PARTS, *COUNTS)}
    other = seconds + found[WORKERS] - sum(found[part] for part in PARTS)
    return {key: round(v, 3) for key, v in ({"seconds": seconds} | found | {"other": max(other, 0.0)}).items()}
