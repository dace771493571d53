"""Functions that `functions` computes whatever the types: how many arguments each takes, as what, and what it gives."""

from __future__ import annotations

from collections.abc import Callable

from ipr.envs.sql.collation import PLAIN
from ipr.envs.sql.kinds import DATE, DBL, INT, STR, TIME, Kind
from ipr.envs.sql.operands import as_shown, clocked, dated
from ipr.envs.sql.terms import DIGITS, Term, as_integer, as_number, as_text, common_letters

AS: dict[str, Callable[[Term], str]] = {
    "t": as_text,
    "n": as_number,
    "i": as_integer,
    "d": dated,
    "c": clocked,
    "s": as_shown,
}
"""How an argument is taken; in `TABLE` in upper case where it may be left out, and the last one again for "*"."""

TABLE: dict[str, tuple[str, Kind, str]] = {
    # texts
    "CONCAT_WS": ("concat_ws", STR, "tt*"),
    "SUBSTRING": ("sub_text", STR, "tiI"),
    "SUBSTR": ("sub_text", STR, "tiI"),
    "MID": ("sub_text", STR, "tiI"),
    "LEFT": ("text_left", STR, "ti"),
    "RIGHT": ("text_right", STR, "ti"),
    "LPAD": ("lpad", STR, "tit"),
    "RPAD": ("rpad", STR, "tit"),
    "LTRIM": ("ltrim", STR, "t"),
    "RTRIM": ("rtrim", STR, "t"),
    "TRIM": ("trim_both", STR, "tT"),
    "TRIM LEADING": ("trim_leading", STR, "tT"),
    "TRIM TRAILING": ("trim_trailing", STR, "tT"),
    "REPLACE": ("replace", STR, "ttt"),
    "REPEAT": ("repeat_text", STR, "ti"),
    "REVERSE": ("reverse", STR, "t"),
    "SPACE": ("space", STR, "i"),
    "SUBSTRING_INDEX": ("substring_index", STR, "tti"),
    "INSERT": ("insert_text", STR, "tiit"),
    "CHAR_LENGTH": ("length", INT, "t"),
    "CHARACTER_LENGTH": ("length", INT, "t"),
    "LENGTH": ("byte_length", INT, "t"),
    "OCTET_LENGTH": ("byte_length", INT, "t"),
    "ASCII": ("ascii_code", INT, "t"),
    "INSTR": ("instr_text", INT, "tt"),
    "LOCATE": ("locate", INT, "ttI"),
    "FIND_IN_SET": ("find_in_set", INT, "tt"),
    "BIT_LENGTH": ("bit_length", INT, "t"),
    "ORD": ("ord_of", INT, "t"),
    "SOUNDEX": ("soundex", STR, "t"),
    "SHA2": ("sha2", STR, "ti"),
    "TO_BASE64": ("to_base64", STR, "t"),
    "MAKE_SET": ("make_set", STR, "itt*"),
    "CONV": ("conv", STR, "tii"),
    "MD5": ("md5", STR, "t"),
    "SHA1": ("sha1", STR, "t"),
    "SHA": ("sha1", STR, "t"),
    # numbers
    "SQRT": ("sqrt_of", DBL, "n"),
    "POW": ("power_of", DBL, "nn"),
    "POWER": ("power_of", DBL, "nn"),
    "EXP": ("exp", DBL, "n"),
    "LN": ("ln_of", DBL, "n"),
    "LOG": ("log_of", DBL, "nN"),
    "LOG10": ("log10_of", DBL, "n"),
    "LOG2": ("log2_of", DBL, "n"),
    "PI": ("pi", Kind("dbl", 6), ""),
    "RADIANS": ("radians", DBL, "n"),
    "DEGREES": ("degrees", DBL, "n"),
    "SIN": ("sin", DBL, "n"),
    "COS": ("cos", DBL, "n"),
    "TAN": ("tan", DBL, "n"),
    "ASIN": ("asin_of", DBL, "n"),
    "ACOS": ("acos_of", DBL, "n"),
    "ATAN": ("atan_of", DBL, "nN"),
    "ATAN2": ("atan_of", DBL, "nN"),
    "COT": ("cot_of", DBL, "n"),
    "CRC32": ("crc32_of", INT, "t"),
    "SIGN": ("sign", INT, "n"),
    "BIT_COUNT": ("bit_count", INT, "i"),
    # dates
    **{name: (f"date_{name.lower()}", INT, "d") for name in ("YEAR", "MONTH", "DAY")},
    **{name: (f"date_{name.lower()}", INT, "c") for name in ("HOUR", "MINUTE", "SECOND", "MICROSECOND")},
    **{
        name: (f"date_{name.lower()}", INT, "d") for name in ("QUARTER", "DAYOFWEEK", "WEEKDAY", "DAYOFYEAR", "TO_DAYS")
    },
    "DAYOFMONTH": ("date_day", INT, "d"),
    "WEEK": ("week_of", INT, "dI"),
    "WEEKOFYEAR": ("week_of_year", INT, "d"),
    "YEARWEEK": ("year_week", INT, "dI"),
    "DAYNAME": ("day_name", STR, "d"),
    "MONTHNAME": ("month_name", STR, "d"),
    "DATE": ("as_date", DATE, "d"),
    "TIME": ("as_time", TIME, "c"),
    "TIMEDIFF": ("time_diff", TIME, "cc"),
    "TIME_FORMAT": ("time_format", STR, "ct"),
    "MAKETIME": ("make_time", TIME, "iin"),
    "TO_SECONDS": ("to_seconds", INT, "d"),
    "PERIOD_ADD": ("period_add", INT, "ii"),
    "LAST_DAY": ("last_day", DATE, "d"),
    "FROM_DAYS": ("from_days", DATE, "i"),
    "MAKEDATE": ("make_date", DATE, "ii"),
    "DATEDIFF": ("date_diff", INT, "dd"),
    "DATE_FORMAT": ("date_format", STR, "dt"),
    "TIME_TO_SEC": ("time_to_sec", INT, "c"),
    "SEC_TO_TIME": ("sec_to_time", TIME, "s"),
    "PERIOD_DIFF": ("period_diff", INT, "ii"),
}


VAST = ("POW", "POWER", "EXP", "DEGREES", "COT")
"""Functions whose value may leave a double's range."""


def counts(name: str) -> tuple[int, int]:
    """Least and most arguments."""
    codes = TABLE[name][2]
    return sum(code.islower() for code in codes.rstrip("*")), 1000 if codes.endswith("*") else len(codes)


def letters(kind: Kind, terms: list[Term]) -> frozenset[str] | None:
    if kind.name != "str":
        return DIGITS
    return PLAIN if common_letters(terms) is not None else None
