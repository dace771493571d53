"""Progress of long loops: a bar on a terminal, plain lines (at most one in ten seconds) elsewhere and in the log.

The log is `ipr.progress`, which nobody prints: Prefect's pages take it from there (`tasks.common`).
"""

from __future__ import annotations

import contextlib
import logging
import sys
import time

from ipr.types import Progress

log = logging.getLogger("ipr.progress")
log.propagate = False


def progress(label: str, unit: str) -> Progress:
    """A callback that shows label, share, rate and time left on standard error."""
    bar = _bar(label, unit) if sys.stderr.isatty() else None
    start, shown = time.monotonic(), 0.0

    def show(done: int, total: int) -> None:
        nonlocal shown
        if bar is not None:
            bar(done, total)
        now = time.monotonic()
        if now - shown < 10 and done < total:
            return
        shown = now
        rate = done / max(now - start, 1e-9)
        left = (total - done) / rate if rate else 0.0
        line = f"{label}: {done}/{total} {unit}, {rate:.1f}/s, {left:.0f} s left"
        log.info(line)
        if bar is None:
            with contextlib.suppress(OSError):  # who read it has gone; the work goes on
                print(line, file=sys.stderr, flush=True)

    return show


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
