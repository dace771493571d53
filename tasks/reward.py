"""Estimate step rewards: the fixed scorer plays on after each action that the method wants scored."""

from __future__ import annotations

import json

from ipr import algorithms, credit, models, policies, store
from ipr.data.experts import environment
from ipr.evaluate import contrast
from ipr.runs.project import project_root
from ipr.runs.run import Run
from ipr.types import StepReward, Trajectory
from tasks.common import SCORER, experts, play, stage_task


@stage_task("reward")
def reward(run_dir: str, iteration: int) -> str:
    """Write `iteration-K/step_rewards.parquet`; returns its path."""
    run = Run(run_dir)
    target = run.stage(iteration) / "step_rewards.parquet"

    def work() -> dict:
        settings = run.config.algorithm
        expert, explored = experts(run), store.load(run.stage(iteration) / "explored.parquet", Trajectory)
        wanted = algorithms.make(settings).score(expert, explored)
        earlier = [run.stage(k) / "step_rewards.parquet" for k in range(1, iteration)] if settings.reuse else []
        rewards, counts = credit.estimate(
            wanted.prefixes,
            play(run, iteration, "reward", SCORER, settings.temperature),
            samples=settings.samples,
            seed=run.config.seed,
            known=credit.known_outcomes([*expert, *explored]),
            reuse={r.prefix: r for r in store.rows_of(earlier, StepReward)},
            contrasts=wanted.contrasts,
            curtail_at=settings.tau if settings.curtail else None,
            error=settings.error,
            cache=outcomes(run),
        )
        store.save(target, rewards.values(), StepReward)
        saved = {reason: 2 * settings.samples * n for reason, n in wanted.saved.items()}
        return {"rollouts": dict(counts) | saved} | {"step_reward": contrast(rewards, expert, explored)}

    run.once(iteration, "reward", work)
    run.drop_shards(iteration)
    return str(target)


def outcomes(run: Run) -> credit.Outcomes | None:
    """The file that other runs share with this one, for this run's scorer."""
    config = run.config
    if config.algorithm.cache is None:
        return None
    spec = environment(config.env)
    deciding = [
        models.model_hash(run.model(SCORER)),
        *(spec.name, spec.version, spec.max_steps, config.env.data),
        *(config.algorithm.temperature, config.rollout.max_new_tokens, config.rollout.kv_dtype),
        *(config.model.dtype, config.model.max_length),
        *policies.deciding(config).values(),
    ]
    return credit.Outcomes(project_root() / config.algorithm.cache, json.dumps(deciding))
