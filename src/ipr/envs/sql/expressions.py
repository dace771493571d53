"""Expressions of MySQL as SQLite's, with MySQL's types: operators, comparisons, CASE, CAST and nested queries.

Decided here: what is not known to give MySQL's value is refused (`NotExactError`); there is no way around. Comparing
is `terms.pair`, functions are `calls`, aggregates `aggregates`; a nested query is compiled by the `Compiler` that is
passed along.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from sqlglot import exp

from ipr.envs.sql import aggregates, calls, comparisons, dates, errors, grouping, operands, windows
from ipr.envs.sql.errors import MySqlError, NotExactError
from ipr.envs.sql.kinds import BIN, COUNTED, DATE, DATETIME, DBL, INT, LONG, NULL, STR, TIME, UNSIGNED, Kind, dec
from ipr.envs.sql.names import Field
from ipr.envs.sql.terms import (
    DIGITS,
    Term,
    as_number,
    as_text,
    choice,
    compared,
    constant,
    exactly,
    kept,
    loose,
    quoted,
    truth,
)
from ipr.envs.sql.words import CHARSETS, COLLATIONS

if TYPE_CHECKING:
    from ipr.envs.sql.select import Compiler

Node = exp.Expr


def compile_expression(c: Compiler, node: Node) -> Term:
    """An expression in the clause and scope that the compiler is in."""
    if isinstance(node, exp.Alias):  # no expression but a column of the select list has a name
        raise NotExactError("A name inside an expression")
    compiled = _COMPILED.get(type(node))
    if compiled is None:
        raise NotExactError(f"{type(node).__name__.upper()}")
    check_parts(node)
    return c.grouped(compiled(c, node))


def check_parts(node: Node) -> None:
    """Refuses what a node holds in another dialect's words, which must not be overlooked."""
    for part, value in node.args.items():
        if value and part not in _PARTS and part not in _PARTS_OF.get(type(node), ()):
            raise NotExactError(f"{type(node).__name__.upper()} with {part}")


def single(c: Compiler, node: Node) -> Term:
    """An expression that must be one value."""
    term = compile_expression(c, node)
    if term.parts:
        raise errors.operand(1)
    return term


# Constants and names ------------------------------------------------------------------------------------------------


def _literal(c: Compiler, node: Node) -> Term:
    text = node.this
    if node.args.get("is_string"):
        return constant(text)
    if not _NUMBER.fullmatch(text):
        raise NotExactError("A number of that form")  # sqlglot reads 1e0+1 as one
    if "e" in text.lower():
        if math.isinf(float(text)):
            raise MySqlError(f"Illegal double '{text}' value found during parsing")
        return Term(repr(float(text)), DBL, DIGITS, float(text))
    if "." in text:
        whole, _, decimals = text.partition(".")
        if len(whole.lstrip("0")) + len(decimals) > 65 or len(decimals) > 30:
            raise NotExactError("A decimal of so many digits")
        said = f"{whole or '0'}.{decimals or '0'}"
        long = len(whole.lstrip("0")) + len(decimals) > 15
        return Term(said, dec(len(decimals), len(whole)), DIGITS, float(text), exact=quoted(said) if long else "")
    if len(text) > 18 and int(text) >= 2**63:
        raise NotExactError("An integer of so many digits")
    return Term(str(int(text)), replace(INT, whole=len(text)), DIGITS, int(text))


_NUMBER = re.compile(r"(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")


def _digits(base: int) -> Callable[[Compiler, Node], Term]:
    """X'4B', 0x4B and b'101': bytes, which are a number in arithmetic."""

    def compiled(c: Compiler, node: Node) -> Term:
        digits = str(node.this)
        value = int(digits or "0", base)
        size = (len(digits) * (4 if base == 16 else 1) + 7) // 8
        if size > 7:
            raise NotExactError("So many bytes")
        return Term(f"x'{value.to_bytes(size, 'big').hex()}'", BIN, literal=value, binary=True)

    return compiled


def _introduced(c: Compiler, node: Node) -> Term:
    if str(node.this).lower() not in ("_utf8mb4", "_utf8mb3", "_utf8") or not isinstance(node.expression, exp.Literal):
        raise NotExactError(f"{node.this}")
    return constant(node.expression.name)


