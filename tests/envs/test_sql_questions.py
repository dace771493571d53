"""Generated questions: always the same, splits apart, answered by the expert from what it sees."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from ipr.envs.react import action_of
from ipr.envs.sql import databases, expert, questions
from ipr.types import IprError
from tests.envs.thoughts import thought_of

SPLITS = ("train", "dev", "seen", "unseen", "pretrain")


def some(split: str, n: int = 96) -> list[str]:
    return questions.task_ids(split)[:n]


def test_a_task_id_gives_the_same_question_in_every_process(in_two_processes: Callable[[str], set[str]]) -> None:
    code = (
        "import hashlib; from ipr.envs.sql import expert, questions;"
        "d = [(questions.question(i), expert.play(questions, i, 10)) for s in ('train', 'unseen', 'pretrain')"
        " for i in questions.task_ids(s)[:24]]; print(hashlib.sha256(repr(d).encode()).hexdigest())"
    )
    assert len(in_two_processes(code)) == 1


def test_splits_have_no_query_in_common() -> None:
    asked = {s: {(questions.question(i).database, questions.question(i).gold) for i in some(s, 150)} for s in SPLITS}
    for k, one in enumerate(SPLITS):
        for other in SPLITS[k + 1 :]:
            assert not asked[one] & asked[other]
    for split in SPLITS:
        assert len(asked[split]) > 140  # few are asked twice
    assert len({i for split in SPLITS for i in questions.task_ids(split)}) == sum(questions.SIZES.values())


def test_unseen_and_pretrain_schemas_differ_from_those_of_training() -> None:
    def tables(pool: str) -> set[str]:
        return {table.name for name in databases.names(pool) for table in databases.schema(pool, name).tables}

    def schemas(pool: str) -> set[tuple[str, ...]]:
        return {
            tuple(f"{t.singular}:{','.join(c.label for c in t.columns)}" for t in databases.schema(pool, n).tables)
            for n in databases.names(pool)
        }

    assert len(schemas("train")) == 24
    assert len(schemas("unseen")) == 8
    assert len(schemas("pretrain")) > 350
    assert not tables("train") & tables("unseen")
    for split in ("train", "seen"):
        assert {questions.question(i).where for i in some(split)} == {"train"}


def test_later_questions_of_train_and_half_of_devs_are_about_practice_databases() -> None:
    later = questions.task_ids("train")[questions.SHARED :][:96]
    assert {questions.question(i).where for i in later} == {"practice"}
    assert Counter(questions.question(i).where for i in some("dev")) == {"train": 48, "practice": 48}
    assert all(expert.play(questions, i, 10).reward == 1.0 for i in later)


def test_practice_has_no_word_that_only_unseen_has() -> None:
    def words(pool: str) -> set[str]:
        things, labels, values = databases.words(pool)
        return {word for names in things for word in names} | {*labels, *values}

    left = words("pretrain") - words("practice")
    assert {"glacier", "towers", "thickness", "growing"} <= left
    made = [databases.schema("practice", name) for name in databases.names("practice")[:300]]
    assert not left & {label for s in made for t in s.tables for label in (t.singular, *(c.label for c in t.columns))}


@pytest.mark.parametrize("pool", ["train", "unseen", "pretrain", "practice"])
def test_databases_hang_together(pool: str) -> None:
    for name in databases.names(pool)[:48]:
        made = databases.schema(pool, name)
        assert len(made.tables) == 3
        for table in made.tables:
            assert 6 <= table.rows <= 44
            assert (table.parent is None) == (table is made.tables[0])
            if table.parent is not None:
                assert set(table.parents) <= set(range(1, table.parent.rows + 1))
    variants = [databases.schema("train", f"aviary/{v}").tables[1] for v in range(3)]
    assert [t.name for t in variants] == ["birds", "bird", "Birds"]
    assert [t.columns[2].name for t in variants] == ["weight", "bird_weight", "Weight"]


@pytest.mark.parametrize("split", SPLITS)
def test_questions_have_answers(split: str) -> None:
    for task_id in some(split, 120):
        question = questions.question(task_id)
        result = questions.database(question).run(question.gold)
        assert result.rows
        assert len(result.rows) <= questions.MOST_ROWS
        assert question.text[0].isupper()
        assert question.text[-1] in ".?"
        assert question.hardness == questions.task_type(task_id)


def test_all_kinds_are_asked() -> None:
    ids = some("train", 240)
    assert Counter(map(questions.task_type, ids)) == {"easy": 60, "medium": 60, "hard": 60, "extra": 60}
    golds = " ".join(questions.question(i).gold for i in ids)
    for word in (
        "JOIN",
        "GROUP BY",
        "HAVING",
        "ORDER BY",
        "LIMIT",
        "NOT IN",
        "INTERSECT",
        "EXCEPT",
        "UNION",
        "(SELECT",
    ):
        assert word in golds
    texts = Counter(questions.question(i).text.split()[0] for i in ids)
    assert len(texts) > 8


@pytest.mark.parametrize("split", ["train", "dev", "seen", "unseen"])
def test_the_expert_answers_every_question_from_what_it_sees(split: str) -> None:
    lengths, words, erred = [], [], 0
    for task_id in some(split):
        found = expert.play(questions, task_id, 10)
        question = questions.question(task_id)
        assert (found.reward, found.ending) == (1.0, "terminated")
        assert found == expert.play(questions, task_id, 10)
        assert found.invalid <= 1
        erred += found.invalid
        lengths.append(len(found.steps))
        known = found.first_observation
        for step in found.steps:
            words.append(len(thought_of(step.action).split()))
            if question.gold in step.action:
                tables = [t for t in questions.database(question).tables.values() if f" {t} " in f"{step.action} "]
                assert all(f"DESC {t}\n" in "".join(s.action for s in found.steps) for t in tables)
                assert all(f"'{t}'" in known for t in tables)
            known += step.observation
        assert action_of(found.steps[-1].action) == "submit"
    assert min(lengths) >= 4
    assert max(lengths) <= 8
    assert 0.05 < erred / len(lengths) < 0.35
    assert min(words) >= 5
    assert max(words) <= 100  # the question is in it


def test_errors_are_mended() -> None:
    told = set()
    for task_id in some("train", 400):
        found = expert.play(questions, task_id, 10)
        for before, after in zip(found.steps, found.steps[1:], strict=False):
            if before.observation.startswith("Error"):
                thought = thought_of(after.action)
                told.add(" ".join(thought.split()[:4]))
                assert thought.startswith(("There is no table", "There is no column", "More than one table has"))
    assert len(told) == 3


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 5])
def test_the_expert_keeps_to_a_short_limit(limit: int) -> None:
    for task_id in some("train", 30):
        found = expert.play(questions, task_id, limit)
        assert len(found.steps) <= limit
        assert found.reward == 1.0 or (found.ending == "truncated" and limit < 3)


@pytest.mark.parametrize("task_id", ["train/1", "train/999999", "test/000001", "nonsense", "train/-00001", ""])
def test_unknown_ids_are_refused(task_id: str) -> None:
    with pytest.raises(IprError):
        questions.question(task_id)
