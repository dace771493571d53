"""A statement's words as MySQL 8 tells them apart (sql_lex.cc of the server), each with what it may be in the grammar.

A word is known by the names under which `rules` speaks of it: itself, if it is a keyword or a sign, and IDENT (it may
be a name), PLAIN (it is no keyword), TEXT, NUM, INT, VAR (`@x`), SYSVAR (`@@x`), any, bad (no statement has it) or last
(there is no more).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from ipr.envs.sql.errors import NotExactError
from ipr.envs.sql.words import KEYWORDS, RESERVED, TIGHT

_WORD = r"[\w$\x80-\U0010ffff]+"
_TOKEN = re.compile(
    rf"""(?P<blank>\s+|\#[^\n]*|--(?=[\s\x00-\x1f]|$)[^\n]*|/\*.*?\*/)
    |(?P<text>[nN]?'(?:[^'\\]|\\.|'')*'|"(?:[^"\\]|\\.|"")*")
    |(?P<quoted>`(?:[^`]|``)*`(?!`))
    |(?P<num>0x[0-9a-fA-F]+(?![\w$])|0b[01]+(?![\w$])|[xX]'(?:[0-9a-fA-F]{{2}})*'|[bB]'[01]*'
        |\d+\.\d*(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?|\d+[eE][-+]?\d+|\d+(?![\w$\x80-\U0010ffff]))
    |(?P<sysvar>@@(?:{_WORD}(?:\.{_WORD})*)?)
    |(?P<var>@(?:{_WORD}(?:\.{_WORD})*|'[^']*'|"[^"]*"|`[^`]*`)?)
    |(?P<open>/\*)
    |(?P<word>{_WORD})
    |(?P<sign><=>|:=|->>|->|&&|\|\||<<|>>|[<>!]=|<>|[<>=!](?![<>=!])|[-+*/%&|^~(),.;{{}}])
    |(?P<bad>.)""",
    re.DOTALL | re.VERBOSE,
)
_CHARSETS = ("_utf8mb4", "_utf8mb3", "_utf8", "_latin1", "_ascii", "_binary", "_ucs2", "_utf16", "_utf32")


@dataclass(frozen=True, slots=True)
class Word:
    """A word of a statement."""

    kinds: frozenset[str]
    start: int
    text: str = ""


def words(statement: str) -> list[Word]:
    """The words up to the first that is in no statement, and what says `last` or that."""
    found: list[Word] = []
    end = 0
    for match in _TOKEN.finditer(statement):
        kind, text = str(match.lastgroup), match[0]
        if kind == "blank":
            if text.startswith("/*!"):
                raise NotExactError("A comment that is run")
            continue
        after_point = bool(found) and found[-1].text == "." and end == match.start()
        if after_point and kind == "num" and text.isdigit():
            kind = "quoted"
        if kind == "word" and text.upper() == "ROLLUP" and found and found[-1].kinds == _WITH:
            found[-1] = Word(frozenset(("WITH_ROLLUP",)), found[-1].start, "WITH")
            continue
        pointed = after_point or _POINT.match(statement, match.end()) is not None
        called = statement.startswith("(", match.end())
        found.append(Word(_kinds(kind, text, pointed, called), match.start(), text))
        end = match.end()
        if kind in ("bad", "open"):
            return found
    found.append(Word(_END, len(statement)))
    return found


_POINT = re.compile(rf"\.{_WORD}")
_END = frozenset(("last",))
_WITH = frozenset(("WITH", "any"))
_NAME = frozenset(("IDENT", "PLAIN", "any"))


@lru_cache(maxsize=4096)
def _kinds(kind: str, text: str, pointed: bool, called: bool) -> frozenset[str]:
    if kind == "word":
        upper = text.upper()
        if pointed:  # a word right before or after a point is a name
            return _NAME
        if upper in TIGHT:
            return frozenset((upper, "any")) if called else _NAME
        if upper in RESERVED:
            return frozenset((upper, "any"))
        if upper in KEYWORDS:
            return frozenset((upper, "IDENT", "any"))
        return frozenset(("CHARSET_OF", "any")) if text.lower() in _CHARSETS else _NAME
    if kind == "num":
        return frozenset(("NUM", "INT", "any")) if text.isdigit() else frozenset(("NUM", "any"))
    found = {"quoted": ("IDENT", "PLAIN"), "text": ("TEXT",), "sign": (text,), "var": ("VAR",), "sysvar": ("SYSVAR",)}
    return frozenset((*found[kind], "any")) if kind in found else frozenset(("bad",))
