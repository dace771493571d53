"""FROM: tables, views, derived tables and joins."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from sqlglot import exp

from ipr.envs.sql import ctes, errors, syntax
from ipr.envs.sql.errors import MySqlError, NotExactError
from ipr.envs.sql.names import Field, Scope, Source, unique
from ipr.envs.sql.terms import Term, compared, truth

if TYPE_CHECKING:
    from ipr.envs.sql.frames import Query
    from ipr.envs.sql.select import Compiler

Node = exp.Expr
COMMA = syntax.COMMA


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
    inner: Tables | None = None
    """The join in parentheses that comes first."""


@dataclass(slots=True)
class Join:
    """A table that is joined to those before it."""

    node: Node
    sql: str
    inner: Tables | None
    """What it is instead of a table: a join in parentheses."""
    before: list[Source]
    added: list[Source]
    names: list[str]
    """The columns of USING and NATURAL."""
    tests: list[str]
    """What these say, and ON."""


@dataclass(slots=True)
class _Made:
    """A table of FROM, or a join in parentheses."""

    sql: str
    star: list[Field]
    """What `*` stands for."""
    base: str | None = None
    natural: list[str] = field(default_factory=list)
    inner: Tables | None = None


def add_tables(c: Compiler, node: Node) -> Tables:
    """Adds the sources of a SELECT to the compiler's scope. `add_joins` joins them: MySQL reads ON after WHERE."""
    from_ = node.args.get("from_")
    joins: list[Node] = list(node.args.get("joins") or ())
    if from_ is None or (not joins and from_.this.name.upper() == "DUAL" and not from_.this.this.args.get("quoted")):
        return Tables()
    tables, c.scope.star = _tables(c, from_.this, joins)
    return tables


def _tables(c: Compiler, first: Node, joins: list[Node]) -> tuple[Tables, list[Field]]:
    scope, start = c.scope, len(c.scope.sources)
    made = _source(c, first, scope)
    found = Tables(made.sql, made.base, made.natural, inner=made.inner)
    star = made.star
    if joins:
        if all((join.args.get("side") or "").upper() == "LEFT" for join in joins):
            found.leading, found.led = found.sql, found.natural
        found.base, found.natural = None, []
    for join, rest in _by_comma(joins):
        before = scope.sources[start:]
        if rest:
            inner, theirs = _tables(c, join.this, rest)
            made = _Made("", theirs, inner=inner)
        else:
            made = _source(c, join.this, scope)
        added = scope.sources[start + len(before) :]
        names, tests, star = _merged(c, join, before, added, star, made.star)
        found.joins.append(Join(join, made.sql, made.inner, before, added, names, tests))
    return found, star


def _by_comma(joins: list[Node]) -> list[tuple[Node, list[Node]]]:
    """Joins, each with those that belong to its table: JOIN binds closer than a comma."""
    found: list[tuple[Node, list[Node]]] = []
    for join in joins:
        if found and found[-1][0].args.get("kind") == COMMA and join.args.get("kind") != COMMA:
            found[-1][1].append(join)
        else:
            found.append((join, []))
    return found


def add_joins(c: Compiler, tables: Tables) -> None:
    _read_conditions(c, tables)
    _join(tables)


def _read_conditions(c: Compiler, tables: Tables) -> None:
    """MySQL reads ON from the last join to the first, but what is in parentheses or left of RIGHT JOIN before it."""
    joins: list[Join] = []
    for join in tables.joins:
        joins.insert(len(joins) if (join.node.args.get("side") or "").upper() == "RIGHT" else 0, join)
    for join in joins:
        if join.inner is not None:
            _read_conditions(c, join.inner)
        if (on := join.node.args.get("on")) is not None:
            inside = Scope(c.scope.outer, [*join.before, *join.added], c.scope.merged)
            scope, c.frame.scope, c.frame.clause, c.frame.aggregates = c.scope, inside, "on clause", False
            try:
                join.tests.append(truth(c.single(on)))
            finally:
                c.frame.scope = scope
            scope.captured += inside.captured
    if tables.inner is not None:
        _read_conditions(c, tables.inner)


def _join(tables: Tables) -> None:
    if tables.inner is not None:
        _join(tables.inner)
        tables.sql = f"({tables.inner.sql})"
    for join in tables.joins:
        if join.inner is not None:
            _join(join.inner)
            plain = join.node.args.get("kind") == COMMA and not any(j.node.args.get("side") for j in join.inner.joins)
            join.sql = join.inner.sql if plain else f"({join.inner.sql})"
        tables.sql = _joined(join, tables.sql)


