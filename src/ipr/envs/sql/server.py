"""A real MySQL or MariaDB in place of the sandboxed SQLite: `env.server=mysql://user@host:port/`.

Decided here: an episode has one connection, made when its first statement is new and closed with it; what a statement
gave is remembered, as the databases do not change. The server keeps the bounds: an account that may only read (`ipr
doctor` makes and checks it), read-only transactions, a statement's time (`max_execution_time`, in MariaDB
`max_statement_time`), `sql_select_limit` rows, more of both where a database is large; the client gives up on what
goes on longer. The password stands
in IPR_MYSQL_PASSWORD. Left out: TLS, which a server on another machine should have around it.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from ipr import identity
from ipr.envs.sql import engine
from ipr.envs.sql.dialect import MAX_LENGTH
from ipr.envs.sql.engine import Bounds, Result, Session
from ipr.envs.sql.errors import ERROR
from ipr.envs.sql.real import Folder
from ipr.envs.sql.world import Question
from ipr.types import IprError

PASSWORD = "IPR_MYSQL_PASSWORD"
ADMIN = "IPR_MYSQL_ADMIN"
"""user:password of an account that may make others, with which `ipr doctor` makes the read-only one."""
MODE = (
    "ONLY_FULL_GROUP_BY,STRICT_TRANS_TABLES,NO_ZERO_IN_DATE,NO_ZERO_DATE,ERROR_FOR_DIVISION_BY_ZERO,"
    "NO_ENGINE_SUBSTITUTION"
)
"""MySQL 8's own sql_mode."""
_ENDED = (1146, 1064)
"""Errors after whose text the published wrapper's observation ends in a line break."""
_LOST = (2006, 2013, 2014, 2055)
"""The connection is gone: nothing that the statement is the cause of, as a rule."""
_LATE = (1317, 1969, 3024)
"""It took too long, which it may not at another time."""
_READS = re.compile(r"[\s(]*(?:SELECT|SHOW|DESC|DESCRIBE|EXPLAIN|WITH|TABLE|VALUES)\b[^@]*", re.IGNORECASE)
"""Statements after which the session is what it was before: no SET, USE, PREPARE, no user variable."""
_PATIENCE = 60.0
"""Seconds for a question of ours, which may read a whole table."""
_SETTINGS = (
    *("collation_connection", "cte_max_recursion_depth", "default_week_format", "div_precision_increment"),
    *("group_concat_max_len", "lc_time_names", "lower_case_table_names", "max_sort_length", "optimizer_switch"),
    *("system_time_zone", "time_zone", "version"),
)
"""Variables of a server that decide answers."""
_DESCRIBED = {
    "columns": "ordinal_position, column_name, column_type, collation_name, is_nullable, column_default, extra",
    "statistics": "index_name, seq_in_index, column_name, sub_part, non_unique",
    "key_column_usage": "constraint_name, ordinal_position, column_name, referenced_table_name, referenced_column_name",
    "views": "view_definition",
}
"""What decides answers beside the rows: columns of information_schema's tables."""
_VALUE = 8
"""Bytes that a value takes in a file of SQLite, by and large."""
_HARMLESS = frozenset(("SELECT", "USAGE", "SHOW VIEW", "SHOW DATABASES"))


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server is, and who asks."""

    host: str
    port: int
    user: str
    password: str

    def __str__(self) -> str:
        return f"mysql://{self.user}@{self.host}:{self.port}/"


def address(url: str) -> Address:
    parts = urlsplit(url)
    if parts.scheme not in ("mysql", "mariadb") or not parts.hostname or not parts.username or parts.path.strip("/"):
        raise IprError(f"env.server={url.split('@')[-1]} is no address of a server; give mysql://user@host/")
    password = unquote(parts.password) if parts.password else os.environ.get(PASSWORD, "")
    return Address(parts.hostname, parts.port or 3306, unquote(parts.username), password)


def connect(at: Address, database: str | None = None, bounds: Bounds | None = None) -> Any:
    """A connection that may only read. `bounds`: of an episode's statements; None: those of work of ours."""
    seconds, rows = (bounds.seconds, bounds.rows) if bounds else (_PATIENCE, 1_000_000)
    pymysql = _client()
    conv = {**pymysql.converters.conversions}
    for code in (pymysql.constants.FIELD_TYPE.DATE, pymysql.constants.FIELD_TYPE.NEWDATE):
        conv[code] = _or_none(pymysql.converters.convert_date)
    for code in (pymysql.constants.FIELD_TYPE.DATETIME, pymysql.constants.FIELD_TYPE.TIMESTAMP):
        conv[code] = _or_none(pymysql.converters.convert_datetime)
    try:
        made = pymysql.connect(
            host=at.host, port=at.port, user=at.user, password=at.password, database=database, charset="utf8mb4",
            autocommit=True, conv=conv, connect_timeout=10, read_timeout=10 * seconds,
        )  # fmt: skip
    except pymysql.err.OperationalError as error:
        code, said = (*error.args, "")[:2]
        if code == 1049:
            fix = f"load the database '{database}' into the server"
        else:
            fix = f"start the server, or give the account's password in {PASSWORD}; ipr doctor env.server=... checks it"
        raise IprError(f"{at}: {said or error}; {fix}") from error
    with made.cursor() as cursor:
        cursor.execute("SET SESSION TRANSACTION READ ONLY")
        cursor.execute(f"SET SESSION sql_mode = '{MODE}', sql_select_limit = {rows + 1}")
        if "MariaDB" in made.get_server_info():
            cursor.execute(f"SET SESSION max_statement_time = {seconds}")
        else:
            cursor.execute(f"SET SESSION max_execution_time = {int(1000 * seconds)}")
    return made


