"""Estimate step rewards: the fixed scorer plays on after each action that the method wants scored."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from ipr import algorithms, credit, identity, models, store
from ipr.data.experts import environment
from ipr.evaluate import contrast
from ipr.profiling import timed
from ipr.runs.progress import progress
from ipr.runs.project import project_root
from ipr.runs.run import Run
from ipr.tokens import ChatTokens
from ipr.training.reward_model import RewardModel
from ipr.types import Job, More, Prefix, Sampling, StepReward, Trajectory, derive_seed
from tasks.common import SCORER, experts, play, stage_task

SMALLER = models.smaller_passes("sft")


@stage_task("reward")
def reward(run_dir: str, iteration: int) -> str:
    """Write `iteration-K/step_rewards.parquet`; returns its path."""
    run = Run(run_dir)
    target = run.stage(iteration) / "step_rewards.parquet"

    def work() -> dict:
        settings = run.config.algorithm
        expert, explored = experts(run), store.load(run.stage(iteration) / "explored.parquet", Trajectory)
        method = algorithms.make(settings)
        wanted = method.score(expert, explored)
        by_model = settings.rewards == "model" and bool(method.scores)
        firsts = {t.task_id: t.first_observation for t in [*expert, *explored]}
        if by_model and iteration > 1:
            known = credit.known_outcomes([*expert, *explored])
            rewards = read(reward_model(run, firsts), wanted.prefixes, known)
            store.save(target, rewards.values(), StepReward)
            counts = {"played": 0, "model": settings.samples * len(rewards.keys() - known.keys())}
            return {"rollouts": counts} | {"step_reward": contrast(rewards, expert, explored)}
        earlier = [run.stage(k) / "step_rewards.parquet" for k in range(1, iteration)] if settings.reuse else []
        playing, endings = play(run, iteration, "reward", SCORER, settings.temperature), Counter[str]()

        def counted(jobs: list[Job], more: More | None) -> list[Trajectory]:
            played = playing(jobs, more)
            endings.update(t.ending for t in played)
            return played

        rewards, counts = credit.estimate(
            wanted.prefixes,
            counted,
            samples=settings.samples,
            seed=run.config.seed,
            known=credit.known_outcomes([*expert, *explored]),
            reuse={r.prefix: r for r in store.rows_of(earlier, StepReward)},
            contrasts=wanted.contrasts,
            curtail_at=settings.tau if settings.curtail and not wanted.values else None,
            error=settings.error,
            cache=outcomes(run),
            lowest=environment(run.config.env).lowest,
        )
        store.save(target, rewards.values(), StepReward)
        saved = {reason: 2 * settings.samples * n for reason, n in wanted.saved.items()}
        fitted = {"reward_model": fit(run, list(rewards.values()), firsts)} if by_model else {}
        facts = {"rollouts": dict(counts) | saved, "endings": dict(endings)}
        return facts | {"step_reward": contrast(rewards, expert, explored)} | fitted

    run.once(iteration, "reward", work)
    run.drop_shards(iteration)
    return str(target)


def reward_model_file(run: Run) -> Path:
    """The step reward model of a run whose first iteration has fitted one."""
    return run.stage(1) / "reward_model.safetensors"


def fit(run: Run, rewards: Sequence[StepReward], firsts: Mapping[str, str]) -> dict[str, float | None]:
    """Fit the run's step reward model; how good it is."""
    out = run.stage(1) / "reward_checkpoint"
    fitted = _of_scorer(run, firsts)
    with models.enough_memory(SMALLER):
        found = timed("training")(fitted.fit)(
            rewards, derive_seed(run.config.seed, "reward model"), out, progress("reward model", "updates")
        )
    fitted.save(reward_model_file(run))
    shutil.rmtree(out, ignore_errors=True)
    return found


def reward_model(run: Run, firsts: Mapping[str, str]) -> RewardModel:
    """The run's step reward model, for problems with these first observations."""
    found = _of_scorer(run, firsts)
    found.load(reward_model_file(run))
    return found


def _of_scorer(run: Run, firsts: Mapping[str, str]) -> RewardModel:
    config, path = run.config, str(run.model(SCORER))
    model = models.load_model(path, config.model, training=True)
    chat = ChatTokens(models.load_tokenizer(path, config.model.date))
    knobs = config.sft.model_copy(update={"epochs": max(1, config.sft.epochs), "updates": None})
    return RewardModel(model, chat, environment(config.env).told, firsts, knobs, config.model.max_length)


def read(model: RewardModel, prefixes: Sequence[Prefix], known: Mapping[Prefix, float]) -> dict[Prefix, StepReward]:
    """Step rewards by the model; where an action ended its episode, the outcome."""
    with models.enough_memory(SMALLER):
        values = model.read([p for p in prefixes if p not in known])
    return {
        p: StepReward(p, known[p], 0, (), 0, "outcome") if p in known else StepReward(p, values[p], 0, (), 0, "model")
        for p in prefixes
    }


def outcomes(run: Run) -> credit.Outcomes | None:
    """The file that other runs share with this one, for this run's scorer."""
    config = run.config
    if config.algorithm.cache is None:
        return None
    sampling = Sampling(config.algorithm.temperature, config.rollout.max_new_tokens)
    playing = identity.playing(environment(config.env), sampling, models.model_hash(run.model(SCORER)), config)
    return credit.Outcomes(project_root() / config.algorithm.cache, identity.digest(playing))
