"""What a name in a statement means: tables, their columns, and the scopes of nested queries.

Decided here: every table gets an alias of its own in SQLite's statement, so that no name of the statement can be taken
for another one there. A scope in which rows are grouped reads from a subquery that numbers the rows (`Scope.export`):
MySQL's groups come in the order in which they were first seen, SQLite's in the order of their keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ipr.envs.sql import errors
from ipr.envs.sql.errors import MySqlError
from ipr.envs.sql.kinds import Kind

if TYPE_CHECKING:
    from ipr.envs.sql.schema import Table

Letters = frozenset[str] | None
"""The characters of a text, all of them plain ASCII (see `collation.PLAIN`); None where others may be among them."""


@dataclass(eq=False, slots=True)
class Field:
    """A column of a source."""

    name: str
    sql: str
    kind: Kind
    source: Source
    letters: Letters = None
    required: bool = False
    """Whether it is declared NOT NULL."""
    tell: Callable[[Field], None] | None = None
    """Gives it what is known of its values, the first time that it is used."""

    def used(self) -> Field:
        if self.tell is not None:
            tell, self.tell = self.tell, None
            tell(self)
        return self


@dataclass(eq=False, slots=True)
class Source:
    """A table, view or derived table of FROM."""

    alias: str
    """As the statement calls it."""
    database: str
    fields: list[Field] = field(default_factory=list)
    keys: list[frozenset[str]] = field(default_factory=list)
    """Unique keys without NULL: column names in lower case."""
    follow: list[tuple[frozenset[str], frozenset[str]]] = field(default_factory=list)
    """Columns from which others follow, though rows share them: names in lower case."""
    indexed: frozenset[str] = frozenset()
    """Columns with which an index begins, by name in lower case."""
    inner: bool = True
    """Whether no outer join can make it NULL."""
    table: Table | None = None
    """The table, where it is one of which the server's order is known."""
    sql: str = ""
    """The table's alias in SQLite's words."""
    looked: str = ""
    """Where it is the table of a query inside IN: how its row is found, from FROM on."""

    def covered(self, name: str) -> bool:
        """Whether all columns that are used are in the index of one, which holds the primary key too."""
        return name in self.indexed and self.used() <= {name, *(self.keys[0] if self.keys else ())}

    def used(self) -> set[str]:
        return {f.name.lower() for f in self.fields if f.tell is None}

    def find(self, name: str) -> Field | None:
        name = name.lower()
        return next((f for f in self.fields if f.name.lower() == name), None)


@dataclass(eq=False, slots=True)
class Scope:
    """The sources that a query's expressions see, and the query around it."""

    outer: Scope | None = None
    sources: list[Source] = field(default_factory=list)
    merged: dict[str, Field] = field(default_factory=dict)
    """Columns that USING and NATURAL made one: name in lower case -> the one."""
    star: list[Field] = field(default_factory=list)
    """What `*` stands for."""
    captured: list[Field] = field(default_factory=list)
    """Columns of queries around this one that it reads."""
    export: dict[Field, str] | None = None
    """Column -> its name in the numbered subquery, where rows are grouped."""
    numbered: str = ""
    """The numbered subquery's alias."""

    def sql(self, column: Field) -> str:
        if self.export is None:
            return column.sql
        name = self.export.setdefault(column, f"c{len(self.export)}")
        return f"{self.numbered}.{name}"

    def add(self, source: Source) -> None:
        if any(s.alias.lower() == source.alias.lower() for s in self.sources):
            raise MySqlError(f"Not unique table/alias: '{source.alias}'")
        self.sources.append(source)

    def named(self, alias: str, database: str = "") -> Source | None:
        alias, database = alias.lower(), database.lower()
        for source in self.sources:
            if source.alias.lower() == alias and database in ("", source.database.lower()):
                return source
        return None

    def find(self, name: str, table: str, database: str, clause: str) -> tuple[Field, Scope]:
        """A column by its name and, where it is given, its table's: in this scope, then in those around it."""
        scope: Scope | None = self
        while scope is not None:
            if (found := scope._own(name, table, database, clause)) is not None:
                inner: Scope | None = self
                while inner is not None and inner is not scope:
                    inner.captured.append(found)
                    inner = inner.outer
                return found.used(), scope
            scope = scope.outer
        full = ".".join(part for part in (database.lower(), table, name) if part)
        raise errors.no_column(full, clause)

    def _own(self, name: str, table: str, database: str, clause: str) -> Field | None:
        if table:
            source = self.named(table, database)
            return None if source is None else source.find(name)
        found = self.candidates(name)
        if len(found) > 1:
            raise errors.ambiguous(name, clause)
        return found[0] if found else None

    def candidates(self, name: str) -> list[Field]:
        """The columns of this scope's tables that a bare name may mean."""
        if name.lower() in self.merged:
            return [self.merged[name.lower()]]
        return [f for source in self.sources if (f := source.find(name)) is not None]


def unique(names: Iterable[str]) -> None:
    """A derived table's columns have different names."""
    seen: set[str] = set()
    for name in names:
        if name.lower() in seen:
            raise MySqlError(f"Duplicate column name '{name}'")
        seen.add(name.lower())


def full_name(column: Field) -> str:
    return ".".join(p for p in (column.source.database, column.source.alias, column.name) if p)
