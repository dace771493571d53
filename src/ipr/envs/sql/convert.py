"""A dump of MySQL (`mysqldump`, as InterCode ships its databases) as Spider's folder: SQLite files and descriptions.

Decided here: the dump is read as text, one statement after another, so nothing of MySQL is needed; CREATE TABLE gives
the types and keys that DESC prints, INSERT and REPLACE the rows. A CREATE TABLE in MySQL 8's own words is what SHOW
CREATE TABLE prints. Names stand with quotes or without. Files are written when all of the dump is read. A row that its
table cannot take is named and ends it, as does a generated column, whose values no dump holds: without them a question
would have another answer. A statement that is not read and holds data or tables (INSERT ... SELECT, LOAD DATA, ALTER
TABLE, a view) is left out and told; what else there is (settings, locks, MySQL's own comments, triggers) is passed
over. A value is kept as the dump writes it: a number, a text, bytes, NULL.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ipr import store
from ipr.envs.sql.kinds import declared
from ipr.envs.sql.quotes import Quotes
from ipr.types import IprError

_NAME = r'(?:`(?:[^`]|``)+`|"(?:[^"]|"")+"|[\w$]+)'
_TABLE = rf"(?:({_NAME})\s*\.\s*)?({_NAME})"
_TEXT = r"'((?:[^'\\]|\\.|'')*)'"
_USE = re.compile(rf"USE\s+({_NAME})\s*$", re.IGNORECASE)
_CREATE = re.compile(rf"CREATE\s+TABLE\s+(IF\s+NOT\s+EXISTS\s+)?{_TABLE}\s*\(", re.IGNORECASE)
_INSERT = re.compile(
    r"(?:INSERT|(REPLACE))\s+(?:(?:LOW_PRIORITY|HIGH_PRIORITY|DELAYED)\s+)?(IGNORE\s+)?(?:INTO\s+)?"
    rf"{_TABLE}\s*(?:\(([^)]*)\))?\s*VALUES?\b\s*",
    re.IGNORECASE,
)
_LEFT_OUT = re.compile(
    r"(?:INSERT|REPLACE|LOAD|UPDATE|DELETE|TRUNCATE|RENAME|CREATE(?!\s+(?:DATABASE|SCHEMA|USER|ROLE)\b)"
    r"|ALTER\s+TABLE(?!.*\b(?:DIS|EN)ABLE\s+KEYS))\b",
    re.IGNORECASE | re.DOTALL,
)
_COLUMN = re.compile(
    rf"({_NAME})\s+(\w+(?:\s*\((?:'(?:[^'\\]|\\.|'')*'|[^)'])*\))?(?:\s+unsigned)?)(.*)", re.IGNORECASE | re.DOTALL
)
_KEY = re.compile(
    rf"(?:CONSTRAINT\s+(?:{_NAME}\s+)??)?(PRIMARY|UNIQUE|FULLTEXT|SPATIAL|KEY|INDEX|FOREIGN|CHECK)\b[^(]*\(",
    re.IGNORECASE,
)
_DEFAULT = re.compile(rf"\bDEFAULT\s+(?:{_TEXT}|(b'[01]*'|[\w.+-]+(?:\(\d*\))?|\(.*\)))", re.IGNORECASE | re.DOTALL)
_NOW = re.compile(r"(?:CURRENT_TIMESTAMP|NOW|LOCALTIME(?:STAMP)?)(?:\((\d*)\))?$", re.IGNORECASE)
_ON_UPDATE = re.compile(r"\bON\s+UPDATE\s+(\w+(?:\(\d*\))?)", re.IGNORECASE)
_CREATED = re.compile(
    r"CREATE TABLE `[^\n]*` \(\n(?:  [^\n]*\n)+\) ENGINE=InnoDB(?: AUTO_INCREMENT=\d+)?"
    r" DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_0900_ai_ci"
)
_OLDER = re.compile(r"\b(?:small|medium|big)?int\(\d+\)|/\*!")
_REFERENCES = re.compile(rf"\bREFERENCES\s+{_TABLE}\s*\(", re.IGNORECASE)
_VALUE = re.compile(
    rf"\s*(?:(_\w+)?\s*{_TEXT}|(NULL)|b'([01]+)'|(?:0x|x')([0-9a-f]*)'?|([-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?))"
    r"\s*([,)])",
    re.IGNORECASE | re.DOTALL,
)
"""With what ends it, so that one that is cut is none."""
_BETWEEN = re.compile(r"\s*,\s*|\s*(?=\S)")
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "0": "\0", "b": "\b", "Z": "\x1a"}
_COMMENT = re.compile(r"\s*(?:--|#|$)")
"""A line of it, or an empty one."""
_BLOCK = re.compile(r"\s*/\*(?!!)")
_DELIMITER = re.compile(r"\s*DELIMITER\s+(\S+)", re.IGNORECASE)


@dataclass(slots=True)
class _Table:
    name: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    """As DESC prints them."""
    primary: list[str] = field(default_factory=list)
    """The primary key's columns, in its own order where the dump names it apart."""
    foreign: list[tuple[list[str], str, list[str]]] = field(default_factory=list)
    """Foreign keys: columns, the other table, its columns."""
    created: str | None = None
    """What SHOW CREATE TABLE prints; None where the dump is not in MySQL 8's own words."""
    read: int = 0
    """How many rows the dump had for it so far."""


