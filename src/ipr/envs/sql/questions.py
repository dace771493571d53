"""Generated questions, each from its task id alone.

Decided here: a task id ("train/000123") is its own seed; its place decides the kind of question (`_KINDS`), the seed
the database, the columns, the values and the phrasing. A draw is thrown away when its answer is empty, too long or open
to dispute (a tie where the first are asked for), and when its query belongs to another split: queries are divided among
train, dev and seen by a hash, so that no query of one is asked in another. Unseen and pretrain have databases of their
own. Train's questions from `SHARED` on are about ever new databases (practice), as there are more of them than anybody
wrote queries for: who learns from few learns their names by heart. So are half of dev's, which stand for unseen's.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from functools import lru_cache

from ipr.envs.sql import databases, engine
from ipr.envs.sql.databases import Column, Schema, Table
from ipr.envs.sql.engine import Database
from ipr.envs.sql.world import Question
from ipr.types import IprError, derive_seed

SIZES = {"train": 8000, "dev": 500, "seen": 500, "unseen": 500, "pretrain": 50_000}
"""Generated questions of each split."""

SHARED = 4000
"""Questions of train about the databases that seen asks about, too."""
_TENTHS = {"dev": (8,), "seen": (9,), "train": tuple(range(8))}
"""The tenths of all queries that a split may ask."""
MOST_ROWS = 25


def task_ids(split: str) -> list[str]:
    if split not in SIZES:
        raise IprError(f"sql has no split '{split}'; there are {', '.join(SIZES)}")
    return [f"{split}/{k:06d}" for k in range(SIZES[split])]


def task_type(task_id: str) -> str:
    return _KINDS[_parts(task_id)[1] % len(_KINDS)][0]


@lru_cache(maxsize=4096)
def question(task_id: str) -> Question:
    """The question of a task id, always the same."""
    split, index = _parts(task_id)
    hardness, kind = _KINDS[index % len(_KINDS)]
    pool = _pool(split, index)
    attempt = 0
    while True:
        rng = random.Random(derive_seed("sql", "question", task_id, attempt))
        attempt += 1
        name = rng.choice(databases.names(pool))
        drawn = kind(rng, databases.schema(pool, name))
        if drawn is None or not drawn.gold or not _belongs(split, name, drawn.gold):
            continue
        found = engine.database(databases.source(pool, name))
        if _good(found, drawn):
            return Question(name, drawn.text[0].upper() + drawn.text[1:], drawn.gold, hardness, pool)


def small(name: str, rng: random.Random) -> Question:
    """A question of an easy or a medium kind to a pretrain database (see `play`)."""
    pool = "pretrain"
    found = engine.database(databases.source(pool, name))
    while True:
        hardness, kind = rng.choice(_KINDS)
        if hardness in ("easy", "medium"):
            drawn = kind(rng, databases.schema(pool, name))
            if drawn is not None and _good(found, drawn):
                return Question(name, drawn.text[0].upper() + drawn.text[1:], drawn.gold, hardness, pool)


def database(question: Question) -> Database:
    return engine.database(databases.source(question.where, question.database))


def deciding() -> Mapping[str, object]:
    return engine.deciding()


def session(question: Question) -> engine.Session:
    return engine.Shared(databases.source(question.where, question.database))


def _parts(task_id: str) -> tuple[str, int]:
    split, _, number = task_id.partition("/")
    if split not in SIZES or not re.fullmatch(r"[0-9]{6}", number) or int(number) >= SIZES[split]:
        last = f"train/{SIZES['train'] - 1:06d}"
        raise IprError(f"'{task_id}' is no generated question; ids run like train/000000 to {last}")
    return split, int(number)


def _pool(split: str, index: int) -> str:
    """Of databases."""
    if split in ("unseen", "pretrain"):
        return split
    practice = index >= SHARED if split == "train" else split == "dev" and index // len(_KINDS) % 2
    return "practice" if practice else "train"


def _belongs(split: str, name: str, gold: str) -> bool:
    return split not in _TENTHS or derive_seed("sql", "tenth", name, gold) % 10 in _TENTHS[split]


class Draw:
    """A question that may be asked: its text, its query, and a query that must have one row, if there is one."""

    def __init__(self, text: str, gold: str, undisputed: str = "") -> None:
        self.text, self.gold, self.undisputed = text, gold, undisputed


def _good(found: Database, drawn: Draw) -> bool:
    rows = found.run(drawn.gold).rows
    if not rows or len(rows) > MOST_ROWS or rows == ((None,),) or rows == ((0,),):
        return False
    return not drawn.undisputed or found.run(drawn.undisputed).rows == ((1,),)


# Words ---------------------------------------------------------------------------------------------------------------

_MORE = (("above", ">"), ("below", "<"), ("greater than", ">"), ("less than", "<"))
_FUNCTIONS = (("average", "AVG"), ("highest", "MAX"), ("lowest", "MIN"), ("total", "SUM"))


def _literal(value: object) -> str:
    return f"'{value}'" if isinstance(value, str) else str(value)


def _pick(rng: random.Random, columns: list[Column]) -> Column | None:
    return rng.choice(columns) if columns else None


def _table(rng: random.Random, schema: Schema, *needs: str) -> Table | None:
    """A table that has columns of each of these sorts ("words", "number", "names")."""
    able = [t for t in schema.tables if all(any(getattr(c, need) for c in t.columns) for need in needs)]
    return rng.choice(able) if able else None


def _column(rng: random.Random, table: Table, sort: str) -> Column:
    return rng.choice([c for c in table.columns if getattr(c, sort)])


def _other(rng: random.Random, table: Table, *taken: Column) -> Column | None:
    return _pick(rng, [c for c in table.columns if c not in taken])


def _condition(rng: random.Random, table: Table, *taken: Column, prefix: str = "") -> tuple[str, str, Column] | None:
    """A condition on a column that is not taken: its words after "whose", its SQL, and the column."""
    column = _pick(rng, [c for c in table.columns if c not in taken and (c.words or c.number)])
    if column is None:
        return None
    value = rng.choice(column.values)
    if column.words:
        return f"{column.label} is {value}", f"{prefix}{column.name} = {_literal(value)}", column
    words, sign = rng.choice(_MORE)
    return f"{column.label} is {words} {value}", f"{prefix}{column.name} {sign} {value}", column


def _second(
    rng: random.Random, table: Table, one: tuple[str, str, Column], *taken: Column, prefix: str = ""
) -> tuple[str, str, Column] | None:
    """A condition beside another: on another column, or on another word of the same."""
    two = _condition(rng, table, *taken, prefix=prefix)
    return None if two is None or two[1] == one[1] or (two[2] is one[2] and not two[2].words) else two


def _pair(rng: random.Random, schema: Schema, child: str = "", parent: str = "") -> tuple[Table, Table] | None:
    """A table and its parent, with columns of these sorts."""
    able = []
    for table in schema.tables:
        above = table.parent
        if above is None:
            continue
        if (not child or any(getattr(c, child) for c in table.columns)) and (
            not parent or any(getattr(c, parent) for c in above.columns)
        ):
            able.append((table, above))
    return rng.choice(able) if able else None


def _join(child: Table, parent: Table) -> str:
    return f"FROM {child.name} AS T1 JOIN {parent.name} AS T2 ON T1.{child.link} = T2.{parent.key}"


def _ask(rng: random.Random, what: str, ending: str = "?") -> str:
    """Asks for something, in one of several phrasings."""
    return rng.choice((f"what is {what}?", f"give {what}.", f"find {what}.", f"I would like to know {what}."))


def _list(rng: random.Random, what: str) -> str:
    return rng.choice((f"list {what}.", f"show {what}.", f"find {what}.", f"give {what}."))


def _number_of(rng: random.Random, what: str, verb: str = "are there") -> str:
    return rng.choice((f"how many {what} {verb}?", f"count the {what}.", f"what is the number of {what}?"))


# Easy ----------------------------------------------------------------------------------------------------------------


def _filtered(rng: random.Random, schema: Schema) -> Draw | None:
    table = rng.choice(schema.tables)
    shown = rng.choice(table.columns)
    condition = _condition(rng, table, shown)
    if condition is None:
        return None
    words, sql, _ = condition
    text = _list(rng, f"the {shown.label} of the {table.plural} whose {words}")
    return Draw(text, f"SELECT {shown.name} FROM {table.name} WHERE {sql}")


def _counted(rng: random.Random, schema: Schema) -> Draw | None:
    table = rng.choice(schema.tables)
    condition = _condition(rng, table)
    if condition is None:
        return None
    words, sql, _ = condition
    text = rng.choice(
        (
            f"how many {table.plural} are there whose {words}?",
            f"count the {table.plural} whose {words}.",
            f"what is the number of {table.plural} whose {words}?",
        )
    )
    return Draw(text, f"SELECT COUNT(*) FROM {table.name} WHERE {sql}")


def _summarised(rng: random.Random, schema: Schema) -> Draw | None:
    table = _table(rng, schema, "number")
    if table is None:
        return None
    column = _column(rng, table, "number")
    word, function = rng.choice(_FUNCTIONS)
    text = _ask(rng, f"the {word} {column.label} of all {table.plural}")
    return Draw(text, f"SELECT {function}({column.name}) FROM {table.name}")


def _different(rng: random.Random, schema: Schema) -> Draw | None:
    table = _table(rng, schema, "words")
    if table is None:
        return None
    column = _column(rng, table, "words")
    if rng.random() < 0.5:
        text = _number_of(rng, f"different values of {column.label}", f"do the {table.plural} have")
        if "do the" not in text:
            text = text.rstrip("?.") + f" that the {table.plural} have" + text[-1]
        return Draw(text, f"SELECT COUNT(DISTINCT {column.name}) FROM {table.name}")
    text = _list(rng, f"the different values of {column.label} that the {table.plural} have")
    return Draw(text, f"SELECT DISTINCT {column.name} FROM {table.name}")


# Medium --------------------------------------------------------------------------------------------------------------


def _first_few(rng: random.Random, schema: Schema) -> Draw | None:
    table = _table(rng, schema, "number")
    if table is None:
        return None
    column = _column(rng, table, "number")
    shown = _other(rng, table, column)
    if shown is None or len(column.values) < 6:
        return None
    count = rng.choice((1, 1, 2, 3, 5))
    word, order = rng.choice((("highest", "DESC"), ("lowest", "ASC")))
    ranked = sorted(column.values, reverse=order == "DESC")
    if len(set(ranked[: count + 1])) <= count:
        return None  # a tie
    if count == 1:
        text = _ask(rng, f"the {shown.label} of the {table.singular} with the {word} {column.label}")
    else:
        what = f"the {shown.label} of the {count} {table.plural} with the {word} {column.label}, the {word} first"
        text = _list(rng, what)
    return Draw(text, f"SELECT {shown.name} FROM {table.name} ORDER BY {column.name} {order} LIMIT {count}")


def _for_each(rng: random.Random, schema: Schema) -> Draw | None:
    table = _table(rng, schema, "words")
    if table is None:
        return None
    column = _column(rng, table, "words")
    text = rng.choice(
        (
            f"how many {table.plural} are there for each {column.label}? Give the {column.label} and the number.",
            f"list each {column.label} with the number of its {table.plural}.",
            f"for every {column.label} of the {table.plural}, show it and how many {table.plural} have it.",
        )
    )
    return Draw(text, f"SELECT {column.name}, COUNT(*) FROM {table.name} GROUP BY {column.name}")


def _summarised_for_each(rng: random.Random, schema: Schema) -> Draw | None:
    table = _table(rng, schema, "words", "number")
    if table is None:
        return None
    column, number = _column(rng, table, "words"), _column(rng, table, "number")
    word, function = rng.choice(_FUNCTIONS)
    text = rng.choice(
        (
            f"what is the {word} {number.label} of the {table.plural} for each {column.label}? "
            f"Give the {column.label} first.",
            f"list each {column.label} of the {table.plural} with its {word} {number.label}.",
            f"for every {column.label}, show it and the {word} {number.label} of its {table.plural}.",
        )
    )
    return Draw(text, f"SELECT {column.name}, {function}({number.name}) FROM {table.name} GROUP BY {column.name}")


def _of_parent(rng: random.Random, schema: Schema) -> Draw | None:
    pair = _pair(rng, schema)
    if pair is None:
        return None
    child, parent = pair
    shown = rng.choice(child.columns)
    named = _pick(rng, [c for c in parent.columns if c.names])
    if named is not None and rng.random() < 0.5:
        value = rng.choice(named.values)
        words, sql = f"{named.label} is {value}", f"T2.{named.name} = {_literal(value)}"
    else:
        condition = _condition(rng, parent, prefix="T2.")
        if condition is None:
            return None
        words, sql, _ = condition
    text = _list(rng, f"the {shown.label} of the {child.plural} of the {parent.plural} whose {words}")
    return Draw(text, f"SELECT T1.{shown.name} {_join(child, parent)} WHERE {sql}")


def _two_conditions(rng: random.Random, schema: Schema) -> Draw | None:
    table = rng.choice(schema.tables)
    shown = rng.choice(table.columns)
    one = _condition(rng, table, shown)
    two = one and _condition(rng, table, shown, one[2])
    if one is None or two is None:
        return None
    word, sql = rng.choice((("and", "AND"), ("or", "OR")))
    text = _list(rng, f"the {shown.label} of the {table.plural} whose {one[0]} {word} whose {two[0]}")
    return Draw(text, f"SELECT {shown.name} FROM {table.name} WHERE {one[1]} {sql} {two[1]}")


def _range_of(rng: random.Random, schema: Schema) -> Draw | None:
    table = _table(rng, schema, "number")
    if table is None:
        return None
    number = _column(rng, table, "number")
    condition = _condition(rng, table, number)
    if condition is None:
        return None
    words, sql, _ = condition
    text = _list(rng, f"the lowest and the highest {number.label} of the {table.plural} whose {words}")
    return Draw(text, f"SELECT MIN({number.name}), MAX({number.name}) FROM {table.name} WHERE {sql}")


# Hard ----------------------------------------------------------------------------------------------------------------


def _more_than(rng: random.Random, schema: Schema) -> Draw | None:
    table = _table(rng, schema, "words")
    if table is None:
        return None
    column, count = _column(rng, table, "words"), rng.randint(2, 6)
    text = rng.choice(
        (
            f"which {column.label} do more than {count} {table.plural} have?",
            f"list every {column.label} that more than {count} {table.plural} have.",
            f"find the values of {column.label} with more than {count} {table.plural}.",
        )
    )
    grouped = f"FROM {table.name} GROUP BY {column.name} HAVING COUNT(*) > {count}"
    return Draw(text, f"SELECT {column.name} {grouped}")


def _above_average(rng: random.Random, schema: Schema) -> Draw | None:
    table = _table(rng, schema, "number")
    if table is None:
        return None
    number = _column(rng, table, "number")
    shown = _other(rng, table, number)
    if shown is None:
        return None
    words, sign = rng.choice((("above", ">"), ("below", "<")))
    text = _list(rng, f"the {shown.label} of the {table.plural} whose {number.label} is {words} the average")
    nested = f"(SELECT AVG({number.name}) FROM {table.name})"
    return Draw(text, f"SELECT {shown.name} FROM {table.name} WHERE {number.name} {sign} {nested}")


def _without(rng: random.Random, schema: Schema) -> Draw | None:
    pair = _pair(rng, schema)
    if pair is None:
        return None
    child, parent = pair
    shown = rng.choice(parent.columns)
    condition = _condition(rng, child) if rng.random() < 0.6 else None
    whose, where = (f" whose {condition[0]}", f" WHERE {condition[1]}") if condition else ("", "")
    text = _list(rng, f"the {shown.label} of the {parent.plural} that have no {child.plural}{whose}")
    nested = f"(SELECT {child.link} FROM {child.name}{where})"
    return Draw(text, f"SELECT {shown.name} FROM {parent.name} WHERE {parent.key} NOT IN {nested}")


def _most(rng: random.Random, schema: Schema) -> Draw | None:
    pair = _pair(rng, schema)
    if pair is None:
        return None
    child, parent = pair
    shown = rng.choice(parent.columns)
    grouped = f"{_join(child, parent)} GROUP BY T2.{parent.key} ORDER BY COUNT(*) DESC LIMIT 1"
    text = _ask(rng, f"the {shown.label} of the {parent.singular} with the most {child.plural}")
    counts = f"SELECT COUNT(*) AS n FROM {child.name} GROUP BY {child.link}"
    once = f"SELECT COUNT(*) FROM ({counts}) AS c WHERE n = (SELECT MAX(n) FROM ({counts}) AS d)"
    return Draw(text, f"SELECT T2.{shown.name} {grouped}", once)


def _children_of_each(rng: random.Random, schema: Schema) -> Draw | None:
    pair = _pair(rng, schema, parent="names")
    if pair is None:
        return None
    child, parent = pair
    shown = _column(rng, parent, "names")
    condition = _condition(rng, child, prefix="T1.") if rng.random() < 0.5 else None
    whose, where = (f" whose {condition[0]}", f" WHERE {condition[1]}") if condition else ("", "")
    text = rng.choice(
        (
            f"how many {child.plural}{whose} does each {parent.singular} have? Give its {shown.label} and the number.",
            f"for every {parent.singular}, show its {shown.label} and the number of its {child.plural}{whose}.",
            f"list the {shown.label} of each {parent.singular} with the number of its {child.plural}{whose}.",
        )
    )
    return Draw(text, f"SELECT T2.{shown.name}, COUNT(*) {_join(child, parent)}{where} GROUP BY T2.{parent.key}")


def _summarised_children(rng: random.Random, schema: Schema) -> Draw | None:
    pair = _pair(rng, schema, child="number")
    if pair is None:
        return None
    child, parent = pair
    number = _column(rng, child, "number")
    condition = _condition(rng, parent, prefix="T2.")
    if condition is None:
        return None
    words, sql, _ = condition
    word, function = rng.choice(_FUNCTIONS)
    text = _ask(rng, f"the {word} {number.label} of the {child.plural} of the {parent.plural} whose {words}")
    return Draw(text, f"SELECT {function}(T1.{number.name}) {_join(child, parent)} WHERE {sql}")


# Extra ---------------------------------------------------------------------------------------------------------------


def _both(rng: random.Random, schema: Schema) -> Draw | None:
    """Set operations on one table: both, the one without the other, either."""
    table = _table(rng, schema, "words")
    if table is None:
        return None
    shown = _column(rng, table, "words")
    one = _condition(rng, table, shown)
    two = one and _second(rng, table, one, shown)
    if one is None or two is None:
        return None
    operation = rng.choice(("INTERSECT", "EXCEPT", "UNION"))
    first, second = f"{table.plural} whose {one[0]}", f"{table.plural} whose {two[0]}"
    between = {"INTERSECT": "and also", "EXCEPT": "but no", "UNION": "or"}[operation]
    text = rng.choice(
        (
            f"which values of {shown.label} have {first} {between} {second}?",
            f"find each {shown.label} that has {first} {between} {second}.",
            f"list the different values of {shown.label} with {first} {between} {second}.",
        )
    )
    start = f"SELECT {shown.name} FROM {table.name} WHERE"
    return Draw(text, f"{start} {one[1]} {operation} {start} {two[1]}")


def _parents_with_both(rng: random.Random, schema: Schema) -> Draw | None:
    pair = _pair(rng, schema, parent="names")
    if pair is None:
        return None
    child, parent = pair
    shown = _column(rng, parent, "names")
    one = _condition(rng, child, prefix="T1.")
    two = one and _second(rng, child, one, prefix="T1.")
    if one is None or two is None:
        return None
    words, operation = rng.choice((("and also", "INTERSECT"), ("but no", "EXCEPT")))
    text = _list(
        rng,
        f"the {shown.label} of the {parent.plural} that have {child.plural} whose {one[0]} "
        f"{words} {child.plural} whose {two[0]}",
    )
    start = f"SELECT T2.{shown.name} {_join(child, parent)} WHERE"
    return Draw(text, f"{start} {one[1]} {operation} {start} {two[1]}")


def _of_grandparent(rng: random.Random, schema: Schema) -> Draw | None:
    able = [t for t in schema.tables if t.parent is not None and t.parent.parent is not None]
    if not able:
        return None
    child = rng.choice(able)
    parent = child.parent
    assert parent is not None
    above = parent.parent
    assert above is not None
    shown = rng.choice(child.columns)
    condition = _condition(rng, above, prefix="T3.")
    if condition is None:
        return None
    words, sql, _ = condition
    joined = f"{_join(child, parent)} JOIN {above.name} AS T3 ON T2.{parent.link} = T3.{above.key}"
    if rng.random() < 0.4:
        text = _number_of(rng, f"{child.plural} of {parent.plural} of {above.plural} whose {words}")
        return Draw(text, f"SELECT COUNT(*) {joined} WHERE {sql}")
    text = _list(
        rng, f"the {shown.label} of the {child.plural} of the {parent.plural} of the {above.plural} whose {words}"
    )
    return Draw(text, f"SELECT T1.{shown.name} {joined} WHERE {sql}")


def _of_extreme_parent(rng: random.Random, schema: Schema) -> Draw | None:
    pair = _pair(rng, schema, parent="number")
    if pair is None:
        return None
    child, parent = pair
    number, shown = _column(rng, parent, "number"), rng.choice(child.columns)
    word, function = rng.choice((("highest", "MAX"), ("lowest", "MIN")))
    text = _list(
        rng, f"the {shown.label} of the {child.plural} of the {parent.singular} with the {word} {number.label}"
    )
    extreme = f"(SELECT {function}({number.name}) FROM {parent.name})"
    once = f"SELECT COUNT(*) FROM {parent.name} WHERE {number.name} = {extreme}"
    return Draw(text, f"SELECT T1.{shown.name} {_join(child, parent)} WHERE T2.{number.name} = {extreme}", once)


def _parents_of_many(rng: random.Random, schema: Schema) -> Draw | None:
    pair = _pair(rng, schema, parent="names")
    if pair is None:
        return None
    child, parent = pair
    shown, count = _column(rng, parent, "names"), rng.randint(2, 5)
    condition = _condition(rng, parent, shown, prefix="T2.")
    whose, where = (f" whose {condition[0]} and", f" WHERE {condition[1]}") if condition else ("", "")
    text = _list(
        rng,
        f"the {shown.label} and the number of {child.plural} of the {parent.plural}{whose} "
        f"that have at least {count} {child.plural}",
    )
    grouped = f"{_join(child, parent)}{where} GROUP BY T2.{parent.key} HAVING COUNT(*) >= {count}"
    return Draw(text, f"SELECT T2.{shown.name}, COUNT(*) {grouped}")


_KINDS: tuple[tuple[str, Callable[[random.Random, Schema], Draw | None]], ...] = (
    ("easy", _filtered),
    ("medium", _first_few),
    ("hard", _above_average),
    ("extra", _both),
    ("easy", _counted),
    ("medium", _of_parent),
    ("hard", _without),
    ("extra", _parents_with_both),
    ("easy", _summarised),
    ("medium", _for_each),
    ("hard", _most),
    ("extra", _of_grandparent),
    ("easy", _different),
    ("medium", _two_conditions),
    ("hard", _children_of_each),
    ("extra", _of_extreme_parent),
    ("easy", _filtered),
    ("medium", _summarised_for_each),
    ("hard", _summarised_children),
    ("extra", _parents_of_many),
    ("easy", _counted),
    ("medium", _range_of),
    ("hard", _more_than),
    ("extra", _both),
)
"""How hard, and what makes the question, in turn."""
