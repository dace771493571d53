"""What the compiler knows of the query that it is in, and what a name means there.

HAVING knows the select list and GROUP BY, ORDER BY the select list first, all others the tables alone
(https://dev.mysql.com/doc/refman/8.0/en/problems-with-alias.html).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sqlglot import exp

from ipr.envs.sql import errors
from ipr.envs.sql.catalog import SYSTEM
from ipr.envs.sql.errors import MySqlError
from ipr.envs.sql.filesort import Sorting
from ipr.envs.sql.names import Field, Scope
from ipr.envs.sql.schema import Schema
from ipr.envs.sql.terms import Term

if TYPE_CHECKING:
    from ipr.envs.sql.ctes import Cte

Node = exp.Expr


@dataclass(slots=True)
class Query:
    """A compiled query."""

    sql: str
    names: list[str]
    terms: list[Term]
    """Its columns, of which kind and letters are of use."""
    one_row: bool = False
    limited: bool = False
    keys: list[frozenset[str]] = field(default_factory=list)
    """Names of columns that no two rows share."""
    follow: list[tuple[frozenset[str], frozenset[str]]] = field(default_factory=list)
    """Names of columns, and of those that follow from them."""
    unsorted: tuple[str, Sorting] | None = None
    """The same before ORDER BY and LIMIT, with columns to sort by, and how."""


@dataclass(slots=True)
class Item:
    """A column of the select list."""

    name: str
    term: Term
    windowed: bool = False
    """Whether a window function is in it."""


@dataclass(slots=True)
class Frame:
    """What the compiler knows of the query that it is in."""

    scope: Scope
    clause: str = "field list"
    beside_query: bool = False
    """Whether it is in what is compared with a query's rows, which errors call a clause of its own."""
    aggregates: bool = False
    """Whether aggregates may stand here."""
    depth: int = 0
    """Aggregates around the present expression."""
    grouped: bool = False
    keys: frozenset[str] = frozenset()
    """SQL of the expressions of GROUP BY."""
    rolled: frozenset[str] = frozenset()
    """Those of them that a row of WITH ROLLUP sums up."""
    items: list[Item] = field(default_factory=list)
    """The select list, where its names may be used."""
    ctes: dict[str, Cte] = field(default_factory=dict)
    with_: list[str] = field(default_factory=list)
    """SQLite's WITH."""
    groups: list[Term] = field(default_factory=list)
    windows: dict[tuple[str, ...], None] = field(default_factory=dict)
    """What each window sorts the rows by, those alike once."""
    sorted: list[tuple[int, str, Term]] = field(default_factory=list)
    """What PARTITION BY and ORDER BY of windows say: place, the window as it is called, expression."""
    node: Node | None = None
    columns: int = 0
    """How many columns the place of a query takes; 0 for any."""
    limits: bool = True
    """Whether it may have a LIMIT there."""

    def check_place(self, columns: int, limited: bool) -> None:
        if limited and not self.limits:
            raise MySqlError(errors.LIMIT_IN)
        if self.columns and columns != self.columns:
            raise errors.operand(self.columns)


