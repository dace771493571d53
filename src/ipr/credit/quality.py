"""How good step rewards are: the share of built step pairs whose order agrees with the environment's oracle.

The paper's measure (Figure 3). A candidate is an expert's and an agent's action after the same history of which one
has the better outcome; it is built, with N returns and tau, where mean_N(ahead) - mean_N(behind) > tau, and it agrees
where the oracle values the state after the one ahead more. Ties of the oracle are counted apart.
Decided here: nothing is drawn. N of the n stored returns are taken in all ways, each as likely, so figures are expected
numbers of pairs. A curtailed mean is censored: it tells what was decided with the run's own N and tau, nothing else; of
the returns only the first ones, which every candidate has, are a fair sample.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from ipr.algorithms.pairs import above, has_action, same_action, together, winner_by_outcome
from ipr.config import AlgorithmConfig
from ipr.types import Prefix, StepReward, Trajectory


@dataclass(frozen=True, slots=True)
class Candidate:
    """Two actions after the same history that could become a step pair, with their step rewards."""

    ahead: StepReward
    """Of the one whose trajectory has the better outcome."""
    behind: StepReward


def candidates(
    experts: Sequence[Trajectory],
    explored: Sequence[Trajectory],
    rewards: Mapping[Prefix, StepReward],
    settings: AlgorithmConfig,
) -> list[Candidate]:
    """What needs only the step rewards' margin to become a step pair, each once."""
    found: dict[tuple[Prefix, Prefix], Candidate] = {}
    # A method may explore problems without an expert, and score states instead of pairs of actions.
    with_expert = {expert.task_id for expert in experts}
    for expert, agent in together(experts, [t for t in explored if t.task_id in with_expert]):
        t = agent.start
        winner = winner_by_outcome(expert, agent, settings.outcome_margin, settings.agent_wins)
        if winner is None or not has_action(agent) or same_action(expert, agent):
            continue
        ahead, behind = expert.prefix(t + 1), agent.prefix(t + 1)
        if winner == "agent":
            ahead, behind = behind, ahead
        if ahead in rewards and behind in rewards:
            found[ahead, behind] = Candidate(rewards[ahead], rewards[behind])
    return list(found.values())


def rescored(found: Iterable[Candidate], rewards: Mapping[Prefix, StepReward]) -> list[Candidate]:
    """The same candidates with another scorer's step rewards."""
    return [Candidate(rewards[c.ahead.prefix], rewards[c.behind.prefix]) for c in found]


def drawn_always(found: Iterable[Candidate]) -> int:
    """How many first returns no candidate lacks, curtailed ones included: these were not chosen by their values."""
    rewards = [r for c in found for r in (c.ahead, c.behind) if r.source != "outcome"]
    return min((r.n for r in rewards), default=0)


def first(found: Iterable[Candidate], n: int) -> list[Candidate]:
    """The same candidates with their first n >= 1 returns alone."""

    def cut(reward: StepReward) -> StepReward:
        few = reward.samples[:n]
        return reward if reward.source == "outcome" else StepReward(reward.prefix, fmean(few), n, few, n)

    return [Candidate(cut(c.ahead), cut(c.behind)) for c in found]


def agreement(
    found: Sequence[Candidate],
    values: Mapping[Prefix, float],
    n: int | None,
    tau: float,
    *,
    curtailed_at: float | None = None,
    resamples: int = 2000,
) -> dict[str, Any]:
    """Figures of one N and tau: candidates, built, ties, agree, share (of built that are no ties), interval, left_out.

    `n` None: every candidate is built, by its outcomes alone; 0: by step rewards without returns, a reward model's.
    `values` are the oracle's, by prefix. `curtailed_at` is the tau at which the run's samples were curtailed.
    `left_out` candidates have fewer than N returns, or censored ones. The 95 % interval is a bootstrap over games.
    """
    built = ties = agree = 0.0
    left_out = 0
    games: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for candidate in found:
        p = _built(candidate, n, tau, curtailed_at)
        if p is None:
            left_out += 1
            continue
        ahead, behind = values[candidate.ahead.prefix], values[candidate.behind.prefix]
        built += p
        if ahead == behind:
            ties += p
            continue
        agree += p * (ahead > behind)
        game = games[candidate.ahead.prefix.task_id]
        game[0] += p * (ahead > behind)
        game[1] += p
    ordered = built - ties
    return {
        "n": n,
        "tau": None if n is None else tau,
        "candidates": len(found),
        "left_out": left_out,
        "built": built,
        "ties": ties,
        "agree": agree,
        "share": agree / ordered if ordered > 1e-9 else None,
        "interval": _interval(np.array([g for g in games.values() if g[1] > 0]), resamples),
    }


