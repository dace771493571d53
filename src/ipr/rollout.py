"""The only place where agent meets environment: play episodes from these prefixes with this policy.

Exploring, Monte-Carlo scoring, rejection sampling and evaluating are this one loop. Decided here: a prefix is replayed
once and its state forked by snapshot for every episode that starts there; replayed observations must equal the recorded
ones; the step limit is kept here and nowhere else; up to `slots` episodes are active, a finished one is replaced at
once. Which of them a policy answers together follows from the jobs alone, so the same jobs give the same batches and
the same trajectories to the last bit.
A greedy episode that comes to where another one starts would go on as that one does, so it is played once.
Left out: files, shards and resuming (see `ipr.runs.run`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ipr import profiling
from ipr.envs.retrace import retrace
from ipr.profiling import timed
from ipr.types import (
    Completion,
    Ending,
    Environment,
    EnvSpec,
    IprError,
    Job,
    Message,
    More,
    Outcome,
    Policy,
    Prefix,
    Progress,
    Sampling,
    Step,
    Streaming,
    Trajectory,
    Turn,
    derive_seed,
    messages,
)


def play(
    spec: EnvSpec,
    policy: Policy,
    jobs: Sequence[Job],
    sampling: Sampling,
    *,
    slots: int = 128,
    join: bool = True,
    progress: Progress | None = None,
    keep: Callable[[Trajectory], None] | None = None,
    more: More | None = None,
) -> list[Trajectory]:
    """Play every job to the end of its episode; trajectories in the order of the jobs.

    What `more` asks for after an episode is played too, as soon as there is room; its trajectories come last, and
    nothing is joined.

    A job whose prefix already ended its episode comes back finished, the policy is not asked. An episode whose context
    is full ends as "overflow" with the reward the environment gave last (0 where it gave none). With `join` a greedy
    episode whose steps become another job's prefix takes that job's continuation. `keep` is given each
    episode as it ends (joined ones never: they end with `play` itself). Raises IprError where a replayed prefix does
    not give back its recorded observations.
    """
    played: dict[int, Trajectory] = {}
    joined: list[tuple[_Episode, int]] = []
    slots = min(slots, getattr(policy, "slots", slots))  # fewer may fit into a GPU
    jobs, greedy = list(jobs), sampling.temperature == 0
    starting = {job.prefix: index for index, job in enumerate(jobs)} if join and greedy and more is None else {}
    waiting = _order(jobs)[::-1]
    starts = _Starts(spec)
    envs: list[Environment] = []
    idle: list[Environment] = []
    active: dict[Hashable, _Episode] = {}
    turns: deque[Turn] = deque()
    """Asked of the policy, not yet taken by it."""

    def leave(episode: _Episode) -> None:
        policy.close_session(episode.index)
        idle.append(episode.env)
        active.pop(episode.index, None)

    def end(episode: _Episode, ending: Ending) -> None:
        leave(episode)
        played[episode.index] = episode.trajectory(policy.name, ending)
        if keep:
            keep(played[episode.index])
        for job in more.after(episode.job, episode.reward) if more else ():
            waiting.append(len(jobs))
            jobs.append(job)

    def begin() -> None:
        """Fill the slots."""
        while waiting and len(active) < slots:
            index = waiting.pop()
            with timed("environment"):
                start = starts.at(jobs[index].prefix)
                if not idle:
                    envs.append(spec.make())
                    idle.append(envs[-1])
                env = idle.pop()
                episode = _Episode(index, jobs[index], env, spec.told(jobs[index].prefix.task_id), start)
                if start.ending is None:
                    env.restore(start.snapshot)
            if start.ending is not None:
                end(episode, start.ending)
            else:
                active[index] = episode
                turns.append(episode.turn(spec.max_steps))

    def report() -> None:
        if progress:
            progress(len(played) + len(joined), len(jobs))

    try:
        begin()
        if played:
            report()
        for turn, completion in _answers(policy, turns, sampling):
            episode = active[turn.session]
            ending = "overflow"
            if completion.finish != "overflow":
                ending = _ending(episode.act(completion.text), len(episode.steps), spec.max_steps)
            if ending is not None:
                end(episode, ending)
            elif starting and (other := starting.get(episode.prefix())) is not None:
                leave(episode)
                joined.append((episode, other))
            else:
                turns.append(episode.turn(spec.max_steps))
                continue
            begin()
            report()
    finally:
        for index in active:
            policy.close_session(index)
        for env in [*envs, starts.env]:
            env.close()
    profiling.count("episodes", len(played))
    profiling.count("joined", len(joined))
    # Where an episode joins lies further on than where it starts, so the furthest are known first.
    for episode, other in sorted(joined, key=lambda pair: -len(pair[0].steps)):
        rest = played[other]
        mine = episode.trajectory(policy.name, rest.ending)
        played[episode.index] = replace(mine, steps=rest.steps, reward=rest.reward, invalid=mine.invalid + rest.invalid)
    return [played[index] for index in range(len(jobs))]


def _answers(policy: Policy, turns: deque[Turn], sampling: Sampling) -> Iterator[tuple[Turn, Completion]]:
    """Every turn with its answer, until none is left; without `stream` in rounds."""
    if isinstance(policy, Streaming):
        yield from policy.stream(turns, sampling)
        return
    while turns:
        asked = list(turns)
        turns.clear()
        yield from zip(asked, policy.generate(asked, sampling), strict=True)


@dataclass
class UntilSolved:
    """`ipr.types.More` for rejection sampling: from the same prefix again, with another seed, until it is solved."""

    draws: int
    """Episodes from a prefix, at most."""
    success: float
    """The outcome reward from which on it is solved."""

    def __post_init__(self) -> None:
        self._drawn: dict[Prefix, int] = {}

    def part(self, jobs: Sequence[Job]) -> UntilSolved:
        return UntilSolved(self.draws, self.success)

    def after(self, job: Job, reward: float) -> list[Job]:
        drawn = self._drawn[job.prefix] = self._drawn.get(job.prefix, 0) + 1
        again = reward < self.success and drawn < self.draws
        return [Job(job.prefix, derive_seed(job.seed, "again"))] if again else []


def replay(spec: EnvSpec, trajectory: Trajectory) -> list[str]:
    """Play a recorded trajectory's actions: the first difference from the record, in one line, or an empty list."""
    env = spec.make()
    try:
        first = env.reset(trajectory.task_id)
        if first != trajectory.first_observation:
            return [_difference("first observation", trajectory.first_observation, first)]
        outcomes, different = retrace(env, trajectory.steps[: spec.max_steps])
        t, n = len(outcomes), len(trajectory.steps)
        if different:
            return [_difference(f"step {t} of {n}", *different)]
        reward = outcomes[-1].reward if outcomes else 0.0
        ending = _ending(outcomes[-1], t, spec.max_steps) if outcomes else None
        if t < n:
            return [f"step {t} of {n}: the episode is {ending} here, the record goes on"]
        if abs(reward - trajectory.reward) > 1e-9:
            return [_difference("reward", trajectory.reward, reward)]
        if ending != (None if trajectory.ending == "overflow" else trajectory.ending):
            return [_difference("ending", trajectory.ending, ending)]
        return []
    finally:
        env.close()


