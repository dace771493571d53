"""MySQL's regular expressions, which are ICU's, in bounded time.

Decided here: Python's `re` reads the same of what is in use, and a pattern that could take long on a text is refused
before it runs. Left out: what ICU has and `re` has not.
"""

from __future__ import annotations

import re
from functools import lru_cache

from ipr.envs.sql.errors import MySqlError, NotExactError

_STEPS = 30_000_000
"""Letters that a regular expression may look at in the worst case."""
_MOST = 100_000
"""Characters of a result."""

_CLASSES = {
    "alpha": "a-zA-Z", "digit": "0-9", "alnum": "a-zA-Z0-9", "space": r"\s", "upper": "A-Z", "lower": "a-z",
    "punct": re.escape("!\"#$%&'()*+,-./:;<=>?@[]^_`{|}~\\"), "xdigit": "0-9a-fA-F",
}  # fmt: skip


_WRONG = {
    "unterminated character set": "The regular expression contains an unclosed bracket expression.",
    "missing )": "Mismatched parenthesis in regular expression.",
    "unbalanced parenthesis": "Mismatched parenthesis in regular expression.",
    "min repeat greater": "The maximum is less than the minumum in a {min,max} interval.",
    "bad character range": "The regular expression contains an [x-y] character range where x comes after y.",
    "nothing to repeat": "Syntax error in regular expression on line 1, character {place}.",
    "bad escape (end": "Unrecognized escape sequence in regular expression.",
}
"""What the server says (errors 3685 to 3700) where Python's own says this."""


@lru_cache(maxsize=500)
def _compiled(pattern: str, exact: int) -> tuple[re.Pattern[str], int]:
    """A pattern, and how many repeats without an end it has; more than any text can stand where one is in another."""
    if not pattern:
        raise MySqlError("Illegal argument to a regular expression.")
    if "[[:<:]]" in pattern or "[[:>:]]" in pattern:  # what MySQL 5.7 had for \b
        raise MySqlError("Illegal argument to a regular expression.")
    if re.search(r"\\[pPkgXRQ]|\(\?(?!:|i\)|=|!|<=|<!)", pattern):
        raise NotExactError("Such a regular expression")
    pattern = re.sub(r"\[:(\w+):\]", lambda m: _CLASSES.get(m[1], m[0]), pattern)
    bare = re.sub(r"\\.|\[\^?\]?[^\]]*\]", "x", pattern)
    repeats = len(re.findall(r"[*+{]", bare))
    group = re.search(r"\)[*+{]", bare)  # what repeats a choice can be tried in ever so many ways
    if bare.count("?") > 8 or (group and (repeats > 1 or re.search(r"[|?]", bare.replace("(?:", "(")))):
        repeats = 9
    try:
        return re.compile(pattern, 0 if exact else re.IGNORECASE), repeats
    except (re.error, OverflowError, RecursionError) as error:
        said = next((words for start, words in _WRONG.items() if str(error).startswith(start)), None)
        place = (getattr(error, "pos", None) or 0) + 1
        raise (
            MySqlError(said.replace("{place}", str(place))) if said else NotExactError("Such a regular expression")
        ) from None


def _ready(text: str, pattern: str, exact: int, flags: str) -> re.Pattern[str]:
    """`flags`: the server's match type, of which the last letter for case counts."""
    if len(pattern) > 200:
        raise NotExactError("A regular expression of so many letters")
    if set(flags) - set("cimnu"):
        raise MySqlError("Incorrect arguments to regexp_like")
    if set(flags) & set("mnu"):
        raise NotExactError("Such a match type")
    cased = next((letter == "c" for letter in reversed(flags) if letter in "ci"), bool(exact))
    compiled, repeats = _compiled(pattern, int(cased))
    if max(1, len(text)) ** (repeats + 1) > _STEPS:
        raise NotExactError("A regular expression of so many repeats on so long a text")
    return compiled


def matches(text: str, pattern: str, exact: int, flags: str = "") -> int:
    return int(_ready(text, pattern, exact, flags).search(text) is not None)


def _matches(text: str, pattern: str, exact: int, start: int, flags: str) -> list[re.Match[str]]:
    if start < 1 or start > len(text) + 1:
        raise MySqlError("Index out of bounds in regular expression search.")
    compiled = _ready(text, pattern, exact, flags)
    if len(text) > 2000:
        raise NotExactError("A regular expression on so long a text")
    return list(compiled.finditer(text, start - 1))


def found(text: str, pattern: str, exact: int, start: int = 1, which: int = 1, flags: str = "") -> str | None:
    """REGEXP_SUBSTR."""
    hits = _matches(text, pattern, exact, start, flags)
    return hits[max(1, which) - 1][0] if len(hits) >= max(1, which) else None


def place(text: str, pattern: str, exact: int, start: int = 1, which: int = 1, after: int = 0, flags: str = "") -> int:
    """REGEXP_INSTR."""
    hits = _matches(text, pattern, exact, start, flags)
    if after not in (0, 1):
        raise MySqlError("Incorrect arguments to regexp_instr: return_option must be 1 or 0.")
    return hits[max(1, which) - 1].span()[after] + 1 if len(hits) >= max(1, which) else 0


def replaced(text: str, pattern: str, exact: int, new: str, start: int = 1, which: int = 0, flags: str = "") -> str:
    """REGEXP_REPLACE: of all hits, or of one. $1 is the first group's text."""
    at, pieces = 0, []
    for number, hit in enumerate(_matches(text, pattern, exact, start, flags), 1):
        if which in (0, number):
            pieces += [text[at : hit.start()], _filled(hit, new)]
            at = hit.end()
    result = "".join([*pieces, text[at:]])
    if len(result) > _MOST:
        raise OverflowError
    return result


def _filled(hit: re.Match[str], new: str) -> str:
    groups = hit.re.groups

    def fill(mark: re.Match[str]) -> str:
        if mark[1]:
            return mark[1]
        digits = mark[2]
        if not digits or int(digits[0]) > groups:
            raise MySqlError("Index out of bounds in regular expression search." if digits else _CUT)
        while len(digits) > 1 and int(digits) > groups:
            digits = digits[:-1]
        return (hit[int(digits)] or "") + mark[2][len(digits) :]

    return re.sub(r"\\(.)|\$(\d*)", fill, new, flags=re.DOTALL)


_CUT = "A capture group has an invalid name."
