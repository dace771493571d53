"""Looking for one text in another as MySQL does: LIKE and INSTR, in bounded time.

Decided here: they compare letter by letter by the collation; LIKE goes from one `%` to the next, which takes linear
steps and no recursion.
"""

from __future__ import annotations

from functools import lru_cache

from ipr.envs.sql.collation import key
from ipr.envs.sql.errors import NotExactError

_STEPS = 3_000_000
"""Letters that may be looked at in the worst case."""


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
    if len(text) * size > _STEPS:
        raise NotExactError("Looking for so long a text in another")
    raw, at = text.encode(errors="replace"), len(text[: start - 1].encode(errors="replace"))
    for place, letter in enumerate(text[start - 1 :], start):
        piece = raw[at : at + size]
        if len(piece) == size and key(piece.decode(errors="replace")) == wanted:
            return place
        at += len(letter.encode(errors="replace"))
    return 0
