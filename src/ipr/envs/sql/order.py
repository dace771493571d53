"""The order of rows as MySQL's server leaves it where a statement does not ask for one.

Decided here: a table's rows come as they are read, from the index that the optimizer would choose (`plan`). This is
only asked of databases that are described as a server's (`schema.json`): an invented one has no server to agree with.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from sqlglot import exp

from ipr.envs.sql import plan
from ipr.envs.sql.errors import MySqlError, NotExactError
from ipr.envs.sql.filesort import Sorting
from ipr.envs.sql.names import Field, Scope, Source
from ipr.envs.sql.plan import Checked, Column, Index, Question, Test
from ipr.envs.sql.terms import Term, order_key, truth
from ipr.types import IprError

if TYPE_CHECKING:
    from ipr.envs.sql.schema import Table
    from ipr.envs.sql.select import Compiler
    from ipr.envs.sql.tables import Join, Tables

Node = exp.Expr


@dataclass(slots=True)
class Reading:
    """How the rows of FROM are read."""

    terms: list[str]
    """What they are sorted by."""
    sorted: bool = False
    """Whether ORDER BY's order is that of an index, which is read in place of sorting."""
    rows: float | None = None
    """How many the optimizer expects to sort; None where it has no guess, as for a temporary table of groups."""
    first: list[str] = field(default_factory=list)
    """What numbers the first table's rows, where these are sorted before the others are joined."""
    leads: tuple[str, str] | None = None
    """Of these rows the number alone, and FROM and WHERE for all of them; None where it is not known."""
    filed: float | None = None
    """How many rows it expects to sort to group them, where it does."""
    lead: list[str] = field(default_factory=list)
    """What numbers the first table's rows, where only these are sorted for that."""
    outer: bool = False
    """Whether each of these rows remains, as LEFT JOIN has it, so that LIMIT holds for them too."""


def reading(
    c: Compiler, node: Node, tables: Tables, groups: list[Term], order: list[tuple[Term, str]], sorts: bool
) -> Reading | None:
    """How MySQL reads the tables of a SELECT; None where this is not modelled. `sorts`: it sorts rows to group them."""
    sources = c.scope.sources
    if not sources or any(s.table is None or not s.table.rowid for s in sources):
        return None
    joins = list(_joins(tables))
    sides = {(j.node.args.get("side") or "").upper() for j in joins}
    if ("RIGHT" in sides and len(joins) > 1) or ("LEFT" in sides and len(joins) > len(tables.joins)):
        return None
    stored = [s.table.stored() for s in sources if s.table is not None]
    question = Question(stored, [frozenset(s.used()) for s in sources], [], [], [frozenset() for _ in sources])
    facts = _Facts(c, node, joins, question)
    facts.read()
    sources = facts.sources
    keys = groups or [t for t, _ in order]
    if not groups or all(a.sql == b.sql for (a, _), b in zip(order, groups, strict=False)):
        question.sorts = _sorted_table(sources, keys)
    question.wanted = _wanted(node)
    question.sorted = bool(groups or order)
    grouped = _sorted_table(sources, groups)
    if grouped is not None:  # by an index's columns: no more is looked for
        names = {t.field.name.lower() for t in groups if t.field is not None}
        if any(names <= set(i.columns) for i in question.tables[grouped].indexes):
            question.checked = [k for k in question.checked if k.table != grouped]
    steps = plan.joined(question)
    found = plan.reading(steps, question)
    first, rows = steps[0], steps[-1].total_rows
    if rows > _MANY:
        return None
    if first.index is None and (groups or order):
        index, down = _ordering(question, steps, sources, groups, order)
        found_by = question.found.get(first.table)
        same = found_by is None or found_by[0] is index
        if index is not None and same and not any(s.buffered for s in steps):
            found[0] = (first.table, index, down)
            return Reading(_terms(sources, found), not groups, _groups(question, first.table, index, len(groups), rows))
    read = Reading(_terms(sources, found), rows=rows)
    if groups:
        read.rows = rows**0.5 if sorts else None
        read.filed = rows if sorts else None
    apart = len(steps) > 1 and not any(s.buffered for s in steps)
    if apart and sorts and grouped == first.table:
        read.lead = _terms(sources, found[:1])
    if apart and not groups and keys and question.sorts == first.table:
        read.first, read.rows = _terms(sources, found[:1]), first.total_rows
        read.outer = all(question.after[s.table] for s in steps[1:])
        read.leads = facts.alone(first.table) if not any(question.after) else None
    return read


