"""The household as an `Environment`: episodes of a game, one raw answer of the model at a time."""

from __future__ import annotations

from typing import Protocol

from ipr.envs.alfworld.engine import NOTHING, Game
from ipr.envs.alfworld.oracle import steps_to_goal
from ipr.envs.react import action_of, one_line
from ipr.types import IprError, Outcome


class Games(Protocol):
    """What there is to play: the module `games` (generated), or a `real.Folder`."""

    def task_ids(self, split: str) -> list[str]: ...

    def game(self, task_id: str) -> Game: ...

    def task_type(self, task_id: str) -> str: ...


Snapshot = tuple[str, int, bool]
"""Task id, state, whether a step was taken."""


class Household:
    """One episode's world (see `ipr.types.Environment`)."""

    def __init__(self, games: Games) -> None:
        self._games = games
        self._task_id = ""

    def reset(self, task_id: str) -> str:
        self.restore((task_id, self._games.game(task_id).start, False))
        return self._game.first

    def step(self, action: str) -> Outcome:
        """Plays a turn in ReAct form; one without an action is answered like an impossible one."""
        command = action_of(action)
        return self.command("" if command is None else one_line(command))

    def command(self, text: str) -> Outcome:
        """Plays a bare command. After the end of the episode nothing happens any more."""
        if not self._task_id:
            raise IprError("alfworld: reset(task_id) comes before the first step")
        answer = None
        if not (self._begun and self._game.won(self._state)):
            self._state, answer = self._game.play(self._state, text)
            self._begun = True
        won = self._game.won(self._state)
        return Outcome(NOTHING if answer is None else answer, float(won), won, valid=answer is not None)

    def snapshot(self) -> Snapshot:
        return self._task_id, self._state, self._begun

    def restore(self, state: Snapshot) -> None:
        task_id, self._state, self._begun = state
        if task_id != self._task_id:
            self._game = self._games.game(task_id)
            self._task_id = task_id

    def close(self) -> None:
        self._task_id = ""

    def admissible(self) -> list[str]:
        """The commands possible now, as the stock engine lists them."""
        return self._game.admissible(self._state)

    def steps_to_goal(self) -> float:
        """Fewest steps to the goal from here, by one who knows where everything is."""
        return steps_to_goal(self._game, self._state)
