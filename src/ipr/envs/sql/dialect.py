"""MySQL's dialect on SQLite: what a statement asks, and what MySQL would say of its errors.

Decided here: sqlglot translates (7/2, CONCAT, IF, DIV, quotes and more); comparisons of text ignore case, as MySQL's
do; a statement that sqlglot cannot read goes to SQLite as it is; what is no query is refused here already. Identifiers
are written in back quotes, since SQLite takes an unknown name in double quotes for a string. Bounds on length and
nesting come first: the statement is hostile input, for sqlglot too. Left out: MySQL's number types (a SUM of integers
stays an int, where MySQL has Decimal).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import sqlglot
from sqlglot import TokenType, exp
from sqlglot.dialects.dialect import Dialect
from sqlglot.dialects.sqlite import SQLite
from sqlglot.errors import ErrorLevel, SqlglotError

MAX_LENGTH = 4000
"""Characters of a statement; Spider's longest gold query has 577."""
MAX_NESTING = 15
"""Parentheses (and CASE) in one another."""

ERROR = "Error executing query: "


class _Written(SQLite):
    """SQLite, written with `names` for "names"."""

    class Tokenizer(SQLite.Tokenizer):
        IDENTIFIERS = ["`"]  # noqa: RUF012 - sqlglot's way


@dataclass(frozen=True, slots=True)
class Reading:
    """What a statement asks."""

    kind: Literal["query", "tables", "columns", "databases", "error", "nothing"]
    """"error": refused with `text`; "nothing": a statement without a result set, which is not run either."""
    text: str = ""
    """A query in SQLite's words, the table whose columns are asked, or what is answered."""


_NAME = r"(?:`([^`]+)`|\"([^\"]+)\"|([\w$]+))"
_TABLE = rf"(?:{_NAME}\s*\.\s*)?{_NAME}"
_TABLES = re.compile(r"show\s+(?:full\s+)?tables", re.IGNORECASE)
_DATABASES = re.compile(r"show\s+(?:databases|schemas)", re.IGNORECASE)
_COLUMNS = re.compile(
    rf"(?:desc(?:ribe)?|explain|show\s+(?:columns|fields)\s+(?:from|in))\s+{_TABLE}(?!\s*\()", re.IGNORECASE
)
_COMMENTS = re.compile(r"/\*.*?\*/|(?:--[ \t]|--$|#)[^\n]*", re.DOTALL | re.MULTILINE)


def read(statement: str, database: str, numbers: Collection[str] = frozenset()) -> Reading:
    """What a statement asks. `numbers` are the columns (lower case) that hold numbers only."""
    text = statement.strip().rstrip(";").strip()
    if "\x00" in text:
        return Reading("error", syntax_error(text[text.index("\x00") :].replace("\x00", "?")))
    if len(text) > MAX_LENGTH:
        return Reading("error", f"{ERROR}The statement is longer than {MAX_LENGTH} characters")
    bare = _COMMENTS.sub(" ", text)
    if not bare.strip():
        return Reading("nothing", f"{ERROR}Query was empty")
    if _nesting(bare) > MAX_NESTING:
        return Reading("error", f"{ERROR}The statement is too complicated")
    if _TABLES.fullmatch(text):
        return Reading("tables")
    if _DATABASES.fullmatch(text):
        return Reading("databases")
    if found := _COLUMNS.fullmatch(text):
        parts = [g for g in found.groups() if g is not None]
        if len(parts) == 2 and parts[0].lower() != database.lower():
            return Reading("error", f"{ERROR}Table '{parts[0]}.{parts[1]}' doesn't exist\n")
        return Reading("columns", parts[-1])
    return _translate(text, database, numbers)


def _nesting(text: str) -> int:
    depth = deepest = 0
    for word in re.findall(r"[(\[{]|[)\]}]|\bcase\b|\bend\b|(?:\bnot\b\s*|[-+~!]\s*){8,}", text, re.IGNORECASE):
        if word in "([{" or word.lower() == "case":
            depth += 1
        elif word in ")]}" or word.lower() == "end":
            depth -= 1
        else:
            return MAX_NESTING + 1
        deepest = max(deepest, depth)
    return deepest


def _translate(text: str, database: str, numbers: Collection[str]) -> Reading:
    try:
        tokens = _MYSQL.tokenize(text)
        if any(a.token_type == TokenType.COMMA and b.token_type in _NO_ITEM for a, b in pairwise(tokens)):
            return Reading("query", text)  # sqlglot overlooks a comma with nothing after it; SQLite does not
        trees = [tree for tree in _Parser(dialect=_MYSQL).parse(tokens, text) if tree is not None]
        if len(trees) > 1:
            return Reading("error", f"{ERROR}One statement at a time, please")
        if not trees:
            return Reading("nothing", f"{ERROR}Query was empty")
        if isinstance(trees[0], _REFUSED):
            word = text.split(None, 1)[0].upper()
            return Reading("nothing", f"{ERROR}{word} command denied; only SELECT, SHOW TABLES and DESC can be run")
        if not isinstance(trees[0], exp.Query):
            return Reading("query", text)  # not known to be harmless: the sandbox judges
        _as_in_mysql(trees[0], database.lower(), numbers)
        return Reading("query", trees[0].sql(_Written, copy=False, comments=False, unsupported_level=ErrorLevel.IGNORE))
    except (RecursionError, _TooMuchError):
        return Reading("error", f"{ERROR}The statement is too complicated")
    except Exception:  # sqlglot's own errors, and what hostile input brings to light in it
        return Reading("query", text)


class _TooMuchError(Exception):
    """More reading than any honest statement needs."""


