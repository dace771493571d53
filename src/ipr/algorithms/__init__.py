"""A method is three pure functions around the rollout engine, and the name of a loss. Methods import only `ipr.types`.

To add one: a module with a class like these, and a line in `make`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from ipr.types import Demonstration, PreferencePair, Prefix, StepReward, Trajectory


class Settings(Protocol):
    """The knobs a method may read (`ipr.config.AlgorithmConfig`, where they are explained)."""

    @property
    def name(self) -> str: ...
    @property
    def tau(self) -> float: ...
    @property
    def outcome_margin(self) -> float: ...
    @property
    def confidence(self) -> float: ...
    @property
    def agent_wins(self) -> bool: ...
    @property
    def gate(self) -> bool: ...
    @property
    def skip_equal(self) -> bool: ...


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
    saved: dict[str, int] = field(default_factory=dict)
    """Contrasts that were left out because they cannot become a pair, by reason ("gated", "equal")."""

    @property
    def prefixes(self) -> list[Prefix]:
        """Every action whose step reward is needed, once."""
        return list(dict.fromkeys(p for c in self.contrasts for p in (c.ahead, c.behind)))


@dataclass
class Examples:
    """What `Algorithm.examples` returns: training rows, and how many candidates were dropped, by reason."""

    pairs: list[PreferencePair] = field(default_factory=list)
    demonstrations: list[Demonstration] = field(default_factory=list)
    dropped: dict[str, int] = field(default_factory=dict)

    def drop(self, reason: str) -> None:
        self.dropped[reason] = self.dropped.get(reason, 0) + 1


class Algorithm(Protocol):
    loss: Literal["preference", "sft"]

    def explore(self, experts: Sequence[Trajectory]) -> list[Prefix]:
        """Prefixes from which the agent plays to the end."""
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


def make(settings: Settings) -> Algorithm:
    """The method of that name (one of `AlgorithmConfig.name`)."""
    from ipr.algorithms.eto import ETO
    from ipr.algorithms.ipr import IPR
    from ipr.algorithms.rft import RFT

    return {"ipr": IPR, "eto": ETO, "rft": RFT}[settings.name](settings)
