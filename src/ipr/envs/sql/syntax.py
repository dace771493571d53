"""Reading a statement as MySQL 8 does: sqlglot parses, and what it is too friendly to refuse is refused here.

Decided here: functions stay what they are called (`calls` knows them); clauses in a wrong order, a comma with nothing
after it, reserved words as names and what other dialects have is a syntax error, with the rest of the statement from
there on, as MySQL quotes it. Bounds on length, nesting and the parser's moves come first: the statement is hostile
input, for sqlglot too.
"""

from __future__ import annotations

import logging
import re
from itertools import pairwise

from sqlglot import TokenType, exp
from sqlglot.dialects.dialect import Dialect
from sqlglot.errors import ParseError, SqlglotError, TokenError
from sqlglot.tokenizer_core import Token

from ipr.envs.sql import errors
from ipr.envs.sql.errors import MySqlError
from ipr.envs.sql.quotes import Quotes
from ipr.envs.sql.words import RESERVED, TIGHT

MAX_LENGTH = 4000
"""Characters of a statement; Spider's longest gold query has 577."""
MAX_NESTING = 15
"""Parentheses (and CASE) in one another."""
MAX_PARTS = 3000
"""Tokens of a statement."""

_MYSQL = Dialect.get_or_raise("mysql")
_KEPT = ("CAST", "CONVERT", "EXTRACT", "GROUP_CONCAT", "SUBSTR", "SUBSTRING", "TRIM")
"""Functions with a grammar of their own."""


class TooMuchError(Exception):
    """More reading than any honest statement needs."""


class _Parser(type(_MYSQL.parser())):
    """sqlglot's parser of MySQL, with an end: many JOINs without ON, for one, take it 2 ** n steps."""

    FUNCTIONS = {}  # noqa: RUF012 - sqlglot's way
    FUNCTION_PARSERS = {  # noqa: RUF012
        name: parse for name, parse in type(_MYSQL.parser()).FUNCTION_PARSERS.items() if name in _KEPT
    }
    NO_PAREN_FUNCTION_PARSERS = {  # noqa: RUF012
        name: parse
        for name, parse in type(_MYSQL.parser()).NO_PAREN_FUNCTION_PARSERS.items()
        if name in ("ANY", "CASE")
    }
    left = 20_000
    """Moves from token to token, forth and back; Spider's gold queries need 89 at most."""

    def _advance(self, times: int = 1) -> None:
        self.left -= 1
        if self.left < 0:
            raise TooMuchError
        super()._advance(times)


_NAMES = _Parser.ID_VAR_TOKENS
"""What sqlglot takes for a name."""


def parse(statement: str, lenient: bool = False) -> exp.Expr:
    """The tree of a statement. Raises MySqlError where MySQL refuses it, TooMuchError where it is too much.

    `lenient`: COUNT (*) is a call, and reserved words are names where they can be.
    """
    try:
        tokens = _MYSQL.tokenize(statement)
    except TokenError as error:
        raise errors.syntax(statement, _unclosed(statement)) from error
    while tokens and tokens[-1].token_type == TokenType.SEMICOLON:
        tokens.pop()
    if not tokens:
        raise MySqlError("Query was empty")
    if len(tokens) > MAX_PARTS:
        raise TooMuchError
    for k, token in enumerate(tokens):
        if token.token_type == TokenType.SEMICOLON:
            raise errors.syntax(statement, tokens[k + 1].start)  # one statement at a time
    _check_words(statement, tokens, lenient)
    if len(tokens) > 1 and tokens[0].text.upper() == "SHOW":
        tokens = [_renamed(t, "COLUMNS") if t.text.upper() == "FIELDS" else t for t in tokens]
    try:
        (tree,) = _Parser(dialect=_MYSQL).parse(tokens, statement)
    except ParseError as error:
        raise errors.syntax(statement, _place(statement, tokens, error)) from error
    except (SqlglotError, ValueError) as error:
        raise errors.syntax(statement, tokens[0].start) from error
    if tree is None:
        raise MySqlError("Query was empty")
    if not lenient and any(t.token_type in _NAMES and t.text.upper() in RESERVED for t in tokens):
        _check_names(statement, tree)
    return tree


def _renamed(token: Token, text: str) -> Token:
    return Token(TokenType.VAR, text, token.line, token.col, token.start, token.end, token.comments)


def _unclosed(statement: str) -> int:
    """Where the quote begins that is never closed."""
    quotes = Quotes()
    for _ in quotes.outside(statement):
        pass
    return quotes.start if quotes.open else 0


def _place(statement: str, tokens: list[Token], error: ParseError) -> int:
    """Where MySQL stops reading: at the token that sqlglot names, or after it where something is missing."""
    said = error.errors[0] if error.errors else {}
    line, col = said.get("line") or 1, said.get("col") or 0
    token = next((t for t in tokens if t.line == line and t.col == col), tokens[-1])
    if tokens[0].token_type == TokenType.VAR:
        return tokens[0].start  # no word that begins a statement
    missing = token is tokens[-1] and re.match(r"Required|Expect", said.get("description") or "")
    if missing and not (len(tokens) > 1 and tokens[-2].token_type in _WANTING):
        return len(statement)
    return token.start


_WANTING = frozenset(
    (
        *(TokenType.SELECT, TokenType.FROM, TokenType.WHERE, TokenType.GROUP_BY, TokenType.HAVING, TokenType.ORDER_BY),
        *(TokenType.AND, TokenType.OR, TokenType.ON, TokenType.COMMA, TokenType.EQ, TokenType.LIMIT, TokenType.JOIN),
    )
)
"""What something must follow."""

