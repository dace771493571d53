"""Looking for one text in another as MySQL does: LIKE, INSTR and REGEXP, in bounded time.

Decided here: LIKE and INSTR compare letter by letter by the collation; LIKE goes from one `%` to the next, which takes
linear steps and no recursion. REGEXP is ICU's, without regard to case; Python's `re` reads the same of what is in use,
and a pattern that could take long on a text is refused before it runs. Left out: what ICU has and `re` has not.
"""

from __future__ import annotations

import re
from functools import lru_cache

from ipr.envs.sql.collation import key
from ipr.envs.sql.errors import MySqlError, NotExactError

_STEPS = 30_000_000
"""Letters that a regular expression may look at in the worst case."""


def _letters(text: str) -> tuple[str, ...]:
    return tuple(map(key, text))


@lru_cache(maxsize=500)
def _parts(pattern: str, escape: str, exact: bool) -> tuple[tuple[str | None, ...], ...]:
    """The pieces between `%`: letters, with None for `_`."""
    pieces: list[list[str | None]] = [[]]
    k = 0
    while k < len(pattern):
        letter = pattern[k]
        if letter == escape and escape and k + 1 < len(pattern):
            k += 1
            pieces[-1].append(pattern[k] if exact else key(pattern[k]))
        elif letter == "%":
            pieces.append([])
        else:
            pieces[-1].append(None if letter == "_" else letter if exact else key(letter))
        k += 1
    return tuple(map(tuple, pieces))


def like(text: str, pattern: str, escape: str, exact: int) -> int:
    if len(pattern) > 200:
        raise NotExactError("A pattern of so many letters")
    letters = tuple(text) if exact else _letters(text)
    first, *rest = _parts(pattern, escape, bool(exact))
    if not _fits(letters, 0, first) or (not rest and len(letters) != len(first)):
        return 0
    if not rest:
        return 1
    at = len(first)
    *middle, last = rest
    for piece in middle:
        while at + len(piece) <= len(letters) and not _fits(letters, at, piece):
            at += 1
        if at + len(piece) > len(letters):
            return 0
        at += len(piece)
    end = len(letters) - len(last)
    return int(end >= at and _fits(letters, end, last))


def _fits(letters: tuple[str, ...], at: int, piece: tuple[str | None, ...]) -> bool:
    if at + len(piece) > len(letters):
        return False
    return all(wanted is None or wanted == letters[at + k] for k, wanted in enumerate(piece))


def instr(text: str, part: str, start: int = 1) -> int:
    """The place of a part in a text, from 1; 0 where it is not there.

    Only as many bytes as the part has are compared (`my_instr_mb`): so "e" is not found in "é", which has two.
    """
    if start - 1 > len(text):
        return 0
    if text.isascii() and part.isascii():
        return text.lower().find(part.lower(), start - 1) + 1
    wanted, size = key(part), len(part.encode(errors="replace"))
    if len(text) * size > _STEPS // 10:
        raise NotExactError("Looking for so long a text in another")
    raw, at = text.encode(errors="replace"), len(text[: start - 1].encode(errors="replace"))
    for place, letter in enumerate(text[start - 1 :], start):
        piece = raw[at : at + size]
        if len(piece) == size and key(piece.decode(errors="replace")) == wanted:
            return place
        at += len(letter.encode(errors="replace"))
    return 0


_CLASSES = {
    "alpha": "a-zA-Z", "digit": "0-9", "alnum": "a-zA-Z0-9", "space": r"\s", "upper": "A-Z", "lower": "a-z",
    "punct": re.escape("!\"#$%&'()*+,-./:;<=>?@[]^_`{|}~\\"), "xdigit": "0-9a-fA-F",
}  # fmt: skip


_WRONG = {
    "unterminated character set": "The regular expression contains an unclosed bracket expression.",
    "missing )": "Mismatched parenthesis in regular expression.",
    "unbalanced parenthesis": "Mismatched parenthesis in regular expression.",
    "min repeat greater": "The maximum is less than the minimum in a {min,max} interval.",
    "bad character range": "The regular expression contains an [x-y] character range where x comes after y.",
    "bad escape (end": "Unrecognized escape sequence in regular expression.",
}
"""What the server says (errors 3685 to 3700) where Python's own says this."""


@lru_cache(maxsize=500)
def _compiled(pattern: str, exact: int) -> tuple[re.Pattern[str], int]:
    """A pattern, and how many repeats without an end it has; more than any text can stand where one is in another."""
    if not pattern:
        raise MySqlError("Illegal argument to a regular expression.")
    if re.search(r"\\[pPkgXRQ]|\(\?(?!:|i\))", pattern):
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
        raise MySqlError(said) if said else NotExactError("Such a regular expression") from None


def regexp(text: str, pattern: str, exact: int = 0) -> int:
    if len(pattern) > 200:
        raise NotExactError("A regular expression of so many letters")
    compiled, repeats = _compiled(pattern, exact)
    if max(1, len(text)) ** (repeats + 1) > _STEPS:
        raise NotExactError("A regular expression of so many repeats on so long a text")
    return int(compiled.search(text) is not None)
