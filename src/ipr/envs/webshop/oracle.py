"""The page score (Ma et al. 2024, AgentBoard), the paper's ground truth: the best purchase that a page offers.

    results page       the best product's score on the page
    product page       the best score over the product's options (its sub-pages count as the page)
    confirmation page  the score of what was bought
    start page         0

Decided here: no combination of options is tried. The reward is linear in the number of goal options matched, so only
which goal options a value matches matters, and sets of those are few.
"""

from __future__ import annotations

from ipr.envs.webshop.goods import Goal, Product
from ipr.envs.webshop.pages import Catalogue, State, on_page
from ipr.envs.webshop.reward import attribute_matches, option_matches, score, total, type_score


def page_score(catalogue: Catalogue, goal: Goal, state: State) -> float:
    """The value of a state for a goal, in [0, 1]."""
    match state.page:
        case "start":
            return 0.0
        case "results":
            listed = (catalogue.product(row) for row in on_page(catalogue, state))
            return max((best_score(product, goal) for product in listed), default=0.0)
        case "done":
            return score(catalogue.product(state.row), goal, dict(state.chosen)).reward
    return best_score(catalogue.product(state.row), goal)


def best_score(product: Product, goal: Goal) -> float:
    """The best reward over the product's options."""
    reached = {0}
    for _, values in product.options:
        masks = {0, *(_matched(goal, [value]) for value in values)}
        reached = {one | other for one in reached for other in masks}
    return _reward(product, goal, max(mask.bit_count() for mask in reached))


def _matched(goal: Goal, values: list[str]) -> int:
    """The goal's options that some of the values match, as a set of bits."""
    return sum(1 << i for i, wanted in enumerate(goal.options) if any(option_matches(v, wanted) for v in values))


def _reward(product: Product, goal: Goal, options: int) -> float:
    attributes = sum(attribute_matches(product, a) for a in goal.attributes)
    return total(goal, type_score(product, goal)[0], attributes, options, product.price <= goal.price_upper)
