"""An expert for the household that knows only what it has been shown.

Decided here: it reads the observations' text, keeps what it saw where, looks first where such a thing is usually
found (`rooms.PLACES`, what anybody knows about homes), and says in a few words why it does what it does. Left out:
planning of shortest ways, for which one would have to know what is hidden.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from itertools import pairwise

from ipr.envs.alfworld.engine import NOTHING, Game
from ipr.envs.alfworld.rooms import OPENABLE, PLACES
from ipr.envs.react import compose
from ipr.types import IprError, Step, Trajectory

MAX_STEPS = 20
"""Within so many steps the expert wins every generated game."""
PLAN = 12
"""Places that a thought names when a search begins."""

_USUAL = {thing.lower(): {r.lower(): n for r, n in where.items()} for thing, where in PLACES.items()}
_CLOSED = frozenset(r.lower() for r in OPENABLE)
_TOOL = {"clean": "sinkbasin", "heat": "microwave", "cool": "fridge"}
_TASKS = (
    (r"(clean|heat|cool) some (?P<o>\w+) and put it in (?P<r>\w+)", 1),
    (r"put a (clean|hot|cool) (?P<o>\w+) in (?P<r>\w+)", 1),
    (r"(?:look at|examine) (?:the )?(?P<o>\w+) (?:under|with) the (?P<light>\w+)", 1),
    (r"(?:find|put) two (?P<o>\w+) (?:and put them )?in (?P<r>\w+)", 2),
    (r"put (?:some|a) (?P<o>\w+) (?:on|in) (?P<r>\w+)", 1),
)
_THING = re.compile(r"\ba (\w+ \d+)")

# A thought says the whole goal, then what is seen of the thing (its name last, so that a small model decides "is not
# here" or "2 is here" by looking that name up), then what is done.
_SAYINGS: Mapping[str, str] = {
    "plan": "It may be at {plan}. I check {r} first.",
    "plan again": "The {what} is not at {here}. It may be at {plan}. I check {r} first.",
    "search": "The {what} is not at {here}, {r} is next.",
    "open": "The {r} is closed, so I open it.",
    "open to put": "{have}. The {r} is closed, so I open it.",
    "take": "The {o} is here, so I take it.",
    "go back": "The {kind} is not at {here}. I saw the {o} at the {r}, so I go there.",
    "to tool": "{have}, so I go to the {r} to {verb} it.",
    "treat": "{have}. I am at the {r}, so I {verb} it.",
    "bring": "{have}, so I go to the {r}.",
    "put": "{have}. I am at the {r}, so I put it here.",
    "plan light": "{have}. The {what} is not at {here}. It may be at {plan}. I check {r} first.",
    "search light": "{have}. The {what} is not at {here}, {r} is next.",
    "to light": "{have}. The {light} is not at {here}. I saw the {lamp} at the {r}, so I go there.",
    "light": "{have}. The {lamp} is here, so I use it.",
    "look again": "I am at the {r} already, so I look at it.",
    "lost": "I have looked everywhere, so I look around again.",
}
_DONE = {"clean": "clean", "heat": "hot", "cool": "cool"}


class Expert:
    """Plays one game from its observations. `act()` gives a turn, `see(observation)` takes the answer to it."""

    def __init__(self, first_observation: str, put: str) -> None:
        """`put` is the wording's template for putting something down, e.g. "put {o} in/on {r}"."""
        self._put = put
        room, _, task = first_observation.partition("Your task is to: ")
        self._receptacles = things_in(room)
        self._verb, self._thing, self._target, self._light, self._count = _understand(task)
        self._seen: dict[str, list[str]] = {}  # receptacle -> what it holds, as last seen
        self._closed: set[str] = set()
        self._here: str | None = None
        self._held: str | None = None
        self._treated = False
        self._placed: list[str] = []
        self._chosen: str | None = None  # the receptacle of the first of two
        self._plan: list[str] = []  # where it said that it will look
        self.last_command = ""

    def act(self) -> str:
        saying, command, names = self._decide()
        self.last_command = command
        done = _DONE[self._verb] if self._verb and self._treated else ""
        names["have"] = f"The {self._held} is {done}" if done else f"I have the {self._held}"
        words = _SAYINGS[saying].format(kind=self._thing, light=self._light, verb=self._verb, here=self._here, **names)
        return compose(f"{self._goal()} {words}", command)

    def see(self, observation: str) -> None:
        words = self.last_command.split()
        name = " ".join(words[-2:])
        failed = observation == NOTHING
        match words[0]:
            case "go":  # where two receptacles share a place, going from one to the other fails
                self._here = name
                if not failed:
                    self._note(name, observation)
            case "open" | "examine" if not failed:
                self._closed.discard(name)
                self._note(name, observation)
            case "take":
                thing = f"{words[1]} {words[2]}"
                if thing in self._seen[name]:
                    self._seen[name].remove(thing)  # also when it failed: not to try for ever
                if not failed:
                    self._held, self._treated = thing, False
            case "clean" | "heat" | "cool":
                self._treated = True
            case "put" | "move" if not failed and self._held:
                self._seen.setdefault(name, []).append(self._held)
                self._placed.append(self._held)
                self._held, self._chosen = None, name

    def _goal(self) -> str:
        if self._light:
            return f"I need a {self._thing} at a {self._light}."
        many = "a" if self._count == 1 else "one more" if self._placed else "two"
        state = f"{_DONE[self._verb]} " if self._verb else ""
        return f"I need {many} {state}{self._thing} for a {self._target}."

    # Remembering ---------------------------------------------------------------------------------------------

    def _note(self, receptacle: str, observation: str) -> None:
        if observation.endswith("is closed."):
            self._closed.add(receptacle)
        else:
            self._seen[receptacle] = things_in(observation)

    def _where(self, kind: str) -> tuple[str, str] | None:
        """A thing of a kind that was seen and is still wanted, and where; here rather than elsewhere."""
        found = [(thing, r) for r, things in self._seen.items() for thing in things if kind_of(thing) == kind]
        if self._count == 2 and kind == self._thing:
            done = self._chosen or next((r for _, r in found if kind_of(r) == self._target), None)
            found = [(thing, r) for thing, r in found if r != done and thing not in self._placed]
            self._chosen = self._chosen or done
        return min(found, key=lambda pair: pair[1] != self._here, default=None)

    def _search_order(self, kind: str) -> list[str]:
        """The receptacles, likeliest for its effort first: one of many cabinets is less likely, and must be opened."""
        usual, count = _USUAL.get(kind, {}), Counter(map(kind_of, self._receptacles))

        def promise(r: str) -> float:
            return usual.get(kind_of(r), 0) / count[kind_of(r)] / (2 if kind_of(r) in _CLOSED else 1)

        return sorted(self._receptacles, key=lambda r: (-promise(r), kind_of(r), -int(r.split()[1])))

    # Deciding ------------------------------------------------------------------------------------------------

    def _decide(self) -> tuple[str, str, dict[str, str]]:
        """Saying, command, and the names that the saying mentions."""
        if self._held is None:
            return self._fetch()
        if self._light:
            return self._use_light()
        if self._verb and not self._treated:
            tools = [r for r in self._receptacles if kind_of(r) == _TOOL[self._verb]]
            tool = tools[-1] if tools else self._receptacles[0]  # listed downwards: the last is number 1
            names = {"r": tool}
            if self._here != tool:
                return "to tool", f"go to {tool}", names
            return "treat", f"{self._verb} {self._held} with {tool}", names
        return self._deliver(self._held)

    def _fetch(self) -> tuple[str, str, dict[str, str]]:
        if found := self._where(self._thing):
            thing, r = found
            names = {"o": thing, "r": r}
            if self._here != r:
                return "go back", f"go to {r}", names
            return "take", f"take {thing} from {r}", names
        return self._search(self._thing)

    def _search(self, kind: str) -> tuple[str, str, dict[str, str]]:
        here = self._here
        if here and here not in self._seen:
            if here in self._closed:
                return ("open to put" if self._held else "open"), f"open {here}", {"r": here}
            return "look again", f"examine {here}", {"r": here}
        unseen = [r for r in self._search_order(kind) if r not in self._seen]
        if not unseen:
            return "lost", "look", {}
        r = unseen[0]
        names = {"r": r, "what": kind}
        if here and (here, r) in pairwise(self._plan):
            return ("search light" if self._held else "search"), f"go to {r}", names
        self._plan = unseen[:PLAN]
        names["plan"] = ", ".join(self._plan)
        if self._held:
            return "plan light", f"go to {r}", names
        kinds = [kind_of(thing) for thing in self._seen[here]] if here else [kind]
        return ("plan" if kind in kinds else "plan again"), f"go to {r}", names

    def _use_light(self) -> tuple[str, str, dict[str, str]]:
        assert self._light
        if found := self._where(self._light):
            lamp, r = found
            names = {"r": r, "lamp": lamp}
            if self._here != r:
                return "to light", f"go to {r}", names
            return "light", f"use {lamp}", names
        return self._search(self._light)

    def _deliver(self, held: str) -> tuple[str, str, dict[str, str]]:
        targets = [r for r in self._receptacles if kind_of(r) == self._target] or self._receptacles
        targets.sort(key=lambda r: int(r.split()[1]))
        known = [r for r in targets if r in self._seen]
        here = [r for r in targets if r == self._here]
        target = self._chosen or next(iter([*here, *known, *targets]))
        names = {"r": target}
        if self._here != target:
            return "bring", f"go to {target}", names
        if target in self._closed:
            return "open to put", f"open {target}", names
        return "put", self._put.format(o=held, r=target), names