def shortened(spec: EnvSpec, trajectory: Trajectory) -> Trajectory:
    """The same without steps that its end did not need: the environment could not carry them out, or they showed
    nothing new and what follows is still answered in the same words and with the same reward. From `start` on."""
    env = spec.make()
    env.reset(trajectory.task_id)
    outcomes, _ = retrace(env, trajectory.steps)
    env.close()

    def of(steps: list[Step]) -> Trajectory:
        return replace(trajectory, steps=tuple(steps), invalid=0)

    valid = [outcome.valid or t < trajectory.start for t, outcome in enumerate(outcomes)]
    steps = [step for step, kept in zip(trajectory.steps, valid, strict=False) if kept]
    if not steps or replay(spec, of(steps)):
        return trajectory
    at = trajectory.start
    while at < len(steps):
        seen = {step.observation for step in steps[:at]}
        new = next((t for t in range(at, len(steps)) if steps[t].observation not in seen), len(steps))
        # The longest stretch first.
        for end in range(new, at, -1):
            if not replay(spec, of(steps[:at] + steps[end:])):
                del steps[at:end]
                break
        at += 1
    return of(steps)


def values(spec: EnvSpec, prefixes: Sequence[Prefix]) -> dict[Prefix, float]:
    """The oracle's value of the state after each prefix, by replay. The environment has an oracle."""
    assert spec.oracle is not None
    found: dict[Prefix, float] = {}
    starts, env = _Starts(spec), spec.make()
    try:
        for index in _order([Job(prefix) for prefix in prefixes]):
            env.restore(starts.at(prefixes[index]).snapshot)
            found[prefixes[index]] = spec.oracle(env)
    finally:
        env.close()
        starts.env.close()
    return found


