"""After each stage: summary.json, report.html, Prefect artifacts, and the events that MLflow is a view of."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from prefect.artifacts import create_link_artifact, create_markdown_artifact
from prefect.runtime import flow_run

from ipr import store
from ipr.config import flat
from ipr.data import datasets
from ipr.data.experts import environment
from ipr.runs.episodes import Episodes
from ipr.runs.plots import STEP_REWARDS
from ipr.runs.project import project_root
from ipr.runs.report import markdown, write_html
from ipr.runs.run import FIRST_BASE, Run, stage_name
from ipr.runs.summary import profile, summarise
from ipr.runs.telling import may_fail, slug
from ipr.tracking import Tracker, links
from ipr.tracking.traces import write_sample
from ipr.types import Trajectory
from tasks.common import eval_file, stage_task


@stage_task("report", timeout=3600, needed=False)
def report(run_dir: str, iteration: int) -> str:
    """Write the run's summary and report, and send what is new to MLflow; returns the report's path."""
    run = Run(run_dir)
    report_file = run.folder / "report.html"
    summary = write(run, "running")
    with may_fail("tracking"):
        track(run, iteration, summary)
    with may_fail("Prefect's artifacts"):
        key, text = slug(f"{run.name}-{stage_name(iteration)}"), f"{run.name} after {stage_name(iteration)}"
        create_markdown_artifact(markdown(summary), key=key, description=text)
        shown = links(run.config.track, project_root(), run.folder)
        if "mlflow run" in shown and "mlflow server" not in shown:  # pages that somebody serves
            create_link_artifact(shown["mlflow run"], key=f"{key}-mlflow", link_text=f"{run.name} in MLflow")
        else:
            create_link_artifact(report_file.resolve().as_uri(), key=f"{key}-report", link_text="report.html")
    return str(report_file)


def write(run: Run, status: str) -> dict[str, Any]:
    """summary.json and report.html from what is done so far; what cannot be written is a warning."""
    found = {"plot": str(run.folder / "plots" / "learning.png"), "report": str(run.folder / "report.html")}
    with may_fail("links to MLflow"):
        found = links(run.config.track, project_root(), run.folder) | found
    summary = summarise(run, status, found)
    with may_fail("summary.json"):
        store.write_json(run.folder / "summary.json", summary)
    with may_fail("metrics.json"):
        _for_dvc(run, summary)
    with may_fail("profile.json"):
        if run.manifest.get("profile"):
            store.write_json(run.folder / "profile.json", profile(run))
    with may_fail("report.html"):
        write_html(run.folder)
    return summary


def _for_dvc(run: Run, summary: dict[str, Any]) -> None:
    """metrics.json: what `dvc metrics` reads."""
    rows = {
        s["name"]: {f"{split}_{c}": s[split][c] for split in ("dev", "test") for c in ("reward", "success", "steps")}
        for s in summary["stages"]
    }
    store.write_json(run.folder / "metrics.json", rows | {"reported": summary["reported"]})


def finish(run: Run) -> dict[str, Any]:
    """The summary of a complete run; what MLflow could not take before is sent now."""
    summary = write(run, "complete")
    with may_fail("tracking"):
        _track_end(run, summary)
    return summary


def _track_end(run: Run, summary: dict[str, Any]) -> None:
    tracker = Tracker(run.folder, run.config.track, project_root())
    _profile(run, tracker)
    for name in ("summary.json", "report.html", "config.yaml", "manifest.json"):
        if (run.folder / name).is_file():
            tracker.artifact(run.folder / name)
    # One figure per run to sort runs by; the curves' last values are those of the last iteration.
    k, best = next((k, s) for k, s in enumerate(summary["stages"], -1) if s["name"] == summary["reported"])
    found = {f"reported/{split}/{key}": best[split][key] for split in ("dev", "test") for key in ("reward", "success")}
    tracker.metrics(found | {"reported/iteration": k}, step=k)
    tracker.tags({"mlflow.note.content": markdown(summary)})
    if decision := summary["champion"]:
        tracker.tags({"champion.verdict": decision["verdict"]})
    if md5 := run.manifest.get("data", {}).get("md5"):
        tracker.dataset("data", project_root() / "data", md5, "output")
    tracker.end("FINISHED")
    tracker.sync()


def begin(run: Run) -> Tracker:
    """MLflow has the run from the first minute on, and again where it goes on."""
    tracker = Tracker(run.folder, run.config.track, project_root())
    manifest = run.manifest
    tracker.start(
        run.name,
        flat(run.config),
        {
            "ipr.config_hash": manifest.get("config_hash"),
            "ipr.games": manifest.get("games"),
            "ipr.episodes": manifest.get("episodes"),
            "ipr.seed": manifest["seed"],
            "ipr.preset": manifest.get("preset"),
            "ipr.run_folder": run.name,
            "ipr.base_model": manifest.get("base"),
            FIRST_BASE: (run.schedule or {}).get("base") or manifest.get("first_base"),
            "git.commit": manifest.get("git", {}).get("commit"),
            "git.dirty": manifest.get("git", {}).get("dirty"),
            "scorer.hash": manifest.get("scorer"),
            "prefect.flow_run_id": flow_run.get_id(),
            "prefect.root_flow_run_id": flow_run.get_root_flow_run_id(),
            "mlflow.source.name": f"ipr run {manifest.get('preset', '')}".strip(),
        },
    )
    tracker.sync()
    return tracker


def track(run: Run, iteration: int, summary: dict[str, Any]) -> None:
    """Append the events of a stage and send them; a server that is down costs a warning, not the run."""
    tracker = begin(run)
    tracker.tags({"mlflow.note.content": markdown(summary)})
    stages = {stage["name"]: stage for stage in summary["stages"]}
    for k in (-1, 0) if iteration == 0 else (iteration,):
        if stage_name(k) in stages:
            tracker.metrics(_metrics(stages[stage_name(k)]), step=k)
    _profile(run, tracker)
    behind = (run.schedule or {}).get("before", 0)  # iterations of the policy before this run
    policy = {"ipr.policy_iteration": behind + iteration}
    tracker.iteration(iteration, {"prefect.flow_run_id": flow_run.get_id()} | policy)
    history = (run.record(iteration, "train") or {}).get("history", [])
    for update, row in enumerate(history, start=1):
        tracker.metrics({f"train/{key}": v for key, v in row.items()}, step=update, iteration=iteration)
    _plots(run, tracker)
    _episodes(run, iteration, tracker)
    _data_sets(run, iteration, tracker)
    tracker.artifact(eval_file(run, iteration, "dev"), iteration)
    dev = {f"dev/{key}": stages[stage_name(iteration)]["dev"][key] for key in ("reward", "success", "steps")}
    first = store.load(eval_file(run, iteration, "dev"), Trajectory)[0]
    asked = [asdict(m) for m in (*environment(run.config.env).prompt, *first.history(0))]
    tracker.model(run.model(iteration), iteration, dev, {"ipr.stage": stage_name(iteration)}, asked)
    tracker.sync()


def _plots(run: Run, tracker: Tracker) -> None:
    """The plots as images, and the step rewards by position as a table: curves in MLflow would show no n."""
    folder = run.folder / "plots"
    for name in ("learning.png", "step_rewards.png", "training.png", STEP_REWARDS):
        if (folder / name).is_file():
            tracker.artifact(folder / name)
    if (folder / STEP_REWARDS).is_file():
        tracker.tags({"mlflow.loggedArtifacts": json.dumps([{"path": f"plots/{STEP_REWARDS}", "type": "table"}])})


def _episodes(run: Run, iteration: int, tracker: Tracker) -> None:
    """A sample of the stage's episodes, and what it earned on each game; with SFT the base model's, too."""
    config, episodes = run.config, Episodes(run)
    for k, of in ((-1, None), (0, 0)) if iteration == 0 else ((iteration, iteration),):
        if run.record(k, "evaluate") is None:
            continue
        stage = stage_name(k)
        if config.track.enabled and config.track.traces:
            sample = run.stage(k) / "traces.json"
            tracker.traces(write_sample(episodes, stage, config.track.traces, sample), of)
        splits = {split: eval_file(run, k, split) for split in ("dev", *config.eval.splits)}
        tracker.games(stage, splits, config.algorithm.success, of)


def _data_sets(run: Run, iteration: int, tracker: Tracker) -> None:
    """What the stage used and made, by the md5 that DVC has for it."""
    experts = run.folder / "experts.parquet"
    md5 = datasets.md5_of(experts)
    for k in (None, iteration):
        tracker.dataset("experts", experts, md5, "input", k)
    path = run.stage(iteration) / "published.json"
    published: dict[str, Any] = store.read_json(path) if path.exists() else {"files": {}}
    for name, md5 in published["files"].items():
        kind = name.rsplit("/", 1)[-1].removesuffix(".parquet")
        if kind == "experts":  # an input, above
            continue
        tracker.dataset(kind, run.stage(iteration) / f"{kind}.parquet", md5, "output", iteration)
    if "md5" in published:
        tracker.dataset("data", project_root() / "data", published["md5"], "output", iteration)


def _profile(run: Run, tracker: Tracker) -> None:
    """Where the time went, as curves over the iterations; only where it was asked for."""
    path = run.folder / "profile.json"
    for row in store.read_json(path) if path.exists() else []:
        step = next(k for k in range(-1, run.config.algorithm.iterations + 1) if stage_name(k) == row["stage"])
        tracker.metrics({f"profile/{row['task']}/{key}": v for key, v in row.items()}, step=step)


def _metrics(stage: dict[str, Any]) -> dict[str, float]:
    """A stage's figures, flat, for curves over the iterations."""
    found: dict[str, Any] = {"seconds": stage["seconds"]}
    for split in ("dev", "test"):
        figures = stage[split] or {}
        found |= {f"{split}/{key}": v for key, v in figures.items()}
        if figures.get("games"):
            found[f"{split}/overflow"] = figures["endings"].get("overflow", 0) / figures["games"]
    for split, figures in stage["tests"].items():
        found |= {f"{split}/{key}": figures[key] for key in ("reward", "success", "steps", "invalid")}
    for group in ("rollouts", "train", "step_reward", "reward_model", "seconds_by_task"):
        found |= {f"{group}/{key}": v for key, v in (stage[group] or {}).items()}
    pairs = stage["pairs"] or {}
    found |= {f"pairs/{key}": v for key, v in pairs.items() if key not in ("dropped", "seconds")}
    found |= {f"pairs/dropped/{reason}": n for reason, n in pairs.get("dropped", {}).items()}
    return {key: v for key, v in found.items() if isinstance(v, int | float)}
