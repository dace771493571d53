"""Every episode of a run, with the step rewards of its actions and the pairs that it went into.

What lies in many files is brought together here, for the report's viewer, the frames and MLflow's traces. Left out:
any figure. States are numbered (`States`), because prefixes as keys are hashed from their first step at every look-up.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from ipr import envs, store
from ipr.runs.run import Run, stage_name
from ipr.types import IprError, PreferencePair, Step, StepReward, Trajectory

Kind = Literal["expert", "explored", "evaluated"]
EXPERTS, TRAIN = "experts", "train"
"""The stage's and the split's name of what was not played in a stage, or not on a split of the evaluation."""


@dataclass(slots=True)
class Episode:
    """A trajectory and where it comes from."""

    stage: str
    """ "experts", "base", "sft" or "iteration-K"."""
    kind: Kind
    split: str
    """ "train" for experts and what was explored, else the split that was evaluated."""
    trajectory: Trajectory
    states: list[int] = field(repr=False)
    """The number of the state after each step; equal for equal problems and steps."""
    pairs: list[PreferencePair] = field(default_factory=list)
    """Those in which it is a side; of an expert's those of all iterations."""


@dataclass(frozen=True, slots=True)
class Scored:
    """A step reward and the stage that estimated it, from exploring (`kind`) or from evaluating."""

    stage: str
    kind: Kind
    reward: StepReward


class States:
    """Numbers states by problem and steps."""

    def __init__(self) -> None:
        self._known: dict[tuple[int | str, Step], int] = {}

    def of(self, task_id: str, steps: Iterable[Step]) -> list[int]:
        """The number after each step."""
        found: list[int] = []
        before: int | str = task_id
        for step in steps:
            before = self._known.setdefault((before, step), len(self._known))
            found.append(before)
        return found


class Episodes:
    """Those of a run's folder, complete or not."""

    def __init__(self, run: Run):
        self.run = run
        self.states = States()
        self.stages = [stage_name(k) for k in range(-1, run.config.algorithm.iterations + 1)]

    @cached_property
    def experts(self) -> dict[str, Episode]:
        """By problem."""
        path = self.run.folder / "experts.parquet"
        played = store.load(path, Trajectory) if path.exists() else []
        return {t.task_id: self._episode(EXPERTS, "expert", TRAIN, t) for t in played}

    @cached_property
    def all(self) -> list[Episode]:
        """Experts, then stage by stage what was explored and what was evaluated."""
        found = list(self.experts.values())
        for stage in self.stages:
            explored = self.run.folder / stage / "explored.parquet"
            if explored.exists():
                mine = [self._episode(stage, "explored", TRAIN, t) for t in store.load(explored, Trajectory)]
                self._with_pairs(stage, mine)
                found += mine
            for split in ("dev", *self.run.config.eval.splits):
                path = self.run.folder / stage / "eval" / f"{split}.parquet"
                if path.exists():
                    played = store.load(path, Trajectory)
                    found += [self._episode(stage, "evaluated", split, t) for t in played]
        return found

    @cached_property
    def scored(self) -> dict[int, list[Scored]]:
        """The step rewards of the action that led to a state, in the order of the stages."""
        found: dict[int, list[Scored]] = defaultdict(list)
        for one in self.every_score():
            prefix = one.reward.prefix
            found[self.states.of(prefix.task_id, prefix.steps)[-1]].append(one)
        return dict(found)

    def every_score(self) -> Iterator[Scored]:
        """All step rewards of the run. Those of an evaluation include what earlier ones had estimated."""
        places: list[tuple[Kind, str]] = [
            ("explored", "step_rewards.parquet"),
            ("evaluated", "eval/step_rewards.parquet"),
        ]
        for stage in self.stages:
            for kind, name in places:
                path = self.run.folder / stage / name
                if path.exists():
                    yield from (Scored(stage, kind, r) for r in store.load(path, StepReward))

    def pairs(self) -> Iterator[tuple[str, PreferencePair]]:
        """Stage and pair."""
        for stage in self.stages:
            path = self.run.folder / stage / "pairs.parquet"
            if path.exists():
                yield from ((stage, pair) for pair in store.load(path, PreferencePair))

    @cached_property
    def types(self) -> dict[str, str]:
        """The kind of every problem; empty where the environment or its data is not here any more."""
        config = self.run.config.env
        try:
            kind = envs.get(config.name, config.data, config.max_steps, server=config.server).task_type
            return {task_id: kind(task_id) for task_id in {e.trajectory.task_id for e in self.all}}
        except (IprError, LookupError, ValueError):
            return {}

    def _episode(self, stage: str, kind: Kind, split: str, played: Trajectory) -> Episode:
        return Episode(stage, kind, split, played, self.states.of(played.task_id, played.steps))

    def _with_pairs(self, stage: str, explored: Sequence[Episode]) -> None:
        """Gives each pair of a stage to its two sides."""
        path = self.run.folder / stage / "pairs.parquet"
        if not path.exists():
            return
        by_words: dict[tuple[str, int, tuple], list[PreferencePair]] = defaultdict(list)
        for pair in store.load(path, PreferencePair):
            agents = pair.rejected if pair.winner == "expert" else pair.chosen
            by_words[pair.task_id, pair.t, agents].append(pair)
            if pair.task_id in self.experts:
                self.experts[pair.task_id].pairs.append(pair)
        for episode in explored:
            played = episode.trajectory
            episode.pairs = by_words.get((played.task_id, played.start, tuple(played.continuation(played.start))), [])
