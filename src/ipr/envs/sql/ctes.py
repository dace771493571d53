"""WITH: queries by name, compiled when a statement first asks for them, as MySQL resolves them.

Decided here: WITH RECURSIVE is SQLite's, whose queue goes through the rows in the order of MySQL's iterations; the
types are those of the first part. Left out: texts that grow, for which a length would have to be known.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sqlglot import exp

from ipr.envs.sql import aggregates, errors
from ipr.envs.sql.errors import MySqlError, NotExactError
from ipr.envs.sql.frames import Frame, Query
from ipr.envs.sql.names import Scope, unique
from ipr.envs.sql.terms import Term
from ipr.envs.sql.unions import walk

if TYPE_CHECKING:
    from ipr.envs.sql.select import Compiler

Node = exp.Expr


@dataclass(slots=True)
class Cte:
    """A query of WITH."""

    node: Node
    home: Frame
    """Of the query that WITH belongs to."""
    earlier: dict[str, Cte]
    """What it can name: those before it, and itself where it is recursive."""
    recursive: bool
    sql: str = ""
    """Its name in SQLite's statement."""
    query: Query | None = None
    columns: list[str] = field(default_factory=list)


def define(c: Compiler, node: Node) -> None:
    """Takes notice of the WITH of a query."""
    frame, with_ = c.frame, node.args.get("with_")
    if with_ is None:
        return
    for one in with_.expressions:
        name = one.alias
        if name.lower() in frame.ctes:
            raise MySqlError(f"Not unique table/alias: '{name}'")
        cte = Cte(one, frame, dict(frame.ctes), False)
        cte.columns = [x.name for x in one.args["alias"].args.get("columns") or ()]
        if with_.args.get("recursive") and _names(one.this, name):
            cte.recursive = True
            cte.earlier[name.lower()] = cte
        frame.ctes[name.lower()] = cte


def prefix(frame: Frame) -> str:
    """The WITH of SQLite's query."""
    return f"WITH {', '.join(frame.with_)} " if frame.with_ else ""


def find(c: Compiler, name: str) -> Cte | None:
    """A query of WITH by its name in lower case, compiled."""
    for depth in range(len(c.frames) - 1, -1, -1):
        cte = c.frames[depth].ctes.get(name)
        if cte is not None:
            if cte.query is None:
                _compile(c, cte, depth)
            return cte
    return None


def _compile(c: Compiler, cte: Cte, depth: int) -> None:
    frames, outer = c.frames, cte.home.scope.outer
    c.frames = [*frames[:depth], Frame(Scope(outer=outer), ctes=cte.earlier)]
    try:
        if cte.recursive:
            _recursive(c, cte)
            return
        query = c.query(cte.node.this, Scope(outer=outer))
    finally:
        c.frames = frames
    cte.sql = c.fresh("w")
    cte.query = _named(cte, query)
    cte.home.with_.append(f"{cte.sql} AS ({query.sql})")


def _named(cte: Cte, query: Query) -> Query:
    names = cte.columns or query.names
    if len(names) != len(query.names):
        raise MySqlError(errors.LISTS_DIFFER)
    unique(names)
    called = dict(zip((n.lower() for n in query.names), (n.lower() for n in names), strict=True))
    keys = [frozenset(called[n] for n in key) for key in query.keys]
    return Query("", names, query.terms, keys=keys, follow=query.follow if names == query.names else [])


# Recursion ----------------------------------------------------------------------------------------------------------


