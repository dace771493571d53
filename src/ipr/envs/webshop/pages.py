"""The shop's pages as text, and what a search or a click does. Pure functions of catalogue, goal and state.

Decided here: a page is its visible pieces of text joined by " [SEP] ", as in the official text mode, letter by letter;
a click that names no button of the page leads nowhere. Kept from the original (`web_agent_text_env.py`): the chosen
options are not marked, and every page of results forgets them; a value that reads like a button is the button, and one
that two options share means the last on the page; "Next >" never ends. Left out: images.
"""

from __future__ import annotations

import json
from typing import NamedTuple, Protocol

from ipr.envs.webshop.goods import Goal, Product

SEP = " [SEP] "
PER_PAGE = 10
MOST_RESULTS = 50
BACK, PREV, NEXT, BUY = "Back to Search", "< Prev", "Next >", "Buy Now"
SUB_PAGES = ("Description", "Features", "Reviews")
ATTRIBUTES = "Attributes"
"""A fourth sub-page, which the original has for people and hides from agents."""


class Catalogue(Protocol):
    """What pages need of a catalogue."""

    def product(self, row: int, /) -> Product: ...

    def search(self, query: str, /) -> tuple[int, ...]: ...


class State(NamedTuple):
    """Where a customer is. Small and unchangeable: a snapshot is this."""

    page: str = "start"
    """start, results, item, sub or done."""
    query: str = ""
    number: int = 1
    """Of the results page, from 1."""
    row: int = -1
    """The product's place in the catalogue."""
    chosen: tuple[tuple[str, str], ...] = ()
    """Option names and values, in the order in which they were first chosen."""
    sub: str = ""
    """The sub-page that is open."""


START = State()


# Acting --------------------------------------------------------------------------------------------------------------


def parse(command: str) -> tuple[str, str]:
    """Verb and argument of `verb[argument]`, empty where it is none. As in the original the last "[" that has an
    argument parts them: what it makes of `click[black [2 pack]]` is no click."""
    line = command.partition("\n")[0]
    end = line.rfind("]")
    start = line.rfind("[", 0, max(end - 1, 0))
    return (line[:start], line[start + 1 : end]) if start > 0 else ("", "")


def act(catalogue: Catalogue, state: State, verb: str, argument: str, attributes: bool = False) -> State | None:
    """The state after `verb[argument]`, None where nothing happens. The argument is taken in lower case."""
    argument = argument.lower()
    if state.page == "done":
        return None
    if verb == "search":
        return State("results", argument) if argument else None
    return buttons(catalogue, state, attributes).get(argument) if verb == "click" else None


def buttons(catalogue: Catalogue, state: State, attributes: bool = False) -> dict[str, State]:
    """What can be clicked on a page, in lower case, and where it leads."""
    if state.page in ("start", "done"):
        return {}
    found = {BACK.lower(): START}
    if state.page == "results":
        if state.number > 1:
            found[PREV.lower()] = state._replace(number=state.number - 1)
        found[NEXT.lower()] = state._replace(number=state.number + 1)
        for row in on_page(catalogue, state):
            found[catalogue.product(row).asin.lower()] = state._replace(page="item", row=row)
    elif state.page == "sub":
        found[PREV.lower()] = state._replace(page="item", sub="")
    else:
        for name, values in catalogue.product(state.row).options:
            for value in values:
                found[value] = state._replace(chosen=tuple({**dict(state.chosen), name: value}.items()))
        found |= {BACK.lower(): START, PREV.lower(): state._replace(page="results", row=-1, chosen=())}
        found |= {name.lower(): state._replace(page="sub", sub=name) for name in _sub_pages(attributes)}
        found[BUY.lower()] = state._replace(page="done")
    return found


def on_page(catalogue: Catalogue, state: State) -> tuple[int, ...]:
    """The products of a results page."""
    return catalogue.search(state.query)[PER_PAGE * (state.number - 1) : PER_PAGE * state.number]


def _sub_pages(attributes: bool) -> tuple[str, ...]:
    return (*SUB_PAGES, ATTRIBUTES) if attributes else SUB_PAGES


# Reading -------------------------------------------------------------------------------------------------------------


def text(catalogue: Catalogue, goal: Goal, state: State, reward: float = 0.0, attributes: bool = False) -> str:
    """The page as text; `reward` is shown on the last one."""
    if state.page == "start":
        return _join("WebShop", "Instruction:", goal.instruction, "Search")
    if state.page == "done":
        return _receipt(catalogue.product(state.row), state, reward)
    top = ("Instruction:", goal.instruction, BACK)
    if state.page == "results":
        count = len(catalogue.search(state.query))
        turn = (PREV, NEXT) if state.number > 1 else (NEXT,)
        listed = [catalogue.product(row) for row in on_page(catalogue, state)]
        shown = [piece for p in listed for piece in (p.asin, p.title, p.price_tag)]
        return _join(*top, f"Page {state.number} (Total results: {count})", *turn, *shown)
    product = catalogue.product(state.row)
    if state.page == "sub":
        return _join(*top, PREV, *_body(product, state.sub))
    options = [piece for name, values in product.options for piece in (name, *values)]
    about = (product.title, f"Price: {product.price_tag}", "Rating: N.A.")
    return _join(*top, PREV, *options, *about, *_sub_pages(attributes), BUY)


def _body(product: Product, name: str) -> tuple[str, ...]:
    """What a sub-page says. There are no reviews in the data."""
    bodies = {"Description": (product.description,), "Features": product.bullets, ATTRIBUTES: product.attributes}
    return bodies.get(name, ())


_BLANK = "None"
_RECEIPT = (
    ("Thank you for shopping with us!", "Your code:", _BLANK, "(Paste it in your MTurk interface.)"),
    ("Purchased", "asin"),
    ("attrs", _BLANK, "category", _BLANK, "query", _BLANK, "product category", _BLANK),
    ("Target", "asin", "options", "attrs", "price upper", "instuction text", "category", "product category", "query"),
    ("Goal", _BLANK, "Reward", "Your score (min 0.0, max 1.0)"),
    ("Reward Details", _BLANK),
)
"""The confirmation page's fixed words, in groups; the misspelling is the original's."""


_ESCAPED = {ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&'"}


def _receipt(product: Product, state: State, reward: float) -> str:
    thanks, bought, details, target, result, end = _RECEIPT
    # As Jinja's tojson in the original's template writes it.
    options = json.dumps(dict(state.chosen), sort_keys=True).translate(_ESCAPED)
    return _join(*thanks, *bought, product.asin, "options", options, *details, *target, *result, str(reward), *end)


_BLANKS = " \n\t\f\r"
"""What BeautifulSoup takes for blanks."""


def _join(*pieces: str) -> str:
    """A text node that is nothing, or blanks with a line break (which BeautifulSoup makes a mere line break), is not
    shown; the others are stripped."""
    return SEP.join(piece.strip() for piece in pieces if piece.strip(_BLANKS) or (piece and "\n" not in piece))
