"""A MySQL or MariaDB of the tests' own: on a free port of loopback, in a temporary folder, filled from SQLite files."""

from __future__ import annotations

import json
import shutil
import socket
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

MODE = "ONLY_FULL_GROUP_BY,STRICT_TRANS_TABLES,NO_ZERO_IN_DATE,NO_ZERO_DATE,ERROR_FOR_DIVISION_BY_ZERO"
COLLATION = "utf8mb4_uca1400_nopad_ai_ci"
"""MariaDB's nearest to utf8mb4_0900_ai_ci."""
DAEMONS = {"mysql": ("mysqld",), "mariadb": ("mariadbd", "mariadb-install-db")}


@cache
def installed(kind: str) -> bool:
    if not all(map(shutil.which, DAEMONS[kind])):
        return False
    said = subprocess.run([DAEMONS[kind][0], "--version"], capture_output=True, text=True, check=False).stdout
    return ("MariaDB" in said) == (kind == "mariadb")  # whose package has a mysqld, too


@contextmanager
def server(folder: Path, kind: str) -> Iterator[int]:
    """A running server, by its port; `kind` is one of DAEMONS."""
    data = folder / "data"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = [
        *("--no-defaults", "--user=root", f"--datadir={data}", f"--socket={folder}/s.sock", f"--port={port}"),
        *("--bind-address=127.0.0.1", "--lower-case-table-names=1", "--innodb-buffer-pool-size=32M"),
    ]
    if kind == "mysql":
        made = subprocess.run(
            ["mysqld", *options, "--initialize-insecure"], capture_output=True, text=True, check=False
        )
        if made.returncode:
            raise RuntimeError(made.stderr[-1000:])
        options += ["--secure-file-priv=NULL", "--mysqlx=OFF", "--performance-schema=OFF", "--disable-log-bin"]
    else:
        install = ["mariadb-install-db", "--no-defaults", f"--datadir={data}", "--skip-test-db"]
        subprocess.run([*install, "--auth-root-authentication-method=normal"], check=True, capture_output=True)
        options += [f"--sql-mode={MODE}", "--character-set-server=utf8mb4", f"--collation-server={COLLATION}"]
        options += ["--skip-name-resolve"]
    running = subprocess.Popen([DAEMONS[kind][0], *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait(port, running)
        yield port
    finally:
        running.terminate()
        running.wait(30)


def _wait(port: int, running: subprocess.Popen[bytes]) -> None:
    for _ in range(300):
        if running.poll() is not None:
            raise RuntimeError("the server ended at once")
        try:
            connect(port).close()
        except Exception:  # not yet
            time.sleep(0.1)
        else:
            return
    raise RuntimeError("the server does not answer")


def connect(port: int, **options: Any) -> Any:
    import pymysql

    return pymysql.connect(host="127.0.0.1", port=port, user="root", autocommit=True, charset="utf8mb4", **options)


def load(port: int, file: Path) -> None:
    """A SQLite file as a database of its name, with the types, keys and defaults of its `schema.json`, and its views.

    Its foreign keys make their indexes as InnoDB does. A view that names what is not there is left out, and a foreign
    key that the server refuses.
    """
    described = file.with_name("schema.json")
    written = json.loads(described.read_text()) if described.is_file() else {}
    connection = sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True)
    with connect(port) as theirs, theirs.cursor() as cursor:
        cursor.execute("SET SESSION sql_mode = '', foreign_key_checks = 0")
        cursor.execute(f"CREATE DATABASE `{file.stem}`")
        cursor.execute(f"USE `{file.stem}`")
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
        names = [table for (table,) in tables.fetchall()]
        for table in names:
            info = connection.execute(f'PRAGMA table_info("{table}")').fetchall()
            rows = next((r for t, r in written.items() if t.lower() == table.lower()), None)
            rows = rows or [{"field": i[1], "type": "text", "null": "YES", "key": "", "default": None} for i in info]
            # The order of a key's columns is SQLite's: the description has none.
            keys = [i[1].lower() for i in sorted(info, key=lambda i: i[5]) if i[5]]
            keys = sorted(
                (r["field"] for r in rows if r["key"] == "PRI"),
                key=lambda name: keys.index(name.lower()) if name.lower() in keys else len(keys),
            )
            columns = [_column(row) for row in rows]
            if keys:
                columns.append(f"PRIMARY KEY ({', '.join(f'`{k}`' for k in keys)})")
            referring = {key[0].lower() for key, _, _ in _foreign(connection, table)}
            for row in rows:
                if row["key"] == "UNI" or (row["key"] == "MUL" and row["field"].lower() not in referring):
                    columns.append(f"{'UNIQUE ' * (row['key'] == 'UNI')}KEY (`{row['field']}`)")
            cursor.execute(f"CREATE TABLE `{table.lower()}` ({', '.join(columns)})")
            listed = ", ".join(f'"{row["field"]}"' for row in rows)
            found = connection.execute(f'SELECT {listed} FROM "{table}"').fetchall()
            if found:
                marks = ", ".join(["%s"] * len(rows))
                cursor.executemany(f"INSERT INTO `{table.lower()}` VALUES ({marks})", found)
        for table in names:
            for columns, other, theirs_ in _foreign(connection, table):
                here, there = (", ".join(f"`{name}`" for name in listed) for listed in (columns, theirs_))
                try:
                    cursor.execute(
                        f"ALTER TABLE `{table.lower()}` ADD FOREIGN KEY ({here}) REFERENCES `{other.lower()}` ({there})"
                    )
                except Exception as error:
                    if error.args[0] not in _REFUSED:
                        raise
        for table in names:
            cursor.execute(f"ANALYZE TABLE `{table.lower()}`")
        for (view,) in connection.execute("SELECT sql FROM sqlite_master WHERE type = 'view'").fetchall():
            try:
                cursor.execute(view)
            except Exception as error:
                if error.args[0] != 1146:
                    raise
    connection.close()


_REFUSED = (1822, 3734, 3780, 6125)
"""No key there, no column there, unlike types, no unique key there."""


def _foreign(connection: sqlite3.Connection, table: str) -> list[tuple[list[str], str, list[str]]]:
    """Foreign keys in the order in which they are declared: columns, the other table, its columns."""
    found: dict[int, tuple[list[str], str, list[str]]] = {}
    for number, _, other, ours, theirs, *_ in connection.execute(f'PRAGMA foreign_key_list("{table}")').fetchall():
        columns, _, others = found.setdefault(number, ([], other, []))
        columns.append(ours)
        others.append(theirs or ours)
    return [found[number] for number in sorted(found, reverse=True)]


def _written(default: str) -> str:
    return default if default.upper().startswith("CURRENT_TIMESTAMP") else "'" + default.replace("'", "''") + "'"


def _column(row: dict[str, Any]) -> str:
    kind = "varchar(200)" if row["key"] and row["type"] == "text" else row["type"]
    text = f"`{row['field']}` {kind} {'NOT NULL' if row['null'] == 'NO' else 'NULL'}"
    if row["default"] is not None:
        text += f" DEFAULT {_written(row['default'])}"
    return text + " AUTO_INCREMENT" * ("auto_increment" in row.get("extra", ""))
