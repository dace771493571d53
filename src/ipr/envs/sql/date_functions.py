"""Functions of dates and times of day, one value at a time."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable
from decimal import Decimal
from functools import partial
from typing import Any

from ipr.envs.sql import dates, moments

Function = Callable[..., Any]
_NOW = str(dates.NOW)


def known(function: Function) -> Function:
    """NULL where an argument is NULL."""

    def wrapped(*arguments: Any) -> Any:
        return None if None in arguments else function(*arguments)

    return wrapped


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


DATE_FUNCTIONS: dict[str, tuple[int, Function]] = {
    **{
        f"date_{unit.lower()}": (1, partial(dates.part, unit))
        for unit in ("YEAR", "MONTH", "DAY", "HOUR", "MINUTE", "SECOND", "QUARTER")
    },
    **{
        f"date_{unit.lower()}": (1, partial(dates.part, unit))
        for unit in ("DAYOFWEEK", "WEEKDAY", "DAYOFYEAR", "TO_DAYS")
    },
    "date_part": (2, known(dates.part)),
    "date_num": (1, dates.date_num),
    "date_add": (5, known(lambda value, n, unit, sign, timed: dates.date_add(value, n, unit, sign, timed))),
    "date_diff": (2, known(_date_diff)),
    "date_format": (2, dates.date_format),
    "str_to_date": (2, dates.str_to_date),
    "timestamp_diff": (3, known(dates.timestampdiff)),
    "as_date": (1, dates.as_date),
    "compared_date": (1, known(dates.compared_date)),
    "as_datetime": (-1, dates.as_datetime),
    "as_time": (-1, dates.as_time),
    "as_year": (1, known(_as_year)),
    "time_add": (3, dates.time_add),
    "time_plus": (4, known(dates.time_plus)),
    "time_diff": (2, dates.time_diff),
    "time_format": (2, dates.time_format),
    "make_time": (3, known(_make_time)),
    "to_seconds": (1, known(_of_date(_to_seconds))),
    "date_microsecond": (1, partial(dates.part, "MICROSECOND")),
    "week_of": (-1, known(_week)),
    "week_of_year": (1, known(lambda value: _week(value, 3))),
    "year_week": (-1, known(_year_week)),
    "day_name": (1, known(_of_date(lambda when: dates.DAYS[when.weekday()]))),
    "month_name": (
        1,
        known(lambda v: None if (at := dates.moment(v)) is None or not at.month else dates.MONTHS[at.month - 1]),
    ),
    "last_day": (1, known(_of_date(_last_day))),
    "from_days": (1, known(_from_days)),
    "make_date": (2, known(_make_date)),
    "time_to_sec": (1, known(_time_to_sec)),
    "sec_to_time": (1, known(_sec_to_time)),
    "unix_timestamp": (-1, known(_unix)),
    "unix_of_text": (1, known(_unix_of_text)),
    "from_unixtime": (1, known(_from_unix)),
    "period_diff": (2, known(_period_diff)),
    "period_add": (2, known(_period_add)),
}