@contextmanager
def _asking(at: Address, database: str | None = None) -> Iterator[Callable[[str], list[tuple[Any, ...]]]]:
    """Questions of ours, each answered by its rows. Raises IprError for what the server refuses."""
    pymysql = _client()
    made = connect(at, database)

    def ask(statement: str) -> list[tuple[Any, ...]]:
        try:
            with made.cursor() as cursor:
                cursor.execute(statement)
                return list(cursor.fetchall())
        except pymysql.err.Error as error:
            said = error.args[-1] if error.args else error
            raise IprError(f"{at}: {statement[:80]}: {said}; ipr doctor env.server=... checks the account") from error

    try:
        yield ask
    finally:
        made.close()


def _base_tables(ask: Callable[[str], list[tuple[Any, ...]]]) -> list[str]:
    """Their names, as a statement has them."""
    found = ask("SHOW FULL TABLES WHERE Table_type = 'BASE TABLE'")
    return sorted(f"`{str(name).replace('`', '``')}`" for name, _ in found)


@lru_cache(maxsize=512)
def _bounds(at: Address, database: str) -> Bounds:
    """Of an episode's statements: they grow with the data, as the sandboxed engine's do."""
    with _asking(at, database) as ask:
        tables = _base_tables(ask)
        values = sum(ask(f"SELECT COUNT(*) FROM {t}")[0][0] * len(ask(f"SHOW COLUMNS FROM {t}")) for t in tables)
    return engine.bounds(_VALUE * values)


def _content(at: Address, database: str) -> dict[str, Any]:
    """Digests of what decides a database's answers: its rows, and what describes them."""
    with _asking(at, database) as ask:
        found = {
            what: sorted(
                ask(f"SELECT table_name, {columns} FROM information_schema.{what} WHERE table_schema = DATABASE()"),
                key=repr,
            )
            for what, columns in _DESCRIBED.items()
        }
        tables = _base_tables(ask)
        found["rows"] = [row[1:] for row in ask(f"CHECKSUM TABLE {', '.join(tables)}")] if tables else []
    return {name: identity.digest(repr(rows))[:16] for name, rows in found.items()}


def _client() -> Any:
    try:
        import pymysql
        import pymysql.converters
    except ImportError as error:
        raise IprError("env.server needs the package pymysql; pip install 'ipr[mysql]'") from error
    return pymysql


def _or_none(convert: Any) -> Any:
    """Dates with zeros are None, as the published wrapper's client gives them."""

    def converted(text: Any) -> Any:
        found = convert(text)
        return None if isinstance(found, str) else found

    return converted


