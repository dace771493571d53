"""The order in which MySQL's optimizer joins tables, and the index by which it reads each: a model of its costs.

MySQL promises no order without ORDER BY, but rows leave InnoDB in the order in which they are read. This is the search
of the server's sql_planner.cc (`best_access_path`, `best_extension_by_limited_search`) for inner and left joins, with
its cost constants, all pages in memory. Costs are in MySQL's units, rows are estimates as MySQL makes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

PAGE, ROW = 0.25, 0.1
"""What reading a page and looking at a row cost."""
_MOST = 1e300


@dataclass(slots=True)
class Index:
    """An index of a table."""

    columns: tuple[str, ...]
    """Names in lower case."""
    unique: bool
    primary: bool
    length: int
    """Bytes of an entry."""
    per_value: tuple[float, ...]
    """Rows for each value of the first column, of the first two, and so on."""


@dataclass(slots=True)
class Stored:
    """What the optimizer knows of a table."""

    rows: int
    pages: int
    indexes: list[Index]
    """The primary key first, where there is one."""
    widths: dict[str, int]
    """Bytes of each column at most, by its name in lower case."""

    @property
    def scan(self) -> float:
        return self.pages * PAGE

    @property
    def primary(self) -> Index | None:
        return self.indexes[0] if self.indexes and self.indexes[0].primary else None


Column = tuple[int, str]
"""A table's place in FROM, and a column's name in lower case."""


@dataclass(slots=True)
class Test:
    """A condition of WHERE or ON that is no equality of columns."""

    columns: frozenset[Column]
    share: float
    """Of the rows, for which it is guessed to hold."""
    constant: Column | None = None
    """The column that it says to be equal to a constant."""


@dataclass(slots=True)
class Checked:
    """A condition that finds a table's rows by an index for each row of others ("range checked for each record")."""

    table: int
    needs: frozenset[int]
    """The others."""
    index: Index | None = None
    """None: one or another."""


@dataclass(slots=True)
class Question:
    """What is joined."""

    tables: list[Stored]
    used: list[frozenset[str]]
    """The columns of each table that the statement reads."""
    equal: list[frozenset[Column]]
    """Columns that are equal to each other."""
    tests: list[Test]
    after: list[frozenset[int]]
    """For each table those that come before it: a LEFT JOIN's left side."""
    sorts: int | None = None
    """The table of which all columns of GROUP BY or ORDER BY are."""
    wanted: int | None = None
    """Rows up to LIMIT."""
    sorted: bool = False
    """Whether there is a GROUP BY or ORDER BY."""
    checked: list[Checked] = field(default_factory=list)
    counts: dict[Column, int] = field(default_factory=dict)
    """Rows that fulfil the conditions on a column with an index."""
    found: dict[int, tuple[Index, int, float]] = field(default_factory=dict)
    """Table -> the index by which the rows in question are found by themselves, how many these are, and the cost."""


@dataclass(slots=True)
class Step:
    """How the next table is joined."""

    table: int
    index: Index | None
    """None: all of it is read, or what `Question.found` says."""
    rows: float
    """For each row so far."""
    share: float
    """Of them that remain."""
    cost: float
    """Of reading them."""
    needs: frozenset[int] = frozenset()
    """The tables whose columns are looked up."""
    single: bool = False
    """Whether there is at most one row for each row so far."""
    buffered: bool = False
    """Whether the rows so far are kept, and compared with each row of this table."""
    total_rows: float = 0.0
    total_cost: float = 0.0


def covering(table: Stored, used: frozenset[str]) -> Index | None:
    """The shortest index that holds all columns that are used; the primary key where no other one does."""
    primary = table.primary
    held = frozenset(primary.columns) if primary else frozenset()
    found = [i for i in table.indexes if not i.primary and used <= held | frozenset(i.columns)]
    if found:
        return min(found, key=lambda i: i.length)
    return primary if used <= held else None


