"""Text to search terms as Lucene's English analyzer makes them: words, possessives, lower case, stop words, Porter.

Decided here: words are cut by the grammar of Lucene's StandardTokenizer (since version 8), written as one regular
expression: the word breaks of Unicode's annex 29, Thai and its like kept together, Chinese and Hiragana signs alone,
and emoji sequences (pictographs with their marks, joined by U+200D; keycaps; flags) as words. Its characters are those
of Unicode 9, and its emoji those of Unicode 11, which has stars, card suits and the signs of trade marks among them.
Held against Anserini 0.14.3, which Pyserini 0.17.0 brings: every character in its surroundings, and random texts.
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

_LATER = """
    b8 2c2-2c5 2d2-2d6 2de-2df 2e5-2eb 2ed 2ef-2ff 558 55a-560 588 58a-58c 5c8-5c9 5ef 7fd 860-89f 8b5 8be-8d3 9fc-9fe
    afa-aff b53-b55 c04 c3c c5c-c5d cdc-cdd cf3-d00 d04 d3b-d3c d81 e86 e89 e8c e8e-e93 e98 ea0 ea8-ea9 eac eba ece 170d
    1715-171f 180f 1878 1abf-1af0 1b4c 1c89-1cbf 1cf7 1cfa 1df6-1dfa 208f 209d-209f 2c2f 2c5f 312e-312f 31bb-31bf
    4db6-4dbf 9fd6-9fff a708-a716 a720-a721 a789-a78a a7af a7b8-a7f6 a82c a8fe-a8ff ab5b ab66-ab6d 1032d-1032f
    10570-105f3 10780-107bf 10940-10959 10a34-10a35 10d00-10ff6 11070-11075 110c2-110cd 11144-11147 111c9 111ce-111cf
    1123f-11241 1133b 11380-113e2 1145e-11461 116b8 116d0-116e3 1171a 11740-1183a 11900-11abf 11b0a-11bf9 11d00-11fb0
    1246f-1247f 12550-12ff0 1342f-143fa 16100-16139 16a70-16ac9 16d40-16ed3 16f45-16f4f 16f7f-16f87 16fe1-1affe
    1b002-1b168 1ccf0-1d128 1d250-1d281 1d6a6 1df00-1dfff 1e030-1e7fe 1e94b 2a6d7-2a6df
"""
"""What became a part of words after Unicode 9, and between what is none in either: to Lucene as good as blanks."""


def _characters(ranges: str) -> str:
    """Hexadecimal ranges as the inside of a set of an expression."""
    bounds = (each.split("-") for each in ranges.split())
    return "".join(f"{chr(int(b[0], 16))}-{chr(int(b[-1], 16))}" for b in bounds)


@cache
def _expression() -> regex.Pattern[str]:
    """The tokenizer's rules. Made for the first text that needs it: making it takes half a second."""
    signs = "\u0600-\u0605\u06dd\u070f\u08e2\u1cf2\u1cf3\U000110bd"  # since then letters or digits
    mark = (
        rf"[\p{{WB=Extend}}\p{{WB=Format}}\p{{WB=ZWJ}}{signs}--\p{{Emoji_Modifier}}]*+"  # belongs to what is before it
    )
    quotes = r"\p{WB=MidNumLet}\p{WB=Single_Quote}"  # join letters, and join digits
    hebrew = rf"\p{{WB=Hebrew_Letter}}{mark}"
    letters = rf"(?:{hebrew}(?:'{mark}|\"{mark}(?={hebrew}))?+|[\p{{WB=ALetter}}--[{signs}\u02d7]]{mark})++"
    digits = rf"(?:[[\p{{WB=Numeric}}--[{signs}\u19da\U0001fbf0-\U0001fbf9]][\p{{Nd}}&&[\uff00-\uffef]]]{mark})++"
    low_line = rf"(?:\p{{WB=ExtendNumLet}}{mark})"
    name = rf"{letters}(?:[\p{{WB=MidLetter}}\u02d7{quotes}]{mark}{letters})*+"
    number = rf"{digits}(?:[\p{{WB=MidNum}}\ufe10\ufe14{quotes}]{mark}{digits})*+"
    core = rf"(?:(?:\p{{WB=Katakana}}{mark})++|(?:{name}|{number})++)"
    word = rf"{low_line}*+{core}(?:{low_line}++{core})*+{low_line}*+"

    shown, join = _characters(_PICTOGRAPHS), "\u200d"
    # U+FE0E (show as text) and U+FE0F (show as emoji) end what they belong to, and U+200D joins where an emoji follows.
    plain = rf"[\p{{WB=Extend}}\p{{WB=Format}}{signs}--[\p{{Emoji_Modifier}}\ufe0e\ufe0f]]"
    near = rf"(?:{plain}|{join}(?!{join}*[{shown}\p{{Emoji_Modifier}}]))*"
    toned = rf"(?:{join}*\p{{Emoji_Modifier_Base}}{near})?\p{{Emoji_Modifier}}{near}"
    one = rf"(?:{toned}|{join}*[{shown}]{near}\ufe0f?)"
    keycap, flag = rf"[0-9#*]{near}\ufe0f?\u20e3{near}", rf"(?:\p{{WB=Regional_Indicator}}{mark}){{2}}"
    alone, together = rf"[\p{{Script=Han}}\p{{Script=Hiragana}}]{mark}", rf"(?:[\p{{Line_Break=SA}}\u19da]{mark})++"
    return regex.compile("|".join((word, rf"{one}(?:{join}{one})*", keycap, flag, together, alone)), regex.V1)


@cache
def _later() -> re.Pattern[str]:
    return re.compile(f"[{_characters(_LATER)}]")


# Nearly every text is plain ASCII, for which this says the same and is several times faster.
_ASCII_PART = r"(?:[a-z]+(?:['.:][a-z]+)*|[0-9]+(?:['.,;][0-9]+)*)"
_ASCII_WORD = re.compile(rf"_*(?:{_ASCII_PART}_*)+", re.IGNORECASE | re.ASCII)
_POSSESSIVE = ("'s", "\u2019s", "\uff07s", "'S", "\u2019S", "\uff07S")


def words(text: str) -> list[str]:
    """The words of a text, as they are written."""
    found = _ASCII_WORD.findall(text) if text.isascii() else _expression().findall(_later().sub(" ", text))
    if any(len(word) > LONGEST for word in found):
        return [word[i : i + LONGEST] for word in found for i in range(0, len(word), LONGEST)]
    return found


def terms(text: str) -> list[str]:
    """The terms of a text or query, in order, duplicates kept."""
    found = []
    for word in words(text):
        plain = _lower(word[:-2] if word.endswith(_POSSESSIVE) else word)
        if plain not in STOP_WORDS:
            found.append(stem(plain))
    return found


def _lower(word: str) -> str:
    """Each character alone, as Java does it: a last sigma is as any other."""
    return word.lower() if word.isascii() else word.replace("\u0130", "i").replace("\u03a3", "\u03c3").lower()