def _groups(question: Question, t: int, index: Index, columns: int, rows: float) -> float:
    """How many groups MySQL expects of rows that it reads by an index."""
    table = question.tables[t]
    known = min(1.0, max(0.0, rows - 10)) if columns <= len(index.per_value) else 0.0  # few rows tell little
    each = index.per_value[min(columns, len(index.per_value)) - 1]
    return (1 - known) * rows**0.5 + known * min(rows, table.rows / each)


def _joins(tables: Tables) -> Iterator[Join]:
    """The joins of FROM and those in parentheses."""
    if tables.inner is not None:
        yield from _joins(tables.inner)
    for join in tables.joins:
        if join.inner is not None:
            yield from _joins(join.inner)
        yield join


def _sorted_table(sources: list[Source], keys: list[Term]) -> int | None:
    """The table of which all of these are, where there is one."""
    found = {f.source for t in keys for f in ((t.field,) if t.field is not None else t.loose)}
    if len(found) != 1:
        return None
    source = next(iter(found))
    return sources.index(source) if source in sources else None


def _ordering(
    question: Question,
    steps: list[plan.Step],
    sources: list[Source],
    groups: list[Term],
    order: list[tuple[Term, str]],
) -> tuple[Index | None, bool]:
    """The index of the first table that gives the order of GROUP BY or ORDER BY, and whether it is read backwards."""
    t = steps[0].table
    names: list[str] = []
    for term in groups or [o for o, _ in order]:
        if term.field is None or term.field.source is not sources[t]:
            return None, False
        if (name := term.field.name.lower()) not in names:
            names.append(name)
    downs = {bool(d) for _, d in order} if not groups else {False}
    if len(downs) != 1 or not names:
        return None, False
    table = question.tables[t]
    primary = table.primary
    for index in table.indexes:
        whole = index.columns + (primary.columns if primary and not index.primary else ())
        if list(whole[: len(names)]) != names:
            continue
        held = index.primary or question.used[t] <= frozenset(whole)
        if held or (groups and len(steps) == 1) or t in question.found or _cheaper(question, t, index):
            return index, downs.pop()
    return None, False


def _cheaper(question: Question, t: int, index: Index) -> bool:
    """Whether the first rows are found faster by an index, though not all columns are in it."""
    if question.wanted is None:
        return False
    table = question.tables[t]
    each = index.per_value[0]
    return min(question.wanted, table.rows) / each * min(plan.PAGE * each, table.scan) < table.scan


def _wanted(node: Node) -> int | None:
    """How many rows LIMIT and OFFSET ask for, together."""
    said = [p.expression.this for k in ("limit", "offset") if (p := node.args.get(k)) is not None and p.expression]
    return sum(map(int, said)) if said and all(isinstance(n, str) and n.isdigit() for n in said) else None


def _terms(sources: list[Source], found: list[tuple[int, Index | None, bool]]) -> list[str]:
    terms = []
    apart = "+" if len(sources) > 1 else ""  # SQLite is to plan a join as if there were no order
    for t, index, down in found:
        source, table = sources[t], sources[t].table
        assert table is not None
        primary = table.stored().primary
        tail = " DESC" if down else ""
        names = index.columns if index is not None and not index.primary else ()
        keys = [_key(source, name) for name in names]
        natural = table.natural() if primary is not None else []
        keys += [n.format(source.sql) for n in natural] or [f"{source.sql}.rowid"]
        terms += [(f"(SELECT {k} {source.looked})" if source.looked else apart + k) + tail for k in keys]
    return terms