# What sqlglot lets pass ---------------------------------------------------------------------------------------------

_ENDS = frozenset(
    (
        *(TokenType.FROM, TokenType.R_PAREN, TokenType.WHERE, TokenType.COMMA, TokenType.GROUP_BY, TokenType.ORDER_BY),
        *(TokenType.HAVING, TokenType.LIMIT, TokenType.UNION),
    )
)
_ORDER = {
    TokenType.SELECT: 0, TokenType.FROM: 1, TokenType.WHERE: 2, TokenType.GROUP_BY: 3, TokenType.HAVING: 4,
    TokenType.ORDER_BY: 6, TokenType.LIMIT: 7,
}  # fmt: skip
_SETS = (TokenType.UNION, TokenType.EXCEPT, TokenType.INTERSECT)
_CASTS = frozenset(
    (
        *("SIGNED", "UNSIGNED", "CHAR", "CHARACTER", "NCHAR", "BINARY", "DATE", "DATETIME", "TIME", "YEAR", "DECIMAL"),
        *("DOUBLE", "FLOAT", "REAL", "JSON"),
    )
)
"""What a value can be cast to."""
_FOREIGN = frozenset(("ILIKE", "TOP", "QUALIFY", "PIVOT", "TABLESAMPLE", "MINUS", "FETCH", "SIMILAR"))


def _check_words(statement: str, tokens: list[Token], lenient: bool) -> None:
    opened = [""]  # the word before each open parenthesis
    levels: list[int] = [-1]  # the latest clause of the SELECT at each depth of parentheses
    for k, (token, after) in enumerate(pairwise([*tokens, None])):
        if token is None:
            break
        kind, word = token.token_type, token.text.upper()
        before = tokens[k - 1] if k else None
        if (
            kind == TokenType.ALIAS
            and after is not None
            and opened[-1] == "CAST"
            and after.text.upper().split()[0] not in _CASTS
        ):
            raise errors.syntax(statement, after.start)
        if kind == TokenType.L_PAREN:
            opened.append(before.text.upper() if before is not None else "")
            levels.append(-1)
            if before is not None and before.end + 1 < token.start and not lenient:
                _check_tight(statement, tokens, k)
        elif kind == TokenType.R_PAREN and len(levels) > 1:
            levels.pop()
            opened.pop()
        elif kind == TokenType.COMMA and (after is None or after.token_type in _ENDS):
            raise errors.syntax(statement, after.start if after is not None else len(statement))
        elif (
            kind in (TokenType.DCOLON, TokenType.L_BRACKET, TokenType.DCOLONDOLLAR)
            or statement[token.start :][:2] == "=="
        ):
            raise errors.syntax(statement, token.start + (statement[token.start :][:2] == "=="))
        elif kind in _SETS:
            if levels[-1] >= 6:
                raise errors.syntax(statement, token.start)
            levels[-1] = -1
        elif kind in _ORDER and (kind == TokenType.SELECT or levels[-1] >= 0):
            if kind != TokenType.SELECT and _ORDER[kind] < levels[-1]:
                raise errors.syntax(statement, token.start)
            levels[-1] = _ORDER[kind]
        elif word in _FOREIGN and kind not in (TokenType.STRING, TokenType.IDENTIFIER) and after is not None:
            if word not in ("TOP", "MINUS") or after.token_type in (TokenType.NUMBER, TokenType.SELECT):
                raise errors.syntax(statement, after.start if word in ("TOP", "MINUS") else token.start)
        elif word == "NULLS" and after is not None and after.text.upper() in ("FIRST", "LAST"):
            raise errors.syntax(statement, token.start)
        elif word == "FULL" and k and after is not None and after.text.upper() in ("JOIN", "OUTER"):
            raise errors.syntax(statement, after.start if after.text.upper() == "OUTER" else token.start)


def _check_tight(statement: str, tokens: list[Token], k: int) -> None:
    """COUNT (*): a blank makes it a name."""
    name, after = tokens[k - 1], tokens[k + 1] if k + 1 < len(tokens) else None
    if name.text.upper() not in TIGHT or name.token_type in (TokenType.STRING, TokenType.IDENTIFIER):
        return
    if k > 1 and tokens[k - 2].token_type in (TokenType.DOT, TokenType.ALIAS):
        return
    if after is not None and (after.token_type == TokenType.STAR or after.text.upper() == "DISTINCT"):
        raise errors.syntax(statement, after.start)
    raise MySqlError(
        f"FUNCTION {{database}}.{name.text} does not exist. Check the 'Function Name Parsing and Resolution' section in"
        " the Reference Manual"
    )


def _check_names(statement: str, tree: exp.Expr) -> None:
    """A reserved word is a name only in back quotes, or after a point."""
    for node in tree.find_all(exp.Identifier):
        if node.args.get("quoted") or node.this.upper() not in RESERVED or "start" not in node.meta:
            continue
        start = node.meta["start"]
        if node.this.upper() == "DUAL" and isinstance(node.parent, exp.Table):
            continue
        if isinstance(node.parent, exp.IndexTableHint):
            continue
        if statement[:start].rstrip().endswith((".", "@")):
            continue
        raise errors.syntax(statement, start)


def nesting(text: str) -> int:
    """How deep parentheses and CASE stand in one another, before anything has parsed the text."""
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


logging.getLogger("sqlglot").setLevel(logging.ERROR)  # it warns of every statement that it cannot carry over
