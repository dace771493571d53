"""What a run will cost, before it is started: episodes, rollouts and tokens to expect."""

from __future__ import annotations

from statistics import fmean
from typing import Any

from ipr import algorithms
from ipr.config import RunConfig
from ipr.tokens import ChatTokens
from ipr.types import EnvSpec


def plan(config: RunConfig, spec: EnvSpec, chat: ChatTokens) -> dict[str, Any]:
    """Upper bounds per iteration, from the length of a few expert trajectories. No model is loaded.

    Step rewards assume that every action differs from the expert's and every outcome is worse: the exact savings
    usually leave a third of it or less.
    """
    ids = spec.task_ids("train")[: config.env.tasks]
    sample = [spec.expert(task_id) for task_id in ids[:: max(1, len(ids) // 20)][:20]]
    steps = fmean(len(t.steps) for t in sample)
    turn = fmean(len(chat.agent(s.action)) for t in sample for s in t.steps)
    answer = fmean(len(chat.observation(s.observation)) for t in sample for s in t.steps)
    first = fmean(len(chat.prompt([*spec.told(t.task_id), *t.history(0)])) for t in sample)

    method = algorithms.make(config.algorithm)
    explored = min(len(ids), config.algorithm.explore_tasks or len(ids))
    episodes = round(len(method.explore(sample, ids[: len(sample)])) / len(sample) * explored)
    scored = spec.max_steps + 1 if method.scores == "turns" else 2 * method.scores
    rollouts = scored * config.algorithm.samples * episodes
    # Half of the step limit is what an episode from the middle of a trajectory takes, failures included.
    remaining = spec.max_steps / 2
    heldout = {s: min(config.eval.games, len(spec.task_ids(s))) for s in config.eval.splits}
    heldout["dev"] = min(config.eval.dev_games, len(spec.task_ids("dev")))
    evaluated = sum(heldout.values()) * (config.algorithm.iterations + 2)
    return {
        "experts": len(ids),
        "expert_steps": round(steps, 1),
        "iterations": config.algorithm.iterations,
        "explore_episodes_per_iteration": episodes,
        "step_reward_rollouts_per_iteration_at_most": rollouts,
        "evaluation_episodes": evaluated,
        "evaluation_games": heldout,
        "sft_tokens": round(len(ids) * (first + steps * (turn + answer)) * config.sft.epochs),
        "tokens_per_turn": round(turn, 1),
        "generated_tokens_at_most": round(
            turn * (remaining * config.algorithm.iterations * (episodes + rollouts) + spec.max_steps * evaluated)
        ),
    }
