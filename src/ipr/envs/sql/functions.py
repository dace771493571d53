"""The functions that an agent's statement may call.

Decided here: a list of what is allowed, so that nothing new in SQLite slips in; each gives the same whenever it is
called, so no random(), and of dates none that asks for the present time or the time zone. MySQL's functions that SQLite
lacks and that cost nothing are here too. Left out: regular expressions, which can take for ever, and printf.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from functools import lru_cache
from typing import Any

MAX_LENGTH = 100_000
"""Bytes of a text."""
_SQLITE = """
    abs avg ceil ceiling char coalesce count cume_dist degrees dense_rank exp first_value floor glob group_concat hex
    ifnull iif lag last_value lead length like ln log log10 log2 lower ltrim max min mod nth_value ntile nullif
    percent_rank pi pow power quote radians rank round row_number rtrim sign sqrt substr substring sum total
    trim trunc typeof unicode upper acos asin atan atan2 cos sin tan likely unlikely likelihood
"""


@lru_cache(maxsize=1)
def _dates() -> sqlite3.Connection:
    return sqlite3.connect(":memory:", check_same_thread=False)


def _date_function(name: str) -> Callable[..., Any]:
    """SQLite's own date function, of given dates only."""

    def function(*arguments: Any) -> Any:
        texts = [str(a).strip().lower() for a in arguments]
        if len(texts) <= (name == "strftime") or any(t in ("now", "localtime", "utc") for t in texts):
            raise ValueError("the present time is not to be had here")
        marks = ", ".join("?" * len(arguments))
        return _dates().execute(f"SELECT {name}({marks})", arguments).fetchone()[0]

    return function


def _part(form: str) -> Callable[[Any], Any]:
    strftime = _date_function("strftime")

    def function(date: Any) -> Any:
        found = strftime(form, date)
        return None if found is None else int(found)

    return function


def _left(text: Any, n: Any) -> Any:
    return None if text is None or n is None else str(text)[: max(0, int(n))]


def _right(text: Any, n: Any) -> Any:
    return None if text is None or n is None else str(text)[-int(n) :] if int(n) > 0 else ""


def _concat_ws(mark: Any, *parts: Any) -> Any:
    return None if mark is None else str(mark).join(str(p) for p in parts if p is not None)


def _text(value: Any) -> str:
    """A value as SQLite casts it to text."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, float):
        return _dates().execute("SELECT CAST(? AS TEXT)", (value,)).fetchone()[0]
    return str(value)


def _instr(text: Any, part: Any) -> int | None:
    """As SQLite's, in linear time: its own compares letter by letter, so that a hundred in a row on 100 kB, between
    which it never looks at the clock, take 4 s."""
    if text is None or part is None:
        return None
    if isinstance(text, bytes) and isinstance(part, bytes):
        return text.find(part) + 1
    return _text(text).find(_text(part)) + 1


def _replace(text: Any, old: Any, new: Any) -> Any:
    """As `_instr`. Raises OverflowError, SQLite's "string or blob too big", before it makes a result that is."""
    if text is None or old is None:
        return None
    if not _text(old):
        return _text(text) if isinstance(text, bytes) else text
    if new is None:
        return None
    text, old, new = _text(text), _text(old), _text(new)
    if len(text) + text.count(old) * (len(new) - len(old)) > MAX_LENGTH:
        raise OverflowError
    return text.replace(old, new)


FUNCTIONS: dict[str, tuple[int, Callable[..., Any]]] = {
    **{name: (-1, _date_function(name)) for name in ("date", "time", "datetime", "julianday", "strftime")},
    "year": (1, _part("%Y")),
    "month": (1, _part("%m")),
    "day": (1, _part("%d")),
    "text_left": (2, _left),
    "text_right": (2, _right),
    "concat_ws": (-1, _concat_ws),
    "instr": (2, _instr),
    "replace": (3, _replace),
    "reverse": (1, lambda text: None if text is None else str(text)[::-1]),
}
"""Name -> number of arguments (-1: any), and the function, which replaces SQLite's of that name."""

ALLOWED = frozenset(_SQLITE.split()) | FUNCTIONS.keys()
