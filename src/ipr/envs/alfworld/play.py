"""The wanderer: plays around in a room without a goal. Its text teaches a base model the world, not the task.

Decided here: it follows small wishes drawn by chance (look somewhere, get a thing that it saw or thinks of, carry it,
clean or heat it, try a lamp), and every thought says what is done next and why, with the exact names, so that a reader
learns to copy names and to act on what was just seen. Every episode begins with an errand of its own (or to look
around, or to say what is where) in place of the game's task, so that a reader also learns that words said at the start
matter later, and to look a name up in what it sees. It looks in any order, though six searches in ten are lucky (where
the thing lies is looked at early, so that an episode has room for more than searching), it makes slips, and now and
then it tries what cannot be done, so that "Nothing happens." is known too. No decision of the expert, and none of the
six tasks, is in it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Iterator

from ipr.envs.alfworld import games
from ipr.envs.alfworld.engine import NOTHING, Game
from ipr.envs.alfworld.expert import kind_of, things_in
from ipr.envs.alfworld.rooms import FIXED, PLACES
from ipr.envs.react import compose
from ipr.types import Message, Step, Trajectory, derive_seed

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
    "bring": ("bring a {k} to a {t}", "a {k} for a {t}"),
    "clean": ("wash a {k} and leave it at a {t}", "a washed {k} for a {t}"),
    "heat": ("warm a {k} and leave it at a {t}", "a warm {k} for a {t}"),
    "cool": ("chill a {k} and leave it at a {t}", "a chilled {k} for a {t}"),
    "light": ("try a {k} at a desklamp", "a {k} for a desklamp"),
    "stock": ("say what is where", ""),
    "play": ("look around", ""),
}
"""How an errand is said at the start, and how a thought says it."""
_TOOL_OF = {verb: tool for tool, verb in _TOOLS.items()}
_TREATED = {"clean": "washed", "heat": "warm", "cool": "chilled"}
_SLIP = 0.05
"""Chance of a slip in a step of an errand, which the next step mends."""
_PLANNED = 6
"""Most places that a thought names when a search begins."""
_NEXT = ("I go on to the {r}.", "Next is the {r}.")
_PLAN = ("It may be at {plan}. I try {r} first.", "Perhaps it is at {plan}. I check {r} first.")
_PLAN_AGAIN = ("The {k} is not at {here}. It may be at {plan}. I check {r} first.",)
_MISSING = ("The {k} is not at {here}, {r} is next.",)
_SHUT = ("The {r} is closed, so I open it.",)
_FOUND = ("The {o} is here, so I take it.",)
_KNOWN = ("I saw the {o} at the {r}, so I go there.",)
_TO_TOOL_FOR = ("I have the {o}, so I go to the {r} to {v} it.",)
_TREAT_FOR = ("I have the {o}. I am at the {r}, so I {v} it.",)
_TO_TARGET = ("{h}, so I go to the {r}.",)
_SHUT_TARGET = ("{h}. The {r} is closed, so I open it.",)
_AT_TARGET = ("{h}. I am at the {r}, so I put it here.",)
_LAMP_PLAN = ("{h}. The {k} is not at {here}. It may be at {plan}. I check {r} first.",)
_LAMP_MISSING = ("{h}. The {k} is not at {here}, {r} is next.",)
_LAMP_FOUND = ("{h}. The {x} is here, so I turn it on.",)
_SAME = ("I am at the {r}, and I try to go there.",)


def wander(task_id: str, seed: int, steps: int) -> Trajectory:
    """At most `steps` turns of play in a game; fewer where an errand is done, or the game won by chance."""
    game = games.game(task_id)
    wanderer = _Wanderer(game, random.Random(derive_seed("alfworld", "wander", task_id, seed)))
    errand = wanderer.errand()
    turns = wanderer.turns(errand)
    said = _ERRANDS[errand[0]][0].format(k=errand[1], t=errand[2])
    first = f"{game.first.partition(chr(10) * 2)[0]}\n\nYour errand is to: {said}."
    state, played, invalid = game.start, [], 0
    thought, command = next(turns)
    while True:
        state, answer = game.play(state, command)
        invalid += answer is None
        played.append(Step(compose(thought, command), NOTHING if answer is None else answer))
        won = game.won(state)
        if won or len(played) >= steps:
            break
        try:
            thought, command = turns.send(played[-1].observation)
        except StopIteration:
            break
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


def glance(task_id: str, seed: int) -> tuple[Message, ...]:
    """One look at a place of a game, and what of some kinds of things is there: short reading before long.

    Whether a name was seen is what every decision of an agent hangs on. A new model learns to look it up within a few
    hundred such glances, and hardly at all from episodes alone (figures in docs/lab-notes.md).
    """
    game = games.game(task_id)
    player = _Wanderer(game, random.Random(derive_seed("alfworld", "glance", task_id, seed)))
    full = [r for r, kinds in player.lying.items() if len(kinds) > 1] or list(player.lying)
    turns = player.take_stock([player.rng.choice(full), *game.receptacle_names], 6)
    _, command = next(turns)
    state, seen, thought = game.start, "", ""
    while not thought.startswith("The ") or command.startswith("open"):
        state, answer = game.play(state, command)
        seen = answer or NOTHING
        thought, command = turns.send(seen)
    return Message("user", seen), Message("assistant", compose(thought, command))


def tour(task_id: str, seed: int, steps: int = 8) -> tuple[Message, ...]:
    """A search for what the room does not have: names a few places, goes there in that order, and names more.

    To say what one will do and then do it, place by place, is looked up in one's own words.
    """
    game = games.game(task_id)
    player = _Wanderer(game, random.Random(derive_seed("alfworld", "tour", task_id, seed)))
    there = {kind_of(o) for o in game.object_names}
    turns = player.search(player.rng.choice([kind for kind in _KINDS if kind not in there]), 2 * steps)
    state, said = game.start, game.first.partition("\n\n")[0]
    messages: list[Message] = []
    for _ in range(steps):
        try:
            thought, command = turns.send(said) if messages else next(turns)
        except StopIteration:
            break
        messages += [Message("user", said), Message("assistant", compose(thought, command))]
        state, answer = game.play(state, command)
        said = answer or NOTHING
    return tuple(messages)


class _Wanderer:
    """What it has seen, and its wishes."""

    def __init__(self, game: Game, rng: random.Random) -> None:
        self.rng = rng
        self._put = game.wording.put
        self._places = list(game.receptacle_names)
        self._kinds = [kind_of(o) for o in game.object_names if kind_of(o) not in _FIXED]
        self._kinds += ["desklamp"] * (len(self._kinds) // 3) if "desklamp 1" in game.object_names else []
        self.lying = {
            name: {kind_of(game.object_names[o]) for o in game.contents(game.start, r)}
            for r, name in enumerate(game.receptacle_names)
        }
        self._seen: dict[str, list[str]] = {}
        self._closed: set[str] = set()
        self._opened: set[str] = set()
        self._here: str | None = None
        self._held: str | None = None
        self._goal = ""  # what every thought begins with, while there is a goal

    def errand(self) -> tuple[str, str, str]:
        """(verb, kind of thing, kind of place) to begin with."""
        carried = [kind for kind in self._kinds if kind != "desklamp"]
        places = sorted({kind_of(r) for r in self._places})
        verbs = ["bring"] * 2 + [verb for verb, tool in _TOOL_OF.items() if f"{tool} 1" in self._places]
        verbs += ["light"] * 2 * ("desklamp" in self._kinds)
        chance = self.rng.random()
        verb = "play" if chance < 0.12 else "stock" if chance < 0.35 else self.rng.choice(verbs)
        return verb, self.rng.choice(carried), self.rng.choice(places)

    def turns(self, errand: tuple[str, str, str]) -> Turns:
        verb, kind, target = errand
        if verb == "stock":
            yield from self.take_stock(self._unseen())
            return
        if verb != "play":
            goal = _ERRANDS[verb][1].format(k=kind, t=target)
            self._goal = self.rng.choice(("I want {}. ", "I need {}. ")).format(goal)
            yield from self._run(verb, kind, target)
            self._goal = ""
            if self.rng.random() < 0.75:
                return
        while True:
            if self._held is None:
                wish = self._pick(
                    (self._look, 4), (self._fetch, 5), (self.search, 3), (self._small, 1), (self._wrong, 1)
                )
            else:
                wish = self._pick(
                    (self._carry, 5), (self._treat, 4), (self._light, 3), (self._small, 1), (self._wrong, 1)
                )
            yield from wish()

    # Wishes --------------------------------------------------------------------------------------------------

    def _look(self) -> Turns:
        """Go somewhere, rather where it has not been; look inside; perhaps take what is seen."""
        fresh = self._unseen()
        others = [r for r in self._places if r != self._here]
        yield from self._visit(self.rng.choice(fresh if fresh and self.rng.random() < 0.8 else others), _LOOK)
        lamps = [o for o in self._seen.get(self._here or "", []) if kind_of(o).endswith("lamp")]
        if lamps and self.rng.random() < 0.5:
            yield self._say(_LAMP, o=lamps[0]), f"use {lamps[0]}"
        elif self.rng.random() < 0.5:
            yield from self._take_something()

    def _run(self, verb: str, kind: str, target: str) -> Turns:
        """An errand: find a thing of the kind, do to it what is said, bring it to a place of the target's kind."""
        yield from self.search(kind, len(self._places))
        if self._held is None:
            return
        if verb == "light":
            yield from self._find_lamp()
            return
        have = f"I have the {self._held}"
        if verb != "bring":
            tool = self.rng.choice([r for r in self._places if kind_of(r) == _TOOL_OF[verb]])
            if self._here != tool:
                saying = self._say(_TO_TOOL_FOR, o=self._held, r=tool, v=verb)
                self._note(tool, (yield saying, f"go to {tool}"))
            saying = self._say(_TREAT_FOR, o=self._held, r=tool, v=verb)
            if (yield saying, f"{verb} {self._held} with {tool}") == NOTHING:
                return
            have = f"The {self._held} is {_TREATED[verb]}"
        r = self.rng.choice([r for r in self._places if kind_of(r) == target])
        yield from self._visit(r, _TO_TARGET, open_always=True, opening=_SHUT_TARGET, h=have)
        yield from self._put_down(r, _AT_TARGET, h=have)

    def take_stock(self, order: list[str], most: int = 3) -> Turns:
        """Go from place to place and say of some kinds of things, at most `most` there and `most` more, whether they
        are there."""
        said = ""
        for r in order:
            self._note(r, (yield said + self._say(_NEXT, r=r), f"go to {r}"))
            if r in self._closed:
                self._note(r, (yield self._say(_SHUT, r=r), f"open {r}"))
            seen = self._seen.get(r, [])
            some = self.rng.sample(seen, min(len(seen), self.rng.randint(1, most)))
            kinds = dict.fromkeys([*map(kind_of, some), *self.rng.choices(self._kinds, k=self.rng.randint(1, most))])
            here = {kind_of(o): f"The {o} is here. " for o in reversed(seen)}
            order = self.rng.sample(list(kinds), len(kinds))
            said = "".join(here.get(kind, f"The {kind} is not here. ") for kind in order)

    def _find_lamp(self) -> Turns:
        """Bring what is held to a desklamp, wherever one is, and turn it on."""
        have = f"I have the {self._held}"
        tour = self._tour(self._unseen())
        while True:
            lamps = [(o, r) for r, things in self._seen.items() for o in things if kind_of(o) == "desklamp"]
            if lamps and lamps[0][1] == self._here:
                yield self._say(_LAMP_FOUND, h=have, x=lamps[0][0]), f"use {lamps[0][0]}"
                return
            if lamps:
                yield from self._visit(lamps[0][1], _KNOWN, o=lamps[0][0])
            elif found := next(tour, None):
                r, plan = found
                sayings = _LAMP_PLAN if plan else _LAMP_MISSING
                names = {"h": have, "k": "desklamp", "here": str(self._here), "plan": plan}
                yield from self._visit(r, sayings, True, _SHUT_TARGET, **names)
            else:
                return

    def search(self, kind: str | None = None, most: int = 5) -> Turns:
        """Think of a kind of thing and look for it in a few places, in any order."""
        # Mostly of what this room has, so that looking is often rewarded.
        kind = kind or self.rng.choice(self._kinds if self.rng.random() < 0.7 else _KINDS)
        aimless = not self._goal
        if aimless:
            self._goal = self.rng.choice(("I want a {}. ", "I would like a {}. ")).format(kind)
        chosen = self._unseen()
        if aimless:
            chosen = chosen[: self.rng.randint(1, most)]
        if self.rng.random() < 0.6:  # a lucky search, so that an episode has room for more than searching
            chosen.sort(key=lambda r: (kind not in self.lying[r]) + self.rng.random() * 1.5)
        for r, plan in self._tour(chosen):
            sayings = (_PLAN_AGAIN if self._here and r != chosen[0] else _PLAN) if plan else _MISSING
            if not plan and not aimless and self.rng.random() < _SLIP:
                yield self._say(_MISSING, r=str(self._here), k=kind, here=str(self._here)), f"go to {self._here}"
            yield from self._visit(r, sayings, not aimless, _SHUT, k=kind, here=str(self._here), plan=plan)
            if found := [o for o in self._seen.get(r, []) if kind_of(o) == kind]:
                if kind == "desklamp":
                    yield self._say(_LAMP, o=found[0]), f"use {found[0]}"
                    break
                if not aimless and self.rng.random() < _SLIP:
                    other = f"{kind} {int(found[0].split()[1]) % 3 + 1}"
                    if other not in found:
                        yield self._say(_FOUND, o=other), f"take {other} from {r}"
                yield from self._take(found[0], r, _FOUND)
                break
        if aimless:
            self._goal = ""

    def _tour(self, places: list[str]) -> Iterator[tuple[str, str]]:
        """The places one by one, a few named before the first of them is visited: what a thought then says, else ""."""
        named = 0
        for i, r in enumerate(places):
            plan = ""
            if i == named:
                named += self.rng.randint(2, _PLANNED)
                plan = ", ".join(places[i:named])
            yield r, plan

    def _unseen(self) -> list[str]:
        fresh = [r for r in self._places if r not in self._seen and r != self._here]
        self.rng.shuffle(fresh)
        return fresh

    def _fetch(self) -> Turns:
        """Get a thing that was seen."""
        known = [(o, r) for r, things in self._seen.items() for o in things if kind_of(o) not in _FIXED]
        if not known:
            yield from self._look()
            return
        near = [pair for pair in known if pair[1] == self._here]
        thing, r = self.rng.choice(near if near and self.rng.random() < 0.6 else known)
        yield from self._visit(r, _BACK, o=thing)
        yield from self._take(thing, r)

    def _carry(self) -> Turns:
        """Bring what is held to some place and put it there."""
        assert self._held
        here = self._here
        if here is None or here in self._closed or self.rng.random() < 0.85:
            here = self.rng.choice([r for r in self._places if r != self._here])
            yield from self._visit(here, _CARRY, o=self._held, open_always=self.rng.random() < 0.9)
        yield from self._put_down(here)

    def _treat(self) -> Turns:
        """Clean, heat or cool what is held, whether or not that can be done."""
        assert self._held
        tools = [r for r in self._places if kind_of(r) in _TOOLS]
        if not tools:
            yield from self._carry()
            return
        r = self.rng.choice(tools)
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
        lamp, r = self.rng.choice(lamps)
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
        sayings, command = self.rng.choice(choices)
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
            o, r = self.rng.choice(far)
            choices.append((_FAR, o, r, f"take {o} from {r}"))
        if near and self._held:
            o, r = self.rng.choice(near)
            choices.append((_FULL, o, r, f"take {o} from {r}"))
        if near and not self._held:
            o, r = self.rng.choice(near)
            choices.append((_EMPTY, o, r, self._put.format(o=o, r=r)))
        if not choices:
            yield from self._look()
            return
        sayings, o, r, command = self.rng.choice(choices)
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
        if r in self._closed and (open_always or self.rng.random() < 0.9):
            self._note(r, (yield self._say(opening, r=r, **names), f"open {r}"))
            self._opened.add(r)

    def _take_something(self) -> Turns:
        things = [o for o in self._seen.get(self._here or "", []) if kind_of(o) not in _FIXED]
        if things and self._here and self._here not in self._closed:
            yield from self._take(self.rng.choice(things), self._here)

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
        return self._goal + self.rng.choice(sayings).format(**names)

    def _pick(self, *wishes: tuple[Callable[[], Turns], int]) -> Callable[[], Turns]:
        return self.rng.choices([w for w, _ in wishes], [n for _, n in wishes])[0]
