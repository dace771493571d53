"""The shop's nouns: a product and a goal. Everything else in this package is verbs on these two."""

from __future__ import annotations

from dataclasses import dataclass

SEPARATOR = "\u203a"
"""Between the crumbs of a product category."""


@dataclass(frozen=True, slots=True)
class Product:
    """What the shop knows of a product; only title, price, options and the sub-pages' texts are ever shown."""

    asin: str
    """Ten characters, upper case; the results page shows it, and a click on it opens the product."""
    title: str
    query: str
    """The search under which the product was found when the catalogue was made; never shown."""
    category: str
    """Department (e.g. "fashion"); never shown."""
    product_category: str
    """The crumbs, from general to special, joined by SEPARATOR; never shown."""
    description: str
    bullets: tuple[str, ...]
    """The Features page."""
    attributes: tuple[str, ...]
    """What the reward compares with; never shown, except on the Attributes page where that is on."""
    options: tuple[tuple[str, tuple[str, ...]], ...]
    """Option name and its values, lower case, in the page's order."""
    price_tag: str
    """As shown: "$9.99" or "$9.99 to $19.99"."""
    price: float
    """What it costs, in dollars."""
    nouns: tuple[str, ...]
    """The title's nouns, lower case, in order, duplicates kept (see `nouns`)."""


@dataclass(frozen=True, slots=True)
class Goal:
    """What the instruction asks for, as the reward reads it. Made from one product, but any that fits will do."""

    instruction: str
    asin: str
    """The product it was made from; the reward does not look at it."""
    query: str
    product_category: str
    attributes: tuple[str, ...]
    options: tuple[str | tuple[str, str], ...]
    """Values (human instructions), or names with values (synthetic ones). The reward treats the two differently."""
    price_upper: float
    """Dollars; a price equal to it is good."""
    nouns: tuple[str, ...]
    """Nouns of the product's title."""
