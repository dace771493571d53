"""What MySQL answers to statements: `python -m tests.envs.answers` asks a MySQL that it starts, and writes them here.

Each file has a row a statement: `db` (of `databases`), `statement`, and `rows` (Python's repr of each), `error` (the
text) or `nothing` (there is no result). A row with `any_order` is equal in any order: MySQL promises none. To add some,
append rows with `db` and `statement`; what it answers is filled in. Recorded with MySQL 9.7.4; what 8.0 answers
otherwise is left out.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.envs import servers
from tests.envs.answers.databases import MAKERS

HERE = Path(__file__).parent
NOW = "2024-01-01 12:00:00"
"""What NOW() is in an episode."""


def files() -> list[Path]:
    return sorted(HERE.glob("*.jsonl"))


def read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def made(folder: Path) -> list[Path]:
    """The databases' files, in Spider's layout."""
    found = [folder / "database" / name / f"{name}.sqlite" for name in MAKERS]
    for file in found:
        file.parent.mkdir(parents=True)
        MAKERS[file.stem](file)
    return found


def load(port: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for file in made(Path(folder)):
            servers.load(port, file)


def record(port: int) -> None:
    """Asks each statement, and writes the answers into the files."""
    load(port)
    for file in files():
        rows = read(file)
        for row in rows:
            said = ask(port, row["db"], row["statement"])
            if row.get("any_order") and "rows" in said and sorted(row.get("rows", ())) == sorted(said["rows"]):
                said["rows"] = row["rows"]
            for key in ("rows", "error", "nothing"):
                row.pop(key, None)
            row |= said
        file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def ask(port: int, database: str, statement: str) -> dict[str, Any]:
    """{"rows": [...]}, {"error": ...} or {"nothing": True}, as they are recorded."""
    import pymysql

    with servers.connect(port, database=database) as connection, connection.cursor() as cursor:
        cursor.execute(f"SET timestamp = UNIX_TIMESTAMP('{NOW}')")
        try:
            cursor.execute(statement)
        except pymysql.err.Error as error:
            return {"error": error.args[1]}
        if cursor.description is None:
            return {"nothing": True}
        return {"rows": [repr(tuple(row)) for row in cursor.fetchall()]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, help="of a running MySQL with an account root without password")
    port = parser.parse_args().port
    if port:
        return record(port)
    if not servers.installed("mysql"):
        sys.exit("no mysqld is installed; Debian's package is mysql-server-core")
    with tempfile.TemporaryDirectory() as folder, servers.server(Path(folder), "mysql") as found:
        record(found)
    return None
