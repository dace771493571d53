"""What MySQL answered to each recorded statement, the sandboxed SQLite answers in the same letters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ipr.envs.sql.engine import Database, shown
from ipr.envs.sql.errors import ERROR
from ipr.envs.sql.real import Folder
from tests.envs import answers, servers
from tests.envs.answers.databases import MAKERS

ROWS = {(file.stem, row["db"], row["statement"]): row for file in answers.files() for row in answers.read(file)}


@pytest.fixture(scope="module")
def databases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Database]:
    """As an episode has them: from files in Spider's layout."""
    folder = tmp_path_factory.mktemp("answers")
    answers.made(folder)
    items = [{"db": name, "gold": "SELECT 1", "query": "What?", "hardness": "easy"} for name in MAKERS]
    (folder / "ic_spider_dev.json").write_text(json.dumps(items))
    found = Folder(folder)
    questions = map(found.question, found.all_ids())
    return {question.database: found.database(question) for question in questions}


@pytest.mark.parametrize("key", ROWS, ids=" ".join)
def test_the_answer_is_mysqls(databases: dict[str, Database], key: tuple[str, str, str]) -> None:
    row = ROWS[key]
    result = databases[row["db"]].run(row["statement"])
    if "error" in row:
        assert result.rows is None
        assert result.text.rstrip("\n") == shown(ERROR + row["error"]).rstrip("\n")
    elif "nothing" in row:
        assert result.kind == "nothing"
    else:
        assert result.rows is not None, result.text
        assert _ordered(row, list(map(repr, result.rows))) == _ordered(row, row["rows"])


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT YEAR(made) FROM item",
        "SELECT id FROM item WHERE made < NOW()",
        "SELECT NULLIF(made, 5) FROM item",
        "SELECT id FROM item WHERE made IN (SELECT 5)",
        "SELECT code * 1100000000 FROM item WHERE id = 3",
    ],
)
def test_what_is_not_known_is_refused(databases: dict[str, Database], statement: str) -> None:
    assert "cannot be answered here exactly" in databases["depot"].run(statement).text


def _ordered(row: dict[str, Any], rows: list[str]) -> list[str]:
    return sorted(rows) if row.get("any_order") else rows


@pytest.mark.skipif(not servers.installed("mysql"), reason="no MySQL is installed (Debian: mysql-server-core)")
def test_mysql_still_says_so(tmp_path: Path) -> None:
    with servers.server(tmp_path, "mysql") as port:
        answers.load(port)
        for (_, database, statement), row in ROWS.items():
            said = answers.ask(port, database, statement)
            assert {k: _ordered(row, v) if k == "rows" else v for k, v in said.items()} == {
                k: _ordered(row, v) if k == "rows" else v for k, v in row.items() if k in ("rows", "error", "nothing")
            }, statement
