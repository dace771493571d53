"""The nouns. Everything else in the project is verbs on these types.

Decided here: a trajectory never holds the instruction prompt or the in-context example (they belong to the
environment, see `EnvSpec.prompt`), an action is the model's raw text, and a `Prefix` alone is enough to rebuild
a state. Left out on purpose: tokens (see `ipr.tokens`) and files (see `ipr.store`).
"""

from __future__ import annotations

import difflib
import hashlib
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Literal, Protocol, runtime_checkable

Ending = Literal["terminated", "truncated", "overflow"]
"""How an episode ended: by the environment, by the step limit, or because the context was full."""


class IprError(Exception):
    """Bad input from outside (config, file, model, server). Its text names the thing and the fix, in one line."""


def suggestion(name: str, known: Iterable[str]) -> str:
    """How an IprError about an unknown name ends: with the known name that is nearest, or with all of them."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean '{near[0]}'?" if near else f"there are {', '.join(known)}"


GROUPS = {"method": "ipr.methods", "loss": "ipr.losses", "backend": "ipr.backends"}
"""What installed packages may add -> the group of their entry points, NAME = "module"."""


def plugged_modules(what: str) -> dict[str, str]:
    """What installed packages add of a kind in `GROUPS`: names, and modules."""
    return {point.name: point.value for point in entry_points(group=GROUPS[what])}


def plugged(what: str, name: str, ours: Iterable[str]) -> Any:
    """What the module of an installed package that is named so calls `what`.

    Raises IprError, in one line, for an unknown name (`ours` are known too) and for a module that cannot be used.
    """
    modules = plugged_modules(what)
    if name not in modules:
        raise IprError(f"unknown {what} '{name}'; {suggestion(name, [*modules, *ours])}")
    try:
        return getattr(import_module(modules[name]), what)
    except Exception as error:
        told = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise IprError(f"{what} '{name}': module {modules[name]}: {told}; mend or uninstall its package") from error


@dataclass(frozen=True, slots=True)
class Message:
    """One chat message, in the field's format."""

    role: Literal["system", "user", "assistant"]
    content: str

    def as_dict(self) -> dict[str, str]:
        return {"role": self.role, "content": self.content}


def trimmed(text: str) -> str:
    """A turn as it counts: without the blanks and line breaks at its ends, which no agent's tokens have either."""
    return text.strip()


@dataclass(frozen=True, slots=True)
class Step:
    """One turn: the agent's words and what the environment answered."""

    action: str
    """a_t, the model's raw text, usually "Thought: ...\\nAction: ..."."""
    observation: str
    """o_t, the environment's answer."""


@dataclass(frozen=True, slots=True)
class Prefix:
    """e_{t-1}: a problem and the steps taken so far. Replaying it gives the state s_t. Hashable: a cache key."""

    task_id: str
    steps: tuple[Step, ...] = ()

    def key(self) -> str:
        """A digest of the problem and the steps' text, equal in every process."""
        digest = hashlib.sha256(self.task_id.encode())
        for step in self.steps:
            for text in (step.action, step.observation):
                digest.update(b"\x00" + text.encode())
        return digest.hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Trajectory:
    """An episode from its first observation to its end, with its outcome reward."""

    task_id: str
    first_observation: str
    steps: tuple[Step, ...]
    reward: float
    """r_o(u, e_n), the outcome reward, in [0, 1] (InterCodeSQL's in [-1, 1])."""
    ending: Ending
    policy: str = ""
    """Who played: "expert", or the agent's name (e.g. "iteration-2")."""
    seed: int = 0
    start: int = 0
    """How many first steps were given (the prefix the episode was continued from); 0 for a whole episode."""
    invalid: int = 0
    """Actions from `start` on that the environment could not carry out (see `Outcome.valid`)."""

    @property
    def job(self) -> Job:
        """What was played."""
        return Job(self.prefix(self.start), self.seed)

    def trimmed(self) -> Trajectory:
        """The same with every turn as it counts (see the function)."""
        return replace(self, steps=tuple(Step(trimmed(step.action), step.observation) for step in self.steps))

    def prefix(self, t: int) -> Prefix:
        """e_t: the problem and its first t steps, 0 <= t <= len(steps)."""
        return Prefix(self.task_id, self.steps[:t])

    def history(self, t: int) -> list[Message]:
        """The chat messages an agent sees before its step t (0-based), without the environment's prompt."""
        return messages(self.first_observation, self.steps[:t])

    def continuation(self, t: int) -> list[Message]:
        """e_{t:n} as chat messages: a_t, o_t, ..., a_n. The last observation ends the episode and is left out."""
        turns = [m for s in self.steps[t:] for m in (Message("assistant", s.action), Message("user", s.observation))]
        return turns[:-1]


