"""MySQL's dates: reading, parts, arithmetic, DATE_FORMAT and STR_TO_DATE.

See https://dev.mysql.com/doc/refman/8.0/en/date-and-time-functions.html. Decided here: NOW() is one fixed moment
(`NOW`), because an episode gives the same whenever it is played; a time zone is nothing. Dates with a month or day of
zero are read, and their parts given; no calendar arithmetic is done with them. Texts are read by `moments`.
"""

from __future__ import annotations

import datetime as dt
import re
import sys
from functools import lru_cache
from typing import Any

from ipr.envs.sql.moments import MONTH_DAYS, SECOND, Moment, clock, leap, limited, made, moment, of_day, time_text

NOW = dt.datetime(2024, 1, 1, 12, 0, 0)
"""The moment of every episode."""


_NUMBER = re.compile(r"\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)")


def number(text: str) -> float | int:
    """A text as a number: what it begins with, or 0."""
    found = _NUMBER.match(text)
    if not found:
        return 0
    value = max(-sys.float_info.max, min(sys.float_info.max, float(found[1])))
    return int(value) if value.is_integer() and abs(value) < 1e15 else value


def as_date(value: Any) -> str | None:
    found = moment(value)
    return None if found is None or found.real is None else found.text(False)  # NO_ZERO_IN_DATE


def as_datetime(value: Any, places: int = 6) -> str | None:
    """A moment, in whole seconds or with the fraction that it has."""
    found = moment(value)
    return None if found is None or found.real is None else (found if places else found.rounded()).text(True)


def compared_date(value: str) -> str:
    """A text beside a date: what is no date is date zero."""
    return as_datetime(value) or "0000-00-00 00:00:00"


def date_num(value: Any) -> int | None:
    """A date or time as the number of its digits."""
    if value is None:
        return None
    digits = int(re.sub(r"\D", "", str(value).split(".")[0]) or 0)
    return -digits if str(value).startswith("-") else digits


