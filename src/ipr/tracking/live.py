"""What MLflow sees of a run while it is played: curves while they are made, and the machine's load.

Decided here: sending is a thread's matter, so no training waits for a server; one that is down is tried again with the
next `EVERY` seconds, and in the end the stage's own sync has everything.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from ipr.tracking import Tracker

EVERY = 15.0
"""Seconds between two sendings."""
WAIT = 10.0
"""Seconds at most that a stage's end waits for what is being sent."""


@contextlib.contextmanager
def curve(tracker: Tracker, prefix: str, iteration: int) -> Iterator[Any]:
    """A function for `trainer.train(log=...)`: figures of an update become points of the iteration's curves at once."""
    done = threading.Event()

    def send() -> None:
        while not done.wait(EVERY):
            tracker.sync(quietly=True)

    def log(update: int, figures: Mapping[str, float]) -> None:
        tracker.metrics({f"{prefix}/{key}": v for key, v in figures.items()}, step=update, iteration=iteration)

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    try:
        yield log
    finally:
        done.set()
        thread.join(WAIT)


@contextlib.contextmanager
def system_metrics(tracker: Tracker) -> Iterator[None]:
    """The machine's load in the run's "system metrics" of MLflow, every ten seconds. Never raises."""
    monitor = None
    with contextlib.suppress(Exception):  # a server that is down, or another database than before
        if (run := tracker.run_id()) is not None:
            from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

            logging.getLogger("mlflow").setLevel(logging.CRITICAL)
            monitor = SystemMetricsMonitor(
                run, sampling_interval=5, samples_before_logging=2, resume_logging=True, tracking_uri=tracker.uri
            )
            monitor.start()
    try:
        yield
    finally:
        if monitor is not None:
            ending = threading.Thread(target=monitor.finish, daemon=True)
            ending.start()
            ending.join(WAIT)
