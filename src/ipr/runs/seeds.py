"""Several seeds of one config as one experiment: a folder of runs, their figures over seeds and games, table and plot.

Decided here: any folder whose runs differ in nothing but the seed is such a group, and the runs in it are the only
truth about it. Left out: a choice among the seeds. Each run reports its own stage, chosen on dev.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from ipr import evaluate, identity, store
from ipr.config import RunConfig
from ipr.runs import plots, report
from ipr.runs.run import Run, stage_name
from ipr.runs.summary import reported_iteration, test_trajectories
from ipr.types import IprError, Trajectory

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REPORTED = "reported"
"""The row of the stage that each run reports, which need not be the same one."""

NOTE = "means over the seeds in %; intervals of 95 % over seeds and games together; each seed's mean reward on test"


def member(folder: Path, seed: int) -> Path:
    """The folder of a seed's run; its name is the run's, and tells it from other groups' runs in MLflow and data/."""
    return folder / f"{folder.resolve().name}-{seed}"


def is_group(folder: Path) -> bool:
    return not (folder / "config.yaml").exists() and any(folder.glob("*/config.yaml"))


def check(folder: Path, config: RunConfig) -> None:
    """Raises IprError where a run of the group has another config: before hours are played, not after."""
    wanted = identity.deciding(config)
    for path in sorted(folder.glob("*/config.yaml")):
        found = identity.deciding(Run(path.parent).config)
        if changed := identity.differences(found, wanted | {"seed": found["seed"]}):
            raise IprError(
                f"{path.parent} holds a run with another config ({'; '.join(changed)}); use another --dir, or remove it"
            )


class Seeds:
    """A folder of runs that differ in their seed alone: `runs` by seed, and the names of those that are `unfinished`.

    Raises IprError where none is complete, or where they differ.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        if not is_group(self.folder):
            raise IprError(f"{folder} is no folder of runs; start one: ipr run quick --seeds 3 --dir {folder}")
        found = [Run(path.parent) for path in sorted(self.folder.glob("*/config.yaml"))]
        # What decides a run that another process has just begun is not all written down yet.
        told = [run for run in found if run.manifest.get("identity") or run.manifest.get("complete")]
        for run in told[1:]:
            if changed := identity.differences(*(_deciding(r) for r in (told[0], run))):
                raise IprError(
                    f"{folder}: {told[0].name} and {run.name} differ in more than the seed ({'; '.join(changed)});"
                    " put them into folders of their own"
                )
        for run in told[1:]:
            digest = (run.record(0, "experts") or {}).get("digest")  # old runs have none
            if digest and (other := other_experts(run, digest, told)):
                raise IprError(f"{other}; put them into folders of their own")
        if len({run.config.seed for run in found}) < len(found):
            raise IprError(f"{folder}: two runs have the same seed; put one into another folder")
        self.unfinished = [run.name for run in found if not run.manifest.get("complete")]
        done = (run for run in found if run.manifest.get("complete"))
        self.runs = {run.config.seed: run for run in sorted(done, key=lambda run: run.config.seed)}
        if not self.runs:
            raise IprError(
                f"{folder}: no run is complete yet ({', '.join(self.unfinished)}); continue: ipr run --seeds"
            )

    @property
    def config(self) -> RunConfig:
        """That of the first seed."""
        return next(iter(self.runs.values())).config

    def played(self, stage: str, split: str | None = None) -> dict[int, list[Trajectory]]:
        """By seed a stage's episodes (or the reported stage's) of a split, or of all test splits, a game once."""
        found = {}
        for seed, run in self.runs.items():
            k = self.iteration(run, stage)
            if split is None:
                played = test_trajectories(run, k)
            else:
                played = store.load(run.stage(k) / "eval" / f"{split}.parquet", Trajectory)
            found[seed] = list({t.task_id: t for t in played}.values())
        return found

    def summary(self) -> dict[str, Any]:
        """Every stage's mean over the seeds with its interval over seeds and games, and the iterations against SFT."""
        config, sft = self.config, stage_name(0)
        iterations = [stage_name(k) for k in range(1, config.algorithm.iterations + 1)]
        rows = [self._row(name) for name in (stage_name(-1), sft, *iterations, REPORTED)]
        return {
            "name": self.folder.resolve().name,
            "env": config.env.name,
            "seeds": list(self.runs),
            "folders": {seed: run.folder.name for seed, run in self.runs.items()},
            "unfinished": self.unfinished,
            "stages": rows,
            "comparisons": [
                {"a": sft, "b": row["name"]}
                | evaluate.compare_seeds(self.played(sft), self.played(row["name"]), config.eval.bootstrap)
                for row in rows[2:]
            ],
        }

    def _row(self, name: str) -> dict[str, Any]:
        config = self.config
        row: dict[str, Any] = {"name": name}
        for split in (None, *config.eval.splits, "dev"):
            played = self.played(name, split)
            rewards = evaluate.rewards_by_seed(played)
            row[split or "test"] = {
                "games": rewards.shape[1],
                "reward": float(rewards.mean()),
                "reward_interval": evaluate.of_mean(rewards, config.eval.bootstrap),
                "success": float((rewards >= config.algorithm.success).mean()),
                "by_seed": {seed: fmean(t.reward for t in episodes) for seed, episodes in played.items()},
            }
        if name == REPORTED:
            row["stages"] = {s: stage_name(self.iteration(run, name)) for s, run in self.runs.items()}
        return row

    def iteration(self, run: Run, stage: str) -> int:
        """Which stage of a run a name means: that of `REPORTED` is the one it reports. Raises IprError for no stage."""
        if stage == REPORTED:
            found = reported_iteration(run)
            assert found is not None  # the run is complete
            return found
        stages = {stage_name(k): k for k in range(-1, run.config.algorithm.iterations + 1)}
        if stage not in stages:
            raise IprError(f"{run.folder} has no stage '{stage}'; there are {', '.join(stages)}, and {REPORTED}")
        return stages[stage]


