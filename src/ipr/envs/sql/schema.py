"""What a database holds, as MySQL would have it: tables, their columns' types, keys, and what the values are like.

Decided here: `schema.json` (the rows that DESC prints) gives the types; without it SQLite's declared ones do. What is
needed to answer as MySQL does, such as whether a column's texts are all plain ASCII or its dates all in ISO form, is
read from the values once, when a statement first names the column. A view that cannot be read is
refused as MySQL refuses it, and spoils nothing else.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from ipr.envs.sql import catalog, collation, dates, errors
from ipr.envs.sql.errors import MySqlError, NotExactError
from ipr.envs.sql.kinds import DBL, INT, Kind, declared
from ipr.envs.sql.names import Field, Letters
from ipr.envs.sql.plan import Index, Stored
from ipr.envs.sql.terms import Term, order_key

_STORED = """SELECT name, type FROM sqlite_master WHERE type IN ('table', 'view')
    AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"""
Row = tuple[Any, ...]
Ask = Callable[[str], list[Row]]
"""Runs a statement of ours on the database."""


@dataclass(slots=True)
class Column:
    """A column of a table."""

    name: str
    sql: str
    """Its name in SQLite's words."""
    kind: Kind
    required: bool = False
    """Whether it is declared NOT NULL."""
    look: Callable[[], tuple[str, Kind, Letters]] | None = None
    """Works out how it is read ("{}" stands for it), its type and its letters."""
    looked: tuple[str, Kind, Letters] | None = None

    def tell(self, found: Field, alias: str) -> None:
        """Gives a field what is known of the column's values."""
        if self.looked is None:
            self.looked = ("{}", self.kind, None) if self.look is None else self.look()
        form, found.kind, found.letters = self.looked
        found.sql = form.format(f"{alias}.{self.sql}")


@dataclass(slots=True)
class Table:
    """A table or view."""

    name: str
    """As MySQL prints it."""
    sql: str
    database: str
    columns: list[Column]
    keys: list[frozenset[str]] = field(default_factory=list)
    indexed: frozenset[str] = frozenset()
    """Columns with which an index begins that is no unique key: names in lower case."""
    rowid: bool = True
    view: bool = False
    order: Callable[[], list[str]] | None = None
    ordered: list[str] | None = None
    count: Callable[[], Stored] | None = None
    """Counts what the server's optimizer knows of it; None where there is no server to agree with."""
    counted: Stored | None = None

    def indexes(self) -> set[str]:
        """Names of indexes, as SHOW CREATE TABLE has them."""
        single = {name for key in self.keys for name in key if len(key) == 1}
        return {"primary", *self.indexed, *single} if self.keys else {*self.indexed}

    def natural(self) -> list[str]:
        """What the rows must be sorted by to come as InnoDB keeps them; nothing where they are as they are."""
        if self.ordered is None:
            self.ordered = self.order() if self.order is not None else []
        return self.ordered

    def stored(self) -> Stored:
        """What the server's optimizer knows of it."""
        if self.counted is None:
            assert self.count is not None
            self.counted = self.count()
        return self.counted


