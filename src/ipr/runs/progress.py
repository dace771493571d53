"""Progress of long loops: a bar on a terminal, plain lines (at most one in ten seconds) elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time

from ipr.types import Progress


def progress(label: str, unit: str) -> Progress:
    """A callback that shows label, share, rate and time left on standard error."""
    if sys.stderr.isatty():
        return _bar(label, unit)
    start, shown = time.monotonic(), 0.0

    def line(done: int, total: int) -> None:
        nonlocal shown
        now = time.monotonic()
        if now - shown < 10 and done < total:
            return
        shown = now
        rate = done / max(now - start, 1e-9)
        left = (total - done) / rate if rate else 0.0
        with contextlib.suppress(OSError):  # who read it has gone; the work goes on
            print(f"{label}: {done}/{total} {unit}, {rate:.1f}/s, {left:.0f} s left", file=sys.stderr, flush=True)

    return line


def _bar(label: str, unit: str) -> Progress:
    from tqdm import tqdm

    bar: tqdm | None = None

    def move(done: int, total: int) -> None:
        nonlocal bar
        if bar is None:
            bar = tqdm(total=total, desc=label, unit=unit, leave=True)
        bar.update(done - bar.n)
        if done >= total:
            bar.close()
            bar = None

    return move