def messages(first_observation: str, steps: Sequence[Step]) -> list[Message]:
    """First observation and steps as alternating user and assistant messages."""
    turns = [Message("user", first_observation)]
    for step in steps:
        turns += [Message("assistant", step.action), Message("user", step.observation)]
    return turns


@dataclass(frozen=True, slots=True)
class StepReward:
    """r_s(s_t, a_t): the mean outcome of the scorer's rollouts that continue after the prefix's last action."""

    prefix: Prefix
    """Up to and with the action that is scored."""
    mean: float
    """The step reward, or the outcome reward itself when the action ends the episode (then n = 0)."""
    n: int
    """Rollouts played."""
    samples: tuple[float, ...]
    """Their outcome rewards, in the order of the sample index."""
    planned: int
    """Rollouts that were asked for (N)."""
    source: Literal["monte_carlo", "outcome", "curtailed", "model"] = "monte_carlo"
    """"outcome": the action ended the episode. "curtailed": stopped when the decision was fixed (censored). "model": of
    a step reward model, no rollout was played."""


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """Two ways to go on from the same history, one better than the other."""

    task_id: str
    t: int
    """The step (0-based) at which the two part; 0 for outcome pairs."""
    level: Literal["outcome", "step"]
    prompt: tuple[Message, ...]
    """e_{t-1} as chat messages, without the environment's prompt."""
    chosen: tuple[Message, ...]
    rejected: tuple[Message, ...]
    """Remainders e_{t:n}; both start and end with an assistant message."""
    margin: float
    """The reward difference that made the pair: of outcomes, or of step rewards."""
    winner: Literal["expert", "agent"] = "expert"
    """Whose remainder is chosen."""


@dataclass(frozen=True, slots=True)
class Demonstration:
    """A whole conversation that is trained on: imitated (SFT), or made likelier or less likely turn by turn."""

    task_id: str
    messages: tuple[Message, ...]
    source: str = "expert"
    weights: tuple[float, ...] = ()
    """Of each message, a factor of its tokens' weight in the loss; empty: 1 for all."""


# Playing -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Outcome:
    """What `Environment.step` returns."""

    observation: str
    reward: float = 0.0
    terminated: bool = False
    """The episode reached an end of its own (success, purchase, submission)."""
    _: KW_ONLY
    valid: bool = True
    """Whether the action was understood and possible; a malformed or impossible action is answered, never raised."""