@dataclass(slots=True)
class _Database:
    connection: sqlite3.Connection
    tables: dict[str, _Table] = field(default_factory=dict)


def convert(dump: Path, out: Path) -> dict[str, Any]:
    """Writes `out/database/<db>/<db>.sqlite` and `schema.json` for every database of a dump.

    `messages` of what is returned names the statements that are left out. Raises IprError, and has written nothing,
    where the dump cannot be read to its end.
    """
    databases: dict[str, _Database] = {}
    messages: list[str] = []
    name = dump.stem
    try:
        with dump.open(encoding=store.encoding_of(dump), errors="surrogateescape", newline="") as file:
            for statement in statements(file):
                if found := _USE.match(statement):
                    name = _unquoted(found[1])
                elif found := _CREATE.match(statement):
                    _create(databases, _unquoted(found[2] or name), found, statement)
                elif found := _INSERT.match(statement):
                    _insert(databases, _unquoted(found[3] or name), found, statement)
                elif _LEFT_OUT.match(statement):
                    messages.append(f"{name}: left out: {_told(statement)}")
        if not databases:
            raise ValueError("no CREATE TABLE in it")
        for name, database in databases.items():
            _write(database, out / "database" / name)
        return {
            "databases": len(databases),
            "tables": sum(len(database.tables) for database in databases.values()),
            "rows": sum(database.connection.total_changes for database in databases.values()),
            "left_out": len(messages),
            "out": str(out),
            "messages": messages,
        }
    except (OSError, ValueError) as error:
        told = error.strerror if isinstance(error, OSError) else error
        raise IprError(f"{dump}: {told}; give a dump as mysqldump writes it") from error
    finally:
        for database in databases.values():
            database.connection.close()


def statements(lines: Iterable[str]) -> Iterator[str]:
    """The statements of a dump, without their semicolons and without comments before them.

    Raises ValueError where the dump ends within a text.
    """
    parts: list[str] = []
    quotes, comment, delimiter = Quotes(), False, ";"
    for line in lines:
        if not quotes.open:
            if comment or (not parts and _BLOCK.match(line)):
                _, closed, line = line.partition("*/")
                comment = not closed
            if _COMMENT.match(line):
                continue
            if found := _DELIMITER.match(line):
                delimiter = found[1]
                continue
        if delimiter != ";":  # a trigger or a routine, whose statements are none of the dump's
            continue
        start = 0
        for k, mark in quotes.outside(line):
            if mark == ";":
                yield "".join([*parts, line[start:k]]).strip()
                parts, start = [], k + 1
                if _COMMENT.match(line, start):
                    break
        else:
            parts.append(line[start:])
    if rest := "".join(parts).strip():
        if quotes.open:
            raise ValueError(f"it ends within a text: {_told(rest)}")
        yield rest


def _told(text: str, at: int = 0) -> str:
    """How a statement goes on, in one line."""
    return " ".join(text[at : at + 100].split())


def _unquoted(name: str) -> str:
    return name[1:-1].replace(name[0] * 2, name[0]) if name[0] in '`"' else name


def _create(databases: dict[str, _Database], name: str, found: re.Match[str], statement: str) -> None:
    if re.search(r"[/\\]|^\.", name):
        raise ValueError(f"'{name}' is no name of a database")
    table = _Table(_unquoted(found[3]).lower())
    database = databases.get(name) or databases.setdefault(name, _Database(sqlite3.connect("")))  # a file of no name
    if found[1] and table.name in database.tables:
        return
    try:
        _describe(table, statement[found.end() :])
        table.created = _created(statement)
        database.connection.execute(_in_sqlite(table))
    except (ValueError, sqlite3.Error) as error:
        raise ValueError(f"table {name}.{table.name}: {error}") from None
    database.tables[table.name] = table


def _created(statement: str) -> str | None:
    text = statement.replace("\r\n", "\n")
    if not _CREATED.fullmatch(text) or _OLDER.search(re.sub(_TEXT, "''", text)):
        return None
    # As lower_case_table_names=1 keeps them.
    return re.sub(
        rf"(^CREATE TABLE|\bFOREIGN KEY \([^)]*\) REFERENCES) ({_NAME})", lambda m: f"{m[1]} {m[2].lower()}", text
    )