_MANY = 60_000
"""Joined rows beyond which their order is left as it is: sorting them would take too long."""
MEMORY = 262_144
"""Bytes in which the server sorts."""


def sorting(read: Reading, node: Node, keys: list[Term], shown: list[Term], sources: list[Source]) -> Sorting:
    """How MySQL sorts rows that it has read. `shown`: columns that are worked out before, as of groups, and sorted."""
    wanted = _wanted(node)
    queue = False
    if wanted is not None and (not read.first or read.outer):
        size = sum(16 * _width(t) // 4 + 8 if t.text and not t.kind.members else 9 for t in keys)
        if shown:
            size += sum(map(_width, shown))
        else:
            size += sum(s.table.stored().widths[n] for s in sources if s.table is not None for n in s.used())
        most = MEMORY // (size + 8)
        rows = None if read.rows is None else round(read.rows)
        queue = wanted < rows / 3 if rows is not None and rows < most else wanted + 1 < most
    offset = node.args.get("offset")
    skipped = int(offset.expression.this) if wanted is not None and offset is not None else 0
    limit = None if wanted is None else wanted - skipped
    return Sorting(
        any(t.text and not t.kind.members for t in keys), queue, limit, skipped, bool(read.first), read.outer
    )


def _width(term: Term) -> int:
    """Bytes of a value in a row that is sorted."""
    if term.field is not None and term.field.source.table is not None:
        return term.field.source.table.stored().widths[term.field.name.lower()]
    if "join_texts(" in term.sql:  # GROUP_CONCAT gives a TEXT
        return 65_537
    return 400 if term.text else 9


def _key(source: Source, name: str) -> str:
    found = source.find(name)
    assert found is not None
    column = next(c for c in source.table.columns if c.name.lower() == name)  # type: ignore[union-attr]
    sql = f"{source.sql}.{column.sql}"
    return order_key(Term(sql, column.kind))


_STRICT = (exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE, exp.Like, exp.In, exp.Between)
"""Conditions that no NULL fulfils: with one of them in WHERE a LEFT JOIN is none."""
_COMPARED = (exp.GT, exp.GTE, exp.LT, exp.LTE)


class _Facts:
    """Reads what WHERE and ON say into a question."""

    def __init__(self, c: Compiler, node: Node, joins: list[Join], question: Question) -> None:
        self.c, self.node, self.joins, self.q = c, node, joins, question
        self.sources = list(c.scope.sources)
        """The tables of FROM, then those of IN's queries."""
        self.inner: int | None = None
        """The table of an IN's query whose WHERE is read."""
        self.equal: list[set[Column]] = []
        self.ranges: list[tuple[Column, Node]] = []
        self.weak: int | None = None
        """The table whose LEFT JOIN's ON is read."""

    def read(self) -> None:
        where = self.node.args.get("where")
        strict: set[int] = set()
        for part in _parts(where.this) if where is not None else ():
            self._condition(part)
            if isinstance(part, _STRICT):
                strict |= {column[0] for n in (part.this, part.expression) if (column := self._column(n)) is not None}
        for join in self.joins:
            place = self.c.scope.sources.index(join.added[0])
            side = (join.node.args.get("side") or "").upper()
            if side == "LEFT" and place not in strict:
                self.q.after[place] = frozenset(range(place))
                self.weak = place
            elif side == "RIGHT" and 0 not in strict:
                self.q.after[0] = frozenset((1,))
                self.weak = 0
            on = join.node.args.get("on")
            for part in _parts(on) if on is not None else ():
                self._condition(part)
            for name in join.names:
                found = [self._named(s, name.lower()) for s in (*join.before, *join.added)]
                self._same({column for column in found if column is not None})
            self.weak = None
        self.q.equal = [frozenset(e) for e in self.equal]
        for column, part in self.ranges:
            for t, name in next((e for e in self.equal if column in e), {column}):
                self._range(t, name, part)

    def _named(self, source: Source, name: str) -> Column | None:
        return None if source.find(name) is None else (self.c.scope.sources.index(source), name)

    def _same(self, columns: set[Column]) -> None:
        for known in [e for e in self.equal if e & columns]:
            self.equal.remove(known)
            columns |= known
        self.equal.append(columns)

    def _pulled(self, part: Node) -> bool:
        """Whether a condition is `x IN (SELECT key FROM ...)`, whose table is joined like those of FROM."""
        outer = self._column(part.this) if isinstance(part, exp.In) else None
        query = part.args.get("query")
        query = query.this if isinstance(query, exp.Subquery) else query
        if outer is None or self.inner is not None or self.weak is not None or not isinstance(query, exp.Select):
            return False
        named, asked = query.args.get("from_"), query.expressions[0]
        if set(query.args) & {k for k in ("joins", "group", "having", "limit", "with_") if query.args.get(k)}:
            return False
        if named is None or not isinstance(named.this, exp.Table) or not isinstance(asked, exp.Column):
            return False
        try:
            table = self.c.schema.table(named.this.name, named.this.text("db"), lambda: True)
        except (MySqlError, NotExactError):
            return False
        name = asked.name.lower()
        if table.count is None or not any(i.unique and i.columns == (name,) for i in table.stored().indexes):
            return False
        source = Source(named.this.alias or named.this.name, table.database, table=table)
        source.fields = [Field(c.name, "", c.kind, source) for c in table.columns]
        key = next(c.sql for c in table.columns if c.name.lower() == name)
        column = next(c.sql for c in self._table(outer[0]).columns if c.name.lower() == outer[1])
        source.sql = "p"
        source.looked = f"FROM {table.sql} AS p WHERE p.{key} = {self.sources[outer[0]].sql}.{column}"
        self.inner = place = len(self.sources)
        self.sources.append(source)
        self.q.tables.append(table.stored())
        self.q.used.append(frozenset(n.name.lower() for n in query.find_all(exp.Column) if source.find(n.name)))
        self.q.after.append(frozenset())
        self._same({outer, (place, name)})
        where = query.args.get("where")
        for one in _parts(where.this) if where is not None else ():
            self._condition(one)
        self.inner = None
        return True

    def _table(self, place: int) -> Table:
        table = self.sources[place].table
        assert table is not None
        return table

    def _condition(self, part: Node) -> None:
        if self._pulled(part):
            return
        if isinstance(part, exp.EQ):
            left, right = self._column(part.this), self._column(part.expression)
            if left is not None and right is not None and left[0] != right[0]:
                self._same({left, right})
                return
        columns = {c for n in _own(part) if (c := self._column(n)) is not None}
        if not columns:
            return
        constant = self._constant(part)
        test = Test(frozenset(columns), self._share(part), constant)
        self.q.tests.append(test)
        self.q.checked += self._checked(part)
        if len(columns) == 1 and self.weak is None and _sargable(part):
            self.ranges.append((next(iter(columns)), part))

    def _checked(self, part: Node) -> list[Checked]:
        """The tables of which a condition can find rows by an index for each row of others."""
        if isinstance(part, exp.Paren):
            return self._checked(part.this)
        if isinstance(part, exp.Or):
            both = self._checked(part.this), self._checked(part.expression)
            return [Checked(a.table, a.needs | b.needs) for a in both[0] for b in both[1] if a.table == b.table]
        pairs = [(part.this, part.expressions)] if isinstance(part, exp.In) else []
        if isinstance(part, (*_COMPARED, exp.EQ)):
            pairs = [(part.this, [part.expression]), (part.expression, [part.this])]
        found = []
        for one, others in pairs:
            ours, theirs = self._column(one), [c for c in map(self._column, others) if c is not None]
            if ours is not None and others and len(theirs) == len(others):
                needs = frozenset(t for t, _ in theirs)
                indexes = [i for i in self.q.tables[ours[0]].indexes if i.columns[0] == ours[1]]
                found += [Checked(ours[0], needs, i) for i in indexes[:1] if ours[0] not in needs]
        return found

    def _column(self, node: Node | None) -> Column | None:
        while isinstance(node, exp.Paren):
            node = node.this
        if not isinstance(node, exp.Column):
            return None
        outer = len(self.c.scope.sources)
        for place in (*(() if self.inner is None else (self.inner,)), *range(outer)):
            source = self.sources[place]
            named = not node.table or node.table.lower() == source.alias.lower()
            if named and source.find(node.name) is not None:
                return place, node.name.lower()
        return None

    def _constant(self, part: Node) -> Column | None:
        if not isinstance(part, exp.EQ):
            return None
        for one, other in ((part.this, part.expression), (part.expression, part.this)):
            column = self._column(one)
            if column is not None and _literal(other) and self._alike(column, other):
                return column
        return None

    def _alike(self, column: Column, literal: Node) -> bool:
        field = self.sources[column[0]].find(column[1])
        text = isinstance(literal, exp.Literal) and literal.is_string
        return field is not None and (text or field.kind.number)

    def _share(self, part: Node) -> float:
        """Of the rows for which a condition holds, as MySQL guesses."""
        if isinstance(part, exp.Paren):
            return self._share(part.this)
        if isinstance(part, exp.And):
            return self._share(part.this) * self._share(part.expression)
        if isinstance(part, exp.Or):
            a, b = self._share(part.this), self._share(part.expression)
            return a + b - a * b
        if isinstance(part, exp.Not):
            return 1.0 - self._share(part.this)
        column = self._column(part.this) if isinstance(part.this, exp.Expr) else None
        if column is None and isinstance(part, exp.Binary):
            column = self._column(part.expression)
        if column is None:
            return 1.0
        one = max(1.0 / max(self.q.tables[column[0]].rows, 1), 0.1)
        match part:
            case exp.EQ() | exp.Is() | exp.NullSafeEQ():
                return one
            case exp.NEQ():
                return 1.0 - one
            case exp.GT() | exp.LT() | exp.GTE() | exp.LTE():
                return 0.3333
            case exp.Between() | exp.Like():
                return 0.1111
            case exp.In() if part.expressions:
                return min(0.5, len(part.expressions) * one)
        return 1.0

    def _range(self, t: int, name: str, part: Node) -> None:
        """Whether a condition finds a table's rows by an index, for less than all of them are read."""
        table, source = self.q.tables[t], self.sources[t]
        index = next((i for i in table.indexes if i.columns[0] == name), None)
        if index is None:
            return
        part = part.copy()
        for one in [n for n in _own(part) if isinstance(n, exp.Column)]:
            one.replace(exp.column(name, source.alias))
        count = self._count(source, part)
        if count is None:
            return
        count = max(count, 1)
        self.q.counts[t, name] = min(count, self.q.counts.get((t, name), count))
        primary = table.primary
        held = frozenset(index.columns) | frozenset(primary.columns if primary else ())
        ranges = (
            1 + sum(1 for _ in part.find_all(exp.Or, exp.NEQ)) + sum(len(n.expressions) for n in part.find_all(exp.In))
        )
        if self.q.used[t] <= held and not index.primary:
            block = 8192 // (index.length + (primary.length if primary else 6)) + 1
            cost = plan.PAGE * (block + count - 1) / block
        elif index.primary:
            cost = plan.PAGE * (ranges + count / 650)
            if count <= 2:
                cost = plan.PAGE * count
        else:
            cost = plan.PAGE * (ranges + count)
        cost += plan.ROW * count + 0.01
        whole = table.scan + 1.1 + plan.ROW * table.rows + 1.0
        shortest = plan.covering(table, self.q.used[t])
        if shortest is not None:
            block = 8192 // (shortest.length + (primary.length if primary and not shortest.primary else 6)) + 1
            whole = min(whole, plan.PAGE * (block + table.rows - 1) / block + plan.ROW * table.rows)
        known = self.q.found.get(t)
        if cost < whole and (known is None or cost < known[2]):
            self.q.found[t] = (index, count, cost)

    def _alone(self, source: Source) -> Source:
        """A table by itself, whose columns can be read."""
        assert source.table is not None
        alone = Source(source.alias, source.database)
        for column in source.table.columns:
            tell = partial(column.tell, alias=source.sql)
            alone.fields.append(Field(column.name, "", column.kind, alone, tell=tell))
        return alone

    def _count(self, source: Source, part: Node) -> int | None:
        try:
            return self.c.schema.counted(f"SELECT count(*){self._from(source, [part])}")
        except (MySqlError, IprError):  # the statement will say it
            return None

    def _from(self, source: Source, parts: list[Node]) -> str:
        """FROM and WHERE of a table by itself."""
        c, scope = self.c, self.c.frame.scope
        c.frame.scope = Scope(None, [self._alone(source)])
        clause, c.frame.clause = c.frame.clause, "where clause"
        assert source.table is not None
        try:
            tests = " AND ".join(f"({truth(c.single(part))})" for part in parts)
            return f" FROM {source.table.sql} AS {source.sql} WHERE {tests or 1}"
        finally:
            c.frame.scope, c.frame.clause = scope, clause

    def alone(self, t: int) -> tuple[str, str] | None:
        """A table's rows before others are joined to it (see `Reading.leads`)."""
        where, source, own = self.node.args.get("where"), self.sources[t], []
        conditions = [where.this if where is not None else None, *(j.node.args.get("on") for j in self.joins)]
        for part in (p for condition in conditions if condition is not None for p in _parts(condition)):
            if part.find(exp.Query):
                return None
            columns = [self._column(n) for n in part.find_all(exp.Column)]
            if columns and all(c is not None and c[0] == t for c in columns):
                own.append(part)
        names = {name for equal in self.equal for place, name in equal if place == t and len(equal) > 1}
        own += [exp.Not(this=exp.Is(this=exp.column(n, source.alias), expression=exp.Null())) for n in sorted(names)]
        return f"{source.sql}.rowid", self._from(source, own)


def _parts(node: Node) -> Iterator[Node]:
    """The conditions that AND joins."""
    if isinstance(node, exp.Paren):
        yield from _parts(node.this)
    elif isinstance(node, exp.And):
        yield from _parts(node.this)
        yield from _parts(node.expression)
    else:
        yield node


def _own(node: Node) -> Iterator[Node]:
    """The parts of a condition, without those of queries in it."""
    return node.walk(prune=lambda n: isinstance(n, exp.Query))


def _literal(node: Node) -> bool:
    """Whether an expression is a constant, or as good as one: a query that reads one table."""
    if isinstance(node, exp.Subquery):
        return isinstance(node.this, exp.Select) and len(list(node.find_all(exp.Table))) == 1
    return isinstance(node, exp.Literal) or (isinstance(node, exp.Neg) and isinstance(node.this, exp.Literal))


def _sargable(part: Node) -> bool:
    """Whether a condition is one of comparing a column with constants."""
    if isinstance(part, exp.Paren):
        return _sargable(part.this)
    if isinstance(part, (exp.Or, exp.And)):
        return _sargable(part.this) and _sargable(part.expression)
    if isinstance(part, exp.Not):
        return isinstance(part.this, (exp.In, exp.Is))
    if isinstance(part, exp.Between):
        return isinstance(part.this, exp.Column) and _literal(part.args["low"]) and _literal(part.args["high"])
    if isinstance(part, exp.In):
        return isinstance(part.this, exp.Column) and bool(part.expressions) and all(map(_literal, part.expressions))
    if isinstance(part, exp.Is):
        return isinstance(part.this, exp.Column)
    if isinstance(part, exp.Like):
        return isinstance(part.this, exp.Column) and _literal(part.expression) and part.expression.name[:1] not in "%_"
    if isinstance(part, (exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE)):
        sides = (part.this, part.expression)
        return any(isinstance(a, exp.Column) and _literal(b) for a, b in (sides, sides[::-1]))
    return False
