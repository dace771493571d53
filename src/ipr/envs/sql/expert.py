"""An expert that looks at tables and columns before it asks.

Decided here: it knows the gold query and writes it only when it has seen what the query needs: SHOW TABLES, DESC of
each table, the query, submit. Its thoughts are made from the query's parts and from what was shown. In some episodes it
errs first and mends it: it guesses the name of a table or of a column, or does not say whose column it means. Left out:
other ways to the same rows; a query that only comes near teaches nothing.
"""

from __future__ import annotations

import random
import re
from collections.abc import Generator

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from ipr.envs.react import compose
from ipr.envs.sql.engine import Database
from ipr.envs.sql.world import SUBMIT, Console, Question, Questions
from ipr.types import Outcome, Step, Trajectory, derive_seed

ERRS = 5
"""One episode in so many may begin with an error, where the query gives occasion for one."""


def play(questions: Questions, task_id: str, max_steps: int) -> Trajectory:
    """The expert's trajectory, of at most `max_steps` steps."""
    console = Console(questions)
    first = console.reset(task_id)
    question = questions.question(task_id)
    plan = _plan(question, questions.database(question), task_id, max_steps)
    steps: list[Step] = []
    invalid = 0
    outcome = None
    turn = next(plan)
    while True:
        outcome = console.step(turn)
        steps.append(Step(turn, outcome.observation))
        invalid += not outcome.valid
        if outcome.terminated or len(steps) == max_steps:
            ending = "terminated" if outcome.terminated else "truncated"
            return Trajectory(task_id, first, tuple(steps), outcome.reward, ending, policy="expert", invalid=invalid)
        turn = plan.send(outcome)


def _plan(question: Question, database: Database, task_id: str, max_steps: int) -> Generator[str, Outcome, None]:
    """The expert's turns, each after the outcome of the one before it."""
    query = _allowed(question.gold.strip().rstrip(";").strip(), database)
    parts = Parts(query, database, question.text)
    rng = random.Random(derive_seed("sql", "expert", task_id))
    errs = rng.randrange(ERRS) == 0 and max_steps >= 4 + len(parts.tables)
    error = _error(parts, database, rng) if errs else None
    kind, wrong, name = error or ("", "", "")
    why = "I do not know the tables yet, so I list them."
    if kind == "table":
        yield _say(f"I guess that there is a table {name} and look at its columns.", wrong)
        why = f"There is no table {name}, so I list the tables."
    yield _say(why, "SHOW TABLES")
    seen = ""
    tables = parts.tables[: max(0, max_steps - 3 - bool(error))]
    for k, table in enumerate(tables):
        why = f"Of {_and(tables)} I have seen {_and(tables[:k])}." if k else f"{question.text} {parts.where_tables()}"
        if kind == "column" and not k:
            yield _say(f"{why} I guess that {table} has a column {name} and try it.", wrong)
            why = f"There is no column {name}."
        seen += (yield _say(f"{why} I look at the columns of {table}.", f"DESC {_quoted(table)}")).observation.lower()
    why = f"Of {_and(tables)} I have seen {_and(tables)}. " if tables else ""
    why += f"{question.text} {parts.explained(seen)}"
    if kind == "whose":
        yield _say(why, wrong)
        why = f"More than one table has a column {name}, so I say which table I mean."
    outcome = yield _say(why, query)
    yield compose(f"{_seen(outcome)} That is what was asked, so I submit it.", SUBMIT)


def _allowed(query: str, database: Database) -> str:
    """A gold query as MySQL 8 takes it: written for SQLite, a few show columns that are not grouped, or name no table.

    Where that does not help, the query as it is; the episode then earns nothing.
    """
    if database.run(query).rows is not None:
        return query
    try:
        tree = sqlglot.parse_one(query, read="mysql")
    except (SqlglotError, RecursionError):
        return query
    for nested in tree.find_all(exp.Subquery):
        if isinstance(nested.parent, (exp.From, exp.Join)) and not nested.alias:
            nested.set("alias", exp.TableAlias(this=exp.to_identifier("found")))
    plain = tree.sql(dialect="mysql")
    if database.run(plain).rows is not None:
        return plain
    for select in tree.find_all(exp.Select):
        grouped = [g.sql() for g in (select.args.get("group") or exp.Group()).expressions]
        for item in select.expressions:
            if not item.find(exp.AggFunc) and item.unalias().sql() not in grouped:
                item.unalias().replace(exp.AnyValue(this=item.unalias().copy()))
    wanted, mended = database.run(query, lenient=True).rows, tree.sql(dialect="mysql")
    return mended if database.run(mended).rows == wanted else query


