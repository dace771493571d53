"""A dump of MySQL (`mysqldump`, as InterCode ships its databases) as Spider's folder: SQLite files and schema.json.

Decided here: the dump is read as text, one statement after another, so nothing of MySQL is needed; CREATE TABLE gives
the types and keys that DESC prints, INSERT the rows. What is neither (settings, locks, comments) is passed over; views
and triggers are named in the report and left out. A value is kept as the dump writes it: a number, a text, NULL.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from ipr.envs.sql.kinds import declared
from ipr.envs.sql.quotes import Quotes
from ipr.types import IprError

_NAME = r"`((?:[^`]|``)+)`"
_USE = re.compile(rf"\s*USE\s+{_NAME}", re.IGNORECASE)
_CREATE = re.compile(
    rf"\s*CREATE\s+TABLE\s+(?:IF\s+NOT\s+EXISTS\s+)?{_NAME}\s*\((.*)\)[^)]*$", re.IGNORECASE | re.DOTALL
)
_INSERT = re.compile(rf"\s*INSERT\s+(?:IGNORE\s+)?INTO\s+{_NAME}\s*(\([^)]*\))?\s*VALUES\s*", re.IGNORECASE)
_COLUMN = re.compile(rf"{_NAME}\s+(\w+(?:\s*\([^)]*\))?(?:\s+unsigned)?)(.*)", re.IGNORECASE | re.DOTALL)
_KEY = re.compile(r"(PRIMARY|UNIQUE|FULLTEXT|SPATIAL)?\s*(?:KEY|INDEX)\b[^(]*\((.*)\)", re.IGNORECASE | re.DOTALL)
_VALUE = re.compile(
    r"\s*(?:'((?:[^'\\]|\\.|'')*)'|(NULL)|(0x[0-9A-Fa-f]+)|([-+.\deE]+)|_binary\s*'((?:[^'\\]|\\.|'')*)')\s*",
    re.I | re.S,
)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "0": "\0", "b": "\b", "Z": "\x1a"}
_LEFT_OUT = re.compile(r"\s*CREATE\s.*\b(VIEW|TRIGGER|PROCEDURE|FUNCTION)\b", re.IGNORECASE | re.DOTALL)


@dataclass(slots=True)
class _Table:
    name: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    """As DESC prints them."""


def convert(dump: Path, out: Path) -> dict[str, Any]:
    """Writes `out/database/<db>/<db>.sqlite` and `schema.json` for every database of a dump."""
    databases: dict[str, dict[str, _Table]] = {}
    connections: dict[str, sqlite3.Connection] = {}
    rows, left_out, name = 0, 0, dump.stem
    try:
        with dump.open(encoding="utf-8", newline="") as file:
            for statement in statements(file):
                if found := _USE.match(statement):
                    name = _unquoted(found[1])
                elif found := _CREATE.match(statement):
                    table = _table(_unquoted(found[1]).lower(), found[2])
                    connection = connections.get(name) or connections.setdefault(name, _database(out, name))
                    connection.execute(_in_sqlite(table))
                    databases.setdefault(name, {})[table.name] = table
                elif found := _INSERT.match(statement):
                    rows += _insert(connections, databases, name, found, statement)
                elif _LEFT_OUT.match(statement):
                    left_out += 1
        for name, tables in databases.items():
            connections[name].commit()
            written = {t.name: t.rows for t in tables.values()}
            (_folder(out, name) / "schema.json").write_text(json.dumps(written, indent=1), encoding="utf-8")
    except (OSError, UnicodeDecodeError, sqlite3.Error, ValueError) as error:
        raise IprError(f"{dump}: {error}; give a dump as mysqldump writes it") from error
    finally:
        for connection in connections.values():
            connection.close()
    if not databases:
        raise IprError(f"{dump} has no CREATE TABLE; give a dump as mysqldump writes it")
    tables = sum(map(len, databases.values()))
    return {"databases": len(databases), "tables": tables, "rows": rows, "left_out": left_out, "out": str(out)}


def statements(file: TextIO) -> Iterator[str]:
    """The statements of a dump, without their semicolons and without comments."""
    parts: list[str] = []
    quotes = Quotes()
    for line in file:
        if not quotes.open and not parts and (line.startswith(("--", "#")) or not line.strip()):
            continue
        start = 0
        for k, mark in quotes.outside(line):
            if mark == ";":
                yield "".join([*parts, line[start:k]])
                parts, start = [], k + 1
        if line[start:].strip() or quotes.open:
            parts.append(line[start:])
    if "".join(parts).strip():
        yield "".join(parts)


def _unquoted(name: str) -> str:
    return name.replace("``", "`")


def _folder(out: Path, name: str) -> Path:
    if re.search(r"[/\\]|^\.", name):
        raise ValueError(f"'{name}' is no name of a database")
    return out / "database" / name


def _database(out: Path, name: str) -> sqlite3.Connection:
    folder = _folder(out, name)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.sqlite"
    file.unlink(missing_ok=True)
    return sqlite3.connect(file)


def _table(name: str, body: str) -> _Table:
    table = _Table(name)
    keys: list[tuple[str, list[str]]] = []
    for part in _parts(body):
        if found := _COLUMN.match(part.strip()):
            column, kind, rest = _unquoted(found[1]), re.sub(r"\s*,\s*", ",", found[2].lower()), found[3]
            kind = re.sub(r"\b(tinyint|smallint|mediumint|int|bigint)\(\d+\)", r"\1", kind)  # as MySQL 8 prints it
            kind = "tinyint(1)" if re.match(r"tinyint\s*\(1\)", found[2], re.I) else kind
            default = re.search(r"DEFAULT\s+(?:'((?:[^'\\]|\\.|'')*)'|([\w.+-]+(?:\(\))?))", rest, re.I)
            value = None if default is None else _plain(default[1]) if default[1] is not None else default[2]
            table.rows.append(
                {
                    "field": column,
                    "type": kind,
                    "null": "NO" if re.search(r"NOT\s+NULL", rest, re.I) else "YES",
                    "key": "PRI" if re.search(r"PRIMARY\s+KEY", rest, re.I) else "",
                    "default": None if value is None or value.upper() == "NULL" else value,
                    "extra": "auto_increment" if re.search("AUTO_INCREMENT", rest, re.I) else "",
                }
            )
        elif found := _KEY.match(part.strip()):
            names = [_unquoted(n) for n in re.findall(_NAME, found[2])]
            keys.append(((found[1] or "").upper(), names))
    for kind, names in sorted(
        keys, key=lambda k: ("PRIMARY", "UNIQUE").index(k[0]) if k[0] in ("PRIMARY", "UNIQUE") else 2
    ):
        for row in table.rows:
            if kind == "PRIMARY" and row["field"] in names:
                row["key"], row["null"] = "PRI", "NO"
            elif not row["key"] and names[:1] == [row["field"]]:
                row["key"] = "UNI" if kind == "UNIQUE" and len(names) == 1 else "MUL"
    return table


def _parts(body: str) -> Iterator[str]:
    """What commas part outside of quotes and parentheses."""
    depth = start = 0
    for k, mark in Quotes().outside(body):
        if mark in "()":
            depth += 1 if mark == "(" else -1
        elif mark == "," and not depth:
            yield body[start:k]
            start = k + 1
    yield body[start:]


_STORED = {"int": "INTEGER", "dec": "NUMERIC", "dbl": "REAL", "flt": "REAL", "bin": "BLOB"}


def _in_sqlite(table: _Table) -> str:
    lines = []
    for row in table.rows:
        name = row["field"].replace('"', '""')
        lines.append(f'"{name}" {_STORED.get(declared(row["type"]).name, "TEXT")}')
    keys = ", ".join(f'"{r["field"]}"' for r in table.rows if r["key"] == "PRI")
    if keys:
        lines.append(f"PRIMARY KEY ({keys})")
    return f'CREATE TABLE "{table.name}" ({", ".join(lines)})'


def _insert(
    connections: dict[str, sqlite3.Connection],
    databases: dict[str, dict[str, _Table]],
    name: str,
    found: re.Match[str],
    statement: str,
) -> int:
    table = databases.get(name, {}).get(_unquoted(found[1]).lower())
    if table is None:
        raise ValueError(f"rows of `{found[1]}` before its CREATE TABLE")
    columns = [_unquoted(n) for n in re.findall(_NAME, found[2])] if found[2] else [r["field"] for r in table.rows]
    listed = ", ".join('"{}"'.format(c.replace('"', '""')) for c in columns)
    marks = ", ".join("?" * len(columns))
    rows = list(_rows(statement, found.end()))
    connections[name].executemany(f'INSERT INTO "{table.name}" ({listed}) VALUES ({marks})', rows)
    return len(rows)


def _rows(statement: str, at: int) -> Iterator[tuple[Any, ...]]:
    """The rows after VALUES: (...), (...)."""
    while at < len(statement):
        if statement[at] != "(":
            if statement[at : at + 12].strip():
                raise ValueError(f"no rows at '{statement[at : at + 40]}'")
            return
        row, at = [], at + 1
        while True:
            found = _VALUE.match(statement, at)
            if found is None:
                raise ValueError(f"no value at '{statement[at : at + 40]}'")
            row.append(_value(found))
            at = found.end() + 1
            if statement[found.end()] == ")":
                break
        yield tuple(row)
        while at < len(statement) and statement[at] in ", \r\n\t":
            at += 1


def _value(found: re.Match[str]) -> Any:
    text, null, hexed, number, binary = found.groups()
    if null:
        return None
    if hexed:
        return bytes.fromhex(hexed[2:])
    if number:
        return float(number) if re.search(r"[.eE]", number) else int(number)
    if binary is not None:
        return _plain(binary).encode()
    return _plain(text)


def _plain(text: str) -> str:
    return re.sub(r"\\(.)|''", lambda m: "'" if m[0] == "''" else _ESCAPES.get(m[1], m[1]), text, flags=re.DOTALL)
