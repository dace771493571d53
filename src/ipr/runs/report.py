"""A run's figures for people: the terminal's table, Markdown, the plot, and report.html. Input is summary.json only.

Left out: anything computed here. Figures come from `ipr.evaluate` and `ipr.runs.summary`.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ipr import store
from ipr.types import IprError, PreferencePair

NOTE = (
    "mean reward in % with its 95 % interval (test, its splits, dev), success on test in %; pairs: outcome + step, or"
    " episodes that were imitated; rollouts of exploring and scoring: played (saved); * reported"
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
    cells = [columns(summary), *rows(summary)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join([*lines, "", NOTE, *sentences(summary), *warnings(summary)])


def markdown(summary: dict[str, Any]) -> str:
    return "\n".join([_markdown([columns(summary), *rows(summary)]), "", *sentences(summary), *warnings(summary)])


def warnings(summary: dict[str, Any]) -> list[str]:
    """What the figures suffer from; a summary of before has none."""
    return [f"WARNING: {line}" for line in summary.get("warnings", [])]


def verdict(decision: dict[str, Any]) -> str:
    """What was decided of the champion, and why, in words."""
    if decision["promote"]:
        return f"Champion: {decision['stage']} is promoted: {decision['why']}."
    word = "is to be promoted" if decision.get("outcome") == "waits" else "is not promoted"
    return f"Champion: {decision['stage']} {word}: {decision['why']}."


def sentences(summary: dict[str, Any]) -> list[str]:
    """The paired comparisons and the verdict on the champion in words."""
    decision = summary.get("champion")
    return [
        f"{c['b']} against {c['a']}: {100 * c['difference']:+.1f} points {_interval(c['interval'])}"
        f" on {c['games']} games ({c['win']} won, {c['tie']} equal, {c['lose']} lost; p = {c['p']:.3f})"
        for c in summary["comparisons"]
    ] + ([decision["verdict"]] if decision else [])


def plot(summary: dict[str, Any], write: Callable[[Any], Any]) -> None:
    """Mean reward by stage, step rewards by position, pairs and rollouts; `write` is given the figure."""
    from matplotlib.figure import Figure

    stages = summary["stages"]
    figure = Figure(figsize=(12, 3.8), layout="constrained")
    result, reward, work = figure.subplots(1, 3)
    for split, colour in (("test", "#1f5fa8"), ("dev", "#9a9a9a")):
        shown = [s for s in stages if s[split]]
        values = [100 * s[split]["reward"] for s in shown]
        low = [v - 100 * s[split]["reward_interval"][0] for v, s in zip(values, shown, strict=True)]
        high = [100 * s[split]["reward_interval"][1] - v for v, s in zip(values, shown, strict=True)]
        names = [s["name"].replace("iteration-", "it. ") for s in shown]
        result.errorbar(names, values, yerr=[low, high], marker="o", capsize=3, color=colour, label=split)
    result.set(title="Mean reward on held-out games (95 % interval)", ylabel="%")
    result.set_ylim(0, max(5, result.get_ylim()[1]))
    result.legend(frameon=False)
    last = next((s for s in reversed(stages) if s["step_reward"]), None)
    if last:
        positions = last["step_reward"]["by_position"]
        for who, colour in (("expert", "#2e8b57"), ("agent", "#c0504d")):
            steps = [p["t"] for p in positions]
            reward.plot(steps, [p[who] for p in positions], marker=".", color=colour, label=who)
        reward.set(title=f"Step reward of scored actions, {last['name']}", xlabel="step t", ylim=(0, 1.02))
        reward.legend(frameon=False)
    trained = [s for s in stages if s["pairs"]]
    names = [s["name"].replace("iteration-", "it. ") for s in trained]
    outcome, step = ([s["pairs"][level] for s in trained] for level in ("outcome", "step"))
    work.bar(names, outcome, width=0.5, color="#1f5fa8", label="outcome pairs")
    work.bar(names, step, width=0.5, bottom=outcome, color="#8fb4dd", label="step pairs")
    work.set(title="Pairs kept")
    work.margins(x=0.3, y=0.25)
    work.legend(frameon=False, loc="upper left", ncols=2)
    for axes in (result, reward, work):
        axes.spines[["top", "right"]].set_visible(False)
    write(figure)


def write_html(run_dir: Path) -> Path:
    """report.html (self-contained) and plots/learning.{png,svg} of a run with a summary.json."""
    from jinja2 import Environment

    summary = store.read_json(run_dir / "summary.json")
    if not summary["stages"]:
        raise IprError(f"{run_dir}/summary.json has no evaluated stage yet")
    drawing = io.StringIO()
    (run_dir / "plots").mkdir(exist_ok=True)

    def save(figure: Any) -> None:
        store.replace(run_dir / "plots" / "learning.png", lambda p: figure.savefig(p, format="png", dpi=110))
        store.replace(run_dir / "plots" / "learning.svg", lambda p: figure.savefig(p, format="svg"))
        figure.savefig(drawing, format="svg")

    plot(summary, save)
    manifest = store.read_json(run_dir / "manifest.json") if (run_dir / "manifest.json").exists() else {}
    profile = store.read_json(run_dir / "profile.json") if (run_dir / "profile.json").exists() else []
    config = run_dir / "config.yaml"
    last = summary["stages"][-1]
    html = (
        Environment(autoescape=True)
        .from_string(_PAGE)
        .render(
            summary=summary,
            columns=columns(summary),
            note=NOTE,
            profile=profile,
            parts=PROFILE,
            rows=rows(summary),
            sentences=sentences(summary),
            warnings=warnings(summary),
            plot=drawing.getvalue().partition("<svg")[1] + drawing.getvalue().partition("<svg")[2],
            types=sorted(last["test"]["by_type"]) if last["test"] else [],
            config=config.read_text() if config.exists() else "",
            data=manifest.get("data", {}),
            files=manifest.get("data_files", {}),
            examples=[e for s in summary["stages"] if (e := _example(run_dir / s["name"]))],
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


def _markdown(cells: list[list[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in cells]
    lines.insert(1, "|" + "---|" * len(cells[0]))
    return "\n".join(lines)


def _example(stage: Path) -> dict[str, Any] | None:
    """The step pair with the largest margin of a stage."""
    path = stage / "pairs.parquet"
    found = [p for p in store.load(path, PreferencePair) if p.level == "step"] if path.exists() else []
    if not found:
        return None
    pair = max(found, key=lambda p: p.margin)
    return {
        "stage": stage.name,
        "task": pair.prompt[0].content.rsplit("\n", 1)[-1],
        "before": pair.prompt[-1].content,
        "chosen": pair.chosen[0].content,
        "rejected": pair.rejected[0].content,
        "margin": pair.margin,
        "t": pair.t + 1,
    }


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{{ summary.name }}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 1180px; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; margin: .6rem 0 } td, th { padding: .25rem .7rem; text-align: right }
th { border-bottom: 2px solid #888; font-weight: 600 } td { border-bottom: 1px solid #ddd }
td:first-child, th:first-child { text-align: left } tr.reported { background: #eef4fb }
pre { background: #f6f6f6; padding: .7rem; overflow-x: auto; font-size: 13px } svg { max-width: 100%; height: auto }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 1rem }
.pair pre { white-space: pre-wrap } .good { border-left: 4px solid #2e8b57 }
.bad { border-left: 4px solid #c0504d } .note { color: #666 }
</style>
<h1>{{ summary.name }}</h1>
<p class="note">{{ summary.env }}, preset {{ summary.preset }}, seed {{ summary.seed }},
config {{ summary.config_hash }}, {{ summary.status }}, {{ "%.0f"|format(summary.seconds) }} s of stages;
reported: {{ summary.reported }} (chosen on dev)</p>
<table><tr>{% for c in columns %}<th>{{ c }}</th>{% endfor %}</tr>
{% for row in rows %}<tr{% if row[0].endswith("*") %} class="reported"{% endif %}>
{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>{% endfor %}</table>
<p class="note">{{ note }}</p>
{% for w in warnings %}<p><strong>{{ w }}</strong></p>{% endfor %}
{{ plot|safe }}
<h2>Paired comparisons</h2><ul>{% for s in sentences %}<li>{{ s }}</li>{% endfor %}</ul>
<h2>Success by type of task</h2>
<table><tr><th>type</th>{% for s in summary.stages %}<th>{{ s.name }}</th>{% endfor %}</tr>
{% for t in types %}<tr><td>{{ t }}</td>{% for s in summary.stages %}
<td>{{ "%.0f"|format(100 * s.test.by_type[t].success) if s.test and t in s.test.by_type }}</td>{% endfor %}</tr>
{% endfor %}</table>
{% if examples %}<h2>The clearest step pair of each iteration</h2>{% endif %}
{% for e in examples %}<h3>{{ e.stage }}, step {{ e.t }}, margin {{ "%.2f"|format(e.margin) }}</h3>
<p>{{ e.task }} <span class="note">Before: {{ e.before }}</span></p>
<div class="pair"><pre class="good">{{ e.chosen }}</pre><pre class="bad">{{ e.rejected }}</pre></div>{% endfor %}
{% if profile %}<h2>Where the time went</h2>
<table><tr><th>stage</th><th>task</th>{% for p in parts %}<th>{{ p }}</th>{% endfor %}
<th>rollouts/s</th><th>tokens/s</th><th>followed</th><th>saved</th></tr>
{% for row in profile %}<tr><td>{{ row.stage }}</td><td>{{ row.task }}</td>
{% for key in parts %}<td>{{ "%.1f"|format(row[key]) }}</td>{% endfor %}
<td>{{ "%.1f"|format(row.episodes_per_second) }}</td><td>{{ "%.0f"|format(row.tokens_per_second) }}</td>
<td>{{ "%.0f"|format(100 * row.followed_share) }} %</td>
<td>{{ "%.0f"|format(100 * row.saved_share) }} %</td></tr>{% endfor %}</table>
<p class="note">seconds on the clock and of the workers together; the parts make up both; followed: tokens that took no
forward pass, as another episode had come to the same history</p>{% endif %}
<h2>Data</h2><table>
{% for k, v in data.items() %}<tr><td>data/ {{ k }}</td><td><code>{{ v }}</code></td></tr>{% endfor %}
{% for k, v in files.items() %}<tr><td>{{ k }}</td><td><code>{{ v }}</code></td></tr>{% endfor %}</table>
<h2>Config</h2><pre>{{ config }}</pre>
</html>
"""
