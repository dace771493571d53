"""MySQL's types as far as an answer shows them, and how a value of SQLite becomes the value that a client is given.

Decided here: a decimal is kept as SQLite's number beside its scale, which is exact for 15 digits, since every operation
rounds to its scale; a date is kept as ISO text. So SQLite computes, and only what is printed is converted: to Decimal,
datetime, and floats as the server writes them (a FLOAT with 6 digits, a DOUBLE(10,2) with its decimals). Left out:
unsigned numbers of more than 63 bits but as the last result, a YEAR as a date, and JSON.
"""

from __future__ import annotations

import datetime as dt
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from decimal import ROUND_HALF_UP, Decimal
from typing import Any, Literal

from ipr.envs.sql.errors import MySqlError

MOST_DIGITS = 15
"""Digits of a decimal that a double holds exactly."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A type: what class of value, and how many decimals are shown."""

    name: Literal["int", "dec", "dbl", "flt", "str", "bin", "date", "dt", "time", "null"]
    scale: int | None = None
    """Decimals; None for a double or float that is shown as it is."""
    counted: bool = False
    """Whether an integer was computed, and may have left the range of 64 bits."""
    unsigned: bool = False
    year: bool = field(default=False, compare=False)
    """Whether it is a YEAR, with which two digits are compared as a year."""
    members: tuple[str, ...] = field(default=(), compare=False)
    """Of an ENUM or SET: its values, by whose places it is sorted, and which are its number."""
    several: bool = field(default=False, compare=False)
    """Whether it is a SET."""
    own: bool = False
    """Whether each decimal is shown with its own decimals."""
    whole: int = field(default=10, compare=False)
    """Digits before the point, at most, of an integer or decimal."""

    @property
    def number(self) -> bool:
        return self.name in ("int", "dec", "dbl", "flt")

    @property
    def plain(self) -> Kind:
        """What an expression makes of it: of an ENUM or SET a text."""
        return replace(self, members=()) if self.members else self

    @property
    def exact(self) -> bool:
        return self.name in ("int", "dec")

    @property
    def temporal(self) -> bool:
        return self.name in ("date", "dt", "time")

    @property
    def decimals(self) -> int | None:
        """The scale with which it enters arithmetic."""
        return 0 if self.name in ("int", "date", "dt", "time") else self.scale


INT, COUNTED, UNSIGNED = Kind("int"), Kind("int", counted=True), Kind("int", unsigned=True, whole=20)
LONG = Kind("int", whole=20)
DBL, STR, BIN, NULL = Kind("dbl"), Kind("str"), Kind("bin"), Kind("null")
DATE, DATETIME, TIME = Kind("date"), Kind("dt"), Kind("time")


def dec(scale: int, whole: int = 10) -> Kind:
    return Kind("dec", min(scale, 30), whole=whole)


_DECLARED = re.compile(
    r"\s*([a-z ]*?)\s*(?:\(\s*(\d+)\s*(?:,\s*(\d+)\s*)?\))?\s*(?:unsigned|zerofill|signed|\s)*", re.I
)

_MEMBER = r"'((?:[^']|'')*)'"
_LISTED = re.compile(rf"\s*(enum|set)\s*\(\s*({_MEMBER}(?:\s*,\s*{_MEMBER})*)\s*\).*", re.I | re.S)


def declared(text: str) -> Kind:
    """The type that a column is declared with, in MySQL's words or SQLite's."""
    if listed := _LISTED.fullmatch(text):
        members = tuple(m.replace("''", "'") for m in re.findall(_MEMBER, listed[2]))
        return Kind("str", members=members, several=listed[1].lower() == "set")
    found = _DECLARED.fullmatch(text.lower())
    word = found[1] if found else text.lower()
    scale = int(found[3]) if found and found[3] else None
    if word in ("decimal", "numeric", "dec", "fixed"):
        if not (found and found[2]):
            return Kind("dbl")  # SQLite's bare numeric holds anything
        return dec(scale or 0, int(found[2]) - (scale or 0))
    if word in ("float",):
        return Kind("flt", scale)
    if word in ("double", "real", "double precision"):
        return Kind("dbl", scale)
    if word == "date":
        return DATE
    if word in ("datetime", "timestamp"):
        return DATETIME
    if word == "time":
        return TIME
    if word == "year":
        return Kind("int", unsigned=True, year=True)
    unsigned = re.search("unsigned|zerofill", text, re.I) is not None
    if word == "bigint":
        return replace(LONG, unsigned=unsigned)
    if "int" in word or word in ("bool", "boolean", "bit"):
        return replace(INT, unsigned=unsigned)
    return BIN if word in ("blob", "binary", "varbinary", "longblob", "mediumblob", "tinyblob") else STR


