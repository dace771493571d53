"""Experts for the shop: one that compares and buys, and one for real instructions.

Decided here: an expert is a script, a generator that yields a thought and a command and is sent the page that follows.
`customer` knows what the instruction says (kind, attributes, options, limit: in generated goals each stands in it word
for word) and what the pages showed. It opens what its title and price speak for, reads the features where the title is
silent, goes back from what lacks an option or an attribute while there are steps left, and now and then opens the first
product without comparing and has to turn back. `reader` knows the instruction's text alone: a real one is not word for
word, so it looks for its words, and earns less. Neither knows what it was not shown.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from functools import partial

from ipr.envs.react import compose
from ipr.envs.webshop.analysis import terms, words
from ipr.envs.webshop.goods import Goal
from ipr.envs.webshop.pages import SEP, START, Catalogue, act, parse, text
from ipr.envs.webshop.reward import score
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
        return max(map(float, re.findall(r"\d+(?:\.\d+)?", self.tag)), default=0.0)


def listed(page: str) -> list[Listed]:
    """The products of a results page; of another page none."""
    rest = page.partition(f"{SEP}Next >{SEP}")[2].split(SEP)
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


# Real instructions ---------------------------------------------------------------------------------------------------

_LIMIT = re.compile(r", and price lower than (\d+(?:\.\d+)?) dollars$")
_CHATTER = """
    i im i'm i'd am are would like love want need looking look searching search seeking shopping find get buy me my you
    can could please help some something also should must have has which one ones
"""
"""What instructions say besides what is wanted."""
_NAMES = """
    color colour size style flavor scent pattern quantity material shape length width edition configuration fit band
    name type special package number items item count unit of display team set model capacity hand orientation
"""
"""Words of which options' names are made; a piece of a page with no other word is a name and no value."""
_NAME_WORDS = frozenset(_NAMES.split())
_CHATTER_WORDS = frozenset(_CHATTER.split())
HALF = 0.5
"""Share of a value's words that the instruction has, from which on it is chosen."""


def reader(instruction: str, most: int = MAX_STEPS) -> Script:
    """Knows the instruction and the pages that it is shown, nothing else: searches for the instruction's words, opens
    the product whose title has most of them, chooses what reads like the instruction, and buys, in `most` steps.

    Its thoughts take their words from both, too; what it adds are stop words.
    """
    limit = _LIMIT.search(instruction)
    wish = instruction[: limit.start()] if limit else instruction
    wanted = [word for word in dict.fromkeys(words(wish.lower())) if word not in _CHATTER_WORDS and terms(word)]
    search = " ".join(wanted)
    page = yield f"The instruction is for {wish}. Search for {search}.", f"search[{search}]"
    shelf = listed(page)
    if not shelf:
        return
    best = max(shelf, key=partial(_promise, wanted, shelf, float(limit[1]) if limit else None))
    said = _shared(wanted, best.title)
    thought = f"{best.asin} is {best.title}. Of the instruction it is {_and(said)}." if said else f"It is {best.title}."
    if limit and best.dearest <= float(limit[1]):
        thought += f" {best.tag} is lower than {limit[1]} dollars."
    opened = yield thought, f"click[{best.asin}]"
    if opened == page:  # a product without a title: its listing is read wrongly
        return
    chosen: list[str] = []
    for value in _values(wanted, opened)[: most - 3]:
        yield f"The instruction is for {_and(_shared(wanted, value))}, and {value} is on this page.", f"click[{value}]"
        chosen.append(value)
    yield f"{f'It is {_and(chosen)}. ' if chosen else ''}The price is {best.tag}. Buy it now.", "click[Buy Now]"


def _shared(wanted: list[str], text: str) -> list[str]:
    """The wanted words that a text has, in any form."""
    found = set(terms(text))
    return [word for word in wanted if found.issuperset(terms(word))]


def _promise(wanted: list[str], shelf: list[Listed], limit: float | None, one: Listed) -> tuple[bool, float]:
    """How much speaks for a product by its listing: its price, and the wanted words, the rarer the more."""
    titles = [set(terms(other.title)) for other in shelf]
    rarity = {
        word: math.log(1 + len(shelf) / (1 + sum(title.issuperset(terms(word)) for title in titles))) for word in wanted
    }
    return limit is None or one.dearest <= limit, sum(rarity[word] for word in _shared(wanted, one.title))


def _values(wanted: list[str], page: str) -> list[str]:
    """Of each of an open product's options the value that reads most like the instruction, where one does."""
    pieces = page.split(SEP)
    price = next(k for k, piece in enumerate(pieces) if piece.startswith("Price: "))
    best = [(0.0, 0, "")]
    for piece in pieces[pieces.index("< Prev") + 1 : price - 1]:  # the title stands before the price
        if _NAME_WORDS.issuperset(piece.split()):
            best.append((0.0, 0, ""))
            continue
        if parse(f"click[{piece}]")[1] != piece:  # no click reaches it
            continue
        own = terms(piece)
        has = sum(any(term in terms(word) for word in wanted) for term in own)
        best[-1] = max(best[-1], (has / max(len(own), 1), has, piece), key=lambda found: found[:2])
    return [value for share, _, value in best if share >= HALF]


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
        after = act(catalogue, state, *parse(command))
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
