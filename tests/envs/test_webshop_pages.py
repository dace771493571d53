"""Pages and clicks: equal to recorded transcripts of the original, letter by letter, and the rules one by one."""

from __future__ import annotations

import json
import random
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from ipr.envs.webshop.goods import SEPARATOR, Goal, Product
from ipr.envs.webshop.pages import START, State, act, buttons, parse, text

FIXTURE = Path(__file__).parents[2] / "../shared/fixtures/webshop_text_transcripts.json"

SHOE = Product(
    "B0SHOE0001", "Norvik Running Shoes", "running shoes", "fashion", f"A {SEPARATOR} B", "Light.",
    ("Mesh upper", " ", "\n", "", "Flat"),
    ("breathable",), (("color", ("red", "blue")), ("size", ("8", "9"))), "$20.0", 20.0, ("shoes",),
)  # fmt: skip
GOAL = Goal(
    "find shoes", "B0SHOE0001", "running shoes", f"A {SEPARATOR} B", ("breathable",), ("red",), 30.0, ("shoes",)
)


class Shelf:
    """A catalogue whose searches are given."""

    def __init__(self, products: list[Product], hits: dict[str, list[int]]) -> None:
        self.product = products.__getitem__
        self._hits = hits

    def search(self, query: str) -> tuple[int, ...]:
        return tuple(self._hits.get(query, ()))


def shelf(count: int = 23) -> Shelf:
    products = [replace(SHOE, asin=f"B0SHOE{i:04}", title=f"Shoe {i}") for i in range(count)]
    return Shelf(products, {"shoes": list(range(count))})


def walk(shop: Shelf, *actions: str) -> State:
    state = START
    for action in actions:
        verb, _, argument = action.partition(" ")
        state = act(shop, state, verb, argument) or state
    return state


# The recorded transcripts --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def episodes() -> list[dict[str, Any]]:
    if not FIXTURE.is_file():
        pytest.skip("no WebShop transcripts in ../shared")
    return json.loads(FIXTURE.read_text())["episodes"]


def recorded(episode: dict[str, Any]) -> tuple[Shelf, Goal]:
    """The products that an episode's pages show, and its searches' hits (those of pages never seen are made up)."""
    goal = episode["goal"]
    known: dict[str, dict[str, Any]] = {}
    order: list[str] = []
    hits: dict[str, list[int]] = {}
    query, asin = "", ""
    for turn in episode["trace"]:
        action, pieces = turn["action"] or "", turn["obs"].split(" [SEP] ")
        if action.startswith("search["):
            query = action[7:-1].lower()
        page = next((p for p in pieces if re.fullmatch(r"Page \d+ \(Total results: \d+\)", p)), None)
        if page:
            number, total = map(int, re.findall(r"\d+", page))
            listed = pieces[pieces.index("Next >") + 1 :]
            for at, (a, title, price) in enumerate(zip(listed[::3], listed[1::3], listed[2::3], strict=True)):
                if a not in known:
                    known[a] = {"title": title, "tag": price}
                    order.append(a)
                hits.setdefault(query, [-1] * total)[10 * (number - 1) + at] = order.index(a)
        elif "Buy Now" in pieces:
            asin = re.findall(r"item_page/\d+/(\w+)/", turn["url"])[0]
            shown = pieces[4 : pieces.index(known[asin]["title"])]
            names = [p for p in shown if p in ("color", "size")]
            cuts = [*(shown.index(n) for n in names), len(shown)]
            spans = pairwise(cuts)
            known[asin]["options"] = tuple((shown[a], tuple(shown[a + 1 : b])) for a, b in spans)
        elif "item_sub_page" in turn.get("url", ""):
            known[asin][turn["url"].rsplit("/", 2)[1]] = pieces[4:]
    products = [
        replace(
            SHOE,
            asin=a,
            title=p["title"],
            price_tag=p["tag"],
            options=p.get("options", ()),
            description="".join(p.get("Description", ())),
            bullets=tuple(p.get("Features", ())),
        )
        for a, p in ((a, known[a]) for a in order)
    ]
    return Shelf(products, hits), replace(GOAL, instruction=goal["instruction_text"])


