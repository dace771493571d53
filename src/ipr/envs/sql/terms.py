"""A compiled expression: SQLite's words, MySQL's type, and how MySQL compares it with another one.

The rules are those of https://dev.mysql.com/doc/refman/8.0/en/type-conversion.html: two texts by collation, numbers as
numbers, a text beside a number as a double, a constant beside a date as a date. Where both texts are known to be plain
ASCII, SQLite's NOCASE is the collation and can use an index; else their keys are compared (`collation.key`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from ipr.envs.sql import collation, dates, errors
from ipr.envs.sql.errors import MySqlError, NotExactError
from ipr.envs.sql.kinds import DATETIME, INT, NULL, STR, Kind, dec
from ipr.envs.sql.names import Field, Letters


@dataclass(slots=True)
class Term:
    """An expression."""

    sql: str
    kind: Kind
    letters: Letters = None
    literal: Any = None
    """The value, where the statement spells it out."""
    loose: tuple[Field, ...] = ()
    """The columns in it that stand outside of aggregate functions."""
    binary: bool = False
    """Whether its texts are compared letter by letter."""
    parts: tuple[Term, ...] = ()
    """The columns of a row, where it is one."""
    field: Field | None = field(default=None, repr=False)
    """The column that it is, where it is nothing but one."""
    exact: str = ""
    """For what is printed: a decimal with all its digits, as text (`sql` has the 15 of a double), or an unsigned number
    in 64 bits."""
    one: bool = False
    """Whether it is one of aggregates, or of nothing: the same in all rows."""
    own: str = ""
    """For a decimal that is one of several values: its text with that value's own decimals (see `choice`)."""

    @property
    def text(self) -> bool:
        return self.kind.name in ("str", "bin")


def loose(*terms: Term) -> tuple[Field, ...]:
    if not any(t.loose for t in terms):
        return ()
    return tuple(dict.fromkeys(f for t in terms for f in t.loose))


def quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def constant(text: str) -> Term:
    letters = frozenset(text)
    return Term(quoted(text), STR, letters if letters <= collation.PLAIN else None, text)


# As another type ----------------------------------------------------------------------------------------------------


def as_text(term: Term) -> str:
    if term.own:
        return term.own
    match term.kind.name:
        case "int":
            return f"CAST({term.sql} AS TEXT)"
        case "dec" | "dbl":
            return f"text_of({term.sql}, {'NULL' if term.kind.scale is None else term.kind.scale})"
        case "flt":
            return f"text_of_float({term.sql}, {'NULL' if term.kind.scale is None else term.kind.scale})"
        case "bin":
            raise NotExactError("A binary string as text")
    return term.sql


def as_number(term: Term) -> str:
    """As a number of SQLite: text by what it begins with, dates by their digits."""
    match term.kind.name:
        case "bin" if isinstance(term.literal, int):
            return str(term.literal)
        case "str" if term.kind.members:
            return _member_number(term)
        case "str" | "bin":
            if isinstance(term.literal, str):
                return repr(dates.number(term.literal))
            return f"num({term.sql})"
        case "date" | "dt" | "time":
            return f"date_num({term.sql})"
        case "flt":
            return f"single({term.sql})"
    return term.sql


def _member_number(term: Term) -> str:
    """The number of an ENUM's value, from 1 in the order of the declaration, 0 for none of them; a SET's bits."""
    if term.kind.several:
        within = [f"(find_in_set({quoted(m)}, {term.sql}) > 0)" for m in term.kind.members]
        return f"({' + '.join(f'{w} * {1 << k}' for k, w in enumerate(within))})"
    whens = " ".join(f"WHEN {quoted(m)} THEN {k}" for k, m in enumerate(term.kind.members, 1))
    return f"(CASE WHEN {term.sql} IS NULL THEN NULL ELSE CASE {term.sql} COLLATE NOCASE {whens} ELSE 0 END END)"


def as_integer(term: Term) -> str:
    if term.kind.name == "int":
        return term.sql
    word = "double_integer" if term.kind.name in ("dbl", "flt") else "to_integer"
    return f"{word}({as_number(term)})"


def truth(term: Term) -> str:
    return term.sql if term.kind.exact or term.kind.name in ("dbl", "null") else as_number(term)


def exactly(sign: str, a: Term, b: Term) -> str:
    """A decimal computed from two numbers with all the digits that MySQL keeps between two operations."""
    sides = [t.exact if t.exact and t.kind.name == "dec" else as_number(t) for t in (a, b)]
    return f"exact('{sign}', {sides[0]}, {sides[1]}, {a.kind.decimals or 0}, {b.kind.decimals or 0})"