def as_time(value: Any, places: int = 6) -> str | None:
    """A time of day, rounded to so many decimals of a second."""
    found = clock(value)
    if found is None:
        return None
    unit = 10 ** (6 - places)
    return time_text((abs(found) + unit // 2) // unit * unit * (-1 if found < 0 else 1))


# Parts --------------------------------------------------------------------------------------------------------------

PLAIN_UNITS = ("MICROSECOND", "SECOND", "MINUTE", "HOUR", "DAY", "WEEK", "MONTH", "QUARTER", "YEAR")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = (
    *("January", "February", "March", "April", "May", "June", "July"),
    *("August", "September", "October", "November", "December"),
)


def days(when: dt.datetime) -> int:
    """Days since year 0, as TO_DAYS counts."""
    return when.toordinal() + 365


def week(when: dt.datetime, mode: int) -> tuple[int, int]:
    """Year and week, as the server's `calc_week` works them out for WEEK()'s modes."""
    monday, with_year, first_weekday = bool(mode & 1), bool(mode & 2), bool(mode & 4)
    if not monday:
        first_weekday = not first_weekday
    day_of = days(when)
    first = days(dt.datetime(when.year, 1, 1))
    weekday = (dt.datetime(when.year, 1, 1).weekday() + (0 if monday else 1)) % 7
    year, inside = when.year, with_year
    if when.month == 1 and when.day <= 7 - weekday:
        if not inside and ((first_weekday and weekday != 0) or (not first_weekday and weekday >= 4)):
            return year, 0
        inside = True
        year -= 1
        length = 366 if leap(year) else 365
        if (first_weekday and weekday != 0) or (not first_weekday and weekday >= 4):
            first -= length
            weekday = (weekday + 53 * 7 - length) % 7
        else:
            year += 1
    if (first_weekday and weekday != 0) or (not first_weekday and weekday >= 4):
        passed = day_of - (first + (7 - weekday))
    else:
        passed = day_of - (first - weekday)
    if inside and passed >= 52 * 7:
        weekday = (weekday + (366 if leap(year) else 365)) % 7
        if (not first_weekday and weekday < 4) or (first_weekday and weekday == 0):
            return year + 1, 1
    return year, passed // 7 + 1


def _suffix(day: int) -> str:
    return "th" if 11 <= day <= 13 else {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")


def date_format(value: Any, form: Any) -> str | None:
    """DATE_FORMAT, its whole table."""
    at = moment(value)
    if at is None or not form:
        return None
    found = []
    for mark, letter in _marks(str(form)):
        part = _formatted(at, letter) if mark else letter
        if part is None:
            return None
        found.append(part)
    return "".join(found)


def _marks(form: str) -> list[tuple[str, str]]:
    return [(m[1] or "", m[2] if m[1] else m[0]) for m in re.finditer(r"(%)(.)|.", form, re.DOTALL)]


def _formatted(at: Moment, letter: str) -> str | None:
    hour, minute, second = at.clock
    twelve = (hour % 12) or 12
    simple = {
        "Y": f"{at.year:04d}", "y": f"{at.year % 100:02d}", "m": f"{at.month:02d}", "c": str(at.month),
        "d": f"{at.day:02d}", "e": str(at.day), "D": f"{at.day}{_suffix(at.day)}", "H": f"{hour:02d}",
        "k": str(hour), "h": f"{twelve:02d}", "I": f"{twelve:02d}", "l": str(twelve), "i": f"{minute:02d}",
        "s": f"{second:02d}", "S": f"{second:02d}", "f": f"{at.micro:06d}", "p": "AM" if hour < 12 else "PM",
        "T": f"{hour:02d}:{minute:02d}:{second:02d}",
        "r": f"{twelve:02d}:{minute:02d}:{second:02d} {'AM' if hour < 12 else 'PM'}",
    }  # fmt: skip
    if letter in simple:
        return simple[letter]
    if letter in "Mb":
        return None if not at.month else MONTHS[at.month - 1][: None if letter == "M" else 3]
    if letter not in "aWwjUuVvXx":
        return letter
    if (when := at.real) is None:
        return None
    weekday = when.weekday()
    if letter in "UuVv":
        return f"{week(when, {'U': 0, 'u': 1, 'V': 2, 'v': 3}[letter])[1]:02d}"
    if letter in "Xx":
        return f"{week(when, 2 if letter == 'X' else 3)[0]:04d}"
    return {
        "a": DAYS[weekday][:3], "W": DAYS[weekday], "w": str((weekday + 1) % 7),
        "j": f"{when.timetuple().tm_yday:03d}",
    }[letter]  # fmt: skip


_READ = {
    "Y": r"\d{1,4}", "y": r"\d{1,2}", "m": r"\d{1,2}", "c": r"\d{1,2}", "d": r"\d{1,2}", "e": r"\d{1,2}",
    "H": r"\d{1,2}", "k": r"\d{1,2}", "h": r"\d{1,2}", "I": r"\d{1,2}", "l": r"\d{1,2}", "i": r"\d{1,2}",
    "s": r"\d{1,2}", "S": r"\d{1,2}", "j": r"\d{1,3}", "p": r"[AaPp][Mm]", "M": "|".join(MONTHS),
    "b": "|".join(m[:3] for m in MONTHS), "W": "|".join(DAYS), "a": "|".join(d[:3] for d in DAYS),
    "D": r"\d{1,2}(?:st|nd|rd|th)", "f": r"\d{1,6}",
}  # fmt: skip
_TIMED = frozenset("HkhIlisSpTrf")


@lru_cache(maxsize=500)
def _reader(form: str) -> tuple[re.Pattern[str], tuple[str, ...]] | None:
    form = form.replace("%T", "%H:%i:%S").replace("%r", "%I:%i:%S %p")
    pattern, letters = "", []
    for mark, letter in _marks(form):
        if mark and letter not in _READ and letter != "%":
            return None
        if mark and letter in _READ:
            letters.append(letter)
            pattern += rf"\s*({_READ[letter]})"
        else:
            pattern += r"\s*" if letter.isspace() else re.escape(letter)
    return re.compile(pattern, re.IGNORECASE), tuple(letters)


def _century(year: str) -> int:
    return int(year) if len(year) > 2 else int(year) + (2000 if int(year) < 70 else 1900)


def form_kind(form: str) -> str:
    """ "date", "time" or "dt": what STR_TO_DATE gives for a format."""
    letters = {letter for mark, letter in _marks(form) if mark}
    timed, dated = bool(letters & _TIMED), bool(letters - _TIMED - {"%"})
    return "dt" if timed and dated else "time" if timed else "date"


def str_to_date(value: Any, form: Any) -> str | None:
    if value is None or form is None:
        return None
    reader = _reader(str(form))
    if reader is None or (read := reader[0].match(str(value))) is None:
        return None
    parts = dict(zip(reader[1], read.groups(), strict=True))
    year, month, day, hour, late = 0, 0, 0, 0, None
    clock_ = [0, 0]
    for letter, text in parts.items():
        match letter:
            case "Y":
                year = int(text) if len(text) > 2 else _century(text)
            case "y":
                year = _century(text)
            case "m" | "c":
                month = int(text)
            case "M" | "b":
                month = 1 + [m[:3].lower() for m in MONTHS].index(text[:3].lower())
            case "d" | "e" | "D":
                day = int(re.sub(r"\D", "", text))
            case "H" | "k" | "h" | "I" | "l":
                hour = int(text)
                if letter in "hIl" and not 1 <= hour <= 12:
                    return None
                hour = hour % 12 if letter in "hIl" else hour
            case "i":
                clock_[0] = int(text)
            case "s" | "S":
                clock_[1] = int(text)
            case "p":
                late = text.lower() == "pm"
    hour += 12 if late else 0
    if "j" in parts and year:
        when = dt.datetime(year, 1, 1) + dt.timedelta(days=int(parts["j"]) - 1)
        month, day = when.month, when.day
    kind = form_kind(str(form))
    micro = int(parts.get("f", "0").ljust(6, "0"))
    if kind == "time":
        wrong = hour > 23 or max(clock_) > 59
        return None if wrong else time_text((hour * 3600 + clock_[0] * 60 + clock_[1]) * SECOND + micro)
    found = made(year, month, day, [hour, *clock_], kind == "dt", micro)
    if found is None or not found.month or not found.day:
        return None  # NO_ZERO_IN_DATE
    return found.text(kind == "dt")


# Arithmetic ---------------------------------------------------------------------------------------------------------

_SECONDS = {"MICROSECOND": 1e-6, "SECOND": 1, "MINUTE": 60, "HOUR": 3600, "DAY": 86400, "WEEK": 604800}
_MONTHS = {"MONTH": 1, "QUARTER": 3, "YEAR": 12}
_COMPOUND = {
    "YEAR_MONTH": ("YEAR", "MONTH"), "DAY_HOUR": ("DAY", "HOUR"), "DAY_MINUTE": ("DAY", "HOUR", "MINUTE"),
    "DAY_SECOND": ("DAY", "HOUR", "MINUTE", "SECOND"), "HOUR_MINUTE": ("HOUR", "MINUTE"),
    "HOUR_SECOND": ("HOUR", "MINUTE", "SECOND"), "MINUTE_SECOND": ("MINUTE", "SECOND"),
    "SECOND_MICROSECOND": ("SECOND", "MICROSECOND"),
}  # fmt: skip
UNITS = frozenset((*_SECONDS, *_MONTHS, *_COMPOUND))


def timed_unit(unit: str) -> bool:
    return unit in ("MICROSECOND", "SECOND", "MINUTE", "HOUR") or (unit in _COMPOUND and unit != "YEAR_MONTH")


def date_add(value: Any, amount: Any, unit: str, sign: int, timed: int) -> str | None:
    """`timed`: 1 to show the time of day, 0 not, -1 as the value has one."""
    at = moment(value)
    if at is None or amount is None or (when := at.real) is None:
        return None
    shown = at.timed or timed_unit(unit) if timed < 0 else bool(timed)
    pairs = [(unit, amount)]
    if unit in _COMPOUND:
        numbers = [int(n) for n in re.findall(r"\d+", str(amount))]
        names = _COMPOUND[unit][-len(numbers) :] if numbers else ()
        minus = -1 if str(amount).lstrip().startswith("-") else 1
        pairs = [(name, minus * n) for name, n in zip(names, numbers, strict=False)]
    try:
        for name, n in pairs:
            whole = int(number(re.split(r"\.", n)[0])) if isinstance(n, str) else round_half(n)  # of '1.5' it is 1
            count = sign * (whole if name != "SECOND" else number(str(n)))
            if name in _SECONDS:
                when += dt.timedelta(seconds=count * _SECONDS[name])
            else:
                months = when.year * 12 + when.month - 1 + int(count) * _MONTHS[name]
                year, month = divmod(months, 12)
                last = MONTH_DAYS[month + 1] - (month == 1 and not leap(year))
                when = when.replace(year=year, month=month + 1, day=min(when.day, last))
    except (OverflowError, ValueError):
        return None
    found = Moment(when.year, when.month, when.day, (when.hour, when.minute, when.second), shown, when.microsecond)
    return found.text(shown)


def time_add(value: Any, amount: Any, sign: int) -> str | None:
    """ADDTIME, SUBTIME: to a moment, or to a time of day."""
    more = clock(amount)
    at = moment(value) if isinstance(value, str) and len(value) >= 10 and "-" in value[1:] else None
    start = of_day(at) if at is not None else clock(value)
    if more is None or start is None:
        return None
    if at is None:
        return time_text(limited(start + sign * more))
    return date_add(at.text(False), start + sign * more, "MICROSECOND", 1, 1)


def time_plus(value: Any, amount: Any, unit: str, sign: int) -> str | None:
    """A time of day plus an interval."""
    start, moved = clock(value), moment(date_add("2000-01-01", amount, unit, sign, 1))
    if start is None or moved is None or (when := moved.real) is None:
        return None
    return time_text(limited(start + (when - dt.datetime(2000, 1, 1)) // dt.timedelta(microseconds=1)))


def time_diff(a: Any, b: Any) -> str | None:
    """TIMEDIFF: of two moments or of two times of day."""
    first, second = (moment(v) if isinstance(v, str) and "-" in v[1:] else None for v in (a, b))
    if (first is None) != (second is None):
        return None
    if first is not None and second is not None:
        if (start := first.real) is None or (end := second.real) is None:
            return None
        return time_text(limited((start - end) // dt.timedelta(microseconds=1)))
    one, other = clock(a), clock(b)
    return None if one is None or other is None else time_text(limited(one - other))


def time_format(value: Any, form: Any) -> str | None:
    """TIME_FORMAT: hours may be more than a day has."""
    found = clock(value)
    if found is None or not form:
        return None
    seconds, micro = divmod(abs(found), SECOND)
    hours, minute, second = seconds // 3600, seconds // 60 % 60, seconds % 60
    at = Moment(0, 0, 0, (hours % 24, minute, second), True, micro)
    parts = []
    for mark, letter in _marks(str(form)):
        if mark and letter in "Hk":
            parts.append(f"{hours:02d}" if letter == "H" else str(hours))
            continue
        part_ = _formatted(at, letter) if mark else letter
        if part_ is None:
            return None
        parts.append(part_)
    return "-" * (found < 0) + "".join(parts)


def round_half(value: Any) -> int:
    """A number as an integer, halves away from zero."""
    found = number(value) if isinstance(value, str) else value
    return int(abs(found) + 0.5) * (-1 if found < 0 else 1)


def months_between(early: dt.datetime, late: dt.datetime) -> int:
    """Whole months from one moment to a later one."""
    months = (late.year - early.year) * 12 + late.month - early.month
    rest = (late.day, late.time()) < (early.day, early.time())
    return months - rest


def timestampdiff(unit: str, a: Any, b: Any) -> int | None:
    first, second = moment(a), moment(b)
    if first is None or second is None or (start := first.real) is None or (end := second.real) is None:
        return None
    sign = 1 if end >= start else -1
    early, late = (start, end) if sign > 0 else (end, start)
    if unit in _SECONDS:
        return sign * ((late - early) // dt.timedelta(seconds=_SECONDS[unit]))
    return sign * (months_between(early, late) // _MONTHS[unit])


_OF = {"HOUR": 3600 * SECOND, "MINUTE": 60 * SECOND, "SECOND": SECOND, "MICROSECOND": 1}


def part(unit: str, value: Any) -> int | None:
    """EXTRACT, and YEAR(), MONTH() and so on."""
    if unit in ("HOUR", "MINUTE", "SECOND", "MICROSECOND"):
        found = clock(value)
        return None if found is None else abs(found) // _OF[unit] % {"HOUR": 1000, "MICROSECOND": SECOND}.get(unit, 60)
    at = moment(value)
    if at is None:
        return None
    hour, minute, second = at.clock
    match unit:
        case "YEAR" | "MONTH" | "DAY":
            return getattr(at, unit.lower())
        case "QUARTER":
            return (at.month + 2) // 3
        case "YEAR_MONTH":
            return at.year * 100 + at.month
        case "DAY_HOUR":
            return at.day * 100 + hour
        case "DAY_MINUTE":
            return (at.day * 100 + hour) * 100 + minute
        case "DAY_SECOND":
            return ((at.day * 100 + hour) * 100 + minute) * 100 + second
        case "HOUR_MINUTE":
            return hour * 100 + minute
        case "HOUR_SECOND":
            return (hour * 100 + minute) * 100 + second
        case "MINUTE_SECOND":
            return minute * 100 + second
        case "SECOND_MICROSECOND":
            return second * SECOND + at.micro
    if (when := at.real) is None:
        return None
    match unit:
        case "WEEK":
            return week(when, 0)[1]
        case "DAYOFWEEK":
            return (when.weekday() + 1) % 7 + 1
        case "WEEKDAY":
            return when.weekday()
        case "DAYOFYEAR":
            return when.timetuple().tm_yday
        case "TO_DAYS":
            return days(when)
    raise ValueError(unit)
