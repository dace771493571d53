"""`ipr bench`: methods side by side. What is played (a plan), and what its runs say together (tables, plot, page).

Decided here: a method is a folder of runs of several seeds (`seeds`), and the runs are the only truth about it. Each
run reports its own iteration, chosen on dev; of the control the last stands, which has all its updates. Every figure of
a run is on the same test games; greedy episodes, and N episodes at temperature 1 (`tasks.best_of`). Intervals are over
seeds and games together.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from ipr import evaluate, identity, models, store
from ipr.config import RunConfig, flat, ignores, load, read_yaml
from ipr.runs import plots, report
from ipr.runs.run import Run, stage_name
from ipr.runs.seeds import REPORTED, Seeds
from ipr.runs.summary import rollouts, samples_file
from ipr.types import IprError, Trajectory, suggestion

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

SFT, CONTROL, BEST = "sft", "sft+", "best"
"""The stage that every method starts from and the method that only trains on: others are compared with both; and the
method that is compared with all others."""
NOTE = (
    "mean reward on the test games in %, 95 % interval over seeds and games together (of two or three seeds a rough"
    " one); stage: the one that dev chooses, which may be SFT's, of the control the last; greedy: one episode a game;"
    " T = 1: the mean of several samples a game; best of: of these the best by its outcome (an oracle picks: an upper"
    " bound); steps: on games that the method and SFT both solve, method / SFT; invalid: share of the actions; updates"
    " (the agent's), episodes (played, not taken from others) and seconds (with a reward model's fit, without what a"
    " killed process had played): of the iterations of one seed, the SFT agent apart"
)


@dataclass(frozen=True)
class Plan:
    """What `ipr bench` plays."""

    env: str
    preset: str
    methods: dict[str, RunConfig]
    """By name, of the preset's seed; all have the same SFT agent."""


def plan(env: str, presets: Path, names: Sequence[str], overrides: Sequence[str]) -> Plan:
    """The plan of `presets`/bench/ENV.yaml: its `methods`, or those named (of `more` too), with overrides.

    "KEY=VALUE" is for all methods that have a use for it, "METHOD:KEY=VALUE" for one. Raises IprError naming the file,
    method or key, also for an override that none has a use for.
    """
    path = presets / "bench" / f"{env}.yaml"
    if not path.is_file():
        raise IprError(f"no bench for '{env}'; {suggestion(env, (p.stem for p in path.parent.glob('*.yaml')))}")
    tree = read_yaml(path)
    if missing := [key for key in ("preset", "keys", "methods") if not tree.get(key)]:
        raise IprError(f"{path}: '{missing[0]}' is missing; see {path.parent}/alfworld.yaml")
    known = tree["methods"] | tree.get("more", {})
    for name in names:
        if name not in known:
            raise IprError(f"{path.name} has no method '{name}'; {suggestion(name, known)}")
    chosen = names or list(tree["methods"])
    own: dict[str, list[str]] = {name: [] for name in chosen}
    for override in overrides:
        name, colon, rest = override.partition(":")
        if colon and "=" not in name:
            if name not in own:
                raise IprError(f"{override}: method '{name}' is not played; {suggestion(name, own)}")
            own[name].append(rest)
    keys = {o: key for o in overrides if ":" not in (key := o.partition("=")[0])}
    idle = dict(keys)
    methods: dict[str, RunConfig] = {}
    for name in chosen:
        given = [f"{key}={json.dumps(value)}" for key, value in (tree["keys"] | known[name]).items()]
        method = load(tree["preset"], [*given, *(o for o in overrides if o.startswith("eval."))], presets)
        wanted = [o for o, key in keys.items() if not ignores(method, key)]
        methods[name] = load(tree["preset"], [*given, *wanted, *own[name]], presets)
        idle = {o: key for o, key in idle.items() if o not in wanted}
    for override, key in idle.items():
        if key not in flat(next(iter(methods.values()))):
            load(tree["preset"], [override], presets)  # which says what it may mean
        raise IprError(f"{override}: none of {', '.join(chosen)} has a use for it; leave it out")
    first, *others = methods.values()
    for other in others:
        if (key := _other_sft(first, other)) is not None:
            raise IprError(f"{path}: the methods differ in '{key}', which is the SFT agent's, too; make it equal")
    return Plan(env, tree["preset"], methods)


