"""Practice in made-up databases: what the base model for SQL reads, instead of the library that a real model has read.

Decided here: a practice is of a pretrain database, whose tables are things that have nothing to do with each other,
under names drawn by chance. It begins with small questions (`questions.small`: the easy and the medium kinds), looks at
every table in any order, and answers one after another, each thought beginning with the question. So it teaches what a
reader of SQL knows (a question's words, the columns that they mean, the clauses that belong to them), in the words of
the expert's plan. Not in it: questions of the hard and the extra kinds (nested, ordered by counts, set operations),
to look only at the tables that a question needs, to end with `submit`, errors and how they are mended, and every
database and question of the other splits.
"""

from __future__ import annotations

import random

from ipr.envs.react import compose
from ipr.envs.sql import databases, questions
from ipr.envs.sql.databases import Table
from ipr.envs.sql.engine import Database
from ipr.envs.sql.expert import Parts
from ipr.envs.sql.world import Question
from ipr.types import Message, Step, Trajectory, derive_seed

LONGEST = 120
"""Characters of the rows that an answer of practice shows."""


def words() -> list[str]:
    """Words that shall be whole tokens, as questions, tables and columns write them."""
    things, labels, values = databases.words()
    names = [*(name for thing in things for name in thing), *labels]
    return [f" {form} '{form}'" for form in (*names, *map(str.capitalize, names), *values)] * 100


def repeat(task_id: str, seed: int) -> tuple[Message, ...]:
    """Some words again and again, as a question, a list of columns and a table write them."""
    rng = random.Random(derive_seed("sql", "repeat", task_id, seed))
    things, labels, values = databases.words()
    pool = [*(rng.choice(thing) for thing in rng.sample(things, 3)), *rng.sample(labels, 3), *rng.sample(values, 3)]
    some = rng.sample(pool, rng.randint(4, 8))
    forms = [str, repr, str.capitalize, str, repr, str.capitalize]
    rng.shuffle(forms)
    lists = [" ".join(map(form, some)) for form in forms]
    return Message("user", lists[0]), Message("assistant", "\n".join([f"Thought: {lists[1]}", *lists[2:]]))


def glance(task_id: str, seed: int) -> tuple[Message, ...]:
    """A table's columns, and where some words are among them, or a small question to it: short reading before long."""
    rng = random.Random(derive_seed("sql", "glance", task_id, seed))
    chance = rng.random()
    name = _name(task_id)
    schema = databases.schema("pretrain", name)
    if chance < 0.65:
        question = questions.small(name, rng)
        database = questions.database(question)
        parts = Parts(question.gold, database, question.text)
        seen = _described(database, [t for t in schema.tables if t.name in parts.tables])
        thought = f"{question.text} {parts.explained(seen.lower())}"
        turn = compose(thought, f"```sql\n{question.gold}\n```")
        both = [seen, question.text]
        rng.shuffle(both)
        return Message("user", "\n".join(both)), Message("assistant", turn)
    tables = rng.sample(schema.tables, rng.choice((1, 1, 1, 2)))
    seen = _described(questions.database(Question(name, "", "", "", "pretrain")), tables)
    words = [(column.label, f"{table.name}.{column.name}") for table in tables for column in table.columns]
    words += [(table.plural, table.name) for table in tables]
    known = {label for label, _ in words}
    asked = [(label, where) for label, where in words if sum(label == other for other, _ in words) == 1] or words[-1:]
    asked = rng.sample(asked, min(len(asked), rng.randint(2, 4)))
    asked += [(word, "nowhere") for word in rng.sample(databases.words()[1], rng.randint(0, 1)) if word not in known]
    rng.shuffle(asked)
    question = f"Where are {' and '.join(label for label, _ in asked)}?"
    found = ", ".join(f"{label} is {where}" for label, where in asked)
    return Message("user", f"{seen}\n{question}"), Message("assistant", f"Thought: {found}.")


def wander(task_id: str, seed: int, steps: int) -> Trajectory:
    """At most `steps` turns: tables, their columns, and then an answer to each of some small questions."""
    rng = random.Random(derive_seed("sql", "wander", task_id, seed))
    name = _name(task_id)
    asked = _asked(name, rng, steps - 4)
    database = questions.database(asked[0])
    tables = [table.name for table in databases.schema("pretrain", name).tables]
    rng.shuffle(tables)
    played: list[Step] = []
    seen = ""

    def say(thought: str, statement: str) -> str:
        answer = database.run(statement).text
        played.append(Step(compose(thought, f"```sql\n{statement}\n```"), answer))
        return answer

    say("I list the tables.", "SHOW TABLES")
    for table in tables:
        seen += say(f"I look at the columns of {table}.", f"DESC {table}").lower()
    for question in asked:
        parts = Parts(question.gold, database, question.text)
        say(f"{question.text} {parts.explained(seen)}", question.gold)
    return Trajectory(
        task_id=task_id,
        first_observation="Practice:\n" + "\n".join(question.text for question in asked),
        steps=tuple(played),
        reward=0.0,
        ending="truncated",
        policy="wanderer",
        seed=seed,
    )


def _asked(name: str, rng: random.Random, most: int) -> list[Question]:
    """Small questions with short answers."""
    found: dict[str, Question] = {}
    for _ in range(20 * most):
        question = questions.small(name, rng)
        if len(questions.database(question).run(question.gold).text) <= LONGEST:
            found[question.gold] = question
        if len(found) == most:
            break
    return list(found.values()) or [questions.small(name, rng)]


def _described(database: Database, tables: list[Table]) -> str:
    return "\n".join(f"{table.name}: {database.run(f'DESC {table.name}').text}" for table in tables)


def _name(task_id: str) -> str:
    """A pretrain database for a task, whatever its own question is about; neighbours share one, as making it costs."""
    names = databases.names("pretrain")
    return names[int(task_id.partition("/")[2]) // 6 % len(names)]
