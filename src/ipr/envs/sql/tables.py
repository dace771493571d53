"""FROM: tables, views, derived tables and joins."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from sqlglot import exp

from ipr.envs.sql import errors
from ipr.envs.sql.errors import MySqlError, NotExactError
from ipr.envs.sql.names import Field, Scope, Source, unique
from ipr.envs.sql.terms import Term, compared, truth

if TYPE_CHECKING:
    from ipr.envs.sql.frames import Query
    from ipr.envs.sql.select import Compiler

Node = exp.Expr


@dataclass(slots=True)
class Tables:
    """SQLite's FROM."""

    sql: str = ""
    base: str | None = None
    """The alias of a single table with rowids, which are its rows' order."""
    natural: list[str] = field(default_factory=list)
    """What the rows of a single table must be sorted by to come as MySQL reads them, where that is not as they are."""
    leading: str = ""
    """The SQL of the first of tables that are all LEFT JOINed to it, which is read first,"""
    led: list[str] = field(default_factory=list)
    """and what its rows must be sorted by."""
    joins: list[Join] = field(default_factory=list)


@dataclass(slots=True)
class Join:
    """A table that is joined to those before it."""

    node: Node
    sql: str
    before: list[Source]
    added: list[Source]
    tests: list[str]
    """What USING and NATURAL say."""


def add_tables(c: Compiler, node: Node) -> Tables:
    """Adds the sources of a SELECT to the compiler's scope. `add_joins` joins them: MySQL reads ON after WHERE."""
    from_ = node.args.get("from_")
    joins = list(node.args.get("joins") or ())
    if from_ is None:
        return Tables()
    scope = c.scope
    found = Tables()
    if not joins and from_.this.name.upper() == "DUAL" and not from_.this.this.args.get("quoted"):
        return found
    found.sql, found.base, found.natural = _source(c, from_.this, scope)
    if joins:
        if all((join.args.get("side") or "").upper() == "LEFT" for join in joins):
            found.leading, found.led = found.sql, found.natural
        found.base, found.natural = None, []
    for join in joins:
        before = list(scope.sources)
        sql, _, _ = _source(c, join.this, scope)
        added = scope.sources[len(before) :]
        found.joins.append(Join(join, sql, before, added, _merged(c, join, before, added)))
    return found


def add_joins(c: Compiler, tables: Tables) -> None:
    for join in tables.joins:
        tables.sql = _joined(c, join, tables.sql)


def _source(c: Compiler, node: Node, scope: Scope) -> tuple[str, str | None, list[str]]:
    """A table of FROM: its SQL with its alias, and where it is a table with rowids, that alias and its order."""
    if node.args.get("joins"):
        raise NotExactError("A join in parentheses")
    alias = c.fresh("t")
    columns = [x.name for x in (node.args["alias"].args.get("columns") or ())] if node.args.get("alias") else []
    if isinstance(node, exp.Subquery):
        if not node.alias and not (c.lenient and isinstance(node.this, exp.Query)):
            if isinstance(node.this, exp.Table):
                raise NotExactError("A join in parentheses")
            raise MySqlError(errors.NO_ALIAS)
        query = c.query(node.this, Scope())
        scope.add(derived(query, node.alias or alias, alias, columns))
        return f"({query.sql}) AS {alias}", None, []
    if not isinstance(node, exp.Table) or not isinstance(node.this, exp.Identifier):
        raise NotExactError(f"{type(node).__name__.upper()} in FROM")
    if any(node.args.get(k) for k in ("pivots", "sample", "version", "when", "ordinality", "partition")):
        raise NotExactError("Such a table in FROM")
    name, database = node.name, node.text("db")
    if not database and (query := c.cte(name.lower())) is not None:
        scope.add(derived(query, node.alias or name, alias, columns))
        return f"({query.sql}) AS {alias}", None, []
    if columns:
        raise NotExactError("A table with names for its columns")
    table = c.schema.table(name, database, c.asks_for_this_database)
    source = Source(node.alias or name, table.database)
    for column in table.columns:
        tell = partial(column.tell, alias=alias)
        source.fields.append(Field(column.name, "", column.kind, source, tell=tell))
    source.keys, source.indexed = table.keys, table.indexed
    for key in (k for hint in node.args.get("hints") or () for k in hint.expressions):
        if key.name.lower() not in table.indexes():
            raise MySqlError(f"Key '{key.name}' doesn't exist in table '{source.alias}'")
    scope.add(source)
    return f"{table.sql} AS {alias}", alias if table.rowid else None, [n.format(alias) for n in table.natural()]


