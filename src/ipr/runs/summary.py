"""The figures of a run, from its stage records: what `summary.json`, the table, the report and MLflow show."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from ipr import evaluate, store
from ipr.runs import ITERATION, report
from ipr.runs.run import Run, stage_name
from ipr.types import Trajectory

TASKS = ("experts", *ITERATION, "evaluate")


def summarise(run: Run, status: str, links: dict[str, str] | None = None) -> dict[str, Any]:
    """Everything that is done so far; stages without an evaluation are left out."""
    iterations = [k for k in range(-1, run.config.algorithm.iterations + 1) if run.record(k, "evaluate")]
    stages = [_stage(run, k) for k in iterations]
    reported = reported_iteration(run)
    return {
        "name": run.name,
        "env": run.config.env.name,
        "preset": run.manifest.get("preset", ""),
        "seed": run.config.seed,
        "config_hash": run.manifest.get("config_hash", ""),
        "status": status,
        "reported": stage_name(reported) if reported is not None else None,
        "stages": stages,
        "comparisons": [_comparison(run, 0, k) for k in iterations if k > 0],
        "best_of": [row for k in range(-1, run.config.algorithm.iterations + 1) for row in _best_of(run, k)],
        "champion": _champion(run),
        "warnings": [line for k in iterations for line in _full(run, k)],
        "seconds": round(sum(s["seconds"] for s in stages), 1),
        "links": links or {},
    }


def reported_iteration(run: Run) -> int | None:
    """SFT or an iteration, chosen on the dev split (`evaluate.choose`), never on test."""
    done = [k for k in range(run.config.algorithm.iterations + 1) if run.record(k, "evaluate")]
    if not done:
        return None
    dev = {stage_name(k): store.load(run.stage(k) / "eval" / "dev.parquet", Trajectory) for k in done}
    chosen = evaluate.choose(dev)
    return next(k for k in done if stage_name(k) == chosen)


def samples_file(run: Run, iteration: int, n: int, temperature: float) -> Path:
    """Of a stage: N episodes of each test game, those of a game one after the other."""
    return run.stage(iteration) / "best_of" / f"{n}-at-{temperature:g}.parquet"


def test_trajectories(run: Run, iteration: int) -> list[Trajectory]:
    """The stage's episodes on all test splits."""
    files = [run.stage(iteration) / "eval" / f"{split}.parquet" for split in run.config.eval.splits]
    return store.rows_of(files, Trajectory)


def _stage(run: Run, k: int) -> dict[str, Any]:
    records = {task: run.record(k, task) or {} for task in TASKS}
    evaluation, reward, explored = records["evaluate"], records["reward"], records["explore"]
    return {
        "name": stage_name(k),
        "dev": evaluation.get("dev"),
        "tests": {split: evaluation[split] for split in run.config.eval.splits},
        "test": evaluation.get("test"),
        "pairs": records["pairs"] or None,
        "rollouts": rollouts(explored, reward["rollouts"]) if reward else None,
        "step_reward": reward.get("step_reward"),
        "reward_model": reward.get("reward_model"),
        "train": {key: v for key, v in records["train"].items() if key not in ("history", "profile")} or None,
        "seconds": round(sum(record.get("seconds", 0.0) for record in records.values()), 1),
        "seconds_by_task": {task: record["seconds"] for task, record in records.items() if record},
    }


def _best_of(run: Run, k: int) -> list[dict[str, Any]]:
    path = run.stage(k) / "best_of.json"
    return [{"stage": stage_name(k)} | row for row in store.read_json(path)] if path.exists() else []


def _champion(run: Run) -> dict[str, Any] | None:
    """What was decided of the champion, the "verdict" in words; None before that."""
    record = run.record(run.config.algorithm.iterations, "champion")
    if record is None:
        return None
    return {k: v for k, v in record.items() if k not in ("profile", "seconds")} | {"verdict": report.verdict(record)}


def _full(run: Run, k: int) -> list[str]:
    """A line where episodes of a stage ended because the context was full: how many, and what to raise."""
    evaluation, explored, scored = (run.record(k, task) or {} for task in ("evaluate", "explore", "reward"))
    endings = Counter[str]()
    for split in ("dev", *run.config.eval.splits):
        endings.update((evaluation.get(split) or {}).get("endings", {}))
    found = []
    for what, counts in (
        ("evaluation episodes", endings),
        ("explored episodes", explored.get("endings", {})),
        ("scoring rollouts", scored.get("endings", {})),
    ):
        if full := counts.get("overflow", 0):
            total = sum(counts.values())
            found.append(
                f"{stage_name(k)}: {full} of {total} {what} ({100 * full / total:.0f} %) ended because the context was"
                f" full; raise model.max_length ({run.config.model.max_length}), or use a model with a longer context"
            )
    return found


def rollouts(explored: dict[str, Any], scored: dict[str, int]) -> dict[str, float]:
    """Of exploring and scoring: the counts by reason, and altogether "total_played", "saved" and "saved_share"."""
    joined = explored.get("joined", 0)
    played = explored["episodes"] - joined + scored["played"]
    saved = joined + sum(scored.values()) - scored["played"]
    share = saved / max(played + saved, 1)
    counts = {"explored": explored["episodes"], "joined": joined} | scored
    return counts | {"total_played": played, "saved": saved, "saved_share": share}


def profile(run: Run) -> list[dict[str, Any]]:
    """Where the time of every finished task went, a row a task: `profiling.since`, rates, the share of rollouts saved.

    Of the process that finished the task: what an earlier, killed one had played is in its shards, not in here.
    """
    rows: list[dict[str, Any]] = []
    for k in range(-1, run.config.algorithm.iterations + 1):
        records = {task: run.record(k, task) or {} for task in TASKS}
        explored, scored = records["explore"], records["reward"].get("rollouts", {})
        saved = {
            "explore": explored.get("joined", 0) / max(explored.get("episodes", 0), 1),
            "reward": 1 - scored.get("played", 0) / max(sum(scored.values()), 1),
        }
        for task, record in records.items():
            if "profile" not in record:
                continue
            spent = record["profile"]
            rates = {f"{what}_per_second": spent[what] / max(spent["seconds"], 1e-9) for what in ("episodes", "tokens")}
            # Runs of before had no such count.
            shares = {"followed_share": spent.get("followed", 0) / max(spent["tokens"], 1)}
            shares["saved_share"] = saved.get(task, 0.0)
            rows.append({"stage": stage_name(k), "task": task} | spent | rates | shares)
    return rows


def _comparison(run: Run, a: int, b: int) -> dict[str, Any]:
    found = evaluate.compare(test_trajectories(run, a), test_trajectories(run, b), run.config.eval.bootstrap, 0)
    return {"a": stage_name(a), "b": stage_name(b)} | found
