"""A run's figures for people: the terminal's table, Markdown, and report.html.

Left out: anything computed here. Figures come from `ipr.evaluate` and `ipr.runs.summary`, plots from `ipr.runs.plots`,
the episodes from `ipr.runs.viewer`. What the page looks like is in `page/`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ipr import store
from ipr.runs import plots, viewer
from ipr.runs.episodes import Episodes
from ipr.runs.run import Run
from ipr.types import IprError

NOTE = (
    "mean reward in % with its 95 % interval (test, its splits, dev), success on test in %; pairs: outcome + step, or"
    " episodes that were imitated; rollouts of exploring and scoring: played (saved);"
    " * reported: the last that is not worse on dev than the best by more than chance, SFT where that is best"
)
PROFILE = ("seconds", "workers", "model", "environment", "tokenizer", "io", "training", "waiting", "other")
"""The seconds of a profile's row: by the clock, of all workers together, and the parts that make up both."""


def columns(summary: dict[str, Any]) -> list[str]:
    """The table's head; the test splits are those of the run."""
    splits = next((stage["tests"] for stage in summary["stages"]), {})
    after = ("dev", "success", "steps", "invalid", "step reward", "pairs", "rollouts", "time")
    return ["stage", "test reward", *splits, *after]


def rows(summary: dict[str, Any]) -> list[list[str]]:
    """The table's cells, a row a stage; the reported stage is marked with *."""
    return [_row(stage, summary["reported"]) for stage in summary["stages"]]


def table(summary: dict[str, Any]) -> str:
    """For a terminal, with the paired comparisons in words below."""
    lines = aligned([columns(summary), *rows(summary)])
    return "\n".join([*lines, "", NOTE, *sentences(summary), *warnings(summary)])


def markdown(summary: dict[str, Any]) -> str:
    lines = piped([columns(summary), *rows(summary)])
    return "\n".join([*lines, "", *sentences(summary), *warnings(summary)])


def aligned(cells: list[list[str]]) -> list[str]:
    """Lines of a table for a terminal; the first row is its head."""
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    return [lines[0], "  ".join("-" * width for width in widths), *lines[1:]]


def piped(cells: list[list[str]]) -> list[str]:
    """The same in Markdown."""
    lines = ["| " + " | ".join(row) + " |" for row in cells]
    return [lines[0], "|" + "---|" * len(cells[0]), *lines[1:]]


def warnings(summary: dict[str, Any]) -> list[str]:
    """What the figures suffer from; a summary of before has none."""
    return [f"WARNING: {line}" for line in summary.get("warnings", [])]


WAITS = "MLflow does not answer, so the alias moves with the next run's start or `ipr status RUN --sync`"


def verdict(decision: dict[str, Any]) -> str:
    """What was decided of the champion, and why, in words."""
    if decision["promote"]:
        return f"Champion: {decision['stage']} is promoted: {decision['why']}."
    if decision.get("outcome") == "waits" and "dev_reward" not in decision:
        return f"Champion: {decision['stage']} is not compared with it yet: {decision['why']}; {WAITS}."
    if decision.get("outcome") == "waits":
        return f"Champion: {decision['stage']} is to be promoted: {decision['why']}; {WAITS}."
    return f"Champion: {decision['stage']} is not promoted: {decision['why']}."


def sentences(summary: dict[str, Any]) -> list[str]:
    """The paired comparisons, how good a step reward model is, Best-of-N and the verdict on the champion, in words."""
    compared = [
        f"{c['b']} against {c['a']}: {100 * c['difference']:+.1f} points {_interval(c['interval'])}"
        f" on {c['games']} games ({c['win']} won, {c['tie']} equal, {c['lose']} lost; p = {c['p']:.3f})"
        for c in summary["comparisons"]
    ]
    modelled = [_reward_model(m) for stage in summary["stages"] if (m := stage.get("reward_model"))]
    told = [decision["verdict"]] if (decision := summary.get("champion")) else []
    return [*compared, *modelled, *map(best_of, summary.get("best_of", [])), *told]