def derived(query: Query, alias: str, sql: str, columns: list[str]) -> Source:
    """A query as a table."""
    names = columns or query.names
    if len(names) != len(query.names):
        raise MySqlError(errors.LISTS_DIFFER)
    unique(names)
    source = Source(alias, "")
    for k, (name, term) in enumerate(zip(names, query.terms, strict=True)):
        source.fields.append(Field(name, f"{sql}.c{k}", term.kind, source, term.letters))
    source.keys = query.keys
    return source


def _merged(c: Compiler, join: Node, before: list[Source], added: list[Source]) -> list[str]:
    """What USING and NATURAL ask for."""
    side, kind = (join.args.get("side") or "").upper(), (join.args.get("kind") or "").upper()
    method = (join.args.get("method") or "").upper()
    if side == "FULL" or kind not in ("", "INNER", "CROSS", "OUTER", "STRAIGHT") or method not in ("", "NATURAL"):
        raise NotExactError("Such a join")
    if side == "LEFT":
        for source in added:
            source.inner = False
    if side == "RIGHT":
        for source in before:
            source.inner = False
    names = [i.name for i in join.args.get("using") or ()]
    if method == "NATURAL":
        ours = [f.name for s in before for f in s.fields]
        names = [n for n in ours if any(s.find(n) for s in added)]
    if side and not names and method != "NATURAL" and join.args.get("on") is None:
        raise NotExactError("A join without ON")
    return [_using(c, name, side, before, added) for name in names]


def _joined(c: Compiler, join: Join, left: str) -> str:
    side, kind = ((join.node.args.get(word) or "").upper() for word in ("side", "kind"))
    scope, tests, right = c.scope, join.tests, join.sql
    if (on := join.node.args.get("on")) is not None:
        inside = Scope(scope.outer, [*join.before, *join.added], scope.merged)
        c.frame.scope, c.frame.clause, c.frame.aggregates = inside, "on clause", False
        try:
            tests.append(truth(c.single(on)))
        finally:
            c.frame.scope = scope
        scope.captured += inside.captured
    test = f" ON {' AND '.join(f'({t})' for t in tests)}" if tests else ""
    if side == "RIGHT":
        if len(join.before) > 1:
            raise NotExactError("RIGHT JOIN of more than two tables")
        return f"{right} LEFT JOIN {left}{test or ' ON 1'}"
    word = "LEFT JOIN" if side == "LEFT" else "JOIN" if test else "CROSS JOIN" if kind == "CROSS" else "JOIN"
    return f"{left} {word} {right}{test or (' ON 1' if side else '')}"


def _using(c: Compiler, name: str, side: str, before: list[Source], added: list[Source]) -> str:
    """USING (name): the columns are equal, and one for `*` and for the bare name."""
    found = []
    for sources in (before, added):
        fields = [f for s in sources if (f := s.find(name)) is not None]
        if not fields:
            raise errors.no_column(name, "from clause")
        if len(fields) > 1 and name.lower() not in c.scope.merged:
            raise errors.ambiguous(name, "from clause")
        found.append(c.scope.merged.get(name.lower(), fields[0]) if sources is before else fields[0])
    left, right = (f.used() for f in found)
    c.scope.merged[name.lower()] = right if side == "RIGHT" else left
    a, b = (Term(f.sql, f.kind, f.letters) for f in found)
    return compared(a, "=", b).sql
