"""Questions of the real data set: Spider's folder, with InterCode's question file, IPR's or Spider's own.

Decided here: `database/<db>/<db>.sqlite`, and beside it, where it is there, `schema.json` with the rows that DESC
prints in MySQL. Task ids are "<question file>/<place in it>". Train is `train_spider.json` with a twentieth held out
each for dev and seen, and unseen the development questions, whose databases are others. Where IPR's
`ic_spider_train.json` and `ic_spider_test.json` are both there, they are the splits in the same way (unseen is test),
and no other file is read. Where only one question file is there, a quarter of its databases is unseen, and the
questions of the others are divided: by a hash of database and gold query, so that the phrasings of one question stay
together.
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from ipr import identity, store
from ipr.envs.published import both, numbers
from ipr.envs.sql import engine
from ipr.envs.sql.dialect import hardness
from ipr.envs.sql.engine import Database, Row, Session, Shared, Source, database, open_file
from ipr.envs.sql.world import Question
from ipr.types import IprError, derive_seed

SPLITS = ("train", "dev", "seen", "unseen")
TRAIN = "train_spider.json"
OTHERS = ("ic_spider_dev.json", "dev.json")
"""Question files, InterCode's first; one of them is read."""
PUBLISHED = ("ic_spider_train.json", "ic_spider_test.json")
"""IPR's own question files, which are its splits."""
INDICES = ("train_indices.json", "test_indices.json")
"""Which questions of these it plays."""
_FIX = "give Spider's folder, with database/<db>/<db>.sqlite and ic_spider_dev.json or dev.json"


