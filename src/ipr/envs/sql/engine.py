"""One database, read by statements that nobody has checked: the sandbox.

Decided here: no guard holds alone, so all stand together. The connection is read-only and immutable (`mode=ro` alone
lets ATTACH and VACUUM INTO make files); an authorizer allows SELECT, reading the database's own tables, recursion and a
list of functions, all of which give the same whenever they are called; SQLite's limits bound strings (100 kB), columns
and nesting; a counter of SQLite's opcodes stops endless work at the same place on every machine, and a deadline of one
second (later only where others keep the processor busy) what is slow in few opcodes; the heap is bounded (sorting, and
the exponential planning of nested WITH); results are bounded in rows and size; it is one statement at a time.
Connections are not shared between threads nor carried over a fork. Left out: a process of its own for SQLite, which
would cost more than a step's time.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, Protocol

from ipr.envs.sql import collation, dialect
from ipr.envs.sql.errors import MySqlError, NotExactError
from ipr.envs.sql.filesort import Sorting, arranged
from ipr.envs.sql.folds import AGGREGATES, WINDOWED
from ipr.envs.sql.functions import ALLOWED, FUNCTIONS, MAX_LENGTH
from ipr.envs.sql.kinds import Kind, converter
from ipr.envs.sql.schema import Schema
from ipr.types import IprError

SHOWN = 350
"""Characters of an observation; what is longer is cut there and ends in "..."."""
MAX_ROWS = 50_000
MAX_RESULT = 8_000_000
"""Of a result: characters of its texts, and 64 for each value."""
MAX_SECONDS = 1.0
MAX_OPCODES = 20_000_000
HEAP = 64_000_000
"""Bytes that SQLite may have in this process. SQLite knows one such limit, for all its users in the process."""
KEPT = 24_000_000
"""Of the results that a thread remembers, measured as in MAX_RESULT."""
MAX_OPEN = 100
"""Connections at a time in a thread. Each takes a quarter of a MB of HEAP with its functions and a generated database,
and MLflow's databases take of it, too."""

_SIZE = 1_000_000
"""Bytes of a database for each of which it has the limits above once more, up to `_MOST` times (time half as often)."""
_MOST = 20.0
_EVERY = 32  # opcodes between two looks at the clock; SQLite only looks where it jumps
_PLANNING = 20_000  # questions to the authorizer in one statement
_SETTINGS = (
    f"hard_heap_limit={HEAP}",
    "cache_size=-100",  # kB: all connections together stay well below the heap's limit
    "temp_store=MEMORY",
    "query_only=ON",
    "trusted_schema=OFF",
)
_OFTEN = ("text_key",)
"""Functions that are called for every row and refuse nothing."""
_LIMITS = {
    sqlite3.SQLITE_LIMIT_LENGTH: MAX_LENGTH,
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: 20_000,
    sqlite3.SQLITE_LIMIT_COLUMN: 200,
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 200,
    sqlite3.SQLITE_LIMIT_COMPOUND_SELECT: 50,
    sqlite3.SQLITE_LIMIT_VDBE_OP: 100_000,
    sqlite3.SQLITE_LIMIT_FUNCTION_ARG: 32,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 200,
    sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER: 0,
    sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH: 1,
    sqlite3.SQLITE_LIMIT_WORKER_THREADS: 0,
}

Row = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Result:
    """What a statement gave."""

    rows: tuple[Row, ...] | None
    """All rows; None for an error and for statements without a result set."""
    text: str
    """What the agent sees of it."""
    kind: Literal["rows", "error", "nothing"] = "rows"


def found(rows: Sequence[Row]) -> Result:
    return Result(tuple(rows), shown(str(list(rows[:SHOWN]))))  # a row has two letters and more


def shown(text: str) -> str:
    return text if len(text) <= SHOWN else text[:SHOWN] + "..."


def deciding() -> dict[str, Any]:
    """What decides an answer beside the data (see `EnvSpec.deciding`): SQLite, what reads MySQL's language, limits."""
    limits = {"shown": SHOWN, "rows": MAX_ROWS, "result": MAX_RESULT, "seconds": MAX_SECONDS, "opcodes": MAX_OPCODES}
    limits |= {"heap": HEAP, "size": _SIZE, "most": _MOST, "planning": _PLANNING, "of_sqlite": sorted(_LIMITS.items())}
    libraries = {"sqlite": sqlite3.sqlite_version, "sqlglot": version("sqlglot")}
    return libraries | {f"limits.{name}": value for name, value in limits.items()}