class Search:
    """The search for the cheapest order."""

    def __init__(self, question: Question) -> None:
        self.q = question
        self.path: list[Step] = []
        self.best: list[Step] = []
        self.least = _MOST
        self.unsorted = False
        """Whether a temporary table is needed to sort in any case."""
        n = len(question.tables)
        self.constant = {t.constant for t in question.tests if t.constant is not None}
        self.equal = list(question.equal)
        for column in self.constant:
            if not any(column in e for e in self.equal):
                self.equal.append(frozenset((column,)))
        self.fixed = [e for e in self.equal if e & self.constant]
        self.found = [question.found[t][1] if t in question.found else s.rows for t, s in enumerate(question.tables)]
        self.depends: list[set[int]] = [set() for _ in range(n)]
        for t in range(n):
            for index in question.tables[t].indexes:
                for name in index.columns:
                    for others in self._equals((t, name)):
                        self.depends[t] |= {o for o, _ in others if o != t}

    def _equals(self, column: Column) -> list[frozenset[Column]]:
        return [e for e in self.equal if column in e]

    def run(self) -> list[Step]:
        order: list[int] = []
        for t in range(len(self.q.tables)):
            place = len(order)
            while place and self._before(t, order[place - 1]):
                place -= 1
            order.insert(place, t)
        self._extend(order, 0)
        return self.best

    def _before(self, a: int, b: int) -> bool:
        if b in self.q.after[a]:
            return False
        if a in self.q.after[b]:
            return True
        first, second = b in self.depends[a], a in self.depends[b]
        if first != second:
            return second
        return (self.found[a], a) < (self.found[b], b)

    def _extend(self, order: list[int], depth: int) -> None:
        fewest = cheapest = _MOST
        joined: set[int] = set()
        row = list(order)
        rest = set(order[depth:])
        for place in range(depth, len(row)):
            row[depth], row[place] = row[place], row[depth]
            t = row[depth]
            if t in joined or rest & self.q.after[t]:
                continue
            step = self._step(t, rest)
            if step.total_cost >= self.least:
                continue
            first = depth == 0 and t == self.q.sorts and not self.unsorted
            if fewest > step.total_rows or cheapest > step.total_cost or first:
                certain = not self.depends[t] & rest or step.rows < 2.0
                if fewest >= step.total_rows and cheapest >= step.total_cost and certain:
                    fewest, cheapest = step.total_rows, step.total_cost
            elif self.best:
                continue
            self.path.append(step)
            if len(rest) == 1:
                self._consider()
            elif step.index is not None and step.rows <= 1.0:
                if not joined:
                    joined = {t} | self._extend_single(list(row), depth + 1)
                    if joined == rest:
                        self.path.pop()
                        return
            else:
                self._extend(row, depth + 1)
            self.path.pop()

    def _extend_single(self, order: list[int], depth: int) -> set[int]:
        rest = set(order[depth:])
        row = list(order)
        before = self.path[-1]
        for place in range(depth, len(row)):
            row[depth], row[place] = row[place], row[depth]
            t = row[depth]
            if rest & self.q.after[t] or not self.depends[t] - rest:
                continue
            step = self._step(t, rest)
            same = abs(step.cost - before.cost) < 1e-6 and abs(step.rows - before.rows) < 1e-6
            if step.index is None or not same or step.total_cost >= self.least:
                continue
            self.path.append(step)
            joined = {t}
            if len(rest) == 1:
                self._consider()
            else:
                joined |= self._extend_single(row, depth + 1)
            self.path.pop()
            return joined
        self._extend(order, depth)
        return set()

    def _consider(self) -> None:
        cost = self.path[-1].total_cost
        if self.q.sorts is not None and (self.unsorted or self.q.sorts != self.path[0].table):
            cost += self.path[-1].total_rows
        if cost < self.least:
            self.least, self.best = cost, list(self.path)

    # One table -------------------------------------------------------------------------------------------------------

    def _step(self, t: int, rest: set[int]) -> Step:
        """The cheapest way to join a table."""
        table, found = self.q.tables[t], self.found[t]
        before = self.path[-1].total_rows if self.path else 1.0
        known = {s.table for s in self.path}
        step = self._lookup(t, known, before)
        by_range = self.q.found.get(t)
        read = by_range[2] if by_range else table.scan
        held = covering(table, self.q.used[t])
        skipped = step is not None and (
            (step.rows < found and step.cost <= read)
            or (by_range is not None and by_range[0] is step.index)
            or (held is not None and by_range is None)
        )
        if not skipped:
            buffered = bool(self.path)
            ranged = frozenset((t, c) for c in by_range[0].columns) if by_range else frozenset()
            guessed = bool(rest - {t}) or (self.q.sorted and self.q.wanted is not None)
            rows = found * self._share(t, set(), ranged, found) if buffered or guessed else float(found)
            dropped = ROW * ((found if by_range else table.rows) - rows)
            cost = (before if by_range else 1.0) * (read + dropped)
            if step is None or cost + ROW * before * rows < step.cost + ROW * before * step.rows:
                full = self._share(t, known, ranged, found) if guessed else 1.0
                share = min(1.0, found * full / rows) if guessed and rows else 1.0
                step = Step(t, None, rows, share, cost, buffered=buffered)
        assert step is not None
        if not self.path and t == self.q.sorts and step.index is None:
            self.unsorted |= self.q.wanted is None or self.q.wanted >= step.rows
        if step.index is not None and rest - {t}:
            looked = frozenset((t, c) for c in step.index.columns[: self._bound(t, step.index, known)[0]])
            step.share = self._share(t, known, looked, step.rows)
        step.total_rows = before * step.rows * step.share
        step.total_cost = (self.path[-1].total_cost if self.path else 0.0) + step.cost + ROW * before * step.rows
        return step

    def _bound(self, t: int, index: Index, known: set[int]) -> tuple[int, set[int]]:
        """How many columns of an index are equal to what is known, and the tables that these are of."""
        needs: set[int] = set()
        for count, name in enumerate(index.columns):
            sources: list[set[int]] = []
            for others in self._equals((t, name)):
                if others in self.fixed:
                    sources.append(set())
                sources += [{o} for o, _ in others if o in known]
            if not sources:
                return count, needs
            needs |= min(sources, key=lambda s: self._distinct(needs | s))
        return len(index.columns), needs

    def _distinct(self, needs: set[int]) -> float:
        """Rows of the tables in question, of which each is looked up once."""
        needs, found = set(needs), 1.0
        for step in reversed(self.path):
            fanout = step.rows * step.share
            if step.table in needs:
                needs |= step.needs
                found *= fanout if step.rows > 1e-12 else 1.0
            elif fanout < 1.0:
                found *= fanout
        return found

    def _lookup(self, t: int, known: set[int], before: float) -> Step | None:
        table, best, least, unique = self.q.tables[t], None, _MOST, False
        by_range = self.q.found.get(t)
        for index in table.indexes:
            count, needs = self._bound(t, index, known)
            if not count:
                continue
            single = index.unique and count == len(index.columns)
            if unique and not single:
                continue
            if single:
                rows, cost = 1.0, self._distinct(needs) * PAGE
            else:
                rows = index.per_value[count - 1]
                if not needs and by_range is not None and by_range[0] is index:
                    rows = float(by_range[1])
                cost = before * self._reading(table, index, rows, self.q.used[t])
            total = cost + ROW * before * rows
            if total < least or (single and not unique):
                least, unique = total, single
                best = Step(t, index, rows, 1.0, cost, frozenset(needs), single)
        return best

    def _reading(self, table: Stored, index: Index, rows: float, used: frozenset[str]) -> float:
        """The cost of finding so many rows by an index, once."""
        primary = table.primary
        held = frozenset(index.columns) | (frozenset(primary.columns) if primary and not index.primary else frozenset())
        if used <= held:
            block = 8192 // (index.length + (primary.length if primary else 6)) + 1
            return PAGE * (block + rows - 1) / block
        if index.primary:
            whole = int(rows)
            return PAGE * (whole if whole <= 2 else 1 + whole / 650)
        return min(PAGE * rows, max(2 * PAGE, min(PAGE * self.found_rows(table) / 10, 3 * table.scan)))

    def found_rows(self, table: Stored) -> float:
        return float(table.rows)

    def _share(self, t: int, known: set[int], done: frozenset[Column], rows: float) -> float:
        """Of a table's rows those that are guessed to fulfil the conditions that can be tested by now."""
        table = self.q.tables[t]
        if rows < 1.0 or not table.rows:
            return 1.0
        share = 1.0
        done = frozenset(done)
        for column, count in self.q.counts.items():
            if column[0] == t and column not in done:
                share *= min(1.0, count / table.rows)
                done |= {column}
        for others in self.equal:
            ours = [c for c in others if c[0] == t]
            if not ours or (others not in self.fixed and not any(o in known for o, _ in others)):
                continue
            if any(c in done for c in ours):
                continue
            share *= min(self._one(table, name) for _, name in ours)
        for test in self.q.tests:
            ours = {c for c in test.columns if c[0] == t}
            if not ours or test.constant is not None or ours <= done:
                continue
            if all(o == t or o in known for o, _ in test.columns):
                share *= test.share
        share = max(share, 1.0 / table.rows)
        return 0.05 / rows if share * rows < 0.05 else share

    def _one(self, table: Stored, name: str) -> float:
        """Of a table's rows those that have one value of a column."""
        first = [i.per_value[0] for i in table.indexes if i.columns[0] == name]
        return min(first) / table.rows if first else max(1.0 / table.rows, 0.1)


def joined(question: Question) -> list[Step]:
    """The tables in the order in which they are read."""
    steps = Search(question).run()
    for place, step in enumerate(steps):
        known = {s.table for s in steps[:place]}
        found = [k for k in question.checked if k.table == step.table and k.needs <= known]
        if step.buffered and found and not any(t == step.table for t, _ in question.counts):
            step.buffered, step.index = False, found[0].index or question.tables[step.table].primary
    return steps


def reading(steps: Sequence[Step], question: Question) -> list[tuple[int, Index | None, bool]]:
    """What the joined rows are sorted by: a table, the index by which it is read, and whether backwards.

    Without an index it is as its rows are stored.
    """
    order: list[tuple[int, Index | None, bool]] = []
    for step in steps:
        if step.single:
            continue
        table = question.tables[step.table]
        index = step.index
        if index is None:
            by_range = question.found.get(step.table)
            index = by_range[0] if by_range else covering(table, question.used[step.table])
        if step.buffered and not question.after[step.table]:
            # The rows so far are a hash table, in which the last of equal ones is found first.
            order = [(step.table, index, False), *((t, i, not down) for t, i, down in order)]
        else:
            order.append((step.table, index, step.buffered))
    return order
