"""MySQL's functions: how many arguments each takes, as what, and what type it gives.

See https://dev.mysql.com/doc/refman/8.0/en/built-in-function-reference.html. Decided here: a line of `_TABLE` is a
function that `functions` computes; those that decide by types are built one by one. A function of MySQL that is in
neither is refused as not exact; any other name is a function that does not exist.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from sqlglot import exp

from ipr.envs.sql import aggregates, dates, errors
from ipr.envs.sql.collation import PLAIN, ordered
from ipr.envs.sql.errors import MySqlError, NotExactError
from ipr.envs.sql.kinds import BIN, DATE, DATETIME, DBL, INT, NULL, STR, TIME, Kind, dec
from ipr.envs.sql.terms import (
    DIGITS,
    Term,
    as_integer,
    as_number,
    as_text,
    choice,
    common,
    common_letters,
    constant,
    loose,
    pair,
    quoted,
    truth,
)
from ipr.envs.sql.words import AGGREGATES, COUNTS, NATIVE

if TYPE_CHECKING:
    from ipr.envs.sql.select import Compiler

Node = exp.Expr
Built = Callable[["Compiler", list[Term], str], Term]


def call(c: Compiler, name: str, nodes: list[Node], node: Node) -> Term:
    """A call by its name in upper case."""
    if name in AGGREGATES:
        return aggregates.aggregate(c, name, nodes)
    if name in _OF_NODES:
        return _OF_NODES[name](c, nodes, node)
    if name in _BUILT:
        return _BUILT[name][2](c, [c.single(n) for n in nodes], name)
    if name in _TABLE:
        function, kind, codes = _TABLE[name]
        terms = [c.single(n) for n in nodes]
        codes = codes.lower().rstrip("*")
        codes += codes[-1:] * (len(terms) - len(codes))
        sides = [_AS[code](term) for code, term in zip(codes, terms, strict=False)]
        sql = f"{function}({', '.join(sides)})"
        if name in _VAST:
            sql = f"finite({sql}, {quoted(printed(c, node))})"
        return Term(sql, kind, _letters(kind, terms), loose=loose(*terms))
    if name in NATIVE:
        raise NotExactError(f"{name}()")
    raise errors.no_function(c.schema.name, node.name)


def check_arguments(tree: Node) -> None:
    """Raises MySqlError where a function of MySQL is given more or fewer arguments than it takes: the parser says so,
    before anything is known of tables."""
    for node in tree.find_all(exp.Anonymous, bfs=False):
        name = node.name.upper()
        least, most = (
            _BUILT[name][:2] if name in _BUILT else _counts(name) if name in _TABLE else COUNTS.get(name, _ANY)
        )
        if not least <= len(node.expressions) <= most and not isinstance(node.parent, exp.Dot):
            raise errors.arguments(name)


def check_known(c: Compiler, node: Node) -> None:
    """Raises MySqlError for a function that does not exist, which comes before what is wrong with its arguments."""
    if not isinstance(node, exp.Anonymous):
        return
    name = node.name.upper()
    if isinstance(node.parent, exp.Dot) and node.parent.expression is node:
        raise errors.no_function(node.parent.this.name.lower(), node.name)
    if not any(name in known for known in (AGGREGATES, _OF_NODES, _BUILT, _TABLE, NATIVE, ("ROW",))):
        raise errors.no_function(c.schema.name, node.name)


_ANY = (0, 1000)


def _counts(name: str) -> tuple[int, int]:
    """Least and most arguments."""
    codes = _TABLE[name][2]
    return sum(code.islower() for code in codes.rstrip("*")), 1000 if codes.endswith("*") else len(codes)


def printed(c: Compiler, node: Node) -> str:
    """An expression as the server prints it where it leaves its type's range: (1e308 * 10), pow(10,400)."""
    if isinstance(node, exp.Paren):
        return printed(c, node.this)
    if isinstance(node, exp.Column):
        try:
            found, _ = c.scope.find(node.name, node.text("table"), node.text("db"), c.clause)
        except MySqlError:  # a name of the select list
            return f"`{node.name}`"
        table = found.source.alias
        parts = [found.source.database] if table.lower() in c.schema.names else []
        return ".".join(f"`{part}`" for part in (*parts, table, found.name))
    if isinstance(node, exp.Anonymous):
        name = str(node.this).lower()
        return f"{'pow' if name == 'power' else name}({','.join(printed(c, n) for n in node.expressions)})"
    if (sign := _SIGNS.get(type(node))) is not None:
        return f"({printed(c, node.this)} {sign} {printed(c, node.expression)})"
    if isinstance(node, exp.Cast):
        word = node.args["to"].sql(dialect="mysql").lower()
        return f"cast({printed(c, node.this)} as {'unsigned' if 'unsigned' in word else word})"
    if isinstance(node, exp.Neg):
        return f"-({printed(c, node.this)})"
    return node.sql(dialect="mysql")