def _interval(c: Compiler, node: Node) -> Term:
    """INTERVAL(23, 1, 15, 17): how many of the others the first is not less than."""
    if not isinstance(node.this, exp.Tuple) or node.args.get("unit") is not None:
        raise NotExactError("INTERVAL")
    terms = [single(c, n) for n in node.this.expressions]
    first, *others = map(as_number, terms)
    whens = " ".join(f"WHEN {first} < {other} THEN {k}" for k, other in enumerate(others))
    sql = f"(CASE WHEN {first} IS NULL THEN -1 {whens} ELSE {len(others)} END)"
    return Term(sql, INT, DIGITS, loose=loose(*terms))


def _column(c: Compiler, node: Node) -> Term:
    if isinstance(node.this, exp.Star):
        raise NotExactError("A star inside an expression")
    return c.column(node)


def _paren(c: Compiler, node: Node) -> Term:
    term = compile_expression(c, node.this)
    if not term.parts:
        term.sql = term.sql if term.field is not None else f"({term.sql})"
    return term


def _row(c: Compiler, node: Node) -> Term:
    parts = tuple(single(c, e) for e in node.expressions)
    return Term("", NULL, loose=loose(*parts), parts=parts)


# Operators ----------------------------------------------------------------------------------------------------------


def _numbers(c: Compiler, node: Node) -> tuple[Term, Term, str, str]:
    a, b = (operands.counted(single(c, n)) for n in (node.this, node.expression))
    return a, b, as_number(a), as_number(b)


def _scale(kind: Kind) -> int | None:
    """Decimals of a term in arithmetic; None for what is computed as a double that is shown in full."""
    return kind.decimals if kind.name in ("int", "dec", "date", "dt", "time") else None


def _plus(sign: str) -> Callable[[Compiler, Node], Term]:
    def compiled(c: Compiler, node: Node) -> Term:
        for one, other in ((node.this, node.expression), (node.expression, node.this)):
            if isinstance(other, exp.Interval):
                value = single(c, one)
                return calls.interval(c, value, other, 1 if sign == "+" else -1)
        a, b, left, right = _numbers(c, node)
        return _arithmetic(c, node, f"{left} {sign} {right}", sign, a, b, max)

    return compiled


def _arithmetic(
    c: Compiler, node: Node, sql: str, sign: str, a: Term, b: Term, scale: Callable[[int, int], int]
) -> Term:
    """The type of a sum or product: integer, decimal, or double, whose decimals are kept where both have some."""
    known = [a.kind.decimals if a.kind.name != "str" else None, b.kind.decimals if b.kind.name != "str" else None]
    both = loose(a, b)
    if "null" in (a.kind.name, b.kind.name):
        return Term("NULL", NULL, loose=both)
    if (a.kind.exact and b.kind.exact) or ((a.kind.temporal or b.kind.temporal) and None not in known):
        first, second = known[0] or 0, known[1] or 0
        whole = a.kind.whole + b.kind.whole if sign == "*" else max(a.kind.whole, b.kind.whole) + 1
        if not first and not second and "dec" not in (a.kind.name, b.kind.name):
            if a.kind.unsigned or b.kind.unsigned:
                return Term(f"natural_number({sql}, {quoted(calls.printed(c, node))})", UNSIGNED, DIGITS, loose=both)
            return Term(f"({sql})", replace(COUNTED, whole=whole), DIGITS, loose=both)
        places = min(scale(first, second), 30)
        sql = f"round({sql}, {kept(places)})" if places else f"({sql})"
        return Term(sql, dec(places, whole), DIGITS, loose=both, exact=exactly(sign, a, b))
    shown = None if None in known else max(known[0] or 0, known[1] or 0)
    return Term(_finite(c, node, sql), Kind("dbl", shown), DIGITS, loose=both)


def _finite(c: Compiler, node: Node, sql: str) -> str:
    return f"finite({sql}, {quoted(calls.printed(c, node))})"


def _times(c: Compiler, node: Node) -> Term:
    a, b, left, right = _numbers(c, node)
    return _arithmetic(c, node, f"{left} * {right}", "*", a, b, lambda x, y: x + y)


