"""ONLY_FULL_GROUP_BY: a group shows only what is the same in all its rows.

See https://dev.mysql.com/doc/refman/8.0/en/group-by-functional-dependence.html. A column is determined by GROUP BY's
columns when it is one of them, when WHERE or ON makes it equal to a determined column or to a constant, and when the
determined columns hold a unique key of its table. Left out: what MySQL infers inside of views.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sqlglot import exp

from ipr.envs.sql import errors
from ipr.envs.sql.errors import MySqlError
from ipr.envs.sql.kinds import INT
from ipr.envs.sql.names import Field, Source, full_name
from ipr.envs.sql.terms import DIGITS, Term

if TYPE_CHECKING:
    from ipr.envs.sql.frames import Item
    from ipr.envs.sql.select import Compiler

Node = exp.Expr


class Facts:
    """What WHERE and ON say of columns."""

    def __init__(self, c: Compiler, node: Node) -> None:
        self.equal: list[tuple[Field, Field]] = []
        """Of the first follows the second."""
        self.constant: list[Field] = []
        if (where := node.args.get("where")) is not None:
            self._read(c, where.this, None)
        before: list[Source] = []
        for join in [node.args.get("from_"), *(node.args.get("joins") or ())]:
            added = c.scope.named(join.this.alias_or_name) if join is not None else None
            side = (join.args.get("side") or "").upper() if join is not None else ""
            weak = {"LEFT": [added], "RIGHT": before}.get(side)
            if join is not None and (on := join.args.get("on")) is not None:
                self._read(c, on, weak)
            before = [*before, *([added] if added is not None else [])]
        for name, one in c.scope.merged.items():  # by USING and NATURAL
            for other in (f for s in c.scope.sources if (f := s.find(name)) is not None and f is not one):
                self.equal.append((one, other))
                if other.source.inner and one.source.inner:
                    self.equal.append((other, one))

    def _read(self, c: Compiler, node: Node, weak: Sequence[Source | None] | None) -> None:
        """`weak`: the tables of which an outer join might make NULL what does not fit."""
        if isinstance(node, exp.And):
            self._read(c, node.this, weak)
            self._read(c, node.expression, weak)
        elif isinstance(node, exp.Paren):
            self._read(c, node.this, weak)
        elif isinstance(node, exp.EQ):
            left, right = _field(c, node.this), _field(c, node.expression)
            if left is not None and right is not None:
                for a, b in ((left, right), (right, left)):
                    if weak is None or b.source in weak:
                        self.equal.append((a, b))
            elif weak is None and isinstance(node.expression, exp.Literal) and left is not None:
                self.constant.append(left)
            elif weak is None and isinstance(node.this, exp.Literal) and right is not None:
                self.constant.append(right)

        elif isinstance(node, exp.In) and weak is None and len(node.expressions) == 1:
            field = _field(c, node.this)
            if field is not None and isinstance(node.expressions[0], exp.Literal):
                self.constant.append(field)

    def determined(self, fields: set[Field], c: Compiler) -> set[Field]:
        """All columns that follow from these."""
        found = fields | set(self.constant)
        while True:
            more = {b for a, b in self.equal if a in found}
            for source in c.scope.sources:
                names = {f.name.lower() for f in source.fields if f in found}
                required = {f.name.lower() for f in source.fields if f.required}
                for key, others in [*((key, None) for key in source.keys), *source.follow]:
                    # A row that an outer join adds has NULL for what a real row with NULL might have.
                    if key <= names and (source.inner or key & required):
                        more |= {f for f in source.fields if others is None or f.name.lower() in others}
            if more <= found:
                return found
            found |= more


def _field(c: Compiler, node: Node) -> Field | None:
    if not isinstance(node, exp.Column):
        return None
    for source in c.scope.sources:
        named = not node.table or node.table.lower() == source.alias.lower()
        if named and (found := source.find(node.name)) is not None:
            return found
    return None


def check(c: Compiler, facts: Facts, items: list[Item], order: list[Term], having: Term | None, grouped: bool) -> None:
    """Refuses columns that a group may have several values of."""
    known: set[Field] | None = None
    parts = [(n, "SELECT list", i.term) for n, i in enumerate(items, 1)]
    if grouped:  # else there is one row, and its order is nothing
        parts += [(n, "ORDER BY clause", t) for n, t in enumerate(order, 1)]
    if having is not None:
        parts.append((1, "HAVING clause", having))
    parts += [(n, f"PARTITION BY or ORDER BY clause of window {name}", t) for n, name, t in c.frame.sorted]
    for number, place, term in parts:
        for column in term.loose:
            if column.source not in c.scope.sources:
                continue
            if known is None:
                named = {t.field for t in c.frame.groups if t.field is not None}
                known = facts.determined(named, c)
            if column in known:
                continue
            raise errors.not_grouped(number, place, full_name(column), grouped)


def follow_of(c: Compiler, facts: Facts, items: list[Item]) -> list[tuple[frozenset[str], frozenset[str]]]:
    """Which columns of the result follow from which: of a key of a table, of one column, of nothing."""
    shown = {i.term.field: i.name.lower() for i in reversed(items) if i.term.field is not None}
    keys = [{f for f in source.fields if f.name.lower() in key} for source in c.scope.sources for key in source.keys]
    found = []
    for start in [*keys, *({f} for f in shown), set[Field]()]:
        if not all(f in shown for f in start):
            continue
        known = facts.determined(start, c)
        names = {i.name.lower() for i in items if not i.term.one and set(i.term.loose) <= known and i.term.loose}
        found.append((frozenset(shown[f] for f in start), frozenset(names)))
    return found


def summed_up(c: Compiler, nodes: list[Node]) -> Term:
    """GROUPING(): which of its arguments a row of WITH ROLLUP sums up, as bits."""
    frame = c.frame
    group = frame.node.args.get("group") if frame.node is not None else None
    if group is None or not group.args.get("rollup"):
        raise MySqlError(errors.GROUP_MISUSED)
    rolled, clause = frame.rolled, frame.clause
    frame.rolled, frame.clause = frozenset(), "field list"
    try:
        terms = [c.single(n) for n in nodes]
    finally:
        frame.rolled, frame.clause = rolled, clause
    keys = {t.sql for t in frame.groups}
    for place, term in enumerate(terms, 1):
        if term.sql not in keys:
            raise MySqlError(f"Argument #{place} of GROUPING function is not in GROUP BY")
    bits = "".join(str(int(t.sql in rolled)) for t in terms)
    return Term(str(int(bits, 2)), INT, DIGITS)


def keys_of(groups: list[Term], items: list[Item]) -> list[frozenset[str]]:
    """The names under which all of GROUP BY's expressions are shown: a key of the result."""
    names = [next((i.name.lower() for i in items if i.term.sql == g.sql), None) for g in groups]
    return [frozenset(n for n in names if n)] if groups and None not in names else []
