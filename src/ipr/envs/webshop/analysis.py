"""Text to search terms as Lucene's English analyzer makes them: words, possessives, lower case, stop words, Porter.

Decided here: words are cut by the grammar of Lucene's StandardTokenizer (since version 8), written as one regular
expression: the word breaks of Unicode's annex 29, Thai and its like kept together, Chinese and Hiragana signs alone,
and emoji sequences (pictographs with their marks, joined by U+200D; keycaps; flags) as words. Its emoji are those of
Unicode 11, which has stars, card suits and the signs of trade marks among them. Left out: Hebrew's quotation marks.
"""

from __future__ import annotations

import re
from functools import cache

import regex

from ipr.envs.webshop.porter import stem

_STOP_WORDS = """
    a an and are as at be but by for if in into is it no not of on or such that the their then there these they this
    to was will with
"""
STOP_WORDS = frozenset(_STOP_WORDS.split())
LONGEST = 255
"""Characters; a longer word is cut into pieces of that length."""

_PICTOGRAPHS = """
    a9 ae 203c 2049 2122 2139 2194-2199 21a9-21aa 231a-231b 2328 2388 23cf 23e9-23f3 23f8-23fa 24c2 25aa-25ab 25b6 25c0
    25fb-25fe 2600-2605 2607-2612 2614-2685 2690-2705 2708-2712 2714 2716 271d 2721 2728 2733-2734 2744 2747 274c 274e
    2753-2755 2757 2763-2767 2795-2797 27a1 27b0 27bf 2934-2935 2b05-2b07 2b1b-2b1c 2b50 2b55 3030 303d 3297 3299
    1f000-1f0ff 1f10d-1f10f 1f12f 1f16c-1f171 1f17e-1f17f 1f18e 1f191-1f19a 1f1ad-1f1e5 1f201-1f20f 1f21a 1f22f
    1f232-1f23a 1f23c-1f23f 1f249-1f3fa 1f400-1f53d 1f546-1f64f 1f680-1f6ff 1f774-1f77f 1f7d5-1f7ff 1f80c-1f80f
    1f848-1f84f 1f85a-1f85f 1f888-1f88f 1f8ae-1f8ff 1f90c-1f93a 1f93c-1f945 1f947-1fffd
"""
"""Unicode 11's Extended_Pictographic, in hexadecimal; later versions took half of them away."""


@cache
def _expression() -> regex.Pattern[str]:
    """The tokenizer's rules. Made for the first text that needs it: making it takes half a second."""
    mark = r"[\p{WB=Extend}\p{WB=Format}\p{WB=ZWJ}--\p{Emoji_Modifier}]*+"  # belongs to the character before it
    quotes = r"\p{WB=MidNumLet}\p{WB=Single_Quote}"  # join letters, and join digits
    letters = rf"(?:[\p{{WB=ALetter}}\p{{WB=Hebrew_Letter}}]{mark})++"
    digits = rf"(?:[\p{{WB=Numeric}}[\p{{Nd}}&&[\uff00-\uffef]]]{mark})++"
    low_line = rf"(?:\p{{WB=ExtendNumLet}}{mark})"
    name = rf"{letters}(?:[\p{{WB=MidLetter}}{quotes}]{mark}{letters})*+"
    number = rf"{digits}(?:[\p{{WB=MidNum}}{quotes}]{mark}{digits})*+"
    core = rf"(?:(?:\p{{WB=Katakana}}{mark})++|(?:{name}|{number})++)"
    word = rf"{low_line}*+{core}(?:{low_line}++{core})*+{low_line}*+"

    ranges = (bounds.split("-") for bounds in _PICTOGRAPHS.split())
    shown, join = "".join(f"{chr(int(r[0], 16))}-{chr(int(r[-1], 16))}" for r in ranges), "\u200d"
    # U+FE0E (show as text) and U+FE0F (show as emoji) end what they belong to, and U+200D joins where an emoji follows.
    plain = r"[\p{WB=Extend}\p{WB=Format}--[\p{Emoji_Modifier}\ufe0e\ufe0f]]"
    near = rf"(?:{plain}|{join}(?!{join}*[{shown}\p{{Emoji_Modifier}}]))*"
    toned = rf"(?:{join}*\p{{Emoji_Modifier_Base}}{near})?\p{{Emoji_Modifier}}{near}"
    one = rf"(?:{toned}|{join}*[{shown}]{near}\ufe0f?)"
    keycap, flag = rf"[0-9#*]{near}\ufe0f?\u20e3{near}", rf"(?:\p{{WB=Regional_Indicator}}{mark}){{2}}"
    alone, together = rf"[\p{{Script=Han}}\p{{Script=Hiragana}}]{mark}", rf"(?:\p{{Line_Break=SA}}{mark})++"
    return regex.compile("|".join((word, rf"{one}(?:{join}{one})*", keycap, flag, together, alone)), regex.V1)


# Nearly every text is plain ASCII, for which this says the same and is several times faster.
_ASCII_PART = r"(?:[a-z]+(?:['.:][a-z]+)*|[0-9]+(?:['.,;][0-9]+)*)"
_ASCII_WORD = re.compile(rf"_*(?:{_ASCII_PART}_*)+", re.IGNORECASE | re.ASCII)
_POSSESSIVE = ("'s", "\u2019s", "\uff07s", "'S", "\u2019S", "\uff07S")


def words(text: str) -> list[str]:
    """The words of a text, as they are written."""
    found = (_ASCII_WORD if text.isascii() else _expression()).findall(text)
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
