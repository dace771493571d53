"""Experts for the shop: one that compares and buys, and one that fetches a product it is told of.

Decided here: an expert is a script, a generator that yields a thought and a command and is sent the page that follows.
`customer` knows what the instruction says (kind, attributes, options, limit: in generated goals each stands in it word
for word) and what the pages showed. It opens what its title and price speak for, reads the features where the title is
silent, goes back from what lacks an option or an attribute while there are steps left, and now and then opens the first
product without comparing and has to turn back. `buyer` knows its product: real instructions are not word for word.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass

from ipr.envs.react import compose
from ipr.envs.webshop.analysis import terms
from ipr.envs.webshop.goods import Goal, Product
from ipr.envs.webshop.pages import SEP, START, Catalogue, act, text
from ipr.envs.webshop.reward import option_matches, score
from ipr.types import Step, Trajectory, derive_seed

MAX_STEPS = 10
HASTY = 0.3
"""How often the customer would open the first product without comparing, where another one is better."""

Script = Generator[tuple[str, str], str, None]
"""Yields (thought, command), is sent the observation."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A product as a results page lists it."""

    asin: str
    title: str
    tag: str

    @property
    def dearest(self) -> float:
        """The highest price that the tag allows, in dollars."""
        return max(map(float, re.findall(r"[\d.]+", self.tag)), default=0.0)


def listed(page: str) -> list[Listed]:
    """The products of a results page."""
    pieces = page.split(SEP)
    rest = pieces[pieces.index("Next >") + 1 :]
    return [Listed(*piece) for piece in zip(rest[::3], rest[1::3], rest[2::3], strict=False)]


# Comparing and buying ------------------------------------------------------------------------------------------------


class Customer:
    """What the customer wants, and has to say about what it sees."""

    def __init__(self, goal: Goal) -> None:
        self.thing = goal.query
        self.attributes = tuple(sorted(goal.attributes, key=goal.instruction.find))
        self.values = tuple(o if isinstance(o, str) else o[1] for o in goal.options)
        self.limit = goal.price_upper
        self._kind = set(terms(goal.query))

    def wish(self) -> str:
        """What is wanted, in a few words."""
        return f"I want {', '.join([self.thing, *self.attributes, *self.values])}, for at most ${self.limit:.2f}."

    def said(self, words: str) -> list[str]:
        """The wanted attributes that a text names."""
        return [a for a in self.attributes if a in words.lower()]

    def unsaid(self, words: str) -> list[str]:
        return [a for a in self.attributes if a not in words.lower()]

    def checked(self, title: str, page: str) -> str:
        """What of all that is wanted an open product has, one by one."""
        pieces = page.split(SEP)
        found = [f"{v} is {'here' if v in pieces else 'not here'}" for v in self.values]
        found += [f"{a} is {'in' if a in title.lower() else 'not in'} the title" for a in self.attributes]
        return f"I look: {', '.join(found)}."

    def rank(self, one: Listed) -> tuple[bool, bool, int]:
        """How much speaks for a product by its listing: its kind, its price, its attributes."""
        return bool(self._kind & set(terms(one.title))), one.dearest <= self.limit, len(self.said(one.title))

    def why(self, one: Listed) -> str:
        """Why to open a product of a results page."""
        said = self.said(one.title)
        name = f"says {_and(said)}" if said else f"is the nearest to {self.thing}"
        if one.dearest <= self.limit:
            return f"{one.asin} {name}, and {one.tag} is below the limit, so I open it."
        return f"{one.asin} {name}. {one.tag} may be too much, but nothing else is nearer, so I open it."


def customer(goal: Goal, task_id: str) -> Script:
    """Search, compare, check, choose options, buy; within ten steps."""
    rng = random.Random(derive_seed("webshop", "expert", task_id))
    who, left, rejected = Customer(goal), MAX_STEPS, list[str]()
    needed = len(who.values) + 1  # options and the purchase
    hasty = rng.random() < HASTY and needed + 4 <= MAX_STEPS
    named = [value for value in who.values if value[0].isalpha() and rng.random() < 0.7]
    words = [*who.attributes, who.thing, *named]
    page = yield f"{who.wish()} I search for that.", f"search[{' '.join(words)}]"
    left -= 1
    while True:
        shelf = [one for one in listed(page) if one.asin not in rejected]
        best = max(shelf, key=who.rank, default=None)
        spare = left - needed - 1  # steps for detours, after the click that opens a product
        if best is None or (spare > 1 and not (who.rank(best)[1] and who.rank(best)[2])):
            if left <= needed + 1:
                return
            page = yield f"{who.wish()} Nothing on this page fits, so I look at the next one.", "click[Next >]"
            left -= 1
            continue
        if hasty and shelf[0] is not best and spare >= 2:
            best, thought = shelf[0], f"{who.wish()} {shelf[0].asin} comes first, so I open it."
        else:
            thought = f"{who.wish()} {f'I have seen {_and(rejected)}. ' if rejected else ''}{who.why(best)}"
        page = yield thought, f"click[{best.asin}]"
        left, spare = left - 1, spare - 2  # going back and opening another takes two more
        others = max((who.rank(one) for one in shelf if one is not best), default=None)
        fault = _fault(who, best, page, others) if spare >= 0 else ""
        unsaid, checked = who.unsaid(best.title), who.checked(best.title, page)
        if not fault and unsaid and left >= needed + 2:
            wanted = _and(unsaid)
            features = yield f"{checked} I read the features for {wanted}.", "click[Features]"
            missing = who.unsaid(f"{best.title} {features.partition('< Prev')[2]}")
            found = f"They do not say {_and(missing)}" if missing else f"The features say {wanted}"
            page = yield f"{found}. I go back to the product.", "click[< Prev]"
            left, spare, checked = left - 2, spare - 2, ""
            if missing and spare >= 0 and others and others >= who.rank(best):
                fault = f"It does not have {_and(missing)}, and others may"
        if fault:
            unasked = [value for value in who.values if value not in page.split(SEP) and value not in words]
            if unasked:  # searching works from here, and takes no more steps than going back
                words += unasked
                thought, command = f"so I ask for {_and(unasked)} too", f"search[{' '.join(words)}]"
            else:
                thought, command = "so I go back to the results", "click[< Prev]"
            page = yield f"{checked} {fault}, {thought}.".strip(), command
            left, hasty = left - 1, False
            rejected.append(best.asin)
            continue
        yield from _purchase(who, best.tag, page, checked)
        return


