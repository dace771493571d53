"""SELECT and set operations of MySQL as one SELECT of SQLite.

Decided here: each column of a query is `c0`, `c1`, ... in SQLite's words, and each table has an alias of ours. Groups,
DISTINCT and set operations come in the order in which MySQL's temporary table sees them first: rows are numbered
(`row_seen()`, or the table's rowid) and the groups sorted by their least number. What is sorted there by its key (it
counts distinct values, joins texts, or is read from an index alone) is sorted here. ONLY_FULL_GROUP_BY is `grouping`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from sqlglot import exp

from ipr.envs.sql import aggregates, calls, ctes, errors, filesort, grouping, unions, windows
from ipr.envs.sql.errors import MySqlError, NotExactError
from ipr.envs.sql.expressions import check_parts, compile_expression, single
from ipr.envs.sql.filesort import Sorting
from ipr.envs.sql.frames import Frame, Item, Names, Query
from ipr.envs.sql.kinds import NULL
from ipr.envs.sql.names import Field, Scope, Source, full_name
from ipr.envs.sql.order import Reading, reading, sorting
from ipr.envs.sql.tables import Tables, add_joins, add_tables
from ipr.envs.sql.terms import Term, group_key, order_key, truth
from ipr.envs.sql.unions import down, sorted_by, walk

Node = exp.Expr


class Compiler(Names):
    """Compiles one statement."""

    def compiled(self, node: Node) -> Term:
        """An expression, or a row of them."""
        return compile_expression(self, node)

    def single(self, node: Node) -> Term:
        """An expression that must be one value."""
        return single(self, node)

    def nested(self, node: Node, columns: int = 0, limits: bool = True) -> tuple[Query, tuple[Field, ...]]:
        """A query inside an expression (see `Frame`), and the columns of the queries around it that it reads."""
        scope = Scope(outer=self.scope)
        query = self.query(node, scope, columns, limits)
        return query, tuple(dict.fromkeys(scope.captured))

    # Queries -------------------------------------------------------------------------------------------------------

    def query(self, node: Node, scope: Scope | None = None, columns: int = 0, limits: bool = True) -> Query:
        """A query of any form, in parentheses or not."""
        frame = Frame(scope or Scope(), columns=columns, limits=limits)
        self.frames.append(frame)
        try:
            ctes.define(self, node)
            while isinstance(node, exp.Subquery) and not _modified(node):
                node = node.this
                ctes.define(self, node)
            if isinstance(node, exp.Subquery):
                found = unions.parenthesised(self, node)
            elif isinstance(node, exp.SetOperation):
                found = unions.set_operation(self, node)
            elif isinstance(node, exp.Select) and (node.args.get("group") or node).args.get("rollup"):
                found = self._rollup(node)
            elif isinstance(node, exp.Select):
                found = self._select(node)
            else:
                raise NotExactError(f"{type(node).__name__.upper()}")
            frame.check_place(len(found.terms), found.limited)
            prefix = ctes.prefix(frame)
            found.sql = prefix + found.sql
            if found.unsorted is not None:
                found.unsorted = prefix + found.unsorted[0], found.unsorted[1]
            return found
        finally:
            self.frames.pop()

    # SELECT --------------------------------------------------------------------------------------------------------

    def _rollup(self, node: Node) -> Query:
        """GROUP BY ... WITH ROLLUP: the groups in the order of their keys, each followed by the row that sums it up."""
        if node.args.get("distinct") or any(isinstance(n, exp.Window) for n in _own(node, ("expressions", "order"))):
            raise NotExactError("DISTINCT or a window beside WITH ROLLUP")
        count = len(node.args["group"].expressions)
        parts: list[Query] = []
        for level in range(count, -1, -1):
            self.frames.append(Frame(Scope(outer=self.scope.outer), ctes=self.frame.ctes))
            try:
                parts.append(self._select(node, level))
            finally:
                self.frames.pop()
        order = node.args.get("order")
        keys = [f"q.o{k}{down(o)}" for k, o in enumerate(order.expressions if order else ())]
        keys += [term for k in range(count) for term in (f"q.r{k}", f"q.k{k}")]
        columns = ", ".join(f"q.c{k} AS c{k}" for k in range(len(parts[0].terms)))
        union = " UNION ALL ".join(p.sql for p in parts)
        first = parts[0]
        first.sql = f"SELECT {columns} FROM ({union}) AS q{sorted_by(keys)}{self.limit(node)}"
        first.terms, first.keys = [Term(f"q.c{k}", t.kind, t.letters) for k, t in enumerate(first.terms)], []
        return first

    def _select(self, node: Node, level: int | None = None) -> Query:
        frame, scope = self.frame, self.frame.scope
        frame.node = node
        check_parts(node)
        if not node.expressions:
            raise NotExactError("SELECT of nothing")
        frame.clause = "on clause"
        tables = add_tables(self, node)
        try:
            self._check_names(node)
            where = [truth(single(self, n)) for n in self._in("where clause", node, "where")]
            add_joins(self, tables)
        except MySqlError:
            self._blame(node)
            raise
        counted = any(map(aggregates.is_aggregate, _own(node, ("expressions", "having"))))
        group = node.args.get("group")
        if group is not None and not group.expressions:
            raise NotExactError("GROUP BY of that form")
        modelled = bool(scope.sources) and all(s.table is not None for s in scope.sources)
        base = tables.base if group is not None and not tables.natural and not modelled else None
        if group is not None and base is None and tables.sql:
            scope.export, scope.numbered = {}, self.fresh("g")
        frame.grouped = group is not None or counted
        frame.groups = self._group(node, group)
        if group is not None and not tables.sql and scope.captured:
            raise NotExactError("GROUP BY of an outer column without FROM")
        frame.keys = frozenset(t.sql for t in frame.groups)
        frame.rolled = frozenset(t.sql for t in frame.groups[level:]) if level is not None else frozenset()
        items = self._items(node)
        having = self._having(node, items)
        order = self._ordered(node, items)
        distinct = node.args.get("distinct")
        if distinct and frame.groups and level is None and not frame.windows:
            shown = {t.sql for t in (i.term for i in items)}
            distinct = None if all(g.sql in shown for g in frame.groups) else distinct  # no two rows are the same
        if not frame.grouped and any(map(aggregates.is_aggregate, _own(node, ("order",)))):
            raise MySqlError(errors.ORDER_AGGREGATED)
        frame.check_place(len(items), node.args.get("limit") is not None)
        facts = grouping.Facts(self, node)
        if frame.grouped and not self.lenient:
            grouping.check(self, facts, items, [t for t, _ in order], having, grouped=group is not None)
        if level is None:
            order = [(t, d) for t, d in order if t.kind.name != "null" and not self._outer(t)]
        if having is not None and not frame.grouped:
            where.append(truth(having))
            having = None
        read, same = None, False
        if modelled and level is None:
            alone = distinct and not frame.grouped and len(scope.sources) == 1
            if alone and _unique(items, scope.sources[0]):
                distinct = alone = None
            same = bool(alone)
            keys = [i.term for i in items] if same else frame.groups
            read = reading(self, node, tables, keys, order, bool(frame.groups) and _sorts(node))
        if read is not None:
            tables.natural, tables.led = read.terms, []
        source, first, placed = self._from(node, tables, where, read, base)
        if frame.groups:
            source += " GROUP BY " + (", ".join(map(group_key, frame.groups[:level])) or "NULL")
        if having is not None and frame.groups:
            source += f" HAVING {truth(having)}"
        names = [i.name for i in items]
        terms = [i.term for i in items]
        found = Query(
            "", names, terms, one_row=frame.grouped and not frame.groups, limited=node.args.get("limit") is not None
        )
        found.keys = [frozenset(n.lower() for n in names)] if distinct else grouping.keys_of(frame.groups, items)
        if not frame.grouped and len(self.frames) > 1:
            found.follow = grouping.follow_of(self, facts, items)
        if level is not None:
            columns = [f"{t.sql} AS c{k}" for k, t in enumerate(terms)]
            columns += [f"{order_key(t)} AS o{k}" for k, (t, _) in enumerate(order)]
            for k, t in enumerate(frame.groups):
                columns += [f"{int(k >= level)} AS r{k}", f"{order_key(t) if k < level else 'NULL'} AS k{k}"]
            found.sql = f"SELECT {', '.join(columns)}{source}"
            return found
        ties = [first] if frame.groups and first else []
        named = frame.groups[0].field if len(frame.groups) == 1 else None
        by_index = base is not None and named is not None and named.source.covered(named.name.lower())
        if frame.groups and (by_index or _sorts(node)):
            ties = [order_key(t) for t in frame.groups]
        if found.one_row:
            order = []
        if not frame.grouped and tables.natural:
            ties = tables.natural
        if frame.windows:  # rows leave in the order for which the last window sorted them
            ties = [*list(frame.windows)[-1], *([placed] if placed else ties)]
        if having is not None and found.one_row:
            shown = ", ".join(f"q.c{k} AS c{k}" for k in range(len(terms)))
            inner = ", ".join([*(f"{t.sql} AS c{k}" for k, t in enumerate(terms)), f"{truth(having)} AS h"])
            found.sql = f"SELECT {shown} FROM (SELECT {inner}{source}) AS q WHERE q.h{self.limit(node)}"
            return found
        if not distinct:
            top = len(self.frames) == 1  # what is printed has all its digits
            shown = ", ".join(f"{t.exact if top and t.exact else t.sql} AS c{k}" for k, t in enumerate(terms))
            keys = [order_key(t) + d for t, d in order]
            found.sql = f"SELECT {shown}{source}{sorted_by(keys + ties)}{self.limit(node)}"
            windowed = bool(frame.windows) or any(i.windowed for i in items)
            if read is not None and not read.sorted and keys and ties and not windowed:
                sized = terms if frame.groups or _asked(keys) else []
                kind = sorting(read, node, [t for t, _ in order], sized, scope.sources)
                self._filesort(found, shown, source, read, keys, ties, kind)
            return found
        if order and read is not None and same:  # it is a GROUP BY, by ORDER BY's columns first
            order += [(t, "") for t in terms if t.sql not in {o.sql for o, _ in order}]
        return self._distinct(node, found, source, order, ties)

    def _from(
        self, node: Node, tables: Tables, where: list[str], read: Reading | None, base: str | None
    ) -> tuple[str, str, str]:
        """FROM and WHERE; what the first row of a group is known by; and what numbers rows that a window has sorted."""
        frame, scope = self.frame, self.scope
        wheres = f" WHERE {' AND '.join(f'({w})' for w in where)}" if where else ""
        if tables.led and not where and not scope.sources[0].indexed & scope.sources[0].used():
            first, alias = tables.leading, tables.leading.rsplit(" ", 1)[1]
            tables.sql = f"(SELECT * FROM {first}{sorted_by(tables.led)} LIMIT -1) AS {alias}{tables.sql[len(first) :]}"
        row = "(SELECT 1)" if node.args.get("group") is not None else ""  # SQLite groups no rows but those of a table
        source = f" FROM {tables.sql or row}{wheres}" if tables.sql or row else wheres
        if scope.export is not None:
            return self._numbered(source, tables, read), f"min({scope.numbered}.rn)", ""
        first = f"min({base}.rowid)" if base is not None else ""
        sees_order = frame.windows or (frame.grouped and tables.natural and _scanned(node, scope.sources[0]))
        if not (tables.natural and tables.base is not None and sees_order):
            return source, first, ""
        once = read is not None and not scope.captured and (read.rows or 0) <= _FEW
        if once and len(frame.windows) == 1 and not frame.grouped:
            kind, name = Sorting(any(t.text for _, _, t in frame.sorted), queue=False), self.fresh("sorted_")
            inner = f"SELECT *, dense_rank() OVER ({sorted_by(list(*frame.windows))[1:]}) AS p_"
            inner += f", row_number() OVER ({sorted_by(tables.natural)[1:]}) AS n_ FROM {tables.sql}{wheres}"
            source = f" FROM ({filesort.sql(inner, f'{name}.*', name, kind)}) AS {tables.base}"
            return source, first, f"{tables.base}.w_"
        source = f" FROM (SELECT * FROM {tables.sql}{sorted_by(tables.natural)} LIMIT -1) AS {tables.base}{wheres}"
        return source, first, ""

    def _numbered(self, source: str, tables: Tables, read: Reading | None) -> str:
        """FROM, with the rows numbered (rn) in the order in which MySQL's temporary table sees them."""
        groups, scope = self.frame.groups, self.scope
        assert scope.export is not None
        columns = [f"{f.sql} AS {name}" for f, name in scope.export.items()]
        if not tables.natural:
            inner = f"SELECT {', '.join([*columns, 'row_seen() AS rn'])}{source} LIMIT -1"
            return f" FROM ({inner}) AS {scope.numbered}"
        lead = f", dense_rank() OVER ({sorted_by(read.lead)[1:]}) AS a_" if read is not None and read.lead else ""
        inner = f"SELECT {', '.join(columns) or '1'}{lead}{source}{sorted_by(tables.natural)} LIMIT -1"
        inner = f"SELECT r.*, row_seen() AS rn FROM ({inner}) AS r LIMIT -1"
        if read is not None and not scope.captured and read.filed and read.filed <= _FEW:
            kind = Sorting(any(t.text for t in groups), queue=False, leading=bool(read.lead))
            places = sorted_by([order_key(t) for t in groups])[1:]
            numbers = f"dense_rank() OVER ({places}) AS p_, row_number() OVER (ORDER BY rn) AS n_"
            inner, name = f"SELECT *, {numbers} FROM ({inner}) AS {scope.numbered}", self.fresh("sorted_")
            listed = ", ".join(f"{name}.{n}" for n in scope.export.values()) or "1"
            inner = f"SELECT *, w_ AS rn FROM ({filesort.sql(inner, listed, name, kind)})"
        return f" FROM ({inner}) AS {scope.numbered}"

    def _filesort(
        self, found: Query, shown: str, source: str, read: Reading, keys: list[str], ties: list[str], kind: Sorting
    ) -> None:
        """Lets rows that ORDER BY sees alike come as MySQL's filesort leaves them: here, or once all are read."""
        numbered = f"dense_rank() OVER ({sorted_by(keys)[1:]})"
        if read.first:
            numbered = f"dense_rank() OVER ({sorted_by(read.first)[1:]}) AS a_, {numbered}"
        columns = [f"c{k}" for k in range(len(found.terms))]
        if len(self.frames) > 1:
            # Not again and again, for rows of a query around it.
            if not self.scope.captured and kind.limit is not None and (read.rows or 0) <= _FEW:
                name = self.fresh("sorted_")
                listed = ", ".join(f"{name}.{column}" for column in columns)
                inner = f"SELECT {shown}, {numbered} AS p_, row_number() OVER ({sorted_by(ties)[1:]}) AS n_{source}"
                found.sql = f"SELECT {', '.join(columns)} FROM ({filesort.sql(inner, listed, name, kind)})"
            return
        shown_alike = [(k, t) for k, t in enumerate(found.terms) if not t.exact]  # else a text is shown
        places = {t.sql + d: f"q.c{k}{d}" for k, t in shown_alike for d in ("", " DESC")}
        if _asked(keys) and not read.first and places.keys() >= set(keys):
            inner = f"SELECT r.*, row_seen() AS n_ FROM (SELECT {shown}{source}{sorted_by(ties)} LIMIT -1) AS r"
            numbered = f"dense_rank() OVER ({sorted_by([places[k] for k in keys])[1:]})"
            listed = ", ".join(f"q.{column}" for column in columns)
            found.unsorted = f"SELECT {listed}, {numbered} FROM ({inner} LIMIT -1) AS q ORDER BY q.n_", kind
        else:
            if read.leads is not None and not _asked(keys):
                rowid, lead = read.leads
                places = f"dense_rank() OVER ({sorted_by(keys)[1:]})"
                kind = replace(kind, leads=f"SELECT {rowid}, {places}{lead}{sorted_by(read.first)}")
                numbered = f"{rowid} AS a_, {places}"
            found.unsorted = f"SELECT {shown}, {numbered}{source}{sorted_by(ties)}", kind

    def _distinct(self, node: Node, found: Query, source: str, order: list[tuple[Term, str]], ties: list[str]) -> Query:
        if not self.lenient:
            self._check_distinct(found.terms, order)
        keys = [group_key(t) for t in found.terms]
        if not order and not ties and not any("text_key(" in k for k in keys):
            shown = ", ".join(f"{k} AS c{n}" for n, k in enumerate(keys))
            found.sql = f"SELECT DISTINCT {shown}{source}{self.limit(node)}"
            return found
        columns = [f"{t.sql} AS c{k}" for k, t in enumerate(found.terms)]
        columns += [f"{order_key(t)} AS o{k}" for k, (t, _) in enumerate(order)]
        inner = f"SELECT {', '.join(columns)}{source}{sorted_by(ties)} LIMIT -1"
        inner = f"SELECT q.*, row_seen() AS rn FROM ({inner}) AS q LIMIT -1"
        terms = [Term(f"q.c{k}", t.kind, t.letters, binary=t.binary) for k, t in enumerate(found.terms)]
        sorting = [f"q.o{k}{d}" for k, (_, d) in enumerate(order)] + ["min(q.rn)"]
        shown = ", ".join(f"q.c{k} AS c{k}" for k in range(len(terms)))
        grouped = f" GROUP BY {', '.join(map(group_key, terms))}"
        found.sql = f"SELECT {shown} FROM ({inner}) AS q{grouped}{sorted_by(sorting)}{self.limit(node)}"
        found.terms = terms
        return found

    def _check_distinct(self, terms: list[Term], order: list[tuple[Term, str]]) -> None:
        selected = {t.sql for t in terms}
        fields = {t.field for t in terms}
        for number, (term, _) in enumerate(order, 1):
            if term.sql in selected:
                continue
            place = f"Expression #{number} of ORDER BY clause is not in SELECT list"
            if term.one:
                raise MySqlError(f"{place}, contains aggregate function; this is incompatible with DISTINCT")
            for column in term.loose:
                if column not in fields and column.source in self.scope.sources:
                    name = full_name(column)
                    raise MySqlError(
                        f"{place}, references column '{name}' which is not in SELECT list; this is incompatible with"
                        " DISTINCT"
                    )

    def _check_names(self, node: Node) -> None:
        """MySQL looks for the select list's columns and functions before it reads any condition."""
        for _, one in self._expanded(node):
            for part in walk(one):
                calls.check_known(self, part)
                if not isinstance(part, exp.Column) or isinstance(part.this, exp.Star) or windows.sorts(part):
                    continue
                if not calls.is_unit(part):
                    self.scope.find(part.name, part.text("table"), part.text("db"), "field list")

    def _blame(self, node: Node) -> None:
        """Raises what MySQL says first: the select list is read from left to right, with the queries in it."""
        self._blamed += 1
        if self._blamed <= _BLAMED:
            self._items(node)

    def _in(self, clause: str, node: Node, part: str) -> list[Node]:
        self.frame.clause, self.frame.aggregates = clause, False
        found = node.args.get(part)
        return [] if found is None else [found.this]

    def _group(self, node: Node, group: Node | None) -> list[Term]:
        frame = self.frame
        frame.clause, frame.aggregates = "group statement", False
        if group is None:
            return []
        terms = []
        for one in group.expressions:
            while isinstance(one, exp.Paren):
                one = one.this
            if isinstance(one, exp.Literal) and not one.is_string:
                selected = self._expanded(node)
                _, one = selected[self.position(one, len(selected), "group statement")]
                if any(aggregates.is_aggregate(n) or isinstance(n, exp.Window) for n in walk(one)):
                    raise MySqlError(f"Can't group on '{self._written(one)}'")
            terms.append(self._grouping_term(one))
        return terms

    def _grouping_term(self, one: Node) -> Term:
        """An expression of GROUP BY.

        A name of the select list is one there, but where the tables have just one column of that name, it is that
        (`find_order_in_list` of the server's sql_resolver.cc).
        """
        if isinstance(one, exp.Column) and not one.table and len(self.scope.candidates(one.name)) != 1:
            if (term := self._by_alias(one.name)) is not None:
                return term
        elif any(map(aggregates.is_aggregate, walk(one))):
            raise MySqlError(errors.GROUP_MISUSED)
        return single(self, one)

    def column(self, node: Node) -> Term:
        alone = not node.text("table") and self.clause == "group statement"
        if alone and not self.scope.candidates(node.name) and (term := self._by_alias(node.name)) is not None:
            return term
        return super().column(node)

    def _by_alias(self, name: str) -> Term | None:
        """What a name of GROUP BY means in the select list."""
        assert self.frame.node is not None
        selected = self._expanded(self.frame.node)
        columns = [self._column_of(n) if called.lower() == name.lower() else None for called, n in selected]
        place = self.selected(name, zip((called for called, _ in selected), columns, strict=True))
        if place is None:
            return None
        _, one = selected[place]
        if any(aggregates.is_aggregate(n) or isinstance(n, exp.Window) for n in walk(one)):
            raise MySqlError(f"Can't group on '{name}'")
        self.frame.clause = "field list"
        term = single(self, one)
        self.frame.clause = "group statement"
        return term

    def _column_of(self, node: Node) -> Field | None:
        if not isinstance(node, exp.Column):
            return None
        return self.scope.find(node.name, node.text("table"), node.text("db"), "field list")[0]

    def _expanded(self, node: Node) -> list[tuple[str, Node]]:
        """The select list's expressions with their names, the stars written out."""
        found: list[tuple[str, Node]] = []
        for one in node.expressions:
            if isinstance(one, exp.Star) or (isinstance(one, exp.Column) and isinstance(one.this, exp.Star)):
                found += [(f.name, exp.column(f.name, f.source.alias)) for f in self._starred(one)]
            else:
                named = isinstance(one, (exp.Alias, exp.Column))
                found.append((one.alias_or_name if named else "", one.unalias()))
        return found

    def _starred(self, one: Node) -> list[Field]:
        if isinstance(one, exp.Star):
            if one.args.get("except_") or one.args.get("replace"):
                raise NotExactError("Such a star")
            if not self.scope.sources:
                raise MySqlError("No tables used")
            return [f.used() for f in self.scope.star]
        source = self.scope.named(one.text("table"), one.text("db"))
        if source is None:
            raise MySqlError(f"Unknown table '{one.text('table')}'")
        return [f.used() for f in source.fields]

    def _items(self, node: Node) -> list[Item]:
        frame = self.frame
        frame.clause, frame.aggregates = "field list", True
        items: list[Item] = []
        for place, one in enumerate(node.expressions):
            if isinstance(one, exp.Star) and place:  # a star alone comes first
                raise NotExactError("A star after other columns")
            if isinstance(one, exp.Star) or (isinstance(one, exp.Column) and isinstance(one.this, exp.Star)):
                for found in self._starred(one):
                    term = Term(self.scope.sql(found), found.kind, found.letters, loose=(found,), field=found)
                    items.append(Item(found.name, self.grouped(term)))
                continue
            term = self._printed(node, single(self, one.unalias()), one)
            windowed = any(isinstance(n, exp.Window) for n in walk(one))
            if isinstance(one, exp.Alias):
                items.append(Item(one.alias, term, windowed))
            else:
                # How an expression is written is a name that only a query around this one can use.
                nested = len(self.frames) > 1
                name = one.name if isinstance(one, exp.Column) else self._written(one) if nested else ""
                items.append(Item(name, term, windowed))
        return items

    def _printed(self, node: Node, term: Term, one: Node) -> Term:
        """A decimal of CASE or IF has the decimals of the value that it is, unless the rows pass a temporary table."""
        stored = (
            len(self.frames) > 1 or node.args.get("distinct") or any(isinstance(n, exp.Window) for n in node.walk())
        )
        if self.frame.groups and not any(map(aggregates.is_aggregate, walk(one))):
            stored = True
        if len(self.scope.sources) > 1 and not self.frame.grouped and node.args.get("order") is not None:
            places = {c.text("table").lower() for c in node.args["order"].find_all(exp.Column)}
            stored = stored or len(places) > 1
        if not term.own or stored:
            return term
        return replace(term, kind=replace(term.kind, own=True), exact=term.own)

    def _written(self, node: Node) -> str:
        """An expression as it is written, which is its name."""
        places = [(n.meta["start"], n.meta["end"]) for n in node.walk() if "start" in n.meta]
        if isinstance(node, exp.Literal):
            return str(node.this)
        if not places:
            return node.sql(dialect="mysql")
        start, end = min(p[0] for p in places), max(p[1] for p in places)
        text = self.statement
        depth = text.count("(", start, end + 1) - text.count(")", start, end + 1)
        while depth > 0 and (close := text.find(")", end + 1)) >= 0:
            depth += text.count("(", end + 1, close) - 1
            end = close
        return text[start : end + 1]

    def _having(self, node: Node, items: list[Item]) -> Term | None:
        frame = self.frame
        frame.clause, frame.aggregates, frame.items = "having clause", True, items
        having = node.args.get("having")
        return None if having is None else single(self, having.this)

    def _ordered(self, node: Node, items: list[Item]) -> list[tuple[Term, str]]:
        frame = self.frame
        frame.clause, frame.aggregates, frame.items = "order clause", True, items
        order = node.args.get("order")
        found = []
        for one in order.expressions if order is not None else ():
            found.append((self._order_term(one.this, items), down(one)))
        return found

    def _order_term(self, node: Node, items: list[Item]) -> Term:
        while isinstance(node, exp.Paren):
            node = node.this
        if isinstance(node, exp.Literal):
            if node.is_string:
                return Term("NULL", NULL)
            return items[self.position(node, len(items), "order clause")].term
        if isinstance(node, exp.Column) and not node.table and (item := self.item(node.name)) is not None:
            return item.term
        term = single(self, node)
        varies = any(isinstance(n, (exp.Column, exp.Query)) or aggregates.is_aggregate(n) for n in node.walk())
        return term if varies else Term("NULL", NULL)  # a constant, such as -1, orders nothing and is no place

    def _outer(self, term: Term) -> bool:
        """Whether it is a column of a query around this one, so the same in all rows (SQLite sorts by none)."""
        return term.field is not None and all(term.field.source is not source for source in self.frame.scope.sources)

    def position(self, node: Node, most: int, clause: str) -> int:
        """The place, from 0, of a column of the select list that is named by a number."""
        if not node.this.isdigit() or not 1 <= int(node.this) <= most:
            raise errors.no_column(node.this, clause)
        return int(node.this) - 1

    def limit(self, node: Node) -> str:
        """LIMIT and OFFSET in SQLite's words."""
        limit, offset = node.args.get("limit"), node.args.get("offset")
        if limit is None:
            return ""
        if isinstance(limit, exp.Fetch):
            raise NotExactError("FETCH")
        said = []
        for part in (limit, offset):
            if part is None:
                continue
            value = part.expression
            if isinstance(value, exp.Column):
                raise MySqlError(f"Undeclared variable: {value.name}")
            if not isinstance(value, exp.Literal) or value.is_string or not value.this.isdigit():
                raise NotExactError("LIMIT of what is no number")
            said.append(str(min(int(value.this), 2**62)))
        return f" LIMIT {' OFFSET '.join(said)}"