class Connection:
    """An episode's own session on a server."""

    def __init__(self, at: Address, database: str) -> None:
        self._at, self._database = at, database
        self._made: Any = None
        self._owner = (0, 0)

    @property
    def _bounds(self) -> Bounds:
        return _bounds(self._at, self._database)

    def run(self, statement: str, lenient: bool = False) -> Result:
        """Runs one statement. `lenient`: in an sql_mode without ONLY_FULL_GROUP_BY.

        A statement answers the same wherever an episode begins: one that changes its session (SET, USE, a user
        variable) has a session of its own.
        """
        key = (str(self._at), self._database, "lenient" if lenient else "", statement)
        known = engine.remembered(key)
        if known is not None:
            return known
        text = statement.encode("utf-8", "replace").decode()
        try:
            found, cost = self._run(text, lenient)
            if cost is None and self._made is None:  # lost: of a server that was started anew, or closed a quiet one
                found, cost = self._run(text, lenient)
        finally:
            if not _READS.fullmatch(text):
                self.close()
        if cost is not None:
            engine.remember(key, found, cost)
        return found

    def _run(self, statement: str, lenient: bool) -> tuple[Result, int | None]:
        """The answer and what it costs to keep; None where the same statement may have another one next time."""
        text = statement.strip().rstrip(";").strip()
        if len(text) > MAX_LENGTH:
            return Result(None, f"{ERROR}The statement is longer than {MAX_LENGTH} characters", "error"), 1000
        if not text:
            return Result(None, f"{ERROR}Query was empty", "nothing"), 1000
        pymysql = _client()
        with self._cursor(pymysql) as cursor:
            if lenient:
                cursor.execute("SET SESSION sql_mode = 'NO_ENGINE_SUBSTITUTION,IGNORE_SPACE'")
            try:
                return self._rows(cursor, text)
            except pymysql.err.Error as error:
                code, said = (*error.args, "", "")[:2]
                if code in _LOST:
                    self.close()
                said = f"{ERROR}{said or error}" + ("\n" if code in _ENDED else "")
                passing = code in _LOST or code in _LATE
                return Result(None, engine.shown(said), "error"), None if passing else 1000
            finally:
                if lenient and self._made is not None:
                    cursor.execute(f"SET SESSION sql_mode = '{MODE}'")

    def _rows(self, cursor: Any, text: str) -> tuple[Result, int]:
        cursor.execute(text)
        if cursor.description is None:
            return Result(None, f"{ERROR}{text.split(None, 1)[0].upper()} gives no rows", "nothing"), 1000
        rows, cost, bounds = [], 1000, self._bounds
        for row in cursor.fetchall_unbuffered():
            rows.append(row)
            cost += sum(64 + len(v) if isinstance(v, (str, bytes)) else 64 for v in row)
            if len(rows) > bounds.rows or cost > bounds.result:
                self.close()  # with the rows that are still to come
                return Result(
                    None, f"{ERROR}The result has more than {bounds.rows} rows or is too large", "error"
                ), 1000
        return engine.found(rows), cost

    @contextmanager
    def _cursor(self, pymysql: Any) -> Iterator[Any]:
        owner = (os.getpid(), threading.get_ident())
        if self._made is None or self._owner != owner:  # never one that a fork brought along
            self._made, self._owner = connect(self._at, self._database, self._bounds), owner
        cursor = self._made.cursor(pymysql.cursors.SSCursor)
        try:
            yield cursor
        finally:
            if self._made is not None:
                cursor.close()
            else:
                cursor.connection = None  # nothing to read to its end, nor when the result is collected
                if cursor._result is not None:
                    cursor._result.unbuffered_active = False

    def close(self) -> None:
        made, self._made = self._made, None
        if made is not None and self._owner[0] == os.getpid():
            made._force_close()