def _say(thought: str, statement: str) -> str:
    return compose(thought, f"```sql\n{statement}\n```")


def _quoted(name: str) -> str:
    return name if re.fullmatch(r"\w+", name) else f"`{name}`"


def _seen(outcome: Outcome) -> str:
    text = outcome.observation
    if text == "[]":
        return "No row fits."
    if text.endswith("..."):
        return "There are many rows."
    rows = len(re.findall(r"\((?:[^()']|'[^']*')*\)", text))
    return "There is one row." if rows == 1 else "There are some rows."


# What a query is made of ---------------------------------------------------------------------------------------------


class Parts:
    """The tables and columns that a query names, and what it does with them in words."""

    def __init__(self, query: str, database: Database, text: str = "") -> None:
        self.query = query
        self.text = text
        try:
            self.tree = sqlglot.parse_one(query, read="mysql")
        except (SqlglotError, RecursionError):
            self.tree = exp.select("1")
        found = [t.name for t in self.tree.find_all(exp.Table) if t.name.lower() in database.tables]
        self.tables = list(dict.fromkeys(database.tables[name.lower()] for name in found))
        self.tables.sort(key=lambda t: self._place(t))
        self._aliases = {t.alias_or_name.lower(): t.name for t in self.tree.find_all(exp.Table)}
        self.columns: dict[str, list[str]] = {table: [] for table in self.tables}
        """Table -> its columns in the query, as they are written there."""
        for column in self.tree.find_all(exp.Column):
            self._note(column, database)

    @property
    def about(self) -> str:
        return self.tables[0] if self.tables else "something"

    def _place(self, table: str) -> int:
        found = re.search(rf"\b{re.escape(table)}\b", self.query, re.IGNORECASE)
        return found.start() if found else len(self.query)

    def _note(self, column: exp.Column, database: Database) -> None:
        wanted = self._aliases.get(column.table.lower()) if column.table else None
        for table in self.tables:
            if wanted is not None and table.lower() != wanted.lower():
                continue
            if column.name.lower() in (c.lower() for c in database.columns(table)):
                if column.name.lower() not in (c.lower() for c in self.columns[table]):
                    self.columns[table].append(column.name)
                return

    def where_tables(self) -> str:
        """What the question calls the tables."""
        said = [(mentioned(table, self.text)[1], table) for table in self.tables]
        return ", ".join(f"{word} is {table}" if word else f"it needs {table}" for word, table in said) + "."

    def explained(self, seen: str) -> str:
        """What the question's words are called here, and then how the query puts it together."""
        said, hidden = [], []
        for table, columns in self.columns.items():
            for column in columns:
                place, word = mentioned(column, self.text)
                if f"'{column.lower()}'" not in seen:
                    hidden.append(f"{table} should have {column}, where its list is cut")
                elif word:
                    said.append((place, f"{word} is {table}.{column}"))
        found = [self.where_tables().rstrip("."), *(text for _, text in sorted(said)), *hidden]
        start = ", ".join(filter(None, found)) or "I have seen what there is"
        if isinstance(self.tree, exp.SetOperation):
            return f"{start}. {self._operation(self.tree)}"
        return f"{start}. I {self._select(self.tree)}."

    def _operation(self, tree: exp.SetOperation) -> str:
        first, second = self._select(tree.this), self._select(tree.expression)
        both = {exp.Intersect: "I keep what is in both", exp.Except: "I keep what is only in the first"}
        return f"First I {first}; then I {second}. {both.get(type(tree), 'I put both together')}."

    def _select(self, tree: exp.Expr) -> str:
        """A SELECT in words, its parts in the order in which they work."""
        if not isinstance(tree, exp.Select):
            return "write the query"
        said = []
        for join in tree.args.get("joins") or ():
            keys = _names(join)
            said.append(f"join {join.this.name}{f' by {_and(keys)}' if keys else ''}")
        where = tree.args.get("where")
        if where is not None:
            nested = " with a nested query" if where.find(exp.Select) else ""
            said.append(f"keep the rows by {_and(_names(where)) or 'a condition'}{nested}")
        if group := tree.args.get("group"):
            said.append(f"group by {_and(_names(group))}")
        if having := tree.args.get("having"):
            said.append(f"keep the groups by {_and(_calls(having)) or 'a condition'}")
        if order := tree.args.get("order"):
            down = any(o.args.get("desc") for o in order.find_all(exp.Ordered))
            said.append(f"sort by {_and(_calls(order) or _names(order))}{', highest first' if down else ''}")
        if limit := tree.args.get("limit"):
            count = limit.expression.sql() if limit.expression is not None else "1"
            said.append("take the first row" if count == "1" else f"take {count} rows")
        said.append(f"select {_and([_shown(e) for e in tree.expressions])}")
        return f"{', '.join(said[:-1])} and {said[-1]}" if len(said) > 1 else said[0]


