"""Porter's stemmer (M. F. Porter, "An algorithm for suffix stripping", Program 14(3), 1980), as Lucene runs it.

Decided here: words of two letters or fewer stay as they are, and the rules are the published ones with the author's two
later departures, which Lucene has too ("logi" -> "log", and "bli" for "abli"). Words are expected in lower case;
letters other than a-z count as consonants.
"""

from __future__ import annotations

import re
from functools import lru_cache

_STEP_2 = (
    "ational>ate tional>tion enci>ence anci>ance izer>ize bli>ble alli>al entli>ent eli>e ousli>ous ization>ize "
    "ation>ate ator>ate alism>al iveness>ive fulness>ful ousness>ous aliti>al iviti>ive biliti>ble logi>log"
)
_STEP_3 = "icate>ic ative> alize>al iciti>ic ical>ic ful> ness>"
_STEP_4 = "al ance ence er ic able ible ant ement ment ent ion ou ism ate iti ous ive ize"

_RULES_2 = [tuple(rule.split(">")) for rule in _STEP_2.split()]
_RULES_3 = [tuple(rule.split(">")) for rule in _STEP_3.split()]
_RULES_4 = sorted(_STEP_4.split(), key=len, reverse=True)


@lru_cache(maxsize=1 << 18)
def stem(word: str) -> str:
    """The stem of a word."""
    if len(word) <= 2:
        return word
    word = _plurals(word)
    word = _past(word)
    if word[-1] == "y" and "v" in _shape(word[:-1]):  # step 1c
        word = word[:-1] + "i"
    for rules in (_RULES_2, _RULES_3):
        # Of the suffixes that fit, the longest decides, also when it then changes nothing.
        fitting = [rule for rule in rules if word.endswith(rule[0])]
        if fitting:
            old, new = max(fitting, key=lambda rule: len(rule[0]))
            rest = word[: -len(old)]
            word = rest + new if _measure(rest) > 0 else word
    return _last(_suffix(word))


def _plurals(word: str) -> str:
    """Step 1a."""
    if word.endswith(("sses", "ies")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word


def _past(word: str) -> str:
    """Step 1b."""
    if word.endswith("eed"):
        return word[:-1] if _measure(word[:-3]) > 0 else word
    for suffix in ("ed", "ing"):
        rest = word.removesuffix(suffix)
        if rest != word:
            if "v" not in _shape(rest):
                return word
            if rest.endswith(("at", "bl", "iz")):
                return rest + "e"
            if _doubled(rest):
                return rest if rest[-1] in "lsz" else rest[:-1]
            return rest + "e" if _measure(rest) == 1 and _short(rest) else rest
    return word


def _suffix(word: str) -> str:
    """Step 4."""
    for suffix in _RULES_4:
        if word.endswith(suffix):
            rest = word[: -len(suffix)]
            return rest if _measure(rest) > 1 and (suffix != "ion" or rest[-1:] in ("s", "t")) else word
    return word


def _last(word: str) -> str:
    """Step 5."""
    if word.endswith("e"):
        m = _measure(word[:-1])
        if m > 1 or (m == 1 and not _short(word[:-1])):
            word = word[:-1]
    return word[:-1] if word.endswith("ll") and _measure(word) > 1 else word


def _shape(word: str) -> str:
    """Consonants and vowels as "c" and "v"; a "y" is a vowel after a consonant."""
    shape = ""
    for letter in word:
        vowel = letter in "aeiou" or (letter == "y" and shape[-1:] == "c")
        shape += "v" if vowel else "c"
    return shape


def _measure(word: str) -> int:
    """m: how often a consonant follows a vowel."""
    return len(re.findall("vc", _shape(word)))


def _doubled(word: str) -> bool:
    return len(word) > 1 and word[-1] == word[-2] and _shape(word)[-1] == "c"


def _short(word: str) -> bool:
    """Ends consonant, vowel, consonant other than w, x, y."""
    return _shape(word)[-3:] == "cvc" and word[-1] not in "wxy"
