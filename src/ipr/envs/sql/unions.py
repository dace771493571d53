"""UNION, INTERSECT and EXCEPT, and the ORDER BY and LIMIT outside of a query in parentheses.

Decided here: the rows of a set operation are told apart by their keys and come in the order in which they were first
seen, as from MySQL's temporary table; an ORDER BY without LIMIT in one of its parts orders nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sqlglot import exp

from ipr.envs.sql import aggregates, errors
from ipr.envs.sql.errors import MySqlError, NotExactError
from ipr.envs.sql.frames import Frame, Query
from ipr.envs.sql.names import Field, Scope, Source
from ipr.envs.sql.terms import Term, common, common_letters, group_key, order_key

if TYPE_CHECKING:
    from ipr.envs.sql.select import Compiler

Node = exp.Expr
_WORDS = {exp.Union: "UNION", exp.Intersect: "INTERSECT", exp.Except: "EXCEPT"}
_ORDER_AGGREGATED = "Expression #{} of ORDER BY contains aggregate function and applies to a UNION, EXCEPT or INTERSECT"


@dataclass(slots=True)
class _Distinct:
    """How rows are told apart: the first seen of each."""

    keys: list[str]
    having: str = ""
    inner: list[str] = field(default_factory=list)
    """What the rows that are told apart have beside their columns."""
    seen: str = "min(q.rn)"


def parenthesised(c: Compiler, node: Node) -> Query:
    """(SELECT ...) ORDER BY ... LIMIT ..., outside of the parentheses."""
    inner = c.query(node.this, Scope(outer=c.scope.outer))
    return _outermost(c, node, inner.sql, inner)


def set_operation(c: Compiler, node: Node) -> Query:
    if isinstance(node, exp.Intersect) and isinstance(node.this, (exp.Union, exp.Except)):
        raise NotExactError("INTERSECT beside another set operation without parentheses")
    left, right = (c.query(_part(part), Scope(outer=c.scope.outer)) for part in (node.this, node.expression))
    if len(left.terms) != len(right.terms):
        raise MySqlError(errors.COLUMNS_DIFFER)
    terms, sides = [], ([], [])
    for k, pair in enumerate(zip(left.terms, right.terms, strict=True)):
        columns = [Term(f"q.c{k}", t.kind, t.letters, t.literal, binary=t.binary) for t in pair]
        kind, texts = common(columns)
        letters = common_letters(columns)
        terms.append(Term(f"q.c{k}", kind, letters, binary=any(t.binary for t in pair)))
        for side, text in zip(sides, texts, strict=True):
            side.append(f"{text} AS c{k}")
    like = Query("", left.names, terms)
    if isinstance(node, exp.Union) and not node.args.get("distinct"):
        parts = [f"SELECT {', '.join(s)} FROM ({q.sql}) AS q" for s, q in zip(sides, (left, right), strict=True)]
        return _outermost(c, node, " UNION ALL ".join(parts), like)
    parts = [
        f"SELECT {', '.join(s)}, {n} AS side FROM ({q.sql}) AS q"
        for n, (s, q) in enumerate(zip(sides, (left, right), strict=True))
    ]
    having = {
        exp.Union: "",
        exp.Intersect: " HAVING total(q.side) > 0 AND total(q.side) < count(*)",
        exp.Except: " HAVING total(q.side) = 0",
    }[type(node)]
    distinct = _Distinct([group_key(t) for t in terms], having)
    if not node.args.get("distinct"):  # EXCEPT ALL: the second of equal rows on one side meets that of the other
        same = ", ".join(distinct.keys)
        distinct.inner = [
            f"row_number() OVER (PARTITION BY q.side, {same} ORDER BY q.rn) AS nth",
            f"min(q.rn) OVER (PARTITION BY {same}) AS seen",
        ]
        distinct.keys, distinct.seen = [*distinct.keys, "q.nth"], "min(q.seen), q.nth"
    return _outermost(c, node, " UNION ALL ".join(parts), like, distinct)


def _part(node: Node) -> Node:
    """A part of a set operation, without an ORDER BY that orders nothing."""
    inner = node
    while isinstance(inner, exp.Subquery) and not any(inner.args.get(k) for k in ("order", "limit", "with_")):
        inner = inner.this
    if inner is node or not inner.args.get("order") or inner.args.get("limit"):
        return node
    if any(part.find(exp.Query) for part in inner.args["order"].expressions):
        return node
    plain = inner.copy()
    plain.set("order", None)
    return plain


def _outermost(c: Compiler, node: Node, sql: str, like: Query, distinct: _Distinct | None = None) -> Query:
    """ORDER BY and LIMIT of what is already a query."""
    terms = [Term(f"q.c{k}", t.kind, t.letters, binary=t.binary) for k, t in enumerate(like.terms)]
    order = []
    for place, one in enumerate(node.args["order"].expressions if node.args.get("order") else (), 1):
        term = _of_output(c, one.this, like.names, terms, place)
        if term is not None:
            order.append(order_key(term) + down(one))
    columns = ", ".join(f"q.c{k} AS c{k}" for k in range(len(terms)))
    tail = ""
    if distinct is not None:
        sql = f"SELECT q.*, row_seen() AS rn FROM ({sql}) AS q LIMIT -1"
        if distinct.inner:
            sql = f"SELECT q.*, {', '.join(distinct.inner)} FROM ({sql}) AS q LIMIT -1"
        tail = f" GROUP BY {', '.join(distinct.keys)}{distinct.having}"
        order.append(distinct.seen)
    sql = f"SELECT {columns} FROM ({sql}) AS q{tail}{sorted_by(order)}{c.limit(node)}"
    return Query(sql, like.names, like.terms, limited=node.args.get("limit") is not None)


def _of_output(c: Compiler, node: Node, names: list[str], terms: list[Term], place: int) -> Term | None:
    """An expression of ORDER BY after a set operation: of columns of the result, by name or place."""
    if isinstance(node, exp.Literal):
        return None if node.is_string else terms[c.position(node, len(terms), "order clause")]
    for part in walk(node):
        if aggregates.is_aggregate(part) or isinstance(part, exp.Window):
            raise MySqlError(_ORDER_AGGREGATED.format(place))
        if isinstance(part, exp.Column) and part.table:
            raise MySqlError(f"Table '{part.table}' from one of the SELECTs cannot be used in global ORDER clause")
    result = Source("", "")
    for name, term in zip(names, terms, strict=True):
        result.fields.append(Field(name, term.sql, term.kind, result, term.letters))
    c.frames.append(Frame(Scope(sources=[result]), clause="order clause"))
    try:
        return c.single(node)
    finally:
        c.frames.pop()


def down(one: Node) -> str:
    return " DESC" if one.args.get("desc") else ""


def sorted_by(terms: list[str]) -> str:
    return f" ORDER BY {', '.join(terms)}" if terms else ""


def walk(node: Node) -> Iterator[Node]:
    """The parts of an expression, without those of queries nested in it."""
    return node.walk(bfs=False, prune=lambda n: isinstance(n, exp.Query) and n is not node)
