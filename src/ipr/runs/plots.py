"""A run's plots: what was reached, the step rewards by position, and the curves of training.

Decided here: no point without its interval, and no mean without its n; who is who is told by shape as well as colour.
A method that makes no pairs shows what it makes. Matplotlib is imported inside, as that takes a second.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from ipr import store
from ipr.evaluate import wilson
from ipr.runs.run import Run, stage_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WHO = {"expert": ("#1d7454", "D", "-"), "agent": ("#a8501a", "^", "--")}
STAGES = ("#1f5fa8", "#a8501a", "#1d7454", "#7a4fa3", "#5c6670", "#b08a00")
MARKERS = "osD^vP"
STEP_REWARDS = "step_rewards.json"
POINTS = 150
"""Of a training curve at most; of a longer one the means of as many equal parts."""


def draw(run: Run, summary: dict[str, Any]) -> list[tuple[str, str]]:
    """Writes plots/learning, step_rewards and training (.png and .svg), those that there are; returns title and SVG.

    What step_rewards shows is in step_rewards.json, too, where there is something.
    """
    histories = {
        stage_name(k): history
        for k in range(run.config.algorithm.iterations + 1)
        if (history := (run.record(k, "train") or {}).get("history"))
    }
    wanted: list[tuple[str, str, Callable[[], Figure | None]]] = [
        ("learning", "What was reached", lambda: learning(summary)),
        ("step_rewards", "Step rewards by position", lambda: step_rewards(summary)),
        ("training", "Training", lambda: training(histories)),
    ]
    found = []
    for name, title, make in wanted:
        if (figure := make()) is not None:
            found.append((title, written(run.folder, name, figure)))
    if (table := step_reward_table(summary))["data"]:
        store.write_json(run.folder / "plots" / STEP_REWARDS, table)
    return found


def written(folder: Path, name: str, figure: Figure) -> str:
    """Writes plots/NAME.{png,svg} in a folder; returns the SVG element."""
    drawing = io.StringIO()
    figure.savefig(drawing, format="svg", metadata={"Date": None})
    store.replace(folder / "plots" / f"{name}.png", lambda p: figure.savefig(p, format="png", dpi=110))
    store.write_text(folder / "plots" / f"{name}.svg", drawing.getvalue())
    return "<svg" + drawing.getvalue().partition("<svg")[2]


def learning(summary: dict[str, Any]) -> Figure:
    """Mean reward by stage, and what was trained on: pairs, or own successes where a method imitates."""
    from matplotlib.figure import Figure

    stages = summary["stages"]
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    result, work = figure.subplots(1, 2, width_ratios=[3, 2])
    splits = {"test": ("#1f5fa8", "o", "-"), "dev": ("#7b858f", "s", "--")}
    for j, (split, (colour, marker, line)) in enumerate(splits.items()):
        shown = [(i, s[split]) for i, s in enumerate(stages) if s[split] and s[split].get("games")]
        if not shown:
            continue
        values = [100 * s["reward"] for _, s in shown]
        bounds = [[100 * x for x in s["reward_interval"]] for _, s in shown]
        result.errorbar(
            [i + 0.06 * (2 * j - 1) for i, _ in shown],
            values,
            yerr=around(values, bounds),
            marker=marker,
            linestyle=line,
            capsize=3,
            color=colour,
            label=f"{split} (n = {_span([s['games'] for _, s in shown])})",
        )
    result.set_xticks(range(len(stages)), [_short(s["name"]) for s in stages])
    result.set(title="Mean reward on held-out games, 95 % interval", ylabel="%")
    result.set_ylim(0, max(5, result.get_ylim()[1]))
    result.legend(frameon=False)
    _made(work, [s for s in stages if s["pairs"]])
    for axes in (result, work):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _made(axes: Any, stages: Sequence[dict[str, Any]]) -> None:
    """Bars of what each iteration was trained on."""
    names = [_short(s["name"]) for s in stages]
    made = [s["pairs"] for s in stages]
    if any(p.get("demonstrations") for p in made):
        bars = {"own successes": [p.get("own", 0) for p in made]}
        title = "Own successes that were imitated"
    else:
        bars = {f"{level} pairs": [p[level] for p in made] for level in ("outcome", "step")}
        title = "Pairs that were kept"
    below = [0] * len(names)
    for (label, counts), colour, hatch in zip(bars.items(), ("#1f5fa8", "#a9c6e8"), ("", "//"), strict=False):
        if not any(counts):
            continue
        drawn = axes.bar(names, counts, width=0.5, bottom=below, color=colour, hatch=hatch, edgecolor="white")
        drawn.set_label(label)
        axes.bar_label(drawn, labels=[str(n) if n else "" for n in counts], label_type="center", fontsize=8)
        below = [a + b for a, b in zip(below, counts, strict=True)]
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.set(title=title, ylim=(0, 1.25 * max([*below, 1])))
    axes.margins(x=0.3)
    if axes.patches:
        axes.legend(frameon=False, loc="upper left", ncols=2)
    else:
        axes.text(0.5, 0.5, "none", transform=axes.transAxes, ha="center")


def step_rewards(summary: dict[str, Any]) -> Figure | None:
    """Expert and agent by position, a panel an iteration on the same axes; under each position its n."""
    from matplotlib.figure import Figure

    stages = [s for s in summary["stages"] if s["step_reward"]]
    if not stages:
        return None
    across = min(len(stages), 3)
    down = -(-len(stages) // across)
    figure = Figure(figsize=(max(4.2 * across, 6), 3.6 * down), layout="constrained")
    panels = list(figure.subplots(down, across, sharex=True, sharey=True, squeeze=False).flat)
    longest = max(row["t"] for s in stages for row in s["step_reward"]["by_position"])
    for axes, stage in zip(panels, stages, strict=False):
        rows = stage["step_reward"]["by_position"]
        for j, (who, (colour, marker, line)) in enumerate(WHO.items()):
            values = [row[who] for row in rows]
            bounds = [wilson(row[who], row["n"]) for row in rows]
            at = [row["t"] + 0.12 * (2 * j - 1) for row in rows]
            axes.errorbar(
                at,
                values,
                yerr=around(values, bounds),
                marker=marker,
                linestyle=line,
                markersize=5,
                linewidth=1.2,
                elinewidth=0.8,
                capsize=2,
                color=colour,
                label=who,
            )
        for row in rows:
            axes.annotate(
                str(row["n"]),
                (row["t"], -0.1),
                ha="center",
                va="center",
                fontsize=7,
                color="#5c6670",
                annotation_clip=False,
            )
        axes.axhline(0, color="#dfe3e8", linewidth=0.8, zorder=0)
        axes.set_title(f"{stage['name']}: n = {_span([row['n'] for row in rows])}", fontsize=10)
        axes.set(ylim=(-0.17, 1.04), xlim=(0.4, longest + 0.6), xlabel="step t (grey: n, the scored states)")
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelbottom=True)
    for axes in panels[len(stages) :]:
        axes.set_visible(False)
    first = figure.axes[0]
    first.set_ylabel("mean step reward, 95 % interval")
    first.legend(frameon=False, loc="upper left", ncols=2)
    return figure


def step_reward_table(summary: dict[str, Any]) -> dict[str, list[Any]]:
    """What that plot shows as one table, a row a point, as pandas' "split" has it (which MLflow shows)."""
    columns = ["stage", "step", "who", "mean", "low", "high", "n"]
    data = [
        [stage["name"], row["t"], who, row[who], *wilson(row[who], row["n"]), row["n"]]
        for stage in summary["stages"]
        if stage["step_reward"]
        for row in stage["step_reward"]["by_position"]
        for who in WHO
    ]
    return {"columns": columns, "data": data}


