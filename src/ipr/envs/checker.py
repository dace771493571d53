"""The contract of `EnvSpec` and `Environment`, executable: one checker for every environment.

Decided here: it plays the expert, random turns and nonsense through the public interface only, in two instances and in
two processes, and gathers what is wrong instead of stopping at the first; the same fault in many games is one line.
Left out: what a real data set recorded (see each environment's `check_data`), and code that never comes back.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from ipr.envs import get
from ipr.envs.retrace import retrace
from ipr.types import Environment, EnvSpec, IprError, Outcome, Trajectory, derive_seed

SPLITS = ("train", "dev", "seen", "unseen")
NO_ACTION = ("", " \n\t", "look", "Thought: I only think.", "Action:", "Action:\n\n", "Observation: You win.")
"""Turns without an action: answered, marked invalid, and nothing happens."""
ODD = (
    "Action: \x00",
    "Thought: x\nAction: a\x00b",
    "Action: \ud83d",
    "Action: \u202e\U0001f986 \u0130\u1e9e\u00e9",
    "Thought: {} %s\nAction: {0}",
    "Action: " + "9" * 5000,
    "Action: " + "go to " * 20_000,
)
"""Actions that a model may write (NUL, half a character, unicode, braces, a huge number, 120 kB): answered."""
MALFORMED = (*NO_ACTION, *ODD)
HIGHEST = 1.0
"""Rewards; Kendall's tau makes InterCodeSQL's slightly negative."""
SLOW = 1.0
"""Processor seconds that an answer to nonsense may take."""
_ELSEWHERE = """
import json, sys
from ipr.envs import checker, get
name, data, ids = json.loads(sys.argv[1])
print(json.dumps(checker.digests(get(name, data), ids)))
"""


class Difference(NamedTuple):
    """A place where an environment does not give back what was recorded."""

    game: str
    step: int
    """The agent's turn, from 1; 0 is the first observation."""
    expected: str
    got: str

    def __str__(self) -> str:
        expected, got = around(self.expected, self.got)
        return f"{self.game}: step {self.step}: expected {expected!r}, got {got!r}"


def differences(env: Environment, recorded: Trajectory) -> list[Difference]:
    """What playing a trajectory again gives that it does not hold: observations, the end, the reward."""
    first, steps = env.reset(recorded.task_id), recorded.steps
    found = [] if first == recorded.first_observation else [(0, recorded.first_observation, first)]
    pairs: list[tuple[str, str]] = []

    def noted(observation: str, outcome: Outcome) -> bool:
        pairs.append((observation, outcome.observation))
        return True  # all differences are wanted, not the first

    outcomes, _ = retrace(env, steps, noted)
    found += [(t, expected, got) for t, (expected, got) in enumerate(pairs, 1) if expected != got]
    if len(outcomes) < len(steps):
        found.append((len(outcomes), "the episode goes on", "it is over"))
    reward = outcomes[-1].reward if outcomes else 0.0
    if reward != recorded.reward:
        found.append((len(steps), f"reward {recorded.reward}", f"reward {reward}"))
    return [Difference(recorded.task_id, *place) for place in found]


