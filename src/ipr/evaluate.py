"""Trajectories -> figures with 95 % intervals. Pure; games are the unit of every resampling."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from random import Random
from statistics import fmean
from typing import Any

import numpy as np

from ipr.types import EnvSpec, IprError, Prefix, StepReward, Trajectory


def metrics(
    trajectories: Sequence[Trajectory],
    *,
    task_type: Callable[[str], str],
    success_at: float = 1.0,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """games, reward and success with their intervals, steps, invalid (share of the actions), endings, by_type."""
    if not trajectories:
        return {"games": 0}
    rewards = np.array([t.reward for t in trajectories])
    success = (rewards >= success_at).astype(float)
    by_type: dict[str, list[int]] = defaultdict(list)
    for i, t in enumerate(trajectories):
        by_type[task_type(t.task_id)].append(i)
    actions = sum(len(t.steps) - t.start for t in trajectories)
    return {
        "games": len(trajectories),
        "reward": float(rewards.mean()),
        "reward_interval": of_mean(rewards, resamples, seed),
        "success": float(success.mean()),
        "success_interval": of_mean(success, resamples, seed),
        "steps": fmean(len(t.steps) for t in trajectories),
        "invalid": sum(t.invalid for t in trajectories) / max(actions, 1),
        "endings": dict(sorted(Counter(t.ending for t in trajectories).items())),
        "by_type": {
            kind: {"games": len(rows), "reward": float(rewards[rows].mean()), "success": float(success[rows].mean())}
            for kind, rows in sorted(by_type.items())
        },
        "step_reward": None,
    }


def average_step_reward(trajectories: Sequence[Trajectory], rewards: Mapping[Prefix, float]) -> float:
    """The paper's measure of action efficiency: step rewards averaged over a trajectory's actions, then over all."""
    return fmean(fmean(rewards[t.prefix(k + 1)] for k in range(len(t.steps))) for t in trajectories if t.steps)


def contrast(
    rewards: Mapping[Prefix, StepReward], experts: Sequence[Trajectory], explored: Sequence[Trajectory]
) -> dict[str, Any] | None:
    """Mean step reward of the experts' and the agent's scored actions, their gap, and the same by position t (from 1).

    Of the states in which both were scored; None where there is none. Where samples were curtailed, how many there are
    hung on what they are: then a mean is that of the first `samples` alone, as many as none lacks.
    """
    scored: dict[int, list[tuple[StepReward, StepReward]]] = {}
    by_task = {e.task_id: e for e in experts}
    for trajectory in explored:
        if trajectory.task_id not in by_task:  # a problem without an expert
            continue
        t = trajectory.start
        a, a_hat = by_task[trajectory.task_id].prefix(t + 1), trajectory.prefix(t + 1)
        if a in rewards and a_hat in rewards:
            scored.setdefault(t, []).append((rewards[a], rewards[a_hat]))
    if not scored:
        return None
    both = [pair for pairs in scored.values() for pair in pairs]
    curtailed = any(r.source == "curtailed" for pair in both for r in pair)
    few = min((len(r.samples) for pair in both for r in pair if r.samples), default=0) if curtailed else None

    def means(pairs: Iterable[tuple[StepReward, StepReward]]) -> tuple[float, float]:
        expert, agent = (
            fmean(fmean(r.samples[:few]) if few and r.samples else r.mean for r in side)
            for side in zip(*pairs, strict=True)
        )
        return expert, agent

    expert, agent = means(both)
    positions = [
        {"t": t + 1, "n": len(pairs), **dict(zip(("expert", "agent"), means(pairs), strict=True))}
        for t, pairs in sorted(scored.items())
    ]
    return {"expert": expert, "agent": agent, "gap": expert - agent, "samples": few, "by_position": positions}


def compare(a: Sequence[Trajectory], b: Sequence[Trajectory], resamples: int = 2000, seed: int = 0) -> dict[str, Any]:
    """b against a on the same games: mean reward difference, 95 % paired bootstrap interval, sign-flip p, win/tie/lose.

    Raises IprError where the games differ.
    """
    first, second = ({t.task_id: t.reward for t in side} for side in (a, b))
    if first.keys() != second.keys() or not first:
        common = len(first.keys() & second.keys())
        raise IprError(
            f"the two sides played {len(first)} and {len(second)} games with {common} in common; evaluate both on the"
            " same games (same split, eval.games and data)"
        )
    _begin_alike([a, b])
    gaps = np.array([second[task_id] - first[task_id] for task_id in sorted(first)])
    return {
        "games": len(gaps),
        "difference": float(gaps.mean()),
        "interval": interval(gaps, resamples, seed),
        "p": sign_flip(gaps, seed=seed),
        "win": int((gaps > 0).sum()),
        "tie": int((gaps == 0).sum()),
        "lose": int((gaps < 0).sum()),
    }


def _begin_alike(sides: Sequence[Sequence[Trajectory]]) -> None:
    """Raises IprError where one name stands for several games."""
    said = {t.task_id: t.first_observation for t in sides[0]}
    for other in (t for side in sides[1:] for t in side):
        if other.first_observation != said[other.task_id]:
            raise IprError(
                f"the two sides played other games of one name: {other.task_id} begins with"
                f" {said[other.task_id]!r:.80} and with {other.first_observation!r:.80}; evaluate both on the same data"
            )


def compare_seeds(
    a: Mapping[int, Sequence[Trajectory]],
    b: Mapping[int, Sequence[Trajectory]],
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """b against a, each played by the agents of several seeds on the same games (see `hierarchical`).

    Equal seeds on both sides are compared seed by seed, else the two groups. Raises IprError where the games differ.
    """
    mine = {frozenset(t.task_id for t in played) for side in (a, b) for played in side.values()}
    if len(mine) != 1 or not next(iter(mine)):
        sizes = ", ".join(str(len(ids)) for ids in sorted(mine, key=len))
        raise IprError(
            f"the agents did not play the same games ({sizes} games); evaluate all on the same ones (same split,"
            " eval.games and data)"
        )
    _begin_alike([played for side in (a, b) for played in side.values()])
    first, second = (rewards_by_seed(side) for side in (a, b))
    paired = sorted(a) == sorted(b)
    found = {
        "games": first.shape[1],
        "seeds": [sorted(a), sorted(b)],
        "paired": paired,
        "difference": float(second.mean() - first.mean()),
        "interval": hierarchical(second, first, paired=paired, resamples=resamples, seed=seed),
    }
    if paired:
        gaps = (second - first).mean(axis=1)
        found |= {"by_seed": dict(zip(sorted(a), gaps.tolist(), strict=True)), "better": int((gaps > 0).sum())}
    return found


def rewards_by_seed(played: Mapping[int, Sequence[Trajectory]]) -> np.ndarray:
    """Rewards [seeds, games], both in sorted order; the seeds played the same games."""
    return np.array([[t.reward for t in sorted(played[s], key=lambda t: t.task_id)] for s in sorted(played)])


def hierarchical(
    values: np.ndarray,
    minus: np.ndarray | None = None,
    *,
    paired: bool = True,
    resamples: int = 2000,
    seed: int = 0,
) -> list[float]:
    """95 % interval of the mean over seeds and games, of values [S, G] or of their difference to `minus` [T, G].

    Seeds are drawn, then games: one draw of games for all seeds, since the seeds played the same ones and a game is as
    hard for each. `paired`: rows of the two are of the same seed and drawn together. Of n seeds (games) n - 1 are
    drawn, which makes the variance that they add unbiased (Rao and Wu 1988); it matters, as seeds are few. What neither
    the seed nor the game explains counts up to three times, so the interval is on the safe side (Owen 2007, "The
    pigeonhole bootstrap"). One seed: of that seed, over games.
    """
    random = np.random.default_rng(seed)
    if minus is not None and paired:
        values, minus = values - minus, None
    games_ = _drawn(random, values.shape[1], resamples)
    means = np.einsum("rs,sg,rg->r", _drawn(random, len(values), resamples), values, games_, optimize=True)
    if minus is not None:
        means -= np.einsum("rs,sg,rg->r", _drawn(random, len(minus), resamples), minus, games_, optimize=True)
    return [float(x) for x in np.quantile(means, [0.025, 0.975])]


def _drawn(random: np.random.Generator, n: int, resamples: int) -> np.ndarray:
    """Weights [resamples, n] of n things, of which n - 1 are drawn with replacement."""
    draws = max(n - 1, 1)
    return random.multinomial(draws, [1 / n] * n, size=resamples) / draws


def games(task_ids: Sequence[str], split: str, size: int) -> list[str]:
    """The games that are played of a split: a seeded choice, the same for every model, so that models compare."""
    return sorted(Random(split).sample(task_ids, min(size, len(task_ids))))


def heldout(sizes: Mapping[str, int], spec: EnvSpec) -> dict[str, list[str]]:
    """Split -> the games to evaluate on, the same for every stage. `sizes` says how many of each (EvalConfig.sizes)."""
    return {split: games(spec.task_ids(split), split, size) for split, size in sizes.items()}


def better(comparison: Mapping[str, Any]) -> bool:
    """The champion's rule: the mean is higher, and the paired 95 % interval of the difference lies above 0."""
    return comparison["difference"] > 0 and comparison["interval"][0] > 0


def choose(dev: Mapping[str, Sequence[Trajectory]]) -> str:
    """The stage to report, by dev alone: the first (SFT) where none is better, else the last that is not worse than the
    best, which is where the paired 95 % interval of their difference reaches 0.

    `dev` is in the order of the stages. A later iteration has learnt from more play, and dev games are too few to tell
    neighbours apart: where they preferred the first of two, test mostly preferred the second (docs/results.md).
    """
    means = {stage: fmean(t.reward for t in trajectories) for stage, trajectories in dev.items()}
    best = max(means, key=lambda stage: means[stage])
    stages = list(dev)
    if best == stages[0]:
        return best
    return next(s for s in reversed(stages) if s == best or compare(dev[best], dev[s])["interval"][1] >= 0)


def interval(values: np.ndarray, resamples: int, seed: int) -> list[float]:
    """95 % percentile bootstrap of the mean. values [n]."""
    random = np.random.default_rng(seed)
    means = random.choice(values, size=(resamples, len(values))).mean(axis=1)
    return [float(x) for x in np.quantile(means, [0.025, 0.975])]


def of_mean(values: np.ndarray, resamples: int, seed: int = 0) -> list[float]:
    """95 % interval of the mean of values [games] or, over both, [seeds, games].

    Of values that are all equal, of which a bootstrap knows no other, Wilson's of as many games.
    """
    first = values.flat[0]
    if (values == first).all():
        return wilson(float(first), values.shape[-1])
    if values.ndim == 1:
        return interval(values, resamples, seed)
    return hierarchical(values, resamples=resamples, seed=seed)


def wilson(mean: float, n: int) -> list[float]:
    """95 % interval of a mean of n values in [0, 1] (Wilson 1927).

    It is wide where n is small: one value of 1 gives [0.21, 1], where a bootstrap would give [1, 1]. Of values that are
    not only 0 and 1, which vary less, it is on the safe side.
    """
    z, p = 1.96, min(max(mean, 0.0), 1.0)
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5 / (1 + z * z / n)
    return [max(middle - half, 0.0), min(middle + half, 1.0)]


def sign_flip(gaps: np.ndarray, flips: int = 10_000, seed: int = 0) -> float:
    """Two-sided p of the paired sign-flip test of mean 0; exact up to 13 differences that are not 0. gaps [n]."""
    gaps = gaps[gaps != 0]
    if len(gaps) == 0:
        return 1.0
    if len(gaps) <= 13:
        signs = 1 - 2 * ((np.arange(2 ** len(gaps))[:, None] >> np.arange(len(gaps))) & 1)
        extra = 0
    else:
        signs = np.random.default_rng(seed).choice([-1, 1], size=(flips, len(gaps)))
        extra = 1  # the observed signs are one of the flips (Phipson and Smyth 2010)
    as_large = (np.abs(signs @ gaps) >= abs(gaps.sum()) - 1e-12).sum()
    return float((as_large + extra) / (len(signs) + extra))
