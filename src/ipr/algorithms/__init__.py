"""A method: three pure functions around the rollout engine, and how it trains. Methods import only `ipr.types`.

A method is a dataclass. Its fields are the knobs that it reads, by their names in `ipr.config.AlgorithmConfig`, where
they are explained. To add one: a module here that calls its class `method`, and a line in `_BUILT_IN`; or a module in a
package of yours, named by an entry point of the group `ipr.methods` (CONTRIBUTING.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from importlib import import_module
from typing import Any, ClassVar, Literal, Protocol

from ipr.types import Demonstration, PreferencePair, Prefix, StepReward, Trajectory, plugged

_BUILT_IN = {
    "best": "ipr.algorithms.best",
    "eto": "ipr.algorithms.eto",
    "ipr": "ipr.algorithms.ipr",
    "ppo": "ipr.algorithms.ppo",
    "raft": "ipr.algorithms.raft",
    "rft": "ipr.algorithms.rft",
    "rloo": "ipr.algorithms.rloo",
    "sft": "ipr.algorithms.sft",
    "step-ppo": "ipr.algorithms.step_ppo",
    "step-rloo": "ipr.algorithms.step_rloo",
}
"""Method -> the module whose `method` it is."""
OF_PAIRS = ("beta", "outcome_dpo", "step_dpo", "sft", "sft_on")
"""Knobs of the training that only losses on pairs read."""
OF_IMITATION = ("observation_weight", "temperature")
"""Those that only the loss `sft` reads."""
_EXPLORING = ("draws", "explore_temperature", "success")
"""Knobs that exploring reads for every method, also where a method reads them itself."""
Scores = Literal[False, True, "turns"]
"""Step rewards: none, of two actions an episode (the expert's and the agent's), or of the state at every turn."""


@dataclass(frozen=True)
class Training:
    """How the next agent is made of a method's examples."""

    loss: str
    """A name of `ipr.training.losses`, which says too whether it is on pairs or on demonstrations."""
    start: Literal["base", "agent"]
    """From which weights: the base model's, or those of the agent of the iteration before."""
    section: Literal["sft", "train"]
    """Of the config: its knobs are those of this training."""
    ignores: tuple[str, ...] = ()
    """Knobs of that section that have no effect here; whoever sets one is told."""


@dataclass(frozen=True)
class Contrast:
    """Two actions after the same history whose step rewards are to be compared, with the action up to and with which
    the prefix goes: is r_s(ahead) - r_s(behind) above tau?"""

    ahead: Prefix
    """The one whose trajectory has the better outcome (the expert's where they are equal)."""
    behind: Prefix


@dataclass
class Wanted:
    """What `Algorithm.score` returns."""

    contrasts: list[Contrast] = field(default_factory=list)
    values: list[Prefix] = field(default_factory=list)
    """Actions whose step reward is needed for itself, so by all N samples; a prefix without steps asks for the value of
    the start. A method has contrasts or values, not both."""
    saved: dict[str, int] = field(default_factory=dict)
    """Contrasts that were left out because they cannot become a pair, by reason ("gated", "equal")."""

    @property
    def prefixes(self) -> list[Prefix]:
        """Every action whose step reward is needed, once."""
        compared = (p for c in self.contrasts for p in (c.ahead, c.behind))
        return list(dict.fromkeys([*compared, *self.values]))


@dataclass
class Examples:
    """What `Algorithm.examples` returns: training rows, and how many candidates were dropped, by reason."""

    pairs: list[PreferencePair] = field(default_factory=list)
    demonstrations: list[Demonstration] = field(default_factory=list)
    dropped: dict[str, int] = field(default_factory=dict)

    def drop(self, reason: str) -> None:
        self.dropped[reason] = self.dropped.get(reason, 0) + 1


class Algorithm(Protocol):
    training: ClassVar[Training]
    scores: ClassVar[Scores]
    """Whether `score` asks for step rewards, and of what in an explored episode: what they cost is planned by it."""
    shortens: ClassVar[bool]
    """Whether `examples` is given what was explored without the stretches that its end did not need."""

    def explore(self, experts: Sequence[Trajectory], problems: Sequence[str]) -> list[Prefix]:
        """Prefixes from which the agent plays to the end, each as often as it is named; `problems` are train problems
        without an expert, new in each iteration while there are some."""
        ...

    def score(self, experts: Sequence[Trajectory], explored: Sequence[Trajectory]) -> Wanted:
        """Which step rewards are needed."""
        ...

    def examples(
        self,
        experts: Sequence[Trajectory],
        explored: Sequence[Trajectory],
        rewards: Mapping[Prefix, StepReward],
    ) -> Examples:
        """Training rows from what was explored and scored."""
        ...


def get(name: str) -> Any:
    """The class of a method: one of ours, else of an installed package. Raises IprError, in one line."""
    if name in _BUILT_IN:
        return import_module(_BUILT_IN[name]).method
    return plugged("method", name, _BUILT_IN)


def make(settings: Any) -> Algorithm:
    """The method that `settings` (`ipr.config.AlgorithmConfig`) name, with the knobs that it reads."""
    method = get(settings.name)
    return method(**{knob: getattr(settings, knob) for knob in _knobs(method)})


def ignores(name: str, key: str) -> bool:
    """Whether a key of the config, e.g. "train.beta", has no effect with the method `name` and has with others."""
    method = get(name)
    section, _, knob = key.partition(".")
    if section == "train":
        return method.training.section != "train" or knob in method.training.ignores
    others = (get(other) for other in _BUILT_IN)
    mine = (*_knobs(method), *_EXPLORING)
    return section == "algorithm" and knob not in mine and any(knob in _knobs(other) for other in others)


def _knobs(method: Any) -> list[str]:
    return [f.name for f in fields(method)]
