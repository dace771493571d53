"""Guess a number from 1 to 15, told "Higher" or "Lower": an environment of one's own, whole."""

import re

from ipr.envs.react import action_of, compose
from ipr.policies.scripted import ScriptedPolicy
from ipr.rollout import play
from ipr.types import EnvSpec, IprError, Job, Message, Outcome, Prefix, Sampling, derive_seed

SIZES = {"train": 60, "dev": 12, "seen": 12, "unseen": 12}
SECRETS = {f"{split}/{i}": 1 + derive_seed("guess", split, i) % 15 for split, n in SIZES.items() for i in range(n)}
GUESSES = {str(n): n for n in range(1, 16)}


class Guess:
    def __init__(self, limit):
        self.limit = limit

    def reset(self, task_id):
        if task_id not in SECRETS:
            raise IprError(f"guess: no problem '{task_id}'")
        self.state = task_id, 0, 1, 15
        return "Guess my number. It is from 1 to 15."

    def step(self, action):
        task_id, taken, low, high = self.state
        guess, secret = GUESSES.get(action_of(action)), SECRETS[task_id]
        if guess is None:
            said = "That is no number."
        elif guess < secret:
            said, low = "Higher.", max(low, guess + 1)
        elif guess > secret:
            said, high = "Lower.", min(high, guess - 1)
        else:
            said, low, high = "Yes.", secret, secret
        self.state = task_id, taken + 1, low, high
        won = guess == secret
        over = not won and taken + 1 >= self.limit
        return Outcome(f"{said} It is from {low} to {high}.", float(won), won, over, valid=guess is not None)

    def snapshot(self):
        return self.state

    def restore(self, state):
        self.state = state

    def close(self):
        pass


def bisect(conversation, seed):
    """The expert: it knows what was said, nothing else."""
    low, high = (int(n) for n in re.findall(r"\d+", conversation[-1].content))
    return compose(f"It is from {low} to {high}, so I try the middle.", str((low + high) // 2))


def task_ids(split):
    if split not in SIZES:
        raise IprError(f"guess: no split '{split}'; there are {', '.join(SIZES)}")
    return [task_id for task_id in SECRETS if task_id.startswith(f"{split}/")]


def spec(data=None, max_steps=None):
    if data is not None:
        raise IprError(f"guess: has no real data set, so env.data={data} cannot be; leave it out")
    world = EnvSpec(
        name="guess",
        make=lambda: Guess(max_steps or 6),
        task_ids=task_ids,
        prompt=(Message("user", "Guess a number. Answer: Thought: ... Action: <number>"), Message("assistant", "OK")),
        max_steps=max_steps or 6,
        expert=lambda task_id: play(world, ScriptedPolicy(bisect, "expert"), [Job(Prefix(task_id))], Sampling())[0],
        task_type=lambda task_id: "number",
        oracle=lambda env: 1 / (1 + env.state[3] - env.state[2]),  # chance of guessing right now
    )
    return world