def _built(candidate: Candidate, n: int | None, tau: float, curtailed_at: float | None) -> float | None:
    """The chance that a candidate is built; None where its returns do not tell."""
    if n is None:
        return 1.0
    ahead, behind = (_means(reward, n, tau == curtailed_at) for reward in (candidate.ahead, candidate.behind))
    if ahead is None or behind is None:
        return None
    return sum(p * q for a, p in ahead.items() for b, q in behind.items() if above(a - b, tau))


def _means(reward: StepReward, n: int, decided: bool) -> dict[float, float] | None:
    """Mean of n of the returns -> its chance."""
    if reward.source == "curtailed":
        return {reward.mean: 1.0} if decided and n == reward.planned else None
    if reward.source == "outcome" or n == len(reward.samples):
        return {reward.mean: 1.0}
    if n > len(reward.samples):
        return None
    # ways[k]: the sum of k returns -> in how many ways it comes about, return by return.
    ways: list[dict[float, int]] = [{0.0: 1}, *({} for _ in range(n))]
    for value in reward.samples:
        for k in range(n, 0, -1):
            for total, count in ways[k - 1].items():
                key = round(total + value, 12)
                ways[k][key] = ways[k].get(key, 0) + count
    every = sum(ways[n].values())
    return {total / n: count / every for total, count in ways[n].items()}


def _interval(games: np.ndarray, resamples: int) -> list[float] | None:
    """95 % percentile bootstrap of a ratio of sums. games [n, 2]: agree, ordered."""
    if len(games) == 0:
        return None
    chosen = np.random.default_rng(0).integers(len(games), size=(resamples, len(games)))
    sums = games[chosen].sum(axis=1)
    return [float(x) for x in np.quantile(sums[:, 0] / sums[:, 1], [0.025, 0.975])]


# Showing -------------------------------------------------------------------------------------------------------------

COLUMNS = ("scorer", "N", "tau", "candidates", "left out", "built", "ties", "agree", "share", "95 % interval")


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """For a terminal."""
    cells = [list(COLUMNS), *(_cells(row) for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(COLUMNS))]
    lines = ["  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in cells]
    return "\n".join(lines)


def _cells(row: Mapping[str, Any]) -> list[str]:
    low_high = row["interval"]
    return [
        row["scorer"],
        str(row["n"] or "-"),
        "-" if row["tau"] is None else f"{row['tau']:g}",
        str(row["candidates"]),
        str(row["left_out"]),
        *(f"{row[key]:.1f}" for key in ("built", "ties", "agree")),
        "-" if row["share"] is None else f"{100 * row['share']:.1f} %",
        "-" if low_high is None else f"[{100 * low_high[0]:.1f}, {100 * low_high[1]:.1f}]",
    ]


def plot(rows: Sequence[Mapping[str, Any]], title: str, write: Callable[[Any], Any]) -> None:
    """Share by N, a line for each tau (colour) and scorer (dashes); `write` is given the figure."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.4), layout="constrained")
    axes = figure.subplots()
    scorers = list(dict.fromkeys(row["scorer"] for row in rows if row["n"]))
    taus = sorted({row["tau"] for row in rows if row["n"]})
    sizes = sorted({row["n"] for row in rows if row["n"]})
    for i, tau in enumerate(taus):
        for j, scorer in enumerate(scorers):
            line = [r for r in rows if (r["scorer"], r["tau"]) == (scorer, tau) and r["n"] and r["share"] is not None]
            if not line:
                continue
            share = [100 * r["share"] for r in line]
            below = [s - 100 * r["interval"][0] for s, r in zip(share, line, strict=True)]
            above = [100 * r["interval"][1] - s for s, r in zip(share, line, strict=True)]
            # Side by side, so that intervals at the same N can be told apart.
            places = [
                sizes.index(r["n"]) + 0.06 * (i * len(scorers) + j - (len(taus) * len(scorers) - 1) / 2) for r in line
            ]
            axes.errorbar(
                places,
                share,
                yerr=[[max(0, b) for b in below], [max(0, a) for a in above]],
                marker="os^D"[j % 4],
                capsize=3,
                color=f"C{i}",
                linestyle=("-", "--", ":", "-.")[j % 4],
                label=f"tau {tau:g}, scorer {scorer} ({line[-1]['built']:.0f} pairs at N = {line[-1]['n']})",
            )
    alone = next((r for r in rows if r["n"] is None and r["share"] is not None), None)
    if alone:
        label = f"outcomes alone ({alone['built']:.0f} pairs)"
        axes.axhline(100 * alone["share"], color="#888888", linewidth=1, linestyle=(0, (6, 3)), label=label)
    axes.set_xticks(range(len(sizes)), [str(n) for n in sizes])
    axes.set(title=title, xlabel="N, returns per step reward", ylabel="built pairs in the oracle's order (%)")
    axes.set_ylim(max(0, min(50, axes.get_ylim()[0])), 101)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(frameon=False, loc="outside lower center", ncols=2, fontsize="small")
    write(figure)