class Schema:
    """The tables of a database."""

    def __init__(
        self,
        name: str,
        connection: sqlite3.Connection,
        ask: Ask,
        described: Mapping[str, Sequence[Row]] | None,
        created: Mapping[str, str | None] | None,
        others: Callable[[], frozenset[str]] | None = None,
        served: bool = False,
    ) -> None:
        """`others`: names of the tables of the server's other databases, in lower case; None where nobody knows.
        `served`: whether rows come in the order in which a server would read them (see `order`)."""
        self.name = name.lower()
        self.served = served
        self._ask, self._others = ask, others
        self.stored: dict[str, str] = {}
        """Tables as SQLite calls them, by their name in lower case."""
        self.names: dict[str, str] = {}
        """Tables as they are printed: in lower case, as lower_case_table_names=1 keeps them."""
        self.info: dict[str, list[Row]] = {}
        self.views: set[str] = set()
        self.broken: set[str] = set()
        self._foreign: dict[str, list[list[str]]] = {}
        """The columns of each foreign key of a table, in lower case, in the order in which they are declared."""
        found = connection.execute(_STORED).fetchall()
        for stored, kind in sorted(found, key=lambda r: r[0].lower()):
            try:
                rows = connection.execute(f"PRAGMA table_info({_quoted(stored)})").fetchall()
            except sqlite3.Error:
                if kind == "table":
                    raise
                self.broken.add(stored.lower())
                self.names[stored.lower()] = stored.lower()
                continue
            lower = stored.lower()
            self.stored[lower], self.info[lower] = stored, rows
            self.names[lower] = lower
            if kind == "view":
                self.views.add(lower)
            elif keys := connection.execute(f"PRAGMA foreign_key_list({_quoted(stored)})").fetchall():
                numbers = sorted({key[0] for key in keys}, reverse=True)
                self._foreign[lower] = [[key[3].lower() for key in keys if key[0] == n] for n in numbers]
        self.created = created
        """What SHOW CREATE TABLE prints, where a dump has said it (see `convert`)."""
        self.described = {t.lower(): list(rows) for t, rows in (described or {}).items()}
        self._tables: dict[str, Table] = {}
        self._counts: dict[str, int] = {}

    # Tables ----------------------------------------------------------------------------------------------------------

    def table(self, name: str, database: str, ours: Callable[[], bool]) -> Table:
        """A table by its name. `ours`: whether a statement asks information_schema of this database only."""
        lower = name.lower()
        if database.lower() == "information_schema":
            return catalog.table(self, lower, ours())
        self.check_name(database)
        self.known(name)
        if lower not in self._tables:
            self._tables[lower] = self._table(lower)
        return self._tables[lower]

    def check_name(self, database: str) -> None:
        """Raises MySqlError for the name of a database that is not this one."""
        if database.lower() in catalog.SYSTEM:
            raise NotExactError(f"What the database {database.lower()} holds")
        if database and database.lower() != self.name.lower():
            raise MySqlError(f"Unknown database '{database.lower()}'")

    def elsewhere(self, table: str) -> bool:
        """Whether another database of the server may have a table of this name."""
        name = table.lower()
        return self._others is None or bool(catalog.SERVERS.fullmatch(name)) or name in self._others()

    def beside(self, table: Table) -> Schema:
        """The same with one more table."""
        found = copy(self)
        found.stored = {**self.stored, table.name: table.name}
        found._tables = {**self._tables, table.name: table}
        return found

    def known(self, name: str) -> None:
        """Raises MySqlError for a table that is not there, or a view that cannot be read."""
        if name.lower() in self.broken:
            raise MySqlError(
                f"View '{self.name}.{name.lower()}' references invalid table(s) or column(s) or function(s) or"
                " definer/invoker of view lack rights to use them"
            )
        if name.lower() not in self.stored:
            raise errors.no_table(self.name, name)

    def _table(self, lower: str) -> Table:
        rows = self.describe(lower)
        kinds = {row[0].lower(): declared(str(row[1])) for row in rows}
        required = {row[0].lower() for row in rows if row[2] == "NO"}
        columns = []
        for _, name, stored, *_ in self.info[lower]:
            kind = kinds.get(name.lower()) or declared(stored)
            column = Column(name, _quoted(name), kind, name.lower() in required)
            column.look = self._looker(lower, column, stored, {r[0].lower(): str(r[1]) for r in rows})
            columns.append(column)
        keys = [frozenset(r[0].lower() for r in rows if r[3] == "PRI")]
        keys += [frozenset((r[0].lower(),)) for r in rows if r[3] == "UNI" and r[2] == "NO"]
        view = lower in self.views
        table = Table(self.names[lower], _quoted(self.stored[lower]), self.name, columns, [k for k in keys if k])
        table.rowid, table.view = not view, view
        unique = {r[0].lower() for r in rows if r[3] == "UNI"}
        table.indexed = frozenset(n[0] for n, _, primary in self._indexes(lower, rows) if not primary) - unique
        if keys[0] and not view:
            table.order = lambda: self._order(table, keys[0])
        if self.served and lower in self.described and not view:
            table.count = lambda: self._stored(table, rows)
        return table

    def describe(self, lower: str) -> list[Row]:
        """DESC: field, type, null, key, default, extra."""
        if lower in self.described:
            return self.described[lower]
        keys = {row[5]: row[1] for row in self.info[lower] if row[5]}
        rows = []
        for _, column, kind, not_null, default, key in self.info[lower]:
            kind = kind.lower() or "text"
            missing = not_null or (key and keys)
            default, extra = _default(default)
            rows.append((column, kind, "NO" if missing else "YES", "PRI" if key else "", default, extra))
        return rows

    def printed(self, lower: str) -> list[Row]:
        """`describe`, where what it tells is MySQL's: the types of a view's columns are only known as SQLite's."""
        computed = any(not row[2] for row in self.info[lower])
        if lower in self.views and lower not in self.described and (computed or self.described):
            raise NotExactError(f"The types of the view {lower}")
        return self.describe(lower)

    def refers(self, lower: str) -> bool:
        """Whether a table has foreign keys."""
        return lower in self._foreign

    def next_number(self, lower: str) -> int | None:
        """What AUTO_INCREMENT gives the next row of a table that is not empty."""
        column = next((row[0] for row in self.describe(lower) if "auto_increment" in str(row[5]).lower()), None)
        if column is None:
            return None
        most = self._ask(f"SELECT max({_quoted(column)}) FROM {_quoted(self.stored[lower])}")[0][0]
        return most + 1 if isinstance(most, int) else None

    def _order(self, table: Table, key: frozenset[str]) -> list[str]:
        place = {row[1]: row[5] for row in self.info[table.name]}
        columns = sorted((c for c in table.columns if c.name.lower() in key), key=lambda c: place[c.name])
        names = ", ".join(order_key(Term(c.sql, c.kind)) if c.kind.members else c.sql for c in columns)
        rows = self._ask(f"SELECT {names} FROM {table.sql} ORDER BY rowid")
        found = [tuple(collation.key(v) if isinstance(v, str) else v for v in row) for row in rows]
        try:
            if all(a <= b for a, b in pairwise(found)):
                return []
        except TypeError:
            return []
        return [order_key(Term(f"{{0}}.{c.sql}", c.kind)) for c in columns]

    def counted(self, sql: str) -> int:
        """How many rows a statement of ours counts."""
        if sql not in self._counts:
            self._counts[sql] = self._ask(sql)[0][0]
        return self._counts[sql]

    def _indexes(self, lower: str, rows: Sequence[Row]) -> list[tuple[list[str], bool, bool]]:
        """A table's indexes as the server has them: names of columns, whether unique and never NULL, whether primary.

        DESC tells of keys, but not of each: InnoDB makes an index for a foreign key where none begins with its columns.
        """
        place = {info[1].lower(): info[5] or 99 for info in self.info[lower]}
        foreign = self._foreign.get(lower, []) if lower in self.described else []
        found: list[tuple[list[str], bool, bool]] = []
        if primary := sorted((r[0].lower() for r in rows if r[3] == "PRI"), key=lambda n: place[n]):
            found.append((primary, True, True))
        for unique, null in (("UNI", "NO"), ("UNI", "YES"), ("MUL", "")):
            for row in rows:
                name = row[0].lower()
                made = not null and any(key[0] == name for key in foreign)
                if row[3] == unique and null in ("", row[2]) and not made:
                    found.append(([name], null == "NO", False))
        for key in foreign:
            if not any(names[: len(key)] == key for names, _, _ in found):
                found.append((key, False, False))
        return found

    def _stored(self, table: Table, rows: Sequence[Row]) -> Stored:
        """What InnoDB counts of a table: rows, pages, and for each index how many rows have one value."""
        sql = {c.name.lower(): c.sql for c in table.columns}
        count = self.counted(f"SELECT count(*) FROM {table.sql}")
        length = {r[0].lower(): _length(str(r[1])) + (r[2] != "NO") for r in rows}
        indexes = []
        for names, unique, primary in self._indexes(table.name, rows):
            each = []
            for n in range(1, len(names) + 1):
                listed = ", ".join(sql[name] for name in names[:n])
                different = self.counted(f"SELECT count(*) FROM (SELECT DISTINCT {listed} FROM {table.sql})")
                each.append(max(1.0, count / max(different, 1)))
            indexes.append(Index(tuple(names), unique, primary, sum(length[n] for n in names), tuple(each)))
        bytes_ = " + ".join(f"ifnull(length({c.sql}), 0)" for c in table.columns)
        size = self.counted(f"SELECT total({bytes_} + 24) FROM {table.sql}")
        widths = {r[0].lower(): 65_537 if "text" in str(r[1]).lower() else _length(str(r[1])) for r in rows}
        return Stored(count, max(1, round(size / 15_000 + 0.5)), indexes, widths)

    # Values ----------------------------------------------------------------------------------------------------------

    def _looker(
        self, lower: str, column: Column, stored: str, types: Mapping[str, str]
    ) -> Callable[[], tuple[str, Kind, Letters]]:
        # The different values are found here: of long ones SQLite's memory would not hold them all.
        sql = f"SELECT {column.sql} FROM {_quoted(self.stored[lower])}"
        kind = column.kind

        def look() -> tuple[str, Kind, Letters]:
            if kind.number:
                wrong = "'text', 'blob', 'real'" if kind.name == "int" else "'text', 'blob'"
                test = f"typeof({column.sql}) IN ({wrong})"
                if not self._ask(f"SELECT 1 FROM {_quoted(self.stored[lower])} WHERE {test} LIMIT 1"):
                    return "{}", kind, None
                values = [v for v in dict.fromkeys(v for (v,) in self._ask(sql)) if v is not None]
                if all(isinstance(v, (int, float)) for v in values):
                    return "to_integer({})", kind, None
                if lower in self.described and all(isinstance(v, (int, float, str)) for v in values):
                    return "num({})", kind, None
                return "CAST({} AS TEXT)", Kind("str"), _letters(list(map(str, values)))
            values = [v for v in dict.fromkeys(v for (v,) in self._ask(sql)) if v is not None]
            if kind.temporal:
                return _dated(kind, values)
            if kind.name == "bin":
                return "{}", kind, None
            bare = lower not in self.described and not _TEXTUAL.search(stored)  # such as NUMBER(8), or no type at all
            if values and bare and all(isinstance(v, (int, float)) for v in values):
                return "{}", INT if all(isinstance(v, int) for v in values) else DBL, None
            form = "{0}"
            if not all(isinstance(v, str) for v in values):
                values = [
                    v if isinstance(v, str) else v.decode(errors="replace") if isinstance(v, bytes) else str(v)
                    for v in values
                ]
                form = "CASE typeof({0}) WHEN 'real' THEN text_of({0}, NULL) ELSE CAST({0} AS TEXT) END"
            if types.get(column.name.lower(), stored).lower().startswith("char") and any(
                v.endswith(" ") for v in values
            ):
                form = f"rtrim(({form}), ' ')"
            return form, kind, _letters(values)

        return look


