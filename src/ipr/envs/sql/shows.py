"""SHOW and DESC, from what is known of a database.

Decided here: what the server alone knows (how many rows it guesses, when a table was made, its variables) is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ipr.envs.sql.catalog import COLLATION, PRIVILEGES, SIZES
from ipr.envs.sql.errors import MySqlError, NotExactError, no_table
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
        if self.take("WHERE"):
            raise NotExactError("SHOW with WHERE")
        return text_of(self._next()) if self.take("LIKE") else None

    def is_name(self) -> bool:
        word, after = self._words[self._at : self._at + 2]
        return "IDENT" in word.kinds and after.text != "="

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


def show(schema: Schema, words: list[Word]) -> list[Row]:
    """The rows of a SHOW statement."""
    reader = _Reader(words)
    reader.take("EXTENDED")
    full = bool(reader.take("FULL"))
    match reader.take("TABLES", "COLUMNS", "FIELDS", "INDEX", "INDEXES", "KEYS", "CREATE", "DATABASES", "SCHEMAS"):
        case "TABLES":
            _check_database(schema, reader)
            wanted = reader.pattern()
            rows = [
                (t, "VIEW" if low in schema.views | schema.broken else "BASE TABLE") for low, t in schema.names.items()
            ]
            rows.sort(key=lambda r: r[0])
            return [r if full else r[:1] for r in rows if _like(r[0], wanted)]
        case "COLUMNS" | "FIELDS":
            table = _table(schema, reader, "FROM", "IN")
            return columns(schema, table, full, reader.pattern())
        case "INDEX" | "INDEXES" | "KEYS":
            schema.known(_table(schema, reader, "FROM", "IN"))
        case "CREATE" if reader.take("TABLE"):
            return [create_table(schema, _table(schema, reader))]
        case "DATABASES" | "SCHEMAS" if (wanted := reader.pattern()) is not None:
            return [(schema.name,)] if _like(schema.name, wanted) else []
    raise NotExactError(f"SHOW {reader.rest()}")


def _check_database(schema: Schema, reader: _Reader) -> None:
    if reader.take("FROM", "IN") and (database := reader.name().lower()) != schema.name.lower():
        raise MySqlError(f"Unknown database '{database}'")


def _table(schema: Schema, reader: _Reader, *before: str) -> str:
    """A table by its name, which may say its database in two ways."""
    reader.take(*before)
    database, name = reader.table()
    if before:
        _check_database(schema, reader)
    if database and database.lower() != schema.name.lower():
        raise MySqlError(f"Unknown database '{database.lower()}'")
    return name


def _like(name: str, pattern: str | None) -> bool:
    return pattern is None or bool(like(name, pattern, "\\", 0))


def describe(schema: Schema, words: list[Word]) -> list[Row]:
    """DESC table [column | 'pattern']."""
    reader = _Reader(words)
    if not reader.is_name():
        raise NotExactError("EXPLAIN of a query")
    database, name = reader.table()
    if database and database.lower() != schema.name.lower():
        raise no_table(database, name)
    return columns(schema, name, pattern=reader.last())


def columns(schema: Schema, name: str, full: bool = False, pattern: str | None = None) -> list[Row]:
    """DESC and SHOW COLUMNS."""
    schema.known(name)
    rows = [row for row in schema.describe(name.lower()) if _like(row[0], pattern)]
    if not full:
        return rows
    found = []
    for column, kind, null, key_, default, extra in rows:
        words = COLLATION if declared(str(kind)).name == "str" else None
        found.append((column, kind, words, null, key_, default, extra, PRIVILEGES, ""))
    return found


def create_table(schema: Schema, name: str) -> Row:
    """SHOW CREATE TABLE, as MySQL 8 prints a table with these columns and keys.

    Foreign keys are not in what DESC prints, and so only told where SQLite's table has them.
    """
    schema.known(name)
    lower = name.lower()
    if lower in schema.views:
        raise NotExactError("SHOW CREATE TABLE of a view")
    lines, primary, indexed = [], [], []
    for column, kind, null, key_, default, extra in schema.describe(lower):
        line = f"  `{column}` {kind}"
        if null == "NO":
            line += " NOT NULL"
        text = str(kind).lower() in SIZES
        if default is not None:
            line += f" DEFAULT '{default}'"
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
    end = f"ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE={COLLATION}"
    return schema.names[lower], f"CREATE TABLE `{schema.names[lower]}` (\n{body}\n) {end}"