class _Parser(type(Dialect.get_or_raise("mysql").parser())):
    """sqlglot's parser of MySQL, with an end: many JOINs without ON, for one, take it 2 ** n steps."""

    left = 20_000
    """Moves from token to token, forth and back; Spider's gold queries need 89 at most."""

    def _advance(self, times: int = 1) -> None:
        self.left -= 1
        if self.left < 0:
            raise _TooMuchError
        super()._advance(times)


_MYSQL = Dialect.get_or_raise("mysql")
_NO_ITEM = (TokenType.FROM, TokenType.R_PAREN, TokenType.WHERE, TokenType.COMMA)
_REFUSED = (
    exp.Set,
    exp.Use,
    exp.Insert,
    exp.Update,
    exp.Delete,
    exp.Merge,
    exp.DDL,
    exp.Drop,
    exp.Command,
    exp.Pragma,
    exp.Attach,
    exp.Describe,
)
_COMPARISONS = (exp.EQ, exp.NEQ, exp.NullSafeEQ, exp.NullSafeNEQ, exp.LT, exp.LTE, exp.GT, exp.GTE, exp.In, exp.Between)


def _as_in_mysql(tree: exp.Expr, database: str, numbers: Collection[str]) -> None:
    """Names of the database fall away, and comparisons that may be of text ignore case."""
    for node in list(tree.walk()):
        if isinstance(node, (exp.Table, exp.Column)) and node.text("db").lower() == database:
            node.set("db", None)
        if isinstance(node, (exp.Left, exp.Right)):  # words of joins in SQLite
            name = "text_left" if isinstance(node, exp.Left) else "text_right"
            node.replace(exp.Anonymous(this=name, expressions=[node.this, node.expression]))
        elif isinstance(node, _COMPARISONS) and _may_be_text(node, numbers):
            node.set("this", exp.Collate(this=node.this, expression=exp.Var(this="NOCASE")))


def _may_be_text(node: exp.Expr, numbers: Collection[str]) -> bool:
    sides = [node.this, node.args.get("expression"), node.args.get("low"), *node.args.get("expressions", ())]
    if isinstance(node.this, (exp.Tuple, exp.Collate)):
        return False
    return not any(_is_number(side, numbers) for side in sides if side is not None)


def _is_number(side: exp.Expr, numbers: Collection[str]) -> bool:
    if isinstance(side, exp.Literal):
        return not side.is_string
    if isinstance(side, exp.Column):
        return side.name.lower() in numbers
    if isinstance(side, (exp.Count, exp.Avg, exp.Sum, exp.Neg)):
        return True
    return isinstance(side, (exp.Max, exp.Min)) and _is_number(side.this, numbers)


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


# Errors --------------------------------------------------------------------------------------------------------------


def syntax_error(near: str) -> str:
    return (
        f"{ERROR}You have an error in your SQL syntax; check the manual that corresponds to your MariaDB server version"
        f" for the right syntax to use near '{near}' at line 1\n"
    )


_SAYINGS = (
    (r"no such table: (?:main\.)?(?P<x>.+)", "Table '{db}.{x}' doesn't exist\n"),
    (r"access to (?P<x>[^.]+)\.\S* is prohibited", "Table '{db}.{x}' doesn't exist\n"),
    (r"no such column: (?P<x>.+)", "Unknown column '{x}' in '{clause}'"),
    (r"ambiguous column name: (?P<x>.+)", "Column '{x}' in '{clause}' is ambiguous"),
    (r"(?:no such function: |not authorized to use function: )(?P<x>\w+)", "FUNCTION {db}.{x} does not exist"),
    (
        r"wrong number of arguments to function (?P<x>\w+)\(\)",
        "Incorrect parameter count in the call to native function '{x}'",
    ),
    (r"misuse of (?:window function|aggregate).*", "Invalid use of group function"),
    (r"(?:SELECTs to the left|all VALUES).*", "The used SELECT statements have a different number of columns"),
    (r"(?:sub-select|row value misused).*", "Operand should contain 1 column(s)"),
    (r"interrupted", "Query execution was interrupted (max_statement_time exceeded)"),
    (r"string or blob too big", "The result of a function is too long"),
    (r"user-defined function raised exception", "A function was given what it cannot take"),
    (r"not authorized|attempt to write.*", "Command denied; only SELECT, SHOW TABLES and DESC can be run"),
)


def error_text(said: str, statement: str, database: str, near: str | None) -> str:
    """MySQL's words for SQLite's. `near` is the rest of the statement from where a syntax error is, if it is one."""
    if near is not None:
        return syntax_error(near)
    for pattern, words in _SAYINGS:
        if found := re.fullmatch(pattern, said):
            x = found.groupdict().get("x") or ""
            clause = _clause(statement, x) if "{clause}" in words else ""
            return ERROR + words.format(db=database, x=x, clause=clause)
    return ERROR + said


def _clause(statement: str, column: str) -> str:
    """The part of the statement in which a column stands first, as MariaDB names it."""
    try:
        (tree,) = _Parser(dialect=_MYSQL).parse(_MYSQL.tokenize(statement), statement)
        for node in tree.find_all(exp.Column) if tree is not None else ():
            if node.sql().lower().replace('"', "") == column.lower():
                return next((_CLAUSES[type(p)] for p in _parents(node) if type(p) in _CLAUSES), "SELECT")
    except Exception:  # as above
        pass
    return "SELECT"


def _parents(node: exp.Expr) -> Iterator[exp.Expr]:
    while node.parent is not None:
        node = node.parent
        yield node


_CLAUSES: dict[type, str] = {
    exp.Where: "WHERE",
    exp.Group: "GROUP BY",
    exp.Having: "HAVING",
    exp.Order: "ORDER BY",
    exp.Join: "ON",
    exp.Select: "SELECT",
}

logging.getLogger("sqlglot").setLevel(logging.ERROR)  # it warns of every statement that it cannot carry over