def _kind(text: str) -> str:
    """A type as MySQL prints it; what ENUM and SET list stays as it is."""
    parts = re.split(r"('(?:[^'\\]|\\.|'')*')", text)
    return "".join(p if k % 2 else re.sub(r"\s*,\s*", ",", p.lower()) for k, p in enumerate(parts))


def _now(word: str) -> str | None:
    """The present moment, as MySQL writes it in a default."""
    found = _NOW.match(word)
    if found is None:
        return None
    return f"CURRENT_TIMESTAMP({found[1]})" if found[1] else "CURRENT_TIMESTAMP"


def _defaults(rest: str, said: str) -> tuple[str | None, str]:
    """Default and extra of DESC, of what follows a column's type, and of that in upper case without its texts."""
    value, extra = None, ""
    if found := _DEFAULT.search(re.sub(rf"\bCOMMENT\s+{_TEXT}", "", rest, flags=re.IGNORECASE | re.DOTALL)):
        text, word = found[1], found[2]
        if text is not None:
            value = _plain(text)
        elif word.upper() == "NULL":
            value = None
        elif now := _now(word):
            value, extra = now, "DEFAULT_GENERATED"
        elif word.startswith("("):
            raise ValueError(
                f"a default that is computed, {_told(word)}, of which only a server knows how it is printed"
            )
        else:
            value = word
    if (found := _ON_UPDATE.search(said)) and (now := _now(found[1])):
        extra = f"{extra} on update {now}".strip()
    return value, "auto_increment" if "AUTO_INCREMENT" in said else extra


def _describe(table: _Table, body: str) -> None:
    """Fills in the rows of DESC. `body` is what follows the parenthesis of CREATE TABLE."""
    keys: list[tuple[str, list[str]]] = []
    for part in map(str.strip, _parts(body)):
        if found := _KEY.match(part):
            word, names = found[1].upper(), _names(part[found.end() :])
            if word == "FOREIGN" and (there := _REFERENCES.search(part)):
                table.foreign.append((names, _unquoted(there[2]).lower(), _names(part[there.end() :])))
            elif word == "PRIMARY":
                table.primary = names
            if word not in ("FOREIGN", "CHECK"):
                keys.append((word, names))
        elif found := _COLUMN.match(part):
            column, kind, rest = _unquoted(found[1]), _kind(found[2]), found[3]
            kind = re.sub(r"\b(tinyint|smallint|mediumint|int|bigint)\(\d+\)", r"\1", kind)  # as MySQL 8 prints it
            kind = "tinyint(1)" if re.match(r"tinyint\s*\(1\)", found[2], re.I) else kind
            said = re.sub(_TEXT, "''", rest, flags=re.DOTALL).upper()
            if re.search(r"\bAS\s*\(", said):
                raise ValueError(
                    f"'{column}' is a generated column, whose values are not in a dump; make it a plain one"
                )
            default, extra = _defaults(rest, said)
            primary = re.search(r"PRIMARY\s+KEY", said)
            if unique := re.search(r"\bUNIQUE\b", said):
                keys.append(("UNIQUE", [column]))
            table.rows.append(
                {
                    "field": column,
                    "type": kind,
                    "null": "NO" if primary or re.search(r"NOT\s+NULL", said) else "YES",
                    "key": "PRI" if primary else "UNI" if unique else "",
                    "default": default,
                    "extra": extra,
                }
            )
        else:
            raise ValueError(f"no column at '{_told(part)}'")
    for kind, names in sorted(
        keys, key=lambda k: ("PRIMARY", "UNIQUE").index(k[0]) if k[0] in ("PRIMARY", "UNIQUE") else 2
    ):
        for row in table.rows:
            if kind == "PRIMARY" and row["field"] in names:
                row["key"], row["null"] = "PRI", "NO"
            elif not row["key"] and names[:1] == [row["field"]]:
                row["key"] = "UNI" if kind == "UNIQUE" and len(names) == 1 else "MUL"
    _promote(table, keys)


def _promote(table: _Table, keys: list[tuple[str, list[str]]]) -> None:
    """Without a primary key the first unique one that is never NULL is printed as one."""
    required = {row["field"] for row in table.rows if row["null"] == "NO"}
    first = next((names for word, names in keys if word == "UNIQUE" and required.issuperset(names)), [])
    if not any(row["key"] == "PRI" for row in table.rows):
        for row in table.rows:
            row["key"] = "PRI" if row["field"] in first else row["key"]