@dataclass(frozen=True, slots=True)
class Bounds:
    """Of one statement."""

    opcodes: float
    seconds: float
    rows: int
    result: int


def bounds(size: int) -> Bounds:
    """For a database of so many bytes: a gold query may read all rows and show them all."""
    factor = min(1.0 + size / _SIZE, _MOST)
    seconds = MAX_SECONDS * min(factor, _MOST / 2)
    return Bounds(MAX_OPCODES * factor, seconds, int(MAX_ROWS * factor), int(MAX_RESULT * factor))


class Session(Protocol):
    """Where an episode's statements run."""

    def run(self, statement: str, lenient: bool = False) -> Result: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Source:
    """A database by name: how to open it, and what DESC prints where that is written down."""

    name: str
    open: Callable[[], sqlite3.Connection]
    described: Mapping[str, Sequence[Row]] | None = None
    """Table -> the rows of DESC; None: taken from the database."""
    where: str = ""
    """The file, for messages."""
    state: str = ""
    """What tells a file from the same file changed."""
    served: bool = False
    """Whether it is a server's, and its rows come in the order in which that would read them (see `order`)."""
    created: Mapping[str, str | None] | None = None
    """Table -> what SHOW CREATE TABLE prints, None where that is not known; None: made of what DESC prints."""
    others: Callable[[], frozenset[str]] | None = None
    """Names of the tables of the server's other databases, in lower case; None: not known."""

    @property
    def key(self) -> tuple[str, str, str]:
        return self.where, self.name, self.state


def open_file(file: Path) -> sqlite3.Connection:
    """A connection that can only read, and takes the file for unchanging (no locks, no journal).

    What a database in WAL mode still has in its log is read from a copy: SQLite would write beside the file.
    """
    log = file.with_name(f"{file.name}-wal")
    if not log.is_file() or not log.stat().st_size:
        return sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro&immutable=1", uri=True, isolation_level=None)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / file.name
        shutil.copyfile(file, copy)
        shutil.copyfile(log, copy.with_name(log.name))
        whole = sqlite3.connect(copy)
        whole.execute("PRAGMA journal_mode=DELETE").fetchall()
        whole.close()
        connection = sqlite3.connect(f"{copy.as_uri()}?mode=ro&immutable=1", uri=True, isolation_level=None)
        connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchall()  # opens the file before it goes
        return connection


class _Watch:
    """What SQLite calls while a statement runs: whether it may go on, and what a function refused.

    It does not know the connection. Python cannot see that SQLite holds it, so that a circle through it would keep the
    connection, and its share of HEAP, after the thread that opened it.
    """

    def __init__(self) -> None:
        self.stored: Mapping[str, str] = {}
        self.opcodes = 0.0
        self.said = ""
        """A refusal in MySQL's words: SQLite only says that a function raised something."""
        self.start(0.0)

    def start(self, seconds: float) -> None:
        self.asked = self._ticks = self._counted = 0
        self.said = ""
        self._deadline = time.perf_counter() + seconds
        self._least = time.thread_time() + seconds / 2  # of the processor: on a busy machine time is soon gone

    def late(self) -> bool:
        return time.perf_counter() > self._deadline and time.thread_time() > self._least

    def over(self) -> bool:
        self._ticks += 1
        return self._ticks * _EVERY > self.opcodes or self.late()

    def may(self, action: int, one: str | None, two: str | None, schema: str | None, _: str | None) -> int:
        self.asked += 1
        if self.asked > _PLANNING or self.late():
            return sqlite3.SQLITE_DENY
        match action:
            case sqlite3.SQLITE_SELECT | sqlite3.SQLITE_RECURSIVE:
                return sqlite3.SQLITE_OK
            case sqlite3.SQLITE_FUNCTION if two and two.lower() in ALLOWED:
                return sqlite3.SQLITE_OK
            case sqlite3.SQLITE_READ if one is not None:
                name = one.lower()
                # A table of which no column is read is asked for with "", and so is a WITH by its name.
                other = not two and not name.startswith(("sqlite_", "pragma_", "json_", "fts", "dbstat", "generate_"))
                return sqlite3.SQLITE_OK if name in self.stored or other else sqlite3.SQLITE_DENY
        return sqlite3.SQLITE_DENY

    def next_row(self) -> int:
        self._counted += 1
        return self._counted

    def telling(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any) -> Any:
            try:
                return function(*arguments)
            except MySqlError as error:
                self.said = str(error)
                raise

        return called

    def telling_class(self, aggregate: type) -> type:
        tell = self.telling

        class Telling(aggregate):
            def __init__(self) -> None:
                super().__init__()
                self.step = tell(super().step)
                if hasattr(aggregate, "inverse"):
                    self.inverse = tell(super().inverse)

        return Telling