_TEXTUAL = re.compile("char|text|clob|string", re.IGNORECASE)
_FORMS = {"date": re.compile(r"\d{4}-\d\d-\d\d"), "dt": re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")}


def _dated(kind: Kind, values: list[Any]) -> tuple[str, Kind, Letters]:
    """Dates as ISO text; where some are no dates, MySQL could not hold them, and they stay texts."""
    form = _FORMS.get(kind.name)
    if form is not None and all(isinstance(v, str) and form.fullmatch(v) for v in values):
        return "{}", kind, None
    if kind.name == "time" and all(isinstance(v, str) and re.fullmatch(r"-?\d\d+:\d\d:\d\d", v) for v in values):
        return "{}", kind, None
    if form is not None and all(dates.moment(v) is not None for v in values):
        return ("as_date({})" if kind.name == "date" else "as_datetime({})"), kind, None
    return "CAST({} AS TEXT)", Kind("str"), _letters(list(map(str, values)))


def _letters(values: list[str]) -> Letters:
    found = frozenset().union(*values)
    return found if found <= collation.PLAIN else None


_BYTES = {
    "tinyint": 1,
    "smallint": 2,
    "mediumint": 3,
    "int": 4,
    "integer": 4,
    "float": 4,
    "date": 3,
    "datetime": 5,
    "enum": 1,
    "set": 1,
    "year": 1,
}


def _length(kind: str) -> int:
    """Bytes of a type's values in an index, about."""
    word, _, rest = kind.lower().partition("(")
    size = rest.split(")")[0]
    if word in ("char", "varchar"):
        return 4 * int(size if size.isdigit() else 1) + 2 * (word == "varchar")
    return _BYTES.get(word, 802 if "text" in word else 8)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _default(text: str | None) -> tuple[str | None, str]:
    """Default and extra of DESC, of a default as SQLite keeps it: SQL."""
    if text is None or text.upper() == "NULL":
        return None, ""
    if text.upper().startswith("CURRENT_TIMESTAMP"):
        return "CURRENT_TIMESTAMP", "DEFAULT_GENERATED"
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    return (text[1:-1].replace(2 * text[0], text[0]) if quoted else text), ""
