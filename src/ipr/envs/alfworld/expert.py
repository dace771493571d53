"""The expert: searches likely places first, from what it has seen only, and says in a few words why it acts.

Decided here: the expert reads observations like an agent does; the only thing it knows beforehand is where things
usually are (`rooms.PLACES`), as a person would. Real games have their recorded transcripts instead.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from ipr.envs.alfworld import rooms
from ipr.envs.alfworld.engine import NOTHING, Game
from ipr.types import Step, derive_seed

MAX_STEPS = 20

_SEARCH = (
    "I need a {o}. A {o} is often in {p}.",
    "I am looking for a {o}. I check {p}.",
    "A {o} could be in {p}, so I look there.",
)
_OPEN = ("{p} is closed, so I open it.", "I open {p} to look inside.")
_TAKE = ("I see {x}. I take it.", "There is {x} here. I take it.")
_TOOL = {
    "clean": "I have {x}. Now I clean it in {p}.",
    "heat": "I have {x}. Now I heat it in {p}.",
    "cool": "I have {x}. Now I cool it in {p}.",
}
_TREAT = "I am at {p}, so I {verb} {x}."
_CARRY = ("{x} is ready. I bring it to {p}.", "Now I put {x} in {p}, so I go there.")
_PUT = ("I am at {p}. I put {x} here.", "This is the place for {x}.")
_MORE = "One {o} is placed. I need another one from {p}."
_LAMP = "I hold {x}. I look for a desklamp at {p}."
_USE = "{x} is here. I turn it on."

_GOALS = (
    (re.compile(r"(?:put|find) two (\w+) (?:and put them )?in (\w+)\."), "two"),
    (re.compile(r"(?:look at|examine the) (\w+) (?:under|with) the (\w+)\."), "look"),
    (re.compile(r"(?:clean some (\w+) and put it|put a clean (\w+)) in (\w+)\."), "clean"),
    (re.compile(r"(?:heat some (\w+) and put it|put a hot (\w+)) in (\w+)\."), "heat"),
    (re.compile(r"(?:cool some (\w+) and put it|put a cool (\w+)) in (\w+)\."), "cool"),
    (re.compile(r"put (?:a|some) (\w+) (?:in|on) (\w+)\."), "place"),
)


def goal_of(task: str) -> tuple[str, str, str]:
    """(kind, object, target) of a generated game's goal in words."""
    for pattern, kind in _GOALS:
        if found := pattern.search(task):
            object_, target = (g for g in found.groups() if g)
            return kind, object_, target
    raise ValueError(f"not a goal the expert knows: {task}")


@dataclass
class _Memory:
    """What has been seen."""

    places: list[str]
    contents: dict[str, list[str]] = field(default_factory=dict)
    closed: set[str] = field(default_factory=set)

    def read(self, place: str, observation: str) -> None:
        if "is closed" in observation:
            self.closed.add(place)
        elif "you see" in observation:
            self.closed.discard(place)
            self.contents[place] = re.findall(r"(?:a|an) (\w+ \d+)", observation.split("you see", 1)[1])


def solve(game: Game, task_id: str, max_steps: int = MAX_STEPS) -> list[Step] | None:
    """The expert's steps, or None where it does not win within `max_steps`."""
    steps: list[Step] = []
    state = game.start
    try:
        plan = _plan(game, random.Random(derive_seed("expert", task_id)), game.first)
        thought, command = next(plan)
        while len(steps) < max_steps:
            state, answer = game.play(state, command)
            words = f"Thought: {thought[0].upper()}{thought[1:]}\nAction: {command}"
            steps.append(Step(words, NOTHING if answer is None else answer))
            if game.won(state):
                return steps
            thought, command = plan.send(steps[-1].observation)
    except (StopIteration, ValueError):
        return None
    return None