def mentioned(name: str, text: str) -> tuple[int, str]:
    """Where a text says the last word of a table's or column's name, in the singular or plural, and how; (-1, "")."""
    words = re.findall(r"[a-z]+|[A-Z][a-z]*|[A-Z]+", name)
    if not words:
        return -1, ""
    word = words[-1].lower()
    forms = "|".join(map(re.escape, dict.fromkeys((word, _plural(word), _singular(word)))))
    found = re.search(rf"\b({forms})\b", text, re.IGNORECASE)
    return (found.start(), found[0]) if found else (-1, "")


def _and(words: list[str]) -> str:
    words = list(dict.fromkeys(words))
    return f"{', '.join(words[:-1])} and {words[-1]}" if len(words) > 1 else "".join(words)


def _names(part: exp.Expr) -> list[str]:
    """The columns of a part of a query, without those of queries nested in it."""
    inner = {id(c) for s in part.find_all(exp.Select) for c in s.find_all(exp.Column)}
    return [c.name for c in part.find_all(exp.Column) if id(c) not in inner]


def _calls(part: exp.Expr) -> list[str]:
    words = {exp.Count: "count", exp.Avg: "average", exp.Sum: "sum", exp.Max: "highest", exp.Min: "lowest"}
    return [_called(call, words[type(call)]) for call in part.find_all(*words)]


def _called(call: exp.Expr, word: str) -> str:
    names = _names(call)
    return f"{word} of {names[0]}" if names else word


def _shown(part: exp.Expr) -> str:
    if isinstance(part, exp.Star):
        return "all columns"
    return _and(_calls(part) or _names(part)) or part.sql(dialect="mysql")


# Errors that are mended ----------------------------------------------------------------------------------------------


def _error(parts: Parts, database: Database, rng: random.Random) -> tuple[str, str, str] | None:
    """A kind of error, a statement that makes it, and the name that is wrong; None where none can be made."""
    makers = [_wrong_table, _wrong_column, _whose]
    rng.shuffle(makers)
    for make in makers:
        if (made := make(parts, rng)) and database.run(made[1]).kind == "error":
            return made
    return None


def _wrong_table(parts: Parts, rng: random.Random) -> tuple[str, str, str] | None:
    """One for many, or many for one."""
    if not parts.tables:
        return None
    name = parts.tables[0].lower()
    name = _singular(name) if name.endswith("s") else _plural(name)
    return "table", f"DESC {_quoted(name)}", name


def _wrong_column(parts: Parts, rng: random.Random) -> tuple[str, str, str] | None:
    """The last word of a column's name, or the table's name put before it."""
    columns = [c for c in parts.columns.get(parts.about, ()) if not c.lower().endswith("id")]
    if not columns:
        return None
    column = rng.choice(columns)
    last = column.split("_")[-1]
    name = last if last != column and len(last) > 2 else f"{_singular(parts.about)}_{column}".lower()
    return "column", f"SELECT {_quoted(name)} FROM {_quoted(parts.about)}", name


def _singular(word: str) -> str:
    return f"{word[:-3]}y" if word.endswith("ies") else word.removesuffix("s")


def _plural(word: str) -> str:
    return f"{word[:-1]}ies" if word.endswith("y") else f"{word}s"


def _whose(parts: Parts, rng: random.Random) -> tuple[str, str, str] | None:
    """A column of two tables without the table's name."""

    def shared(column: exp.Column) -> bool:
        owners = [t for t, columns in parts.columns.items() if column.name.lower() in map(str.lower, columns)]
        return bool(column.table) and len(owners) > 1

    column = next((c for c in parts.tree.find_all(exp.Column) if shared(c)), None)
    if column is None:
        return None
    query = re.sub(rf"\b{re.escape(column.table)}\.{re.escape(column.name)}\b", column.name, parts.query)
    return ("whose", query, column.name) if query != parts.query else None
