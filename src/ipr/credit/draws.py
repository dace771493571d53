"""Which samples of the scorer are wanted: all N, or as many as decide what is compared (curtailed sampling)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import comb, lgamma
from math import exp as e_to
from statistics import fmean

from ipr.algorithms import Contrast
from ipr.algorithms.pairs import above
from ipr.types import Job, Prefix, derive_seed


def sample_jobs(prefix: Prefix, seed: int, indices: Iterable[int]) -> list[Job]:
    """The rollouts of the scorer that continue after the prefix's last action, by sample index."""
    key = prefix.key()
    return [Job(prefix, derive_seed(seed, "step-reward", key, i)) for i in indices]


@dataclass(frozen=True)
class Rule:
    """When the samples of an action are enough."""

    samples: int
    """N."""
    seed: int
    """The run's; with prefix and index it decides a sample."""
    tau: float | None = None
    """Samples stop where it is decided whether a difference is above it; None draws all N of every prefix."""
    error: float = 0.0
    """They stop too where the decision of all N differs with at most this probability."""
    lowest: float = 0.0
    """The lowest outcome that there is; the highest is 1."""


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
        rule: Rule,
        outcomes: Mapping[Job, float],
    ):
        """Of the prefixes' last actions; `settled` are means of others, `outcomes` known ones."""
        self._rule = rule
        self.counts = dict.fromkeys(prefixes, rule.samples if rule.tau is None else 0)
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
        every = [job for p in prefixes for job in sample_jobs(p, self._rule.seed, range(self._rule.samples))]
        known = {job: self.outcomes[job] for job in every if job in self.outcomes}
        part = Draws(prefixes, contrasts, settled, self._rule, known)
        part.counts = {p: self.counts[p] for p in prefixes}
        return part

    def _jobs(self, prefix: Prefix) -> list[Job]:
        return sample_jobs(prefix, self._rule.seed, range(self.counts[prefix]))

    def _lacking(self, group: _Group) -> list[Job]:
        return [job for p in group.prefixes for job in self._jobs(p) if job not in self.outcomes]

    def _next(self, group: _Group) -> list[Job]:
        """All that was wanted is there: what is wanted now."""
        n, rule = self._rule.samples, self._rule
        while rule.tau is not None:
            values = {p: self.samples(p) for p in group.prefixes}
            values |= {
                p: [self._settled[p]] * n for c in group.contrasts for p in (c.ahead, c.behind) if p not in values
            }
            more: dict[Prefix, int] = {}
            for c in group.contrasts:
                missing = _missing(values[c.ahead], values[c.behind], rule)
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


def _missing(ahead: Sequence[float], behind: Sequence[float], rule: Rule) -> int:
    """How many further samples of each of the two to draw together; 0 where the contrast is decided.

    The least number that may decide it, as nothing is lost by drawing these at once; with `error` one.
    """
    if _decided(ahead, behind, rule):
        return 0
    n, exact = rule.samples, replace(rule, error=0.0)

    def may(k: int) -> bool:
        i, j = min(k, n - len(ahead)), min(k, n - len(behind))
        low = rule.lowest
        best, worst = ([*ahead, *[1.0] * i], [*behind, *[low] * j]), ([*ahead, *[low] * i], [*behind, *[1.0] * j])
        return any(_decided(a, b, exact) for a, b in (best, worst))

    return 1 if rule.error else next(k for k in range(1, n + 1) if may(k))


def _decided(ahead: Sequence[float], behind: Sequence[float], rule: Rule) -> bool:
    """Whether the outcomes not yet drawn, each in [lowest, 1], can no longer change if the difference of means is above
    tau.

    A mean of the outcomes drawn so far lies between these bounds too, so it decides like the mean of all N. With
    `error`, whether they are improbable to change what the means so far decide.
    """
    n, tau, now = rule.samples, rule.tau or 0.0, sum(ahead) - sum(behind)
    i, j = n - len(ahead), n - len(behind)
    if above((now + rule.lowest * i - j) / n, tau) or not above((now + i - rule.lowest * j) / n, tau):
        return True
    return bool(rule.error and ahead and behind) and _doubt(ahead, behind, rule) <= rule.error


def _doubt(ahead: Sequence[float], behind: Sequence[float], rule: Rule) -> float:
    """The predictive probability that all N decide otherwise than the means so far.

    Outcomes are taken to be the lowest or 1, of rates that could be anything at first (uniform), so what is still to
    come is beta-binomial. Then, over uniform rates, stopping where this is at most epsilon errs at most that often (it
    is a martingale); for a given pair of rates near the threshold it may err more often, elsewhere it errs less.
    """
    n, width = rule.samples, 1 - rule.lowest
    a, b = ([(x - rule.lowest) / width for x in drawn] for drawn in (ahead, behind))
    tau = (rule.tau or 0.0) / width
    now = above(fmean(a) - fmean(b), tau)
    return sum(
        p * q
        for i, p in enumerate(_to_come(a, n))
        for j, q in enumerate(_to_come(b, n))
        if above((sum(a) + i - sum(b) - j) / n, tau) != now
    )


def _to_come(drawn: Sequence[float], n: int) -> list[float]:
    """Probability of 0, 1, ... successes among the remaining n - len(drawn), after a uniform prior; drawn in [0, 1]."""
    m, a = n - len(drawn), 1 + sum(drawn)
    b = 2 + len(drawn) - a

    def log_beta(x: float, y: float) -> float:
        return lgamma(x) + lgamma(y) - lgamma(x + y)

    return [comb(m, i) * e_to(log_beta(a + i, b + m - i) - log_beta(a, b)) for i in range(m + 1)]
