"""MySQL's functions on SQLite, one value at a time; and the list of SQLite's own that a statement may call.

Decided here: a list of what is allowed, so that nothing new in SQLite slips in; each gives the same whenever it is
called (NOW() is `dates.NOW`), so no RAND(). A result longer than `MAX_LENGTH` is refused before it is made. Left out:
functions of files, locks, users and JSON.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable
from decimal import ROUND_DOWN, ROUND_HALF_UP, Decimal, localcontext
from functools import partial
from typing import Any

from ipr.envs.sql import codes, dates, regexps
from ipr.envs.sql.collation import key
from ipr.envs.sql.date_functions import DATE_FUNCTIONS, known
from ipr.envs.sql.errors import MySqlError, NotExactError
from ipr.envs.sql.folds import AGGREGATES
from ipr.envs.sql.kinds import rounded, single, text_of
from ipr.envs.sql.matching import instr, like

MAX_LENGTH = 100_000
"""Bytes of a text."""
_SQLITE = """
    abs atan avg ceil coalesce cos count cume_dist degrees dense_rank exp first_value floor ifnull lag last_value lead
    length like lower ltrim max min nth_value ntile percent_rank pi radians rank round row_number rtrim sign sin
    substr sum tan upper total typeof
"""

Function = Callable[..., Any]


# Texts --------------------------------------------------------------------------------------------------------------


def _replace(text: str, old: str, new: str) -> str:
    if not old:
        return text
    if len(text) + text.count(old) * (len(new) - len(old)) > MAX_LENGTH:
        raise OverflowError
    return text.replace(old, new)


def _sub(text: str, start: int, length: int | None = None) -> str:
    if start < 0:
        start += len(text)
        if start < 0:
            return ""
    elif start == 0:
        return ""
    else:
        start -= 1
    return text[start:] if length is None else text[start : start + max(0, length)]


def _pad(text: str, length: int, mark: str, left: bool) -> str | None:
    if length < 0:
        return None
    if length > MAX_LENGTH:
        raise OverflowError
    if length <= len(text):
        return text[:length]
    if not mark:
        return ""
    fill = (mark * (length // len(mark) + 1))[: length - len(text)]
    return fill + text if left else text + fill


def _repeat(text: str, count: int) -> str:
    if len(text) * max(0, count) > MAX_LENGTH:
        raise OverflowError
    return text * max(0, count)


def _trim(text: str, mark: str = " ", sides: str = "lt") -> str:
    while mark and "l" in sides and text.startswith(mark):
        text = text[len(mark) :]
    while mark and "t" in sides and text.endswith(mark):
        text = text[: -len(mark)]
    return text


def _substring_index(text: str, mark: str, count: int) -> str:
    if not mark or not count:
        return ""
    parts = text.split(mark)
    return mark.join(parts[:count] if count > 0 else parts[count:])


def _format(number: float, places: int, exact: int, marks: str = ",.") -> str:
    """`marks`: between thousands, and before the decimals."""
    places = min(max(0, places), 30)
    if not exact:
        number = _round_double(number, places)
    said = f"{rounded(Decimal(repr(number)), places):,f}"
    return said if marks == ",." else said.translate(str.maketrans(",.", marks))


def _insert(text: str, start: int, length: int, new: str) -> str:
    if not 1 <= start <= len(text):
        return text
    end = len(text) if length < 0 else start - 1 + length
    return text[: start - 1] + new + text[end:]


def _concat_ws(mark: Any, *parts: Any) -> Any:
    return None if mark is None else mark.join(p for p in parts if p is not None)


def _locate(part: str, text: str, start: int = 1) -> int:
    return instr(text, part, start) if start > 0 else 0


def _find_in_set(text: str, texts: str) -> int:
    keys = [key(t) for t in texts.split(",")] if texts else []
    return keys.index(key(text)) + 1 if key(text) in keys else 0


# Numbers ------------------------------------------------------------------------------------------------------------


def _to_integer(value: Any) -> int:
    return value if isinstance(value, int) else _bounded(dates.round_half(value))


def _bounded(value: int) -> int:
    return max(-(2**63), min(2**63 - 1, value))


def _text_integer(value: str) -> int:
    """What a text begins with: 2 for '2e3', too. What is beyond 64 bits has them all set, which is -1."""
    found = re.match(r"\s*([-+]?\d+)", value)
    if not found:
        return 0
    number = max(-(2**63), min(2**64 - 1, int(found[1][:40])))
    return number - 2**64 if number >= 2**63 else number


def _unsigned(value: int) -> int:
    if value < 0:
        raise NotExactError("A number beyond 9223372036854775807")
    return value


def _bits(sign: str, a: int, b: int) -> int:
    """On 64 bits, which SQLite takes for a number with a sign."""
    a, b = a & _WORD, b & _WORD
    match sign:
        case "&":
            found = a & b
        case "|":
            found = a | b
        case "^":
            found = a ^ b
        case "<<":
            found = a << min(b, 64) & _WORD
        case _:
            found = a >> min(b, 64)
    return found - 2**64 if found >= 2**63 else found


_WORD = 2**64 - 1


def _natural(value: Any, said: str) -> Any:
    """What is computed with an unsigned number."""
    if isinstance(value, float) and 2**63 <= value < 2**64:
        raise NotExactError("A number beyond 9223372036854775807")
    if value < 0 or value >= 2**64:
        raise MySqlError(f"BIGINT UNSIGNED value is out of range in '{said}'")
    return value


def _finite(value: Any, said: str) -> Any:
    if not math.isfinite(value):
        raise MySqlError(f"DOUBLE value is out of range in '{said}'")
    return value


def _digits(value: Any) -> Decimal:
    """A number, or a decimal as text, with all its digits."""
    return Decimal(repr(value) if isinstance(value, float) else value)


def _exact_text(value: Any, places: int, how: str) -> str:
    return f"{_digits(value).quantize(Decimal(1).scaleb(-places), how):f}"


def _exact(value: Any, places: int, how: str) -> float:
    return float(_exact_text(value, places, how))


def _operate(sign: str, a: Any, b: Any, scale_a: int, scale_b: int) -> str | None:
    """A decimal of two numbers of so many decimals, as `decimal.cc` works it out.

    A quotient is cut after whole words of nine digits: as many as its operands take and the four more decimals need.
    """
    first, second = (
        _digits(v) if isinstance(v, (str, int)) else _digits(v).quantize(Decimal(1).scaleb(-s))
        for v, s in ((a, scale_a), (b, scale_b))
    )
    with localcontext() as context:
        context.prec = 80
        match sign:
            case "+":
                return f"{first + second:f}"
            case "-":
                return f"{first - second:f}"
            case "*":
                return f"{first * second:f}"
        if not second:
            return None
        parts = [max(0, -int(n.as_tuple().exponent)) for n in (first, second)]
        words = [-(-n // 9) * 9 for n in parts]
        more = max(0, 4 - (sum(words) - sum(parts)))
        digits = -(-(sum(words) + more) // 9) * 9
        return f"{(first / second).quantize(Decimal(1).scaleb(-digits), ROUND_DOWN):f}"


def _compare_fixed(a: float, b: float, places: int) -> int:
    """How doubles that are shown with decimals are compared: up to half of the last one (`compare_real_fixed`)."""
    return 0 if a == b or abs(a - b) < 5 / 10 ** (places + 1) else 1 if a > b else -1


def _round_double(value: float, places: int) -> float:
    scaled = value * 10.0**places if places >= 0 else value / 10.0**-places
    if not math.isfinite(scaled):
        return value
    return round(scaled) / 10.0**places if places >= 0 else round(scaled) * 10.0**-places


def _cut_double(value: float, places: int) -> float:
    scaled = value * 10.0**places if places >= 0 else value / 10.0**-places
    if not math.isfinite(scaled):
        return value
    return math.trunc(scaled) / 10.0**places if places >= 0 else math.trunc(scaled) * 10.0**-places


def _to_decimal(value: Any, precision: int, scale: int) -> float | int:
    found = _decimal_text(value, precision, scale)
    return float(found) if scale else int(found)


def _decimal_text(value: Any, precision: int, scale: int) -> str:
    with localcontext() as context:
        context.prec = 700  # of any double
        found = _digits(value).quantize(Decimal(1).scaleb(-scale), ROUND_HALF_UP)
        most = Decimal(10) ** (precision - scale) - Decimal(1).scaleb(-scale)
        return f"{max(-most, min(most, found)):f}"


def _modulo(a: float, b: float) -> float | None:
    return None if not b else math.fmod(a, b)


def _whole(a: float, b: float, said: str) -> int | None:
    if not b:
        return None
    found = int(Decimal(repr(a)) / Decimal(repr(b)))
    if not -(2**63) <= found < 2**63:
        raise MySqlError(f"BIGINT value is out of range in '{said}'")
    return found


def _of(function: Callable[[float], float]) -> Function:
    """A function of mathematics; NULL where it has no value."""

    def computed(value: Any) -> float | None:
        try:
            return function(float(value))
        except (ValueError, OverflowError):
            return None

    return computed


def _power(a: float, b: float) -> float:
    """What is no number counts as beyond all of them, too."""
    try:
        return math.pow(a, b)
    except (ValueError, OverflowError):
        return math.inf


def _log(base: float, value: float | None = None) -> float | None:
    if value is None:
        return _of(math.log)(base)
    return None if base <= 0 or base == 1 or value <= 0 else math.log(value) / math.log(base)


def _text_key(text: str | None) -> str | None:
    return None if text is None else key(text)


def _row_key(*values: Any) -> str | None:
    return None if None in values else repr(values)


def _deeper(depth: int) -> int:
    """The next iteration of WITH RECURSIVE; the first thousand are allowed."""
    if depth >= 1000 - 1:
        raise MySqlError(
            "Recursive query aborted after 1001 iterations. Try increasing @@cte_max_recursion_depth to a larger value."
        )
    return depth + 1


FUNCTIONS: dict[str, tuple[int, Function]] = {
    "text_key": (1, _text_key),
    "row_key": (-1, _row_key),
    "deeper": (1, _deeper),
    "num": (1, known(lambda v: dates.number(v if isinstance(v, str) else str(v)))),
    "single": (1, known(single)),
    "text_of": (2, text_of),
    "text_of_float": (
        2,
        lambda v, s: None if v is None else text_of(v, s) if s else text_of(float(f"{single(v):.6g}"), None),
    ),
    "to_integer": (1, known(_to_integer)),
    "double_integer": (1, known(lambda value: _bounded(round(value)))),
    "text_integer": (1, known(_text_integer)),
    "unsigned": (1, known(_unsigned)),
    "natural_number": (2, known(_natural)),
    "summed": (1, known(lambda value: value if math.isfinite(value) else 0.0)),  # as the server sends what is beyond
    "finite": (2, known(_finite)),
    "to_decimal": (3, known(_to_decimal)),
    "decimal_text": (3, known(_decimal_text)),
    "round_exact": (2, known(partial(_exact, how=ROUND_HALF_UP))),
    "cut_exact": (2, known(partial(_exact, how=ROUND_DOWN))),
    "round_text": (2, known(partial(_exact_text, how=ROUND_HALF_UP))),
    "cut_text": (2, known(partial(_exact_text, how=ROUND_DOWN))),
    "exact": (5, known(_operate)),
    "compare_fixed": (3, known(_compare_fixed)),
    "round_double": (2, known(_round_double)),
    "cut_double": (2, known(_cut_double)),
    "modulo": (2, known(_modulo)),
    "whole": (3, known(_whole)),
    "power_of": (2, known(_power)),
    "sqrt_of": (1, known(_of(math.sqrt))),
    "ln_of": (1, known(_of(math.log))),
    "log10_of": (1, known(_of(math.log10))),
    "log2_of": (1, known(_of(math.log2))),
    "log_of": (-1, known(_log)),
    "bits": (3, known(_bits)),
    "bit_count": (1, known(lambda n: (n & (2**64 - 1)).bit_count())),
    "hex_number": (1, known(lambda n: codes.based(n, 16))),
    # texts
    "sub_text": (-1, known(_sub)),
    "text_left": (2, known(lambda text, n: text[: max(0, n)])),
    "text_right": (2, known(lambda text, n: text[-n:] if n > 0 else "")),
    "lpad": (3, known(partial(_pad, left=True))),
    "rpad": (3, known(partial(_pad, left=False))),
    "trim_both": (-1, known(_trim)),
    "trim_leading": (-1, known(partial(_trim, sides="l"))),
    "trim_trailing": (-1, known(partial(_trim, sides="t"))),
    "replace": (3, known(_replace)),
    "repeat_text": (2, known(_repeat)),
    "reverse": (1, known(lambda text: text[::-1])),
    "space": (1, known(lambda n: _repeat(" ", n))),
    "substring_index": (3, known(_substring_index)),
    "format_number": (-1, known(_format)),
    "insert_text": (4, known(_insert)),
    "concat_ws": (-1, _concat_ws),
    "byte_length": (1, known(lambda text: len(codes.raw(text)))),
    "ascii_code": (1, known(lambda text: codes.raw(text)[0] if text else 0)),
    "instr_text": (2, known(instr)),
    "locate": (-1, known(_locate)),
    "find_in_set": (2, known(_find_in_set)),
    "upper_text": (1, known(lambda text: "".join(u if len(u := c.upper()) == 1 else c for c in text))),
    "lower_text": (1, known(lambda text: "".join(u if len(u := c.lower()) == 1 else c for c in text))),
    "bit_length": (1, known(lambda text: 8 * len(codes.raw(text)))),
    "ord_of": (1, known(codes.ord_of)),
    "hex_text": (1, known(lambda text: codes.raw(text).hex().upper())),
    "soundex": (1, known(codes.soundex)),
    "sounds_like": (2, known(codes.sounds_like)),
    "sha2": (2, known(codes.sha2)),
    "to_base64": (1, known(codes.to_base64)),
    "from_base64": (1, known(codes.from_base64)),
    "unhex_text": (1, known(codes.unhex)),
    "make_set": (-1, codes.make_set),
    "conv": (3, known(codes.conv)),
    "quote_text": (1, codes.quote),
    "crc32_of": (1, known(codes.crc32)),
    "padded": (2, known(lambda found, size: found[:size].ljust(size, b"\0"))),
    "greatest_text": (-1, known(lambda *texts: max(texts, key=key))),
    "least_text": (-1, known(lambda *texts: min(texts, key=key))),
    "chars_of": (-1, codes.chars),
    "asin_of": (1, known(_of(math.asin))),
    "acos_of": (1, known(_of(math.acos))),
    "atan_of": (-1, known(codes.arc_tangent)),
    "cot_of": (1, known(codes.cotangent)),
    "regexp_replaced": (-1, known(regexps.replaced)),
    "regexp_found": (-1, known(regexps.found)),
    "regexp_place": (-1, known(regexps.place)),
    "regexp_in": (-1, known(regexps.matches)),
    "like_in": (4, known(like)),
    "md5": (1, known(lambda text: hashlib.md5(codes.raw(text), usedforsecurity=False).hexdigest())),
    "sha1": (1, known(lambda text: hashlib.sha1(codes.raw(text), usedforsecurity=False).hexdigest())),
    **DATE_FUNCTIONS,
}
"""Name -> number of arguments (-1: any), and the function."""


ALLOWED = frozenset(_SQLITE.split()) | FUNCTIONS.keys() | AGGREGATES.keys() | {"row_seen"}