class Environment(Protocol):
    """One episode's world. Deterministic given the task id. Never shared between threads. It counts no steps: the
    limit is `EnvSpec.max_steps`, which `ipr.rollout` keeps."""

    def reset(self, task_id: str) -> str:
        """Start a problem; returns the first observation. Raises IprError for an unknown task id or a broken file."""
        ...

    def step(self, action: str) -> Outcome:
        """Take the agent's raw text (thought and action)."""
        ...

    def snapshot(self) -> Any:
        """The state, taken in microseconds, for `restore` any number of times on any instance of the same spec."""
        ...

    def restore(self, state: Any) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class EnvSpec:
    """An environment by name: how to make it and what there is to play."""

    name: str
    make: Callable[[], Environment]
    task_ids: Callable[[str], list[str]]
    """Split name ("train", "dev", "seen", "unseen", maybe more) -> ids; raises IprError for others."""
    prompt: tuple[Message, ...]
    """Instruction (and, where asked for, the in-context example), put before every conversation."""
    max_steps: int
    """Step limit of an episode, kept by `ipr.rollout` alone."""
    expert: Callable[[str], Trajectory]
    """The expert's trajectory for a task id: with thoughts, from what the expert has seen only."""
    task_type: Callable[[str], str]
    """The kind of problem, for tables (e.g. "pick_and_place_simple")."""
    lowest: float = 0.0
    """The lowest reward that an episode can have; the highest is 1."""
    oracle: Callable[[Environment], float] | None = None
    """A ground-truth value of the environment's present state, higher is better; None where there is none."""
    version: str = "1"
    """Changes whenever an observation or reward may change: part of cache keys and of the manifest."""
    deciding: Callable[[], Mapping[str, Any]] = dict
    """What else decides an observation or reward, by name: "data", the content of a real data set's files
    (`ipr.identity.contents`), versions of libraries. Part of every identity. By default all files of `env.data`."""
    prompts: Callable[[str], tuple[Message, ...]] | None = None
    """Task id -> its own prompt, where a data set has tasks of several wordings; else `prompt` is that of all."""
    reword: Callable[[str, str | None], str] = lambda text, task_id: text
    """A turn or observation recorded with another version's wording, in that of a task, or (None) in one that is the
    same for all (see `imports`)."""
    published: Callable[[str], str] = str
    """A turn as the published environment carried it out, where it read less of it; `str` leaves it (see `imports`)."""
    adopted: Callable[[str, str], str] = lambda task_id, said: task_id
    """The task as a record's first observation tells it, where something of it was drawn: TASK@WHAT (see `imports`)."""

    def told(self, task_id: str) -> tuple[Message, ...]:
        """The prompt of a task."""
        return self.prompt if self.prompts is None else self.prompts(task_id)


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a policy picks tokens."""

    temperature: float = 0.0
    """0 is greedy; the scorer uses 1 (paper)."""
    max_new_tokens: int = 96
    """Per turn."""


@dataclass(frozen=True, slots=True)
class Completion:
    """One answer of a policy."""

    text: str
    token_ids: tuple[int, ...]
    finish: Literal["stop", "length", "overflow"]
    """"stop": end of turn; "length": max_new_tokens reached; "overflow": no room left in the context."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One request to a policy: a conversation that ends with a user message."""

    conversation: tuple[Message, ...]
    seed: int = 0
    """Alone decides the sampled tokens, together with the conversation; never the place in the batch."""
    session: Hashable = None
    """An episode's name. A policy may keep the key-value cache of a session's earlier turns; None: keep nothing."""
    last: bool = False
    """The caller will not come back to this session after this turn."""


class Policy(Protocol):
    """Anything that can act."""

    name: str

    def generate(self, turns: Sequence[Turn], sampling: Sampling) -> list[Completion]: ...

    def close_session(self, session: Hashable) -> None:
        """Forget a session's key-value cache (a no-op for policies without one, and for unknown sessions)."""
        ...


@runtime_checkable
class Streaming(Policy, Protocol):
    """A policy whose turns need not wait for each other."""

    def stream(self, waiting: deque[Turn], sampling: Sampling) -> Iterator[tuple[Turn, Completion]]:
        """Takes turns from the left of `waiting` as it has room; yields each with its answer as soon as it is there.

        Whoever iterates may add turns meanwhile, of sessions that have been answered or of new ones. It ends where none
        is left.
        """
        ...


@dataclass(frozen=True, slots=True)
class Job:
    """One episode to play: from a prefix, with a seed. The rollout engine's input."""

    prefix: Prefix
    seed: int = 0
    """The episode's seed; turn k samples with derive_seed(seed, k)."""


class More(Protocol):
    """Decides while jobs are played which others are wanted. Can be sent to another process."""

    def part(self, jobs: Sequence[Job]) -> More:
        """What follows from these jobs alone."""
        ...

    def after(self, job: Job, reward: float) -> list[Job]:
        """Told how a job ended: what is to be played because of it."""
        ...


Progress = Callable[[int, int], None]
"""Told (done, total) as a loop goes on."""


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed from (run seed, stage, iteration, task, sample), equal in every process."""
    text = "\x1f".join(str(p) for p in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