def _divide(c: Compiler, node: Node) -> Term:
    a, b, left, right = _numbers(c, node)
    sql = f"(CAST({left} AS REAL) / {right})"
    both = loose(a, b)
    if "null" in (a.kind.name, b.kind.name):
        return Term("NULL", NULL, loose=both)
    if _scale(a.kind) is not None and _scale(b.kind) is not None:
        places = (_scale(a.kind) or 0) + 4
        kind = dec(places, a.kind.whole + (_scale(b.kind) or 0))
        return Term(sql, kind, DIGITS, loose=both, exact=exactly("/", a, b))
    known = [t.kind.decimals if t.kind.name != "str" else None for t in (a, b)]
    shown = None if None in known else max(known[0] or 0, known[1] or 0) + 4
    return Term(_finite(c, node, sql), Kind("dbl", shown), DIGITS, loose=both)


def _whole_divide(c: Compiler, node: Node) -> Term:
    a, b, left, right = _numbers(c, node)
    if a.kind.name == b.kind.name == "int":
        if a.kind.unsigned or b.kind.unsigned:
            sql = f"natural_number({left} / {right}, {quoted(calls.printed(c, node))})"
            return Term(sql, UNSIGNED, DIGITS, loose=loose(a, b))
        return Term(f"({left} / {right})", COUNTED, DIGITS, loose=loose(a, b))
    sql = f"whole({left}, {right}, {quoted(calls.printed(c, node))})"
    return Term(sql, COUNTED, DIGITS, loose=loose(a, b))


def _modulo(c: Compiler, node: Node) -> Term:
    a, b, left, right = _numbers(c, node)
    both = loose(a, b)
    if "null" in (a.kind.name, b.kind.name):
        return Term("NULL", NULL, loose=both)
    if all(t.kind.name == "int" or t.kind.temporal for t in (a, b)):
        return Term(f"({left} % {right})", UNSIGNED if a.kind.unsigned else INT, DIGITS, loose=both)
    if a.kind.exact and b.kind.exact:
        places = max(a.kind.scale or 0, b.kind.scale or 0)
        return Term(f"round(modulo({left}, {right}), {places})", dec(places), DIGITS, loose=both)
    known = [t.kind.decimals if t.kind.number else None for t in (a, b)]
    shown = None if None in known else max(known[0] or 0, known[1] or 0)
    return Term(f"modulo({left}, {right})", Kind("dbl", shown), DIGITS, loose=both)


def _negative(c: Compiler, node: Node) -> Term:
    a = single(c, node.this)
    literal = -a.literal if isinstance(a.literal, (int, float)) else None
    if a.kind.name == "null":
        return Term("NULL", NULL, loose=a.loose)
    if a.kind.exact:
        kind = COUNTED if a.kind.name == "int" and literal is None else a.kind
        if literal is not None and literal > 0 and a.kind.name == "int":
            kind = dec(0)  # the server negates a negative constant as a decimal
        return Term(f"(- {as_number(a)})", kind, DIGITS, literal, loose=a.loose)
    return Term(f"(-1.0 * {as_number(a)})", Kind("dbl", a.kind.scale), DIGITS, literal, loose=a.loose)


def _bits(sign: str) -> Callable[[Compiler, Node], Term]:
    def compiled(c: Compiler, node: Node) -> Term:
        a, b = single(c, node.this), single(c, node.expression)
        return _unsigned(f"bits('{sign}', {operands.word(a)}, {operands.word(b)})", loose(a, b))

    return compiled


def _inverted(c: Compiler, node: Node) -> Term:
    a = single(c, node.this)
    return _unsigned(f"(~ {operands.word(a)})", a.loose)


def _unsigned(sql: str, loose: tuple[Field, ...]) -> Term:
    """BIGINT UNSIGNED: what is negative to SQLite has all 64 bits, with which it cannot compute."""
    return Term(f"unsigned({sql})", UNSIGNED, DIGITS, loose=loose, exact=sql)


def _connect(word: str) -> Callable[[Compiler, Node], Term]:
    def compiled(c: Compiler, node: Node) -> Term:
        nodes = []
        while type(node) is (exp.And if word == "AND" else exp.Or):  # a long chain without a long recursion
            nodes.append(node.expression)
            node = node.this
        terms = [single(c, n) for n in (node, *reversed(nodes))]
        return Term(f"({f' {word} '.join(map(truth, terms))})", INT, DIGITS, loose=loose(*terms))

    return compiled


