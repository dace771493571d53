"""Comparisons: =, <, BETWEEN, IN, ANY, ALL, EXISTS, LIKE and REGEXP. How two values compare is `terms.pair`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from sqlglot import exp

from ipr.envs.sql import aggregates, dates, errors
from ipr.envs.sql.errors import MySqlError, NotExactError
from ipr.envs.sql.kinds import DBL, INT, NULL, dec
from ipr.envs.sql.terms import DIGITS, Term, as_number, common_letters, compared, constant, is_date, loose, pair, plain

if TYPE_CHECKING:
    from ipr.envs.sql.frames import Query
    from ipr.envs.sql.names import Field
    from ipr.envs.sql.select import Compiler

Node = exp.Expr


def compare(sign: str) -> Callable[[Compiler, Node], Term]:
    def compiled(c: Compiler, node: Node) -> Term:
        if isinstance(node.expression, (exp.Any, exp.All)):
            return _quantified(c, node, sign)
        a, b = c.compiled(node.this), c.compiled(node.expression)
        return compared(_folded(c, a, b), sign, _folded(c, b, a))

    return compiled


def _folded(c: Compiler, constant: Term, column: Term) -> Term:
    """A text beside a FLOAT(M, D), which a condition takes for a number (`sql_const_folding.cc` of the server).

    Beside a YEAR a constant of two digits is one of 1970 to 2069, and a date its year.
    """
    if column.field is not None and column.kind.year and not constant.kind.year:
        return _year(constant)
    fixed = column.field is not None and column.kind.name in ("flt", "dbl") and column.kind.scale is not None
    given = constant.literal
    known = isinstance(given, str) or (isinstance(given, float) and constant.kind.name == "dbl")
    if not fixed or not known or c.clause in ("field list", "order clause"):
        return constant
    number = dates.number(given) if isinstance(given, str) else given
    return Term(repr(number), dec(column.kind.scale or 0), DIGITS, number)


def _year(term: Term) -> Term:
    if term.kind.temporal:
        if term.loose or term.kind.name != "date":
            raise NotExactError("A YEAR beside a date")
        return Term(f"CAST(substr({term.sql}, 1, 4) AS INTEGER)", INT, DIGITS)
    if term.loose or term.kind.name == "null":
        return term
    number = as_number(term)
    century = f"CASE WHEN {number} > 0 AND {number} < 70 THEN 2000 WHEN {number} >= 70 AND {number} < 100 THEN 1900"
    return Term(f"({number} + {century} ELSE 0 END)", term.kind if term.kind.number else DBL, DIGITS)


def between(c: Compiler, node: Node) -> Term:
    value, low, high = (c.single(node.args[k]) for k in ("this", "low", "high"))
    if low.literal is not None and low.sql == high.sql:
        return compared(value, "=", _folded(c, low, value))
    low, high = _folded(c, low, value), _folded(c, high, value)
    low, high = with_dates(value, [low, high])
    kinds = {t.kind.name for t in (value, low, high)}
    if kinds & {"str"} and any(t.kind.number for t in (value, low, high)):  # all three are compared as doubles
        if any(t.kind.temporal for t in (value, low, high)):
            raise NotExactError("BETWEEN a number and a date")
        value, low, high = (Term(as_number(t), DBL, literal=t.literal, loose=t.loose) for t in (value, low, high))
    sides = [pair(value, low, False), pair(value, high, False)]
    both = [f"{a} {sign} {b}" for sign, (a, b) in zip((">=", "<="), sides, strict=True)]
    return Term(f"({' AND '.join(both)})", INT, DIGITS, loose=loose(value, low, high))


def with_dates(value: Term, terms: list[Term]) -> list[Term]:
    """Where a date is compared with several, a text that is none is date zero; alone it would be an error."""
    if value.kind.name not in ("date", "dt"):
        return terms
    zero = Term("'0000-00-00'" if value.kind.name == "date" else "'0000-00-00 00:00:00'", value.kind)
    return [zero if isinstance(t.literal, str) and not is_date(t.literal) else t for t in terms]


def in_(c: Compiler, node: Node) -> Term:
    if (query := node.args.get("query")) is not None:
        return _in_query(c, node.this, query)
    value = c.compiled(node.this)
    if node.args.get("unnest") is not None or node.args.get("field") is not None:
        raise NotExactError("IN of that form")
    items = [c.compiled(e) for e in node.expressions]
    if len(items) == 1:
        return compared(value, "=", _folded(c, items[0], value))
    items = with_dates(value, items)
    if not value.parts and len({(t.kind.name, t.letters is None) for t in items}) == 1:
        sides = [pair(value, item, True) for item in items]
        if len({left for left, _ in sides}) == 1:
            sql = f"({sides[0][0]} IN ({', '.join(right for _, right in sides)}))"
            return Term(sql, INT, DIGITS, loose=loose(value, *items))
    if value.parts:
        sql = " OR ".join(compared(value, "=", item).sql for item in items)
    else:
        sql = " OR ".join("{} = {}".format(*pair(value, item, True)) for item in items)
    return Term(f"({sql})", INT, DIGITS, loose=loose(value, *items))


def _beside(c: Compiler, left: Node, node: Node) -> tuple[Term, Query, tuple[Field, ...]]:
    """A query, and what is compared with its rows, which is read after it."""
    query, captured = c.nested(node, _columns(left), limits=False)
    with c.beside_query():
        return c.compiled(left), query, captured


def _in_query(c: Compiler, left: Node, node: Node) -> Term:
    value, query, captured = _beside(c, left, node)
    parts = value.parts or (value,)
    if len(parts) != len(query.terms):
        raise errors.operand(len(parts))
    if value.kind.year and isinstance(query.terms[0].literal, int):
        raise NotExactError("A YEAR in a query of constants")
    lefts, rights = [], []
    for k, (ours, theirs) in enumerate(zip(parts, query.terms, strict=True)):
        column = Term(f"q.c{k}", theirs.kind, theirs.letters, binary=theirs.binary)
        for side, text in zip((lefts, rights), pair(ours, column, True), strict=True):
            side.append(text)
    row = lefts[0] if len(lefts) == 1 else f"({', '.join(lefts)})"
    inner = f"SELECT {', '.join(rights)} FROM ({query.sql}) AS q"
    return Term(f"({row} IN ({inner}))", INT, DIGITS, loose=(*value.loose, *captured))


def _quantified(c: Compiler, node: Node, sign: str) -> Term:
    """= ANY is IN, <> ALL is NOT IN; the others ask for a row that says so."""
    some = isinstance(node.expression, exp.Any)
    inner = node.expression.this
    if (some and sign == "=") or (not some and sign == "<>"):
        found = _in_query(c, node.this, inner)
        return found if some else Term(f"(NOT {found.sql})", INT, DIGITS, loose=found.loose)
    value, query, captured = _beside(c, node.this, inner)
    if value.parts or len(query.terms) != 1:
        raise errors.operand(1)
    column = Term("q.c0", query.terms[0].kind, query.terms[0].letters, binary=query.terms[0].binary)
    if sign in ("=", "<>"):
        return _all_same(value, sign, column, query, captured)
    # As the server does it: with the greatest or least by its own type, whatever it is compared with then.
    word = "max" if (sign[0] == ">") != some else "min"
    best = aggregates.extreme(column, word)
    nested = f"(SELECT {best.sql} FROM ({query.sql}) AS q)"
    test = compared(value, sign, Term(nested, best.kind, best.letters, binary=column.binary)).sql
    unknown = f"(SELECT count(*) > count(q.c0) FROM ({query.sql}) AS q)"
    decided, empty = ("1", "0") if some else ("0", "1")
    sql = (
        f"(CASE WHEN NOT EXISTS ({query.sql}) THEN {empty} WHEN {test} = {decided} THEN {decided}"
        f" WHEN {unknown} THEN NULL ELSE {test} END)"
    )
    return Term(sql, INT, DIGITS, loose=(*value.loose, *captured))


def _all_same(value: Term, sign: str, column: Term, query: Query, captured: tuple[Field, ...]) -> Term:
    """= ALL and <> ANY."""
    some = sign == "<>"
    test = compared(value, sign, column).sql
    best = f"SELECT {'max' if some else 'min'}({test}) FROM ({query.sql}) AS q"
    unknown = f"SELECT count(*) > count({test}) FROM ({query.sql}) AS q"
    decided, empty = ("1", "0") if some else ("0", "1")
    sql = (
        f"(CASE ifnull(({best}), -1) WHEN {decided} THEN {decided} ELSE"
        f" CASE WHEN ({unknown}) THEN NULL ELSE {empty} END END)"
    )
    return Term(sql, INT, DIGITS, loose=(*value.loose, *captured))


def exists(c: Compiler, node: Node) -> Term:
    query, captured = c.nested(node.this)
    return Term(f"(EXISTS ({query.sql}))", INT, DIGITS, loose=captured)


def _columns(node: Node) -> int:
    """How many columns an operand has; 0 for a query's, which are not read yet."""
    while isinstance(node, exp.Paren):
        node = node.this
    return len(node.expressions) if isinstance(node, exp.Tuple) else 0 if isinstance(node, exp.Subquery) else 1


