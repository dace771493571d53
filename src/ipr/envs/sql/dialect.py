"""MySQL's dialect on SQLite: what a statement asks, in SQLite's words, or what MySQL 8 says against it.

Decided here: `grammar` reads, `select` and `expressions` compile with MySQL's types, `shows` answers SHOW and DESC
from the schema. A statement has MySQL 8's answer or is an error; where MySQL would answer and this engine would not in
the same way, the error says so (`errors.NotExactError`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from ipr.envs.sql import catalog, grammar, lexer, opening, shows, syntax
from ipr.envs.sql.errors import ERROR, MySqlError, NotExactError
from ipr.envs.sql.filesort import Sorting
from ipr.envs.sql.kinds import Kind
from ipr.envs.sql.lexer import Word
from ipr.envs.sql.schema import Schema
from ipr.envs.sql.select import Compiler

MAX_LENGTH, MAX_NESTING = syntax.MAX_LENGTH, syntax.MAX_NESTING
_TOO_MUCH = f"{ERROR}The statement is too complicated"
_COMMENTS = re.compile(r"/\*(?!!).*?\*/|(?:--[ \t]|--$|#)[^\n]*", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Reading:
    """What a statement asks."""

    kind: Literal["query", "rows", "error", "nothing"]
    """"rows": answered without the database; "error": refused with `text`; "nothing": a statement without a result
    set, which is not run either."""
    text: str = ""
    """A query in SQLite's words, or what is answered."""
    kinds: tuple[Kind, ...] = ()
    """Types of a query's columns."""
    rows: tuple[tuple[Any, ...], ...] = ()
    unsorted: tuple[str, Sorting] | None = None
    """See `frames.Query`."""


def read(statement: str, schema: Schema, lenient: bool = False) -> Reading:
    """What a statement asks. `lenient`: without ONLY_FULL_GROUP_BY and a few other strictnesses."""
    text = statement.strip().rstrip(";").strip()
    if len(text) > MAX_LENGTH:
        return Reading("error", f"{ERROR}The statement is longer than {MAX_LENGTH} characters")
    if "\x00" in text:
        text = text.replace("\x00", "?")
    bare = _COMMENTS.sub(" ", text)
    if not bare.strip():  # of comments alone the server makes no result at all
        return Reading("nothing", f"{ERROR}Query was empty")
    if syntax.nesting(bare) > MAX_NESTING:
        return Reading("error", _TOO_MUCH)
    try:
        return _read(text, schema, lenient)
    except MySqlError as error:
        return Reading("error", ERROR + str(error).replace("{database}", schema.name))
    except (RecursionError, syntax.TooMuchError):
        return Reading("error", _TOO_MUCH)


def _read(text: str, schema: Schema, lenient: bool) -> Reading:
    words = grammar.read(text, lenient)
    first = words[0].text.upper()
    if first == "SHOW":
        return _shown(text, words, schema)
    if first in ("DESC", "DESCRIBE", "EXPLAIN"):
        start = shows.explained(words)
        if start is None:
            return Reading("rows", rows=tuple(shows.describe(schema, words)))
        if start:
            _query(text[start:], schema, lenient)  # what MySQL says against it comes first
        raise NotExactError("EXPLAIN of a query")
    if first == "USE":
        shows.used(schema, words)
        return Reading("nothing", f"{ERROR}USE gives no rows")
    if first not in _QUERIES:
        return Reading("nothing", f"{ERROR}{first} command denied; only SELECT, SHOW TABLES and DESC can be run")
    return _query(text, schema, lenient, words)


def _query(text: str, schema: Schema, lenient: bool, words: list[Word] | None = None) -> Reading:
    words = lexer.words(text) if words is None else words
    tree = syntax.parse(text, words, lenient)
    opening.check(schema, tree, lenient)
    query = Compiler(schema, text, lenient).query(tree)
    return Reading("query", query.sql, tuple(t.kind for t in query.terms), unsorted=query.unsorted)


def _shown(text: str, words: list[Word], schema: Schema) -> Reading:
    shown = shows.show(schema, words)
    if shown.where is None:
        return Reading("rows", rows=tuple(shown.rows))
    made = catalog.virtual("show", shown.names, shown.rows, "information_schema")
    return _query(f"SELECT * FROM `show` {text[shown.where :]}", schema.beside(made), lenient=False)


_QUERIES = ("SELECT", "WITH", "TABLE", "VALUES", "(")


def hardness(query: str) -> str:
    """How hard a query is, roughly as Spider grades, by what it is made of; for files that do not say."""
    try:
        tree = sqlglot.parse_one(query, read="mysql")
    except (SqlglotError, RecursionError):
        return "extra"
    selects = len(list(tree.find_all(exp.Select)))
    parts = (exp.Join, exp.Where, exp.Group, exp.Order, exp.Limit, exp.Or, exp.Like, exp.Having)
    load = sum(len(list(tree.find_all(part))) for part in parts)
    load += max(0, len(list(tree.find_all(exp.AggFunc))) - 1)
    if selects > 1:
        return "hard" if load <= 2 else "extra"
    return "easy" if load <= 1 else "medium" if load <= 3 else "hard" if load <= 4 else "extra"


# SQLite's errors ----------------------------------------------------------------------------------------------------

_SAYINGS = (
    (r"interrupted", "Query execution was interrupted, maximum statement execution time exceeded"),
    (r"string or blob too big", "The result of a function is too long"),
    (
        r"HAVING clause on a non-aggregate query",
        "HAVING with an aggregate that is not selected cannot be answered here",
    ),
    (r"misuse of .*", str(NotExactError("An aggregate or window there"))),
    (r"integer overflow", "BIGINT value is out of range"),
    (r"not authorized.*|attempt to write.*", "Command denied; only SELECT, SHOW TABLES and DESC can be run"),
    (r"(?:too many|at most|Expression tree|parser stack).*|LIKE or GLOB.*", "The statement is too complicated"),
)


def error_text(said: str) -> str:
    """What is said of a query that was compiled and that SQLite could not run."""
    for pattern, words in _SAYINGS:
        if re.fullmatch(pattern, said, re.DOTALL):
            return ERROR + words
    return ERROR + said