def _xor(c: Compiler, node: Node) -> Term:
    a, b = single(c, node.this), single(c, node.expression)
    return Term(f"((({truth(a)}) <> 0) <> (({truth(b)}) <> 0))", INT, DIGITS, loose=loose(a, b))


def _not(c: Compiler, node: Node) -> Term:
    a = single(c, node.this)
    return Term(f"(NOT {truth(a)})", INT, DIGITS, loose=a.loose)


def _is(c: Compiler, node: Node) -> Term:
    a = single(c, node.this)
    if isinstance(node.expression, exp.Boolean):
        word = "TRUE" if node.expression.this else "FALSE"
        return Term(f"({truth(a)} IS {word})", INT, DIGITS, loose=a.loose)
    if not isinstance(node.expression, exp.Null):
        raise NotExactError("IS")
    return Term(f"({a.sql} IS NULL)", INT, DIGITS, loose=a.loose)


# Choices and conversions --------------------------------------------------------------------------------------------


def _case(c: Compiler, node: Node) -> Term:
    base = single(c, node.this) if node.this is not None else None
    tests, values = [], []
    asked = [single(c, branch.this) for branch in node.args["ifs"]]
    if base is not None:
        asked = comparisons.with_dates(base, asked)
    for branch, test in zip(node.args["ifs"], asked, strict=True):
        tests.append(Term(truth(test), INT, loose=test.loose) if base is None else compared(base, "=", test))
        values.append(single(c, branch.args["true"]))
    default = node.args.get("default")
    values.append(single(c, default) if default is not None else Term("NULL", NULL))

    def build(sides: list[str]) -> str:
        whens = [f"WHEN {t.sql} THEN {v}" for t, v in zip(tests, sides[:-1], strict=True)]
        return f"(CASE {' '.join(whens)} ELSE {sides[-1]} END)"

    return choice(values, build, *tests, own=True)


def _cast(c: Compiler, node: Node) -> Term:
    term = single(c, node.this)
    to = node.args["to"]
    word = to.this.name if isinstance(to, exp.DataType) else str(to).upper()
    sizes = [int(p.name) for p in to.expressions] if isinstance(to, exp.DataType) else []
    if word == "CHARACTER_SET":
        charset = str(to.args.get("kind")).lower()
        known = charset in ("utf8mb4", "utf8mb3", "utf8") or (
            charset in ("latin1", "ascii") and term.letters is not None
        )
        if not known or term.kind.name == "bin":
            raise NotExactError(f"A text in {charset}")
        word = "CHAR"
    if word in ("DECIMAL", "UDECIMAL") and sizes:
        _check_decimal(c, node.this, *sizes)
    if term.kind.name == "null":
        return Term("NULL", NULL, loose=term.loose)
    return cast(term, word, sizes)


def _check_decimal(c: Compiler, node: Node, precision: int, scale: int = 0) -> None:
    said = node.name if isinstance(node, exp.Column) else calls.printed(c, node)
    if scale > 30:
        raise MySqlError(f"Too big scale {scale} specified for '{said}'. Maximum is 30.")
    if precision > 65:
        raise MySqlError(f"Too-big precision {precision} specified for '{said}'. Maximum is 65.")
    if precision < scale:
        raise MySqlError("For float(M,D), double(M,D) or decimal(M,D), M must be >= D (column '').")


