"""Terms as what functions take: dates, times of day, bits and bytes."""

from __future__ import annotations

from ipr.envs.sql import dates
from ipr.envs.sql.errors import NotExactError
from ipr.envs.sql.kinds import BIN, INT
from ipr.envs.sql.terms import DIGITS, Term, as_integer, as_number, as_text, plain

NOW, TODAY, CLOCK = f"{dates.NOW}", f"{dates.NOW:%Y-%m-%d}", f"{dates.NOW:%H:%M:%S}"


def dated(term: Term) -> str:
    """As what a date is read from; a time of day is one of today."""
    if term.kind.year:
        raise NotExactError("A YEAR as a date")
    if term.kind.name == "time":
        return f"('{TODAY} ' || {term.sql})"
    return term.sql if term.text or term.kind.temporal or term.kind.name == "null" else as_number(term)


def clocked(term: Term) -> str:
    """As what a time of day is read from."""
    if term.kind.name == "date":
        return f"({term.sql} || ' 00:00:00')"
    return term.sql if term.kind.name == "time" else dated(term)


def counted(term: Term) -> Term:
    """What arithmetic takes: 0x4B is a number there."""
    if term.kind.name == "bin" and isinstance(term.literal, int):
        return Term(str(term.literal), INT, DIGITS, term.literal)
    return term


def as_shown(term: Term) -> str:
    """A number with no more decimals than it is shown with."""
    number = as_number(term)
    return f"cut_exact({number}, {term.kind.scale})" if term.kind.number and term.kind.scale is not None else number


def word(term: Term) -> str:
    """An operand of bits: 64 of them."""
    term = counted(term)
    if term.kind.name == "bin":
        raise NotExactError("An operator of bits on a binary string")
    return "NULL" if term.kind.name == "null" else signed(term) if not term.kind.unsigned else term.exact or term.sql


def binary(term: Term) -> Term:
    """A text as its bytes."""
    if term.kind.name == "bin":
        return term
    text = f"CAST({as_text(term)} AS BLOB)"
    return Term("NULL" if term.kind.name == "null" else text, BIN, literal=term.literal, loose=term.loose, binary=True)


def signed(term: Term) -> str:
    """CAST(... AS SIGNED): of text what it begins with, of decimals half away from zero."""
    term = counted(term)
    if term.text and not term.kind.members:
        return f"text_integer({plain(term)})"
    return as_integer(term)