def _place(node: Node) -> int:
    """How many columns the place of a query takes: those of what it is compared with."""
    above = node.parent
    while isinstance(above, (exp.Paren, exp.Subquery)):
        node, above = above, above.parent
    if not isinstance(above, (exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE, exp.NullSafeEQ)):
        return 1
    return _columns(above.this) if node is above.expression else 0


def subquery(c: Compiler, node: Node) -> Term:
    query, captured = c.nested(node, _place(node))
    parts = []
    for k, term in enumerate(query.terms):
        if query.one_row:
            sql = f"(SELECT q.c{k} FROM ({query.sql}) AS q)"
        else:
            sql = f"(SELECT only(q.c{k}) FROM ({query.sql}) AS q)"
        parts.append(Term(sql, term.kind, term.letters, loose=captured, binary=term.binary))
    return parts[0] if len(parts) == 1 else Term("", NULL, loose=captured, parts=tuple(parts))


def like(c: Compiler, node: Node) -> Term:
    escape = "\\"
    if isinstance(node, exp.Escape):
        if not isinstance(node.expression, exp.Literal):
            raise NotExactError("ESCAPE of what is no constant")
        escape, node = node.expression.this, node.this
        if len(escape) > 1:
            raise MySqlError("Incorrect arguments to ESCAPE")
    if not isinstance(node, exp.Like):
        raise NotExactError("LIKE of that form")
    said = "NOT " if node.args.get("negate") else ""
    text, pattern = c.single(node.this), c.single(node.expression)
    both = loose(text, pattern)
    sides = plain(text), plain(pattern)
    mark = constant(escape).sql
    if text.binary or pattern.binary:
        return Term(f"({said}like_in({sides[0]}, {sides[1]}, {mark}, 1))", INT, DIGITS, loose=both)
    known = common_letters([text, pattern]) is not None
    if known and escape and isinstance(pattern.literal, str) and not pattern.literal.endswith(escape):
        return Term(f"({said}{sides[0]} LIKE {sides[1]} ESCAPE {mark})", INT, DIGITS, loose=both)
    return Term(f"({said}like_in({sides[0]}, {sides[1]}, {mark}, 0))", INT, DIGITS, loose=both)


def regexp(c: Compiler, node: Node) -> Term:
    text, pattern = c.single(node.this), c.single(node.expression)
    if pattern.kind.name == "bin" and text.kind.name != "bin":
        raise MySqlError(
            "Character set 'utf8mb4_0900_ai_ci' cannot be used in conjunction with 'binary' in call to regexp_like."
        )
    exact = int(text.binary or pattern.binary)
    return Term(f"regexp_in({plain(text)}, {plain(pattern)}, {exact})", INT, DIGITS, loose=loose(text, pattern))