def cast(term: Term, word: str, sizes: list[int]) -> Term:
    """CAST: half away from zero, text by what it begins with."""
    match word:
        case "BIGINT" | "INT" | "SIGNED":
            return Term(operands.signed(term), LONG, DIGITS, loose=term.loose)
        case "UBIGINT" | "UINT" | "UNSIGNED":
            return _unsigned(operands.signed(term), term.loose)
        case "DECIMAL" | "UDECIMAL":
            precision, scale = (*sizes, *(10, 0)[len(sizes) :])
            arguments = (
                f"{term.exact if term.kind.name == 'dec' and term.exact else as_number(term)}, {precision}, {scale}"
            )
            exact = f"decimal_text({arguments})" if precision > 15 else ""
            return Term(
                f"to_decimal({arguments})", dec(scale, precision - scale), DIGITS, loose=term.loose, exact=exact
            )
        case "DOUBLE":
            return Term(f"CAST({as_number(term)} AS REAL)", DBL, DIGITS, loose=term.loose)
        case "FLOAT":
            return Term(f"single({as_number(term)})", Kind("flt"), DIGITS, loose=term.loose)
        case "CHAR" | "TEXT" | "VARCHAR" | "NCHAR":
            text = as_text(term)
            letters = term.letters if term.text else DIGITS
            sql = f"substr({text}, 1, {sizes[0]})" if sizes else f"({text})"
            return Term(sql, STR, letters, loose=term.loose)
        case "DATE":
            return Term(f"as_date({operands.dated(term)})", DATE, DIGITS, loose=term.loose)
        case "DATETIME" | "TIMESTAMP" | "TIMESTAMPTZ":  # the last is sqlglot's word for TIMESTAMP '...'
            return Term(
                f"as_datetime({operands.dated(term)}, {sizes[0] if sizes else 0})", DATETIME, DIGITS, loose=term.loose
            )
        case "YEAR":
            return Term(f"as_year({operands.dated(term)})", INT, DIGITS, loose=term.loose)
        case "TIME":
            return Term(
                f"as_time({operands.clocked(term)}, {sizes[0] if sizes else 0})", TIME, DIGITS, loose=term.loose
            )
        case "BINARY" | "VARBINARY":
            found = operands.binary(term)
            if sizes:
                found.sql = f"padded({found.sql}, {sizes[0]})"
            return found
    raise NotExactError(f"CAST to {word}")


def _collate(c: Compiler, node: Node) -> Term:
    term = single(c, node.this)
    name = node.expression.name.lower()
    if name in ("utf8mb4_0900_ai_ci", "utf8mb4_bin", "utf8mb4_0900_bin", "utf8mb4_0900_as_cs") and term.text:
        if name.endswith("as_cs"):
            raise NotExactError(f"COLLATE {name}")
        kind = term.kind.plain
        return Term(term.sql, kind, term.letters, term.literal, term.loose, name.endswith("bin"))
    name = re.sub(r"^utf8_", "utf8mb3_", name)
    if name in COLLATIONS:
        raise MySqlError(f"COLLATION '{name}' is not valid for CHARACTER SET 'utf8mb4'")
    if name.split("_")[0] not in CHARSETS:
        raise MySqlError(f"Unknown collation: '{node.expression.name}'")
    raise NotExactError(f"COLLATE {name}")


def _function(c: Compiler, node: Node) -> Term:
    if node.name.upper() == "ROW":
        return _row(c, node)
    calls.check_known(c, node)
    if node.name.upper() == "GROUPING":
        return grouping.summed_up(c, node.expressions)
    return calls.call(c, node.name.upper(), node.expressions, node)


def _dot(c: Compiler, node: Node) -> Term:
    if isinstance(node.expression, exp.Anonymous):
        calls.check_known(c, node.expression)
    raise NotExactError("DOT")


def _substring(c: Compiler, node: Node) -> Term:
    found = [node.this, node.args.get("start"), node.args.get("length")]
    return calls.call(c, "SUBSTRING", [a for a in found if a is not None], node)


def _trim(c: Compiler, node: Node) -> Term:
    side = (node.args.get("position") or "BOTH").upper()
    arguments = [a for a in (node.this, node.expression) if a is not None]
    return calls.call(
        c, {"BOTH": "TRIM", "LEADING": "TRIM LEADING", "TRAILING": "TRIM TRAILING"}[side], arguments, node
    )


def _extract(c: Compiler, node: Node) -> Term:
    unit, value = node.this.name.upper(), single(c, node.expression)
    if unit not in dates.UNITS:
        raise NotExactError("EXTRACT() of such a part")
    side = operands.clocked(value) if unit in ("HOUR", "MINUTE", "SECOND", "MICROSECOND") else operands.dated(value)
    return Term(f"date_part({constant(unit).sql}, {side})", INT, DIGITS, loose=value.loose)


def _match(c: Compiler, node: Node) -> Term:
    for one in (*node.expressions, node.this):
        single(c, one)
    raise MySqlError("Can't find FULLTEXT index matching the column list")


