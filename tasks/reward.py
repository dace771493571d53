"""Estimate step rewards: the fixed scorer plays on after each action that the method wants scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from ipr import algorithms, credit, identity, models, store
from ipr.data.experts import environment
from ipr.runs.project import project_root
from ipr.runs.run import Run
from ipr.types import Prefix, Sampling, StepReward, Trajectory
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
        return {"rollouts": dict(counts) | saved} | summarise(rewards, expert, explored)

    run.once(iteration, "reward", work)
    run.drop_shards(iteration)
    return str(target)


def outcomes(run: Run) -> credit.Outcomes | None:
    """The file that other runs share with this one, for this run's scorer."""
    config = run.config
    if config.algorithm.cache is None:
        return None
    sampling = Sampling(config.algorithm.temperature, config.rollout.max_new_tokens)
    playing = identity.playing(environment(config.env), sampling, models.model_hash(run.model(SCORER)), config)
    return credit.Outcomes(project_root() / config.algorithm.cache, identity.digest(playing))


def summarise(
    rewards: Mapping[Prefix, StepReward], experts: Sequence[Trajectory], explored: Sequence[Trajectory]
) -> dict[str, Any]:
    """Mean step reward of the experts' and the agent's scored actions, their gap, and the same by position t."""
    of_expert: dict[int, list[float]] = {}
    of_agent: dict[int, list[float]] = {}
    by_task = {e.task_id: e for e in experts}
    for trajectory in explored:
        if trajectory.task_id not in by_task:  # a problem without an expert
            continue
        t = trajectory.start
        a, a_hat = by_task[trajectory.task_id].prefix(t + 1), trajectory.prefix(t + 1)
        if a in rewards and a_hat in rewards:
            of_expert.setdefault(t, []).append(rewards[a].mean)
            of_agent.setdefault(t, []).append(rewards[a_hat].mean)
    if not of_expert:
        return {"step_reward": None}
    expert = fmean(x for values in of_expert.values() for x in values)
    agent_ = fmean(x for values in of_agent.values() for x in values)
    positions = [
        {"t": t + 1, "n": len(of_expert[t]), "expert": fmean(of_expert[t]), "agent": fmean(of_agent[t])}
        for t in sorted(of_expert)
    ]
    return {"step_reward": {"expert": expert, "agent": agent_, "gap": expert - agent_, "by_position": positions}}
