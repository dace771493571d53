"""What sqlglot lets pass and MySQL 8's grammar does not, told from a statement's words in their order.

Decided here: this is no second parser. It knows what may not follow a word that wants something, in what order clauses
come, and how many arguments those functions take that are part of the grammar (sql_yacc.yy of the server); the place of
an error is the first word with which no statement goes on, as MySQL quotes the rest from there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from sqlglot import TokenType
from sqlglot.tokenizer_core import Token

from ipr.envs.sql import dates, errors
from ipr.envs.sql.errors import MySqlError, NotExactError
from ipr.envs.sql.words import ARGUMENTS, CASTS, NEVER, RESERVED, TIGHT, WANTING

_STARRED = frozenset(("SELECT", "DISTINCT", "DISTINCTROW", "ALL"))
"""Words after which a star stands for columns."""
NEGATED = frozenset(("IN", "LIKE", "RLIKE", "REGEXP", "BETWEEN"))
"""Operators that NOT may stand before."""
_MORE = frozenset(("UNION", "EXCEPT", "INTERSECT", "INTO", "FOR", "LOCK", ")"))
"""What may follow LIMIT."""
_CLAUSES = {"SELECT": 0, "FROM": 1, "WHERE": 2, "GROUP BY": 3, "HAVING": 4, "ORDER BY": 6, "LIMIT": 7}
_SETS = frozenset(("UNION", "EXCEPT", "INTERSECT"))
_ENDS = frozenset((",", ")", *_CLAUSES, *_SETS))
"""Words before which CASE has its END, and BETWEEN its AND."""
_PLAIN = frozenset((TokenType.VAR, TokenType.IDENTIFIER, TokenType.STRING, TokenType.NUMBER))
_LEADING = frozenset(("LEADING", "TRAILING", "BOTH"))
"""Words that are no operand, though sqlglot takes them for names."""
_FOREIGN = frozenset(("ILIKE", "TOP", "QUALIFY", "PIVOT", "TABLESAMPLE", "MINUS", "FETCH", "SIMILAR"))
_PLAIN_UNITS = frozenset(("MICROSECOND", *dates.PLAIN_UNITS))


@dataclass(slots=True)
class _Level:
    """An open parenthesis or CASE."""

    word: str
    """What stands before the parenthesis."""
    clause: int = -1
    """The latest clause of the SELECT in it."""
    parts: int = 1
    distinct: bool = False
    between: bool = False
    """Whether a BETWEEN still wants its AND."""


def word_of(token: Token | None) -> str:
    """In upper case; nothing for what is quoted."""
    if token is None or token.token_type in (TokenType.STRING, TokenType.IDENTIFIER):
        return ""
    return " ".join(token.text.upper().split())


def check(statement: str, tokens: list[Token], lenient: bool) -> None:
    """Raises MySqlError at the first word that MySQL does not read on from.

    `lenient`: only what is in no way a query of SQLite's, for which gold queries were written.
    """
    asks = not lenient and word_of(tokens[0]) in ("SELECT", "WITH", "TABLE", "(")
    levels = [_Level("")]
    wanted = False  # whether the word before wants something
    for k, token in enumerate(tokens):
        before, after = tokens[k - 1] if k else None, tokens[k + 1] if k + 1 < len(tokens) else None
        word, level = word_of(token), levels[-1]
        if word == "(":
            level = _Level(word_of(before))
            levels.append(level)
            if before is not None and before.end + 1 < token.start and not lenient:
                _check_tight(statement, tokens, k)
            if asks and word_of(tokens[k - 2] if k > 1 else None) != ".":
                _check_opened(statement, level, before, after)
        elif asks and (level.word == "CASE" or level.between) and word in _ENDS:
            raise errors.syntax(statement, token.start)
        elif word == ")" and len(levels) > 1:
            if asks and level.parts < ARGUMENTS.get(level.word, (0, 0))[0]:
                raise errors.syntax(statement, token.start)
            levels.pop()
        elif word == "CASE":
            levels.append(_Level(word))
        elif word == "END" and level.word == "CASE":
            levels.pop()
        elif word == ",":
            level.parts += 1
            if asks:
                _check_comma(statement, level, token, after)
        elif word == "DISTINCT":
            level.distinct = True
        elif word in ("AND", "BETWEEN"):
            level.between = word == "BETWEEN"
        elif word in ("FROM", "FOR") and level.clause < 0:
            level.parts += 1  # of SUBSTRING('a' FROM 1 FOR 2)
        if word in _SETS:
            if level.clause >= _CLAUSES["ORDER BY"]:
                raise errors.syntax(statement, token.start)
            level.clause = -1
        elif word in ("ASC", "DESC") and asks:
            if level.clause not in (-1, _CLAUSES["ORDER BY"]) or word_of(before) in ("ASC", "DESC"):
                raise errors.syntax(statement, token.start)
        elif word in _CLAUSES and (word == "SELECT" or level.clause >= 0):
            if word != "SELECT" and _CLAUSES[word] < level.clause:
                raise errors.syntax(statement, token.start)
            level.clause = _CLAUSES[word]
        _check_foreign(statement, token, after, level)
        if asks:
            star = word == "*" and (wanted or word_of(before) == ".")
            negates = word == "NOT" and not wanted and word_of(before) not in ("IS", "CASE")  # a NOT IN b
            wanted = word in WANTING or (word == "*" and not star)
            if not _may_follow(tokens, k, levels[-1], wanted, star, negates):
                raise errors.syntax(statement, _start(statement, after))
            _check_next(statement, tokens, k, levels[-1])
    if asks and (levels[-1].word == "CASE" or levels[-1].between):
        raise errors.syntax(statement, len(statement))


def _start(statement: str, token: Token | None) -> int:
    return len(statement) if token is None else token.start


def _may_follow(tokens: list[Token], k: int, level: _Level, wanted: bool, star: bool, negates: bool) -> bool:
    """Whether what comes next may follow the word at `k`; `star`: it stands for columns; `negates`: an operator."""
    token, after = tokens[k], tokens[k + 1] if k + 1 < len(tokens) else None
    word, following = word_of(token), word_of(after)
    apart = after is not None and token.end + 1 < after.start
    if negates:
        return following in NEGATED
    if k == 0 and word == "(":
        return following in ("SELECT", "TABLE", "VALUES", "WITH", "(")
    if star:
        return following == ")" if level.word == "COUNT" else after is None or following in (*_ENDS, "INTO", "FOR")
    if following == "." and k > 2 and word_of(tokens[k - 3]) == word_of(tokens[k - 1]) == ".":
        return False  # database.table.column is the longest name
    if word == ")" and following == "(":
        return word_of(tokens[0]) == "WITH"
    if token.token_type in (*_PLAIN, TokenType.R_PAREN) and word not in _LEADING and not word.startswith("SQL_"):
        called = k + 2 < len(tokens) and word_of(tokens[k + 2]) == "(" and tokens[k + 2].start == tokens[k + 1].end + 1
        if after is not None and (after.token_type == TokenType.NUMBER or _offset(tokens, k, level)):
            return False
        return not (following in TIGHT and called)
    if word == "IN" and level.word != "POSITION":
        return following == "("
    if word in ("<", ">") and following == word and not apart:
        return True  # sqlglot has two words for <<
    if following == "*" and (wanted or word == "."):
        return word in _STARRED or word == "." or (word == "(" and level.word == "COUNT")
    if word == "(" and following in (")", "ORDER BY", "PARTITION BY"):
        return True  # `_check_opened` tells whether
    if word == "AS" and following != "(" and level.word not in ("CAST", "CONVERT"):
        return after is not None and following not in RESERVED and after.token_type != TokenType.NUMBER
    if wanted and following in ("SELECT", "DISTINCT"):
        return word in ("(", "DISTINCT") or (word, following) == ("SELECT", "DISTINCT")
    if wanted:
        return after is not None and following not in NEVER and (word, following) != ("ELSE", "END")
    if word in _SETS:
        return following in ("SELECT", "ALL", "DISTINCT", "TABLE", "VALUES", "WITH", "(")
    if word == ".":
        return not apart or following not in NEVER
    if word in ("DATE", "TIME", "TIMESTAMP", "YEAR"):  # of which sqlglot would make a cast
        return after is None or after.token_type != TokenType.NUMBER
    if word == "OFFSET" and (k < 2 or word_of(tokens[k - 2]) != "LIMIT"):  # else it is an alias
        return after is None or after.token_type != TokenType.NUMBER
    return True


def _offset(tokens: list[Token], k: int, level: _Level) -> bool:
    """Whether OFFSET 1 comes next without LIMIT, where no alias may stand."""
    number = tokens[k + 2] if k + 2 < len(tokens) else None
    if word_of(tokens[k + 1]) != "OFFSET" or number is None or number.token_type != TokenType.NUMBER:
        return False
    if level.clause == _CLAUSES["FROM"]:
        return word_of(tokens[k - 1]) not in ("FROM", "JOIN", ",", ".")
    return _CLAUSES["FROM"] < level.clause < _CLAUSES["LIMIT"]


def _check_next(statement: str, tokens: list[Token], k: int, level: _Level) -> None:
    """What follows the word at `k`, where more than one word tells."""
    match word_of(tokens[k]):
        case "LIMIT":
            _check_limit(statement, tokens, k + 1)
        case "INTO":
            raise NotExactError("SELECT ... INTO")
        case "INTERVAL":
            _check_interval(statement, tokens, k + 1)
    _check_text(statement, tokens, k, level)


def _check_text(statement: str, tokens: list[Token], k: int, level: _Level) -> None:
    """A text is no name, but an alias in the select list."""
    token, after = tokens[k], tokens[k + 1] if k + 1 < len(tokens) else None
    if after is None:
        return
    word = word_of(token)
    if token.token_type == TokenType.STRING and word_of(after) == ".":
        raise errors.syntax(statement, after.start)
    if after.token_type != TokenType.STRING:
        return
    named = token.token_type in (TokenType.VAR, TokenType.IDENTIFIER) and not word.startswith("_")
    tables = level.clause == _CLAUSES["FROM"] and (named or word in ("FROM", "JOIN", ",", "AS", ")"))
    if word == "." or tables:
        raise errors.syntax(statement, after.start)
    if word in ("DATE", "TIME", "TIMESTAMP") and (not k or word_of(tokens[k - 1]) != "."):
        _check_constant(word, after.text)


def _check_constant(word: str, text: str) -> None:
    """DATE '2020-02-30' is refused, where a text that becomes a date would be NULL."""
    found = dates.moment(text)
    wrong = found is None or found.real is None or found.timed != (word == "TIMESTAMP")
    if word == "TIME":
        wrong = dates.clock(text) is None
    if wrong:
        raise MySqlError(f"Incorrect {'DATETIME' if word == 'TIMESTAMP' else word} value: '{text}'")


def _check_limit(statement: str, tokens: list[Token], k: int) -> None:
    """LIMIT 1, LIMIT 1, 2 and LIMIT 1 OFFSET 2."""
    for last in (False, True):
        token, after = (tokens[j] if j < len(tokens) else None for j in (k, k + 1))
        if token is None or token.token_type != TokenType.NUMBER or not token.text.isdigit():
            raise errors.syntax(statement, _start(statement, token))
        if after is None or word_of(after) in _MORE:
            return
        if last or word_of(after) not in (",", "OFFSET"):
            raise errors.syntax(statement, after.start)
        k += 2


def _check_interval(statement: str, tokens: list[Token], k: int) -> None:
    """INTERVAL 1 DAY: the unit after what is one word."""
    k += k < len(tokens) and word_of(tokens[k]) in ("-", "+")
    if k + 1 < len(tokens) and tokens[k].token_type in (TokenType.NUMBER, TokenType.STRING, TokenType.VAR):
        unit = tokens[k + 1]
        if unit.token_type == TokenType.VAR and word_of(unit) not in dates.UNITS:
            raise errors.syntax(statement, unit.start)


def _check_opened(statement: str, level: _Level, before: Token | None, after: Token | None) -> None:
    """What stands first in a parenthesis."""
    following = word_of(after)
    called = re.fullmatch(r"\w+", level.word) and level.word not in (*WANTING, "USING", "EXISTS", "ANY", "ALL", "SOME")
    least, most = ARGUMENTS.get(level.word, (0, 1000)) if called else (1, 1000)
    wrong = (following == ")" and least) or (following != ")" and not most)
    if following in ("ORDER BY", "PARTITION BY"):
        wrong = level.word not in ("OVER", "AS")
    if (
        following == "SELECT"
        and before is not None
        and word_of(before) not in _LEADING
        and before.token_type in (TokenType.VAR, TokenType.IDENTIFIER)
    ):
        wrong = True  # a query is an argument in parentheses of its own
    if level.word == "EXTRACT":
        wrong = following not in dates.UNITS
    if level.word in ("TIMESTAMPDIFF", "TIMESTAMPADD"):
        wrong = following.removeprefix("SQL_TSI_") not in _PLAIN_UNITS
    if wrong:
        raise errors.syntax(statement, _start(statement, after))
    if following == ")":
        level.parts = 0


def _check_comma(statement: str, level: _Level, token: Token, after: Token | None) -> None:
    """One more argument."""
    if level.parts > ARGUMENTS.get(level.word, (0, 1000))[1] and not (level.word == "COUNT" and level.distinct):
        raise errors.syntax(statement, token.start)
    if level.word in ("DATE_ADD", "DATE_SUB") and word_of(after) != "INTERVAL":
        raise errors.syntax(statement, _start(statement, after))


def _check_foreign(statement: str, token: Token, after: Token | None, level: _Level) -> None:
    """What other dialects have."""
    word, following = word_of(token), word_of(after)
    doubled = statement[token.start :][:2] == "=="
    if word == "AS" and level.word == "CAST" and after is not None:
        if word_of(after).split(" ")[0] not in CASTS:
            raise errors.syntax(statement, after.start)
    elif doubled or token.token_type in (TokenType.DCOLON, TokenType.L_BRACKET, TokenType.DCOLONDOLLAR):
        raise errors.syntax(statement, token.start + doubled)
    elif word in _FOREIGN and after is not None:
        if word not in ("TOP", "MINUS") or after.token_type in (TokenType.NUMBER, TokenType.SELECT):
            raise errors.syntax(statement, after.start if word in ("TOP", "MINUS") else token.start)
    elif word == "FILTER" and following == "(":
        raise errors.syntax(statement, _start(statement, after))
    elif word == "NULLS" and following in ("FIRST", "LAST"):
        raise errors.syntax(statement, token.start)
    elif word == "FULL" and following in ("JOIN", "OUTER"):
        raise errors.syntax(statement, _start(statement, after) if following == "OUTER" else token.start)


def _check_tight(statement: str, tokens: list[Token], k: int) -> None:
    """COUNT (*): a blank makes it a name."""
    name, after = tokens[k - 1], tokens[k + 1] if k + 1 < len(tokens) else None
    if word_of(name) not in TIGHT:
        return
    if k > 1 and tokens[k - 2].token_type in (TokenType.DOT, TokenType.ALIAS):
        return
    if after is not None and word_of(after) in ("*", "DISTINCT"):
        raise errors.syntax(statement, after.start)
    raise MySqlError(
        f"FUNCTION {{database}}.{name.text} does not exist. Check the 'Function Name Parsing and Resolution' section in"
        " the Reference Manual"
    )
