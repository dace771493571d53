"""The invented shop: one catalogue for all splits, and goals, each from its task id alone.

Decided here: products come in families of one brand and model whose members differ in one attribute (and in price and
stock), so that one has to compare; a title shows some attributes, the bullet points all. A goal is made from a product
of its split in the way of the human instructions: some attributes, some options, a price limit one to four tens above
the price. A draw on which the expert earns 0.7 or less is drawn again (the paper's experts have more).

Splits: unseen and pretrain have kinds of products of their own; train, dev and seen share kinds, never families.
"""

from __future__ import annotations

import random
import re
from functools import cache, lru_cache

from ipr.envs.webshop import nouns
from ipr.envs.webshop.catalogue import Catalogue, in_memory
from ipr.envs.webshop.expert import earns
from ipr.envs.webshop.goods import Goal, Product
from ipr.envs.webshop.wares import FILLERS, SYLLABLES, Kind, kinds
from ipr.types import IprError, derive_seed

SIZES = {"train": 4000, "dev": 500, "seen": 500, "unseen": 500, "pretrain": 50_000}
"""Generated goals of each split."""
FAMILIES, MEMBERS = 20, 4
"""Families of a kind, and products of a family."""
LEAST = 0.7
"""The expert earns more than this on every goal."""
TENS = [10.0 * i for i in range(1, 100)]
"""Price limits that there are, in dollars."""


def task_ids(split: str) -> list[str]:
    if split not in SIZES:
        raise IprError(f"webshop has no split '{split}'; there are {', '.join(SIZES)}")
    return [f"{split}/{k:06d}" for k in range(SIZES[split])]


def task_type(task_id: str) -> str:
    """The department."""
    return goal_kind(task_id).department


# Products ------------------------------------------------------------------------------------------------------------


@cache
def catalogue() -> Catalogue:
    """All products, searchable; made once a process."""
    return in_memory(products())


@cache
def products() -> tuple[Product, ...]:
    """Kind by kind, family by family, member by member (see `row`)."""
    return tuple(
        product
        for number, kind in enumerate(kinds())
        for family in range(FAMILIES)
        for product in _family(kind, number, family)
    )


def row(kind: int, family: int, member: int) -> int:
    """A product's place in the catalogue."""
    return (kind * FAMILIES + family) * MEMBERS + member


def _family(kind: Kind, number: int, family: int) -> list[Product]:
    rng = random.Random(derive_seed("webshop", "family", kind.query, family))
    brand = "".join(rng.choice(SYLLABLES) for _ in range(rng.choice((2, 2, 3)))).capitalize()
    noun, use = rng.choice(kind.nouns), rng.choice(kind.uses)
    pool = rng.sample(kind.attributes, len(kind.attributes))
    shared, own = pool[:2], pool[2:]
    cost = kind.prices[0] + (kind.prices[1] - kind.prices[0]) * rng.random() ** 1.5
    made = []
    for member in range(MEMBERS):
        attributes = [own[member % len(own)], *shared]
        options = tuple((name, _stock(values, rng)) for name, values in kind.options)
        price = max(1, round(cost * rng.uniform(0.75, 1.35))) - rng.choice((0.01, 0.05, 0.5, 0.0))
        tag, price = f"${price}", float(price)
        if rng.random() < 0.12:  # dear options: the page shows a range, and the price lies in it
            high = round(price * rng.uniform(1.1, 1.5), 2)
            tag, price = f"${price} to ${high}", rng.uniform(price, high)
        title = _title(brand, noun, use, attributes, rng)
        bullets = [_sentence(a, kind, noun, rng) for a in attributes]
        rng.shuffle(bullets)
        made.append(
            Product(
                asin=_asin(number, family, member),
                title=title,
                query=kind.query,
                category=kind.department,
                product_category=kind.crumbs,
                description=f"{brand} {kind.query} for {use.lower()}: {', '.join(attributes)}.",
                bullets=(*bullets, f"Made for {use.lower()}."),
                attributes=tuple(attributes),
                options=options,
                price_tag=tag,
                price=price,
                nouns=tuple(nouns.rule(title)),
            )
        )
    return made


def _asin(number: int, family: int, member: int) -> str:
    """Ten characters in the form of the real ones, unlike for like products."""
    digits, seed = "", derive_seed("webshop", "asin", number, family, member)
    for _ in range(5):
        seed, digit = divmod(seed, 32)
        digits += "0123456789BCDFGHJKLMNPQRSTVWXYZA"[digit]
    return f"B0{digits}{row(number, family, member) % 1000:03d}"


def _stock(values: tuple[str, ...], rng: random.Random) -> tuple[str, ...]:
    """The values that a product has of an option, in the option's order."""
    kept = set(rng.sample(values, min(len(values), rng.randint(3, 6))))
    return tuple(value for value in values if value in kept)


def _title(brand: str, noun: str, use: str, attributes: list[str], rng: random.Random) -> str:
    """Its own attribute always, the first shared one mostly, the second seldom; noise around them."""
    own, first, second = (a.title() for a in attributes)
    parts = [p for p, chance in ((first, 0.75), (second, 0.3), (f"for {use}", 0.8)) if rng.random() < chance]
    rng.shuffle(parts)
    if rng.random() < 0.25:
        parts.append(rng.choice(FILLERS))
    head = f"{brand} {own} {noun}" if rng.random() < 0.5 else f"{brand} {noun}, {own}"
    return ", ".join([head, *parts])