def kept(places: int) -> int:
    """Decimals that MySQL keeps of a decimal in memory, nine to a word."""
    return 9 * max(1, -(-places // 9))


def plain(term: Term) -> str:
    """As text, where binary strings are compared as such."""
    return f"CAST({term.sql} AS TEXT)" if term.kind.name == "bin" else as_text(term)


# Comparing ----------------------------------------------------------------------------------------------------------


def pair(a: Term, b: Term, equal: bool) -> tuple[str, str]:
    """Both sides so that SQLite's comparison is MySQL's; `equal`: whether only equality is asked for."""
    if "null" in (a.kind.name, b.kind.name):
        return a.sql, b.sql
    if a.kind.temporal or b.kind.temporal:
        return _dates(a, b)
    if a.text and b.text:
        return _texts(a, b, equal)
    return as_number(a), as_number(b)


def _texts(a: Term, b: Term, equal: bool) -> tuple[str, str]:
    if a.binary or b.binary:
        return f"{plain(a)} COLLATE BINARY", plain(b)
    if a.letters is not None and b.letters is not None and (equal or collation.ordered(a.letters | b.letters)):
        return f"{a.sql} COLLATE NOCASE", b.sql
    if a.literal is None and b.literal is None:
        return f"{a.sql} COLLATE mysql", b.sql
    return text_key(a), text_key(b)


def text_key(term: Term) -> str:
    if isinstance(term.literal, str):
        return quoted(collation.key(term.literal))
    return f"text_key({term.sql})"


def _dates(a: Term, b: Term) -> tuple[str, str]:
    if b.kind.temporal and a.kind.number:
        right, left = _dates(b, a)
        return left, right
    if b.kind.number:
        if isinstance(b.literal, int) and a.kind.name != "time" and is_date(b.literal):
            return _with_time(a), quoted(dates.moment(b.literal).text(True))  # type: ignore[union-attr]
        return as_number(a), as_number(b)
    if "time" in (a.kind.name, b.kind.name):
        if a.kind.name == b.kind.name:
            return a.sql, b.sql
        raise NotExactError("A time beside a date or a text")
    if a.kind.temporal and b.kind.temporal:
        if a.kind.name == b.kind.name:
            return a.sql, b.sql
        return _with_time(a), _with_time(b)
    if b.kind.temporal:
        right, left = _dates(b, a)
        return left, right
    if not isinstance(b.literal, str):
        return _with_time(a), f"compared_date({plain(b)})"
    found = dates.moment(b.literal)
    if found is None or found.real is None:
        word = "DATE" if a.kind.name == "date" else "DATETIME"
        raise MySqlError(f"Incorrect {word} value: '{b.literal}'")
    if a.kind.name == "date" and found.timed:
        return _with_time(a), quoted(found.text(True))
    return a.sql, quoted(found.text(a.kind.name == "dt"))


def is_date(value: str | int) -> bool:
    found = dates.moment(value)
    return found is not None and found.real is not None


def _with_time(term: Term) -> str:
    return term.sql if term.kind.name == "dt" else f"({term.sql} || ' 00:00:00')"


def group_key(term: Term) -> str:
    """Equal where MySQL's GROUP BY and DISTINCT see one value."""
    if term.kind.name != "str" or term.binary:
        return term.sql
    return f"{term.sql} COLLATE NOCASE" if term.letters is not None else f"text_key({term.sql})"


def order_key(term: Term) -> str:
    """In MySQL's order."""
    if term.kind.members:
        return _member_number(term)
    if term.kind.name != "str" or term.binary:
        return term.sql
    if term.letters is not None and collation.ordered(term.letters):
        return f"{term.sql} COLLATE NOCASE"
    return text_key(term)


def _fixed(a: Term, b: Term) -> int | None:
    """The decimals up to which two numbers are compared, where one is a double and both are shown with some."""
    if not a.kind.number or not b.kind.number or not {a.kind.name, b.kind.name} & {"dbl", "flt"}:
        return None
    if a.kind.decimals is None or b.kind.decimals is None:
        return None
    return max(a.kind.decimals, b.kind.decimals)


def compared(a: Term, sign: str, b: Term) -> Term:
    if a.parts or b.parts:
        if len(a.parts) != len(b.parts):
            raise errors.operand(max(1, len(a.parts)))
        if sign in ("<", "<=", ">", ">="):
            return _before(list(zip(a.parts, b.parts, strict=True)), sign)
        each = [compared(x, "=" if sign == "<>" else sign, y).sql for x, y in zip(a.parts, b.parts, strict=True)]
        sql = f"({' AND '.join(each)})"
        return Term(f"(NOT {sql})" if sign == "<>" else sql, INT, DIGITS, loose=loose(a, b))
    if (places := _fixed(a, b)) is not None and sign != "IS":
        if all(t.field is not None or t.literal is not None for t in (a, b)):
            return Term(f"({a.sql} {sign} {b.sql})", INT, DIGITS, loose=loose(a, b))
        near = f"compare_fixed({as_number(a)}, {as_number(b)}, {places})"
        return Term(f"({near} {sign} 0)", INT, DIGITS, loose=loose(a, b))
    left, right = pair(a, b, sign in ("=", "<>", "IS"))
    return Term(f"({left} {sign} {right})", INT, DIGITS, loose=loose(a, b))


def _before(pairs: list[tuple[Term, Term]], sign: str) -> Term:
    """Rows in their order: by the first column that differs."""
    (a, b), *rest = pairs
    if not rest:
        return compared(a, sign, b)
    first, same, then = compared(a, sign[0], b), compared(a, "=", b), _before(rest, sign)
    sql = f"({first.sql} OR ({same.sql} AND {then.sql}))"
    return Term(sql, INT, DIGITS, loose=loose(first, then))


# Types of several together ------------------------------------------------------------------------------------------


def common(terms: list[Term]) -> tuple[Kind, list[str]]:
    """The type of a value that is one of several (CASE, IF, COALESCE, UNION), and each so converted."""
    kinds = [t.kind for t in terms if t.kind.name != "null"]
    if not kinds:
        return NULL, [t.sql for t in terms]
    names = {k.name for k in kinds}
    if names == {"date", "dt"}:
        return DATETIME, [_with_time(t) if t.kind.name == "date" else t.sql for t in terms]
    if len(names) == 1 and not kinds[0].number:
        return kinds[0].plain, [t.sql for t in terms]
    if names <= {"int", "dec", "dbl", "flt"}:
        scales = [k.decimals for k in kinds]
        scale = None if None in scales else max(s for s in scales if s is not None)
        whole = max(k.whole for k in kinds)
        if names <= {"int"}:
            if any(k.unsigned and k.whole >= 20 for k in kinds) and not all(k.unsigned for k in kinds):
                return dec(0, whole), [t.sql for t in terms]  # neither sign of BIGINT holds all
            signs = {"counted": any(k.counted for k in kinds), "unsigned": all(k.unsigned for k in kinds)}
            return replace(kinds[0], whole=whole, year=False, **signs), [t.sql for t in terms]
        if names <= {"int", "dec"}:
            return Kind("dec", scale, whole=whole), [t.sql for t in terms]
        literals = all(isinstance(t.literal, int) for t in terms if t.kind.name == "int")
        if names <= {"flt", "int"} and literals:  # a literal is a BIGINT, for which a FLOAT is wide enough
            return Kind("flt", scale), [t.sql for t in terms]
        return Kind("dbl", scale), [as_number(t) for t in terms]
    if "bin" in names:
        raise NotExactError("A binary string beside another type")
    return STR, [as_text(t) for t in terms]


def common_letters(terms: list[Term]) -> Letters:
    found: frozenset[str] = frozenset()
    for term in terms:
        if term.kind.name == "str":
            if term.letters is None:
                return None
            found |= term.letters
        elif term.kind.name != "null":
            found |= DIGITS
    return found


DIGITS = frozenset("0123456789-:. e")
"""What numbers and dates are written with."""


def _own_text(term: Term) -> str:
    if term.kind.name == "null":
        return term.sql
    exact = term.exact if term.kind.name == "dec" and not term.own else ""
    return f"round_text({exact}, {term.kind.scale})" if exact else as_text(term)


def choice(terms: list[Term], build: Callable[[list[str]], str], *asked: Term, own: bool = False) -> Term:
    """One of several values. `own`: CASE and IF, of which decimals keep their own scale until they are stored."""
    kind, sides = common(terms)
    letters = common_letters(terms) if kind.name == "str" else DIGITS
    found = Term(build(sides), kind, letters, loose=loose(*terms, *asked), binary=any(t.binary for t in terms))
    if own and kind.name == "dec" and any(t.own or t.kind != kind for t in terms):
        found.own = build([_own_text(t) for t in terms])
    return found
