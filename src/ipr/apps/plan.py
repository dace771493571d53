"""What a run will play and train, before it is started: episodes, rollouts and tokens to expect, and hours."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean
from typing import Any

from ipr import algorithms
from ipr.config import RunConfig, TrainConfig
from ipr.data import experts
from ipr.tokens import ChatTokens
from ipr.training import losses
from ipr.types import EnvSpec, Trajectory

LOOKED_AT = 20
"""Expert trajectories whose length counts for all."""


@dataclass(frozen=True)
class Lengths:
    """Means over a few expert trajectories."""

    steps: float
    first: float
    """Tokens before the first turn."""
    turn: float
    """Tokens of a turn of the agent."""
    answer: float
    """Tokens of an observation."""

    def episode(self, steps: float) -> float:
        """Tokens of one of so many steps."""
        return self.first + steps * (self.turn + self.answer)


def sample(config: RunConfig, spec: EnvSpec) -> list[Trajectory]:
    """The expert trajectories that are looked at."""
    ids = spec.task_ids("train")[: config.env.tasks]
    return [spec.expert(task_id) for task_id in ids[:: max(1, len(ids) // LOOKED_AT)][:LOOKED_AT]]


def plan(config: RunConfig, spec: EnvSpec, chat: ChatTokens) -> dict[str, Any]:
    """Upper bounds per iteration, from the length of a few expert trajectories. No model is loaded.

    Exploring assumes that no draw succeeds before the last. Step rewards assume that every action differs from the
    expert's and every outcome is worse: the exact savings usually leave a third of it or less. Training assumes that
    every episode becomes a row, and that an agent that fails plays to the step limit.
    """
    settings, ids, looked_at = config.algorithm, spec.task_ids("train")[: config.env.tasks], sample(config, spec)
    lengths = Lengths(
        steps=fmean(len(t.steps) for t in looked_at),
        first=fmean(len(chat.prompt([*spec.told(t.task_id), *t.history(0)])) for t in looked_at),
        turn=fmean(len(chat.agent(s.action)) for t in looked_at for s in t.steps),
        answer=fmean(len(chat.observation(s.observation)) for t in looked_at for s in t.steps),
    )
    explored = min(len(ids), settings.explore_tasks or len(ids))
    begun = _begun(config, spec, ids, looked_at, explored)
    episodes = round(sum(begun.values()))
    mean = sum(steps * n for steps, n in begun.items()) / max(1, episodes)  # steps that are played already
    remaining = spec.max_steps - mean

    method = algorithms.make(settings)
    scored = spec.max_steps + 1 if method.scores == "turns" else 2 * method.scores
    rollouts = scored * settings.samples * episodes
    rewarded = 1 if settings.rewards == "model" else settings.iterations  # iterations whose step rewards are played
    heldout = {s: min(size, len(spec.task_ids(s))) for s, size in config.eval.sizes.items()}
    stages = settings.iterations + 2  # the base, SFT
    tested = min(config.eval.step_reward_games, sum(heldout.values()) - heldout["dev"])
    judged = (stages - 1) * tested * spec.max_steps * settings.samples
    evaluated = sum(heldout.values()) * stages
    # Half of the step limit is what a rollout from the middle of a trajectory takes, failures included.
    steps = remaining * settings.iterations * episodes + spec.max_steps * evaluated
    steps += spec.max_steps / 2 * (rewarded * rollouts + judged)
    trained = _trained(config, lengths, spec.max_steps, len(ids), explored, episodes)
    return {
        "experts": len(ids),
        "expert_steps": round(lengths.steps, 1),
        "iterations": settings.iterations,
        "explore_episodes_per_iteration_at_most": episodes,
        "step_reward_rollouts_per_iteration_at_most": rollouts,
        "evaluation_episodes": evaluated,
        "evaluation_games": heldout,
        "evaluation_rollouts_at_most": judged,
        "sft_tokens": round(_gone_through(config.sft, len(ids), lengths.episode(lengths.steps))),
        "train_tokens_per_iteration_at_most": round(trained),
        "tokens_per_turn": round(lengths.turn, 1),
        "generated_tokens_at_most": round(lengths.turn * steps),
    }


def hours(config: RunConfig, planned: dict[str, Any]) -> dict[str, float]:
    """Of training and playing, at most, by the speeds that `machine` states; nothing where it states none."""
    machine = config.machine
    trained = planned["sft_tokens"] + planned["iterations"] * planned["train_tokens_per_iteration_at_most"]
    found = {}
    if machine.training_speed:
        found["training"] = trained / machine.training_speed / 3600
    if machine.playing_speed:
        found["playing"] = planned["generated_tokens_at_most"] / machine.playing_speed / 3600
    return found


def _begun(
    config: RunConfig, spec: EnvSpec, ids: list[str], looked_at: list[Trajectory], explored: int
) -> dict[int, float]:
    """Episodes that are explored in an iteration at most, by the number of steps that they go on from.

    What goes on from the experts is counted for those looked at, and stands for all that are explored.
    """
    settings = config.algorithm
    every = spec.task_ids("train") if config.env.experts is None else experts.without_expert(config.env, ())
    known = set(ids)
    new = experts.new_problems(config, [task_id for task_id in every if task_id not in known], 1)
    asked = [p for p in algorithms.make(settings).explore(looked_at, new) if len(p.steps) < spec.max_steps]
    # A method that asks for a prefix several times wants all these episodes; else one is drawn until it succeeds.
    draws = settings.draws if len(set(asked)) == len(asked) else 1
    found: dict[int, float] = {}
    for prefix in asked:
        stands_for = explored / len(looked_at) if prefix.task_id in known else 1.0
        found[len(prefix.steps)] = found.get(len(prefix.steps), 0.0) + draws * stands_for
    return found


def _trained(config: RunConfig, lengths: Lengths, limit: int, shown: int, explored: int, episodes: int) -> float:
    """Tokens of an iteration's training, at most, of `shown` experts of which so many are explored."""
    how = algorithms.make(config.algorithm).training
    expert, agent = (min(lengths.episode(steps), config.model.max_length) for steps in (lengths.steps, limit))
    section = getattr(config, how.section)
    if losses.get(how.loss).on == "pairs":  # of every episode one, and of one from the start another
        return _gone_through(section, explored + episodes, expert + agent)
    rows = shown + episodes
    return _gone_through(section, rows, (shown * expert + episodes * agent) / rows)


def _gone_through(config: TrainConfig, rows: int, tokens: float) -> float:
    """Tokens of so many rows with so many tokens each in all epochs."""
    if config.updates is None:
        return config.epochs * rows * tokens
    return config.updates * min(config.batch_size, rows) * tokens
