"""Reading a statement as MySQL 8 does: sqlglot parses, and what it is too friendly to refuse is refused here.

Decided here: functions stay what they are called (`calls` knows them); what `grammar` refuses and reserved words as
names are a syntax error, with the rest of the statement from there on, as MySQL quotes it; DESC is read here. Bounds on
length, nesting and the parser's moves come first: the statement is hostile input, for sqlglot too.
"""

from __future__ import annotations

import logging
import re
from itertools import pairwise

from sqlglot import TokenType, exp
from sqlglot.dialects.dialect import Dialect
from sqlglot.errors import ParseError, SqlglotError, TokenError
from sqlglot.tokenizer_core import Token

from ipr.envs.sql import errors, grammar
from ipr.envs.sql.errors import MySqlError, NotExactError
from ipr.envs.sql.quotes import Quotes
from ipr.envs.sql.words import EXPLAINED, RESERVED, SHOWN, STARTS

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
    first = grammar.word_of(tokens[0])
    if first in ("DESC", "DESCRIBE", "EXPLAIN"):
        return _described(statement, tokens)
    if first == "VALUES":
        raise NotExactError("VALUES")
    if first == "SHOW":
        tokens = _shown(statement, tokens)
    if first not in STARTS:
        raise errors.syntax(statement, tokens[0].start)
    wrong: errors.GrammarError | None = None
    try:
        grammar.check(statement, tokens, lenient)
    except errors.GrammarError as error:
        wrong = error
    try:
        (tree,) = _Parser(dialect=_MYSQL).parse(tokens, statement)
    except ParseError as error:
        place = _place(statement, tokens, error)
        raise errors.syntax(statement, place if wrong is None else min(place, wrong.start)) from error
    except IndexError as error:  # sqlglot reads beyond the end of SHOW CREATE
        raise errors.syntax(statement, len(statement)) from error
    except (SqlglotError, ValueError) as error:
        raise wrong or errors.syntax(statement, tokens[0].start) from error
    if wrong is not None:
        raise wrong
    if tree is None:
        raise MySqlError("Query was empty")
    if not lenient and any(t.token_type in _NAMES and t.text.upper() in RESERVED for t in tokens):
        _check_names(statement, tree)
    return tree


def _described(statement: str, tokens: list[Token]) -> exp.Describe:
    """DESC table [column | 'pattern']."""
    if len(tokens) > 2 and grammar.word_of(tokens[1]) in EXPLAINED:
        raise NotExactError("EXPLAIN of a query")
    rest = [*tokens[1:], None]
    names = [_name(statement, rest.pop(0))]
    if grammar.word_of(rest[0]) == ".":
        names.append(_name(statement, rest[1]))
        rest = rest[2:]
    pattern = None
    if (last := rest.pop(0)) is not None:
        pattern = last.text if last.token_type == TokenType.STRING else _name(statement, last)
        if (more := rest.pop(0)) is not None:
            raise errors.syntax(statement, more.start)
    return exp.Describe(this=exp.table_(names[-1], db=names[0] if len(names) > 1 else None), kind=pattern)


def _name(statement: str, token: Token | None) -> str:
    """A name; anything else is a syntax error."""
    if token is not None and token.token_type == TokenType.IDENTIFIER:
        return token.text
    word = grammar.word_of(token)
    if token is None or not re.fullmatch(r"[\w$]+", word) or word.isdigit() or word in RESERVED:
        raise errors.syntax(statement, len(statement) if token is None else token.start)
    return token.text


def _shown(statement: str, tokens: list[Token]) -> list[Token]:
    """SHOW in the words that sqlglot knows: FIELDS are COLUMNS, and IN is FROM."""
    if len(tokens) == 1 or grammar.word_of(tokens[1]) not in SHOWN:
        raise errors.syntax(statement, tokens[1].start if len(tokens) > 1 else len(statement))
    said = {"FIELDS": "COLUMNS", "IN": "FROM"}
    tokens = [_renamed(t, said[w]) if (w := grammar.word_of(t)) in said else t for t in tokens]
    for token, after in pairwise([*tokens, None]):
        word = grammar.word_of(token)
        if word == "FROM":
            _name(statement, after)
        if word in ("LIKE", "WHERE"):
            break
        if word == "COLUMNS" and grammar.word_of(after) != "FROM":
            raise errors.syntax(statement, len(statement) if after is None else after.start)
    return tokens


def _renamed(token: Token, text: str) -> Token:
    kind = TokenType.FROM if text == "FROM" else TokenType.VAR
    return Token(kind, text, token.line, token.col, token.start, token.end, token.comments)


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
    if token is tokens[-1] and re.match(r"Required|Expect", said.get("description") or ""):
        return len(statement)
    after = next((t for t in tokens if t.start > token.start), None)
    negated = token.token_type == TokenType.NOT and grammar.word_of(after) not in grammar.NEGATED
    if negated or "END after CASE" in (said.get("description") or ""):  # sqlglot names the token before
        return len(statement) if after is None else after.start
    return token.start


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
