"""What MySQL says of a query before it looks at any column: it reads all of it, and opens all its tables.

Decided here: reading goes through a SELECT in the order select list, FROM, WHERE and so on (`contextualize` of the
server's parse_tree_nodes.cc); a WITH is read where it is used, and not at all where it is not. Tables are opened as
they were read, but the first of FROM before all others (`LEX::first_lists_tables_same`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sqlglot import exp

from ipr.envs.sql import calls, errors
from ipr.envs.sql.errors import MySqlError
from ipr.envs.sql.schema import Schema

Node = exp.Expr


@dataclass
class _Name:
    """A query of WITH."""

    node: Node | None
    """None in a recursive one's own query."""
    names: Mapping[str, _Name] = field(default_factory=dict)
    """What was known before it."""
    used: bool = False


def check(schema: Schema, tree: Node, lenient: bool) -> None:
    """Raises MySqlError for what is no query of these tables. Takes away the queries of WITH that are not used.

    `lenient`: a table in FROM needs no name.
    """
    for node in tree.find_all(exp.Subquery) if not lenient else ():
        stands = isinstance(node.parent, (exp.From, exp.Join)) and node.arg_key == "this"
        if stands and not node.alias and isinstance(node.unnest(), exp.Query):
            raise MySqlError(errors.NO_ALIAS)
    reading = _Reading(schema)
    reading.query(tree, {})
    first = reading.first
    for table in sorted(reading.tables, key=lambda t: t is not first):
        schema.check_name(table.text("db"))
        schema.known(table.name)


class _Reading:
    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self.tables: list[Node] = []
        """Those of this database, as they are opened."""
        self.first: Node | None = None
        """The first of the outermost FROM."""

    def query(self, node: Node, names: Mapping[str, _Name]) -> None:
        with_ = node.args.get("with_")
        known = dict(names)
        recursive = with_ is not None and with_.args.get("recursive")
        for one in with_.expressions if with_ is not None else ():
            before = known | {one.alias.lower(): _Name(None)} if recursive else known
            known[one.alias.lower()] = _Name(one, dict(before))
        if isinstance(node, exp.Subquery):
            self.query(node.this, known)
        elif isinstance(node, exp.SetOperation):
            self.query(node.this, known)
            self.query(node.expression, known)
        elif isinstance(node, exp.Select):
            self._select(node, known)
        for part in ("order", "limit", "offset"):
            self._expression(node.args.get(part), known)
        if with_ is not None:
            used = [one for one in with_.expressions if known[one.alias.lower()].used]
            with_.set("expressions", used)
            if not used:
                node.set("with_", None)

    def _select(self, node: Node, names: Mapping[str, _Name]) -> None:
        for one in node.expressions:
            self._expression(one, names)
        from_ = node.args.get("from_")
        if from_ is not None and not (from_.this.name.upper() == "DUAL" and not node.args.get("joins")):
            if node.parent is None and isinstance(from_.this, exp.Table):
                self.first = from_.this
            aliases = set[tuple[str, str]]()
            self._table(from_.this, names, aliases)
            self._joins(node, names, aliases)
        for part in ("where", "group", "having", "windows"):
            found = node.args.get(part)
            for one in found if isinstance(found, list) else [found]:
                self._expression(one, names)

    def _joins(self, node: Node, names: Mapping[str, _Name], aliases: set[tuple[str, str]]) -> None:
        for join in node.args.get("joins") or ():
            self._table(join.this, names, aliases)
            self._expression(join.args.get("on"), names)

    def _table(self, node: Node, names: Mapping[str, _Name], aliases: set[tuple[str, str]]) -> None:
        database = ""
        if isinstance(node, exp.Subquery) and not isinstance(node.unnest(), exp.Query):  # tables in parentheses
            self._table(node.this, names, aliases)
            return self._joins(node, names, aliases)
        if not isinstance(node, exp.Table):
            self._expression(node, names)
        else:
            database, name = node.text("db").lower(), node.name.lower()
            found = names.get(name) if not database else None
            if found is not None:
                if not found.used and found.node is not None:  # what it says once, it says again
                    self.query(found.node.this, found.names)
                found.used = True
            elif database == "information_schema":
                self._schema.table(name, database, lambda: True)
            else:
                self.tables.append(node)
                database = database or self._schema.name
        alias = (database, node.alias_or_name.lower())
        if alias[1] and alias in aliases:
            raise MySqlError(f"Not unique table/alias: '{node.alias_or_name}'")
        aliases.add(alias)
        return self._joins(node, names, aliases)

    def _expression(self, node: Node | None, names: Mapping[str, _Name]) -> None:
        if node is None:
            return
        if isinstance(node, exp.Query):
            return self.query(node, names)
        if isinstance(node, (exp.Limit, exp.Offset)) and isinstance(node.expression, exp.Column):
            raise MySqlError(f"Undeclared variable: {node.expression.name}")
        for part in node.iter_expressions():
            self._expression(part, names)
        if isinstance(node, exp.Anonymous):
            calls.check_arguments(node)
        return None
