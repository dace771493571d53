"""Fewest steps from a state to the goal, exactly: the ground truth for step rewards.

Decided here: no search. Every way to reach the goal is a set of facts (`Game.goals`); what is missing of them is a
row of errands (empty the hand, fetch, treat, put down, switch on), each done at a place. The cost of a row is one step
an errand, one for each closed receptacle that must be opened, and one each time the next errand is elsewhere. The best
row over the few choices (which things, from where, with which tool) is the answer; a test compares it with search.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import permutations, product

from ipr.envs.alfworld.engine import Fact, Game

Errand = tuple[int, int | None]
"""The place at which something is done, and the receptacle that must be open for it."""

_VERBS = {"isclean": "clean", "ishot": "heat", "iscool": "cool"}


def steps_to_goal(game: Game, state: int) -> float:
    """Fewest steps to the goal; infinite where it can no longer be reached."""
    if game.won(state):
        return 0
    return min(
        (_cost(game, state, row) for _, facts in game.goals for row in _rows(game, state, facts)), default=math.inf
    )


def _cost(game: Game, state: int, row: tuple[Errand | int, ...]) -> int:
    """Steps of a row; a bare place in it is only gone to."""
    here, steps, opened = game.where(state), 0, set()
    for errand in row:
        place, receptacle = (errand, None) if isinstance(errand, int) else errand
        if place != here:
            here, steps = place, steps + 1
        if receptacle is not None and receptacle not in opened and not game.accessible(state, receptacle):
            opened.add(receptacle)
            steps += 1
        steps += not isinstance(errand, int)
    return steps


def _rows(game: Game, state: int, facts: tuple[Fact, ...]) -> Iterator[tuple[Errand | int, ...]]:
    """The rows of errands that make these facts true."""
    puts: list[tuple[int, int]] = []
    treat: dict[int, str] = {}
    hold = stand = lamp = None
    for fact in facts:
        if state & game.bit(fact) and fact[0] not in ("atlocation", "holds"):
            continue
        match fact:
            case ("inreceptacle", o, r):
                puts.append((game.objects[o], game.receptacles[r]))
            case (name, o) if name in _VERBS:
                treat[game.objects[o]] = _VERBS[name]
            case ("istoggled", o):
                lamp = game.objects[o]
            case ("holds", _, o):
                hold = game.objects[o]
            case ("atlocation", _, place):
                stand = game.locations[place]
            case _:
                return
    target = {game.objects[f[1]]: game.receptacles[f[2]] for f in facts if f[0] == "inreceptacle"}
    for o in treat:  # what must be treated has to be fetched, even from where it belongs in the end
        if (o, target[o]) not in puts:
            puts.append((o, target[o]))
    held = game.held(state)
    for order in permutations(puts):
        jobs: list[list[Errand]] = []  # one after the other, each with the ways to do it
        in_hand = held
        for o, r in order:
            jobs += _get(game, state, in_hand, o)
            if o in treat:
                jobs.append([(place, None) for t, place in game.place_of.items() if game.tool(t, o) == treat[o]])
            jobs.append([(game.place_of[r], r)])
            in_hand = None
        if hold is not None:
            jobs += _get(game, state, in_hand, hold)
        if lamp is not None:
            jobs.append([(place, None) for r, place in game.place_of.items() if lamp in game.contents(state, r)])
        for row in product(*jobs):
            yield row if stand is None else (*row, stand)


def _get(game: Game, state: int, held: int | None, o: int) -> list[list[Errand]]:
    """The jobs that bring an object into the hand: put down what is in it, pick up."""
    if held == o:
        return []
    jobs: list[list[Errand]] = []
    if held is not None:
        jobs.append([(place, r) for r, place in game.place_of.items() if game.fits(held, r)])
    jobs.append([(place, r) for r, place in game.place_of.items() if o in game.contents(state, r)])
    return jobs
