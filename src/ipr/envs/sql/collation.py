"""utf8mb4_0900_ai_ci: when two texts are equal to MySQL 8, and which comes first.

The collation compares primary weights of the Unicode Collation Algorithm 9.0 (the "DUCET", nothing variable): case and
accents do not count, control and combining characters are nothing at all, and trailing blanks do count (it is NO PAD;
https://dev.mysql.com/doc/refman/8.0/en/charset-unicode-sets.html). Decided here: a text becomes a key whose order by
code points is the collation's, from Unicode's own decompositions and the DUCET's order of what Western texts hold
(`_ORDER`). Left out: letters of other scripts are in the order of their code points, as nearly all are in the DUCET.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache

_ORDER = (  # as the DUCET has them
    "\t\n\x0b\x0c\r\x85\u2028\u2029 "
    "_‿-‐‒–—―,;:!¡?¿.·'‘’‚‹›\"“”„«»()[]{}§¶@*/\\&#%‰†‡•`´˜^¯¨¸°©®+±÷×<=>|¦¬~¤¢$£¥€"  # noqa: RUF001
    "0123456789aªbcdđðefghiıjklmnoºpqrstuvwxyzþ"  # noqa: RUF001
)
_LETTERS = {
    "ß": "ss", "æ": "ae", "œ": "oe", "ø": "o", "đ": "d", "ł": "l", "ħ": "h", "ŧ": "t", "ﬁ": "fi", "ﬂ": "fl",
}  # fmt: skip
"""Letters that Unicode does not decompose, but the DUCET does."""
_PLACES = {ord(c): chr(33 + k) for k, c in enumerate(_ORDER)}
_PLACES |= {ord(c.upper()): _PLACES[ord(c)] for c in "abcdefghijklmnopqrstuvwxyz"}
_ASCII = {**dict.fromkeys(range(128)), **{k: v for k, v in _PLACES.items() if k < 128}}
_KEPT = frozenset(c for c in _ORDER if ord(c) > 127 and unicodedata.category(c)[0] != "L")
"""Signs with a place of their own, which Unicode would take apart."""


def key(text: str) -> str:
    """Equal and in order as MySQL has the texts."""
    return _key(text) if len(text) <= 200 else _key.__wrapped__(text)


@lru_cache(maxsize=50_000)
def _key(text: str) -> str:
    if text.isascii():
        return text.translate(_ASCII)
    return "".join(map(_weight, text))


def compare(a: str, b: str) -> int:
    """As a collation of SQLite, by which it can build an index."""
    if a == b:
        return 0
    one, other = key(a), key(b)
    return (one > other) - (one < other)


@lru_cache(maxsize=10_000)
def _weight(letter: str) -> str:
    if letter in _KEPT or letter.isascii():
        return _PLACES.get(ord(letter), "")
    found = ""
    for part in unicodedata.normalize("NFKD", letter.casefold() if letter not in "ßẞ" else "ß"):
        if part in _LETTERS:
            found += "".join(_PLACES[ord(c)] for c in _LETTERS[part])
        elif ord(part) in _PLACES:
            found += _PLACES[ord(part)]
        elif unicodedata.category(part) not in ("Mn", "Me", "Cc", "Cf"):
            found += chr(min(0x300 + ord(part), 0x10FFFF))
    return found


PLAIN = frozenset(map(chr, (9, 10, *range(32, 127))))
"""Characters among which equality is SQLite's NOCASE."""


def ordered(letters: frozenset[str]) -> bool:
    """Whether SQLite's NOCASE puts texts of these characters, all of them plain, in MySQL's order."""
    by_code = sorted({c.lower() for c in letters})
    return by_code == sorted(by_code, key=key)
