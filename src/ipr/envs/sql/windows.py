"""Window functions: OVER, named windows and frames.

See https://dev.mysql.com/doc/refman/8.0/en/window-functions.html. Left out: frames that are measured in time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlglot import exp

from ipr.envs.sql import aggregates, errors
from ipr.envs.sql.errors import MySqlError, NotExactError
from ipr.envs.sql.kinds import DBL, LONG
from ipr.envs.sql.terms import DIGITS, Term, as_integer, choice, group_key, loose, order_key
from ipr.envs.sql.words import AGGREGATES

if TYPE_CHECKING:
    from ipr.envs.sql.select import Compiler

Node = exp.Expr
_RANKS = {
    "ROW_NUMBER": LONG, "RANK": LONG, "DENSE_RANK": LONG, "NTILE": LONG, "PERCENT_RANK": DBL, "CUME_DIST": DBL,
}  # fmt: skip
_FUNCTIONS = (*_RANKS, "LAG", "LEAD", "FIRST_VALUE", "LAST_VALUE", "NTH_VALUE")
_UNNAMED = "<unnamed window>"


def window(c: Compiler, node: Node) -> Term:
    if isinstance(node.this, exp.IgnoreNulls):
        raise MySqlError(_unsupported("IGNORE NULLS"))
    if isinstance(node.this, exp.GroupConcat):
        raise MySqlError(_unsupported("group_concat as window function"))
    if not isinstance(node.this, exp.Anonymous):
        raise NotExactError("Such a window function")
    name, nodes = str(node.this.this).upper(), node.this.expressions
    if c.clause.startswith("window "):
        raise MySqlError(f"You cannot nest a window function in the specification of window '{_UNNAMED}'.")
    if c.clause not in ("field list", "order clause") or c.frame.depth:
        raise MySqlError(f"You cannot use the window function '{name.lower()}' in this context.'")
    if any(isinstance(n, exp.Distinct) for n in nodes):
        raise MySqlError(errors.WINDOW_DISTINCT)
    if name not in _FUNCTIONS and name not in AGGREGATES:
        raise NotExactError(f"{name}() OVER")
    if name in AGGREGATES:
        terms, _ = aggregates.arguments(c, name, nodes)
        return aggregates.computed(name, "", terms, f" OVER ({_over(c, node)})")
    terms = [c.single(n) for n in nodes]
    over = f" OVER ({_over(c, node)})"
    call = name.lower()
    if name in _RANKS:
        if name == "NTILE" and terms and (terms[0].literal == 0 or terms[0].literal is None):
            raise MySqlError("Incorrect arguments to ntile")
        return Term(f"{call}({', '.join(map(as_integer, terms))}){over}", _RANKS[name], DIGITS, loose=loose(*terms))
    if len(terms) > 1 and not (isinstance(terms[1].literal, int) and terms[1].literal >= 0):
        raise NotExactError(f"{name}() with such an offset")
    offset = [t.sql for t in terms[1:2]]
    found = choice([terms[0], *terms[2:]], lambda sides: f"{call}({', '.join([sides[0], *offset, *sides[1:]])}){over}")
    found.field = None
    return found


def _unsupported(what: str) -> str:
    return f"This version of MySQL doesn't yet support '{what}'"


def _over(c: Compiler, node: Node) -> str:
    """What stands in OVER's parentheses, in SQLite's words."""
    parts, order, spec = _parts(c, node)
    said, terms, sorting = [], [], []
    clause = c.frame.clause
    try:
        if parts:
            c.frame.clause = "window partition by"
            terms = [c.single(p) for p in parts]
            said.append("PARTITION BY " + ", ".join(map(group_key, terms)))
            sorting += map(order_key, terms)
        if order:
            c.frame.clause = "window order by"
            found = [c.single(o.this) for o in order]
            keys = [order_key(t) + (" DESC" if o.args.get("desc") else "") for t, o in zip(found, order, strict=True)]
            said.append("ORDER BY " + ", ".join(keys))
            terms += found
            sorting += keys
    finally:
        c.frame.clause = clause
    if sorting:
        c.frame.windows[tuple(sorting)] = None
    c.frame.sorted += [(n, f"'{_UNNAMED}'", t) for n, t in enumerate(terms, 1)]
    if spec is not None:
        start, end = (
            f"{_bound(spec.args.get(k))} {spec.args.get(f'{k}_side') or ''}".strip() for k in ("start", "end")
        )
        if spec.args["kind"] == "GROUPS":
            raise MySqlError(_unsupported("GROUPS"))
        said.append(f"{spec.args['kind']} BETWEEN {start} AND {end or 'CURRENT ROW'}")
    return " ".join(said)


def _parts(c: Compiler, node: Node) -> tuple[list[Node], list[Node], Node | None]:
    """PARTITION BY, ORDER BY and the frame, with those of the window that it names."""
    order = node.args.get("order")
    own: list[Node] = list(node.args.get("partition_by") or ())
    sorted_by: list[Node] = list(order.expressions) if order is not None else []
    spec, name = node.args.get("spec"), node.args.get("alias")
    if name is None:
        return own, sorted_by, spec
    named = next((w for w in _named(c) if w.this.name.lower() == name.name.lower()), None)
    if named is None:
        raise MySqlError(f"Window name '{name.name}' is not defined.")
    parts, sorting, frame = _parts(c, named)
    if sorted_by and sorting:
        raise MySqlError(f"Window '{_UNNAMED}' cannot inherit '{name.name}' since both contain an ORDER BY clause.")
    return parts, sorted_by or sorting, spec or frame


def sorts(node: Node) -> bool:
    """Whether it stands in OVER's parentheses."""
    while (around := node.parent) is not None and not isinstance(around, exp.Query):
        if isinstance(around, exp.Window):
            return node is not around.this
        node = around
    return False


def _named(c: Compiler) -> list[Node]:
    assert c.frame.node is not None
    return c.frame.node.args.get("windows") or []


def _bound(value: object) -> str:
    if isinstance(value, exp.Literal) and not value.is_string:
        return str(value.this)
    if value is None or value in ("UNBOUNDED", "CURRENT ROW"):
        return str(value or "")
    raise NotExactError("Such a frame of a window")
