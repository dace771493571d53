"""Step rewards: Monte Carlo by the fixed scorer, with the exact savings, and one whose error is set.

r_s(s_t, a_t) is the mean outcome reward of N rollouts of pi_s that continue after a_t; where a_t ends the episode it
is r_o itself (paper, section 3.2). Decided here: the samples of an action depend on (run seed, action's prefix, sample
index) alone, so an estimate is the same in every iteration and may be reused, because pi_s never changes. What is kept
for other runs is the outcome of each rollout, so that it serves any N and is there when sampling was curtailed.
"""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import comb, lgamma
from math import exp as e_to
from pathlib import Path
from statistics import fmean

from ipr.algorithms import Contrast
from ipr.types import IprError, Job, More, Prefix, StepReward, Trajectory, derive_seed


def known_outcomes(trajectories: Iterable[Trajectory]) -> dict[Prefix, float]:
    """Prefixes whose last action ended the episode, with the outcome reward."""
    return {t.prefix(len(t.steps)): t.reward for t in trajectories if t.ending != "overflow"}


def sample_jobs(prefix: Prefix, seed: int, indices: Iterable[int]) -> list[Job]:
    """The rollouts of the scorer that continue after the prefix's last action, by sample index."""
    key = prefix.key()
    return [Job(prefix, derive_seed(seed, "step-reward", key, i)) for i in indices]