def around(a: str, b: str, width: int = 80) -> tuple[str, str]:
    """Two texts, cut to where they part."""
    same = next((k for k, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    start = max(0, same - width // 4) if max(len(a), len(b)) > width else 0

    def cut(text: str) -> str:
        return ("..." if start else "") + text[start : start + width] + ("..." if len(text) > start + width else "")

    return cut(a), cut(b)


def check_named(name: str, data: str | None = None, games: int = 20) -> dict[str, Any]:
    """`check` on the first `games` of dev, and whether another process plays them in the same way."""
    spec = get(name, data)
    report = check(spec, games=games)
    if report["ok"]:
        report["problems"] = _elsewhere(spec, name, data, spec.task_ids("dev")[:games])
        report["ok"] = not report["problems"]
    return report


def check(spec: EnvSpec, task_ids: Sequence[str] | None = None, games: int = 20) -> dict[str, Any]:
    """Plays some games (`task_ids`, else the first `games` of dev) and reports figures and `problems`.

    `ok` is true when there is no problem. What is wrong with the splits is looked at where `task_ids` are not given.
    """
    try:
        problems = _spec(spec)
        env = spec.make()
    except Exception as error:
        problems = [f"EnvSpec cannot be used: {error!r}"]
        return {"env": spec.name, "version": spec.version, "games": 0, "problems": problems, "ok": False}
    if task_ids is None:
        problems += _splits(spec)
        task_ids = _ids(spec, "dev")[:games]
    found: dict[str, list[str]] = {}
    steps, wins, seconds, snapshot = 0, 0, 0.0, 0.0
    try:
        for task_id in task_ids:
            wrong: list[str] = []
            try:
                expert = spec.expert(task_id)
                wins += expert.reward >= HIGHEST
                _one(spec, env, task_id, expert, wrong)
                if not wrong:
                    played, spent, snapshot = _speed(spec, env, task_id, expert)
                    steps, seconds = steps + played, seconds + spent
            except Exception as error:  # an environment must never raise: that is what is checked
                wrong = wrong or [f"raised {error!r}"]
            for problem in dict.fromkeys(wrong):
                found.setdefault(problem, []).append(task_id)
    finally:
        env.close()
    for problem, where in found.items():
        more = f" (and in {len(where) - 1} more games)" if len(where) > 1 else ""
        problems.append(f"{where[0]}: {problem}{more}")
    for what, act in (("task id", lambda: env.reset("no such game")), ("split", lambda: spec.task_ids("no such"))):
        try:
            act()
            problems.append(f"an unknown {what} is not refused; raise IprError")
        except IprError:
            pass
        except Exception as error:
            problems.append(f"an unknown {what} raises {error!r}, not IprError")
    if not task_ids:
        problems.append("there is no game to play in split 'dev'")
    return {
        "env": spec.name,
        "version": spec.version,
        "games": len(task_ids),
        "expert_wins": wins,
        "steps": steps,
        "steps_per_s": round(steps / seconds) if seconds else 0,
        "snapshot_us": round(1e6 * snapshot, 1),
        "problems": problems,
        "ok": not problems,
    }


def digests(spec: EnvSpec, task_ids: Sequence[str]) -> dict[str, str]:
    """What must be equal in every process, in short: the splits, and each game's expert and a walk in it."""
    values: dict[str, Any] = {"task_ids": [spec.task_ids(split) for split in SPLITS]}
    env = spec.make()
    for task_id in task_ids:
        expert = spec.expert(task_id)
        walk, _ = _walk(spec, task_id, expert)
        first = env.reset(task_id)
        outcomes = [_value(spec, env)]
        for action in walk:
            outcome = env.step(action)
            outcomes += [outcome, _value(spec, env)]
            if outcome.terminated:
                break
        values[task_id] = expert, spec.task_type(task_id), first, outcomes
    env.close()
    return {key: hashlib.sha256(ascii(value).encode()).hexdigest() for key, value in values.items()}


def _elsewhere(spec: EnvSpec, name: str, data: str | None, task_ids: list[str]) -> list[str]:
    """Whether a process in which strings hash otherwise plays the same."""
    other = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    done = subprocess.run(
        [sys.executable, "-c", _ELSEWHERE, json.dumps([name, data, task_ids])],
        env=os.environ | {"PYTHONHASHSEED": other, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        return [f"in another process it fails: {(done.stderr.strip().splitlines() or ['no message'])[-1]}"]
    theirs = json.loads(done.stdout.splitlines()[-1])
    different = [key for key, digest in digests(spec, task_ids).items() if theirs.get(key) != digest]
    if not different:
        return []
    return [
        f"{different[0]}: another process plays it in another way ({len(different)} such); seed with"
        " ipr.types.derive_seed, use neither hash() nor the order of a set"
    ]


def _spec(spec: EnvSpec) -> list[str]:
    """What is wrong with the facts of an environment."""
    problems = []
    if not spec.version:
        problems.append("EnvSpec.version is empty; it is part of cache keys")
    if spec.max_steps < 1:
        problems.append(f"EnvSpec.max_steps is {spec.max_steps}; give 1 or more")
    roles = [message.role for message in spec.prompt]
    if roles != ["user", "assistant"] * (len(roles) // 2):
        problems.append(
            f"EnvSpec.prompt has the roles {', '.join(roles)}; they are user and assistant in turn, ending with the"
            " assistant, because the first observation follows as a user's message"
        )
    return problems


def _splits(spec: EnvSpec) -> list[str]:
    problems = []
    split_of: dict[str, str] = {}
    for split in SPLITS:
        ids = _ids(spec, split)
        if not ids:
            problems.append(f"split '{split}' has no games")
        if ids != _ids(spec, split):
            problems.append(f"split '{split}' has other games when asked again")
        if len(set(ids)) < len(ids):
            problems.append(f"split '{split}' has a game twice")
        if shared := [i for i in ids if split_of.setdefault(i, split) != split]:
            problems.append(f"splits '{split_of[shared[0]]}' and '{split}' share {len(shared)} games, e.g. {shared[0]}")
    return problems


def _ids(spec: EnvSpec, split: str) -> list[str]:
    """The games of a split; none where asking for it raises (then `_splits` says so)."""
    try:
        return list(spec.task_ids(split))
    except Exception:
        return []


def _one(spec: EnvSpec, env: Environment, task_id: str, expert: Trajectory, problems: list[str]) -> None:
    """What is wrong in one game is added to `problems`."""
    first = env.reset(task_id)
    if not first:
        problems.append("the first observation is empty")
    if first != env.reset(task_id) or first != spec.make().reset(task_id):
        problems.append("reset gives different first observations")
    if expert.task_id != task_id:
        problems.append(f"the expert's trajectory is of the game '{expert.task_id}'")
    if spec.expert(task_id) != expert:
        problems.append("the expert plays in another way when asked again")
    if not isinstance(spec.task_type(task_id), str):
        problems.append(f"task_type gives {spec.task_type(task_id)!r}, no text")
    problems += _replays(spec, env, expert)
    problems += _idle(env, spec, task_id)
    problems += _odd(spec, env, task_id)
    walk, rng = _walk(spec, task_id, expert)
    if not problems:  # else what follows only says it again
        problems += _apart(spec, env, expert, walk)
    problems += _restores(spec, env, task_id, walk, rng)


def _walk(spec: EnvSpec, task_id: str, expert: Trajectory) -> tuple[list[str], random.Random]:
    """Random turns, half of them the expert's, half nonsense."""
    rng = random.Random(derive_seed("checker", task_id))
    kinds = ([s.action for s in expert.steps] or MALFORMED, MALFORMED)
    return [rng.choice(rng.choice(kinds)) for _ in range(spec.max_steps)], rng


def _replays(spec: EnvSpec, env: Environment, expert: Trajectory) -> list[str]:
    """The expert's trajectory gives its recorded observations and reward (as far as the step limit lets it)."""
    if env.reset(expert.task_id) != expert.first_observation:
        return ["the expert's first observation is another"]
    outcomes, different = retrace(env, expert.steps[: spec.max_steps])
    t, n = len(outcomes) - 1, len(expert.steps)
    if different:
        return [f"step {t} of the expert: observed {different[1]!r}, recorded {different[0]!r}"]
    if not outcomes:
        return ["the expert's trajectory is empty"]
    outcome, problems = outcomes[-1], [problem for outcome in outcomes for problem in _sane(spec, outcome)]
    if outcome.terminated and t + 1 < n:
        return [f"the expert's trajectory ends after step {t} of {n}"]
    if n > spec.max_steps:
        return problems
    if outcome.reward != expert.reward:
        problems.append(f"the expert's reward is {outcome.reward}, recorded {expert.reward}")
    if outcome.terminated != (expert.ending == "terminated"):
        problems.append(f"the expert's ending is recorded as {expert.ending}")
    return problems


def _idle(env: Environment, spec: EnvSpec, task_id: str) -> list[str]:
    """Turns without an action are answered, marked invalid, and end nothing."""
    problems = []
    env.reset(task_id)
    for t in range(spec.max_steps):
        text = NO_ACTION[t % len(NO_ACTION)]
        outcome = _answer(spec, env, text, problems)
        if outcome is None:
            return problems
        if outcome.valid:
            problems.append(f"the malformed {text[:30]!r} counts as valid")
        if outcome.terminated:
            return [*problems, f"the malformed {text[:30]!r} ends the episode"]
    return problems


def _odd(spec: EnvSpec, env: Environment, task_id: str) -> list[str]:
    """Odd actions are answered."""
    problems: list[str] = []
    for text in ODD:
        env.reset(task_id)
        _answer(spec, env, text, problems)
    return problems


def _answer(spec: EnvSpec, env: Environment, text: str, problems: list[str]) -> Outcome | None:
    """The answer to nonsense, None where it raises; what is wrong with it is added to `problems`."""
    start = time.process_time()
    try:
        outcome = env.step(text)
    except Exception as error:
        problems.append(f"the malformed {text[:30]!r} raised {error!r}; answer it, with valid=False")
        return None
    if (spent := time.process_time() - start) > SLOW:
        problems.append(f"the answer to {text[:30]!r} ({len(text)} characters) takes {spent:.1f} s")
    problems += _sane(spec, outcome)
    return outcome


def _apart(spec: EnvSpec, env: Environment, expert: Trajectory, walk: list[str]) -> list[str]:
    """Another instance that is played meanwhile changes nothing."""
    other = spec.make()
    try:
        env.reset(expert.task_id)
        other.reset(expert.task_id)
        over = False
        for step, turn in zip(expert.steps, walk, strict=False):
            for ahead in (turn, step.action):  # the expert's own turn, a step before it is taken
                if not over:
                    outcome = other.step(ahead)
                    over = outcome.terminated
            if env.step(step.action).observation != step.observation:
                return ["another instance that is played meanwhile changes what is observed"]
        return []
    finally:
        other.close()


def _restores(spec: EnvSpec, env: Environment, task_id: str, walk: list[str], rng: random.Random) -> list[str]:
    """A walk gives the same when repeated, and a snapshot taken on the way continues in the same way elsewhere."""
    env.reset(task_id)
    states, outcomes, problems = [env.snapshot()], [], []
    for action in walk:
        outcomes.append(env.step(action))
        states.append(env.snapshot())
        if not isinstance(value := _value(spec, env), int | float) or math.isnan(value):
            problems.append(f"the oracle's value is {value!r}, no number")
        if outcomes[-1].terminated:
            break
    problems += [p for outcome in outcomes for p in _sane(spec, outcome)]
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


def _value(spec: EnvSpec, env: Environment) -> float:
    """The oracle's value of the present state; 0 where there is no oracle."""
    return 0.0 if spec.oracle is None else spec.oracle(env)


def _sane(spec: EnvSpec, outcome: Outcome) -> list[str]:
    problems = []
    if not isinstance(outcome.observation, str):
        problems.append(f"an observation is no text: {outcome.observation!r}")
    if not spec.lowest <= outcome.reward <= HIGHEST:
        problems.append(f"a reward of {outcome.reward}, not from {spec.lowest:g} (the spec's `lowest`) to {HIGHEST:g}")
    return problems


def _speed(spec: EnvSpec, env: Environment, task_id: str, expert: Trajectory) -> tuple[int, float, float]:
    """Steps and processor seconds of the expert's actions, played a few times; seconds of a snapshot and restore."""
    actions = [step.action for step in expert.steps[: spec.max_steps]]
    start = time.process_time()
    for _ in range(5):
        env.reset(task_id)
        for action in actions:
            env.step(action)
    played = time.process_time()
    for _ in range(100):
        env.restore(env.snapshot())
    return 5 * len(actions), played - start, (time.process_time() - played) / 100