def best_of(row: dict[str, Any]) -> str:
    """Best-of-N of a stage, with what it costs beside one greedy episode a game."""

    def of(figures: dict[str, Any]) -> str:
        return f"{100 * figures['reward']:.1f} {_interval(figures['interval'])}"

    return (
        f"{row['stage']}, {row['n']} samples of each of {row['games']} games at T = {row['temperature']:g}: one"
        f" {of(row['one'])}, the best by its outcome (an oracle picks: an upper bound) {of(row['oracle'])}"
        + (f", the best by the step reward model {of(row['model'])}" if row["model"] else "")
        + f"; {row['episodes']} episodes in place of {row['games']}, {row['tokens']:.0f} tokens, {row['seconds']:.0f} s"
    )


def _reward_model(found: dict[str, Any]) -> str:
    """A summary of before has none."""
    fitted = f"step reward model fitted to {found['fitted']} actions"
    if found["spearman"] is None:
        return f"{fitted}; too few held out ({found['held_out']}) for a rank correlation with Monte Carlo"
    return (
        f"{fitted}; on {found['held_out']} of held-out problems its rank correlation with Monte Carlo is"
        f" {found['spearman']:.2f}, its mean squared error {found['mse']:.3f} (variance {found['variance']:.3f})"
    )


def write_html(run_dir: Path) -> Path:
    """report.html (self-contained), and plots/NAME.{png,svg}, of a run with a summary.json."""
    from jinja2 import Environment

    summary = store.read_json(run_dir / "summary.json")
    if not summary["stages"]:
        raise IprError(f"{run_dir}/summary.json has no evaluated stage yet")
    run = Run(run_dir)
    figures = plots.draw(run, summary)
    episodes = viewer.packed(Episodes(run))
    profile = store.read_json(run_dir / "profile.json") if (run_dir / "profile.json").exists() else []
    last = summary["stages"][-1]
    sections = [("figures", "Figures"), ("episodes", "Episodes"), ("time", "Time"), ("data", "Data and config")]
    page = {path.name: path.read_text() for path in (Path(__file__).parent / "page").iterdir()}
    html = (
        Environment(autoescape=True)
        .from_string(page["report.html"])
        .render(
            summary=summary,
            sections=[(key, name) for key, name in sections if key != "time" or profile],
            style=page["style.css"],
            script=page["viewer.js"],
            columns=columns(summary),
            note=NOTE,
            profile=profile,
            parts=PROFILE,
            rows=rows(summary),
            sentences=sentences(summary),
            warnings=warnings(summary),
            plots=figures,
            types=sorted(last["test"]["by_type"]) if last["test"] else [],
            config=run.config.to_yaml(),
            data=run.manifest.get("data", {}),
            files=run.manifest.get("data_files", {}),
            episodes=episodes,
        )
    )
    return store.write_text(run_dir / "report.html", html)


def _row(stage: dict[str, Any], reported: str | None) -> list[str]:
    test, tests = stage["test"] or {}, stage["tests"]
    pairs, rollouts, reward = stage["pairs"], stage["rollouts"], stage["step_reward"]
    average = test.get("step_reward")
    gap = f"{reward['expert']:.2f}/{reward['agent']:.2f}" if reward else ""
    gap = gap if average is None else f"{average:.2f}"
    return [
        stage["name"] + ("*" if stage["name"] == reported else ""),
        _with_interval(test) if test.get("games") else "",
        *(f"{100 * figures['reward']:.1f}" if figures.get("games") else "" for figures in tests.values()),
        f"{100 * stage['dev']['reward']:.1f}" if stage["dev"] else "",
        f"{100 * test['success']:.1f}" if test.get("games") else "",
        f"{test['steps']:.1f}" if test.get("games") else "",
        f"{100 * test['invalid']:.0f} %" if test.get("games") else "",
        gap,
        _examples(pairs) if pairs else "",
        f"{rollouts['total_played']} ({rollouts['saved']})" if rollouts else "",
        f"{stage['seconds']:.0f} s",
    ]


def _examples(pairs: dict[str, Any]) -> str:
    """What was trained on: pairs, or demonstrations where a method imitates."""
    return str(pairs["demonstrations"]) if pairs.get("demonstrations") else f"{pairs['outcome']} + {pairs['step']}"


def _with_interval(metrics: dict[str, Any]) -> str:
    return f"{100 * metrics['reward']:.1f} {_interval(metrics['reward_interval'])}"


def _interval(bounds: Sequence[float]) -> str:
    return f"[{100 * bounds[0]:.1f}, {100 * bounds[1]:.1f}]"
