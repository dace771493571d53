"""Strolls through the invented shop: what the base model for the shop reads, instead of a real model's reading.

Decided here: a stroller reads an instruction, searches for some of its words, opens any product, says what of the
wanted it sees there, and clicks options that are named. So it teaches pages, what an instruction says, looking names up
and copying them, in the expert's words. Not in it: which product to open (it takes any), whether one will do, that one
goes back for a better one or asks for more, and when to read the features or to buy (it does either by chance). Its
goals are its own (`generate.stroll`), of any kind that the catalogue has: a real model has read of every kind, too.
"""

from __future__ import annotations

import random

from ipr.envs.react import compose
from ipr.envs.webshop import generate
from ipr.envs.webshop.expert import Customer, Listed, Script, choosing, listed
from ipr.envs.webshop.goods import Goal
from ipr.envs.webshop.pages import SEP, START, State, act, parse, text
from ipr.envs.webshop.wares import kinds
from ipr.types import Message, Step, Trajectory, derive_seed


def words() -> list[str]:
    """Words that shall be whole tokens, as instructions, titles and buttons write them."""
    said = {word for kind in kinds() for a in (*kind.attributes, *kind.nouns, kind.query) for word in a.split()}
    values = {word for kind in kinds() for _, values in kind.options for value in values for word in value.split()}
    forms = sorted({form for word in said for form in (word.lower(), word.title())} | values)
    return [*(f" {form}" for form in forms), *(f"[{word}" for word in sorted(values))] * 100


def repeat(task_id: str, seed: int) -> tuple[Message, ...]:
    """Some names again and again, as an instruction, a title and a button write them."""
    rng = random.Random(derive_seed("webshop", "repeat", task_id, seed))
    some = rng.sample(generate.products(), 5)
    names = [rng.choice((*p.attributes, p.query, *(rng.choice(values) for _, values in p.options))) for p in some[:4]]
    names = rng.sample([*names, some[4].asin], 5)
    forms = [str, str.title, str, str.title, str]
    lists = [[name if name.startswith("B0") else form(name) for name in names] for form in forms]
    said = [SEP.join(lists[0]), ", ".join(lists[1]), *(f"[{']['.join(words)}]" for words in lists[2:])]
    return Message("user", said[0]), Message("assistant", "\n".join([f"Thought: {said[1]}", *said[2:]]))


def glance(task_id: str, seed: int) -> tuple[Message, ...]:
    """Short reading before long: an instruction understood, or what of the wanted some products have."""
    rng = random.Random(derive_seed("webshop", "glance", task_id, seed))
    goal = generate.stroll(task_id)
    who, shop = Customer(goal), generate.catalogue()
    chance = rng.random()
    if chance < 0.2:
        return Message("user", text(shop, goal, START)), Message("assistant", f"Thought: {who.wish()}")
    state = State("results", " ".join(_words(who, rng)))
    shelf = listed(text(shop, goal, state))
    one = rng.choice(shelf)
    if chance < 0.55:
        some = rng.sample(shelf, min(len(shelf), rng.randint(1, 3)))
        pieces = ["Instruction:", goal.instruction, *(piece for p in some for piece in (p.asin, p.title, p.tag))]
        thought = f"{who.wish()} {_says(who, rng.choice(some))}"
        return Message("user", SEP.join(pieces)), Message("assistant", f"Thought: {thought}")
    opened = act(shop, state, "click", one.asin)
    assert opened is not None
    page = text(shop, goal, opened)
    return Message("user", page), Message("assistant", f"Thought: {who.checked(one.title, page)}")


def wander(task_id: str, seed: int, steps: int) -> Trajectory:
    """At most `steps` turns of strolling."""
    rng = random.Random(derive_seed("webshop", "wander", task_id, seed))
    goal, shop = generate.stroll(task_id), generate.catalogue()
    state, page, played = START, "", list[Step]()
    acting = _stroll(goal, rng)
    thought, command = next(acting)
    while True:
        state = act(shop, state, *parse(command)) or state
        page = text(shop, goal, state)
        played.append(Step(compose(thought, command), page))
        if len(played) >= steps or state.page == "done":
            break
        thought, command = acting.send(page)
    return Trajectory(
        task_id=task_id,
        first_observation=text(shop, goal, START),
        steps=tuple(played),
        reward=0.0,
        ending="truncated",
        policy="wanderer",
        seed=seed,
    )


def _stroll(goal: Goal, rng: random.Random) -> Script:
    who = Customer(goal)
    words = " ".join(_words(who, rng))
    page = yield f"{who.wish()} I search for {words}.", f"search[{words}]"
    while True:
        one = rng.choice(listed(page))
        page = yield f"{who.wish()} {_says(who, one)} I open it.", f"click[{one.asin}]"
        checked = who.checked(one.title, page)
        if rng.random() < 0.3:
            name = rng.choice(("Features", "Features", "Description"))
            features = yield f"{checked} I read the {name.lower()}.", f"click[{name}]"
            said = [a for a in goal.attributes if a in features.partition("< Prev")[2].lower()]
            found = f"I read {' and '.join(said)}" if said else "I read nothing that I want"
            page, checked = (yield f"{found}. I go back to the product.", "click[< Prev]"), ""
        here, chosen = [value for value in who.values if value in page.split(SEP)], []
        for value in here:
            yield f"{checked} {choosing(here, chosen)}".strip(), f"click[{value}]"
            checked, chosen = "", [*chosen, value]
        if rng.random() < 0.3:
            yield f"{checked} It costs {one.tag}. I buy it.".strip(), "click[Buy Now]"
        page = yield f"{checked} I look at another one.".strip(), "click[< Prev]"


def _words(who: Customer, rng: random.Random) -> list[str]:
    """Something to search for: the thing, or some of what is wanted."""
    wanted = [*who.attributes, *who.values]
    return [*rng.sample(wanted, rng.randint(0, min(3, len(wanted)))), who.thing]


def _says(who: Customer, one: Listed) -> str:
    said = who.said(one.title)
    name = f"says {' and '.join(said)}" if said else "says nothing that I want"
    return f"{one.asin} {name}, and costs {one.tag}."