_FEW = 10_000
"""Rows up to which those of a query inside another are sorted as MySQL does."""


def _asked(keys: list[str]) -> bool:
    """Whether a query is sorted by: then what is shown is worked out before it is sorted."""
    return any("(SELECT" in key for key in keys)


def _unique(items: list[Item], source: Source) -> bool:
    """Whether no two rows of a table can be shown alike."""
    names = {i.term.field.name.lower() for i in items if i.term.field is not None}
    return any(key <= names for key in source.keys)


_BLAMED = 20
"""Wrong queries of a statement of which the select list is read for its own errors."""


def _modified(node: Node) -> bool:
    return any(node.args.get(k) for k in ("order", "limit", "offset"))


def _own(node: Node, parts: tuple[str, ...]) -> Iterator[Node]:
    for part in parts:
        found: Any = node.args.get(part)
        for one in found if isinstance(found, list) else [found] if found is not None else ():
            yield from walk(one)


def _sorts(node: Node) -> bool:
    """Whether MySQL sorts the rows to group them: where it counts distinct values or joins texts."""
    for one in _own(node, ("expressions", "having", "order")):
        if isinstance(one, exp.GroupConcat) or (aggregates.is_aggregate(one) and one.find(exp.Distinct)):
            return True
    return False


def _scanned(node: Node, source: Source) -> bool:
    """Whether aggregates to which the rows' order matters certainly see all of a table, by its key.

    Another index might be read instead, where one has a column that is used.
    """
    found = [n for n in _own(node, ("expressions", "having")) if aggregates.is_aggregate(n)]
    return any(str(n.this).upper() != "COUNT" for n in found) and not source.indexed & source.used()