def stage_of(name: str, config: RunConfig) -> str:
    """Which stage of a method's runs is compared."""
    return stage_name(config.algorithm.iterations) if name == CONTROL else REPORTED


def adopt(run: Run, source: Path) -> None:
    """Give a new run the SFT stage of a finished one (its folder) of the same seed, experts and base."""
    if run.record(0, "evaluate") is not None:
        return
    finished = Run(source)
    # First, as the stages' records say that it is there.
    store.replace(run.folder / "experts.parquet", lambda path: path.hardlink_to(finished.folder / "experts.parquet"))
    for k in (-1, 0):
        store.replace_folder(run.stage(k), lambda aside, k=k: models.copy_files(finished.stage(k), aside))
    run.note(sft_of=finished.name, scorer=finished.manifest["scorer"])


def summary(folder: Path, names: Sequence[str], samples: int) -> tuple[dict[str, Any], DataFrame]:
    """Rows (SFT and the methods) and comparisons (each with SFT and the control, `best` with all), of the seeds that
    all have finished, samples included; and each game's rewards, greedy and the mean of its samples, for other
    comparisons.

    Raises IprError where there is none.
    """
    from pandas import DataFrame

    groups = {name: Seeds(folder / name) for name in names}
    first = next(iter(groups.values()))
    sides = {SFT: (first, SFT)} | {name: (group, stage_of(name, group.config)) for name, group in groups.items()}
    # Another process may be at other seeds in this folder.
    done = (
        {s for s, run in group.runs.items() if samples_file(run, group.iteration(run, stage), samples, 1.0).exists()}
        for group, stage in sides.values()
    )
    common = sorted(set.intersection(*done))
    if not common:
        raise IprError(f"{folder}: no seed is finished by all methods yet; the same command continues")
    for group in groups.values():
        group.runs = {seed: group.runs[seed] for seed in common}
    greedy = {name: group.played(stage) for name, (group, stage) in sides.items()}
    sampled = {
        name: {s: _samples(run, group.iteration(run, stage), samples) for s, run in group.runs.items()}
        for name, (group, stage) in sides.items()
    }
    means = {name: {s: _means(g, fmean) for s, g in by_seed.items()} for name, by_seed in sampled.items()}
    tops = {name: {s: _means(g, max) for s, g in by_seed.items()} for name, by_seed in sampled.items()}
    resamples, success = first.config.eval.bootstrap, first.config.algorithm.success
    rows = [
        {
            "name": name,
            "stages": {s: stage_name(group.iteration(run, stage)) for s, run in group.runs.items()},
            "greedy": _figure(greedy[name], resamples),
            "sampled": _figure(means[name], resamples),
            "best_of": _figure(tops[name], resamples),
            "steps": _steps(greedy[SFT], greedy[name], success),
            "step_reward": _step_reward(group, stage),
            "invalid": _invalid([t for by in greedy[name].values() for t in by]),
            "cost": None if stage == SFT else _cost(group),
        }
        for name, (group, stage) in sides.items()
    ]
    iterations = [
        _iteration(name, group, k, greedy[SFT])
        for name, group in groups.items()
        for k in range(1, group.config.algorithm.iterations + 1)
    ]
    comparisons = [
        {"a": a, "b": b, "what": what} | evaluate.compare_seeds(played[a], played[b], resamples)
        for what, played in (("greedy", greedy), ("T = 1", means))
        for a, b in against(names)
    ]
    found = {
        "env": first.config.env.name,
        "seeds": common,
        "games": rows[0]["greedy"]["games"],
        "samples": samples,
        "base": _figure(first.played(stage_name(-1)), resamples),
        "rows": rows,
        "iterations": iterations,
        "comparisons": comparisons,
    }
    games: list[dict[str, Any]] = []
    for name in sides:
        for seed in common:
            mean = {t.task_id: t.reward for t in means[name][seed]}
            games += [
                {"method": name, "seed": seed, "game": t.task_id, "greedy": t.reward, "sampled": mean[t.task_id]}
                for t in greedy[name][seed]
            ]
    return found, DataFrame(games)


