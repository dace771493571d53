"""The contract of `Environment`, executable: one checker for every environment.

Decided here: it plays the expert, random turns and nonsense through the public interface only, and gathers what is
wrong instead of stopping at the first. Left out: what a real data set recorded (see each environment's `check_data`).
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from typing import Any

from ipr.types import Environment, EnvSpec, IprError, Outcome, Trajectory, derive_seed

MALFORMED = (
    "",
    " \n\t",
    "look",
    "Thought: I only think.",
    "Action:",
    "Action:\n\n",
    "Thought: x\nAction: \x00\ud83d",
    "Thought: {} %s\nAction: {0}",
    "Action: " + "go to " * 2000,
    "Observation: You win.",
)
"""What a model may write and no environment can carry out."""
LOWEST, HIGHEST = -1.0, 1.0
"""Rewards; Kendall's tau makes InterCodeSQL's slightly negative."""


def check(spec: EnvSpec, task_ids: Sequence[str] | None = None, games: int = 20) -> dict[str, Any]:
    """Plays some games (`task_ids`, else the first `games` of dev) and reports figures and `problems`.

    `ok` is true when there is no problem.
    """
    ids = list(task_ids) if task_ids is not None else spec.task_ids("dev")[:games]
    problems: list[str] = []
    steps, wins, seconds = 0, 0, 0.0
    env = spec.make()
    try:
        for task_id in ids:
            try:
                expert = spec.expert(task_id)
                wins += expert.reward >= HIGHEST
                before = len(problems)
                problems += [f"{task_id}: {p}" for p in _one(spec, env, task_id, expert)]
                if len(problems) == before:
                    played, spent = _speed(env, task_id, expert)
                    steps, seconds = steps + played, seconds + spent
            except Exception as error:  # an environment must never raise: that is what is checked
                problems.append(f"{task_id}: raised {error!r}")
    finally:
        env.close()
    try:
        env.reset("no such game")
        problems.append("an unknown task id is not refused")
    except IprError:
        pass
    except Exception as error:
        problems.append(f"an unknown task id raises {error!r}, not IprError")
    return {
        "env": spec.name,
        "version": spec.version,
        "games": len(ids),
        "expert_wins": wins,
        "steps": steps,
        "steps_per_s": round(steps / seconds) if seconds else 0,
        "problems": problems,
        "ok": not problems and bool(ids),
    }


def _one(spec: EnvSpec, env: Environment, task_id: str, expert: Trajectory) -> list[str]:
    """What is wrong in one game."""
    first = env.reset(task_id)
    problems = [] if first else ["the first observation is empty"]
    if first != env.reset(task_id) or first != spec.make().reset(task_id):
        problems.append("reset gives different first observations")
    problems += _replays(env, expert, spec.max_steps)
    problems += _limits(env, spec, task_id)
    rng = random.Random(derive_seed("checker", task_id))
    actions = [*(s.action for s in expert.steps), *MALFORMED]
    walk = [rng.choice(actions) for _ in range(spec.max_steps)]
    return problems + _restores(spec, env, task_id, walk, rng)


def _replays(env: Environment, expert: Trajectory, max_steps: int) -> list[str]:
    """The expert's trajectory gives its recorded observations and reward (as far as the step limit lets it)."""
    if env.reset(expert.task_id) != expert.first_observation:
        return ["the expert's first observation is another"]
    outcome = None
    for t, step in enumerate(expert.steps[:max_steps]):
        outcome = env.step(step.action)
        if outcome.observation != step.observation:
            return [f"step {t} of the expert: observed {outcome.observation!r}, recorded {step.observation!r}"]
        if outcome.terminated and t + 1 < len(expert.steps):
            return [f"the expert's trajectory ends after step {t} of {len(expert.steps)}"]
    if outcome is None:
        return ["the expert's trajectory is empty"]
    if len(expert.steps) > max_steps:
        return []
    problems = []
    if outcome.reward != expert.reward:
        problems.append(f"the expert's reward is {outcome.reward}, recorded {expert.reward}")
    if outcome.terminated != (expert.ending == "terminated"):
        problems.append(f"the expert's ending is recorded as {expert.ending}")
    return problems


def _limits(env: Environment, spec: EnvSpec, task_id: str) -> list[str]:
    """Malformed turns are answered, marked invalid, counted, and end the episode at the step limit."""
    problems = []
    env.reset(task_id)
    for t in range(spec.max_steps):
        text = MALFORMED[t % len(MALFORMED)]
        outcome = env.step(text)
        problems += _sane(outcome)
        if outcome.valid:
            problems.append(f"the malformed {text[:30]!r} counts as valid")
        if outcome.terminated:
            return [*problems, f"the malformed {text[:30]!r} ends the episode"]
        if outcome.truncated != (t + 1 == spec.max_steps):
            return [*problems, f"truncated is {outcome.truncated} after {t + 1} of {spec.max_steps} steps"]
    return problems


def _restores(spec: EnvSpec, env: Environment, task_id: str, walk: list[str], rng: random.Random) -> list[str]:
    """A walk gives the same when repeated, and a snapshot taken on the way continues in the same way elsewhere."""
    env.reset(task_id)
    states, outcomes = [env.snapshot()], []
    for action in walk:
        outcomes.append(env.step(action))
        states.append(env.snapshot())
        if outcomes[-1].terminated or outcomes[-1].truncated:
            break
    problems = [p for outcome in outcomes for p in _sane(outcome)]
    env.reset(task_id)
    if [env.step(a) for a in walk[: len(outcomes)]] != outcomes:
        problems.append("the same actions give another episode")
    other = spec.make()
    try:
        for t in sorted(rng.sample(range(len(outcomes)), min(3, len(outcomes)))):
            for one in (env, other, env):  # restoring does not use a snapshot up
                one.restore(states[t])
                if [one.step(a) for a in walk[t : len(outcomes)]] != outcomes[t:]:
                    problems.append(f"restored after {t} steps, the episode continues in another way")
                    break
    finally:
        other.close()
    return problems


def _sane(outcome: Outcome) -> list[str]:
    problems = []
    if not isinstance(outcome.observation, str):
        problems.append(f"an observation is no text: {outcome.observation!r}")
    if not LOWEST <= outcome.reward <= HIGHEST:
        problems.append(f"a reward of {outcome.reward}")
    if outcome.terminated and outcome.truncated:
        problems.append("terminated and truncated at once")
    return problems


def _speed(env: Environment, task_id: str, expert: Trajectory) -> tuple[int, float]:
    """Steps and processor seconds of the expert's actions, played a few times."""
    steps, start = 0, time.process_time()
    for _ in range(5):
        env.reset(task_id)
        for step in expert.steps:
            env.step(step.action)
        steps += len(expert.steps)
    return steps, time.process_time() - start