def _recursive(c: Compiler, cte: Cte) -> None:
    name, union = cte.node.alias, cte.node.this
    said = f"ecursive Common Table Expression '{name}'"
    if not isinstance(union, exp.SetOperation):
        raise MySqlError(f"R{said} should contain a UNION")
    if union.args.get("order"):
        raise MySqlError(
            "This version of MySQL doesn't yet support 'ORDER BY over UNION in recursive Common Table Expression'"
        )
    first, parts, distinct = union, [], set[bool]()
    while isinstance(first, exp.Union) and _names(first, name):
        if _names(first.expression, name):
            parts.insert(0, first.expression)
            distinct.add(bool(first.args.get("distinct")))
        elif parts:
            raise NotExactError("Such a WITH RECURSIVE")
        else:
            break
        first = first.this
    if not parts or _names(first, name):
        raise MySqlError(
            f"R{said} should have one or more non-recursive query blocks followed by one or more recursive ones"
        )
    if len(distinct) > 1:
        raise NotExactError("Such a WITH RECURSIVE")
    anchor = c.query(first, Scope(outer=cte.home.scope.outer))
    anchor.keys, anchor.follow = [], []
    cte.sql, cte.query = c.fresh("w"), _named(cte, anchor)
    counted = not distinct.pop()
    begun = f"SELECT {'0, ' if counted else ''}q.* FROM ({anchor.sql}) AS q"
    columns = [*(["depth"] if counted else []), *(f"c{k}" for k in range(len(anchor.terms)))]
    steps = [_step(c, cte, part, f"R{said}", counted) for part in parts]
    all_ = " UNION ALL " if counted else " UNION "
    sql = f"{all_.join([begun, *steps])}{c.limit(union)}"
    cte.home.with_.append(f"{cte.sql}({', '.join(columns)}) AS ({sql})")


def _step(c: Compiler, cte: Cte, part: Node, said: str, counted: bool) -> str:
    """A part that names the query itself; it counts the iterations where rows need not differ."""
    assert cte.query is not None
    name = cte.node.alias
    while isinstance(part, exp.Subquery) and not part.args.get("with_"):
        part = part.this
    if not isinstance(part, exp.Select) or part.args.get("with_"):
        raise NotExactError("Such a WITH RECURSIVE")
    if part.args.get("group") or any(aggregates.is_aggregate(n) or isinstance(n, exp.Window) for n in walk(part)):
        raise MySqlError(f"{said} can contain neither aggregation nor window functions in recursive query block")
    if any(part.args.get(k) for k in ("order", "limit", "distinct")):
        raise MySqlError(
            "This version of MySQL doesn't yet support 'ORDER BY / LIMIT / SELECT DISTINCT in recursive query block"
            " of Common Table Expression'"
        )
    tables = [part.args["from_"], *(part.args.get("joins") or ())] if part.args.get("from_") else []
    direct = [t for t in tables if isinstance(t.this, exp.Table) and _is(t.this, name)]
    if len(direct) != 1 or sum(_is(t, name) for t in part.find_all(exp.Table)) != 1:
        raise MySqlError(
            f"In recursive query block of {said}, the recursive table must be referenced only once, and not in any"
            " subquery"
        )
    query = c.query(part, Scope(outer=cte.home.scope.outer))
    if len(query.terms) != len(cte.query.terms):
        raise MySqlError(errors.COLUMNS_DIFFER)
    if not all(map(_fits, cte.query.terms, query.terms)):
        raise NotExactError("A column of another type in WITH RECURSIVE")
    if not counted:
        return query.sql
    alias = re.search(rf"\b{cte.sql} AS (t\d+)\b", query.sql)
    assert alias is not None
    assert query.sql.startswith("SELECT ")
    return f"SELECT deeper({alias[1]}.depth), {query.sql[7:]}"


def _fits(first: Term, next_: Term) -> bool:
    """Whether a value keeps its type in a column of the first part's."""
    if next_.kind.name == "null" or (first.kind.name == next_.kind.name and first.kind.scale == next_.kind.scale):
        return first.kind.name != "str" or next_.field is not None or next_.sql.startswith("date_add(")
    return False


def _is(table: Node, name: str) -> bool:
    return table.name.lower() == name.lower() and not table.text("db")


def _names(node: Node, name: str) -> bool:
    return any(_is(t, name) for t in node.find_all(exp.Table))