def _names(text: str) -> list[str]:
    """Of columns, up to the parenthesis that closes."""
    return [_unquoted(found[0]) for part in _parts(text) if (found := re.match(_NAME, part.strip()))]


def _parts(text: str) -> Iterator[str]:
    """What commas part, up to the parenthesis that closes; ValueError where none does."""
    depth = start = 0
    for k, mark in Quotes().outside(text):
        if mark in "()":
            depth += 1 if mark == "(" else -1
        if depth < 0 or (mark == "," and not depth):
            yield text[start:k]
            start = k + 1
        if depth < 0:
            return
    raise ValueError(f"no end of '{_told(text)}'")


_STORED = {"int": "INTEGER", "dec": "NUMERIC", "dbl": "REAL", "flt": "REAL", "bin": "BLOB"}


def _in_sqlite(table: _Table) -> str:
    lines = [f"{_listed([row['field']])} {_STORED.get(declared(row['type']).name, 'TEXT')}" for row in table.rows]
    if keys := table.primary or [row["field"] for row in table.rows if row["key"] == "PRI"]:
        lines.append(f"PRIMARY KEY ({_listed(keys)})")
    lines += [f"FOREIGN KEY ({_listed(n)}) REFERENCES {_listed([t])} ({_listed(m)})" for n, t, m in table.foreign]
    return f"CREATE TABLE {_listed([table.name])} ({', '.join(lines)})"


def _listed(names: Iterable[str]) -> str:
    return ", ".join('"{}"'.format(name.replace('"', '""')) for name in names)


def _insert(databases: dict[str, _Database], name: str, found: re.Match[str], statement: str) -> None:
    table = databases[name].tables.get(_unquoted(found[4]).lower()) if name in databases else None
    if table is None:
        raise ValueError(f"rows of table {name}.{_unquoted(found[4])} before its CREATE TABLE")
    columns = [_unquoted(n) for n in re.findall(_NAME, found[5])] if found[5] else [r["field"] for r in table.rows]
    verb = "INSERT OR REPLACE" if found[1] else "INSERT OR IGNORE" if found[2] else "INSERT"
    marks = ", ".join("?" * len(columns))
    query = f"{verb} INTO {_listed([table.name])} ({_listed(columns)}) VALUES ({marks})"
    try:
        for row in _rows(statement, found.end()):
            if len(row) != len(columns):
                raise ValueError(f"{len(row)} values for {len(columns)} columns")
            databases[name].connection.execute(query, row)
            table.read += 1
    except (ValueError, OverflowError, sqlite3.Error) as error:
        told = str(error)
        if isinstance(error, UnicodeEncodeError):
            told = "a text with a byte that is no UTF-8 (mysqldump --default-character-set=utf8mb4)"
        elif isinstance(error, OverflowError):
            told = "a whole number beyond 64 bits"
        raise ValueError(f"row {table.read + 1} of table {name}.{table.name}: {told}") from None


def _rows(statement: str, at: int) -> Iterator[tuple[Any, ...]]:
    """The rows after VALUES: (...), (...)."""
    while True:
        if statement[at : at + 1] != "(":
            raise ValueError(f"no row at '{_told(statement, at)}'")
        row, at, mark = [], at + 1, ","
        while mark == ",":
            found = _VALUE.match(statement, at)
            if found is None:
                raise ValueError(f"no whole value at '{_told(statement, at)}'")
            row.append(_value(found))
            at, mark = found.end(), found[7]
        yield tuple(row)
        found = _BETWEEN.match(statement, at)
        if found is None:  # after a comma there is another
            return
        at = found.end()


def _value(found: re.Match[str]) -> Any:
    kind, text, null, bits, hexed, number, _ = found.groups()
    if null:
        return None
    if bits:
        return int(bits, 2)
    if number:
        return float(number) if re.search(r"[.eE]", number) else int(number)
    if text is None:
        return bytes.fromhex("0" * (len(hexed) % 2) + hexed)
    binary = kind is not None and kind.lower() == "_binary"
    return _plain(text).encode(errors="surrogateescape") if binary else _plain(text)


def _plain(text: str) -> str:
    return re.sub(r"\\(.)|''", lambda m: "'" if m[0] == "''" else _ESCAPES.get(m[1], m[1]), text, flags=re.DOTALL)


def _write(database: _Database, folder: Path) -> None:
    def copy(aside: Path) -> None:
        try:
            database.connection.execute("VACUUM INTO ?", (str(aside),))
        except sqlite3.Error as error:
            raise OSError(str(error)) from None

    database.connection.commit()
    store.replace(folder / f"{folder.name}.sqlite", copy)
    store.write_json(folder / "schema.json", {t.name: t.rows for t in database.tables.values()})
    store.write_json(folder / "create.json", {t.name: t.created for t in database.tables.values()})
