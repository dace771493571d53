"""Step rewards: Monte Carlo by the fixed scorer, with the exact savings, and one whose error is set.

r_s(s_t, a_t) is the mean outcome reward of N rollouts of pi_s that continue after a_t; where a_t ends the episode it
is r_o itself (paper, section 3.2). Decided here: the samples of an action depend on (run seed, action's prefix, sample
index) alone, so an estimate is the same in every iteration and may be reused, because pi_s never changes. What is kept
for other runs is the outcome of each rollout, so that it serves any N and is there when sampling was curtailed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean

from ipr.algorithms import Contrast
from ipr.credit.draws import Draws, Rule, sample_jobs
from ipr.credit.outcomes import Outcomes
from ipr.types import Job, More, Prefix, StepReward, Trajectory


def known_outcomes(trajectories: Iterable[Trajectory]) -> dict[Prefix, float]:
    """Prefixes whose last action ended the episode, with the outcome reward."""
    return {t.prefix(len(t.steps)): t.reward for t in trajectories if t.ending != "overflow"}


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
    lowest: float = 0.0,
) -> tuple[dict[Prefix, StepReward], Counter[str]]:
    """The step reward of every prefix's last action; rollouts "played", "cached", "reused", "outcome", "curtailed".

    `play` plays jobs with the scorer, and may play what its second argument asks for with them. `known` are outcomes of
    finished episodes, `reuse` earlier estimates, `cache` outcomes of rollouts that any run has played.
    `curtail_at` = tau, where every prefix is part of a contrast, stops the samples of a contrast when no remaining
    outcome in [`lowest`, 1] can change whether the difference of the two means is above tau: the decisions are those
    of N. With `error` it stops, too, when they differ with at most this probability (see `_doubt`).
    """
    reuse = {p: r for p, r in (reuse or {}).items() if r.source in ("monte_carlo", "outcome") and r.n in (0, samples)}
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
    draws = Draws(left, contrasts, settled, Rule(samples, seed, curtail_at, error, lowest), cached)
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