def against(names: Sequence[str]) -> list[tuple[str, str]]:
    """(a, b) of every comparison, b less a."""
    sides = ((a, b) for b in names for a in (SFT, *names) if a in (SFT, CONTROL) or b == BEST)
    return [(a, b) for a, b in dict.fromkeys(sides) if a != b]


def columns(found: Mapping[str, Any]) -> list[str]:
    head = ["method", "stage", "greedy", "- SFT", "- SFT+", "T = 1", "- SFT", "- SFT+", f"best of {found['samples']}"]
    return [*head, "steps", "invalid", "step reward", "updates", "episodes", "seconds"]


def table_rows(found: Mapping[str, Any]) -> list[list[str]]:
    gaps = {(c["what"], c["a"], c["b"]): c for c in found["comparisons"]}

    def gap(what: str, a: str, b: str) -> str:
        c = gaps.get((what, a, b))
        return f"{100 * c['difference']:+.1f} {_bounds(c['interval'])}" if c else ""

    rows = []
    for row in found["rows"]:
        name, cost = row["name"], row["cost"]
        cells = [name, ", ".join(dict.fromkeys(row["stages"].values()))]
        for what, key in (("greedy", "greedy"), ("T = 1", "sampled")):
            cells += [f"{100 * row[key]['reward']:.1f} {_bounds(row[key]['interval'])}"]
            cells += [gap(what, SFT, name), gap(what, CONTROL, name)]
        steps = "" if row["steps"] is None or name == SFT else "{:.1f} / {:.1f}".format(*row["steps"])
        cells += [f"{100 * row['best_of']['reward']:.1f}", steps, f"{100 * row['invalid']:.0f} %"]
        cells += ["" if row["step_reward"] is None else f"{row['step_reward']:.3f}"]
        cells += [f"{cost[key]:.0f}" for key in ("updates", "episodes", "seconds")] if cost else ["", "", ""]
        rows.append(cells)
    return rows


ITERATIONS = (
    "every iteration, greedy, whatever dev says; x2: two seeds are compared above by it; step rewards: means of the"
    " expert's and the agent's scored actions; spearman: of a step reward model, on held-out problems"
)


def iteration_columns(found: Mapping[str, Any]) -> list[str]:
    return [
        "method",
        "stage",
        "dev",
        "test",
        "- SFT",
        *(f"seed {s}" for s in found["seeds"]),
        "step rewards",
        "spearman",
    ]


def iteration_rows(found: Mapping[str, Any]) -> list[list[str]]:
    rows = []
    for row in found["iterations"]:
        test, gap, (expert, agent), ranks = (row[key] for key in ("test", "difference", "step_rewards", "spearman"))
        rows.append(
            [
                row["method"],
                f"{row['stage']}{' x' + str(row['compared']) if row['compared'] else ''}",
                f"{100 * row['dev']:.1f}",
                f"{100 * test['reward']:.1f} {_bounds(test['interval'])}",
                f"{100 * gap['difference']:+.1f} {_bounds(gap['interval'])}",
                *(f"{100 * x:.1f}" for x in test["by_seed"].values()),
                "" if expert is None or agent is None else f"{expert:.2f} / {agent:.2f}",
                "" if ranks is None else f"{ranks:.2f}",
            ]
        )
    return rows


def sentences(found: Mapping[str, Any]) -> list[str]:
    """Every comparison in words."""

    def sentence(c: Mapping[str, Any]) -> str:
        each = ", ".join(f"{100 * x:+.1f}" for x in c["by_seed"].values())
        gap = f"{100 * c['difference']:+.1f} points {_bounds(c['interval'])}"
        return f"{c['b']} against {c['a']}, {c['what']}: {gap}; better with {c['better']} of the seeds ({each})"

    return [sentence(c) for c in found["comparisons"]]


def table(found: Mapping[str, Any]) -> str:
    """For a terminal."""
    main, each = (
        report.aligned(rows)
        for rows in ([columns(found), *table_rows(found)], [iteration_columns(found), *iteration_rows(found)])
    )
    return "\n".join([*main, "", _head(found), NOTE, "", *each, "", ITERATIONS, "", *sentences(found)])