def training(histories: dict[str, list[dict[str, float]]]) -> Figure | None:
    """Losses, and the margins and accuracies of preferences, by update; a line a stage."""
    from matplotlib.figure import Figure

    preferring = {name: rows for name, rows in histories.items() if "reward_margin" in rows[0]}
    imitating = {name: rows for name, rows in histories.items() if name not in preferring}
    panels: list[tuple[str, dict[str, list[dict[str, float]]], str]] = []
    if imitating:
        panels.append(("Loss of imitation (nats a token)", imitating, "loss"))
    if preferring:
        panels += [
            ("Loss of preferences", preferring, "loss"),
            ("Margin: beta (chosen - rejected)", preferring, "reward_margin"),
            ("Pairs in the right order", preferring, "accuracy"),
        ]
    if not panels:
        return None
    figure = Figure(figsize=(max(3.6 * len(panels), 5), 3.2), layout="constrained")
    names = list(histories)
    for axes, (title, lines, key) in zip(figure.subplots(1, len(panels), squeeze=False).flat, panels, strict=True):
        for name, rows in lines.items():
            at, values = _thinned([row[key] for row in rows])
            k = names.index(name)
            axes.plot(
                at,
                values,
                color=STAGES[k % len(STAGES)],
                marker=MARKERS[k % len(MARKERS)],
                markersize=4,
                markevery=max(1, len(at) // 8),
                linewidth=1.2,
                label=_short(name),
            )
        axes.set_title(title, fontsize=10)
        axes.set(xlabel="update")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
    return figure


def _thinned(values: Sequence[float]) -> tuple[list[float], list[float]]:
    """Updates (from 1) and values, at most `POINTS` of them."""
    parts = min(len(values), POINTS)
    ends = [round(k * len(values) / parts) for k in range(parts + 1)]
    spans = list(itertools.pairwise(ends))
    return [(a + 1 + b) / 2 for a, b in spans], [fmean(values[a:b]) for a, b in spans]


def around(values: Sequence[float], bounds: Sequence[Sequence[float]]) -> list[list[float]]:
    """Bounds as matplotlib wants them: distances below and above."""
    return [
        [max(v - low, 0.0) for v, (low, _) in zip(values, bounds, strict=True)],
        [max(high - v, 0.0) for v, (_, high) in zip(values, bounds, strict=True)],
    ]


def _span(counts: Sequence[int]) -> str:
    return str(counts[0]) if len(set(counts)) == 1 else f"{min(counts)} to {max(counts)}"


def _short(stage: str) -> str:
    return stage.replace("iteration-", "it. ")
