"""Texts as codes and numbers in other bases: functions of one value at a time."""

from __future__ import annotations

import base64
import hashlib
import math
import re
import zlib

from ipr.envs.sql.collation import key

_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_SOUNDS = dict(zip("ABCDEFGHIJKLMNOPQRSTUVWXYZ", "01230120022455012623010202", strict=True))
_QUOTED = {"'": "\\'", "\\": "\\\\", "\0": "\\0", "\x1a": "\\Z"}


def raw(text: str) -> bytes:
    return text.encode(errors="replace")


def conv(text: str, old: int, new: int) -> str | None:
    """A number from one base into another; a negative new base keeps the sign."""
    if not (2 <= abs(old) <= 36 and 2 <= abs(new) <= 36):
        return None
    found = re.match(r"\s*([-+]?)([0-9A-Za-z]*)", text)
    assert found is not None
    value = 0
    for letter in found[2].upper():
        digit = _DIGITS.index(letter)
        if digit >= abs(old):
            break
        value = min(value * abs(old) + digit, 2**64 - 1)
    if found[1] == "-":
        value = -value % 2**64
    sign = ""
    if new < 0 and value >= 2**63:
        sign, value = "-", 2**64 - value
    return sign + based(value, abs(new))


def based(value: int, base: int) -> str:
    """64 bits in a base."""
    value %= 2**64
    found = ""
    while True:
        value, digit = divmod(value, base)
        found = _DIGITS[digit] + found
        if not value:
            return found


def soundex(text: str) -> str:
    """As the server works it out: no end after four letters, and vowels do not part equal sounds."""
    letters = [c for c in text.upper() if c.isalpha()]
    if not letters:
        return ""
    found, last = letters[0], _SOUNDS.get(letters[0], "0")
    for letter in letters[1:]:
        code = _SOUNDS.get(letter, "0")
        if code != "0" and code != last:
            found += code
            last = code
    return found.ljust(4, "0")


def sounds_like(a: str, b: str) -> int:
    return int(key(soundex(a)) == key(soundex(b)))


def quote(text: str | None) -> str:
    return "NULL" if text is None else "'" + "".join(_QUOTED.get(c, c) for c in text) + "'"


def sha2(text: str, bits: int) -> str | None:
    made = {0: hashlib.sha256, 224: hashlib.sha224, 256: hashlib.sha256, 384: hashlib.sha384, 512: hashlib.sha512}
    return made[bits](raw(text)).hexdigest() if bits in made else None


def to_base64(text: str) -> str:
    """In lines of 76 characters."""
    found = base64.b64encode(raw(text)).decode()
    return "\n".join(found[k : k + 76] for k in range(0, len(found), 76))


def from_base64(text: str) -> bytes | None:
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except ValueError:
        return None


def unhex(text: str) -> bytes | None:
    try:
        return bytes.fromhex("0" * (len(text) % 2) + text) if not re.search(r"\s", text) else None
    except ValueError:
        return None


def make_set(bits: int | None, *texts: str | None) -> str | None:
    if bits is None:
        return None
    return ",".join(t for k, t in enumerate(texts) if t is not None and bits >> k & 1)


def ord_of(text: str) -> int:
    """The bytes of the first letter as a number."""
    return int.from_bytes(raw(text[:1]), "big")


def crc32(text: str) -> int:
    return zlib.crc32(raw(text))


def chars(*codes: int | None) -> bytes:
    """CHAR(): bytes, as many as each number needs."""
    found = b""
    for code in codes:
        if code is not None:
            code %= 2**32
            found += code.to_bytes(max(1, (code.bit_length() + 7) // 8), "big")
    return found


def arc_tangent(a: float, b: float | None = None) -> float:
    return math.atan(a) if b is None else math.atan2(a, b)


def cotangent(value: float) -> float:
    tangent = math.tan(value)
    return 1 / tangent if tangent else math.inf