def _fault(who: Customer, one: Listed, page: str, others: tuple[bool, bool, int] | None) -> str:
    """Why a product that is open will not do, where another one may; "" where it will."""
    if others is None or not (others[0] and others[1]):
        return ""
    if one.dearest > who.limit:
        return f"It costs {one.tag}, above the limit"
    missing = [value for value in who.values if value not in page.split(SEP)]
    if missing and others[2] > len(who.said(one.title)) - len(missing):  # it may have more of what I want
        return f"It does not come in {_and(missing)}, and another one may"
    if others > who.rank(one):
        return f"It does not say {_and(who.unsaid(one.title)) or who.thing}, and another one does"
    return ""


def _purchase(who: Customer, tag: str, page: str, checked: str) -> Script:
    here, chosen = [value for value in who.values if value in page.split(SEP)], []
    while len(chosen) < len(here):
        value = here[len(chosen)]
        yield f"{checked} {choosing(here, chosen)}".strip(), f"click[{value}]"
        checked, chosen = "", [*chosen, value]
    yield f"{checked} {choosing(here, chosen)} It costs {tag}, the limit is ${who.limit:.2f}.".strip(), "click[Buy Now]"


def choosing(wanted: list[str], chosen: list[str]) -> str:
    """What to do after `chosen` (options are not marked on the page, so the thought keeps count)."""
    if not wanted:
        return "There is nothing to choose, so I buy it."
    state = f"Of {_and(wanted)} I have {_and(chosen) or 'nothing'}"
    return f"{state}, so I buy it." if len(chosen) == len(wanted) else f"{state}, so I choose {wanted[len(chosen)]}."


def _and(words: Iterable[str]) -> str:
    return " and ".join(words)


# Fetching a known product --------------------------------------------------------------------------------------------


def buyer(product: Product, goal: Goal, most: int = MAX_STEPS) -> Script:
    """Finds the goal's own product by its title, chooses what the goal asks for, and buys."""
    wanted = [w for w in (_value(product, option) for option in goal.options) if w]
    words = " ".join(product.title.split()[:25])
    page = yield f"I know what fits: {' '.join(words.split()[:8])}. I search for its title.", f"search[{words}]"
    left = most - 1
    while product.asin not in (one.asin for one in listed(page)):
        if left <= len(wanted) + 2:
            return
        page = yield f"{product.asin} is not on this page, so I look at the next one.", "click[Next >]"
        left -= 1
    yield f"{product.asin} is the product that fits, so I open it.", f"click[{product.asin}]"
    for value in dict.fromkeys(wanted):
        yield f"I want {value}, so I choose it.", f"click[{value}]"
    yield f"Everything is chosen, and it costs {product.price_tag}. I buy it.", "click[Buy Now]"


def _value(product: Product, wanted: str | tuple[str, str]) -> str | None:
    """The product's value for a wanted option: the same words, else the first that the reward takes for it."""
    name, value = wanted if isinstance(wanted, tuple) else ("", wanted)
    groups = [values for n, values in product.options if n == name] or [values for _, values in product.options]
    all_values = [v for values in groups for v in values]
    return next((v for v in all_values if v == value), None) or next(
        (v for v in all_values if option_matches(v, wanted)), None
    )


# Playing -------------------------------------------------------------------------------------------------------------


def earns(catalogue: Catalogue, goal: Goal, task_id: str) -> float:
    """The customer's reward."""
    return play(catalogue, goal, task_id, lambda: customer(goal, task_id)).reward


def play(
    catalogue: Catalogue, goal: Goal, task_id: str, script: Callable[[], Script], max_steps: int = MAX_STEPS
) -> Trajectory:
    """A script's trajectory, cut at `max_steps`."""
    state, reward, steps, invalid = START, 0.0, [], 0
    first = text(catalogue, goal, START)
    acting, page = script(), None
    while len(steps) < max_steps and state.page != "done":
        try:
            thought, command = next(acting) if page is None else acting.send(page)
        except StopIteration:
            break
        verb, _, argument = command[:-1].partition("[")
        after = act(catalogue, state, verb, argument)
        state, invalid = after or state, invalid + (after is None)
        if state.page == "done":
            reward = score(catalogue.product(state.row), goal, dict(state.chosen)).reward
        page = text(catalogue, goal, state, reward)
        steps.append(Step(compose(thought, command), page))
    return Trajectory(
        task_id=task_id,
        first_observation=first,
        steps=tuple(steps),
        reward=reward,
        ending="terminated" if state.page == "done" else "truncated",
        policy="expert",
        invalid=invalid,
    )