class Folder:
    """A folder of real questions and their databases."""

    def __init__(self, folder: Path, databases: bool = True) -> None:
        self.folder = folder
        if not folder.is_dir():
            raise IprError(f"{folder}: no such folder; {_FIX}")
        files = [name for name in OTHERS if (folder / name).is_file()][:1]
        if (folder / TRAIN).is_file():
            files = [TRAIN, *files]
        if both(folder / name for name in PUBLISHED):
            files = list(PUBLISHED)
        if not files:
            raise IprError(f"{folder} holds no {', '.join((*OTHERS, TRAIN))}; {_FIX}")
        if databases and not (folder / "database").is_dir():
            raise IprError(f"{folder / 'database'}: no such folder; {_FIX}")
        self._files = {Path(name).stem: self._read(folder / name) for name in files}
        self._played: dict[str, list[int]] = {}
        self._indices: dict[str, Path] = {}
        if files == list(PUBLISHED) and both(folder / name for name in INDICES):
            self._indices = {name: folder / name for name in INDICES}
            fix = "the two do not belong together; fetch both again, or remove it"
            for (stem, items), file in zip(self._files.items(), self._indices.values(), strict=True):
                self._played[stem] = numbers(file, len(items), "question", fix)
        self._split = self._splits()

    def _read(self, file: Path) -> list[dict[str, Any]]:
        found = _json(file)
        if not isinstance(found, list) or not found:
            raise IprError(f"{file} holds no list of questions; fetch the file again")
        return found

    def _splits(self) -> dict[str, list[str]]:
        splits: dict[str, list[str]] = {name: [] for name in SPLITS}
        first = {Path(name).stem for name in (TRAIN, PUBLISHED[0])}
        whole = set(self._files) - first if len(self._files) > 1 else set()
        names = sorted({_hashed(item, "db", "db_id") for items in self._files.values() for item in items})
        ranked = sorted(names, key=lambda name: derive_seed("sql", "unseen", name))
        unseen = set() if whole else set(ranked[: max(1, len(names) // 4)] if len(names) > 1 else ())
        for stem, items in self._files.items():
            for place in self._played.get(stem, range(len(items))):
                item = items[place]
                name, gold = _hashed(item, "db", "db_id"), _hashed(item, "gold", "query")
                if stem in whole or name in unseen:
                    split = "unseen"
                else:
                    split = {0: "dev", 1: "seen"}.get(derive_seed("sql", "split", name, gold) % 20, "train")
                splits[split].append(f"{stem}/{place:05d}")
        return splits

    def task_ids(self, split: str) -> list[str]:
        if split not in self._split:
            raise IprError(f"sql has no split '{split}'; there are {', '.join(SPLITS)}")
        return list(self._split[split])

    def all_ids(self) -> list[str]:
        """Every question, in the order of the files."""
        return sorted(i for ids in self._split.values() for i in ids)

    @lru_cache(maxsize=4096)  # noqa: B019 - one object a run
    def question(self, task_id: str) -> Question:
        name, text, gold = self._fields(task_id)
        stem, _, place = task_id.partition("/")
        graded = _field(self._files[stem][int(place)], "hardness") or hardness(gold)
        return Question(name, " ".join(text.split()), gold, graded, str(self.folder / f"{stem}.json"))

    def _fields(self, task_id: str) -> tuple[str, str, str]:
        """Database, question and gold query."""
        stem, _, place = task_id.partition("/")
        items = self._files.get(stem, [])
        if not (place.isascii() and place.isdigit() and len(place) == 5 and int(place) < len(items)):
            raise IprError(f"'{task_id}' is no question of {self.folder}; ids run like {self.all_ids()[0]}")
        # InterCode calls the question "query" and the query "gold"; Spider "question" and "query".
        names = {"db": ("db", "db_id"), "question": ("question", "query"), "gold query": ("gold", "query")}
        found = {what: _field(items[int(place)], *where) for what, where in names.items()}
        file = self.folder / f"{stem}.json"
        for what, value in found.items():
            if not isinstance(value, str) or not value.strip():
                raise IprError(f"{file}: question {place} has no {what}; correct or remove it")
            if store.HALF.search(value):
                raise IprError(f"{file}: question {place} has half a character in its {what}; correct or remove it")
        return found["db"], found["question"], found["gold query"]

    def task_type(self, task_id: str) -> str:
        return self.question(task_id).hardness

    def database(self, question: Question) -> Database:
        return database(self._source(question.database))

    def deciding(self) -> dict[str, Any]:
        return {"data": identity.contents(self.files()), **engine.deciding()}

    def questions(self) -> dict[str, Path]:
        """What is read of the folder itself, by name."""
        return {f"{stem}.json": self.folder / f"{stem}.json" for stem in self._files} | self._indices

    def files(self) -> dict[str, Path]:
        """What is read, by name: the question files, the databases that are asked and what describes them."""
        found = self.questions()
        for name in self.databases():
            folder = self.folder / "database" / name
            for file in (f"{name}.sqlite", f"{name}.sqlite-wal", "schema.json", "create.json"):
                if (folder / file).is_file():
                    found[f"{name}/{file}"] = folder / file
        return found

    def session(self, question: Question) -> Session:
        return Shared(self._source(question.database))

    @lru_cache(maxsize=512)  # noqa: B019 - one object a run
    def _source(self, name: str) -> Source:
        file = self._file(name)
        if "/" in name or "\\" in name or name.startswith("."):
            raise IprError(f"{self.folder}: '{name}' is no name of a database; correct the question file")
        state = _check(file)
        schema = file.with_name("schema.json")
        described = _described(schema) if schema.is_file() else None
        create = file.with_name("create.json")
        created = _json(create) if create.is_file() else None
        return Source(
            name,
            partial(open_file, file),
            described,
            str(file),
            state,
            served=True,
            created=created,
            others=partial(self._others, name),
        )

    def _others(self, name: str) -> frozenset[str]:
        """Names of the tables of the other databases, in lower case."""
        return frozenset().union(*(_tables(self._file(other)) for other in self.databases() if other != name))

    def _file(self, name: str) -> Path:
        return self.folder / "database" / name / f"{name}.sqlite"

    def databases(self) -> list[str]:
        """The databases that are asked, by name."""
        return sorted({self._fields(i)[0] for i in self.all_ids()})

    def check(self) -> None:
        """Raises IprError for the first question that is broken, or database that is not there."""
        for name in self.databases():
            self._source(name)


def _field(item: Any, *names: str) -> Any:
    return next((item[n] for n in names if n in item), "") if isinstance(item, dict) else ""


def _hashed(item: Any, *names: str) -> str:
    """A field for the choice of the split; half a character, with which no question is played, has no bytes."""
    return str(_field(item, *names)).encode(errors="replace").decode()


def _json(file: Path) -> Any:
    try:
        return json.loads(store.read_text(file))
    except OSError as error:
        raise IprError(f"{file}: {error.strerror}; {_FIX}") from error
    except (ValueError, RecursionError) as error:
        raise IprError(f"{file} is not JSON ({error}); fetch the file again") from error


def _check(file: Path) -> str:
    """Looks whether a database is there and begins as SQLite's files do; returns what tells it from a changed file."""
    try:
        with file.open("rb") as opened:
            start = opened.read(100)
        found = file.stat()
    except OSError as error:
        raise IprError(f"{file}: {error.strerror}; {_FIX}") from error
    if len(start) < 100 or not start.startswith(b"SQLite format 3\0"):
        raise IprError(f"{file} is no SQLite database; fetch the file again")
    size, pages = int.from_bytes(start[16:18], "big"), int.from_bytes(start[28:32], "big")
    sure = start[24:28] == start[92:96]  # else an old SQLite wrote last, which keeps no count of pages
    if sure and found.st_size < (65536 if size == 1 else size) * pages:
        raise IprError(f"{file} is cut short; fetch the file again")
    return f"{found.st_size} {found.st_mtime_ns}"


@lru_cache(maxsize=512)
def _tables(file: Path) -> frozenset[str]:
    try:
        with closing(open_file(file)) as opened:
            return frozenset(name.lower() for (name,) in opened.execute("SELECT name FROM sqlite_master"))
    except sqlite3.Error as error:
        raise IprError(f"{file}: {error}; fetch the file again") from error


def _described(file: Path) -> dict[str, list[Row]]:
    try:
        fields = ("field", "type", "null", "key", "default", "extra")
        return {table: [tuple(row[f] for f in fields) for row in rows] for table, rows in _json(file).items()}
    except (AttributeError, KeyError, TypeError) as error:
        raise IprError(f"{file} does not describe tables ({error!r}); fetch it again or remove it") from error
