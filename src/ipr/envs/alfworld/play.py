"""The wanderer: plays around in generated rooms without a goal. Its words teach a base model the world, not the task.

Every thought says what is done next and with which thing, so that a reader learns to copy names and to act on what was
just seen; which place or thing is chosen is chance. No decision of an expert is in it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from ipr.envs.alfworld import games
from ipr.envs.alfworld.engine import NOTHING, Game
from ipr.types import Step, Trajectory, derive_seed

_GO = (
    "I have not looked at {p} yet, so I go there.",
    "I want to see what is in {p}.",
    "Let me look at {p}.",
    "I check {p}.",
    "I look for something in {p}.",
)
_OPEN = ("{p} is closed, so I open it.", "I open {p} to look inside.", "I can not see into {p}. I open it.")
_TAKE = ("I see {x}. I take it.", "There is {x} here. I take it.", "I would like to have {x}.")
_CARRY = ("I hold {x}. I bring it to {p}.", "I go to {p} with {x}.", "Now I put {x} in {p}, so I go there.")
_PUT = ("I am at {p}. I put {x} here.", "I leave {x} in {p}.")
_TREAT = ("I am at {p}, so I {verb} {x}.", "I can {verb} {x} with {p}.")
_USE = ("{x} is here. I turn it on.", "I try {x}.")
_OTHER = (
    ("What do I carry?", "inventory"),
    ("I look around.", "look"),
)


def wander(task_id: str, seed: int, steps: int) -> Trajectory:
    """`steps` turns of aimless play in the game `task_id`."""
    game = games.game(task_id)
    random_ = random.Random(derive_seed("wander", task_id, seed))
    turns = _turns(game, random_)
    thought, command = next(turns)
    state, done = game.start, []
    while True:
        state, answer = game.play(state, command)
        words = f"Thought: {thought[0].upper()}{thought[1:]}\nAction: {command}"
        done.append(Step(words, NOTHING if answer is None else answer))
        if len(done) == steps or game.won(state):
            break
        thought, command = turns.send(done[-1].observation)
    won = game.won(state)
    return Trajectory(
        task_id, game.first, tuple(done), float(won), "terminated" if won else "truncated", "wanderer", seed
    )


def _turns(game: Game, random_: random.Random) -> Iterator[tuple[str, str]]:  # type: ignore[misc]
    """Yields (thought, command) for ever, is sent the observation."""
    places = [f"{name}" for name in game.receptacle_names]
    held: str | None = None
    while True:
        if random_.random() < 0.04:
            yield random_.choice(_OTHER)
        place = random_.choice(places)
        if held is None:
            thought = random_.choice(_GO).format(p=f"the {place}")
        else:
            thought = random_.choice(_CARRY).format(p=f"the {place}", x=f"the {held}")
        seen = yield thought, f"go to {place}"
        if "is closed" in seen and (held is None or random_.random() < 0.8):
            seen = yield random_.choice(_OPEN).format(p=f"the {place}"), f"open {place}"
        things = _things(seen)
        verb = _tool(place)
        if held is not None:
            if verb and random_.random() < 0.7:
                yield (
                    random_.choice(_TREAT).format(p=f"the {place}", verb=verb, x=f"the {held}"),
                    (f"{verb} {held} with {place}"),
                )
                if random_.random() < 0.6:
                    continue
            lamps = [x for x in things if x.startswith("desklamp")]
            if lamps and random_.random() < 0.7:
                yield random_.choice(_USE).format(x=f"the {lamps[0]}"), f"use {lamps[0]}"
            if random_.random() < 0.75:
                put = random_.choice(_PUT).format(p=f"the {place}", x=f"the {held}")
                answer = yield put, f"put {held} in/on {place}"
                held = held if answer == NOTHING else None
        elif things and random_.random() < 0.8:
            thing = random_.choice(things)
            if thing.startswith("desklamp"):
                yield random_.choice(_USE).format(x=f"the {thing}"), f"use {thing}"
                continue
            answer = yield random_.choice(_TAKE).format(x=f"the {thing}"), f"take {thing} from {place}"
            held = None if answer == NOTHING else thing


def _things(seen: str) -> list[str]:
    _, found, listed = seen.partition("you see ")
    if not found or listed.startswith("nothing"):
        return []
    return [item.removeprefix("and ").removeprefix("a ").rstrip(".") for item in listed.split(", ")]


def _tool(place: str) -> str | None:
    return {"sinkbasin": "clean", "microwave": "heat", "fridge": "cool"}.get(place.split()[0])