def markdown(found: Mapping[str, Any]) -> str:
    lines = report.piped([columns(found), *table_rows(found)])
    each = report.piped([iteration_columns(found), *iteration_rows(found)])
    below = ["", NOTE + ".", "", *each, "", ITERATIONS + ".", "", *(f"- {s}" for s in sentences(found))]
    return "\n".join([_head(found), "", *lines, *below]) + "\n"


def plot(found: Mapping[str, Any]) -> Figure:
    """Each method's greedy and sampled difference to SFT with its interval, and the single seeds as small marks."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 0.6 * len(found["rows"]) + 1.6), layout="constrained")
    for axes, what in zip(figure.subplots(1, 2, sharey=True), ("greedy", "T = 1"), strict=True):
        rows = [c for c in found["comparisons"] if c["what"] == what and c["a"] == SFT]
        for at, c in enumerate(rows):
            gap, bounds = 100 * c["difference"], [100 * x for x in c["interval"]]
            axes.errorbar(gap, at, xerr=plots.around([gap], [bounds]), marker="o", capsize=4, color=plots.STAGES[0])
            axes.plot([100 * x for x in c["by_seed"].values()], [at] * len(c["by_seed"]), "|", color="#555555")
        axes.axvline(0, color="#888888", linewidth=0.8)
        axes.set_yticks(range(len(rows)), [c["b"] for c in rows])
        axes.set(title=f"{what}: points over SFT (95 %, seeds and games)", xlabel="points")
        axes.spines[["top", "right"]].set_visible(False)
        axes.invert_yaxis() if what == "greedy" else None
    return figure


def write(folder: Path, found: Mapping[str, Any], games: DataFrame) -> None:
    """A `summary` as bench.json, games.parquet, bench.md, bench.html (self-contained) and plots/bench.{png,svg} in the
    bench's folder."""
    from jinja2 import Environment

    store.write_json(folder / "bench.json", dict(found))
    store.replace(folder / "games.parquet", lambda path: games.to_parquet(path, index=False))
    store.write_text(folder / "bench.md", markdown(found))
    plots.written(folder, "bench", plot(found))
    svg = (folder / "plots" / "bench.svg").read_text()
    page = (
        Environment(autoescape=True)
        .from_string(_PAGE)
        .render(
            head=_head(found),
            tables=[
                (columns(found), table_rows(found), NOTE),
                (iteration_columns(found), iteration_rows(found), ITERATIONS),
            ],
            sentences=sentences(found),
            plot=svg[svg.index("<svg") :],
            name=folder.resolve().name,
        )
    )
    store.write_text(folder / "bench.html", page)


def _head(found: Mapping[str, Any]) -> str:
    seeds = ", ".join(map(str, found["seeds"]))
    played = f"seeds {seeds}, {found['games']} test games, {found['samples']} samples a game at T = 1"
    return f"{found['env']}: {played}; the base model, greedy: {100 * found['base']['reward']:.1f}"


def _bounds(interval: Sequence[float]) -> str:
    return f"[{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"


def _figure(played: Mapping[int, Sequence[Trajectory]], resamples: int) -> dict[str, Any]:
    values = evaluate.rewards_by_seed(played)
    return {
        "games": values.shape[1],
        "reward": float(values.mean()),
        "interval": evaluate.of_mean(values, resamples),
        "by_seed": dict(zip(sorted(played), values.mean(axis=1).tolist(), strict=True)),
    }


def _iteration(name: str, group: Seeds, k: int, sft: Mapping[int, Sequence[Trajectory]]) -> dict[str, Any]:
    """A stage of a method with every seed, whether it is reported or not."""
    stage, resamples = stage_name(k), group.config.eval.bootstrap
    played = group.played(stage)
    compared = [group.iteration(run, stage_of(name, group.config)) for run in group.runs.values()]
    records = [run.record(k, "reward") or {} for run in group.runs.values()]

    def mean(section: str, key: str) -> float | None:
        found = [x for record in records if (x := (record.get(section) or {}).get(key)) is not None]
        return fmean(found) if found else None

    return {
        "method": name,
        "stage": stage,
        "dev": fmean(t.reward for by in group.played(stage, "dev").values() for t in by),
        "test": _figure(played, resamples),
        "difference": evaluate.compare_seeds(sft, played, resamples),
        "compared": compared.count(k),
        "step_rewards": [mean("step_reward", who) for who in ("expert", "agent")],
        "spearman": mean("reward_model", "spearman"),
    }