def _sentence(attribute: str, kind: Kind, noun: str, rng: random.Random) -> str:
    if attribute in kind.have:
        form = rng.choice(("With {a}", "Comes with {a}, so you need nothing else", "{a}, as it should be"))
    else:
        form = rng.choice(("{a} {n}", "{a}, tested by hand", "It is {a}, and stays so"))
    words = form.format(a=attribute, n=noun.lower())
    return words[0].upper() + words[1:] + "."


# Goals ---------------------------------------------------------------------------------------------------------------


def goal_kind(task_id: str) -> Kind:
    return kinds()[_place(task_id)[0]]


@lru_cache(maxsize=8192)
def goal(task_id: str) -> Goal:
    """The goal of a task id, always the same."""
    attempt = 0
    while True:
        drawn = _draw(task_id, attempt)
        if earns(catalogue(), drawn, task_id) > LEAST:
            return drawn
        attempt += 1


def stroll(task_id: str) -> Goal:
    """A goal of any kind in the catalogue, made in the same way, that nobody has tried to reach (see `play`)."""
    rng = random.Random(derive_seed("webshop", "stroll", task_id))
    return _goal(rng.randrange(len(kinds())), range(FAMILIES), rng)


def _parts(task_id: str) -> tuple[str, int]:
    split, _, number = task_id.partition("/")
    if split not in SIZES or not re.fullmatch(r"[0-9]{6}", number) or int(number) >= SIZES[split]:
        raise IprError(f"'{task_id}' is no generated goal; ids run like train/000000 to train/{SIZES['train'] - 1:06d}")
    return split, int(number)


def _place(task_id: str) -> tuple[int, int]:
    """The kind of a task and its number among the tasks of that kind: kinds take turns."""
    split, number = _parts(task_id)
    own = split if split in ("unseen", "pretrain") else "train"
    numbers = [i for i, kind in enumerate(kinds()) if kind.split == own]
    return numbers[number % len(numbers)], number // len(numbers)


def _families(split: str) -> range:
    """The families of a kind that a split's goals are made from."""
    shared = {"train": (0, FAMILIES - 6), "dev": (FAMILIES - 6, FAMILIES - 3), "seen": (FAMILIES - 3, FAMILIES)}
    return range(*shared.get(split, (0, FAMILIES)))


def _draw(task_id: str, attempt: int) -> Goal:
    rng = random.Random(derive_seed("webshop", "goal", task_id, attempt))
    return _goal(_place(task_id)[0], _families(_parts(task_id)[0]), rng)


def _goal(number: int, families: range, rng: random.Random) -> Goal:
    kind = kinds()[number]
    family = rng.choice(families)
    product = products()[row(number, family, rng.randrange(MEMBERS))]
    own, *shared = product.attributes
    attributes = [own, *rng.sample(shared, rng.choice((0, 1, 1, 2)))]
    if rng.random() < 0.1 and len(attributes) > 1:
        attributes.remove(own)
    rng.shuffle(attributes)
    named = [(name, rng.choice(values)) for name, values in product.options if rng.random() < 0.85]
    limits = [ten for ten in TENS if ten > product.price][:4]
    limit = max(rng.sample(limits, 2)) if len(limits) > 1 else limits[0]
    return Goal(
        instruction=_say(kind, attributes, named, limit, rng),
        asin=product.asin,
        query=product.query,
        product_category=product.product_category,
        attributes=tuple(attributes),
        options=tuple(value for _, value in named),
        price_upper=limit,
        nouns=product.nouns,
    )


_OPENINGS = (
    "i am looking for {}", "i need {}", "find me {}", "i want to buy {}", "please show me {}", "i'm shopping for {}",
    "looking for {}", "i would like {}", "help me find {}", "could you get me {}",
)  # fmt: skip
_OPTION_WORDS = {
    "color": ("in {v}", "in the color {v}", "color {v}", "that come in {v}"),
    "size": ("size {v}", "in size {v}", "with size {v}", "size: {v}"),
}
_ANY_OPTION = ("with {n} {v}", "{n} {v}", "in the {n} {v}")
_LIMITS = (
    *[", and price lower than {:.2f} dollars"] * 3,
    ", for under {:.2f} dollars", ". they should cost less than {:.2f} dollars",
)  # fmt: skip


def _say(kind: Kind, attributes: list[str], named: list[tuple[str, str]], limit: float, rng: random.Random) -> str:
    """The instruction, in words that a person might use."""
    being = [a for a in attributes if a not in kind.have]
    having = [a for a in attributes if a in kind.have]
    things = kind.query
    if being and rng.random() < 0.75:
        things = f"{', '.join(being)} {things}"
    elif being:
        things = f"{things} that are {' and '.join(being)}"
    if having:
        things += f" with {' and '.join(having)}"
    wishes = [rng.choice(_OPTION_WORDS.get(name, _ANY_OPTION)).format(n=name, v=value) for name, value in named]
    said = rng.choice(_OPENINGS).format(" ".join([things, " and ".join(wishes)]).strip())
    return said + rng.choice(_LIMITS).format(limit)