_SIGNS: dict[type, str] = {exp.Add: "+", exp.Sub: "-", exp.Mul: "*", exp.Div: "/"}


def _letters(kind: Kind, terms: list[Term]) -> frozenset[str] | None:
    if kind.name != "str":
        return DIGITS
    return PLAIN if common_letters(terms) is not None else None


def dated(term: Term) -> str:
    """As what a date is read from; a time of day is one of today."""
    if term.kind.name == "time":
        return f"('{_TODAY} ' || {term.sql})"
    return term.sql if term.text or term.kind.temporal or term.kind.name == "null" else as_number(term)


def clocked(term: Term) -> str:
    """As what a time of day is read from."""
    if term.kind.name == "date":
        return f"({term.sql} || ' 00:00:00')"
    return term.sql if term.kind.name == "time" else dated(term)


_NOW, _TODAY, _CLOCK = f"{dates.NOW}", f"{dates.NOW:%Y-%m-%d}", f"{dates.NOW:%H:%M:%S}"


_AS: dict[str, Callable[[Term], str]] = {"t": as_text, "n": as_number, "i": as_integer, "d": dated, "c": clocked}
"""How an argument is taken; in `_TABLE` in upper case where it may be left out, and the last one again for "*"."""

_TABLE: dict[str, tuple[str, Kind, str]] = {
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
    "REGEXP_LIKE": ("regexp_in", INT, "tt"),
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
    "ATAN": ("atan", DBL, "n"),
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
    "SEC_TO_TIME": ("sec_to_time", TIME, "n"),
    "PERIOD_DIFF": ("period_diff", INT, "ii"),
}


_VAST = ("POW", "POWER", "EXP", "DEGREES")
"""Functions whose value may leave a double's range."""

# Those that decide by types -----------------------------------------------------------------------------------------


def _concat(c: Compiler, terms: list[Term], name: str) -> Term:
    if any(t.kind.name == "null" for t in terms):
        return Term("NULL", NULL, loose=loose(*terms))
    sql = f"({' || '.join(map(as_text, terms))})"
    return Term(sql, STR, PLAIN if common_letters(terms) is not None else None, loose=loose(*terms))


def _case_of(c: Compiler, terms: list[Term], name: str) -> Term:
    (term,) = terms
    word = "upper" if name in ("UPPER", "UCASE") else "lower"
    plain = common_letters(terms) is not None
    sql = f"{word if plain else f'{word}_text'}({as_text(term)})"
    return Term(sql, STR, PLAIN if plain else None, loose=term.loose)


def _if(c: Compiler, terms: list[Term], name: str) -> Term:
    test, *values = terms
    return choice(values, lambda s: f"(CASE WHEN {truth(test)} THEN {s[0]} ELSE {s[1]} END)", test, own=True)


def _coalesce(c: Compiler, terms: list[Term], name: str) -> Term:
    if len(terms) == 1:
        return replace(terms[0], own="")
    return choice(terms, lambda s: f"coalesce({', '.join(s)})")