_COMPILED: dict[type, Callable[[Compiler, Node], Term]] = {
    exp.Literal: _literal,
    exp.National: lambda c, n: constant(str(n.this)),
    exp.Introducer: _introduced,
    exp.HexString: _digits(16),
    exp.BitString: _digits(2),
    exp.Interval: _interval,
    exp.Concat: lambda c, n: constant("".join(e.name for e in n.expressions)),
    exp.Boolean: lambda c, n: Term("1" if n.this else "0", INT, DIGITS, int(bool(n.this))),
    exp.Null: lambda c, n: Term("NULL", NULL, DIGITS),
    exp.Column: _column,
    exp.Paren: _paren,
    exp.Tuple: _row,
    exp.Add: _plus("+"),
    exp.Sub: _plus("-"),
    exp.Mul: _times,
    exp.Div: _divide,
    exp.IntDiv: _whole_divide,
    exp.Mod: _modulo,
    exp.Neg: _negative,
    exp.BitwiseAnd: _bits("&"),
    exp.BitwiseOr: _bits("|"),
    exp.BitwiseXor: _bits("^"),
    exp.BitwiseNot: _inverted,
    exp.BitwiseLeftShift: _bits("<<"),
    exp.BitwiseRightShift: _bits(">>"),
    exp.And: _connect("AND"),
    exp.Or: _connect("OR"),
    exp.Xor: _xor,
    exp.Not: _not,
    exp.Is: _is,
    exp.EQ: comparisons.compare("="),
    exp.NEQ: comparisons.compare("<>"),
    exp.NullSafeEQ: comparisons.compare("IS"),
    exp.LT: comparisons.compare("<"),
    exp.LTE: comparisons.compare("<="),
    exp.GT: comparisons.compare(">"),
    exp.GTE: comparisons.compare(">="),
    exp.Between: comparisons.between,
    exp.In: comparisons.in_,
    exp.Exists: comparisons.exists,
    exp.Subquery: comparisons.subquery,
    exp.Select: comparisons.subquery,
    exp.Like: comparisons.like,
    exp.Escape: comparisons.like,
    exp.RegexpLike: comparisons.regexp,
    exp.Case: _case,
    exp.Cast: _cast,
    exp.Collate: _collate,
    exp.Anonymous: _function,
    exp.Dot: _dot,
    exp.Substring: _substring,
    exp.Trim: _trim,
    exp.Extract: _extract,
    exp.CurrentDate: lambda c, n: calls.call(c, "CURRENT_DATE", [], n),
    exp.CurrentTime: lambda c, n: calls.call(c, "CURRENT_TIME", [], n),
    exp.CurrentTimestamp: lambda c, n: calls.call(c, "CURRENT_TIMESTAMP", [], n),
    exp.Localtime: lambda c, n: calls.call(c, "LOCALTIME", [], n),
    exp.Localtimestamp: lambda c, n: calls.call(c, "LOCALTIMESTAMP", [], n),
    exp.MatchAgainst: _match,
    exp.Soundex: lambda c, n: calls.call(c, "SOUNDEX", [n.this], n),
    exp.Window: windows.window,
    exp.GroupConcat: aggregates.group_concat,
}
_PARTS = frozenset(("this", "expression", "expressions"))
_PARTS_OF: dict[type, tuple[str, ...]] = {
    exp.Literal: ("is_string",),
    exp.Column: ("table", "db"),
    exp.Div: ("typed", "safe"),
    exp.Between: ("low", "high"),
    exp.In: ("query",),
    exp.Like: ("negate",),
    exp.Case: ("ifs", "default"),
    exp.Cast: ("to", "_type"),
    exp.Substring: ("start", "length"),
    exp.Trim: ("position",),
    exp.MatchAgainst: ("modifier",),
    exp.Window: ("partition_by", "order", "spec", "over", "alias"),
    exp.GroupConcat: ("separator",),
    exp.Subquery: ("with_", "order", "limit", "offset"),
    exp.Select: (
        "from_",
        "joins",
        "where",
        "group",
        "having",
        "order",
        "limit",
        "offset",
        "distinct",
        "with_",
        "kind",
        "operation_modifiers",
        "locks",
        "windows",
    ),
}
"""What a node of a kind may hold beside these."""
