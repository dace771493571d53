"""An environment of one's own, less what is the same in all: a class with what is special about it.

Decided here: a subclass says how an episode starts and what an action does. Splits, snapshots (copies of the instance's
attributes), turns without an action, and the expert's episodes (`rollout.play`) are done here. The
built-in environments do not need it: each has a state of its own that is never changed, only replaced, beside an engine
that all instances share, so that a snapshot copies nothing.
"""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any, ClassVar

from ipr.envs.react import action_of, compose
from ipr.policies.scripted import ScriptedPolicy
from ipr.rollout import play
from ipr.types import EnvSpec, IprError, Job, Message, Outcome, Prefix, Sampling, Trajectory, derive_seed

__all__ = ["Episode", "Outcome", "compose"]
"""All that an environment's module needs to import."""


class Episode:
    """One episode's world (see `ipr.types.Environment`). What all episodes share belongs to the class or the module:
    the attributes of an instance are its state, and are copied."""

    name: ClassVar[str]
    prompt: ClassVar[str]
    """The instruction, put before every conversation."""
    splits: ClassVar[dict[str, int]]
    """How many problems "train", "dev", "seen" and "unseen" have."""
    max_steps: ClassVar[int]
    """Step limit, where `env.max_steps` gives no other."""
    version: ClassVar[str] = "1"
    """Changes whenever an observation or a reward may."""
    lowest: ClassVar[float] = 0.0
    """The lowest reward that an episode can have; the highest is 1."""
    nothing: ClassVar[str] = "Nothing happens."
    """The answer to a turn without an action, or with one that is not possible."""

    def start(self, seed: int) -> str:
        """Sets the problem of this seed up, on an instance without attributes; returns the first observation."""
        raise NotImplementedError

    def act(self, action: str) -> Outcome | None:
        """Does what follows "Action:"; None where it is not understood or not possible."""
        raise NotImplementedError

    def expert(self, conversation: tuple[Message, ...]) -> str:
        """The expert's next turn after the prompt, the first observation, its turns and their answers.

        It is asked of an instance that was never started, so it knows what was said and nothing else.
        """
        raise IprError(f"{self.name}: has no expert; give trajectories: env.experts=FILE")

    def value(self) -> float:
        """The true value of the present state, higher is better (the oracle); only where a subclass has it."""
        raise NotImplementedError

    @classmethod
    def task_ids(cls, split: str) -> list[str]:
        if split not in cls.splits:
            raise IprError(f"{cls.name}: no split '{split}'; there are {', '.join(cls.splits)}")
        return [f"{split}/{i}" for i in range(cls.splits[split])]

    @classmethod
    def spec(cls, data: Path | None = None, max_steps: int | None = None) -> EnvSpec:
        """What the entry point's module gives as its `spec`."""
        if data is not None:
            raise IprError(f"{cls.name}: has no real data set, so env.data={data} cannot be; leave it out")
        limit = cls.max_steps if max_steps is None else max_steps

        def expert(task_id: str) -> Trajectory:
            policy = ScriptedPolicy(lambda conversation, seed: cls().expert(conversation), "expert")
            return play(spec, policy, [Job(Prefix(task_id))], Sampling())[0]

        spec = EnvSpec(
            name=cls.name,
            make=cls,
            task_ids=cls.task_ids,
            prompt=(Message("user", cls.prompt), Message("assistant", "OK")),
            max_steps=limit,
            expert=expert,
            task_type=lambda task_id: cls.name,
            oracle=None if cls.value is Episode.value else cls.value,  # type: ignore[arg-type]
            version=cls.version,
            lowest=cls.lowest,
        )
        return spec

    # The contract of `Environment`

    def reset(self, task_id: str) -> str:
        split = task_id.partition("/")[0]
        if split not in self.splits or task_id not in self.task_ids(split):
            raise IprError(f"{self.name}: no problem '{task_id}'")
        vars(self).clear()
        return self.start(derive_seed(self.name, task_id))

    def step(self, action: str) -> Outcome:
        command = action_of(action)
        outcome = None if command is None else self.act(command)
        return Outcome(self.nothing, valid=False) if outcome is None else outcome

    def snapshot(self) -> Any:
        return deepcopy(vars(self))

    def restore(self, state: Any) -> None:
        vars(self).clear()
        vars(self).update(deepcopy(state))

    def close(self) -> None:
        pass
