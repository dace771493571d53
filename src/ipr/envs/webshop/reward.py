"""WebShop's reward, as the official one (Yao et al. 2022), with the nouns of titles given.

    reward = r_type * (attributes matched + options matched + [price <= limit]) / (attributes + options + 1)

Decided here: the quirks that published numbers contain are kept. Texts are compared by thefuzz's `token_set_ratio`
above 85, so that "x-large" matches "large"; a colour is replaced by the first known colour *contained* in it, so that
"standard" becomes "tan"; a synthetic goal's option is compared as the text of its (name, value) pair, whose value is no
longer normalised unless it is exactly a colour. Where the official function raises (a goal without attributes, a limit
of 0), this one follows the formula. Left out: tagging nouns (see `nouns`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from rapidfuzz import fuzz, utils

from ipr.envs.webshop.goods import SEPARATOR, Goal, Product

SIMILAR = 85
"""Two texts match when their `token_set_ratio` (0 to 100, rounded) is above it."""

_COLOURS = """
    alabaster apricot aqua ash asphalt azure banana beige black blue blush bordeaux bronze brown burgundy camel camo
    caramel champagne charcoal cheetah chestnut chocolate christmas coffee cognac copper coral cranberry cream crystal
    dark denim eggplant elephant espresso fuchsia gold granite grape graphite grass gray green grey heather indigo
    ivory ivy khaki lavender lemon leopard light lilac lime magenta maroon mauve merlot midnight mint mocha multicolor
    mushroom mustard natural navy nude olive orange peach pewter pink plum purple rainbow red rose royal rust sand
    sapphire seashell silver skull slate steel stone stonewash sunflower tan taupe teal tiger turquoise violet walnut
    wheat white wine yellow
"""
COLOURS = tuple(_COLOURS.split())
"""Known colours in the order in which they are looked for, which is that of the alphabet."""

# thefuzz drops the characters 128 to 255 before it compares; rapidfuzz alone would keep them.
_NO_LATIN_1 = dict.fromkeys(range(128, 256))


@dataclass(frozen=True, slots=True)
class Score:
    """A reward and its parts."""

    reward: float
    r_type: float
    attributes: int
    """Attributes of the goal that are matched."""
    options: int
    """Options of the goal that are matched."""
    price: bool
    query_match: bool
    category_match: bool
    title_score: float


def score(product: Product, goal: Goal, chosen: Mapping[str, str], price: float | None = None) -> Score:
    """What buying a product with the chosen options (name -> value) is worth; `price` instead of the product's own."""
    r_type, query_match, category_match, title_score = type_score(product, goal)
    attributes = sum(attribute_matches(product, a) for a in goal.attributes)
    options = sum(any(option_matches(value, wanted) for value in chosen.values()) for wanted in goal.options)
    affordable = (product.price if price is None else price) <= goal.price_upper
    reward = total(goal, r_type, attributes, options, affordable)
    return Score(reward, r_type, attributes, options, affordable, query_match, category_match, title_score)


def total(goal: Goal, r_type: float, attributes: int, options: float, affordable: bool) -> float:
    """The equation above."""
    return r_type * ((attributes + options + affordable) / (len(goal.attributes) + len(goal.options) + 1))


def type_score(product: Product, goal: Goal) -> tuple[float, bool, bool, float]:
    """r_type (is it that kind of thing at all?), query match, category match, title score."""
    query = product.query == goal.query
    category = len(_crumbs(product.product_category) & _crumbs(goal.product_category)) >= 2
    title = title_score(product.nouns, goal.nouns)
    if title == 0:
        return 0.0, query, category, title
    if title < 0.1:
        return 0.1, query, category, title
    return (1.0 if query or category or title > 0.2 else 0.5), query, category, title


def title_score(nouns: Collection[str], wanted: Collection[str]) -> float:
    """Different nouns in common, over the number of the goal's nouns, duplicates counted; 0.2 where that has none."""
    return len(set(nouns) & set(wanted)) / len(wanted) if wanted else 0.2


def _crumbs(product_category: str) -> set[str]:
    return {crumb.strip() for crumb in product_category.split(SEPARATOR)}


def attribute_matches(product: Product, wanted: str) -> bool:
    """Like one of the product's attributes, or part of its title, bullet points or description."""
    if any(similar(attribute, wanted) for attribute in product.attributes):
        return True
    texts: Iterable[str] = (product.title, " ".join(product.bullets), product.description)
    return any(wanted in text.lower() for text in texts)


@lru_cache(maxsize=1 << 16)
def option_matches(value: str, wanted: str | tuple[str, str]) -> bool:
    """Whether a chosen value is what the goal wants."""
    if isinstance(wanted, tuple):
        pair = wanted  # a pair is replaced only where one of the two IS a colour
        text = next((colour for colour in COLOURS if colour in pair), str(pair))
    else:
        text = normal_colour(wanted)
    return similar(normal_colour(value), text)


def normal_colour(text: str) -> str:
    """The first known colour that the text contains, anywhere; else the text."""
    return next((colour for colour in COLOURS if colour in text), text)


@lru_cache(maxsize=1 << 17)
def similar(one: str, other: str) -> bool:
    return round(fuzz.token_set_ratio(_plain(one), _plain(other))) > SIMILAR


def _plain(text: str) -> str:
    return utils.default_process(text.translate(_NO_LATIN_1))