def _plan(game: Game, random_: random.Random, first: str) -> Iterator[tuple[str, str]]:  # type: ignore[misc]
    """Yields (thought, command), is sent the observation."""
    room, task = first.split("\n\n", 1)
    kind, wanted, target = goal_of(task)
    memory = _Memory(re.findall(r"(?:a|an) (\w+ \d+)", room.split("you see", 1)[1]))
    placed: list[str] = []
    goal_place: str | None = None

    def visit(place: str, thought: str):  # noqa: ANN202 (a generator of the same kind)
        memory.read(place, (yield thought.format(p=_the(place)), f"go to {place}"))
        if place in memory.closed:
            memory.read(place, (yield random_.choice(_OPEN).format(p=_the(place)), f"open {place}"))

    here: str | None = None
    for _ in range(2 if kind == "two" else 1):
        # Find one that is not yet where it belongs.
        found: str | None = None
        while found is None:
            options = [
                (o, p) for p, os in memory.contents.items() for o in os if o.startswith(wanted + " ") and o not in placed
            ]
            if options:
                found, place = options[0]
                if place != here:
                    text = _MORE if placed else _SEARCH[1]
                    yield from visit(place, text.replace("{o}", wanted))
                    here = place
                break
            place = _next_place(memory, wanted, random_)
            if place is None:
                return
            yield from visit(place, random_.choice(_SEARCH).replace("{o}", wanted))
            here = place
        assert found is not None
        assert here is not None
        yield random_.choice(_TAKE).format(x=_the(found)), f"take {found} from {here}"
        memory.contents[here].remove(found)
        if kind == "look":
            while True:
                lamp_at = next((p for p, os in memory.contents.items() if any(o.startswith(target) for o in os)), None)
                place = lamp_at or _next_place(memory, target, random_)
                if place is None:
                    return
                if place != here:
                    yield from visit(place, _LAMP.replace("{x}", _the(found)))
                    here = place
                lamps = [o for o in memory.contents.get(place, []) if o.startswith(target)]
                if lamps:
                    yield _USE.format(x=_the(lamps[0])), f"use {lamps[0]}"
                    return
        tools = {"clean": "sinkbasin", "heat": "microwave", "cool": "fridge"}
        if kind in tools:
            tool = next((p for p in memory.places if p.startswith(tools[kind] + " ")), None)
            if tool is None:
                return
            if here != tool:
                observation = yield _TOOL[kind].format(x=_the(found), p=_the(tool)), f"go to {tool}"
                memory.read(tool, observation)
                here = tool
            yield _TREAT.format(p=_the(tool), verb=kind, x=_the(found)), f"{kind} {found} with {tool}"
        if goal_place is None:
            candidates = [p for p in memory.places if p.startswith(target + " ")]
            if not candidates:
                return
            # One that is known to be open, or whose number comes first.
            goal_place = min(candidates, key=lambda p: (p not in memory.contents, int(p.split()[1])))
        if here != goal_place:
            yield from visit(goal_place, random_.choice(_CARRY).replace("{x}", _the(found)))
            here = goal_place
        yield random_.choice(_PUT).format(p=_the(goal_place), x=_the(found)), f"put {found} in/on {goal_place}"
        placed.append(found)
        memory.contents.setdefault(goal_place, []).append(found)


def _next_place(memory: _Memory, wanted: str, random_: random.Random) -> str | None:
    """An unseen place, by how usual the wanted thing is there; among equals by number."""
    unseen = [p for p in memory.places if p not in memory.contents]
    if not unseen:
        return None
    likely = likelihood(wanted)
    counts = {p.split()[0]: sum(q.split()[0] == p.split()[0] for q in memory.places) for p in unseen}
    return max(
        unseen, key=lambda p: (round(likely.get(p.split()[0], 0.0) / counts[p.split()[0]], 6), -int(p.split()[1]), p)
    )


def likelihood(wanted: str) -> dict[str, float]:
    """Receptacle kind -> how usual an object of this kind is there, over all rooms."""
    if not _USUAL:
        for room in rooms.PLACES.values():
            for otype, where in room.items():
                table = _USUAL.setdefault(otype.lower(), {})
                for rtype, weight in where.items():
                    table[rtype.lower()] = max(table.get(rtype.lower(), 0.0), float(weight))
    return _USUAL.get(wanted, {})


_USUAL: dict[str, dict[str, float]] = {}


def _the(name: str) -> str:
    return f"the {name}"
