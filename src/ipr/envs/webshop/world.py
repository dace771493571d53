"""The shop as an `Environment`: episodes of a goal, one raw answer of the model at a time."""

from __future__ import annotations

from typing import Protocol

from ipr.envs.react import action_of
from ipr.envs.webshop.catalogue import Catalogue
from ipr.envs.webshop.goods import Goal
from ipr.envs.webshop.oracle import page_score
from ipr.envs.webshop.pages import START, State, act, buttons, parse, text
from ipr.envs.webshop.reward import score
from ipr.types import IprError, Outcome


class Goals(Protocol):
    """What there is to play: the module `generate`, or a `real.Folder`."""

    def task_ids(self, split: str) -> list[str]: ...

    def goal(self, task_id: str) -> Goal: ...

    def task_type(self, task_id: str) -> str: ...

    def catalogue(self) -> Catalogue: ...


Snapshot = tuple[str, State]
"""Task id, state."""


class Shop:
    """One episode's world (see `ipr.types.Environment`)."""

    def __init__(self, goals: Goals, *, attributes: bool = False) -> None:
        """`attributes` shows the Attributes sub-page."""
        self._goals = goals
        self._attributes = attributes
        self._task_id = ""

    def reset(self, task_id: str) -> str:
        self.restore((task_id, START))
        return text(self._catalogue, self._goal, START)

    def step(self, action: str) -> Outcome:
        """Plays a turn in ReAct form; one without an action is answered like an impossible one."""
        command = action_of(action)
        return self.command("" if command is None else command)

    def command(self, command: str) -> Outcome:
        """Plays a bare `search[...]` or `click[...]`. What is not possible leaves the page as it is; after the end of
        the episode nothing happens any more."""
        if not self._task_id:
            raise IprError("webshop: reset(task_id) comes before the first step")
        after = None
        if not self.over():
            after = act(self._catalogue, self._state, *parse(command), self._attributes)
            self._state = after or self._state
        reward = self._reward() if self.over() else 0.0
        page = text(self._catalogue, self._goal, self._state, reward, self._attributes)
        return Outcome(page, reward, self.over(), valid=after is not None)

    def _reward(self) -> float:
        product = self._catalogue.product(self._state.row)
        return score(product, self._goal, dict(self._state.chosen)).reward

    def over(self) -> bool:
        return self._state.page == "done"

    def snapshot(self) -> Snapshot:
        return self._task_id, self._state

    def restore(self, state: Snapshot) -> None:
        task_id = state[0]
        if task_id != self._task_id or not task_id:
            self._goal = self._goals.goal(task_id)
            self._catalogue = self._goals.catalogue()
        self._task_id, self._state = state

    def close(self) -> None:
        self._task_id = ""

    def clickable(self) -> list[str]:
        """What can be clicked now, in lower case, as the original lists it."""
        return list(buttons(self._catalogue, self._state, self._attributes))

    def page_score(self) -> float:
        """The value of the present page (see `oracle`)."""
        return page_score(self._catalogue, self._goal, self._state)
