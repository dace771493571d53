"""Aggregate and window functions, with MySQL's types: SUM of integers is a decimal, AVG has four decimals more.

See https://dev.mysql.com/doc/refman/8.0/en/aggregate-functions.html. Left out: aggregates of bits and of JSON.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlglot import exp

from ipr.envs.sql import collation, errors
from ipr.envs.sql.errors import MySqlError, NotExactError
from ipr.envs.sql.kinds import DBL, INT, NULL, STR, Kind, dec
from ipr.envs.sql.terms import (
    DIGITS,
    Term,
    as_integer,
    as_number,
    as_text,
    common_letters,
    constant,
    group_key,
    loose,
    order_key,
)
from ipr.envs.sql.words import AGGREGATES

if TYPE_CHECKING:
    from ipr.envs.sql.select import Compiler

Node = exp.Expr
_SPREAD = {
    "STD": "std_pop", "STDDEV": "std_pop", "STDDEV_POP": "std_pop", "STDDEV_SAMP": "std_samp",
    "VARIANCE": "var_pop", "VAR_POP": "var_pop", "VAR_SAMP": "var_samp",
}  # fmt: skip
_SEPARATOR = ","


def is_aggregate(node: Node) -> bool:
    name = str(node.this).upper() if isinstance(node, exp.Anonymous) else ""
    return (name in AGGREGATES or isinstance(node, exp.GroupConcat)) and not isinstance(node.parent, exp.Window)


def aggregate(c: Compiler, name: str, nodes: list[Node]) -> Term:
    if name == "ANY_VALUE" and len(nodes) == 1:
        term = c.single(nodes[0])
        return Term(f"first_seen({term.sql})" if c.grouping else term.sql, term.kind, term.letters, one=True)
    with c.inside_aggregate():
        term = _computed(c, name, nodes)
    term.one, term.loose = True, ()
    return term


def _computed(c: Compiler, name: str, nodes: list[Node]) -> Term:
    distinct = ""
    if len(nodes) == 1 and isinstance(nodes[0], exp.Distinct):
        distinct, nodes = "DISTINCT ", nodes[0].expressions
        if name not in ("COUNT", "SUM", "AVG", "MIN", "MAX"):
            raise NotExactError(f"{name}(DISTINCT)")
    if name == "COUNT" and len(nodes) == 1 and isinstance(nodes[0], exp.Star) and not distinct:
        return Term("count(*)", INT, DIGITS)
    if (
        any(isinstance(n, exp.Star) for n in nodes)
        or not nodes
        or (len(nodes) > 1 and not (name == "COUNT" and distinct))
    ):
        raise NotExactError(f"{name}() of such arguments")
    terms = [c.single(n) for n in nodes]
    return computed(name, distinct, terms)


def computed(name: str, distinct: str, terms: list[Term]) -> Term:
    inner = loose(*terms)
    term = terms[0]
    found: Term
    match name:
        case "COUNT" if len(terms) > 1:
            found = Term(f"count(DISTINCT row_key({', '.join(map(_plain_key, terms))}))", INT, DIGITS)
        case "COUNT":
            found = Term(f"count({distinct}{group_key(term) if distinct else term.sql})", INT, DIGITS)
        case "SUM":
            found = _sum(term, distinct)
        case "AVG":
            found = _avg(term, distinct)
        case "MIN" | "MAX":
            found = _extreme(term, name.lower())
        case _ if name in _SPREAD:
            number = as_number(term)
            found = Term(f"{_SPREAD[name]}({number})", DBL, DIGITS)
        case _:
            raise NotExactError(f"{name}()")
    found.loose = inner
    return found


def _plain_key(term: Term) -> str:
    return group_key(term) if term.kind.name != "str" or term.binary else f"text_key({term.sql})"


def _sum(term: Term, distinct: str) -> Term:
    if term.kind.name == "null":
        return Term("NULL", NULL)
    number = as_number(term)
    sql = f"sum({distinct}{number})"
    if term.kind.name in ("int", "date", "dt", "time"):
        return Term(sql, dec(0), DIGITS)
    if term.kind.name == "dec":
        scale = term.kind.scale or 0
        found = Term(f"round({sql}, {scale})" if scale else sql, term.kind, DIGITS)
        found.exact = f"exact('/', {_units(number, distinct, scale)}, {10**scale}, 0, 0)"
        if scale:
            found.exact = f"round_text({found.exact}, {scale})"
        return found
    return Term(sql, Kind("dbl", term.kind.scale if term.kind.number else None), DIGITS)


def _units(number: str, distinct: str, scale: int) -> str:
    """The sum of decimals in units of their last digit, which is an integer."""
    return f"sum({distinct}CAST(round(({number}) * {10**scale}) AS INTEGER))"


def _avg(term: Term, distinct: str) -> Term:
    number = as_number(term)
    if term.kind.name == "null":
        return Term("NULL", NULL)
    if term.kind.name in ("int", "date", "dt", "time"):
        found = Term(f"avg({distinct}{number})", dec(4), DIGITS)
        found.exact = f"exact('/', sum({distinct}{number}), count({distinct}{number}), 0, 0)"
        return found
    if term.kind.name == "dec":
        scale = term.kind.scale or 0
        count = f"count({distinct}{number})"
        found = Term(f"(round(sum({distinct}{number}), {scale}) / {count})", dec(scale + 4), DIGITS)
        total = f"exact('/', {_units(number, distinct, scale)}, {10**scale}, 0, 0)"
        found.exact = f"exact('/', round_text({total}, {scale}), {count}, {scale}, 0)"
        return found
    shown = None if term.kind.scale is None else min(term.kind.scale + 4, 30)
    return Term(f"avg({distinct}{number})", Kind("dbl", shown), DIGITS)


def _extreme(term: Term, word: str) -> Term:
    if term.kind.name != "str" or term.binary:
        return Term(f"{word}({term.sql})", term.kind, term.letters)
    if term.letters is not None and collation.ordered(term.letters):
        return Term(f"{word}({term.sql} COLLATE NOCASE)", STR, term.letters)
    return Term(f"{word}_text({term.sql})", STR, term.letters)


def group_concat(c: Compiler, node: Node) -> Term:
    """GROUP_CONCAT([DISTINCT] ... [ORDER BY ...] [SEPARATOR ...]), cut at 1,024 bytes as group_concat_max_len says."""
    with c.inside_aggregate():
        separator = node.args.get("separator")
        inner = node.this
        order: list[Node] = []
        if isinstance(inner, exp.Order):
            order, inner = inner.expressions, inner.this
        distinct = isinstance(inner, exp.Distinct)
        nodes = inner.expressions if isinstance(inner, (exp.Distinct, exp.Concat)) else [inner]
        terms = [c.single(n) for n in nodes]
        keys = [c.single(o.this) for o in order]
        downs = "".join("d" if o.args.get("desc") else "a" for o in order)
        separator = _SEPARATOR if separator is None else separator.this
        text = as_text(terms[0]) if len(terms) == 1 else f"({' || '.join(map(as_text, terms))})"
        same = _plain_key(terms[0]) if len(terms) == 1 else f"row_key({', '.join(map(_plain_key, terms))})"
        sides = [constant(separator).sql, f"'{'D' if distinct else 'N'}{downs}'", text, same]
        sides += [order_key(k) if k.kind.name != "str" or k.binary else f"text_key({k.sql})" for k in keys]
    plain = common_letters([*terms, constant(separator)]) is not None
    return Term(f"join_texts({', '.join(sides)})", STR, collation.PLAIN if plain else None, one=True)


# Windows ------------------------------------------------------------------------------------------------------------

_RANKS = {
    "ROW_NUMBER": INT, "RANK": INT, "DENSE_RANK": INT, "NTILE": INT, "PERCENT_RANK": DBL, "CUME_DIST": DBL,
}  # fmt: skip
_PICKS = ("LAG", "LEAD", "FIRST_VALUE", "LAST_VALUE", "NTH_VALUE")


def window(c: Compiler, node: Node) -> Term:
    if not isinstance(node.this, exp.Anonymous):
        raise NotExactError("Such a window function")
    if c.clause not in ("field list", "order clause"):
        name = str(node.this.this).lower()
        raise MySqlError(f"You cannot use the window function '{name}' in this context.'")
    name, nodes = str(node.this.this).upper(), node.this.expressions
    with c.inside_window():
        if name in _RANKS:
            terms = [c.single(n) for n in nodes]
            found = Term(
                f"{name.lower()}({', '.join(map(as_integer, terms))})", _RANKS[name], DIGITS, loose=loose(*terms)
            )
        elif name in _PICKS:
            terms = [c.single(n) for n in nodes]
            if not 1 <= len(terms) <= 2:
                raise NotExactError(f"{name}() with a default")
            sides = [t.sql for t in terms]
            found = Term(f"{name.lower()}({', '.join(sides)})", terms[0].kind, terms[0].letters, loose=loose(*terms))
        elif any(isinstance(n, exp.Distinct) for n in nodes):
            raise MySqlError(errors.WINDOW_DISTINCT)
        elif name in ("COUNT", "SUM", "AVG", "MIN", "MAX"):
            found = _computed(c, name, nodes)
            if found.sql.startswith(("round(", "(round(", "min_text", "max_text")):
                raise NotExactError(f"{name}() of such a type over a window")
        elif name in AGGREGATES:
            raise NotExactError(f"{name}() over a window")
        else:
            raise NotExactError(f"{name}() OVER")
        over, terms = _over(c, node)
    return Term(f"{found.sql} OVER ({over})", found.kind, found.letters, loose=(*found.loose, *loose(*terms)))


def _over(c: Compiler, node: Node) -> tuple[str, list[Term]]:
    if node.args.get("alias") is not None:
        raise NotExactError("A named window")
    said, terms, sorting = [], [], []
    if parts := node.args.get("partition_by"):
        found = [c.single(p) for p in parts]
        said.append("PARTITION BY " + ", ".join(map(group_key, found)))
        terms += found
        sorting += map(order_key, found)
    if order := node.args.get("order"):
        found = [c.single(o.this) for o in order.expressions]
        keys = [
            order_key(t) + (" DESC" if o.args.get("desc") else "")
            for t, o in zip(found, order.expressions, strict=True)
        ]
        said.append("ORDER BY " + ", ".join(keys))
        terms += found
        sorting += keys
    if sorting:
        c.frame.windows[tuple(sorting)] = None
    if spec := node.args.get("spec"):
        start, end = (
            f"{_bound(spec.args.get(k))} {spec.args.get(f'{k}_side') or ''}".strip() for k in ("start", "end")
        )
        said.append(f"{spec.args['kind']} BETWEEN {start} AND {end or 'CURRENT ROW'}")
    return " ".join(said), terms


def _bound(value: object) -> str:
    if isinstance(value, exp.Literal) and not value.is_string:
        return str(value.this)
    if value is None or value in ("UNBOUNDED", "CURRENT ROW"):
        return str(value or "")
    raise NotExactError("Such a frame of a window")
