"""A question and its database as an `Environment`: one raw answer of the model at a time.

Decided here: an action is a whole ```sql block, a bare statement, or `submit` as an action of its own; a turn without
an action runs nothing and leaves the last result as it was. The reward comes with `submit`: the last statement's rows,
all of them, against the gold rows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from ipr.envs.react import action_of, one_line
from ipr.envs.sql.engine import Database, Result, Session
from ipr.envs.sql.prompt import HELP
from ipr.envs.sql.reward import reward
from ipr.types import IprError, Outcome


@dataclass(frozen=True, slots=True)
class Question:
    """A problem."""

    database: str
    text: str
    gold: str
    """The query whose rows are the answer."""
    hardness: str
    """"easy", "medium", "hard" or "extra", as Spider grades; "" where it is not known."""
    where: str = ""
    """The file, or the generated pool, that it comes from."""


class Questions(Protocol):
    """What there is to play: the module `questions` (generated), or a `real.Folder`."""

    def task_ids(self, split: str) -> list[str]: ...

    def question(self, task_id: str) -> Question: ...

    def database(self, question: Question) -> Database: ...

    def deciding(self) -> Mapping[str, Any]:
        """See `EnvSpec.deciding`."""
        ...

    def session(self, question: Question) -> Session:
        """A connection of an episode's own, or what is as good."""
        ...


Snapshot = tuple[str, str | None, bool]
"""Task id, the statement whose result stands (None: none yet), whether it was submitted."""

SUBMIT = "submit"
_BLOCK = re.compile(r"```[ \t]*(?:(?:my)?sql(?:ite)?\b)?(.*?)(?:```|$)", re.DOTALL | re.IGNORECASE)
_BARE = re.compile(
    r"\(*\s*(?:select|with|show|desc|describe|explain|values|insert|update|delete|replace|create|drop|alter|truncate|set|use)"
    r"\b",
    re.IGNORECASE,
)


def read(turn: str) -> str | None:
    """The statement of a turn, or "submit"; None where there is neither."""
    action = action_of(turn)
    if action is None:
        return None
    if block := _BLOCK.search(action):
        inside = block[1].strip()
        return SUBMIT if one_line(inside) == SUBMIT else inside or None
    if one_line(action) == SUBMIT:
        return SUBMIT
    return action if _BARE.match(action) else None


def as_published(turn: str) -> str:
    """A turn as InterCode's published wrapper ran it: a block's first line alone, and "submit" wherever it stands."""
    action = action_of(turn)
    if action is None:
        return turn
    head, block = turn[: turn.rindex(action)], _BLOCK.search(action)
    if SUBMIT in action.lower():
        return head + SUBMIT
    lines = block[1].strip().splitlines() if block else []
    return f"{head}```sql\n{lines[0]}\n```" if len(lines) > 1 else turn


class Console:
    """One episode's world (see `ipr.types.Environment`)."""

    def __init__(self, questions: Questions) -> None:
        self._questions = questions
        self._session: Session | None = None
        self._task_id = ""

    def reset(self, task_id: str) -> str:
        self.restore((task_id, None, False))
        return f"Question: {self._question.text}"

    def step(self, action: str) -> Outcome:
        """Plays a turn in ReAct form. After the end of the episode nothing is run any more."""
        if not self._task_id:
            raise IprError("sql: reset(task_id) comes before the first step")
        statement = None if self._submitted else read(action)
        text, valid = HELP, False
        if self._submitted:
            text = self._last_text()
        elif statement == SUBMIT:
            self._submitted, text, valid = True, self._last_text(), True
        elif statement is not None:
            result = self._run(statement)
            self._last, text, valid = statement, result.text, result.kind == "rows"
        earned = self.value() if self._submitted else 0.0
        return Outcome(text, earned, self._submitted, valid=valid)

    def value(self) -> float:
        """What submitting the last result now brings, or has brought."""
        return 0.0 if self._last is None else reward(self._run(self._last).rows, self._gold)

    def result(self) -> Result | None:
        """The result that stands."""
        return None if self._last is None else self._run(self._last)

    def _run(self, statement: str, lenient: bool = False) -> Result:
        assert self._session is not None
        return self._session.run(statement, lenient)

    def _last_text(self) -> str:
        return "None" if self._last is None else self._run(self._last).text

    def snapshot(self) -> Snapshot:
        return self._task_id, self._last, self._submitted

    def restore(self, state: Snapshot) -> None:
        task_id, last, submitted = state
        if task_id != self._task_id:
            self.close()  # until all of it is there
            self._question = self._questions.question(task_id)
            self._session = self._questions.session(self._question)
            self._gold = self._gold_rows(task_id)
            self._task_id = task_id
        self._last, self._submitted = last, submitted

    def _gold_rows(self, task_id: str) -> tuple[tuple[object, ...], ...]:
        """The gold query's rows; where MySQL 8 refuses it, as SQLite gives them, for which Spider wrote it."""
        result = self._run(self._question.gold)
        if result.rows is None:
            result = self._run(self._question.gold, lenient=True)
        if result.rows is None:
            where = self._question.where or "sql"
            raise IprError(f"{where}: the gold query of {task_id} fails ({result.text.strip()}); correct or remove it")
        return result.rows

    def close(self) -> None:
        self._task_id = ""
        if self._session is not None:
            self._session.close()
            self._session = None