def test_the_recorded_observations_are_equal(episodes: list[dict[str, Any]]) -> None:
    compared = 0
    for episode in episodes:
        shop, goal = recorded(episode)
        state, reward = START, 0.0
        for turn in episode["trace"]:
            state = act(shop, state, *parse(turn["action"] or "")) or state
            if turn.get("done"):
                reward = turn["reward"]
            assert text(shop, goal, state, reward) == turn["obs"], turn["action"]
            if state.page not in ("start", "done"):
                assert sorted(buttons(shop, state)) == sorted(turn["clickables"])
            compared += 1
    assert compared == 59


# The rules -----------------------------------------------------------------------------------------------------------


def test_actions_are_parted_as_in_the_original() -> None:
    """Its pattern is tried on texts of few signs, and a long one of brackets takes no time."""
    rng, pattern = random.Random(3), re.compile(r"(.+)\[(.+)\]")
    for _ in range(20_000):
        command = "".join(rng.choices("a[] \n", k=rng.randint(0, 9)))
        found = pattern.match(command)
        assert parse(command) == (found.groups() if found else ("", "")), command
    assert parse("click[black [2 pack]]")[0] == "click[black "
    assert parse("[" * 200_000) == ("", "")


def test_blanks_with_a_line_break_are_not_shown() -> None:
    for description, shown in (
        ("\n\n", ""),
        (" \r\n\t", ""),
        ("\r", " [SEP] "),
        (" ", " [SEP] "),
        ("\xa0\n", " [SEP] "),
    ):
        shop = Shelf([replace(SHOE, description=description)], {"x": [0]})
        page = text(shop, GOAL, walk(shop, "search x", "click b0shoe0001", "click description"))
        assert page.endswith(f"< Prev{shown}"), description


def test_the_start_page() -> None:
    assert text(shelf(), GOAL, START) == "WebShop [SEP] Instruction: [SEP] find shoes [SEP] Search"
    assert act(shelf(), START, "click", "search") is None


def test_a_results_page() -> None:
    shop = shelf(12)
    second = walk(shop, "search shoes", "click Next >")
    assert text(shop, GOAL, second) == (
        "Instruction: [SEP] find shoes [SEP] Back to Search [SEP] Page 2 (Total results: 12) [SEP] < Prev [SEP] Next >"
        " [SEP] B0SHOE0010 [SEP] Shoe 10 [SEP] $20.0 [SEP] B0SHOE0011 [SEP] Shoe 11 [SEP] $20.0"
    )
    first = walk(shop, "search shoes", "click < prev")
    assert first.number == 1
    assert "< Prev" not in text(shop, GOAL, first)


def test_nothing_found_and_pages_beyond_the_last() -> None:
    shop = shelf(12)
    top = "Instruction: [SEP] find shoes [SEP] Back to Search [SEP] "
    assert text(shop, GOAL, walk(shop, "search hats")) == top + "Page 1 (Total results: 0) [SEP] Next >"
    beyond = walk(shop, "search shoes", *["click next >"] * 4)
    assert text(shop, GOAL, beyond) == top + "Page 5 (Total results: 12) [SEP] < Prev [SEP] Next >"


def test_an_item_page_and_its_sub_pages() -> None:
    shop = shelf()
    item = walk(shop, "search SHOES", "click B0shoe0003")
    top = "Instruction: [SEP] find shoes [SEP] Back to Search [SEP] < Prev"
    assert text(shop, GOAL, item) == (
        top + " [SEP] color [SEP] red [SEP] blue [SEP] size [SEP] 8 [SEP] 9 [SEP] Shoe 3 [SEP] Price: $20.0 [SEP] "
        "Rating: N.A. [SEP] Description [SEP] Features [SEP] Reviews [SEP] Buy Now"
    )
    pages = {"Description": " [SEP] Light.", "Features": " [SEP] Mesh upper [SEP]  [SEP] Flat", "Reviews": ""}
    for name, body in pages.items():
        sub = act(shop, item, "click", name)
        assert sub is not None
        assert text(shop, GOAL, sub) == top + body
        assert act(shop, sub, "click", "buy now") is None
        assert act(shop, sub, "click", "< prev") == item