def columns(summary: dict[str, Any]) -> list[str]:
    return ["stage", "test reward", "success", "dev", *(f"seed {seed}" for seed in summary["seeds"])]


def rows(summary: dict[str, Any]) -> list[list[str]]:
    """The table's cells: means in %, the interval of the test reward, and each seed's test reward."""
    found = []
    for stage in summary["stages"]:
        test, dev = stage["test"], stage["dev"]
        low, high = (100 * x for x in test["reward_interval"])
        each = [f"{100 * test['by_seed'][seed]:.1f}" for seed in summary["seeds"]]
        if "stages" in stage:
            each = [f"{text} ({stage['stages'][seed]})" for text, seed in zip(each, summary["seeds"], strict=True)]
        first = f"{100 * test['reward']:.1f} [{low:.1f}, {high:.1f}]"
        found.append([stage["name"], first, f"{100 * test['success']:.1f}", f"{100 * dev['reward']:.1f}", *each])
    return found


def sentences(summary: dict[str, Any]) -> list[str]:
    """The comparisons in words."""
    found = []
    for c in summary["comparisons"]:
        low, high = (100 * x for x in c["interval"])
        found.append(
            f"{c['b']} against {c['a']}: {100 * c['difference']:+.1f} points [{low:.1f}, {high:.1f}] over"
            f" {len(c['seeds'][0])} seeds and {c['games']} games; better with {c['better']} of {len(c['seeds'][0])}"
        )
    return found


def table(summary: dict[str, Any]) -> str:
    """For a terminal, with the comparisons in words below."""
    lines = report.aligned([columns(summary), *rows(summary)])
    unfinished = [f"unfinished, left out: {', '.join(summary['unfinished'])}"] if summary["unfinished"] else []
    return "\n".join([*lines, "", NOTE, *sentences(summary), *unfinished])


def markdown(summary: dict[str, Any]) -> str:
    return "\n".join([*report.piped([columns(summary), *rows(summary)]), "", *sentences(summary)])


def plot(summary: dict[str, Any]) -> Figure:
    """Mean test reward by stage with its interval, and each seed as a thin line of its own marker."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4), layout="constrained")
    axes = figure.subplots()
    stages = [s for s in summary["stages"] if s["name"] != REPORTED]
    at = list(range(len(stages)))
    for k, seed in enumerate(summary["seeds"]):
        values = [100 * s["test"]["by_seed"][seed] for s in stages]
        marker, colour = plots.MARKERS[k % len(plots.MARKERS)], plots.STAGES[1:][k % (len(plots.STAGES) - 1)]
        axes.plot(at, values, marker=marker, markersize=4, linewidth=0.8, alpha=0.7, color=colour, label=f"seed {seed}")
    means = [100 * s["test"]["reward"] for s in stages]
    bounds = [[100 * x for x in s["test"]["reward_interval"]] for s in stages]
    label = f"mean of {len(summary['seeds'])} seeds, {stages[0]['test']['games']} games" if stages else "mean"
    style: dict[str, Any] = {"marker": "o", "linewidth": 2.2, "capsize": 4, "color": plots.STAGES[0], "label": label}
    axes.errorbar(at, means, yerr=plots.around(means, bounds), **style)
    axes.set_xticks(at, [s["name"] for s in stages])
    axes.set(title="Mean reward on test, 95 % interval over seeds and games", ylabel="%")
    axes.set_ylim(0, max(5, axes.get_ylim()[1]))
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def write(group: Seeds) -> dict[str, Any]:
    """seeds.json and plots/seeds.{png,svg} in the group's folder; returns the summary."""
    summary = group.summary()
    store.write_json(group.folder / "seeds.json", summary)
    plots.written(group.folder, "seeds", plot(summary))
    return summary


def other_experts(run: Run, digest: str, others: Sequence[Run]) -> str | None:
    """What tells that one of `others` has the config of `run` and other experts than those with the digest; else None.

    The published experts are a file that a new data set replaces. Scheduled runs have experts of their own problems.
    """
    for other in others if run.schedule is None else ():
        theirs = (other.record(0, "experts") or {}).get("digest", digest)
        if theirs != digest and other.schedule is None and not identity.differences(_deciding(run), _deciding(other)):
            return (
                f"{run.folder.parent}: {other.name} has other experts than {run.name} (experts.parquet:"
                f" {theirs[:12]} -> {digest[:12]})"
            )
    return None


def _deciding(run: Run) -> dict[str, Any]:
    found = run.manifest.get("identity") or identity.deciding(run.config)
    return {key: value for key, value in found.items() if key != "seed"}
