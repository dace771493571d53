"""A MariaDB of the tests' own: started on a free port of loopback in a temporary folder, filled from SQLite files."""

from __future__ import annotations

import json
import shutil
import socket
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MODE = "ONLY_FULL_GROUP_BY,STRICT_TRANS_TABLES,NO_ZERO_IN_DATE,NO_ZERO_DATE,ERROR_FOR_DIVISION_BY_ZERO"
COLLATION = "utf8mb4_uca1400_nopad_ai_ci"
"""MariaDB's nearest to utf8mb4_0900_ai_ci."""


def installed() -> bool:
    return bool(shutil.which("mariadbd") and shutil.which("mariadb-install-db"))


@contextmanager
def server(folder: Path) -> Iterator[int]:
    """A running server, by its port."""
    data = folder / "data"
    install = ["mariadb-install-db", "--no-defaults", f"--datadir={data}", "--auth-root-authentication-method=normal"]
    subprocess.run([*install, "--skip-test-db"], check=True, capture_output=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = [
        *("--no-defaults", "--user=root", f"--datadir={data}", f"--socket={folder}/s.sock", f"--port={port}"),
        *("--bind-address=127.0.0.1", "--skip-name-resolve", "--lower-case-table-names=1", f"--sql-mode={MODE}"),
        *("--character-set-server=utf8mb4", f"--collation-server={COLLATION}", "--innodb-buffer-pool-size=32M"),
    ]
    running = subprocess.Popen(["mariadbd", *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait(port, running)
        yield port
    finally:
        running.terminate()
        running.wait(30)


def _wait(port: int, running: subprocess.Popen[bytes]) -> None:
    for _ in range(300):
        if running.poll() is not None:
            raise RuntimeError("mariadbd ended at once")
        try:
            connect(port).close()
        except Exception:  # not yet
            time.sleep(0.1)
        else:
            return
    raise RuntimeError("mariadbd does not answer")


def connect(port: int, **options: Any) -> Any:
    import pymysql

    return pymysql.connect(host="127.0.0.1", port=port, user="root", autocommit=True, charset="utf8mb4", **options)


def load(port: int, file: Path) -> None:
    """A SQLite file as a database of its name, with the types and keys of its `schema.json`."""
    described = file.with_name("schema.json")
    written = json.loads(described.read_text()) if described.is_file() else {}
    connection = sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True)
    with connect(port) as theirs, theirs.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE `{file.stem}`")
        cursor.execute(f"USE `{file.stem}`")
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
        for (table,) in tables.fetchall():
            rows = next((r for t, r in written.items() if t.lower() == table.lower()), None)
            names = [row[1] for row in connection.execute(f'PRAGMA table_info("{table}")')]
            types = dict.fromkeys(names, "text") if rows is None else {r["field"]: r["type"] for r in rows}
            keys = [r["field"] for r in rows or () if r["key"] == "PRI"]
            columns = [f"`{n}` {'varchar(200)' if n in keys and t == 'text' else t} NULL" for n, t in types.items()]
            if keys:
                columns = [c.removesuffix(" NULL") if c.split("`")[1] in keys else c for c in columns]
                columns.append(f"PRIMARY KEY ({', '.join(f'`{k}`' for k in keys)})")
            cursor.execute(f"CREATE TABLE `{table.lower()}` ({', '.join(columns)})")
            listed = ", ".join(f'"{n}"' for n in types)
            found = connection.execute(f'SELECT {listed} FROM "{table}"').fetchall()
            if found:
                marks = ", ".join(["%s"] * len(types))
                cursor.executemany(f"INSERT INTO `{table.lower()}` VALUES ({marks})", found)
    connection.close()
