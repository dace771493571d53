"""Build pairs (or demonstrations) from what was explored and scored."""

from __future__ import annotations

from collections import Counter

from ipr import algorithms, store
from ipr.algorithms.rft import demonstration
from ipr.data.experts import environment
from ipr.rollout import shortened
from ipr.runs.run import Run
from ipr.training import losses
from ipr.types import Demonstration, PreferencePair, StepReward, Trajectory
from tasks.common import experts, stage_task


@stage_task("pairs")
def pairs(run_dir: str, iteration: int) -> str:
    """Write `iteration-K/pairs.parquet` (and `demonstrations.parquet` for methods that imitate); returns its path."""
    run = Run(run_dir)
    stage = run.stage(iteration)

    def work() -> dict:
        explored = store.load(stage / "explored.parquet", Trajectory)
        rewards = {r.prefix: r for r in store.load(stage / "step_rewards.parquet", StepReward)}
        method = algorithms.make(run.config.algorithm)
        if method.shortens:
            spec = environment(run.config.env)
            explored = [shortened(spec, t) if t.reward >= run.config.algorithm.success else t for t in explored]
        expert = experts(run)
        found = method.examples(expert, explored, rewards)
        store.save(stage / "pairs.parquet", found.pairs, PreferencePair)
        if losses.get(method.training.loss).on == "demonstrations":
            store.save(stage / "demonstrations.parquet", found.demonstrations, Demonstration)
        known = {demonstration(trajectory) for trajectory in expert}
        levels = Counter(pair.level for pair in found.pairs)
        return {
            "outcome": levels["outcome"],
            "step": levels["step"],
            "demonstrations": len(found.demonstrations),
            "own": sum(row not in known for row in found.demonstrations),
            "dropped": found.dropped,
        }

    run.once(iteration, "pairs", work)
    return str(stage / "pairs.parquet")