def test_the_attributes_page_is_hidden_unless_asked_for() -> None:
    shop = shelf()
    item = walk(shop, "search shoes", "click b0shoe0003")
    assert act(shop, item, "click", "attributes") is None
    sub = act(shop, item, "click", "attributes", attributes=True)
    assert sub is not None
    assert text(shop, GOAL, sub).endswith("< Prev [SEP] breathable")
    assert "Reviews [SEP] Attributes [SEP] Buy Now" in text(shop, GOAL, item, attributes=True)


def test_only_what_the_page_shows_can_be_clicked() -> None:
    shop = shelf()
    results = walk(shop, "search shoes")
    assert act(shop, results, "click", "b0shoe0010") is None  # it is on page 2
    assert act(shop, results, "click", "buy now") is None
    assert act(shop, results, "click", "red") is None
    assert act(shop, results, "press", "next >") is None
    assert act(shop, results, "search", "") is None
    assert act(shop, results, "search", "  ") == State("results", "  ")  # only nothing is refused


def test_every_page_of_results_forgets_the_options() -> None:
    shop = shelf()
    item = walk(shop, "search shoes", "click b0shoe0003", "click red", "click 9", "click blue")
    assert item.chosen == (("color", "blue"), ("size", "9"))
    assert walk(shop, "search shoes", "click b0shoe0003", "click red", "click features", "click < prev").chosen
    for verb, argument in (("search", "shoes"), ("click", "back to search"), ("click", "< prev")):
        after = act(shop, item, verb, argument)
        assert after is not None
        assert after.chosen == ()
    again = walk(shop, "search shoes", "click b0shoe0003", "click red", "click < prev", "click b0shoe0003")
    assert again == walk(shop, "search shoes", "click b0shoe0003")


def test_search_works_on_every_page_but_the_last() -> None:
    shop = shelf()
    results = walk(shop, "search shoes")
    item = walk(shop, "search shoes", "click b0shoe0003")
    sub = walk(shop, "search shoes", "click b0shoe0003", "click reviews")
    assert {act(shop, s, "search", "Shoes") for s in (START, results, item, sub)} == {results}
    done = walk(shop, "search shoes", "click b0shoe0003", "click buy now")
    assert done.page == "done"
    assert act(shop, done, "search", "shoes") is None
    assert act(shop, done, "click", "back to search") is None


def test_a_value_shared_by_two_options_means_the_last() -> None:
    product = replace(SHOE, options=(("width", ("9", "buy now", "features")), ("size", ("8", "9"))))
    shop = Shelf([product], {"x": [0]})
    item = walk(shop, "search x", "click b0shoe0001", "click 9")
    assert item.chosen == (("size", "9"),)
    assert walk(shop, "search x", "click b0shoe0001", "click buy now").page == "done", "a button is a button"
    assert walk(shop, "search x", "click b0shoe0001", "click features").page == "sub"


def test_the_receipt_names_options_and_reward() -> None:
    shop = shelf()
    done = walk(shop, "search shoes", "click b0shoe0003", "click red", "click buy now")
    page = text(shop, GOAL, done, 2 / 3)
    assert page.startswith("Thank you for shopping with us! [SEP] Your code: [SEP] None [SEP] (Paste")
    assert 'asin [SEP] B0SHOE0003 [SEP] options [SEP] {"color": "red"} [SEP] attrs' in page
    assert page.endswith("Your score (min 0.0, max 1.0) [SEP] 0.6666666666666666 [SEP] Reward Details [SEP] None")


def test_the_receipt_writes_options_as_the_original_does() -> None:
    product = replace(SHOE, options=(("size", ("8 men's", "5<6")), ("color", ("red & blue",))))
    shop = Shelf([product], {"x": [0]})
    done = walk(shop, "search x", "click b0shoe0001", "click 8 men's", "click red & blue", "click buy now")
    shown = r'options [SEP] {"color": "red \u0026 blue", "size": "8 men\u0027s"} [SEP] attrs'
    assert shown in text(shop, GOAL, done, 1.0)
