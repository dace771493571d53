"""Functions whose value depends on the types of their arguments, each built by itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from ipr.envs.sql import dates
from ipr.envs.sql.collation import PLAIN, ordered
from ipr.envs.sql.errors import NotExactError
from ipr.envs.sql.kinds import BIN, DATE, DATETIME, DBL, INT, NULL, STR, TIME, UNSIGNED, Kind, dec
from ipr.envs.sql.operands import as_shown, binary, clocked, dated
from ipr.envs.sql.signatures import AS
from ipr.envs.sql.terms import (
    DIGITS,
    Term,
    as_integer,
    as_number,
    as_text,
    choice,
    common,
    common_letters,
    loose,
    pair,
    plain,
    truth,
)

if TYPE_CHECKING:
    from ipr.envs.sql.select import Compiler

Built = Callable[["Compiler", list[Term], str], Term]


def _concat(c: Compiler, terms: list[Term], name: str) -> Term:
    if any(t.kind.name == "null" for t in terms):
        return Term("NULL", NULL, loose=loose(*terms))
    sql = f"({' || '.join(map(as_text, terms))})"
    return Term(sql, STR, PLAIN if common_letters(terms) is not None else None, loose=loose(*terms))


def _case_of(c: Compiler, terms: list[Term], name: str) -> Term:
    (term,) = terms
    word = "upper" if name in ("UPPER", "UCASE") else "lower"
    plain = common_letters(terms) is not None
    sql = f"{word if plain else f'{word}_text'}({as_text(term)})"
    return Term(sql, STR, PLAIN if plain else None, loose=term.loose)


def _if(c: Compiler, terms: list[Term], name: str) -> Term:
    test, *values = terms
    return choice(values, lambda s: f"(CASE WHEN {truth(test)} THEN {s[0]} ELSE {s[1]} END)", test, own=True)


def _coalesce(c: Compiler, terms: list[Term], name: str) -> Term:
    if len(terms) == 1:
        return replace(terms[0], own="")
    return choice(terms, lambda s: f"coalesce({', '.join(s)})")


def _nullif(c: Compiler, terms: list[Term], name: str) -> Term:
    a, b = terms
    if a.kind.year and not b.kind.year and not b.loose:
        raise NotExactError("NULLIF() of a YEAR and a constant")
    left, right = pair(a, b, True)
    found = Term(
        f"(CASE WHEN {left} = {right} THEN NULL ELSE {a.sql} END)",
        a.kind.plain,
        a.letters,
        loose=loose(a, b),
    )
    found.own = f"(CASE WHEN {left} = {right} THEN NULL ELSE {a.own} END)" if a.own else ""
    return found


def _isnull(c: Compiler, terms: list[Term], name: str) -> Term:
    return Term(f"({terms[0].sql} IS NULL)", INT, DIGITS, loose=terms[0].loose)


def _extreme(c: Compiler, terms: list[Term], name: str) -> Term:
    """GREATEST, LEAST: NULL where one is."""
    kind, sides = common(terms)
    word = "max" if name == "GREATEST" else "min"
    if any(t.kind.name == "null" for t in terms):
        return Term("NULL", NULL, loose=loose(*terms))
    if kind.name == "str":
        letters = common_letters(terms)
        timed = any(t.kind.name == "dt" for t in terms)
        if any(t.kind.temporal for t in terms) and any(t.text and not _as_printed(t.literal, timed) for t in terms):
            raise NotExactError(f"{name}() of dates and such texts")
        if letters is None or not ordered(letters):
            return Term(f"{name.lower()}_text({', '.join(sides)})", STR, letters, loose=loose(*terms))
        sides[0] += " COLLATE NOCASE"
        return Term(f"{word}({', '.join(sides)})", STR, letters, loose=loose(*terms))
    return Term(f"{word}({', '.join(sides)})", kind, DIGITS, loose=loose(*terms))


def _as_printed(literal: object, timed: bool) -> bool:
    """Whether a text is a date or time as the server prints it."""
    if not isinstance(literal, str):
        return False
    at = dates.moment(literal)
    return (at is not None and at.text(timed) == literal) or dates.as_time(literal) == literal


def _field(c: Compiler, terms: list[Term], name: str) -> Term:
    first, *others = terms
    same = all(t.text for t in terms) or all(t.kind.number for t in terms)
    as_doubles = [Term(as_number(t), DBL) for t in others]
    number = Term(as_number(first), DBL)
    tests = [pair(first, t, True) for t in others] if same else [pair(number, d, True) for d in as_doubles]
    whens = " ".join(f"WHEN {a} = {b} THEN {k}" for k, (a, b) in enumerate(tests, 1))
    return Term(f"(CASE {whens} ELSE 0 END)", INT, DIGITS, loose=loose(*terms))


def _elt(c: Compiler, terms: list[Term], name: str) -> Term:
    number, *values = terms
    whens = " ".join(f"WHEN {k} THEN {as_text(t)}" for k, t in enumerate(values, 1))
    return Term(f"(CASE {as_integer(number)} {whens} END)", STR, common_letters(values), loose=loose(*terms))


def _strcmp(c: Compiler, terms: list[Term], name: str) -> Term:
    a, b = (Term(as_text(t), STR, common_letters([t])) for t in terms)
    left, right = pair(a, b, False)
    sql = f"(CASE WHEN {left} = {right} THEN 0 WHEN {left} < {right} THEN -1 WHEN {left} > {right} THEN 1 END)"
    return Term(sql, INT, DIGITS, loose=loose(*terms))


def _round(c: Compiler, terms: list[Term], name: str) -> Term:
    """ROUND, TRUNCATE: integers stay integers, decimals have no more decimals than before, doubles are just doubles."""
    value, places = terms[0], terms[1] if len(terms) > 1 else Term("0", INT, literal=0)
    how = "cut" if name == "TRUNCATE" else "round"
    both = loose(*terms)
    if value.kind.name == "null":
        return Term("NULL", NULL, loose=both)
    if places.kind.name == "null":
        return Term("NULL", NULL, loose=both)
    if not isinstance(places.literal, (int, float, str)):
        return _computed_round(value, places, name)
    n = dates.round_half(places.literal)
    number = as_number(value)
    if value.kind.name in ("int", "date", "dt", "time"):
        sql = number if n >= 0 else f"CAST({how}_exact({number}, {n}) AS INTEGER)"
        return Term(sql, UNSIGNED if value.kind.unsigned else INT, DIGITS, loose=both)
    if value.kind.name == "dec":
        shown = max(0, min(n, value.kind.scale or 0))
        if n >= (value.kind.scale or 0):
            return Term(number, dec(shown, value.kind.whole), DIGITS, loose=both, exact=value.exact)
        sql = f"{how}_exact({value.exact or number}, {n})"
        return Term(
            sql, dec(shown, value.kind.whole), DIGITS, loose=both, exact=f"{how}_text({value.exact or number}, {n})"
        )
    return Term(f"{how}_double({number}, {n})", DBL, DIGITS, loose=both)


def _computed_round(value: Term, places: Term, name: str) -> Term:
    """To as many decimals as a column says; decimals and integers keep the type that they have."""
    if not places.loose:
        raise NotExactError(f"{name}() to a number of decimals that is computed")
    how = "cut" if name == "TRUNCATE" else "round"
    number, count, both = as_number(value), as_integer(places), loose(value, places)
    if not value.kind.exact:
        return Term(f"{how}_double({number}, {count})", DBL, DIGITS, loose=both)
    scale = value.kind.scale or 0
    sql = f"{how}_exact({number}, min({count}, {scale}))"
    return Term(sql if scale else f"CAST({sql} AS INTEGER)", value.kind, DIGITS, loose=both)


_LONGEST = 18
"""From so many digits before its point on a decimal stays one (item_func.cc, Item_func_int_val)."""


def _whole(c: Compiler, terms: list[Term], name: str) -> Term:
    (value,) = terms
    word = "floor" if name == "FLOOR" else "ceil"
    if value.kind.name == "int":
        return Term(value.sql, UNSIGNED if value.kind.unsigned else INT, DIGITS, loose=value.loose)
    sql = f"{word}({as_number(value)})"
    if value.kind.exact:
        kind = dec(0, value.kind.whole) if value.kind.whole >= _LONGEST else INT
        return Term(f"CAST({sql} AS INTEGER)", kind, DIGITS, loose=value.loose)
    return Term(sql, Kind("dbl", 0), DIGITS, loose=value.loose)


def _abs(c: Compiler, terms: list[Term], name: str) -> Term:
    (value,) = terms
    kind = value.kind if value.kind.exact else Kind("dbl", value.kind.scale) if value.kind.number else DBL
    return Term(f"abs({as_number(value)})", kind, DIGITS, loose=value.loose)


def _format(c: Compiler, terms: list[Term], name: str) -> Term:
    marks = _MARKS.get(terms[2].literal) if len(terms) > 2 else ",."
    if marks is None:
        raise NotExactError("FORMAT() with that locale")
    value, places, *_ = terms
    sql = f"format_number({as_number(value)}, {as_integer(places)}, {int(value.kind.exact)}, '{marks}')"
    return Term(sql, STR, DIGITS | {","}, loose=loose(*terms))


_MARKS = {"en_US": ",.", "en_GB": ",.", "de_DE": ".,"}
"""How a locale writes 1,234.5."""


def _hex(c: Compiler, terms: list[Term], name: str) -> Term:
    (value,) = terms
    sql = f"hex_text({plain(value)})" if value.text else f"hex_number({as_integer(value)})"
    return Term(sql, STR, DIGITS | frozenset("ABCDEF"), loose=value.loose)


def _in_base(base: int) -> Built:
    """BIN, OCT."""

    def build(c: Compiler, terms: list[Term], name: str) -> Term:
        return Term(f"conv({as_text(terms[0])}, 10, {base})", STR, DIGITS, loose=terms[0].loose)

    return build


def _quote(c: Compiler, terms: list[Term], name: str) -> Term:
    return Term(f"quote_text({as_text(terms[0])})", STR, loose=terms[0].loose)


def _char(c: Compiler, terms: list[Term], name: str) -> Term:
    return Term(f"chars_of({', '.join(map(as_integer, terms))})", BIN, loose=loose(*terms), binary=True)


def _bytes(function: str) -> Built:
    """UNHEX, FROM_BASE64."""

    def build(c: Compiler, terms: list[Term], name: str) -> Term:
        return Term(f"{function}({as_text(terms[0])})", BIN, loose=terms[0].loose, binary=True)

    return build


def _regexp(function: str, kind: Kind, codes: str) -> Built:
    """REGEXP_LIKE and its like: a text, a pattern, and what `codes` says of the others."""

    def build(c: Compiler, terms: list[Term], name: str) -> Term:
        text, pattern, *others = terms
        if any(t.kind.name == "null" for t in terms):
            return Term("NULL", kind, loose=loose(*terms))
        sides = [as_text(text), as_text(pattern), str(int(text.binary or pattern.binary))]
        sides += [AS[code](term) for code, term in zip(codes, others, strict=False)]
        letters = PLAIN if kind is STR and common_letters(terms) is not None else None if kind is STR else DIGITS
        return Term(f"{function}({', '.join(sides)})", kind, letters, loose=loose(*terms))

    return build


def _str_to_date(c: Compiler, terms: list[Term], name: str) -> Term:
    text, form = terms
    kinds = {"date": DATE, "time": TIME, "dt": DATETIME}
    kind = kinds[dates.form_kind(form.literal)] if isinstance(form.literal, str) else DATETIME
    sql = f"str_to_date({as_text(text)}, {as_text(form)})"
    return Term(sql, kind, DIGITS, loose=loose(text, form))


def _unix_timestamp(c: Compiler, terms: list[Term], name: str) -> Term:
    """An integer, or of a text that may have a fraction a decimal."""
    whole = not terms or not terms[0].text
    if terms and isinstance(terms[0].literal, str):
        at = dates.moment(terms[0].literal)
        whole = at is not None and not at.micro
    if whole:
        return Term(f"unix_timestamp({', '.join(map(dated, terms))})", INT, DIGITS, loose=loose(*terms))
    return Term(f"unix_of_text({terms[0].sql})", dec(6), DIGITS, loose=terms[0].loose)


def _from_unixtime(c: Compiler, terms: list[Term], name: str) -> Term:
    sql = f"from_unixtime({as_shown(terms[0])})"
    if len(terms) == 1:
        return Term(sql, DATETIME, DIGITS, loose=terms[0].loose)
    return Term(f"date_format({sql}, {as_text(terms[1])})", STR, PLAIN, loose=loose(*terms))


def _add_time(c: Compiler, terms: list[Term], name: str) -> Term:
    """ADDTIME, SUBTIME: of a date it makes a moment."""
    value, more = terms
    kind = {"time": TIME, "dt": DATETIME, "date": DATETIME}.get(value.kind.name, STR)
    side = clocked(value) if value.text or value.kind.temporal else as_text(value)
    sql = f"time_add({side}, {clocked(more)}, {1 if name == 'ADDTIME' else -1})"
    return Term(sql, kind, DIGITS, loose=loose(*terms))


def _timestamp(c: Compiler, terms: list[Term], name: str) -> Term:
    moment = f"as_datetime({dated(terms[0])})"
    if len(terms) == 2:
        moment = f"time_add({moment}, {clocked(terms[1])}, 1)"
    return Term(moment, DATETIME, DIGITS, loose=loose(*terms))


BUILT: dict[str, tuple[int, int, Built]] = {
    "CONCAT": (1, 30, _concat),
    "UPPER": (1, 1, _case_of),
    "UCASE": (1, 1, _case_of),
    "LOWER": (1, 1, _case_of),
    "LCASE": (1, 1, _case_of),
    "IF": (3, 3, _if),
    "IFNULL": (2, 2, _coalesce),
    "COALESCE": (1, 30, _coalesce),
    "NULLIF": (2, 2, _nullif),
    "ISNULL": (1, 1, _isnull),
    "GREATEST": (2, 30, _extreme),
    "LEAST": (2, 30, _extreme),
    "FIELD": (2, 30, _field),
    "ELT": (2, 30, _elt),
    "STRCMP": (2, 2, _strcmp),
    "ROUND": (1, 2, _round),
    "TRUNCATE": (2, 2, _round),
    "FLOOR": (1, 1, _whole),
    "CEIL": (1, 1, _whole),
    "CEILING": (1, 1, _whole),
    "ABS": (1, 1, _abs),
    "FORMAT": (2, 3, _format),
    "HEX": (1, 1, _hex),
    "BIN": (1, 1, _in_base(2)),
    "OCT": (1, 1, _in_base(8)),
    "QUOTE": (1, 1, _quote),
    "CHAR": (1, 30, _char),
    "UNHEX": (1, 1, _bytes("unhex_text")),
    "FROM_BASE64": (1, 1, _bytes("from_base64")),
    "REGEXP_LIKE": (2, 3, _regexp("regexp_in", INT, "t")),
    "REGEXP_SUBSTR": (2, 5, _regexp("regexp_found", STR, "iit")),
    "REGEXP_INSTR": (2, 6, _regexp("regexp_place", INT, "iiit")),
    "REGEXP_REPLACE": (3, 6, _regexp("regexp_replaced", STR, "tiit")),
    "BINARY": (1, 1, lambda c, terms, name: binary(terms[0])),
    "STR_TO_DATE": (2, 2, _str_to_date),
    "UNIX_TIMESTAMP": (0, 1, _unix_timestamp),
    "FROM_UNIXTIME": (1, 2, _from_unixtime),
    "ADDTIME": (2, 2, _add_time),
    "SUBTIME": (2, 2, _add_time),
    "TIMESTAMP": (1, 2, _timestamp),
}
