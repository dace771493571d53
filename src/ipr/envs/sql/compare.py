"""Where the sandboxed SQLite and a real server answer a statement differently.

Statements are recorded ones, or the folder's gold queries: a file of rows with `db` and `statement` (JSON, or a line
each), or question files as they are. Two answers are equal when they earn the same: rows as text, in their order. Rows
in another order are counted apart, since a server promises none without ORDER BY; so are two refusals in different
words.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ipr.envs.sql.engine import Result, shown
from ipr.envs.sql.real import Folder
from ipr.envs.sql.server import ServedFolder
from ipr.envs.sql.world import Question
from ipr.types import IprError

_DATABASE, _STATEMENT = ("db", "db_id", "database"), ("statement", "sql", "gold", "query")


def compare(folder: Path, url: str, statements: Path | None = None) -> dict[str, Any]:
    """Counts, and each statement on which the two differ, with what both say."""
    ours, theirs = Folder(folder), ServedFolder(folder, url)
    counts: Counter[str] = Counter()
    differing: list[dict[str, str]] = []
    seen: set[tuple[str, str]] = set()
    for database, statement in _read(statements) if statements is not None else _golds(ours):
        if (database, statement) in seen:
            continue
        seen.add((database, statement))
        question = Question(database, "", statement, "")
        session = theirs.session(question)
        try:
            one, other = ours.session(question).run(statement), session.run(statement)
        finally:
            session.close()
        kind = verdict(one, other)
        counts[kind] += 1
        if kind != "equal":
            said = {"sqlite": shown(one.text), "server": shown(other.text)}
            differing.append({"kind": kind, "db": database, "statement": statement, **said})
    return {"statements": counts.total(), **counts, "differences": differing}


def verdict(one: Result, other: Result) -> str:
    """ "equal", "order" (the same rows), "words" (both refuse), "rows", or which of the two refuses."""
    if one.rows is None or other.rows is None:
        if one.rows is None and other.rows is None:
            return "equal" if one.text == other.text else "words"
        return "refused here" if one.rows is None else "refused there"
    ours, theirs = list(map(str, one.rows)), list(map(str, other.rows))
    if ours == theirs:
        return "equal"
    return "order" if sorted(ours) == sorted(theirs) else "rows"


def _golds(folder: Folder) -> Iterator[tuple[str, str]]:
    for task_id in folder.all_ids():
        question = folder.question(task_id)
        yield question.database, question.gold


def _read(file: Path) -> Iterator[tuple[str, str]]:
    try:
        text = file.read_text(encoding="utf-8-sig")
        rows = json.loads(text) if text.lstrip().startswith("[") else list(map(json.loads, text.splitlines()))
    except (OSError, ValueError) as error:
        raise IprError(f"{file}: {error}; give rows with db and statement, as JSON or a line each") from error
    for place, row in enumerate(rows):
        database, statement = (
            # Spider's "sql" is the parsed query.
            next((row[k] for k in keys if isinstance(row, dict) and isinstance(row.get(k), str)), None)
            for keys in (_DATABASE, _STATEMENT)
        )
        if database is None or statement is None:
            raise IprError(f"{file}: row {place} has no db and statement; correct or remove it")
        yield database, statement