class Database:
    """An open database: `run` answers any text, and never raises for what the text says."""

    def __init__(self, source: Source) -> None:
        self.name = source.name
        self._source = source
        self._watch = _Watch()
        try:
            self._connection = source.open()
            told = source.described, source.created, source.others
            self.schema = Schema(source.name, self._connection, self._ask, *told, served=source.served)
            pages, size = (self._connection.execute(f"PRAGMA {p}").fetchone()[0] for p in ("page_count", "page_size"))
            self._bounds = bounds(pages * size)
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise IprError(f"{source.where or source.name}: {error}; fetch the file again") from error
        self.tables = self.schema.names
        """Tables by their name in lower case, as SHOW TABLES lists them."""
        self._watch.stored = self.schema.stored
        self._guard()

    def columns(self, table: str) -> list[str]:
        """The columns of a table (any case)."""
        return [row[1] for row in self.schema.info[table.lower()]]

    # The sandbox -----------------------------------------------------------------------------------------------------

    def _guard(self) -> None:
        connection, watch = self._connection, self._watch
        for setting in _SETTINGS:
            connection.execute(f"PRAGMA {setting}").fetchall()
        for limit, value in _LIMITS.items():
            connection.setlimit(limit, value)
        for name, (arguments, function) in FUNCTIONS.items():
            told = function if name in _OFTEN else watch.telling(function)
            connection.create_function(name, arguments, told, deterministic=True)
        connection.create_collation("mysql", collation.compare)
        connection.create_function("row_seen", 0, watch.next_row)
        for name, (arguments, aggregate) in AGGREGATES.items():
            make = connection.create_window_function if name in WINDOWED else connection.create_aggregate
            make(name, arguments, watch.telling_class(aggregate))
        watch.opcodes = self._bounds.opcodes
        connection.set_authorizer(watch.may)
        connection.set_progress_handler(watch.over, _EVERY)

    def _ask(self, sql: str) -> list[Row]:
        """A statement of ours about the database's values."""
        self._watch.start(10 * MAX_SECONDS)
        self._connection.text_factory = lambda raw: raw.decode(errors="replace")
        try:
            return self._connection.execute(sql).fetchall()
        except (sqlite3.DatabaseError, MemoryError) as error:
            self._refuse_broken(str(error), error)
            raise NotExactError("A column or table of such size") from error
        finally:
            self._connection.text_factory = str

    def _refuse_broken(self, said: str, error: Exception) -> None:
        if "image is malformed" in said or "not a database" in said or "disk I/O" in said:
            raise IprError(f"{self._source.where or self.name}: {said}; fetch the file again") from error

    def run(self, statement: str, lenient: bool = False) -> Result:
        """Runs one statement of the agent, or remembers what it gave: the database never changes.

        `lenient`: groups may show columns that ONLY_FULL_GROUP_BY refuses.
        """
        key = (*self._source.key, "lenient" if lenient else "", statement)
        known = remembered(key)
        if known is None:
            clean = statement.encode("utf-8", "replace").decode()  # half characters cannot be passed on
            known, cost = self._run(clean, lenient)
            remember(key, known, cost)
        return known

    def _run(self, statement: str, lenient: bool = False) -> tuple[Result, int]:
        reading = dialect.read(statement, self.schema, lenient)
        match reading.kind:
            case "query":
                return self._query(reading)
            case "rows":
                result = found(reading.rows)
            case kind:
                result = Result(None, shown(reading.text), kind)
        return result, 1000

    def _query(self, reading: dialect.Reading) -> tuple[Result, int]:
        rows, cost, problem = self._fetch(reading.text, reading.unsorted)
        if problem == "Could not decode to UTF-8":
            self._connection.text_factory = lambda raw: raw.decode(errors="replace")
            try:
                rows, cost, problem = self._fetch(reading.text, reading.unsorted)
            finally:
                self._connection.text_factory = str
        if rows is not None:
            try:
                return found(_converted(rows, reading.kinds)), cost
            except MySqlError as error:
                problem = str(error)
        return Result(None, shown(dialect.error_text(problem)), "error"), 1000

    def _fetch(self, sql: str, unsorted: tuple[str, Sorting] | None = None) -> tuple[list[Row] | None, int, str]:
        """Rows and what they weigh; or None and what went wrong, in SQLite's words.

        Where there are too many rows to sort them here, SQLite does it.
        """
        if unsorted is not None:
            rows, cost, problem = self._read(unsorted[0])
            if rows is not None:
                kept = -unsorted[1].columns
                leads = self._read(unsorted[1].leads)[0] if unsorted[1].leads else None
                return [rows[k][:kept] for k in arranged(rows, unsorted[1], leads)], cost, problem
            if "too large" not in problem:
                return None, cost, problem
        return self._read(sql)

    def _read(self, sql: str) -> tuple[list[Row] | None, int, str]:
        self._watch.start(self._bounds.seconds)
        rows: list[Row] = []
        cost = 1000
        cursor = self._connection.cursor()
        try:
            cursor.execute(sql)
            if cursor.description is None:
                return None, 0, "not authorized"
            for row in cursor:
                rows.append(row)
                cost += sum(64 + len(v) if isinstance(v, (str, bytes)) else 64 for v in row)
                if len(rows) > self._bounds.rows or cost > self._bounds.result:
                    return None, 0, f"The result has more than {self._bounds.rows} rows or is too large; LIMIT it"
        except (sqlite3.Warning, sqlite3.ProgrammingError) as error:
            return None, 0, str(error)
        except sqlite3.DatabaseError as error:
            said = self._watch.said or str(error)
            self._refuse_broken(said, error)
            if self._watch.asked > _PLANNING:
                said = "The statement is too complicated"
            elif "not authorized" in said and self._watch.late():
                said = "interrupted"
            return None, 0, "Could not decode to UTF-8" if said.startswith("Could not decode") else said
        except (MemoryError, OverflowError, ValueError) as error:
            return None, 0, "Out of memory" if isinstance(error, MemoryError) else str(error)
        finally:
            cursor.close()
        return rows, cost, ""

    def close(self) -> None:
        self._connection.close()


