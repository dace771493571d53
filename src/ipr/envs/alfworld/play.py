"""The wanderer: plays around in a room without a goal. Its text teaches a base model the world, not the task.

Decided here: it follows small wishes drawn by chance (look somewhere, get a thing that it saw or thinks of, carry it,
clean or heat it, try a lamp), and every thought says what is done next and why, with the exact names, so that a reader
learns to copy names and to act on what was just seen. Most episodes begin with a list of errands of its own in place of
the game's task, which it runs one after another, so that a reader also learns that words said at the start matter
later. It looks in any order, though six searches in ten are lucky (where the thing lies is looked at early, so that an
episode has room for more than searching), and now and then it tries what cannot be done, so that "Nothing happens." is
known too. No decision of the expert, and none of the six tasks, is in it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator

from ipr.envs.alfworld import games
from ipr.envs.alfworld.engine import NOTHING, Game
from ipr.envs.alfworld.expert import kind_of, things_in
from ipr.envs.alfworld.rooms import FIXED, PLACES
from ipr.envs.react import compose
from ipr.types import Step, Trajectory, derive_seed

Turns = Generator[tuple[str, str], str, None]
"""Yields thought and command, is sent the observation."""

_TOOLS = {"sinkbasin": "clean", "microwave": "heat", "fridge": "cool"}
_FIXED = frozenset(thing.lower() for thing in FIXED)
_KINDS = [thing.lower() for thing in PLACES if thing not in FIXED]

_LOOK = (
    "I have not been at the {r} yet, so I go there.",
    "I want to see what is at the {r}.",
    "The {r} is next, so I look there.",
    "Let me look at the {r} now.",
    "I wonder what is at the {r}.",
)
_WISH = (
    "I want a {k}, so I try the {r}.",
    "I would like a {k}. I go to the {r}.",
)
_WISH_ON = (
    "I want a {k}. It is not here, so I try the {r}.",
    "I would like a {k}. I do not see one, so I go on to the {r}.",
)
_WISH_OPEN = ("I want a {k}. The {r} is closed, so I open it.",)
_WISH_TAKE = (
    "I want a {k}. I see the {o} here, so I take it.",
    "I would like a {k}. There is the {o}, so I take it.",
)
_OPEN = (
    "The {r} is closed, so I open it.",
    "I cannot see into the {r}, so I open it.",
    "I open the {r} to see what is inside.",
)
_CLOSE = ("I am done with the {r}, so I close it.", "The {r} is open, and I close it again.")
_TAKE = (
    "I see the {o} at the {r}, so I take it.",
    "The {o} is here, and I take it.",
    "There is the {o} at the {r}. I pick it up.",
    "I like the {o}, so I take it from the {r}.",
)
_BACK = (
    "I saw the {o} at the {r}, so I go there.",
    "The {o} was at the {r}. I go and get it.",
    "I think of the {o} at the {r} and go there.",
)
_CARRY = (
    "I hold the {o}, and I carry it to the {r}.",
    "I go to the {r} with the {o}.",
    "The {o} could be at the {r}, so I bring it there.",
)
_PUT = (
    "I am at the {r}, so I put the {o} here.",
    "I leave the {o} at the {r}.",
    "I do not need the {o} any more, so I put it down.",
)
_TO_TOOL = ("I could {v} the {o}, so I go to the {r}.", "The {r} can {v} things. I bring the {o}.")
_TREAT = ("I am at the {r}, so I {v} the {o}.", "Now I {v} the {o} with the {r}.")
_LAMP = ("The {o} is here, so I turn it on.", "I see the {o}, and I try it.")
_EXAMINE = ("I hold the {o}, so I look at it closely.", "I want to see how the {o} is.")
_AGAIN = ("I am at the {r} and look at it again.", "I want to be sure what is at the {r}.")
_INVENTORY = ("I want to know what I carry.", "Let me see what is in my hands.")
_AROUND = ("I look around to see where I am.", "I want to know what I am facing.")
_FAR = ("I remember the {o} and try to take it from here.", "I try to take the {o} from the {r}.")
_FULL = ("I see the {o} too, so I try to take it.", "My hand is full, but I try to take the {o}.")
_EMPTY = ("I try to put the {o} at the {r}.", "I hold nothing, but I try to put the {o} here.")
_ERRANDS = {
    "bring": "bring a {k} to a {t}",
    "clean": "wash a {k} and leave it at a {t}",
    "heat": "warm a {k} and leave it at a {t}",
    "cool": "chill a {k} and leave it at a {t}",
    "light": "try a {k} at a desklamp",
}
_TOOL_OF = {verb: tool for tool, verb in _TOOLS.items()}
_TO_TARGET = ("The {o} is for a {t}, so I go to the {r}.",)
_AT_TARGET = ("The {o} is for a {t}. I am at the {r}, so I put it here.",)
_TO_LAMP = ("I want a desklamp for the {o}, so I try the {r}.",)
_AT_LAMP = ("I want a desklamp for the {o}. I see the {x} here, so I turn it on.",)
_SAME = ("I am at the {r}, and I try to go there.",)


def wander(task_id: str, seed: int, steps: int) -> Trajectory:
    """At most `steps` turns of aimless play in a game; fewer only where it is won by chance."""
    game = games.game(task_id)
    wanderer = _Wanderer(game, random.Random(derive_seed("alfworld", "wander", task_id, seed)))
    errands = wanderer.errands()
    turns = wanderer.turns(errands)
    first = game.first
    if errands:
        said = ", then ".join(_ERRANDS[verb].format(k=kind, t=target) for verb, kind, target in errands)
        first = f"{first.partition(chr(10) * 2)[0]}\n\nYour errands: {said}."
    state, played, invalid = game.start, [], 0
    thought, command = next(turns)
    while True:
        state, answer = game.play(state, command)
        invalid += answer is None
        played.append(Step(compose(thought, command), NOTHING if answer is None else answer))
        won = game.won(state)
        if won or len(played) >= steps:
            break
        thought, command = turns.send(played[-1].observation)
    return Trajectory(
        task_id=task_id,
        first_observation=first,
        steps=tuple(played),
        reward=float(won),
        ending="terminated" if won else "truncated",
        policy="wanderer",
        seed=seed,
        invalid=invalid,
    )


class _Wanderer:
    """What it has seen, and its wishes."""

    def __init__(self, game: Game, rng: random.Random) -> None:
        self._rng = rng
        self._put = game.wording.put
        self._places = list(game.receptacle_names)
        self._kinds = [kind_of(o) for o in game.object_names if kind_of(o) not in _FIXED]
        self._kinds += ["desklamp"] * (len(self._kinds) // 3) if "desklamp 1" in game.object_names else []
        self._lying = {
            name: {kind_of(game.object_names[o]) for o in game.contents(game.start, r)}
            for r, name in enumerate(game.receptacle_names)
        }
        self._seen: dict[str, list[str]] = {}
        self._closed: set[str] = set()
        self._opened: set[str] = set()
        self._here: str | None = None
        self._held: str | None = None

    def errands(self) -> list[tuple[str, str, str]]:
        """(verb, kind of thing, kind of place) to begin with, or none."""
        if self._rng.random() < 0.25:
            return []
        carried = [kind for kind in self._kinds if kind != "desklamp"]
        places = sorted({kind_of(r) for r in self._places})
        verbs = ["bring"] * 2 + [verb for verb, tool in _TOOL_OF.items() if f"{tool} 1" in self._places]
        verbs += ["light"] * 2 * ("desklamp" in self._kinds)
        return [
            (self._rng.choice(verbs), self._rng.choice(carried), self._rng.choice(places))
            for _ in range(self._rng.randint(1, 3))
        ]

    def turns(self, errands: list[tuple[str, str, str]]) -> Turns:
        for errand in errands:
            yield from self._run(*errand)
        while True:
            if self._held is None:
                wish = self._pick(
                    (self._look, 4), (self._fetch, 5), (self._search, 3), (self._small, 1), (self._wrong, 1)
                )
            else:
                wish = self._pick(
                    (self._carry, 5), (self._treat, 4), (self._light, 3), (self._small, 1), (self._wrong, 1)
                )
            yield from wish()

    # Wishes --------------------------------------------------------------------------------------------------

    def _look(self) -> Turns:
        """Go somewhere, rather where it has not been; look inside; perhaps take what is seen."""
        fresh = [r for r in self._places if r not in self._seen and r != self._here]
        others = [r for r in self._places if r != self._here]
        yield from self._visit(self._rng.choice(fresh if fresh and self._rng.random() < 0.8 else others), _LOOK)
        lamps = [o for o in self._seen.get(self._here or "", []) if kind_of(o).endswith("lamp")]
        if lamps and self._rng.random() < 0.5:
            yield self._say(_LAMP, o=lamps[0]), f"use {lamps[0]}"
        elif self._rng.random() < 0.5:
            yield from self._take_something()

    def _run(self, verb: str, kind: str, target: str) -> Turns:
        """An errand: find a thing of the kind, do to it what is said, bring it to a place of the target's kind."""
        if self._held:
            yield from self._put_down(self._here or self._places[0])
        known = [(o, r) for r, things in self._seen.items() for o in things if kind_of(o) == kind]
        if known:
            thing, r = known[0]
            yield from self._visit(r, _BACK, o=thing)
            yield from self._take(thing, r)
        else:
            yield from self._search(kind, 12)
        if self._held is None:
            return
        if verb == "light":
            lamps = [(o, r) for r, things in self._seen.items() for o in things if kind_of(o) == "desklamp"]
            fresh = [r for r in self._places if r not in self._seen and r != self._here]
            for r in [lamps[0][1]] if lamps else self._rng.sample(fresh, len(fresh)):
                yield from self._visit(r, _TO_LAMP, o=self._held)
                if found := [o for o in self._seen.get(r, []) if kind_of(o) == "desklamp"]:
                    yield self._say(_AT_LAMP, o=self._held, x=found[0]), f"use {found[0]}"
                    return
            return
        if verb != "bring":
            tool = self._rng.choice([r for r in self._places if kind_of(r) == _TOOL_OF[verb]])
            if self._here != tool:
                self._note(tool, (yield self._say(_TO_TOOL, o=self._held, r=tool, v=verb), f"go to {tool}"))
            yield self._say(_TREAT, o=self._held, r=tool, v=verb), f"{verb} {self._held} with {tool}"
        r = self._rng.choice([r for r in self._places if kind_of(r) == target])
        yield from self._visit(r, _TO_TARGET, o=self._held, t=target, open_always=True)
        yield from self._put_down(r, _AT_TARGET, t=target)

    def _search(self, kind: str | None = None, most: int = 5) -> Turns:
        """Think of a kind of thing and look for it in a few places, in any order."""
        # Mostly of what this room has, so that looking is often rewarded.
        kind = kind or self._rng.choice(self._kinds if self._rng.random() < 0.7 else _KINDS)
        fresh = [r for r in self._places if r not in self._seen and r != self._here]
        sayings = _WISH
        chosen = self._rng.sample(fresh, min(len(fresh), most if most > 5 else self._rng.randint(1, most)))
        if self._rng.random() < 0.6:  # a lucky search, so that an episode has room for more than searching
            chosen.sort(key=lambda r: (kind not in self._lying[r]) + self._rng.random() * 1.5)
        for r in chosen:
            yield from self._visit(r, sayings, opening=_WISH_OPEN, k=kind)
            sayings = _WISH_ON
            if found := [o for o in self._seen.get(r, []) if kind_of(o) == kind]:
                if kind == "desklamp":
                    yield self._say(_LAMP, o=found[0]), f"use {found[0]}"
                else:
                    yield from self._take(found[0], r, _WISH_TAKE, k=kind)
                return

    def _fetch(self) -> Turns:
        """Get a thing that was seen."""
        known = [(o, r) for r, things in self._seen.items() for o in things if kind_of(o) not in _FIXED]
        if not known:
            yield from self._look()
            return
        near = [pair for pair in known if pair[1] == self._here]
        thing, r = self._rng.choice(near if near and self._rng.random() < 0.6 else known)
        yield from self._visit(r, _BACK, o=thing)
        yield from self._take(thing, r)

    def _carry(self) -> Turns:
        """Bring what is held to some place and put it there."""
        assert self._held
        here = self._here
        if here is None or here in self._closed or self._rng.random() < 0.85:
            here = self._rng.choice([r for r in self._places if r != self._here])
            yield from self._visit(here, _CARRY, o=self._held, open_always=self._rng.random() < 0.9)
        yield from self._put_down(here)

    def _treat(self) -> Turns:
        """Clean, heat or cool what is held, whether or not that can be done."""
        assert self._held
        tools = [r for r in self._places if kind_of(r) in _TOOLS]
        if not tools:
            yield from self._carry()
            return
        r = self._rng.choice(tools)
        verb = _TOOLS[kind_of(r)]
        if self._here != r:  # these work closed, so they stay closed
            self._note(r, (yield self._say(_TO_TOOL, o=self._held, r=r, v=verb), f"go to {r}"))
        answer = yield self._say(_TREAT, o=self._held, r=r, v=verb), f"{verb} {self._held} with {r}"
        if answer == NOTHING:
            yield from self._carry()

    def _light(self) -> Turns:
        """Go to a lamp that was seen, and turn it on."""
        lamps = [(o, r) for r, things in self._seen.items() for o in things if kind_of(o).endswith("lamp")]
        if not lamps:
            yield from self._carry()
            return
        lamp, r = self._rng.choice(lamps)
        yield from self._visit(r, _BACK, o=lamp)
        yield self._say(_LAMP, o=lamp), f"use {lamp}"

    def _small(self) -> Turns:
        """One look at things that changes nothing, or closing what was opened."""
        choices = [(_INVENTORY, "inventory"), (_AROUND, "look")]
        if self._here:
            choices.append((_AGAIN, f"examine {self._here}"))
        if self._held:
            choices.append((_EXAMINE, f"examine {self._held}"))
        if self._here in self._opened:
            choices += [(_CLOSE, f"close {self._here}")] * 2
        sayings, command = self._rng.choice(choices)
        yield self._say(sayings, o=self._held or "", r=self._here or ""), command
        if command.startswith("close") and self._here:
            self._opened.discard(self._here)
            self._closed.add(self._here)

    def _wrong(self) -> Turns:
        """Try what cannot be done."""
        far = [(o, r) for r, things in self._seen.items() if r != self._here for o in things]
        near = [(o, r) for r, things in self._seen.items() if r == self._here for o in things]
        choices: list[tuple[tuple[str, ...], str, str, str]] = []
        if self._here:
            choices.append((_SAME, "", self._here, f"go to {self._here}"))
        if far and not self._held:
            o, r = self._rng.choice(far)
            choices.append((_FAR, o, r, f"take {o} from {r}"))
        if near and self._held:
            o, r = self._rng.choice(near)
            choices.append((_FULL, o, r, f"take {o} from {r}"))
        if near and not self._held:
            o, r = self._rng.choice(near)
            choices.append((_EMPTY, o, r, self._put.format(o=o, r=r)))
        if not choices:
            yield from self._look()
            return
        sayings, o, r, command = self._rng.choice(choices)
        yield self._say(sayings, o=o, r=r), command

    # Moves ---------------------------------------------------------------------------------------------------

    def _visit(
        self,
        r: str,
        sayings: tuple[str, ...],
        open_always: bool = False,
        opening: tuple[str, ...] = _OPEN,
        **names: str,
    ) -> Turns:
        if self._here != r:
            self._note(r, (yield self._say(sayings, r=r, **names), f"go to {r}"))
        if r in self._closed and (open_always or self._rng.random() < 0.9):
            self._note(r, (yield self._say(opening, r=r, **names), f"open {r}"))
            self._opened.add(r)

    def _take_something(self) -> Turns:
        things = [o for o in self._seen.get(self._here or "", []) if kind_of(o) not in _FIXED]
        if things and self._here and self._here not in self._closed:
            yield from self._take(self._rng.choice(things), self._here)

    def _take(self, thing: str, r: str, sayings: tuple[str, ...] = _TAKE, **names: str) -> Turns:
        answer = yield self._say(sayings, o=thing, r=r, **names), f"take {thing} from {r}"
        if answer != NOTHING:
            self._held = thing
            self._seen[r].remove(thing)

    def _put_down(self, r: str, sayings: tuple[str, ...] = _PUT, **names: str) -> Turns:
        assert self._held
        answer = yield self._say(sayings, o=self._held, r=r, **names), self._put.format(o=self._held, r=r)
        if answer != NOTHING:
            self._seen.setdefault(r, []).append(self._held)
            self._held = None

    def _note(self, r: str, observation: str) -> None:
        if observation == NOTHING:
            return
        self._here = r
        if observation.endswith("is closed."):
            self._closed.add(r)
        else:
            self._closed.discard(r)
            self._seen[r] = things_in(observation)

    def _say(self, sayings: tuple[str, ...], **names: str) -> str:
        return self._rng.choice(sayings).format(**names)

    def _pick(self, *wishes: tuple[Callable[[], Turns], int]) -> Callable[[], Turns]:
        return self._rng.choices([w for w, _ in wishes], [n for _, n in wishes])[0]