def _nullif(c: Compiler, terms: list[Term], name: str) -> Term:
    a, b = terms
    left, right = pair(a, b, True)
    found = Term(f"(CASE WHEN {left} = {right} THEN NULL ELSE {a.sql} END)", a.kind, a.letters, loose=loose(a, b))
    found.own = f"(CASE WHEN {left} = {right} THEN NULL ELSE {a.own} END)" if a.own else ""
    return found


def _isnull(c: Compiler, terms: list[Term], name: str) -> Term:
    return Term(f"({terms[0].sql} IS NULL)", INT, DIGITS, loose=terms[0].loose)


def _extreme(c: Compiler, terms: list[Term], name: str) -> Term:
    """GREATEST, LEAST: NULL where one is."""
    kind, sides = common(terms)
    word = "max" if name == "GREATEST" else "min"
    if any(t.kind.name == "null" for t in terms):
        return Term("NULL", NULL, loose=loose(*terms))
    if kind.name == "str":
        letters = common_letters(terms)
        if letters is None or not ordered(letters) or any(not t.text for t in terms):
            raise NotExactError(f"{name}() of such texts")
        sides[0] += " COLLATE NOCASE"
        return Term(f"{word}({', '.join(sides)})", STR, letters, loose=loose(*terms))
    return Term(f"{word}({', '.join(sides)})", kind, DIGITS, loose=loose(*terms))


def _field(c: Compiler, terms: list[Term], name: str) -> Term:
    first, *others = terms
    same = all(t.text for t in terms) or all(t.kind.number for t in terms)
    as_doubles = [Term(as_number(t), DBL) for t in others]
    number = Term(as_number(first), DBL)
    tests = [pair(first, t, True) for t in others] if same else [pair(number, d, True) for d in as_doubles]
    whens = " ".join(f"WHEN {a} = {b} THEN {k}" for k, (a, b) in enumerate(tests, 1))
    return Term(f"(CASE {whens} ELSE 0 END)", INT, DIGITS, loose=loose(*terms))


def _elt(c: Compiler, terms: list[Term], name: str) -> Term:
    number, *values = terms
    whens = " ".join(f"WHEN {k} THEN {as_text(t)}" for k, t in enumerate(values, 1))
    return Term(f"(CASE {as_integer(number)} {whens} END)", STR, common_letters(values), loose=loose(*terms))


def _strcmp(c: Compiler, terms: list[Term], name: str) -> Term:
    a, b = (Term(as_text(t), STR, common_letters([t])) for t in terms)
    left, right = pair(a, b, False)
    sql = f"(CASE WHEN {left} = {right} THEN 0 WHEN {left} < {right} THEN -1 WHEN {left} > {right} THEN 1 END)"
    return Term(sql, INT, DIGITS, loose=loose(*terms))


def _round(c: Compiler, terms: list[Term], name: str) -> Term:
    """ROUND, TRUNCATE: integers stay integers, decimals have the decimals asked for, doubles are shown with them."""
    value, places = terms[0], terms[1] if len(terms) > 1 else Term("0", INT, literal=0)
    how = "cut" if name == "TRUNCATE" else "round"
    both = loose(*terms)
    if value.kind.name == "null":
        return Term("NULL", NULL, loose=both)
    if not isinstance(places.literal, (int, float)):
        raise NotExactError(f"{name}() to a number of decimals that is computed")
    n = dates.round_half(places.literal)
    number = as_number(value)
    if value.kind.name in ("int", "date", "dt", "time"):
        sql = number if n >= 0 else f"CAST({how}_exact({number}, {n}) AS INTEGER)"
        return Term(sql, INT, DIGITS, loose=both)
    if value.kind.name == "dec":
        shown = max(0, min(n, value.kind.scale or 0))
        if n >= (value.kind.scale or 0):
            return Term(number, dec(shown), DIGITS, loose=both, exact=value.exact)
        sql = f"{how}_exact({value.exact or number}, {n})"
        return Term(sql, dec(shown), DIGITS, loose=both, exact=f"{how}_text({value.exact or number}, {n})")
    return Term(f"{how}_double({number}, {n})", Kind("dbl", max(0, min(n, 30))), DIGITS, loose=both)