class ServedDatabase:
    """What an expert asks of a database: its tables and columns, and statements."""

    def __init__(self, at: Address, name: str) -> None:
        self.name = name
        self._session = Connection(at, name)
        asked = "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = DATABASE()"
        rows = self._session.run(f"{asked} ORDER BY table_name, ordinal_position").rows
        if not rows:
            raise IprError(f"{at}: the database '{name}' has no tables, or the account may not read them")
        self.tables = {str(t).lower(): str(t) for t, _ in rows}
        self._columns: dict[str, list[str]] = {}
        for table, column in rows:
            self._columns.setdefault(str(table).lower(), []).append(str(column))

    def columns(self, table: str) -> list[str]:
        return self._columns[table.lower()]

    def run(self, statement: str, lenient: bool = False) -> Result:
        return self._session.run(statement, lenient)


class ServedFolder(Folder):
    """The questions of a folder, whose databases a server has."""

    def __init__(self, folder: Path, url: str) -> None:
        super().__init__(folder, databases=False)
        self._at = address(url)

    def deciding(self) -> dict[str, Any]:
        """The questions, what the server has of their databases, how it is set, and the bounds of a statement."""
        bounds = repr([engine.bounds(size * _VALUE) for size in (0, 1_000_000)])
        return {"limits.shown": engine.SHOWN, "limits.mode": MODE, "limits": bounds} | self._served_by

    @cached_property
    def _served_by(self) -> dict[str, Any]:
        """Asked once: whole tables are read."""
        content = {name: _content(self._at, name) for name in self.databases()}
        with _asking(self._at) as ask:
            listed = ", ".join(f"'{name}'" for name in _SETTINGS)
            settings = {
                str(name): str(value) for name, value in ask(f"SHOW VARIABLES WHERE Variable_name IN ({listed})")
            }
        data = identity.digest([identity.contents(self.questions()), content])
        return {"data": data} | {f"server.{name}": value for name, value in settings.items()}

    def session(self, question: Question) -> Session:
        return Connection(self._at, question.database)

    @lru_cache(maxsize=512)  # noqa: B019 - one object a run
    def _served(self, name: str) -> ServedDatabase:
        return ServedDatabase(self._at, name)

    def database(self, question: Question) -> Any:
        return self._served(question.database)

    def check(self) -> None:
        """Raises IprError for the first question that is broken, or database that the server lacks."""
        names = self.databases()
        with _asking(self._at) as ask:
            there = {str(name).lower() for (name,) in ask("SHOW DATABASES")}
        missing = [name for name in names if name.lower() not in there]
        if missing:
            raise IprError(
                f"{self._at} lacks {len(missing)} databases, {', '.join(missing[:5])} among them, or the account"
                " may not read them; load InterCode's dump, and run ipr doctor"
            )


# The account ----------------------------------------------------------------------------------------------------------


def check_account(url: str) -> str:
    """What may be said of the account, or IprError where it may do more than read."""
    at = address(url)
    with _asking(at) as ask:
        grants = [str(grant) for (grant,) in ask("SHOW GRANTS")]
        ((version,),) = ask("SELECT VERSION()")
    for grant in grants:
        rights = grant.removeprefix("GRANT ").split(" ON ")[0]
        more = {r.strip().upper() for r in rights.split(",")} - _HARMLESS
        if more or "WITH GRANT OPTION" in grant:
            raise IprError(
                f"{at} may do more than read ({', '.join(sorted(more)) or 'WITH GRANT OPTION'}); let ipr doctor make an"
                f" account: {ADMIN}=user:password ipr doctor env.server=mysql://ipr@host/"
            )
    return f"{version}, {at.user} may only read"


def make_account(url: str, names: list[str]) -> None:
    """Makes the account of `url`, which may read these databases and nothing else. Asks as IPR_MYSQL_ADMIN."""
    at = address(url)
    user, _, password = os.environ[ADMIN].partition(":")
    made = _client().connect(
        host=at.host, port=at.port, user=user, password=password, charset="utf8mb4", autocommit=True
    )
    try:
        with made.cursor() as cursor:
            cursor.execute("CREATE USER IF NOT EXISTS %s@'%%' IDENTIFIED BY %s", (at.user, at.password))
            for name in names:
                cursor.execute(f"GRANT SELECT, SHOW VIEW ON `{name.replace('`', '``')}`.* TO %s@'%%'", (at.user,))
    finally:
        made.close()
