"""Step rewards: Monte Carlo by the fixed scorer, with the exact savings.

r_s(s_t, a_t) is the mean outcome reward of N rollouts of pi_s that continue after a_t; where a_t ends the episode it
is r_o itself (paper, section 3.2). Decided here: the samples of an action depend on (run seed, action's prefix, sample
index) alone, so an estimate is the same in every iteration and may be reused, because pi_s never changes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean

from ipr.algorithms import Contrast
from ipr.types import Job, Prefix, StepReward, Trajectory, derive_seed


def known_outcomes(trajectories: Iterable[Trajectory]) -> dict[Prefix, float]:
    """Prefixes whose last action ended the episode, with the outcome reward."""
    return {t.prefix(len(t.steps)): t.reward for t in trajectories if t.ending != "overflow"}


def sample_jobs(prefix: Prefix, seed: int, indices: Iterable[int]) -> list[Job]:
    """The rollouts of the scorer that continue after the prefix's last action, by sample index."""
    key = prefix.key()
    return [Job(prefix, derive_seed(seed, "step-reward", key, i)) for i in indices]


def estimate(
    prefixes: Iterable[Prefix],
    play: Callable[[list[Job]], list[Trajectory]],
    *,
    samples: int,
    seed: int,
    known: Mapping[Prefix, float],
    reuse: Mapping[Prefix, StepReward] | None = None,
    contrasts: Sequence[Contrast] = (),
    curtail_at: float | None = None,
) -> tuple[dict[Prefix, StepReward], Counter[str]]:
    """The step reward of every prefix's last action, and the rollouts "played", "reused", "outcome", "curtailed".

    `play` plays jobs with the scorer. `known` are outcomes of finished episodes, `reuse` earlier estimates.
    `curtail_at` = tau, where every prefix is part of a contrast, stops the samples of a contrast when no remaining
    outcome in [0, 1] can change whether the difference of the two means is above tau: the decisions are those of N.
    """
    reuse = {p: r for p, r in (reuse or {}).items() if r.source != "curtailed" and r.n in (0, samples)}
    wanted = dict.fromkeys(prefixes)
    done: dict[Prefix, StepReward] = {}
    counts: Counter[str] = Counter(played=0, reused=0, outcome=0, curtailed=0)
    for prefix in wanted:
        if prefix in known:
            done[prefix] = StepReward(prefix, known[prefix], 0, (), samples, "outcome")
            counts["outcome"] += samples
        elif prefix in reuse:
            done[prefix] = reuse[prefix]
            counts["reused"] += samples
    drawn: dict[Prefix, list[float]] = {p: [] for p in wanted if p not in done}

    if curtail_at is None:
        _draw(drawn, list(drawn), play, seed, range(samples))
    else:
        for i in range(samples):
            values = drawn | {p: [r.mean] * samples for p, r in done.items()}
            undecided = [c for c in contrasts if not _decided(values[c.ahead], values[c.behind], samples, curtail_at)]
            open_ = dict.fromkeys(p for c in undecided for p in (c.ahead, c.behind) if p in drawn)
            if not open_:
                break
            _draw(drawn, list(open_), play, seed, [i])

    for prefix, outcomes in drawn.items():
        curtailed = len(outcomes) < samples
        mean = fmean(outcomes) if outcomes else 0.0
        source = "curtailed" if curtailed else "monte_carlo"
        done[prefix] = StepReward(prefix, mean, len(outcomes), tuple(outcomes), samples, source)
        counts["played"] += len(outcomes)
        counts["curtailed"] += samples - len(outcomes)
    return {p: done[p] for p in wanted}, counts


def _draw(
    drawn: dict[Prefix, list[float]],
    prefixes: Sequence[Prefix],
    play: Callable[[list[Job]], list[Trajectory]],
    seed: int,
    indices: Sequence[int],
) -> None:
    jobs = [job for prefix in prefixes for job in sample_jobs(prefix, seed, indices)]
    for job, trajectory in zip(jobs, play(jobs), strict=True):
        drawn[job.prefix].append(trajectory.reward)


def _decided(ahead: Sequence[float], behind: Sequence[float], n: int, tau: float) -> bool:
    """Whether the outcomes not yet drawn, each in [0, 1], can no longer change if the difference of means is above tau.

    A mean of the outcomes drawn so far lies between these bounds too, so it decides like the mean of all N.
    """
    low = (sum(ahead) - sum(behind) - (n - len(behind))) / n
    high = (sum(ahead) + (n - len(ahead)) - sum(behind)) / n
    return low > tau or high <= tau