def _whole(c: Compiler, terms: list[Term], name: str) -> Term:
    (value,) = terms
    word = "floor" if name == "FLOOR" else "ceil"
    if value.kind.name == "int":
        return Term(value.sql, INT, DIGITS, loose=value.loose)
    sql = f"{word}({as_number(value)})"
    if value.kind.exact:
        return Term(f"CAST({sql} AS INTEGER)", INT, DIGITS, loose=value.loose)
    return Term(sql, Kind("dbl", 0), DIGITS, loose=value.loose)


def _abs(c: Compiler, terms: list[Term], name: str) -> Term:
    (value,) = terms
    kind = value.kind if value.kind.exact else Kind("dbl", value.kind.scale) if value.kind.number else DBL
    return Term(f"abs({as_number(value)})", kind, DIGITS, loose=value.loose)


def _format(c: Compiler, terms: list[Term], name: str) -> Term:
    if len(terms) > 2 and terms[2].literal != "en_US":
        raise NotExactError("FORMAT() with a locale")
    value, places, *_ = terms
    sql = f"format_number({as_number(value)}, {as_integer(places)}, {int(value.kind.exact)})"
    return Term(sql, STR, DIGITS | {","}, loose=loose(*terms))


def _hex(c: Compiler, terms: list[Term], name: str) -> Term:
    (value,) = terms
    sql = f"hex({as_text(value)})" if value.text else f"hex_number({as_integer(value)})"
    return Term(sql, STR, DIGITS | frozenset("ABCDEF"), loose=value.loose)


def word(term: Term) -> str:
    """An operand of bits: 64 of them."""
    if term.kind.name == "bin":
        raise NotExactError("An operator of bits on a binary string")
    return "NULL" if term.kind.name == "null" else signed(term) if not term.kind.unsigned else term.exact or term.sql


def binary(term: Term) -> Term:
    """A text as its bytes."""
    if term.kind.name == "bin":
        return term
    text = f"CAST({as_text(term)} AS BLOB)"
    return Term("NULL" if term.kind.name == "null" else text, BIN, literal=term.literal, loose=term.loose, binary=True)


def _str_to_date(c: Compiler, terms: list[Term], name: str) -> Term:
    text, form = terms
    kinds = {"date": DATE, "time": TIME, "dt": DATETIME}
    kind = kinds[dates.form_kind(form.literal)] if isinstance(form.literal, str) else DATETIME
    sql = f"str_to_date({as_text(text)}, {as_text(form)})"
    return Term(sql, kind, DIGITS, loose=loose(text, form))


def signed(term: Term) -> str:
    """CAST(... AS SIGNED): of text what it begins with, of decimals half away from zero."""
    if term.text:
        return f"text_integer({term.sql})"
    return as_integer(term)


def _unix_timestamp(c: Compiler, terms: list[Term], name: str) -> Term:
    """An integer, or of a text that may have a fraction a decimal."""
    whole = not terms or not terms[0].text
    if terms and isinstance(terms[0].literal, str):
        at = dates.moment(terms[0].literal)
        whole = at is not None and not at.micro
    if whole:
        return Term(f"unix_timestamp({', '.join(map(dated, terms))})", INT, DIGITS, loose=loose(*terms))
    return Term(f"unix_of_text({terms[0].sql})", dec(6), DIGITS, loose=terms[0].loose)


