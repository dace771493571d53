"""MySQL's functions on SQLite, one value at a time; and the list of SQLite's own that a statement may call.

Decided here: a list of what is allowed, so that nothing new in SQLite slips in; each gives the same whenever it is
called (NOW() is `dates.NOW`), so no RAND(). A result longer than `MAX_LENGTH` is refused before it is made. Left out:
functions of files, locks, users and JSON.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import math
import re
from collections.abc import Callable
from decimal import ROUND_DOWN, ROUND_HALF_UP, Decimal, localcontext
from functools import partial
from typing import Any

from ipr.envs.sql import codes, dates, moments, regexps
from ipr.envs.sql.collation import key
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

_NOW = str(dates.NOW)

Function = Callable[..., Any]


def _known(function: Function) -> Function:
    """NULL where an argument is NULL."""

    def wrapped(*arguments: Any) -> Any:
        return None if None in arguments else function(*arguments)

    return wrapped


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
    if value < 0:
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


# Dates --------------------------------------------------------------------------------------------------------------


def _real(value: Any) -> dt.datetime | None:
    at = dates.moment(value)
    return None if at is None else at.real


def _of_date(function: Callable[[dt.datetime], Any]) -> Function:
    def computed(value: Any) -> Any:
        when = _real(value)
        return None if when is None else function(when)

    return computed


def _week(value: Any, mode: int = 0) -> int | None:
    when = _real(value)
    return None if when is None else dates.week(when, mode)[1]


def _year_week(value: Any, mode: int = 0) -> int | None:
    when = _real(value)
    if when is None:
        return None
    year, week = dates.week(when, mode | 2)
    return year * 100 + week


def _last_day(when: dt.datetime) -> str:
    following = (when.replace(day=1) + dt.timedelta(days=31)).replace(day=1)
    return (following - dt.timedelta(days=1)).strftime("%Y-%m-%d")


def _date_diff(a: Any, b: Any) -> int | None:
    first, second = _real(a), _real(b)
    return None if first is None or second is None else dates.days(first) - dates.days(second)


def _from_days(count: int) -> str | None:
    try:
        return dt.date.fromordinal(count - 365).isoformat()
    except (ValueError, OverflowError):
        return None


def _make_date(year: int, day: int) -> str | None:
    year += 0 if year > 99 else 2000 if year < 70 else 1900
    try:
        return None if day < 1 else (dt.date(year, 1, 1) + dt.timedelta(days=day - 1)).isoformat()
    except (ValueError, OverflowError):
        return None


def _as_year(value: Any) -> int | None:
    """CAST to YEAR: of a date its year; of a number or what a text begins with, two digits are of this century."""
    if isinstance(value, str) and (at := dates.moment(value)) is not None and "-" in value:
        year = at.year
    elif isinstance(value, str):
        found = re.match(r"\s*(\d+)", value)
        year = int(found[1][:5]) if found else -1
        year = 2000 if year == 0 and found and len(found[1]) < 4 else year
    else:
        year = (
            int(value) // 10**10 if value > 10**9 else int(value) // 10**4 if value > 10**6 else dates.round_half(value)
        )
    if 0 < year < 100:
        year += 2000 if year < 70 else 1900
    return year if year == 0 or 1901 <= year <= 2155 else None


def _time_to_sec(value: Any) -> int | None:
    found = moments.clock(value)
    return None if found is None else abs(found) // moments.SECOND * (-1 if found < 0 else 1)


def _sec_to_time(value: float) -> str:
    return moments.time_text(moments.limited(round(value * moments.SECOND)))


def _make_time(hour: int, minute: int, second: float) -> str | None:
    if not (0 <= minute < 60 and 0 <= second < 60):
        return None
    found = round(((abs(hour) * 60 + minute) * 60 + second) * moments.SECOND)
    return moments.time_text(moments.limited(-found if hour < 0 else found))


def _to_seconds(when: dt.datetime) -> int:
    return dates.days(when) * 86400 + when.hour * 3600 + when.minute * 60 + when.second


def _unix(value: Any = _NOW) -> int | None:
    when = _real(value)
    return None if when is None else max(0, int((when - dt.datetime(1970, 1, 1)).total_seconds()))


def _unix_of_text(value: str) -> str:
    """Of a text, which may have a fraction, with six decimals; 0 where it is no date."""
    when = _real(value)
    found = Decimal(0) if when is None else (when - dt.datetime(1970, 1, 1)) // dt.timedelta(microseconds=1)
    return f"{max(Decimal(0), Decimal(found).scaleb(-6)):f}"


def _from_unix(value: float) -> str | None:
    return None if not 0 <= value < 2**36 else str(dt.datetime(1970, 1, 1) + dt.timedelta(seconds=value))


def _period_diff(a: int, b: int) -> int:
    return _months(a) - _months(b)


def _period_add(period: int, months: int) -> int:
    found = _months(period) + months - 1
    return found // 12 * 100 + found % 12 + 1


def _months(period: int) -> int:
    year, month = divmod(period, 100)
    return (year + (0 if year > 99 else 2000 if year < 70 else 1900)) * 12 + month


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
    "num": (1, _known(lambda v: dates.number(v if isinstance(v, str) else str(v)))),
    "single": (1, _known(single)),
    "text_of": (2, text_of),
    "text_of_float": (
        2,
        lambda v, s: None if v is None else text_of(v, s) if s else text_of(float(f"{single(v):.6g}"), None),
    ),
    "to_integer": (1, _known(_to_integer)),
    "double_integer": (1, _known(lambda value: _bounded(round(value)))),
    "text_integer": (1, _known(_text_integer)),
    "unsigned": (1, _known(_unsigned)),
    "natural_number": (2, _known(_natural)),
    "finite": (2, _known(_finite)),
    "to_decimal": (3, _known(_to_decimal)),
    "decimal_text": (3, _known(_decimal_text)),
    "round_exact": (2, _known(partial(_exact, how=ROUND_HALF_UP))),
    "cut_exact": (2, _known(partial(_exact, how=ROUND_DOWN))),
    "round_text": (2, _known(partial(_exact_text, how=ROUND_HALF_UP))),
    "cut_text": (2, _known(partial(_exact_text, how=ROUND_DOWN))),
    "exact": (5, _known(_operate)),
    "compare_fixed": (3, _known(_compare_fixed)),
    "round_double": (2, _known(_round_double)),
    "cut_double": (2, _known(_cut_double)),
    "modulo": (2, _known(_modulo)),
    "whole": (3, _known(_whole)),
    "power_of": (2, _known(_power)),
    "sqrt_of": (1, _known(_of(math.sqrt))),
    "ln_of": (1, _known(_of(math.log))),
    "log10_of": (1, _known(_of(math.log10))),
    "log2_of": (1, _known(_of(math.log2))),
    "log_of": (-1, _known(_log)),
    "bits": (3, _known(_bits)),
    "bit_count": (1, _known(lambda n: (n & (2**64 - 1)).bit_count())),
    "hex_number": (1, _known(lambda n: codes.based(n, 16))),
    # texts
    "sub_text": (-1, _known(_sub)),
    "text_left": (2, _known(lambda text, n: text[: max(0, n)])),
    "text_right": (2, _known(lambda text, n: text[-n:] if n > 0 else "")),
    "lpad": (3, _known(partial(_pad, left=True))),
    "rpad": (3, _known(partial(_pad, left=False))),
    "trim_both": (-1, _known(_trim)),
    "trim_leading": (-1, _known(partial(_trim, sides="l"))),
    "trim_trailing": (-1, _known(partial(_trim, sides="t"))),
    "replace": (3, _known(_replace)),
    "repeat_text": (2, _known(_repeat)),
    "reverse": (1, _known(lambda text: text[::-1])),
    "space": (1, _known(lambda n: _repeat(" ", n))),
    "substring_index": (3, _known(_substring_index)),
    "format_number": (-1, _known(_format)),
    "insert_text": (4, _known(_insert)),
    "concat_ws": (-1, _concat_ws),
    "byte_length": (1, _known(lambda text: len(codes.raw(text)))),
    "ascii_code": (1, _known(lambda text: codes.raw(text)[0] if text else 0)),
    "instr_text": (2, _known(instr)),
    "locate": (-1, _known(_locate)),
    "find_in_set": (2, _known(_find_in_set)),
    "upper_text": (1, _known(lambda text: "".join(u if len(u := c.upper()) == 1 else c for c in text))),
    "lower_text": (1, _known(lambda text: "".join(u if len(u := c.lower()) == 1 else c for c in text))),
    "bit_length": (1, _known(lambda text: 8 * len(codes.raw(text)))),
    "ord_of": (1, _known(codes.ord_of)),
    "hex_text": (1, _known(lambda text: codes.raw(text).hex().upper())),
    "soundex": (1, _known(codes.soundex)),
    "sounds_like": (2, _known(codes.sounds_like)),
    "sha2": (2, _known(codes.sha2)),
    "to_base64": (1, _known(codes.to_base64)),
    "from_base64": (1, _known(codes.from_base64)),
    "unhex_text": (1, _known(codes.unhex)),
    "make_set": (-1, codes.make_set),
    "conv": (3, _known(codes.conv)),
    "quote_text": (1, codes.quote),
    "crc32_of": (1, _known(codes.crc32)),
    "padded": (2, _known(lambda found, size: found[:size].ljust(size, b"\0"))),
    "greatest_text": (-1, _known(lambda *texts: max(texts, key=key))),
    "least_text": (-1, _known(lambda *texts: min(texts, key=key))),
    "chars_of": (-1, codes.chars),
    "asin_of": (1, _known(_of(math.asin))),
    "acos_of": (1, _known(_of(math.acos))),
    "atan_of": (-1, _known(codes.arc_tangent)),
    "cot_of": (1, _known(codes.cotangent)),
    "regexp_replaced": (-1, _known(regexps.replaced)),
    "regexp_found": (-1, _known(regexps.found)),
    "regexp_place": (-1, _known(regexps.place)),
    "regexp_in": (-1, _known(regexps.matches)),
    "like_in": (4, _known(like)),
    "md5": (1, _known(lambda text: hashlib.md5(codes.raw(text), usedforsecurity=False).hexdigest())),
    "sha1": (1, _known(lambda text: hashlib.sha1(codes.raw(text), usedforsecurity=False).hexdigest())),
    # dates
    **{
        f"date_{unit.lower()}": (1, partial(dates.part, unit))
        for unit in ("YEAR", "MONTH", "DAY", "HOUR", "MINUTE", "SECOND", "QUARTER")
    },
    **{
        f"date_{unit.lower()}": (1, partial(dates.part, unit))
        for unit in ("DAYOFWEEK", "WEEKDAY", "DAYOFYEAR", "TO_DAYS")
    },
    "date_part": (2, _known(dates.part)),
    "date_num": (1, dates.date_num),
    "date_add": (5, _known(lambda value, n, unit, sign, timed: dates.date_add(value, n, unit, sign, timed))),
    "date_diff": (2, _known(_date_diff)),
    "date_format": (2, dates.date_format),
    "str_to_date": (2, dates.str_to_date),
    "timestamp_diff": (3, _known(dates.timestampdiff)),
    "as_date": (1, dates.as_date),
    "compared_date": (1, _known(dates.compared_date)),
    "as_datetime": (-1, dates.as_datetime),
    "as_time": (-1, dates.as_time),
    "as_year": (1, _known(_as_year)),
    "time_add": (3, dates.time_add),
    "time_plus": (4, _known(dates.time_plus)),
    "time_diff": (2, dates.time_diff),
    "time_format": (2, dates.time_format),
    "make_time": (3, _known(_make_time)),
    "to_seconds": (1, _known(_of_date(_to_seconds))),
    "date_microsecond": (1, partial(dates.part, "MICROSECOND")),
    "week_of": (-1, _known(_week)),
    "week_of_year": (1, _known(lambda value: _week(value, 3))),
    "year_week": (-1, _known(_year_week)),
    "day_name": (1, _known(_of_date(lambda when: dates.DAYS[when.weekday()]))),
    "month_name": (
        1,
        _known(lambda v: None if (at := dates.moment(v)) is None or not at.month else dates.MONTHS[at.month - 1]),
    ),
    "last_day": (1, _known(_of_date(_last_day))),
    "from_days": (1, _known(_from_days)),
    "make_date": (2, _known(_make_date)),
    "time_to_sec": (1, _known(_time_to_sec)),
    "sec_to_time": (1, _known(_sec_to_time)),
    "unix_timestamp": (-1, _known(_unix)),
    "unix_of_text": (1, _known(_unix_of_text)),
    "from_unixtime": (1, _known(_from_unix)),
    "period_diff": (2, _known(_period_diff)),
    "period_add": (2, _known(_period_add)),
}
"""Name -> number of arguments (-1: any), and the function."""


ALLOWED = frozenset(_SQLITE.split()) | FUNCTIONS.keys() | AGGREGATES.keys() | {"row_seen"}