def _samples(run: Run, iteration: int, n: int) -> list[list[Trajectory]]:
    played = store.load(samples_file(run, iteration, n, 1.0), Trajectory)
    return [played[k : k + n] for k in range(0, len(played), n)]


def _means(groups: Sequence[Sequence[Trajectory]], of: Any) -> list[Trajectory]:
    """A trajectory a game whose reward is that of its samples together."""
    return [replace(group[0], reward=of([t.reward for t in group])) for group in groups]


def _steps(
    a: Mapping[int, Sequence[Trajectory]], b: Mapping[int, Sequence[Trajectory]], success: float
) -> list[float] | None:
    """Mean steps (of b, of a) on the games that both solve with the same seed."""
    both: list[tuple[int, int]] = []
    for seed, played in b.items():
        theirs = {t.task_id: t for t in a[seed] if t.reward >= success}
        both += [
            (len(t.steps), len(theirs[t.task_id].steps)) for t in played if t.reward >= success and t.task_id in theirs
        ]
    return [fmean(x) for x in zip(*both, strict=True)] if both else None


def _invalid(played: Sequence[Trajectory]) -> float:
    """The share of all actions, as `evaluate.metrics` has it."""
    return sum(t.invalid for t in played) / max(1, sum(len(t.steps) for t in played))


def _step_reward(group: Seeds, stage: str) -> float | None:
    records = (run.record(group.iteration(run, stage), "evaluate") or {} for run in group.runs.values())
    found = [record["test"]["step_reward"] for record in records]
    return fmean(found) if None not in found else None


def _cost(group: Seeds) -> dict[str, float]:
    """Of the iterations, mean over the seeds."""
    sums: list[tuple[float, float, float]] = []
    for run in group.runs.values():
        updates = episodes = seconds = 0.0
        for k in range(1, run.config.algorithm.iterations + 1):
            records = {task: run.record(k, task) or {} for task in ("explore", "reward", "pairs", "train")}
            updates += records["train"].get("updates", 0)
            episodes += rollouts(records["explore"], records["reward"]["rollouts"])["total_played"]
            seconds += sum(record.get("seconds", 0.0) for record in records.values())
        sums.append((updates, episodes, seconds))
    return dict(zip(("updates", "episodes", "seconds"), map(fmean, zip(*sums, strict=True)), strict=True))


def _other_sft(a: RunConfig, b: RunConfig) -> str | None:
    """A part of the config that the SFT stage or how agents play and are evaluated depends on, and in which the two
    differ."""
    for section in ("seed", "env", "model", "sft", "eval"):
        if getattr(a, section) != getattr(b, section):
            return section
    # Of the method, how its agents are evaluated; by samples only where step rewards are.
    knobs = ("success", "samples", "temperature") if a.eval.step_reward_games else ("success",)
    for knob in knobs:
        if getattr(a.algorithm, knob) != getattr(b.algorithm, knob):
            return f"algorithm.{knob}"
    rules = ({k: v for k, v in identity.deciding(c).items() if k.startswith("rollout.")} for c in (a, b))
    return "rollout" if next(rules) != next(rules) else None


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{{ name }}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 1280px; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; font-size: 14px } td, th { padding: .25rem .6rem; text-align: right }
th { border-bottom: 2px solid #888 } td { border-bottom: 1px solid #ddd; white-space: nowrap }
td:first-child, th:first-child { text-align: left } .note { color: #555 } svg { max-width: 100%; height: auto }
.wide { overflow-x: auto }
</style>
<h1>{{ name }}</h1><p>{{ head }}</p>
{{ plot|safe }}{% for columns, rows, note in tables %}
<div class="wide"><table><tr>{% for c in columns %}<th>{{ c }}</th>{% endfor %}</tr>
{% for row in rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>{% endfor %}</table></div>
<p class="note">{{ note }}</p>{% endfor %}
<ul>{% for s in sentences %}<li>{{ s }}</li>{% endfor %}</ul>
</html>
"""
