"""Evaluate: greedy episodes on the dev split and the held-out test splits."""

from __future__ import annotations

from collections.abc import Sequence

from ipr import credit, store
from ipr.data.experts import environment
from ipr.evaluate import average_step_reward, games, heldout, metrics
from ipr.runs.run import Run
from ipr.types import StepReward, Trajectory
from tasks.common import SCORER, eval_file, play, stage_task, whole_episodes


@stage_task("evaluate")
def evaluate(run_dir: str, iteration: int) -> str:
    """Write `<stage>/eval/<split>.parquet` and the figures `<stage>/evaluate.json`; returns the latter's path."""
    run = Run(run_dir)
    config, success = run.config.eval, run.config.algorithm.success

    def work() -> dict:
        spec = environment(run.config.env)
        splits = heldout(config.sizes, spec)
        jobs = whole_episodes([task_id for ids in splits.values() for task_id in ids])
        played = iter(play(run, iteration, "evaluate", iteration, 0.0)(jobs))
        facts: dict = {}
        tests: dict[str, Trajectory] = {}  # a game counts once, in however many splits it is
        for split, ids in splits.items():
            episodes = [next(played) for _ in ids]
            store.save(eval_file(run, iteration, split), episodes, Trajectory)
            facts[split] = metrics(episodes, task_type=spec.task_type, success_at=success, resamples=config.bootstrap)
            tests |= {t.task_id: t for t in episodes} if split != "dev" else {}
        whole = list(tests.values())
        facts["test"] = metrics(whole, task_type=spec.task_type, success_at=success, resamples=config.bootstrap)
        # The base may be played before there is a scorer.
        wanted = config.step_reward_games if iteration >= SCORER else 0
        few = [tests[i] for i in games(list(tests), "step rewards", wanted)]
        facts["test"]["step_reward"] = _step_reward(run, iteration, few)
        return facts

    run.once(iteration, "evaluate", work)
    run.drop_shards(iteration)
    return str(run.stage(iteration) / "evaluate.json")


def _step_reward(run: Run, iteration: int, episodes: Sequence[Trajectory]) -> float | None:
    """Average reward per step (paper): step rewards by pi_s of every action, per trajectory, then over all."""
    if not episodes:
        return None
    settings = run.config.algorithm
    prefixes = [e.prefix(t + 1) for e in episodes for t in range(len(e.steps))]
    earlier = [run.stage(k) / "eval" / "step_rewards.parquet" for k in range(SCORER, iteration)]
    rewards, _ = credit.estimate(
        prefixes,
        play(run, iteration, "step-reward", SCORER, settings.temperature),
        samples=settings.samples,
        seed=run.config.seed,
        known=credit.known_outcomes(episodes),
        reuse={r.prefix: r for r in store.rows_of([p for p in earlier if p.exists()], StepReward)},
    )
    store.save(run.stage(iteration) / "eval" / "step_rewards.parquet", rewards.values(), StepReward)
    return average_step_reward(episodes, {p: r.mean for p, r in rewards.items()})
