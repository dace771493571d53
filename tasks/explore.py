"""Explore: the current agent continues from every prefix that the method asks for."""

from __future__ import annotations

import random
from collections import Counter

from ipr import algorithms, store
from ipr.data.experts import environment
from ipr.runs.run import Run
from ipr.types import Job, Trajectory, derive_seed
from tasks.common import experts, play, stage_task


@stage_task("explore")
def explore(run_dir: str, iteration: int) -> str:
    """Write `iteration-K/explored.parquet`, played by the model of iteration K-1; returns its path."""
    run = Run(run_dir)
    target = run.stage(iteration) / "explored.parquet"

    def work() -> dict:
        method = algorithms.make(run.config.algorithm)
        chosen = experts(run)
        few = run.config.algorithm.explore_tasks
        if few is not None and few < len(chosen):
            chosen = random.Random(derive_seed(run.config.seed, "explore", iteration)).sample(chosen, few)
        limit = environment(run.config.env).max_steps
        jobs = [
            Job(prefix, derive_seed(run.config.seed, "explore", iteration, prefix.key()))
            for prefix in method.explore(chosen)
            if len(prefix.steps) < limit  # an expert of a real game may be longer than an agent's episode
        ]
        settings = run.config.algorithm
        explored = play(run, iteration, "explore", iteration - 1, settings.explore_temperature)(jobs)
        store.save(target, explored, Trajectory)
        whole = [t.reward for t in explored if t.start == 0]
        starts = {job.prefix for job in jobs} if settings.join and settings.explore_temperature == 0 else set()
        return {
            "episodes": len(explored),
            "joined": sum(t.prefix(t.start + 1) in starts for t in explored),
            "reward": sum(whole) / max(len(whole), 1),
            "endings": dict(Counter(t.ending for t in explored)),
        }

    run.once(iteration, "explore", work)
    return str(target)
