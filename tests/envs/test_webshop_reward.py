"""The reward: equal to the official one on every recorded case, and its quirks one by one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ipr.envs.webshop.goods import SEPARATOR, Goal, Product
from ipr.envs.webshop.reward import COLOURS, normal_colour, option_matches, score, similar, title_score

FIXTURE = Path(__file__).parents[2] / "../shared/fixtures/webshop_reward_cases.json"

PRODUCT = Product(
    "B000000001", "Norvik Mesh Shoes", "shoes", "fashion", f"A {SEPARATOR} B {SEPARATOR} C", "Very Light.",
    ("Has Laces",), ("machine washable",), (), "$10.0", 10.0, ("norvik", "mesh", "shoes"),
)  # fmt: skip
GOAL = Goal("", "B000000001", "shoes", PRODUCT.product_category, ("mesh",), ("red",), 20.0, PRODUCT.nouns)


@pytest.fixture(scope="module")
def cases() -> list[dict[str, Any]]:
    if not FIXTURE.is_file():
        pytest.skip("no WebShop reward cases in ../shared")
    return json.loads(FIXTURE.read_text())["cases"]


def read(case: dict[str, Any]) -> tuple[Product, Goal]:
    p, g = case["product"], case["goal"]
    product = Product(
        asin=p["asin"],
        title=p["Title"],
        query=p["query"],
        category=p["category"],
        product_category=p["product_category"],
        description=p["Description"],
        bullets=tuple(p["BulletPoints"]),
        attributes=tuple(p["Attributes"]),
        options=tuple((name, tuple(values)) for name, values in p["options"].items()),
        price_tag="",
        price=case["price"],
        nouns=tuple(case["purchased_nouns"]),
    )
    options = g["goal_options"]
    goal = Goal(
        instruction=g["instruction_text"],
        asin=g["asin"],
        query=g["query"],
        product_category=g["product_category"],
        attributes=tuple(g["attributes"]),
        options=tuple(options.items() if isinstance(options, dict) else options),
        price_upper=g["price_upper"],
        nouns=tuple(case["goal_nouns"]),
    )
    return product, goal


def test_every_recorded_case_is_equal(cases: list[dict[str, Any]]) -> None:
    compared = 0
    for case in cases:
        if case["error"]:
            continue  # the official function raises there
        product, goal = read(case)
        got, info = score(product, goal, case["options"]), case["info"]
        assert got.reward == case["reward"], (case["id"], case["kind"])
        assert (got.r_type, got.title_score, got.price) == (info["r_type"], info["title_score"], info["r_price"])
        assert (got.query_match, got.category_match) == (info["query_match"], info["category_match"])
        assert got.attributes / len(goal.attributes) == info["r_att"]
        assert got.options / (len(goal.options) or 1) == info.get("r_option", 0)
        compared += 1
    assert compared == 88


def test_where_the_official_function_raises_the_formula_holds() -> None:
    assert score(PRODUCT, replace(GOAL, attributes=(), options=()), {}).reward == 1.0
    assert score(PRODUCT, replace(GOAL, price_upper=0), {}).reward == 1 / 3


def test_each_part_counts_one() -> None:
    assert score(PRODUCT, GOAL, {"color": "red"}).reward == 1.0
    assert score(PRODUCT, GOAL, {"color": "blue"}).reward == 2 / 3
    assert score(PRODUCT, GOAL, {"color": "red"}, price=20.01).reward == 2 / 3
    assert score(PRODUCT, GOAL, {"color": "red"}, price=20.0).reward == 1.0
    assert score(PRODUCT, replace(GOAL, attributes=("wool",)), {"color": "red"}).reward == 2 / 3


def test_attributes_are_looked_for_in_every_text() -> None:
    for wanted in ("mesh", "laces", "very light", "machine wash", "washable"):  # the last two are near or a subset
        assert score(PRODUCT, replace(GOAL, attributes=(wanted,)), {}).attributes == 1, wanted
    for wanted in ("wool", "Laces", "machine"):  # the goal's words are not lowered
        assert score(PRODUCT, replace(GOAL, attributes=(wanted,)), {}).attributes == (wanted == "machine"), wanted


@pytest.mark.parametrize(
    ("shared", "of", "other_kind", "factor"),
    [(0, 4, False, 0.0), (1, 11, False, 0.1), (1, 4, True, 1.0), (1, 5, True, 0.5), (1, 5, False, 1.0)],
)
def test_the_kind_of_thing_scales_the_reward(shared: int, of: int, other_kind: bool, factor: float) -> None:
    goal = replace(GOAL, nouns=tuple(["shoes"] * shared + [f"n{i}" for i in range(of - shared)]))
    if other_kind:
        goal = replace(goal, query="hats", product_category=f"A {SEPARATOR} X")
    assert score(PRODUCT, goal, {"color": "red"}).r_type == factor


def test_title_score_counts_the_goals_duplicates() -> None:
    assert title_score(["a", "b"], ["a", "a", "b", "c"]) == 0.5
    assert title_score(["a"], []) == 0.2


def test_colours_are_found_inside_words() -> None:
    assert list(COLOURS) == sorted(COLOURS)
    assert (normal_colour("standard"), normal_colour("dark blue"), normal_colour("size 9")) == ("tan", "blue", "size 9")
    assert option_matches("navy blue", "dark blue")
    assert not option_matches("red", "dark red")  # "dark" comes before "red"


def test_a_named_option_is_compared_as_a_pair() -> None:
    assert option_matches("black", ("color", "black"))
    assert option_matches("9.5", ("size", "9.5"))
    assert not option_matches("228black", ("color", "228black"))  # "black" against "color 228black"
    assert not option_matches("wine\xa0red", ("color", "a\xa0blouse"))


def test_similar_is_above_85() -> None:
    """20 letters of which 17 are common, in order: 85; of 55, 47 are 85.45, which rounds to 85;
    of 21, 18 are 85.7, which rounds to 86."""
    assert not similar("a" * 47 + "bcdefghi", "a" * 47 + "qrstuvwx")
    assert not similar("a" * 17 + "bcd", "a" * 17 + "xyz")
    assert similar("a" * 18 + "bcd", "a" * 18 + "xyz")


def test_similar_drops_what_thefuzz_drops() -> None:
    assert similar("sh\xe9\xe9oe", "shoe")  # characters 128 to 255 go
    assert not similar("\u6f22\u5b57", "caf")
    assert not similar("", "")
    assert similar("X-Large", "x large")
