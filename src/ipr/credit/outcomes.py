"""Outcomes of the scorer's rollouts that any run has played, kept for all."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ipr import identity
from ipr.types import IprError, Job


class Outcomes:
    """Outcomes of the scorer's rollouts in one SQLite file, for any number of runs and processes.

    `scorer` is the digest of all that decides an outcome beside prefix and seed (`identity.playing`).
    Raises IprError where the file cannot be used.
    """

    def __init__(self, path: Path, scorer: str):
        self._path, self._scorer = path, scorer

    def find(self, jobs: Sequence[Job]) -> dict[Job, float]:
        """Those of the jobs whose outcome is known."""
        keys = {self._key(job): job for job in jobs}
        names, found = list(keys), {}
        with self._open() as file:
            for first in range(0, len(names), 500):
                asked = names[first : first + 500]
                marks = ",".join("?" * len(asked))
                rows = file.execute(f"SELECT job, reward FROM outcomes WHERE job IN ({marks})", asked)
                found |= {keys[name]: reward for name, reward in rows}
        return found

    def keep(self, outcomes: Mapping[Job, float]) -> None:
        with self._open() as file:
            rows = [(self._key(job), reward) for job, reward in outcomes.items()]
            file.executemany("INSERT OR IGNORE INTO outcomes VALUES (?, ?)", rows)

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """A connection of its own and one transaction; others wait for it."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.closing(sqlite3.connect(self._path, timeout=60)) as file, file:
                file.execute("CREATE TABLE IF NOT EXISTS outcomes (job BLOB PRIMARY KEY, reward REAL) WITHOUT ROWID")
                yield file
        except (OSError, sqlite3.Error) as error:
            raise IprError(f"algorithm.cache {self._path}: {error}; delete the file or name another one") from None

    def _key(self, job: Job) -> bytes:
        return identity.of_outcome(self._scorer, job)