# What a client is given --------------------------------------------------------------------------------------------


def converter(kind: Kind) -> Callable[[Any], Any] | None:
    """From SQLite's value to the client's; None where they are the same."""
    match kind.name:
        case "dec":
            return _own_decimal if kind.own else _decimal(kind.scale or 0)
        case "dbl" if kind.scale is not None:
            return _fixed(kind.scale)
        case "dbl":
            return _double
        case "flt":
            return _fixed(kind.scale) if kind.scale is not None else _float
        case "date":
            return _date
        case "dt":
            return _datetime
        case "time":
            return _time
        case "int" if kind.unsigned:
            return _without_sign
        case "int" if kind.counted:
            return _integer
    return None


def _without_sign(value: Any) -> Any:
    return value + 2**64 if value is not None and value < 0 else value


def _integer(value: Any) -> Any:
    if isinstance(value, float):
        raise MySqlError("BIGINT value is out of range")
    return value


def rounded(value: Decimal, scale: int) -> Decimal:
    """With so many decimals; MySQL's decimals know no negative zero."""
    found = value.quantize(Decimal(1).scaleb(-scale), ROUND_HALF_UP)
    return found if found else abs(found)


def _decimal(scale: int) -> Callable[[Any], Any]:
    def convert(value: Any) -> Any:
        if value is None:
            return None
        if isinstance(value, str):
            return rounded(Decimal(value), scale)
        exact = Decimal(value if isinstance(value, int) else repr(float(value)))
        if not isinstance(value, int) and exact and exact.adjusted() + scale >= MOST_DIGITS:
            raise MySqlError("A decimal of so many digits cannot be computed here")
        return rounded(exact, scale)

    return convert


def _own_decimal(value: Any) -> Any:
    return None if value is None else Decimal(value)


def _fixed(scale: int) -> Callable[[Any], Any]:
    return lambda value: None if value is None else float(f"{float(value):.{scale}f}")


def _double(value: Any) -> Any:
    return float(value) if isinstance(value, int) else value


def _float(value: Any) -> Any:
    return None if value is None else float(f"{single(value):.6g}")


def single(value: Any) -> float:
    """The nearest number of 32 bits, which is all that a FLOAT keeps."""
    try:
        return struct.unpack("f", struct.pack("f", float(value)))[0]
    except (OverflowError, ValueError):
        return float("nan")


def _date(value: Any) -> Any:
    try:
        return None if value is None else dt.date.fromisoformat(str(value)[:10])
    except ValueError:
        return None  # a date with zeros, which the client gives as None


def _datetime(value: Any) -> Any:
    try:
        return None if value is None else dt.datetime.fromisoformat(str(value))
    except ValueError:
        return None


def _time(value: Any) -> Any:
    if value is None:
        return None
    sign, hours, minutes, seconds = re.fullmatch(r"(-?)(\d+):(\d+):([\d.]+)", str(value)).groups()  # type: ignore[union-attr]
    found = dt.timedelta(hours=int(hours), minutes=int(minutes), seconds=float(seconds))
    return -found if sign else found


# Values as text, as the server writes them in CONCAT ------------------------------------------------------------------


def text_of_double(value: float) -> str:
    """The shortest text that means this double, in MySQL's form: 1e20, 0.00001, 1e-15."""
    if value == 0:
        return "0"
    sign, digits, exponent = Decimal(repr(value)).normalize().as_tuple()
    assert isinstance(exponent, int)
    point = len(digits) + exponent
    if not -15 < point <= 15 + 2:
        mantissa = "".join(map(str, digits))
        mantissa = mantissa[0] + (f".{mantissa[1:]}" if len(mantissa) > 1 else "")
        return f"{'-' * sign}{mantissa}e{point - 1}"
    return f"{Decimal(repr(value)).normalize():f}"


def text_of(value: Any, scale: int | None) -> str | None:
    """A number as text. `scale` is its decimals, None for a double."""
    if value is None:
        return None
    if scale is None:
        return text_of_double(float(value)) if not isinstance(value, int) else str(value)
    return str(rounded(Decimal(repr(value)), scale))
