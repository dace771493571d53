"""Explore: the current agent continues from every prefix that the method asks for."""

from __future__ import annotations

import random
from collections import Counter

from ipr import algorithms, store
from ipr.data.experts import environment, new_problems, share, without_expert
from ipr.rollout import UntilSolved
from ipr.runs.run import Run
from ipr.types import Job, Prefix, Trajectory, derive_seed
from tasks.common import experts, play, stage_task


@stage_task("explore")
def explore(run_dir: str, iteration: int) -> str:
    """Write `iteration-K/explored.parquet`, played by the model of iteration K-1; returns its path."""
    run = Run(run_dir)
    target = run.stage(iteration) / "explored.parquet"

    def work() -> dict:
        settings = run.config.algorithm
        method = algorithms.make(settings)
        chosen = every = experts(run)
        few = settings.explore_tasks
        others = without_expert(run.config.env, {expert.task_id for expert in every})
        new = new_problems(run.config, others, iteration)
        if run.schedule:
            mine = share(run.schedule["problems"], few, iteration)
            chosen, new = [expert for expert in every if expert.task_id in set(mine)], mine
        elif few is not None and few < len(every):
            chosen = random.Random(derive_seed(run.config.seed, "explore", iteration)).sample(every, few)
        limit = environment(run.config.env).max_steps
        asked: Counter[Prefix] = Counter()
        jobs: list[Job] = []
        for prefix in method.explore(chosen, new):
            if len(prefix.steps) < limit:  # an expert of a real game may be longer than an agent's episode
                again = (asked[prefix],) if asked[prefix] else ()
                jobs.append(Job(prefix, derive_seed(run.config.seed, "explore", iteration, prefix.key(), *again)))
                asked[prefix] += 1
        # A method that asks for a prefix several times wants all these episodes, whatever they earn.
        until_solved = settings.draws > 1 and len(asked) == len(jobs)
        more = UntilSolved(settings.draws, settings.success) if until_solved else None
        explored = play(run, iteration, "explore", iteration - 1, settings.explore_temperature)(jobs, more)
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