class Outcomes:
    """Outcomes of the scorer's rollouts in one SQLite file, for any number of runs and processes.

    `scorer` is all that decides an outcome beside prefix and seed: weights, environment, sampling, number types.
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
        return hashlib.sha256(f"{self._scorer}\x1f{job.prefix.key()}\x1f{job.seed}".encode()).digest()[:16]


class Draws:
    """Which rollouts of the scorer are wanted, by what is known of the others; `ipr.types.More` while they are played.

    Samples of an action are drawn in their order, for actions that are compared with each other together, until all are
    there or no comparison can be decided otherwise any more. Which these are follows from the outcomes alone, never
    from the order in which they come.
    """

    def __init__(
        self,
        prefixes: Iterable[Prefix],
        contrasts: Sequence[Contrast],
        settled: Mapping[Prefix, float],
        rule: tuple[int, int, float | None, float],
        outcomes: Mapping[Job, float],
    ):
        """Of the prefixes' last actions; `settled` are means of others, `outcomes` known ones.

        rule: samples, seed, tau and error of `estimate`. Without tau all samples are wanted of every prefix.
        """
        samples, _, tau, _ = self._rule = rule
        self.counts = dict.fromkeys(prefixes, samples if tau is None else 0)
        """By prefix: how many samples are wanted so far."""
        self.outcomes = dict(outcomes)
        self._settled = settled
        self._groups = _connected(self.counts, contrasts)
        self._of = {p: group for group in self._groups for p in group.prefixes}

    def samples(self, prefix: Prefix) -> list[float]:
        """The outcomes that are wanted so far; all of them are there."""
        return [self.outcomes[job] for job in self._jobs(prefix)]

    def wanted(self) -> list[Job]:
        """What is to be played now."""
        return [job for group in self._groups for job in self._lacking(group) or self._next(group)]

    def after(self, job: Job, reward: float) -> list[Job]:
        self.outcomes[job] = reward
        group = self._of.get(job.prefix)
        return [] if group is None or self._lacking(group) else self._next(group)

    def part(self, jobs: Sequence[Job]) -> Draws:
        here = set(jobs)
        groups = list({id(group): group for job in jobs if (group := self._of.get(job.prefix))}.values())
        groups = [group for group in groups if here.issuperset(self._lacking(group))]
        prefixes = [p for group in groups for p in group.prefixes]
        contrasts = [c for group in groups for c in group.contrasts]
        settled = {p: self._settled[p] for c in contrasts for p in (c.ahead, c.behind) if p in self._settled}
        n, seed, *_ = self._rule
        known = {j: self.outcomes[j] for p in prefixes for j in sample_jobs(p, seed, range(n)) if j in self.outcomes}
        part = Draws(prefixes, contrasts, settled, self._rule, known)
        part.counts = {p: self.counts[p] for p in prefixes}
        return part

    def _jobs(self, prefix: Prefix) -> list[Job]:
        return sample_jobs(prefix, self._rule[1], range(self.counts[prefix]))

    def _lacking(self, group: _Group) -> list[Job]:
        return [job for p in group.prefixes for job in self._jobs(p) if job not in self.outcomes]

    def _next(self, group: _Group) -> list[Job]:
        """All that was wanted is there: what is wanted now."""
        n, _, tau, error = self._rule
        while tau is not None:
            values = {p: self.samples(p) for p in group.prefixes}
            values |= {
                p: [self._settled[p]] * n for c in group.contrasts for p in (c.ahead, c.behind) if p not in values
            }
            more: dict[Prefix, int] = {}
            for c in group.contrasts:
                missing = _missing(values[c.ahead], values[c.behind], n, tau, error)
                more |= {p: max(missing, more.get(p, 0)) for p in (c.ahead, c.behind) if p in self.counts}
            grown = {p: min(self.counts[p] + k, n) for p, k in more.items()}
            if all(self.counts[p] == count for p, count in grown.items()):
                break
            self.counts |= grown
            if lacking := self._lacking(group):
                return lacking
        return []


@dataclass(frozen=True)
class _Group:
    """Actions that are compared with each other, directly or by way of others."""

    prefixes: list[Prefix]
    contrasts: list[Contrast]


def _connected(prefixes: Iterable[Prefix], contrasts: Sequence[Contrast]) -> list[_Group]:
    """The prefixes in groups, in their order."""
    of = {p: _Group([p], []) for p in prefixes}
    for c in contrasts:
        sides = [of[p] for p in (c.ahead, c.behind) if p in of]
        if not sides:
            continue
        group = sides[0]
        if len(sides) == 2 and sides[1] is not group:
            group.prefixes.extend(sides[1].prefixes)
            group.contrasts.extend(sides[1].contrasts)
            of |= dict.fromkeys(sides[1].prefixes, group)
        group.contrasts.append(c)
    return list({id(group): group for group in of.values()}.values())


def estimate(
    prefixes: Iterable[Prefix],
    play: Callable[[list[Job], More | None], Iterable[Trajectory]],
    *,
    samples: int,
    seed: int,
    known: Mapping[Prefix, float],
    reuse: Mapping[Prefix, StepReward] | None = None,
    contrasts: Sequence[Contrast] = (),
    curtail_at: float | None = None,
    error: float = 0.0,
    cache: Outcomes | None = None,
) -> tuple[dict[Prefix, StepReward], Counter[str]]:
    """The step reward of every prefix's last action; rollouts "played", "cached", "reused", "outcome", "curtailed".

    `play` plays jobs with the scorer, and may play what its second argument asks for with them. `known` are outcomes of
    finished episodes, `reuse` earlier estimates, `cache` outcomes of rollouts that any run has played.
    `curtail_at` = tau, where every prefix is part of a contrast, stops the samples of a contrast when no remaining
    outcome in [0, 1] can change whether the difference of the two means is above tau: the decisions are those of N.
    With `error` it stops, too, when they differ with at most this probability (see `_doubt`).
    """
    reuse = {p: r for p, r in (reuse or {}).items() if r.source != "curtailed" and r.n in (0, samples)}
    wanted = dict.fromkeys(prefixes)
    done: dict[Prefix, StepReward] = {}
    counts: Counter[str] = Counter(played=0, cached=0, reused=0, outcome=0, curtailed=0)
    for prefix in wanted:
        if prefix in known:
            done[prefix] = StepReward(prefix, known[prefix], 0, (), samples, "outcome")
            counts["outcome"] += samples
        elif prefix in reuse:
            done[prefix] = reuse[prefix]
            counts["reused"] += samples
    left = [p for p in wanted if p not in done]
    cached = cache.find([job for p in left for job in sample_jobs(p, seed, range(samples))]) if cache and left else {}
    settled = {p: r.mean for p, r in done.items()}
    draws = Draws(left, contrasts, settled, (samples, seed, curtail_at, error), cached)
    while jobs := draws.wanted():
        played = {t.job: t.reward for t in play(jobs, None if curtail_at is None else draws)}
        assert played.keys() >= set(jobs)
        draws.outcomes |= played
        if cache:
            cache.keep(played)

    for prefix in left:
        outcomes = draws.samples(prefix)
        curtailed = len(outcomes) < samples
        mean = fmean(outcomes) if outcomes else 0.0
        source = "curtailed" if curtailed else "monte_carlo"
        done[prefix] = StepReward(prefix, mean, len(outcomes), tuple(outcomes), samples, source)
        counts["curtailed"] += samples - len(outcomes)
        counts["cached"] += sum(job in cached for job in sample_jobs(prefix, seed, range(len(outcomes))))
    counts["played"] = sum(draws.counts.values()) - counts["cached"]
    return {p: done[p] for p in wanted}, counts


def _missing(ahead: Sequence[float], behind: Sequence[float], n: int, tau: float, error: float) -> int:
    """How many further samples of each of the two to draw together; 0 where the contrast is decided.

    The least number that may decide it, as nothing is lost by drawing these at once; with `error` one.
    """
    if _decided(ahead, behind, n, tau, error):
        return 0

    def may(k: int) -> bool:
        i, j = min(k, n - len(ahead)), min(k, n - len(behind))
        best, worst = ([*ahead, *[1.0] * i], [*behind, *[0.0] * j]), ([*ahead, *[0.0] * i], [*behind, *[1.0] * j])
        return any(_decided(a, b, n, tau, 0) for a, b in (best, worst))

    return 1 if error else next(k for k in range(1, n + 1) if may(k))


def _decided(ahead: Sequence[float], behind: Sequence[float], n: int, tau: float, error: float) -> bool:
    """Whether the outcomes not yet drawn, each in [0, 1], can no longer change if the difference of means is above tau.

    A mean of the outcomes drawn so far lies between these bounds too, so it decides like the mean of all N. With
    `error`, whether they are improbable to change what the means so far decide.
    """
    low = (sum(ahead) - sum(behind) - (n - len(behind))) / n
    high = (sum(ahead) + (n - len(ahead)) - sum(behind)) / n
    if low > tau or high <= tau:
        return True
    return bool(error and ahead and behind) and _doubt(ahead, behind, n, tau) <= error


def _doubt(ahead: Sequence[float], behind: Sequence[float], n: int, tau: float) -> float:
    """The predictive probability that all N decide otherwise than the means so far.

    Outcomes are taken to be 0 or 1, of rates that could be anything at first (uniform), so what is still to come is
    beta-binomial. Then, over uniform rates, stopping where this is at most epsilon errs at most that often (it is a
    martingale); for a given pair of rates near the threshold it may err more often, elsewhere it errs less.
    """
    now = fmean(ahead) - fmean(behind) > tau
    return sum(
        p * q
        for i, p in enumerate(_to_come(ahead, n))
        for j, q in enumerate(_to_come(behind, n))
        if ((sum(ahead) + i - sum(behind) - j) / n > tau) != now
    )


def _to_come(drawn: Sequence[float], n: int) -> list[float]:
    """Probability of 0, 1, ... successes among the remaining n - len(drawn), after a uniform prior."""
    m, a = n - len(drawn), 1 + sum(drawn)
    b = 2 + len(drawn) - a

    def log_beta(x: float, y: float) -> float:
        return lgamma(x) + lgamma(y) - lgamma(x + y)

    return [comb(m, i) * e_to(log_beta(a + i, b + m - i) - log_beta(a, b)) for i in range(m + 1)]
