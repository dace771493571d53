"""The generated shop: the same everywhere, splits apart, experts worth imitating; nouns."""

from __future__ import annotations

import hashlib
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import astuple, replace

import pytest

from ipr.envs.webshop import expert, generate, nouns
from ipr.envs.webshop.generate import FAMILIES, LEAST, MEMBERS, catalogue, goal, goal_kind, products, task_ids
from ipr.envs.webshop.goods import Goal
from ipr.envs.webshop.pages import MOST_RESULTS
from ipr.envs.webshop.reward import similar
from ipr.envs.webshop.wares import kinds
from ipr.types import Trajectory
from tests.envs.thoughts import thought_of

SPLITS = ("train", "dev", "seen", "unseen", "pretrain")


def some(split: str, count: int = 60) -> list[str]:
    ids = task_ids(split)
    return ids[:: len(ids) // count][:count]


def play(task_id: str, wanted: Goal | None = None) -> Trajectory:
    wanted = wanted or goal(task_id)
    return expert.play(catalogue(), wanted, task_id, lambda: expert.customer(wanted, task_id))


@pytest.fixture(scope="module")
def played() -> list[Trajectory]:
    return [play(i) for split in SPLITS for i in some(split)]


# The catalogue -------------------------------------------------------------------------------------------------------


def test_the_catalogue() -> None:
    assert len(catalogue()) == len(products()) == len(kinds()) * FAMILIES * MEMBERS == 4000
    assert len({p.asin for p in products()}) == 4000
    assert {len(p.asin) for p in products()} == {10}
    assert Counter(kind.split for kind in kinds()) == {"train": 26, "unseen": 8, "pretrain": 16}
    assert len({kind.query for kind in kinds()}) == len(kinds())
    for product in products():
        assert product.title == product.title.strip()
        assert product.product_category.count("\u203a") >= 1
        assert all(len(values) >= 3 for _, values in product.options)
        assert 0 < product.price < 1000
        assert product.nouns


def test_attributes_of_a_kind_are_told_apart() -> None:
    for kind in kinds():
        for one in kind.attributes:
            others = [a for a in kind.attributes if a != one]
            assert not any(similar(one, other) or one in other for other in others), (kind.query, one)


def test_a_family_differs_in_one_attribute_and_the_title_tells() -> None:
    for first in range(0, len(products()), MEMBERS):
        family = products()[first : first + MEMBERS]
        assert len({p.attributes[0] for p in family}) == MEMBERS
        assert len({p.attributes[1:] for p in family}) == 1
        assert len({p.title for p in family}) == MEMBERS
        assert all(p.attributes[0] in p.title.lower() for p in family)


def test_every_product_is_found_by_its_own_title() -> None:
    for row in range(0, len(products()), 37):
        assert row in catalogue().search(products()[row].title.lower())
    assert len(catalogue().search("for")) == 0
    assert len(catalogue().search("sandals")) == MOST_RESULTS


PROGRAM = """
import hashlib
from dataclasses import astuple
from ipr.envs.webshop import generate
digest = hashlib.sha256(repr([astuple(p) for p in generate.products()]).encode())
for split in ("pretrain", "unseen", "seen", "dev", "train"):
    for task_id in generate.task_ids(split)[7:400:80]:
        digest.update(repr((task_id, astuple(generate.goal(task_id)))).encode())
print(digest.hexdigest())
"""


def test_it_is_the_same_in_another_process(in_two_processes: Callable[[str], set[str]]) -> None:
    digest = hashlib.sha256(repr([astuple(p) for p in products()]).encode())
    for split in ("pretrain", "unseen", "seen", "dev", "train"):
        for task_id in task_ids(split)[7:400:80]:
            digest.update(repr((task_id, astuple(goal(task_id)))).encode())
    assert in_two_processes(PROGRAM) == {digest.hexdigest()}


# The goals -----------------------------------------------------------------------------------------------------------


def test_splits_share_what_they_may() -> None:
    assert {s: len(task_ids(s)) for s in SPLITS} == {
        "train": 4000, "dev": 500, "seen": 500, "unseen": 500, "pretrain": 50_000,
    }  # fmt: skip
    kind_of = {s: {goal_kind(i).query for i in task_ids(s)[:500]} for s in SPLITS}
    asins = {s: {goal(i).asin for i in some(s, 200)} for s in SPLITS}
    words = {s: {goal(i).instruction for i in some(s, 200)} for s in SPLITS}
    assert kind_of["train"] == kind_of["dev"] == kind_of["seen"]
    for one in SPLITS:
        for other in set(SPLITS) - {one}:
            assert not asins[one] & asins[other]
            assert not words[one] & words[other]
    for one in ("unseen", "pretrain"):
        for other in set(SPLITS) - {one}:
            assert not kind_of[one] & kind_of[other]


def test_goals_say_what_they_want() -> None:
    openings: Counter[str] = Counter()
    for split in SPLITS:
        for task_id in some(split):
            wanted = goal(task_id)
            product = next(p for p in products() if p.asin == wanted.asin)
            openings[" ".join(wanted.instruction.split()[:2])] += 1
            assert wanted.query in wanted.instruction
            for words in (*wanted.attributes, *map(str, wanted.options), f"{wanted.price_upper:.2f} dollars"):
                assert words in wanted.instruction
            assert set(wanted.attributes) <= set(product.attributes)
            assert 1 <= len(wanted.attributes) <= 3
            assert 0 < wanted.price_upper - product.price <= 40
    assert len(openings) >= 9
    assert max(openings.values()) < sum(openings.values()) / 4


def test_instructions_seldom_repeat() -> None:
    words = [goal(i).instruction for i in task_ids("train")[:1000]]
    assert len(set(words)) > 990


# The expert ----------------------------------------------------------------------------------------------------------


def test_experts_are_worth_imitating(played: list[Trajectory]) -> None:
    rewards = [t.reward for t in played]
    assert min(rewards) > LEAST
    assert sum(r == 1 for r in rewards) > 0.85 * len(rewards)
    assert {t.ending for t in played} == {"terminated"}
    assert max(len(t.steps) for t in played) <= expert.MAX_STEPS
    assert sum(t.invalid for t in played) == 0


def test_experts_compare_check_and_turn_back(played: list[Trajectory]) -> None:
    acts = [[s.action.rsplit("Action: ", 1)[1] for s in t.steps] for t in played]
    assert sum("click[Features]" in a for a in acts) > 0.15 * len(acts)
    assert sum(a.count("click[< Prev]") > a.count("click[Features]") for a in acts) > 0.04 * len(acts)
    assert sum(sum(x.startswith("search[") for x in a) > 1 for a in acts) > 0.05 * len(acts)
    first = [t for t in played if "comes first" in " ".join(s.action for s in t.steps)]
    assert len(first) > 10
    turned = [t for t in first if any("so I go back" in s.action or "so I ask" in s.action for s in t.steps)]
    assert len(turned) > 0.5 * len(first)


def test_every_step_has_a_thought_about_what_is_seen(played: list[Trajectory]) -> None:
    for trajectory in played:
        page = trajectory.first_observation
        for step in trajectory.steps:
            thought, action = thought_of(step.action), step.action.rsplit("Action: ", 1)[1]
            assert 15 < len(thought) < 400
            argument = action.partition("[")[2][:-1]
            if action.startswith("click["):
                assert argument in page
                assert argument in thought or argument in ("< Prev", "Next >", "Features", "Buy Now")
            page = step.observation


def test_the_expert_knows_only_the_instruction_and_the_pages() -> None:
    for task_id in some("dev", 20):
        wanted = goal(task_id)
        blind = replace(wanted, asin="", nouns=(), product_category="")
        assert [s.action for s in play(task_id, wanted).steps] == [s.action for s in play(task_id, blind).steps]


def test_a_product_that_is_not_there_is_not_bought() -> None:
    wanted = replace(goal("dev/000000"), query="zzz", attributes=("qqq",), options=())
    trajectory = play("dev/000000", wanted)
    assert (trajectory.reward, trajectory.ending) == (0.0, "truncated")
    assert len(trajectory.steps) < expert.MAX_STEPS


# Nouns ---------------------------------------------------------------------------------------------------------------


def test_the_rule_for_nouns() -> None:
    assert nouns.rule("Norvik Women's Waterproof Hiking Boots, 2 Pack for the Trail, Washable") == [
        "norvik", "women", "hiking", "boots", "pack", "trail",
    ]  # fmt: skip
    assert nouns.rule("16 x 24 inch (Large)") == []
    assert nouns.rule("Shoes shoes SHOES") == ["shoes"] * 3


def test_spacy_is_taken_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    class Token:
        def __init__(self, text: str) -> None:
            self.text, self.pos_ = text, "PROPN" if text.istitle() else "NOUN" if text.endswith("s") else "ADJ"

    loaded: list[str] = []

    def load(model: str) -> object:
        loaded.append(model)
        return lambda title: [Token(word) for word in title.split()]

    there = {"spacy", "en_core_web_sm"}
    monkeypatch.setattr(nouns, "find_spec", lambda name: name if name in there else None)
    monkeypatch.setitem(sys.modules, "spacy", SimpleNamespace(load=load))
    monkeypatch.setattr(nouns.metadata, "version", {"spacy": "3.4.1", "en_core_web_sm": "3.4.0"}.__getitem__)
    nouns.default.cache_clear()
    tagger = nouns.default()
    assert nouns.name(tagger) == "spacy:en_core_web_sm:3.4.0:3.4.1", "an upgrade may tag otherwise"
    assert loaded == []
    assert tagger("Norvik red shoes") == tagger("Norvik red shoes") == ["norvik", "shoes"]
    assert loaded == ["en_core_web_sm"]
    there.discard("en_core_web_sm")  # spaCy without a model
    nouns.default.cache_clear()
    assert nouns.default() is nouns.rule
    assert nouns.name(nouns.rule) == "rule"
    nouns.default.cache_clear()


def test_no_draw_is_accepted_below_the_least(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first draw of some goals is refused: another one is given."""
    refused = [i for i in task_ids("train")[:300] if expert.earns(catalogue(), generate._draw(i, 0), i) <= LEAST]
    assert refused
    for task_id in refused:
        assert goal(task_id) != generate._draw(task_id, 0)
        assert expert.earns(catalogue(), goal(task_id), task_id) > LEAST