def _from_unixtime(c: Compiler, terms: list[Term], name: str) -> Term:
    sql = f"from_unixtime({as_number(terms[0])})"
    if len(terms) == 1:
        return Term(sql, DATETIME, DIGITS, loose=terms[0].loose)
    return Term(f"date_format({sql}, {as_text(terms[1])})", STR, PLAIN, loose=loose(*terms))


def _add_time(c: Compiler, terms: list[Term], name: str) -> Term:
    """ADDTIME, SUBTIME: of a date it makes a moment."""
    value, more = terms
    kind = {"time": TIME, "dt": DATETIME, "date": DATETIME}.get(value.kind.name, STR)
    side = clocked(value) if value.text or value.kind.temporal else as_text(value)
    sql = f"time_add({side}, {clocked(more)}, {1 if name == 'ADDTIME' else -1})"
    return Term(sql, kind, DIGITS, loose=loose(*terms))


def _timestamp(c: Compiler, terms: list[Term], name: str) -> Term:
    moment = f"as_datetime({dated(terms[0])})"
    if len(terms) == 2:
        moment = f"time_add({moment}, {clocked(terms[1])}, 1)"
    return Term(moment, DATETIME, DIGITS, loose=loose(*terms))


# Those that read their arguments themselves ---------------------------------------------------------------------------


def interval(c: Compiler, value: Term, node: exp.Interval, sign: int) -> Term:
    """A date plus an interval."""
    unit = node.args["unit"].name.upper() if node.args.get("unit") is not None else ""
    if unit not in dates.UNITS or node.this is None:
        raise NotExactError("An interval of that form")
    amount = c.single(node.this)
    count = as_text(amount) if amount.text else as_number(amount)
    if isinstance(node.this, exp.Literal) and re.fullmatch(r"\d*\.\d+", node.this.name):
        count = node.this.name  # sqlglot makes a text of a number
    kind, timed = STR, -1
    if value.kind.name in ("date", "dt"):
        timed = int(value.kind.name == "dt" or dates.timed_unit(unit))
        kind = DATETIME if timed else DATE
    elif value.kind.name == "time":
        if not dates.timed_unit(unit) or unit.startswith("DAY"):
            raise NotExactError("A time plus days")
        sql = f"time_plus({value.sql}, {count}, {constant(unit).sql}, {sign})"
        return Term(sql, TIME, DIGITS, loose=loose(value, amount))
    sql = f"date_add({dated(value)}, {count}, {constant(unit).sql}, {sign}, {timed})"
    return Term(sql, kind, DIGITS, loose=loose(value, amount))


def _date_add(sign: int) -> Callable[[Compiler, list[Node], Node], Term]:
    def build(c: Compiler, nodes: list[Node], node: Node) -> Term:
        if len(nodes) != 2:
            raise NotExactError("A date plus what is no interval")
        value = c.single(nodes[0])
        if not isinstance(nodes[1], exp.Interval):
            nodes[1] = exp.Interval(this=nodes[1], unit=exp.Var(this="DAY"))
        return interval(c, value, nodes[1], sign)

    return build


def is_unit(node: Node) -> bool:
    """Whether it is the first argument of TIMESTAMPDIFF or TIMESTAMPADD, which is no column."""
    call = node.parent
    return isinstance(call, exp.Anonymous) and call.name.upper() in _WITH_UNITS and node is call.expressions[0]


_WITH_UNITS = ("TIMESTAMPDIFF", "TIMESTAMPADD")


def _timestampdiff(c: Compiler, nodes: list[Node], node: Node) -> Term:
    if (unit := nodes[0].name.upper().removeprefix("SQL_TSI_")) not in dates.PLAIN_UNITS:
        raise NotExactError(f"TIMESTAMPDIFF() in {unit}")
    a, b = (c.single(n) for n in nodes[1:])
    sql = f"timestamp_diff({constant(unit).sql}, {dated(a)}, {dated(b)})"
    return Term(sql, INT, DIGITS, loose=loose(a, b))


