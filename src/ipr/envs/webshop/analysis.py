"""Text to search terms as Lucene's English analyzer makes them: words, possessives, lower case, stop words, Porter.

Decided here: words are cut by the rules of Unicode's annex 29 (as Lucene's StandardTokenizer does) written as one
regular expression: letters, digits and underscores stay together, an apostrophe, full stop or colon joins letters, a
full stop, comma, semicolon or apostrophe joins digits, Chinese and Hiragana signs stand alone. Left out: scripts
without blanks between words (Thai, Khmer), which Lucene cuts by dictionary, and marks beyond the common ones.
"""

from __future__ import annotations

import re

from ipr.envs.webshop.porter import stem

_STOP_WORDS = """
    a an and are as at be but by for if in into is it no not of on or such that the their then there these they this
    to was will with
"""
STOP_WORDS = frozenset(_STOP_WORDS.split())
LONGEST = 255
"""Characters; a longer word is cut into pieces of that length."""

_MARK = "\u00ad\u0300-\u036f\u200c\u200d\u20d0-\u20ff\ufe00-\ufe0f"  # belongs to the character before it
_ALONE = "\u3040-\u309f\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_KATAKANA = "\u30a1-\u30fa\u30fc-\u30ff\uff66-\uff9f"
# Fractions, superscripts, circled numbers: "alphanumeric" to Python, no part of a word to Unicode.
_NO_WORD = (
    "\u00b2\u00b3\u00b9\u00bc-\u00be\u2070-\u2079\u2080-\u2089\u2150-\u215f\u2460-\u249b\u24ea-\u24ff\u2776-\u2793"
)
_LETTER = rf"[^\W\d_{_NO_WORD}{_ALONE}{_KATAKANA}][{_MARK}]*"
_DIGIT = rf"\d[{_MARK}]*"
_BOTH = "'.\u2018\u2019\u2024\ufe52\uff07\uff0e"  # joins letters, and joins digits
_IN_WORD = f"[{_BOTH}:\u00b7\u0387\u2027\ufe13\ufe55\uff1a]"
_IN_NUMBER = f"[{_BOTH},;\u037e\u0589\u060c\u060d\u066c\u2044\ufe10\ufe14\ufe50\ufe54\uff0c\uff1b]"
_PART = rf"(?:(?:{_LETTER})+(?:{_IN_WORD}(?:{_LETTER})+)*|(?:{_DIGIT})+(?:{_IN_NUMBER}(?:{_DIGIT})+)*)"
_WORD = re.compile(rf"_*(?:{_PART}_*)+|(?:[{_KATAKANA}][{_MARK}]*)+|[{_ALONE}][{_MARK}]*")
# Nearly every text is plain ASCII, for which this says the same and is several times faster.
_ASCII_PART = r"(?:[a-z]+(?:['.:][a-z]+)*|[0-9]+(?:['.,;][0-9]+)*)"
_ASCII_WORD = re.compile(rf"_*(?:{_ASCII_PART}_*)+", re.IGNORECASE | re.ASCII)
_POSSESSIVE = ("'s", "\u2019s", "\uff07s", "'S", "\u2019S", "\uff07S")


def words(text: str) -> list[str]:
    """The words of a text, as they are written."""
    found = (_ASCII_WORD if text.isascii() else _WORD).findall(text)
    if any(len(word) > LONGEST for word in found):
        return [word[i : i + LONGEST] for word in found for i in range(0, len(word), LONGEST)]
    return found


def terms(text: str) -> list[str]:
    """The terms of a text or query, in order, duplicates kept."""
    found = []
    for word in words(text):
        plain = (word[:-2] if word.endswith(_POSSESSIVE) else word).lower()
        if plain not in STOP_WORDS:
            found.append(stem(plain))
    return found
