"""Calls of MySQL's functions.

See https://dev.mysql.com/doc/refman/8.0/en/built-in-function-reference.html. Decided here: `signatures` has
those that are computed whatever the types, `typed` those that decide by types, and here are those that read their
arguments themselves. A function of MySQL that is in neither is refused as not exact; any other name is a function that
does not exist.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from sqlglot import exp

from ipr.envs.sql import aggregates, dates, errors, signatures
from ipr.envs.sql.errors import MySqlError, NotExactError
from ipr.envs.sql.kinds import DATE, DATETIME, INT, LONG, STR, TIME, Kind
from ipr.envs.sql.operands import CLOCK, NOW, TODAY, dated
from ipr.envs.sql.signatures import TABLE
from ipr.envs.sql.terms import (
    DIGITS,
    Term,
    as_number,
    as_text,
    constant,
    loose,
    quoted,
)
from ipr.envs.sql.typed import BUILT
from ipr.envs.sql.words import AGGREGATES, COUNTS, NATIVE

if TYPE_CHECKING:
    from ipr.envs.sql.select import Compiler

Node = exp.Expr


def call(c: Compiler, name: str, nodes: list[Node], node: Node) -> Term:
    """A call by its name in upper case."""
    if name in AGGREGATES:
        return aggregates.aggregate(c, name, nodes)
    if name in _OF_NODES:
        return _OF_NODES[name](c, nodes, node)
    if name in BUILT:
        return BUILT[name][2](c, [c.single(n) for n in nodes], name)
    if name in TABLE:
        function, kind, codes = TABLE[name]
        terms = [c.single(n) for n in nodes]
        codes = codes.lower().rstrip("*")
        codes += codes[-1:] * (len(terms) - len(codes))
        sides = [signatures.AS[code](term) for code, term in zip(codes, terms, strict=False)]
        sql = f"{function}({', '.join(sides)})"
        if name in signatures.VAST:
            sql = f"finite({sql}, {quoted(printed(c, node))})"
        return Term(sql, kind, signatures.letters(kind, terms), loose=loose(*terms))
    if name in NATIVE:
        raise NotExactError(f"{name}()")
    raise errors.no_function(c.schema.name, node.name)


def check_arguments(node: Node) -> None:
    """Raises MySqlError where a function of MySQL is given more or fewer arguments than it takes."""
    name = node.name.upper()
    least, most = (
        BUILT[name][:2] if name in BUILT else signatures.counts(name) if name in TABLE else COUNTS.get(name, _ANY)
    )
    if isinstance(node.parent, exp.Dot):
        return
    if any(isinstance(n, exp.Alias) for n in node.expressions):  # TRY_CAST(a AS ...)
        if any(name in known for known in (AGGREGATES, _OF_NODES, BUILT, TABLE, NATIVE)):
            raise MySqlError(f"Incorrect parameters in the call to native function '{name.lower()}'")
        raise MySqlError(f"Incorrect parameters in the call to stored function `{node.name.rstrip()}`")
    if not least <= len(node.expressions) <= most:
        raise errors.arguments(node.name)


def check_known(c: Compiler, node: Node) -> None:
    """Raises MySqlError for a function that does not exist, which comes before what is wrong with its arguments."""
    if not isinstance(node, exp.Anonymous):
        return
    name = node.name.upper()
    if isinstance(node.parent, exp.Dot) and node.parent.expression is node:
        raise errors.no_function(node.parent.this.name.lower(), node.name)
    if not any(name in known for known in (AGGREGATES, _OF_NODES, BUILT, TABLE, NATIVE, ("ROW",))):
        raise errors.no_function(c.schema.name, node.name)


_ANY = (0, 1000)


def printed(c: Compiler, node: Node) -> str:
    """An expression as the server prints it where it leaves its type's range: (1e308 * 10), pow(10,400)."""
    if isinstance(node, exp.Paren):
        return printed(c, node.this)
    if isinstance(node, exp.Column):
        try:
            found, _ = c.scope.find(node.name, node.text("table"), node.text("db"), c.clause)
        except MySqlError:  # a name of the select list
            return f"`{node.name}`"
        table = found.source.alias.lower()
        base = found.source.table
        parts = [found.source.database.lower()] if base is not None and base.name in c.schema.names else []
        return ".".join(f"`{part}`" for part in (*parts, table, found.name))
    if isinstance(node, exp.Anonymous):
        name, inner = str(node.this).lower(), [printed(c, n) for n in node.expressions]
        if name == "mod" and len(inner) == 2:
            return f"({' % '.join(inner)})"
        inner += ["0"] * (name == "round" and len(inner) == 1)
        return f"{_PRINTED.get(name, name)}({','.join(inner)})"
    if (sign := _SIGNS.get(type(node))) is not None:
        return f"({printed(c, node.this)} {sign} {printed(c, node.expression)})"
    if isinstance(node, exp.Cast):
        word = node.args["to"].sql(dialect="mysql").lower()
        return f"cast({printed(c, node.this)} as {'unsigned' if 'unsigned' in word else word})"
    if isinstance(node, exp.Neg):
        return f"-({printed(c, node.this)})"
    return node.sql(dialect="mysql")


_SIGNS: dict[type, str] = {exp.Add: "+", exp.Sub: "-", exp.Mul: "*", exp.Div: "/", exp.IntDiv: "DIV", exp.Mod: "%"}
_PRINTED = {"power": "pow", "ceil": "ceiling"}


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
    return Term(sql, LONG, DIGITS, loose=loose(a, b))


def _timestampadd(c: Compiler, nodes: list[Node], node: Node) -> Term:
    if len(nodes) != 3:
        raise NotExactError("TIMESTAMPADD() of such arguments")
    made = exp.Interval(this=nodes[1], unit=exp.Var(this=nodes[0].name.removeprefix("SQL_TSI_")))
    return interval(c, c.single(nodes[2]), made, 1)


def _constant(sql: str, kind: Kind) -> Callable[[Compiler, list[Node], Node], Term]:
    def build(c: Compiler, nodes: list[Node], node: Node) -> Term:
        return Term(sql, kind, DIGITS)

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
        ("NOW", "SYSDATE", "CURRENT_TIMESTAMP", "LOCALTIME", "LOCALTIMESTAMP"), _constant(f"'{NOW}'", DATETIME)
    ),
    **dict.fromkeys(("CURDATE", "CURRENT_DATE", "UTC_DATE"), _constant(f"'{TODAY}'", DATE)),
    **dict.fromkeys(("CURTIME", "CURRENT_TIME", "UTC_TIME"), _constant(f"'{CLOCK}'", TIME)),
    "UTC_TIMESTAMP": _constant(f"'{NOW}'", DATETIME),
    "DATABASE": _database,
    "SCHEMA": _database,
    "POSITION": _position,
    "LAST_INSERT_ID": _constant("0", INT),
    "MOD": lambda c, nodes, node: _as_operator(c, nodes),
}