def _timestampadd(c: Compiler, nodes: list[Node], node: Node) -> Term:
    if len(nodes) != 3:
        raise NotExactError("TIMESTAMPADD() of such arguments")
    made = exp.Interval(this=nodes[1], unit=exp.Var(this=nodes[0].name.removeprefix("SQL_TSI_")))
    return interval(c, c.single(nodes[2]), made, 1)


def _constant_date(text: str, kind: Kind) -> Callable[[Compiler, list[Node], Node], Term]:
    def build(c: Compiler, nodes: list[Node], node: Node) -> Term:
        return Term(f"'{text}'", kind, DIGITS)

    return build


def _database(c: Compiler, nodes: list[Node], node: Node) -> Term:
    return constant(c.schema.name)


def _position(c: Compiler, nodes: list[Node], node: Node) -> Term:
    if len(nodes) == 1 and isinstance(nodes[0], exp.In):
        nodes = [nodes[0].this, nodes[0].args.get("field") or nodes[0].expressions[0]]
    return call(c, "LOCATE", nodes, node)


def _as_operator(c: Compiler, nodes: list[Node]) -> Term:
    return c.single(exp.Mod(this=nodes[0], expression=nodes[1]))


_OF_NODES: dict[str, Callable[[Compiler, list[Node], Node], Term]] = {
    "DATE_ADD": _date_add(1),
    "ADDDATE": _date_add(1),
    "DATE_SUB": _date_add(-1),
    "SUBDATE": _date_add(-1),
    "TIMESTAMPDIFF": _timestampdiff,
    "TIMESTAMPADD": _timestampadd,
    **dict.fromkeys(
        ("NOW", "SYSDATE", "CURRENT_TIMESTAMP", "LOCALTIME", "LOCALTIMESTAMP"), _constant_date(_NOW, DATETIME)
    ),
    **dict.fromkeys(("CURDATE", "CURRENT_DATE", "UTC_DATE"), _constant_date(_TODAY, DATE)),
    **dict.fromkeys(("CURTIME", "CURRENT_TIME", "UTC_TIME"), _constant_date(_CLOCK, TIME)),
    "UTC_TIMESTAMP": _constant_date(_NOW, DATETIME),
    "DATABASE": _database,
    "SCHEMA": _database,
    "POSITION": _position,
    "MOD": lambda c, nodes, node: _as_operator(c, nodes),
}

_BUILT: dict[str, tuple[int, int, Built]] = {
    "CONCAT": (1, 30, _concat),
    "UPPER": (1, 1, _case_of),
    "UCASE": (1, 1, _case_of),
    "LOWER": (1, 1, _case_of),
    "LCASE": (1, 1, _case_of),
    "IF": (3, 3, _if),
    "IFNULL": (2, 2, _coalesce),
    "COALESCE": (1, 30, _coalesce),
    "NULLIF": (2, 2, _nullif),
    "ISNULL": (1, 1, _isnull),
    "GREATEST": (2, 30, _extreme),
    "LEAST": (2, 30, _extreme),
    "FIELD": (2, 30, _field),
    "ELT": (2, 30, _elt),
    "STRCMP": (2, 2, _strcmp),
    "ROUND": (1, 2, _round),
    "TRUNCATE": (2, 2, _round),
    "FLOOR": (1, 1, _whole),
    "CEIL": (1, 1, _whole),
    "CEILING": (1, 1, _whole),
    "ABS": (1, 1, _abs),
    "FORMAT": (2, 3, _format),
    "HEX": (1, 1, _hex),
    "BINARY": (1, 1, lambda c, terms, name: binary(terms[0])),
    "STR_TO_DATE": (2, 2, _str_to_date),
    "UNIX_TIMESTAMP": (0, 1, _unix_timestamp),
    "FROM_UNIXTIME": (1, 2, _from_unixtime),
    "ADDTIME": (2, 2, _add_time),
    "SUBTIME": (2, 2, _add_time),
    "TIMESTAMP": (1, 2, _timestamp),
}
