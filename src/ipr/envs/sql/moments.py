"""Texts and numbers as dates and times of day, read as the server reads them (my_time.cc).

A text is read up to where it stops making sense; what is no date by then is none. Decided here: a moment has parts to
the microsecond, and a time of day is a number of microseconds. Left out: time zones.
"""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

MONTH_DAYS = (31, 31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
"""Of the months; of month 0 that is none."""
SECOND = 1_000_000
_MOST_TIME = (838 * 3600 + 59 * 60 + 59) * SECOND


@dataclass(frozen=True, slots=True)
class Moment:
    """A date, with or without a time of day; month and day may be 0."""

    year: int
    month: int
    day: int
    clock: tuple[int, int, int] = (0, 0, 0)
    timed: bool = False
    micro: int = 0

    @property
    def real(self) -> dt.datetime | None:
        try:
            return dt.datetime(self.year, self.month, self.day, *self.clock, self.micro)
        except ValueError:
            return None

    def text(self, timed: bool) -> str:
        date = f"{self.year:04d}-{self.month:02d}-{self.day:02d}"
        if not timed:
            return date
        fraction = f".{self.micro:06d}" if self.micro else ""
        return f"{date} {self.clock[0]:02d}:{self.clock[1]:02d}:{self.clock[2]:02d}{fraction}"

    def rounded(self) -> Moment:
        """In whole seconds."""
        if not self.micro or (when := self.real) is None:
            return self
        try:
            when += dt.timedelta(microseconds=500_000)
        except OverflowError:
            return self
        return Moment(when.year, when.month, when.day, (when.hour, when.minute, when.second), self.timed)


_SEPARATED = re.compile(
    r"""\s*(\d+)[^\w\s]+(\d+)(?:[^\w\s]+(\d+)
        (?:(?:T|[^\w]+)(\d+)(?:[^\w\s]+(\d+)(?:[^\w\s]+(\d+)(?:\.(\d{0,6})\d*)?)?)?)?)?""",
    re.VERBOSE,
)
_DIGITS = re.compile(r"\s*(\d+)T?(\d*)(?:\.(\d{0,6})|\Z)")


def moment(value: Any) -> Moment | None:
    """What a text or number is as a date; None where it is none."""
    if value is None or (isinstance(value, str) and len(value) > 100):
        return None
    return _moment(value)


@lru_cache(maxsize=50_000)
def _moment(value: Any) -> Moment | None:
    if not isinstance(value, str):
        return _of_number(value)
    parts, fraction = _parts(value)
    if len(parts) < 3 or any(int(p) > 999_999 for p in parts):
        return None
    year, month, day, *clock = map(int, parts)
    if len(parts[0]) == 2 and any((year, month, day, *clock)):
        year += 2000 if year < 70 else 1900
    micro = int((fraction or "").ljust(6, "0"))
    return made(year, month, day, [*clock, 0, 0, 0][:3], bool(clock), micro)


def _parts(text: str) -> tuple[list[str], str | None]:
    """The numbers of a date, in digits alone or parted by signs, and the fraction of its second."""
    if found := _DIGITS.match(text):
        digits = found[1] + found[2]
        wide = 4 if len(digits) in (4, 8) or len(digits) >= 14 else 2
        parts = [digits[:wide], *(digits[k : k + 2] for k in range(wide, min(len(digits), wide + 10), 2))]
        if len(parts) > 1:
            return parts, found[3] if len(parts) == 6 else None
    if found := _SEPARATED.match(text):
        *numbers, fraction = found.groups()
        return [p for p in numbers if p is not None], fraction
    return [], None


def _of_number(value: float) -> Moment | None:
    number, micro = int(value), round(abs(value) % 1 * SECOND)
    if number < 101 or number > 99_999_999_999_999:
        return None
    timed = number > 99_991_231
    if not timed:
        number *= SECOND
    for least, most, century in ((0, 699_999, 20), (700_000, 991_231, 19)):
        if least * SECOND <= number < (most + 1) * SECOND:
            number += century * 1_000_000 * SECOND
            break
    date, clock = divmod(number, SECOND)
    if date < 10_000_101:
        return None
    parts = [clock // 10_000, clock // 100 % 100, clock % 100]
    return made(date // 10_000, date // 100 % 100, date % 100, parts, timed, micro)


def made(year: int, month: int, day: int, clock: list[int], timed: bool, micro: int = 0) -> Moment | None:
    hour, minute, second = clock
    if year > 9999 or month > 12 or day > MONTH_DAYS[month] or hour > 23 or minute > 59 or second > 59:
        return None
    if month == 2 and day == 29 and not leap(year):
        return None
    if not any((year, month, day, hour, minute, second, micro)):
        return None  # NO_ZERO_DATE
    return Moment(year, month, day, (hour, minute, second), timed, micro)


def leap(year: int) -> bool:
    return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)


# Times of day --------------------------------------------------------------------------------------------------------

_CLOCK = re.compile(r"\s*(-?)(?:(\d+)\s+(?=\d))?(\d+)(?::(\d+)(?::(\d+))?)?(?:\.(\d{0,6})\d*)?")


def clock(value: Any) -> int | None:
    """Microseconds of a time, or of the time of day of a moment."""
    if value is None:
        return None
    if not isinstance(value, str):
        return _clock_of_number(value)
    if len(value) >= 12 and (at := moment(value)) is not None:
        return of_day(at)
    found = _CLOCK.match(value)
    if found is None or max(map(len, filter(None, found.groups()))) > 10:
        return None
    sign, days, hours, minutes, seconds, fraction = found.groups()
    if minutes is None and days is None:  # one number is HHMMSS
        number = int(hours)
        parts = (0, number // 10_000, number // 100 % 100, number % 100)
    else:
        parts = (int(days or 0), int(hours), int(minutes or 0), int(seconds or 0))
    return _time(sign, parts, int((fraction or "").ljust(6, "0")))


def _clock_of_number(value: float) -> int | None:
    number, micro = int(abs(value)), round(abs(value) % 1 * SECOND)
    if number > 8_385_959:
        at = _of_number(value) if number >= 10_000_000_000 else None
        return None if at is None else of_day(at)
    return _time("-" * (value < 0), (0, number // 10_000, number // 100 % 100, number % 100), micro)


def _time(sign: str, parts: tuple[int, ...], micro: int) -> int | None:
    days, hours, minutes, seconds = parts
    if minutes > 59 or seconds > 59:
        return None
    found = min(((days * 24 + hours) * 3600 + minutes * 60 + seconds) * SECOND + micro, _MOST_TIME)
    return -found if sign else found


def of_day(at: Moment) -> int:
    return (at.clock[0] * 3600 + at.clock[1] * 60 + at.clock[2]) * SECOND + at.micro


def limited(time: int) -> int:
    return max(-_MOST_TIME, min(_MOST_TIME, time))


def time_text(time: int) -> str:
    """-12:34:56, with a fraction where there is one."""
    seconds, micro = divmod(abs(time), SECOND)
    fraction = f".{micro:06d}" if micro else ""
    return f"{'-' * (time < 0)}{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}{fraction}"