def _converted(rows: list[Row], kinds: tuple[Kind, ...]) -> list[Row]:
    """The values that a client of MySQL is given."""
    converters = [(k, convert) for k, kind in enumerate(kinds) if (convert := converter(kind)) is not None]
    if not converters:
        return rows
    changed = [list(row) for row in rows]
    for k, convert in converters:
        for row in changed:
            row[k] = convert(row[k])
    return list(map(tuple, changed))


# What a process keeps ------------------------------------------------------------------------------------------------


class _Kept(threading.local):
    """What a thread keeps, latest used last."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.databases: OrderedDict[tuple[str, ...], Database] = OrderedDict()
        self.results: OrderedDict[tuple[str, ...], tuple[Result, int]] = OrderedDict()
        self.weight = 0


_kept = _Kept()
_parents: list[Any] = []  # connections that a fork brought along: never used, never closed here


def database(source: Source) -> Database:
    """The open database of a source, opened once a thread and process."""
    if _kept.pid != os.getpid():
        _parents.append(_kept.databases)
        _kept.databases = OrderedDict()
        _kept.pid = os.getpid()
    key = source.key
    known = _kept.databases.get(key)
    if known is None:
        known = _kept.databases[key] = Database(source)
        if len(_kept.databases) > MAX_OPEN:
            _kept.databases.popitem(last=False)[1].close()
    else:
        _kept.databases.move_to_end(key)
    return known


@dataclass(frozen=True)
class Shared:
    """A session on a database that nobody can change, and so all episodes of a thread share."""

    source: Source

    def run(self, statement: str, lenient: bool = False) -> Result:
        return database(self.source).run(statement, lenient)

    def close(self) -> None:
        pass


def remembered(key: tuple[str, ...]) -> Result | None:
    if key not in _kept.results:
        return None
    _kept.results.move_to_end(key)
    return _kept.results[key][0]


def remember(key: tuple[str, ...], result: Result, cost: int) -> None:
    cost += len(key[-1])
    _kept.results[key] = (result, cost)
    _kept.weight += cost
    while _kept.weight > KEPT:
        _kept.weight -= _kept.results.popitem(last=False)[1][1]