@dataclass(frozen=True)
class _Start:
    """A state that episodes are forked from."""

    first_observation: str
    snapshot: Any
    reward: float = 0.0
    ending: Ending | None = None


class _Starts:
    """The states of prefixes, by replay; what was replayed of the present problem before is not replayed again."""

    def __init__(self, spec: EnvSpec):
        self.env = spec.make()
        self._max_steps = spec.max_steps
        self._task_id = ""
        self._known: dict[tuple[Step, ...], _Start] = {}

    def at(self, prefix: Prefix) -> _Start:
        if prefix.task_id != self._task_id or not self._known:
            first = self.env.reset(prefix.task_id)
            self._task_id = prefix.task_id
            self._known.clear()
            self._known[()] = _Start(first, self.env.snapshot())
        n = len(prefix.steps)
        known = next(t for t in range(n, -1, -1) if prefix.steps[:t] in self._known)
        start = self._known[prefix.steps[:known]]
        if known < n:
            self.env.restore(start.snapshot)
        for t in range(known + 1, n + 1):
            where = f"{prefix.task_id}, step {t} of a prefix of {n}"
            if start.ending is not None:
                raise IprError(f"{where}: the episode is already {start.ending}; give a shorter prefix")
            (outcome,), different = retrace(self.env, prefix.steps[t - 1 : t])
            if different:
                told = _difference(where, *different)
                raise IprError(f"{told}; it was recorded in another version or data set of the environment")
            ending = _ending(outcome, t, self._max_steps)
            start = _Start(start.first_observation, self.env.snapshot(), outcome.reward, ending)
            self._known[prefix.steps[:t]] = start
        return start


class _Episode:
    """An episode that is being played."""

    def __init__(self, index: int, job: Job, env: Environment, prompt: tuple[Message, ...], start: _Start):
        self.index, self.job, self.env = index, job, env
        self.first_observation, self.reward = start.first_observation, start.reward
        self.steps = list(job.prefix.steps)
        self.invalid = 0
        self._conversation = [*prompt, *messages(start.first_observation, self.steps)]

    def prefix(self) -> Prefix:
        return Prefix(self.job.prefix.task_id, tuple(self.steps))

    def turn(self, max_steps: int) -> Turn:
        k = len(self.steps)
        return Turn(tuple(self._conversation), derive_seed(self.job.seed, k), self.index, last=k + 1 >= max_steps)

    def act(self, action: str) -> Outcome:
        with timed("environment"):
            outcome = self.env.step(action)
        self.steps.append(Step(action, outcome.observation))
        self._conversation += [Message("assistant", action), Message("user", outcome.observation)]
        self.reward = outcome.reward
        self.invalid += not outcome.valid
        return outcome

    def trajectory(self, policy: str, ending: Ending) -> Trajectory:
        return Trajectory(
            self.job.prefix.task_id,
            self.first_observation,
            tuple(self.steps),
            self.reward,
            ending,
            policy,
            self.job.seed,
            start=len(self.job.prefix.steps),
            invalid=self.invalid,
        )


def _order(jobs: Sequence[Job]) -> list[int]:
    """In which order jobs are started: those of a problem together, short prefixes first, equal prefixes together.

    So a prefix extends one whose state and key-values are still there.
    """
    tasks: dict[str, int] = {}
    prefixes: dict[Prefix, int] = {}
    for index, job in enumerate(jobs):
        tasks.setdefault(job.prefix.task_id, index)
        prefixes.setdefault(job.prefix, index)

    def key(index: int) -> tuple[int, int, int, int]:
        prefix = jobs[index].prefix
        return tasks[prefix.task_id], len(prefix.steps), prefixes[prefix], index

    return sorted(range(len(jobs)), key=key)


def _ending(outcome: Outcome, taken: int, max_steps: int) -> Ending | None:
    if outcome.terminated:
        return "terminated"
    return "truncated" if taken >= max_steps else None


def _difference(where: str, expected: object, got: object) -> str:
    return f"{where}: expected {expected!r}, got {got!r}"
