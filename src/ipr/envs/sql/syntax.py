"""The tree of a query: sqlglot parses what `grammar` has read.

Decided here: functions stay what they are called (`calls` knows them). Bounds on length, nesting and the parser's moves
come first: the statement is hostile input, for sqlglot too.
"""

from __future__ import annotations

import logging
import re
from itertools import pairwise
from typing import Any

from sqlglot import TokenType, exp
from sqlglot.dialects.dialect import Dialect
from sqlglot.errors import SqlglotError
from sqlglot.tokenizer_core import Token

from ipr.envs.sql.errors import NotExactError
from ipr.envs.sql.lexer import Word
from ipr.envs.sql.words import TIGHT

MAX_LENGTH = 4000
"""Characters of a statement; Spider's longest gold query has 577."""
MAX_NESTING = 15
"""Parentheses (and CASE) in one another."""
MAX_PARTS = 3000
"""Tokens of a statement."""
BLANK = " "
"""What ends the name of a function that is not known as MySQL's own, because of a blank before its parenthesis."""

_MYSQL = Dialect.get_or_raise("mysql")
_KEPT = ("CAST", "CONVERT", "EXTRACT", "GROUP_CONCAT", "MATCH", "SUBSTR", "SUBSTRING", "TRIM")
"""Functions with a grammar of their own."""


COMMA = "COMMA"
"""The kind of a join by a comma."""


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

    def _parse_join(self, *args: Any, **options: Any) -> exp.Join | None:
        comma = self._curr is not None and self._curr.token_type == TokenType.COMMA
        join = super()._parse_join(*args, **options)
        if join is not None and comma:
            join.set("kind", COMMA)
        return join

    def _advance(self, times: int = 1) -> None:
        self.left -= 1
        if self.left < 0:
            raise TooMuchError
        super()._advance(times)


def parse(statement: str, words: list[Word], lenient: bool = False) -> exp.Expr:
    """The tree of a query. Raises NotExactError where sqlglot knows none, TooMuchError where it is too much.

    `lenient`: a word is what it is for sqlglot.
    """
    try:
        tokens = _MYSQL.tokenize(statement)
        while tokens and tokens[-1].token_type == TokenType.SEMICOLON:
            tokens.pop()
        if len(tokens) > MAX_PARTS:
            raise TooMuchError
        found = _Parser(dialect=_MYSQL).parse(tokens if lenient else _as_mysql(tokens, words), statement)
    except (SqlglotError, ValueError, IndexError) as error:
        raise NotExactError("A statement of that form") from error
    if len(found) != 1 or found[0] is None:
        raise NotExactError("A statement of that form")
    return found[0]


def _as_mysql(tokens: list[Token], words: list[Word]) -> list[Token]:
    """The tokens, with names for MySQL as names for sqlglot, which knows more words than it."""
    plain = {word.start for word in words if "PLAIN" in word.kinds or word.text.upper() == "FULL"}
    found = []
    for token, after in pairwise([*tokens, None]):
        if token is not None and token.token_type != TokenType.IDENTIFIER and token.start in plain:
            apart = after is not None and after.token_type == TokenType.L_PAREN and token.text.upper() in TIGHT
            text = token.text + BLANK if apart else token.text
            token = Token(TokenType.VAR, text, token.line, token.col, token.start, token.end, token.comments)
        found.append(token)
    return found


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
