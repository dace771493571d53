"""When two observations tell the same, though another engine or another hand wrote one of them.

Decided here: articles, commas, blanks and case say nothing. A result set is its rows, in any order, with numbers as
numbers (Decimal('5'), 5.0 and '5' are one) to six figures and dates as text; of a table's description the columns'
names count, of rows that were cut the number of columns, of an error that it is one. Left out: what a text means.
"""

from __future__ import annotations

import ast
import re
from collections import Counter

_SILENT = re.compile(r"\b(?:an?|the)\s+|[\s,]+", re.IGNORECASE)
_ERROR = re.compile(r"[\w.]*error\b|\(\d{4}, ", re.IGNORECASE)
"""As wrappers print MySQL's: "Error executing query: ...", "ProgrammingError: ...", "(1054, ...)"."""
_CALL = re.compile(r"(?:datetime\.)?(Decimal|date|datetime|timedelta)\(([^()]*)\)")
_CUT = "..."
_DESCRIPTION = 6
"""Columns of what DESC prints; the third says whether a column may be NULL."""


def bare(text: str) -> str:
    """A text without what says nothing."""
    return _SILENT.sub("", text).casefold()


def alike(one: str, other: str) -> bool:
    if bare(one) == bare(other) or (_ERROR.match(one) and _ERROR.match(other)):
        return True
    rows, others = _rows(one), _rows(other)
    if not rows or not others or {*map(len, rows)} != {*map(len, others)}:
        return False
    if one.endswith(_CUT) or other.endswith(_CUT):
        return True
    if all(len(row) == _DESCRIPTION and row[2] in ("yes", "no") for row in rows + others):
        return [row[0] for row in rows] == [row[0] for row in others]
    return Counter(rows) == Counter(others)


def _rows(text: str) -> list[tuple[str, ...]] | None:
    """The rows of a printed result set, without the one that is cut; None where the text is none."""
    if not text.startswith("[("):
        return None
    if text.endswith(_CUT):
        text = f"{text[: text.rfind('), (')]})]" if "), (" in text else ""
    try:
        rows = ast.literal_eval(_CALL.sub(_plain_call, text))
        return [tuple(map(_cell, row)) for row in rows]
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return None


def _plain_call(found: re.Match[str]) -> str:
    """Decimal('5.0') as '5.0', datetime.date(2018, 3, 14) as '2018-03-14'."""
    kind, inside = found.groups()
    parts = inside.split(",")
    if kind not in ("date", "datetime") or not all(part.strip().isdigit() for part in parts):
        return inside if kind == "Decimal" else repr(inside)
    numbers = [f"{int(part):02}" for part in parts]
    day, time = "-".join(numbers[:3]), ":".join([*numbers[3:], "00", "00", "00"][:3])
    return repr(day if kind == "date" else f"{day} {time}")


def _cell(value: object) -> str:
    text = str(value).rstrip().casefold()
    try:
        return f"{float(text):.6g}"
    except ValueError:
        return text