class Names:
    """The part of a compiler that knows names."""

    def __init__(self, schema: Schema, statement: str, lenient: bool = False) -> None:
        self.schema, self.statement = schema, statement
        self.lenient = lenient
        """Whether groups may show any of their rows, as without ONLY_FULL_GROUP_BY."""
        self.frames: list[Frame] = []
        self._names = 0
        self._blamed = 0

    # What expressions ask of it ------------------------------------------------------------------------------------

    @property
    def frame(self) -> Frame:
        return self.frames[-1]

    @property
    def scope(self) -> Scope:
        return self.frame.scope

    @property
    def clause(self) -> str:
        return self.frame.clause

    @property
    def said(self) -> str:
        """The clause as errors call it."""
        return "IN/ALL/ANY subquery" if self.frame.beside_query else self.frame.clause

    @property
    def grouping(self) -> bool:
        return self.frame.grouped

    def fresh(self, letter: str) -> str:
        self._names += 1
        return f"{letter}{self._names}"

    @contextmanager
    def inside_aggregate(self) -> Iterator[None]:
        if not self.frame.aggregates or self.frame.depth:
            raise MySqlError(errors.GROUP_MISUSED)
        self.frame.depth += 1
        try:
            yield
        finally:
            self.frame.depth -= 1

    @contextmanager
    def beside_query(self) -> Iterator[None]:
        before, self.frame.beside_query = self.frame.beside_query, True
        try:
            yield
        finally:
            self.frame.beside_query = before

    def grouped(self, term: Term) -> Term:
        """A term that is one of GROUP BY's expressions has no loose columns, and is NULL where it is summed up."""
        if term.loose and term.sql in self.frame.keys and not self.frame.depth:
            if term.sql in self.frame.rolled:
                return Term("NULL", term.kind, term.letters)
            term.loose = ()
        return term

    def column(self, node: Node) -> Term:
        name, table, database = node.name, node.text("table"), node.text("db")
        frame = self.frame
        if frame.clause == "having clause" and not frame.depth:
            return self._in_having(name, table, database)
        later = frame.clause in ("having clause", "order clause")
        alone = not table and later and not self.scope.candidates(name)
        if alone and (item := self.item(name)) is not None:
            if frame.depth and item.term.one:
                raise MySqlError(errors.GROUP_MISUSED)
            return item.term
        return self._found(name, table, database)

    def _found(self, name: str, table: str, database: str) -> Term:
        found, scope = self.scope.find(name, table, database, self.said)
        return Term(scope.sql(found), found.kind, found.letters, loose=(found,), field=found)

    def item(self, name: str) -> Item | None:
        """A column of the select list by its name."""
        place = self.selected(name, ((i.name, i.term.field) for i in self.frame.items))
        return None if place is None else self.frame.items[place]

    def selected(self, name: str, items: Iterable[tuple[str, Field | None]]) -> int | None:
        """The place in a select list that a bare name means there (`find_item_in_list` of the server's sql_base.cc).

        `items`: their names, and the columns that those are which are nothing else.
        """
        found: dict[Field, int] = {}
        for place, (called, column) in enumerate(items):
            if called.lower() != name.lower():
                continue
            if column is None:
                return place
            found.setdefault(column, place)
            if len(found) > 1:
                raise errors.ambiguous(name, self.said)
        return next(iter(found.values()), None)

    def _in_having(self, name: str, table: str, database: str) -> Term:
        if not table and (item := self.item(name)) is not None:
            if item.windowed:
                raise MySqlError(
                    f"You cannot use the alias '{name}' of an expression containing a window function in this context.'"
                )
            return item.term
        full = ".".join(p for p in (database.lower(), table, name) if p)
        if not table and len(self.scope.candidates(name)) > 1:
            raise errors.no_column(full, self.said)
        found, scope = self.scope.find(name, table, database, self.said)
        known = [i.term.field for i in self.frame.items] + [t.field for t in self.frame.groups]
        if scope is self.scope and not any(found is k for k in known):
            raise errors.no_column(full, self.said)
        return Term(scope.sql(found), found.kind, found.letters, loose=(found,), field=found)

    def asks_for_this_database(self, alias: str) -> bool:
        """Whether the query around says which database it asks a table of information_schema about.

        It names it, or compares it with that of another such table. A name that is not this database's has no rows.
        Or it names tables that no other database of the server has.
        """
        node = self.frame.node
        if node is None:
            return False
        where = [node.args["where"].this] if node.args.get("where") is not None else []
        where += [join.args["on"] for join in node.args.get("joins") or () if join.args.get("on") is not None]
        parts = [part for one in where for part in (one.flatten() if isinstance(one, exp.And) else [one])]
        return any(_says_database(part, alias.lower()) or self._says_table(part, alias.lower()) for part in parts)

    def _says_table(self, node: Node, alias: str) -> bool:
        node = node.unnest()
        if isinstance(node, exp.Or):
            return all(self._says_table(part, alias) for part in node.flatten())
        found = _compared(node, alias, "table_name")
        texts = [s.name for s in found or () if isinstance(s, exp.Literal) and s.is_string]
        return bool(texts) and len(texts) == len(found or ()) and not any(map(self.schema.elsewhere, texts))


def _compared(node: Node, alias: str, *names: str) -> list[Node] | None:
    """What a column of one of these names is equal to; None where the condition is another."""
    if not isinstance(node, (exp.EQ, exp.In, exp.Like)):
        return None
    sides = [node.this, *(node.expressions if isinstance(node, exp.In) else [node.expression])]
    columns = [s for s in sides if isinstance(s, exp.Column) and s.name.lower() in names]
    if not any(column.table.lower() in ("", alias) for column in columns):
        return None
    said = [s for s in sides if s not in columns]
    patterns = said if isinstance(node, exp.Like) else ()
    return None if any(re.search("[%_]", s.name) for s in patterns if isinstance(s, exp.Literal)) else said


def _says_database(node: Node, alias: str) -> bool:
    said = _compared(node.unnest(), alias, "table_schema", "schema_name")
    if said is None:
        return False
    texts = [s.name for s in said if isinstance(s, exp.Literal) and s.is_string]
    if any(text.lower() in SYSTEM for text in texts):
        return False
    calls = [s for s in said if isinstance(s, exp.Anonymous) and str(s.this).upper() in ("DATABASE", "SCHEMA")]
    return len(texts) + len(calls) == len(said)
