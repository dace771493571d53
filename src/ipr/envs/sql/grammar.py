"""Where MySQL 8 stops reading a statement, and what only the words tell that sqlglot's tree does not."""

from __future__ import annotations

from functools import cache

from ipr.envs.sql import dates, errors
from ipr.envs.sql.errors import MySqlError
from ipr.envs.sql.lexer import Word, words
from ipr.envs.sql.moments import clock
from ipr.envs.sql.recognise import Grammar
from ipr.envs.sql.rules import RULES


@cache
def _grammar() -> Grammar:
    return Grammar(RULES, "statement")


def read(statement: str, lenient: bool = False) -> list[Word]:
    """The words of a statement. Raises MySqlError at the first word that MySQL does not read on from.

    `lenient`: whatever query it is, as gold queries were written for SQLite.
    """
    found = words(statement)
    if lenient and found[0].text.upper() not in _READ_BY_WORDS:
        return found
    place = _grammar().stops([word.kinds for word in found])
    if place is not None:
        raise errors.syntax(statement, found[place].start)
    _check_dates(found)
    return found


_READ_BY_WORDS = ("SHOW", "DESC", "DESCRIBE", "EXPLAIN", "USE")
"""Statements of which `shows` takes the words as they come."""


def _check_dates(found: list[Word]) -> None:
    """DATE '2020-02-30' is refused, where a text that becomes a date would be NULL."""
    for k, word in enumerate(found[:-1]):
        name = next(iter(word.kinds & {"DATE", "TIME", "TIMESTAMP"}), None)
        if name is None or "TEXT" not in found[k + 1].kinds:
            continue
        text = found[k + 1].text[1:-1]
        moment = dates.moment(text)
        wrong = moment is None or moment.real is None or moment.timed != (name == "TIMESTAMP")
        if name == "TIME":
            wrong = clock(text) is None
        if wrong:
            raise MySqlError(f"Incorrect {'DATETIME' if name == 'TIMESTAMP' else name} value: '{text}'")
