"""SHOW and DESC, from what is known of a database.

Decided here: what the server alone knows (how many rows it guesses, when a table was made, its variables) is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ipr.envs.sql.catalog import COLLATION, PRIVILEGES, SIZES, SYSTEM
from ipr.envs.sql.errors import MySqlError, NotExactError
from ipr.envs.sql.kinds import declared
from ipr.envs.sql.lexer import Word
from ipr.envs.sql.matching import like

if TYPE_CHECKING:
    from ipr.envs.sql.schema import Schema

Row = tuple[Any, ...]


class _Reader:
    """Words from left to right, of a statement that the grammar has read."""

    def __init__(self, words: list[Word]) -> None:
        self._words, self._at = words, 1

    def take(self, *wanted: str) -> str:
        """The next word in upper case if it is one of these; "" if not."""
        word = self._words[self._at]
        found = next(iter(word.kinds.intersection(wanted)), "")
        self._at += bool(found)
        return found

    def name(self) -> str:
        return named(self._next())

    def _next(self) -> str:
        self._at += 1
        return self._words[self._at - 1].text

    def table(self) -> tuple[str, str]:
        """Database ("" where it is not said) and table."""
        name = self.name()
        return (name, self.name()) if self.take(".") else ("", name)

    def pattern(self) -> str | None:
        """What LIKE asks for."""
        return text_of(self._next()) if self.take("LIKE") else None

    def where(self) -> int | None:
        """Where a WHERE begins in the statement, if it comes next."""
        word = self._words[self._at]
        return word.start if "WHERE" in word.kinds else None

    def last(self) -> str | None:
        """A name or pattern, where there is still one."""
        if self.take("last", ";"):
            return None
        word = self._words[self._at]
        return text_of(word.text) if "TEXT" in word.kinds else named(word.text)

    def rest(self) -> str:
        return " ".join(w.text.upper() for w in self._words[1:-1])


def named(text: str) -> str:
    return text[1:-1].replace("``", "`") if text.startswith("`") else text


def text_of(text: str) -> str:
    quote = text[0]
    return text[1:-1].replace(quote * 2, quote)


@dataclass(frozen=True, slots=True)
class Shown:
    """What a SHOW shows, before its WHERE."""

    names: list[str]
    rows: list[Row]
    where: int | None = None
    """Where the WHERE begins in the statement."""


def show(schema: Schema, words: list[Word]) -> Shown:
    """What a SHOW statement shows."""
    reader = _Reader(words)
    reader.take("EXTENDED")
    full = bool(reader.take("FULL"))
    match reader.take(*_SHOWN):
        case "TABLES":
            _check_database(schema, reader)
            return _tables(schema, full, reader.pattern(), reader.where())
        case "COLUMNS" | "FIELDS":
            table = _table(schema, reader, "FROM", "IN")
            names = [name for name in _FIELDS if full or name not in _FULL]
            return Shown(names, columns(schema, table, full, reader.pattern()), reader.where())
        case "INDEX" | "INDEXES" | "KEYS":
            schema.known(_table(schema, reader, "FROM", "IN"))
        case "CREATE" if reader.take("TABLE"):
            return Shown([], [create_table(schema, _table(schema, reader))])
        case "CREATE" if reader.take("VIEW"):
            name = _table(schema, reader)
            schema.known(name)
            if name.lower() not in schema.views:
                raise MySqlError(f"'{schema.name}.{name.lower()}' is not VIEW")
        case "CREATE" if reader.take("DATABASE", "SCHEMA"):
            exists = reader.take("IF") and reader.take("NOT") and reader.take("EXISTS")
            schema.check_name(name := reader.name())
            return Shown([], [(name, _created(schema.name, bool(exists)))])
        case "DATABASES" | "SCHEMAS" if (wanted := reader.pattern()) is not None and "%" not in wanted:
            if wanted.lower() not in SYSTEM:
                return Shown([], [(schema.name,)] if _like(schema.name, wanted) else [])
        case "TRIGGERS" | "EVENTS":
            _check_database(schema, reader)
            return Shown([], [])
        case "TABLE" if reader.take("STATUS"):
            _check_database(schema, reader)
            wanted = reader.pattern()
            if wanted is not None and not _tables(schema, False, wanted, None).rows:
                return Shown([], [])
    raise NotExactError(f"SHOW {reader.rest()}")


_FIELDS = ("Field", "Type", "Collation", "Null", "Key", "Default", "Extra", "Privileges", "Comment")
_FULL = ("Collation", "Privileges", "Comment")
_SHOWN = (
    *("TABLES", "COLUMNS", "FIELDS", "INDEX", "INDEXES", "KEYS", "CREATE", "DATABASES", "SCHEMAS"),
    *("TRIGGERS", "EVENTS", "TABLE"),
)


def _tables(schema: Schema, full: bool, pattern: str | None, where: int | None) -> Shown:
    found = {t: "VIEW" if low in schema.views | schema.broken else "BASE TABLE" for low, t in schema.names.items()}
    rows = [row if full else row[:1] for row in sorted(found.items()) if _like(row[0], pattern)]
    first = f"Tables_in_{schema.name}" + (f" ({pattern})" if pattern is not None else "")
    return Shown([first, "Table_type"] if full else [first], rows, where)


def _created(name: str, exists: bool) -> str:
    said = f"CREATE DATABASE {'/*!32312 IF NOT EXISTS*/ ' * exists}`{name}`"
    return f"{said} /*!40100 DEFAULT CHARACTER SET utf8mb4 COLLATE {COLLATION} */ /*!80016 DEFAULT ENCRYPTION='N' */"


def _check_database(schema: Schema, reader: _Reader) -> None:
    if reader.take("FROM", "IN"):
        schema.check_name(reader.name())


def _table(schema: Schema, reader: _Reader, *before: str) -> str:
    """A table by its name, which may say its database in two ways."""
    reader.take(*before)
    database, name = reader.table()
    if before:
        _check_database(schema, reader)
    schema.check_name(database)
    return name


def _like(name: str, pattern: str | None) -> bool:
    return pattern is None or bool(like(name, pattern, "\\", 0))


def explained(words: list[Word]) -> int | None:
    """Where the query of an EXPLAIN begins; None for DESC of a table."""
    if "IDENT" in words[1].kinds and words[2].text != "=":
        return None
    found = (w.start for w in words[1:] if w.kinds & {"SELECT", "WITH", "TABLE", "VALUES", "("})
    return next(found, 0)


def describe(schema: Schema, words: list[Word]) -> list[Row]:
    """DESC table [column | 'pattern']."""
    reader = _Reader(words)
    return columns(schema, _table(schema, reader), pattern=reader.last())


def used(schema: Schema, words: list[Word]) -> None:
    """USE database: raises MySqlError for another than this."""
    schema.check_name(_Reader(words).name())


def columns(schema: Schema, name: str, full: bool = False, pattern: str | None = None) -> list[Row]:
    """DESC and SHOW COLUMNS."""
    schema.known(name)
    rows = [row for row in schema.printed(name.lower()) if _like(row[0], pattern)]
    if not full:
        return rows
    found = []
    for column, kind, null, key_, default, extra in rows:
        words = COLLATION if declared(str(kind)).name == "str" else None
        found.append((column, kind, words, null, key_, default, extra, PRIVILEGES, ""))
    return found


def create_table(schema: Schema, name: str) -> Row:
    """SHOW CREATE TABLE, as MySQL 8 prints a table with these columns and keys.

    Foreign keys are not in what DESC prints, and their names nowhere: a table that has some is refused.
    """
    schema.known(name)
    lower = name.lower()
    if lower in schema.views:
        raise NotExactError("SHOW CREATE TABLE of a view")
    if schema.created is not None:
        if (created := schema.created.get(lower)) is None:
            raise NotExactError("SHOW CREATE TABLE of a dump that is not in MySQL 8's own words")
        return name, created
    if schema.refers(lower):
        raise NotExactError("SHOW CREATE TABLE of a table with foreign keys")
    lines, primary, indexed = [], [], []
    for column, kind, null, key_, default, extra in schema.describe(lower):
        line = f"  `{column}` {kind}"
        if null == "NO":
            line += " NOT NULL"
        elif str(kind).lower().startswith("timestamp"):
            line += " NULL"
        text = str(kind).lower() in SIZES
        computed, extra = "DEFAULT_GENERATED" in extra, str(extra).replace("DEFAULT_GENERATED", "").strip()
        if default is not None:
            quoted = "'" + str(default).replace("'", "''") + "'"
            line += f" DEFAULT {default if computed else quoted}"
        elif null == "YES" and not text:
            line += " DEFAULT NULL"
        if extra:
            line += f" {str(extra).upper()}"
        lines.append(line)
        if key_ == "PRI":
            primary.append(f"`{column}`")
        elif key_:
            indexed.append(f"  {'UNIQUE ' if key_ == 'UNI' else ''}KEY `{column}` (`{column}`)")
    if primary:
        lines.append(f"  PRIMARY KEY ({','.join(primary)})")
    lines += indexed
    body = ",\n".join(lines)
    after = f" AUTO_INCREMENT={counted}" if (counted := schema.next_number(lower)) else ""
    end = f"ENGINE=InnoDB{after} DEFAULT CHARSET=utf8mb4 COLLATE={COLLATION}"
    return name, f"CREATE TABLE `{schema.names[lower]}` (\n{body}\n) {end}"
