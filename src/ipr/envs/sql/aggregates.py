"""Aggregate functions, with MySQL's types: SUM of integers is a decimal, AVG has four decimals more.

See https://dev.mysql.com/doc/refman/8.0/en/aggregate-functions.html. Left out: aggregates of JSON.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from sqlglot import exp

from ipr.envs.sql import collation
from ipr.envs.sql.errors import NotExactError
from ipr.envs.sql.kinds import DBL, LONG, NULL, STR, UNSIGNED, Kind, dec
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
    summed = name in AGGREGATES and name != "ANY_VALUE"  # which stands for one of a group, but makes none
    return (summed or isinstance(node, exp.GroupConcat)) and not isinstance(node.parent, exp.Window)


def aggregate(c: Compiler, name: str, nodes: list[Node]) -> Term:
    if name == "ANY_VALUE" and len(nodes) == 1:
        term = c.single(nodes[0])
        kind = term.kind.plain
        return Term(f"first_seen({term.sql})" if c.grouping else term.sql, kind, term.letters, one=True)
    with c.inside_aggregate():
        terms, distinct = arguments(c, name, nodes)
        term = computed(name, distinct, terms)
    term.one, term.loose = True, ()
    return term


def arguments(c: Compiler, name: str, nodes: list[Node]) -> tuple[list[Term], str]:
    """The arguments of an aggregate function, none for COUNT(*), and its DISTINCT."""
    distinct = ""
    if len(nodes) == 1 and isinstance(nodes[0], exp.Distinct):
        distinct, nodes = "DISTINCT ", nodes[0].expressions
        if name not in ("COUNT", "SUM", "AVG", "MIN", "MAX"):
            raise NotExactError(f"{name}(DISTINCT)")
    if name == "COUNT" and len(nodes) == 1 and isinstance(nodes[0], exp.Star) and not distinct:
        return [], ""
    if (
        any(isinstance(n, exp.Star) for n in nodes)
        or not nodes
        or (len(nodes) > 1 and not (name == "COUNT" and distinct))
    ):
        raise NotExactError(f"{name}() of such arguments")
    return [c.single(n) for n in nodes], distinct


def computed(name: str, distinct: str, terms: list[Term], over: str = "") -> Term:
    """`over`: the window, where it is one over a window. No terms: COUNT(*)."""
    if not terms:
        return Term(f"count(*){over}", LONG, DIGITS)
    inner = loose(*terms)
    term = terms[0]
    found: Term
    match name:
        case "COUNT" if len(terms) > 1:
            found = Term(f"count(DISTINCT row_key({', '.join(map(_plain_key, terms))}))", LONG, DIGITS)
        case "COUNT":
            found = Term(f"count({distinct}{group_key(term) if distinct else term.sql}){over}", LONG, DIGITS)
        case "SUM":
            found = _sum(term, distinct, over)
        case "AVG":
            found = _avg(term, distinct, over)
        case "MIN" | "MAX":
            found = extreme(term, name.lower(), over)
        case "BIT_AND" | "BIT_OR" | "BIT_XOR":
            sql = f"ifnull(bits_{name[4:].lower()}({as_integer(term)}){over}, {-(name == 'BIT_AND')})"
            found = Term(f"unsigned({sql})", UNSIGNED, DIGITS, exact=sql)
        case _ if name in _SPREAD:
            number = as_number(term)
            found = Term(f"{_SPREAD[name]}({number}){over}", DBL, DIGITS)
        case _:
            raise NotExactError(f"{name}()")
    found.loose = inner
    return found


def _plain_key(term: Term) -> str:
    return group_key(term) if term.kind.name != "str" or term.binary else f"text_key({term.sql})"


def _sum(term: Term, distinct: str, over: str) -> Term:
    if term.kind.name == "null":
        return Term("NULL", NULL)
    number = as_number(term)
    sql = f"sum({distinct}{number}){over}"
    if term.kind.name in ("int", "date", "dt", "time"):
        return Term(sql, dec(0, term.kind.whole + 22), DIGITS)
    if term.kind.name == "dec":
        scale = term.kind.scale or 0
        found = Term(f"round({sql}, {scale})" if scale else sql, dec(scale, term.kind.whole + 22), DIGITS)
        found.exact = f"exact('/', {_units(number, distinct, scale, over)}, {10**scale}, 0, 0)"
        if scale:
            found.exact = f"round_text({found.exact}, {scale})"
        return found
    return Term(f"summed({sql})", Kind("dbl", term.kind.scale if term.kind.number else None), DIGITS)


def _units(number: str, distinct: str, scale: int, over: str) -> str:
    """The sum of decimals in units of their last digit, which is an integer."""
    return f"sum({distinct}CAST(round(({number}) * {10**scale}) AS INTEGER)){over}"


def _avg(term: Term, distinct: str, over: str) -> Term:
    number = as_number(term)
    if term.kind.name == "null":
        return Term("NULL", NULL)
    if term.kind.name in ("int", "date", "dt", "time"):
        found = Term(f"avg({distinct}{number}){over}", dec(4, term.kind.whole), DIGITS)
        found.exact = f"exact('/', sum({distinct}{number}){over}, count({distinct}{number}){over}, 0, 0)"
        return found
    if term.kind.name == "dec":
        scale = term.kind.scale or 0
        count = f"count({distinct}{number}){over}"
        sql = f"(round(sum({distinct}{number}){over}, {scale}) / {count})"
        found = Term(sql, dec(scale + 4, term.kind.whole), DIGITS)
        total = f"exact('/', {_units(number, distinct, scale, over)}, {10**scale}, 0, 0)"
        found.exact = f"exact('/', round_text({total}, {scale}), {count}, {scale}, 0)"
        return found
    shown = None if term.kind.scale is None else min(term.kind.scale + 4, 30)
    return Term(f"summed(avg({distinct}{number}){over})", Kind("dbl", shown), DIGITS)


def extreme(term: Term, word: str, over: str = "") -> Term:
    """MIN or MAX: of an ENUM that of its texts, which is then one of the ENUM."""
    if term.kind.name != "str" or term.binary:
        return Term(f"{word}({term.sql}){over}", replace(term.kind, year=False), term.letters)
    kind = STR if term.field is None else term.kind
    if term.letters is not None and collation.ordered(term.letters):
        return Term(f"{word}({term.sql} COLLATE NOCASE){over}", kind, term.letters)
    return Term(f"{word}_text({term.sql}){over}", kind, term.letters)


def _sorting(c: Compiler, node: Node, terms: list[Term]) -> Term:
    """What GROUP_CONCAT sorts by: a number is the place of an argument."""
    if isinstance(node, exp.Literal) and not node.is_string:
        return terms[c.position(node, len(terms), "order clause")]
    return c.single(node)


def group_concat(c: Compiler, node: Node) -> Term:
    """GROUP_CONCAT([DISTINCT] ... [ORDER BY ...] [SEPARATOR ...]), cut at 1,024 bytes as group_concat_max_len says."""
    with c.inside_aggregate():
        separator = node.args.get("separator")
        inner = node.this
        order: list[Node] = []
        if isinstance(inner, exp.Order):
            order, inner = inner.expressions, inner.this
        distinct = isinstance(inner, exp.Distinct)
        nodes = inner.expressions if distinct else [inner]
        nodes = [part for n in nodes for part in (n.expressions if isinstance(n, exp.Concat) else [n])]
        terms = [c.single(n) for n in nodes]
        keys = [_sorting(c, o.this, terms) for o in order]
        downs = "".join("d" if o.args.get("desc") else "a" for o in order)
        separator = _SEPARATOR if separator is None else separator.this
        text = as_text(terms[0]) if len(terms) == 1 else f"({' || '.join(map(as_text, terms))})"
        same = _plain_key(terms[0]) if len(terms) == 1 else f"row_key({', '.join(map(_plain_key, terms))})"
        if distinct and not order:  # the values stand in a tree, from which they are read in their order
            keys, downs = terms, "a" * len(terms)
        sides = [constant(separator).sql, f"'{'D' if distinct else 'N'}{downs}'", text, same]
        texts = [k.kind.name == "str" and not k.binary and not k.kind.members for k in keys]
        sides += [f"text_key({k.sql})" if t else order_key(k) for k, t in zip(keys, texts, strict=True)]
    plain = common_letters([*terms, constant(separator)]) is not None
    return Term(f"join_texts({', '.join(sides)})", STR, collation.PLAIN if plain else None, one=True)