def solve(game: Game, task_id: str, max_steps: int = MAX_STEPS) -> tuple[Step, ...] | None:
    """The expert's steps, or None where it does not win within `max_steps`."""
    played = play(game, task_id, max_steps)
    return played.steps if played.reward else None


def play(game: Game, task_id: str, max_steps: int = MAX_STEPS) -> Trajectory:
    """The expert's trajectory, of at most `max_steps` steps."""
    expert = Expert(game.first, game.wording.put)
    state, steps, invalid = game.start, [], 0
    while len(steps) < max_steps and not (steps and game.won(state)):
        turn = expert.act()
        state, answer = game.play(state, expert.last_command)
        invalid += answer is None
        steps.append(Step(turn, answer or NOTHING))
        expert.see(steps[-1].observation)
    won = game.won(state)
    return Trajectory(
        task_id=task_id,
        first_observation=game.first,
        steps=tuple(steps),
        reward=float(won),
        ending="terminated" if won else "truncated",
        policy="expert",
        invalid=invalid,
    )


def kind_of(name: str) -> str:
    """The kind of a named thing: "mug 1" is a "mug"."""
    return name.split()[0]


def things_in(observation: str) -> list[str]:
    """The names that an observation lists ("a mug 1, and a pen 2")."""
    return _THING.findall(observation)


def _understand(task: str) -> tuple[str | None, str, str | None, str | None, int]:
    """What a task sentence asks: verb, thing, target receptacle, light, and how many."""
    for pattern, count in _TASKS:
        if found := re.match(pattern, task):
            parts = found.groupdict()
            verb = found[1] if found[1] in ("clean", "heat", "cool", "hot") else None
            return "heat" if verb == "hot" else verb, parts["o"], parts.get("r"), parts.get("light"), count
    raise IprError(f"the expert knows no task of the form '{task}'; give experts of your own (env.experts)")