def _source(c: Compiler, node: Node, scope: Scope) -> _Made:
    """A table of FROM: its SQL with its alias, and where it is a table with rowids, that alias and its order."""
    inside = node
    while isinstance(inside, exp.Subquery) and not inside.alias:
        inside = inside.this
    if isinstance(inside, exp.Table) and inside is not node:  # a join in parentheses
        joins: list[Node] = list(node.this.args.get("joins") or ())
        if not joins:
            return _source(c, node.this, scope)
        first = node.this.copy()
        first.set("joins", None)
        inner, star = _tables(c, first, joins)
        return _Made("", star, inner=inner)
    alias = c.fresh("t")
    columns = [x.name for x in (node.args["alias"].args.get("columns") or ())] if node.args.get("alias") else []
    if isinstance(node, exp.Subquery):
        if not node.alias and not (c.lenient and isinstance(node.this, exp.Query)):
            raise MySqlError(errors.NO_ALIAS)
        query = c.query(node.this, Scope())
        source = derived(query, node.alias or alias, alias, columns)
        scope.add(source)
        return _Made(f"({query.sql}) AS {alias}", list(source.fields))
    if not isinstance(node, exp.Table) or not isinstance(node.this, exp.Identifier):
        raise NotExactError(f"{type(node).__name__.upper()} in FROM")
    if any(node.args.get(k) for k in ("pivots", "sample", "version", "when", "ordinality", "partition")):
        raise NotExactError("Such a table in FROM")
    name, database = node.name, node.text("db")
    if not database and (cte := ctes.find(c, name.lower())) is not None:
        assert cte.query is not None
        source = derived(cte.query, node.alias or name, alias, columns)
        scope.add(source)
        return _Made(f"{cte.sql} AS {alias}", list(source.fields))
    if columns:
        raise NotExactError("A table with names for its columns")
    table = c.schema.table(name, database, partial(c.asks_for_this_database, node.alias or name))
    source = Source(node.alias or name, table.database)
    for column in table.columns:
        tell = partial(column.tell, alias=alias)
        source.fields.append(Field(column.name, "", column.kind, source, required=column.required, tell=tell))
    source.keys, source.indexed = table.keys, table.indexed
    if table.count is not None:
        source.table, source.sql = table, alias
    for key in (k for hint in node.args.get("hints") or () for k in hint.expressions):
        if key.name.lower() not in table.indexes():
            raise MySqlError(f"Key '{key.name}' doesn't exist in table '{source.alias}'")
    scope.add(source)
    natural = [n.format(alias) for n in table.natural()]
    return _Made(f"{table.sql} AS {alias}", list(source.fields), alias if table.rowid else None, natural)


def derived(query: Query, alias: str, sql: str, columns: list[str]) -> Source:
    """A query as a table."""
    names = columns or query.names
    if len(names) != len(query.names):
        raise MySqlError(errors.LISTS_DIFFER)
    unique(names)
    source = Source(alias, "")
    for k, (name, term) in enumerate(zip(names, query.terms, strict=True)):
        required = term.field is not None and term.field.required and term.field.source.inner
        source.fields.append(Field(name, f"{sql}.c{k}", term.kind, source, term.letters, required))
    called = dict(zip((n.lower() for n in query.names), (n.lower() for n in names), strict=True))
    source.keys = [frozenset(called[n] for n in key) for key in query.keys]
    source.follow = [tuple(frozenset(called[n] for n in side) for side in two) for two in query.follow]  # type: ignore[misc]
    return source


def _merged(
    c: Compiler, join: Node, before: list[Source], added: list[Source], left: list[Field], right: list[Field]
) -> tuple[list[str], list[str], list[Field]]:
    """The columns of USING and NATURAL, what they ask for, and what `*` stands for.

    It is `store_natural_using_join_columns` of sql_base.cc.
    """
    side, kind = (join.args.get("side") or "").upper(), (join.args.get("kind") or "").upper()
    method = (join.args.get("method") or "").upper()
    if (
        side == "FULL"
        or kind not in ("", "INNER", "CROSS", "OUTER", "STRAIGHT_JOIN", COMMA)
        or method not in ("", "NATURAL")
    ):
        raise NotExactError("Such a join")
    if side == "LEFT":
        for source in added:
            source.inner = False
    if side == "RIGHT":
        for source in before:
            source.inner = False
    names = [i.name for i in join.args.get("using") or ()]
    if method == "NATURAL":
        theirs = {f.name.lower() for f in right}
        names = [f.name for f in left if f.name.lower() in theirs]
    if side and not names and method != "NATURAL" and join.args.get("on") is None:
        raise NotExactError("A join without ON")
    tests = [_using(c, name, side, before, added) for name in names]
    if side == "RIGHT" and names:
        left, right = right, left
    common = {name.lower() for name in names}
    star = [c.scope.merged[f.name.lower()] for f in left if f.name.lower() in common]
    return names, tests, star + [f for f in (*left, *right) if f.name.lower() not in common]


def _joined(join: Join, left: str) -> str:
    side, kind = ((join.node.args.get(word) or "").upper() for word in ("side", "kind"))
    tests, right = join.tests, join.sql
    test = f" ON {' AND '.join(f'({t})' for t in tests)}" if tests else ""
    if side == "RIGHT":
        return f"{right} LEFT JOIN {f'({left})' if len(join.before) > 1 else left}{test or ' ON 1'}"
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
