"""ALFWorld's household in pure Python: plays the files `game.tw-pddl` of the real data set, letter by letter.

Decided here: a state is one integer, the set of the facts that hold (a bit a fact), so that a snapshot is a reference
and an action four bit operations; everything else about a game never changes and is shared by all who play it. A
command is turned into its conditions and effects when it is first used. The wording (2.1.1: "put X in/on Y",
alfworld >= 0.4: "move X to Y") is read from the grammar that the game file carries.

Kept from the stock engine, odd as they are: objects may lie in two receptacles at once; `look` in the middle of the
room sees nothing; `go to` where one stands fails; only a held object can be examined; lamps never go out; fridge and
microwave work closed; an object moved between two receptacles of one place is also seen "next to it".

Left out: the stock engine's "You arrive at loc 5. " of wording 2.1.1 (the paper shows only what follows it), and
planning (see `oracle`).
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from ipr.types import IprError

BANNER = "-= Welcome to TextWorld, ALFRED! =-\n\n"
"""What stands before the first observation in the stock engine."""
NOTHING = "Nothing happens."
"""The answer to whatever is not understood or not possible."""

Fact = tuple[str, ...]
"""Predicate and arguments, lower case: ("inreceptacle", "mug_bar_...", "desk_bar_...")."""


@dataclass(frozen=True, slots=True)
class Act:
    """One way in which a command can be carried out."""

    need: int
    """Facts that must hold."""
    without: int
    """Facts that must not hold."""
    keep: int
    """Complement of the facts that end."""
    add: int
    """Facts that begin."""
    said: Callable[[int], str]
    """The answer, given the state after the act."""


@dataclass(frozen=True, slots=True)
class Wording:
    """What differs between the versions of the data."""

    put: str
    """The command: "put {o} in/on {r}" or "move {o} to {r}"."""
    put_done: str
    """The answer to it."""
    arrive: str
    """What is said on arrival before the receptacle is described; empty in 2.1.1 (see above)."""
    help: str
    """The answer to `help`, empty where there is no such command."""


class Game:
    """A parsed game: names, texts, rules and goal. Immutable; states are integers handed in and out."""

    def __init__(self, data: Mapping[str, Any], source: str) -> None:
        """`data` is the JSON of a game file, `source` its name for error messages."""
        try:
            problem, grammar = data["pddl_problem"].lower(), data["grammar"]
            init, goal = problem.index("(:init"), problem.index("(:goal")
            self.task = _text(grammar, r'"rhs"\s*:\s*"(Your task is to: (?:[^"\\]|\\.)*)"')
            self.wording = wording_of(grammar)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise IprError(f"{source} is not an ALFWorld game ({error!r}); fetch the file again") from error
        facts: defaultdict[str, dict[Fact, None]] = defaultdict(dict)  # dicts as ordered sets
        for fact in _FACT.findall(problem, init, goal):
            facts[fact[0]][tuple(a for a in fact if a)] = None
        self._facts = facts
        try:
            self._number(facts, _INSTANCE.findall(problem, 0, init))
            self.goals = _ground(_parse(problem[goal:])[1], self)
            (place,) = (self.locations[fact[-1]] for fact in facts["atlocation"])
            self.start = 0
            for predicate in _CHANGING:
                for fact in facts[predicate]:
                    self.start |= self.bit(fact)
        except (KeyError, IndexError, ValueError, RecursionError) as error:
            raise IprError(f"{source}: its PDDL problem cannot be read ({error!r}); fetch the file again") from error
        self.goal_masks = tuple(mask for mask, _ in self.goals)
        self._rules = self._patterns()
        self._acts: dict[str, tuple[Act, ...]] = {}
        self._seen: dict[tuple[int, int], str] = {}
        view = _listed([f"a {name}" for r, name in enumerate(self.receptacle_names) if r in self.place_of])
        room = self._look(self.start) if self._receptacles_at(place) else f"{_MIDDLE}{view}."
        self.first = f"{room}\n\n{self.task}"

    # Reading -------------------------------------------------------------------------------------------------

    def _number(self, facts: Mapping[str, Mapping[Fact, None]], declared: list[str]) -> None:
        """Gives every thing its name and every fact that can change its bit. `declared` are the instances that the
        problem lists; one that is nowhere (a cracked egg) is numbered with the others, as in the stock engine."""
        objects = sorted({f[1] for p in ("objecttype", "inreceptacle", "objectatlocation") for f in facts[p]})
        receptacles = sorted({f[1] for p in ("receptacletype", "receptacleatlocation") for f in facts[p]})
        names = _names(list(dict.fromkeys((*objects, *receptacles, *declared))))
        self._ids = objects
        self.object_names = [names[o] for o in objects]
        self.receptacle_names = [names[r] for r in receptacles]
        self.objects = {o: i for i, o in enumerate(objects)}
        self.receptacles = {r: i for i, r in enumerate(receptacles)}
        places = {f[-1]: None for p in ("receptacleatlocation", "objectatlocation", "atlocation") for f in facts[p]}
        self.locations = {place: i for i, place in enumerate(places)}
        self.object_types = _by_index(facts["objecttype"], self.objects)
        self.receptacle_types = _by_index(facts["receptacletype"], self.receptacles)
        self.place_of = {self.receptacles[f[1]]: self.locations[f[2]] for f in facts["receptacleatlocation"]}
        self.openable = {self.receptacles[f[1]] for f in facts["openable"]}
        self._can_contain = {f[1:] for f in facts["cancontain"]}

        n, room, size = len(objects), len(receptacles), len(self.locations)
        self._opened, self._holds = size, size + room  # the places come first, from bit 0
        self._property = {p: self._holds + n * (k + 1) for k, p in enumerate(_PROPERTIES)}
        self._in = self._holds + n * (len(_PROPERTIES) + 1)
        self._left = self._in + n * room  # "was taken from this receptacle", which the stock engine's text shows
        self._floor = self._left + n * room
        self.all_at = (1 << size) - 1
        self.all_objects = (1 << n) - 1
        self.all_held = self.all_objects << self._holds

    def at(self, place: int) -> int:
        return 1 << place

    def opened(self, r: int) -> int:
        return 1 << self._opened + r

    def holds(self, o: int) -> int:
        return 1 << self._holds + o

    def property(self, name: str, o: int) -> int:
        return 1 << self._property[name] + o

    def inside(self, o: int, r: int) -> int:
        return 1 << self._in + r * len(self.object_names) + o

    def _was_in(self, o: int, r: int) -> int:
        return 1 << self._left + r * len(self.object_names) + o

    def _lies(self, o: int, place: int) -> int:
        return 1 << self._floor + place * len(self.object_names) + o

    def bit(self, fact: Fact) -> int:
        """The bit of a fact that can change; KeyError for any other predicate."""
        match fact:
            case ("atlocation", _, place):
                return self.at(self.locations[place])
            case ("opened", r):
                return self.opened(self.receptacles[r])
            case ("holds", _, o):
                return self.holds(self.objects[o])
            case ("inreceptacle", o, r):
                return self.inside(self.objects[o], self.receptacles[r])
            case ("objectatlocation", o, place):
                return self._lies(self.objects[o], self.locations[place])
            case (name, o):
                return self.property(name, self.objects[o])
        raise KeyError(fact[0])

    def facts(self, predicate: str) -> Mapping[Fact, None]:
        """The problem's initial facts of a predicate, in file order."""
        return self._facts[predicate]

    def has(self, predicate: str, o: str) -> bool:
        return (predicate, o) in self._facts[predicate]

    # Asking --------------------------------------------------------------------------------------------------

    def won(self, state: int) -> bool:
        return any(state & mask == mask for mask in self.goal_masks)

    def where(self, state: int) -> int:
        """The place at which the agent stands."""
        return (state & self.all_at).bit_length() - 1

    def held(self, state: int) -> int | None:
        """The object in the agent's hand."""
        held = state >> self._holds & self.all_objects
        return held.bit_length() - 1 if held else None

    def contents(self, state: int, r: int) -> list[int]:
        """The objects in or on a receptacle, in the order in which they are listed."""
        return _bits(state >> self._in + r * len(self.object_names) & self.all_objects)

    def fits(self, o: int, r: int) -> bool:
        """Whether such an object may be put into such a receptacle."""
        types = self.receptacle_types[r]
        return any((rtype, otype) in self._can_contain for otype in self.object_types[o] for rtype in types)

    def accessible(self, state: int, r: int) -> bool:
        return r not in self.openable or bool(state & self.opened(r))

    def tool(self, r: int, o: int) -> str | None:
        """What a receptacle does to an object: "clean", "heat", "cool" or nothing."""
        for verb, (able, types) in _TOOLS.items():
            if self.receptacle_types[r] & types and self.has(able, self._ids[o]):
                return verb
        return None

    def _receptacles_at(self, place: int) -> list[int]:
        return [r for r in range(len(self.receptacle_names)) if self.place_of.get(r) == place]

    # Playing -------------------------------------------------------------------------------------------------

    def play(self, state: int, command: str) -> tuple[int, str | None]:
        """The state after a command, and the answer; None as answer where the command is not possible."""
        acts = self._acts.get(command)
        if acts is None:
            acts = self._understand(command)
            if acts:  # what means nothing is not kept: a model can write no end of it
                self._acts[command] = acts
        for act in acts:
            if state & act.need == act.need and not state & act.without:
                state = state & act.keep | act.add
                return state, act.said(state)
        return state, None

    def admissible(self, state: int) -> list[str]:
        """Every command that is possible, sorted as text."""
        return sorted(c for c in self._candidates(state) if self.play(state, c)[1] is not None)

    def _candidates(self, state: int) -> set[str]:
        """The commands that can be possible, given where the agent stands."""
        names, o = self.object_names, self.held(state)
        found = {"look", "inventory", *(("help",) if self.wording.help else ())}
        found |= {f"go to {r}" for r in self.receptacle_names}
        if o is not None:
            found.add(f"examine {names[o]}")
            found |= {f"slice {other} with {names[o]}" for other in names}
        for r in self._receptacles_at(self.where(state)):
            name = self.receptacle_names[r]
            found |= {f"examine {name}", f"open {name}", f"close {name}"}
            for other in self.contents(state, r):
                found |= {f"take {names[other]} from {name}", f"use {names[other]}"}
            if o is not None:
                found.add(self.wording.put.format(o=names[o], r=name))
                found |= {f"{verb} {names[o]} with {name}" for verb in _TOOLS}
        return found

    def _patterns(self) -> list[tuple[re.Pattern[str], Callable[..., tuple[Act, ...]]]]:
        put = re.escape(self.wording.put).replace(r"\{o\}", "(.+)").replace(r"\{r\}", "(.+)")
        rules: list[tuple[str, Callable[..., tuple[Act, ...]]]] = [
            ("go to (.+)", self._go),
            ("open (.+)", self._open),
            ("close (.+)", self._close),
            ("take (.+) from (.+)", self._take),
            (put, self._put),
            ("examine (.+)", self._examine),
            ("use (.+)", self._use),
            ("slice (.+) with (.+)", self._slice),
            ("(clean|heat|cool) (.+) with (.+)", self._treat),
            ("look", lambda: (_just(self._look),)),
            ("inventory", lambda: (_just(self._inventory),)),
        ]
        if self.wording.help:
            rules.append(("help", lambda: (_just(lambda _: self.wording.help),)))
        return [(re.compile(pattern), rule) for pattern, rule in rules]

    def _understand(self, command: str) -> tuple[Act, ...]:
        for pattern, rule in self._rules:
            if found := pattern.fullmatch(command):
                try:
                    return rule(*found.groups())
                except (KeyError, ValueError):  # no such thing here, or none that this can be done to
                    return ()
        return ()

    def _object(self, name: str) -> int:
        return self.object_names.index(name)

    def _receptacle(self, name: str) -> int:
        return self.receptacle_names.index(name)

    def _here(self, r: int) -> int:
        """What must hold to be at a receptacle."""
        return self.at(self.place_of[r])

    def _reach(self, r: int) -> int:
        """What must hold to take from a receptacle or put into it."""
        return self._here(r) | (self.opened(r) if r in self.openable else 0)

    def _go(self, name: str) -> tuple[Act, ...]:
        r = self._receptacle(name)
        arrived = partial(self._describe, r, self.wording.arrive.format(r=name))
        return (Act(0, self._here(r), ~self.all_at, self._here(r), arrived),)

    def _open(self, name: str) -> tuple[Act, ...]:
        r = self._receptacle(name)
        if r not in self.openable:
            return ()
        done = partial(self._describe, r, f"You open the {name}. ")
        return (Act(self._here(r), self.opened(r), -1, self.opened(r), done),)

    def _close(self, name: str) -> tuple[Act, ...]:
        r = self._receptacle(name)
        if r not in self.openable:
            return ()
        return (Act(self._here(r) | self.opened(r), 0, ~self.opened(r), 0, lambda _: f"You close the {name}."),)

    def _take(self, what: str, name: str) -> tuple[Act, ...]:
        o, r = self._object(what), self._receptacle(name)
        if not self.has("pickupable", self._ids[o]):
            return ()
        ends = self.inside(o, r) | self._lies(o, self.place_of[r])
        text = f"You pick up the {what} from the {name}."
        add = self.holds(o) | self._was_in(o, r)
        return (Act(self._reach(r) | self.inside(o, r), self.all_held, ~ends, add, lambda _: text),)

    def _put(self, what: str, name: str) -> tuple[Act, ...]:
        o, r = self._object(what), self._receptacle(name)
        if not self.fits(o, r):
            return ()
        begins = self.inside(o, r) | self._lies(o, self.place_of[r])
        text = self.wording.put_done.format(o=what, r=name)
        ends = self.holds(o) | self._was_in(o, r)
        return (Act(self._reach(r) | self.holds(o), 0, ~ends, begins, lambda _: text),)

    def _treat(self, verb: str, what: str, name: str) -> tuple[Act, ...]:
        o, r = self._object(what), self._receptacle(name)
        if self.tool(r, o) != verb:
            return ()
        effect, undone = {"clean": ("isclean", ""), "heat": ("ishot", "iscool"), "cool": ("iscool", "ishot")}[verb]
        keep = ~self.property(undone, o) if undone else -1
        text = f"You {verb} the {what} using the {name}."
        return (Act(self._here(r) | self.holds(o), 0, keep, self.property(effect, o), lambda _: text),)

    def _use(self, what: str) -> tuple[Act, ...]:
        o = self._object(what)
        if not self.has("toggleable", self._ids[o]):
            return ()
        on, text = self.property("istoggled", o), f"You turn on the {what}."
        return tuple(Act(self._here(r) | self.inside(o, r), 0, -1, on, lambda _: text) for r in self.place_of)

    def _slice(self, what: str, knife: str) -> tuple[Act, ...]:
        o, k = self._object(what), self._object(knife)
        if not (self.has("sliceable", self._ids[o]) and self.object_types[k] & {"knifetype", "butterknifetype"}):
            return ()
        cut, text = self.property("issliced", o), f"You sliced the {what} with the {knife}."
        places = self.locations.values()
        return tuple(Act(self.at(p) | self._lies(o, p) | self.holds(k), 0, -1, cut, lambda _: text) for p in places)

    def _examine(self, name: str) -> tuple[Act, ...]:
        if name in self.receptacle_names:
            r = self._receptacle(name)
            return (Act(self._here(r), 0, -1, 0, partial(self._describe, r, "")),)
        o = self._object(name)
        return (Act(self.holds(o), 0, -1, 0, partial(self._inspect, o)),)

    # Telling -------------------------------------------------------------------------------------------------

    def _describe(self, r: int, before: str, state: int) -> str:
        """What is in or on a receptacle, after the words `before`."""
        name, is_open = self.receptacle_names[r], r in self.openable
        if is_open and not state & self.opened(r):
            return f"{before}The {name} is closed."
        inside = state >> self._in + r * len(self.object_names) & self.all_objects
        things = self._seen.get((r, inside))
        if things is None:
            things = _listed([f"a {self.object_names[o]}" for o in _bits(inside)])
            self._seen[r, inside] = things
        how = f"The {name} is open. In it, you see" if is_open else f"On the {name}, you see"
        return f"{before}{how} {things}."

    def _look(self, state: int) -> str:
        place = self.where(state)
        here = self._receptacles_at(place)
        if not here:
            return f"{_MIDDLE}nothing."
        names = _listed([self.receptacle_names[r] for r in here])
        n = len(self.object_names)
        lying = state >> self._floor + place * n
        # Listed once for every receptacle of this place from which it was taken, as in the stock engine.
        aside = [o for o in _bits(lying & self.all_objects) for r in here if state & self._was_in(o, r)]
        return (
            f"You are facing the {names}. Next to it, you see {_listed([f'a {self.object_names[o]}' for o in aside])}."
        )

    def _inventory(self, state: int) -> str:
        o = self.held(state)
        return "You are not carrying anything." if o is None else f"You are carrying: a {self.object_names[o]}."

    def _inspect(self, o: int, state: int) -> str:
        name, thing = self.object_names[o], self._ids[o]
        if self.has("isreceptacleobject", thing):
            inner = sorted(f[1] for f in self._facts["inreceptacleobject"] if f[2] == thing)
            names = [f"a {self.object_names[self.objects[i]]}" for i in inner]
            return f"This is a normal {name}. In it, you see {_listed(names)}."
        clean, hot, cool, is_sliced, toggled = (bool(state & self.property(p, o)) for p in _PROPERTIES)
        warmth = "hot" if hot else "cool" if cool else ""
        if toggled and not (clean or warmth):
            return f"This {name} is on."
        words = " and ".join(w for w in (warmth, "clean" if clean else "") if w)
        if words == "cool" and not is_sliced:
            words = "cold"
        if words or is_sliced:
            return f"This is a {f'{words} ' if words else ''}{'sliced ' if is_sliced else ''}{name}."
        return f"There's nothing special about {name}."


_MIDDLE = "You are in the middle of a room. Looking quickly around you, you see "
_PROPERTIES = ("isclean", "ishot", "iscool", "issliced", "istoggled")
_TOOLS = {
    "clean": ("cleanable", {"sinktype", "sinkbasintype"}),
    "heat": ("heatable", {"microwavetype"}),
    "cool": ("coolable", {"fridgetype"}),
}
_FACT = re.compile(r"\((\w+) ([^()\s]+)(?: ([^()\s]+))?\s*\)")
_INSTANCE = re.compile(r"[^()\s]+_bar_[^()\s]+")
_CHANGING = ("atlocation", "opened", "holds", "inreceptacle", "objectatlocation", *_PROPERTIES)


def wording_of(grammar: str) -> Wording:
    """The wording that a game's grammar uses."""
    put = _text(grammar, r'action PutObject \{\s*template :: "((?:[^"\\]|\\.)*)"')
    done = _text(grammar, r'"PutObject\.feedback"\s*:\s*\[\s*\{\s*"rhs"\s*:\s*"((?:[^"\\]|\\.)*)"')
    go = _text(grammar, r'"GotoLocation\.feedback"\s*:\s*\[\s*\{\s*"rhs"\s*:\s*"((?:[^"\\]|\\.)*)"')
    helped = re.search(r'"help\.feedback"\s*:\s*\[\s*\{\s*"rhs"\s*:\s*"((?:[^"\\]|\\.)*)"', grammar)
    arrive = go.split("#", 1)[0].replace(".name}", "}")
    return Wording(
        put=put,
        put_done=done.replace(".name}", "}"),
        arrive="" if "{lend}" in arrive else arrive,
        help=json.loads(f'"{helped[1]}"').lstrip() if helped else "",
    )


def _text(grammar: str, pattern: str) -> str:
    """A JSON string of the grammar."""
    found = re.search(pattern, grammar)
    if not found:
        raise ValueError(f"its grammar lacks {pattern[:40]}")
    return json.loads(f'"{found[1]}"')


def _names(ids: list[str]) -> dict[str, str]:
    """The stock engine's names: things of a kind are numbered downwards in the order of their ids."""
    kind = {i: i.split("_bar_", 1)[0] + ("basin" if "basin" in i else "") for i in ids}
    left: defaultdict[str, int] = defaultdict(int)
    for i in ids:
        left[kind[i]] += 1
    names = {}
    for i in sorted(ids):
        names[i] = f"{kind[i]} {left[kind[i]]}"
        left[kind[i]] -= 1
    return names


def _by_index(facts: Mapping[Fact, None], index: Mapping[str, int]) -> dict[int, set[str]]:
    """thing -> second arguments, of the facts whose first argument is a known thing."""
    found: defaultdict[int, set[str]] = defaultdict(set)
    for _, thing, value in facts:
        found[index[thing]].add(value)
    return found


def _bits(mask: int) -> list[int]:
    found = []
    while mask:
        low = mask & -mask
        found.append(low.bit_length() - 1)
        mask ^= low
    return found


def _listed(words: list[str]) -> str:
    if len(words) < 2:
        return words[0] if words else "nothing"
    return f"{', '.join(words[:-1])}, and {words[-1]}"


def _just(said: Callable[[int], str]) -> Act:
    """An act that changes nothing."""
    return Act(0, 0, -1, 0, said)


# The goal ------------------------------------------------------------------------------------------------------------

Goal = tuple[int, tuple[Fact, ...]]
"""One way to reach the goal: the facts that must hold, as a mask and one by one."""


def _parse(text: str) -> list[Any]:
    """The first s-expression of a text as nested lists."""
    stack: list[list[Any]] = [[]]
    for token in re.findall(r"[()]|[^\s()]+", text):
        if token == "(":
            stack.append([])
        elif token == ")":
            done = stack.pop()
            stack[-1].append(done)
            if len(stack) == 1:
                break
        else:
            stack[-1].append(token)
    return stack[0][0]


def _ground(goal: list[Any], game: Game) -> tuple[Goal, ...]:
    """Every way to reach a goal made of `and`, `exists`, facts and `not (= a b)`: a join over the constant facts."""
    variables: dict[str, str] = {}
    atoms: list[Fact] = []
    unequal: list[tuple[str, str]] = []

    def flatten(expression: list[Any], names: Mapping[str, str]) -> None:
        match expression:
            case ["and", *parts]:
                for part in parts:
                    flatten(part, names)
            case ["exists", declared, part]:
                scope = dict(names)
                for k in range(0, len(declared), 3):  # ?r - receptacle; a name may be used again in another scope
                    scope[declared[k]] = f"{declared[k]}{len(variables)}"
                    variables[scope[declared[k]]] = declared[k + 2]
                flatten(part, scope)
            case ["not", ["=", a, b]]:
                unequal.append((names[a], names[b]))
            case [str(predicate), *arguments] if predicate not in ("or", "not", "forall", "imply"):
                atoms.append((predicate, *(names.get(a, a) for a in arguments)))
            case _:
                raise ValueError(f"goal with {expression[0]}")

    flatten(goal, {})
    domains = {
        "object": list(game.objects),
        "receptacle": list(game.receptacles),
        "location": list(game.locations),
        "agent": [fact[1] for fact in game.facts("atlocation")],
    }
    # Constant facts first: they name nearly all the things before anything is enumerated.
    atoms.sort(key=lambda atom: atom[0] in _CHANGING)
    found: dict[int, tuple[Fact, ...]] = {}
    for binding in _join([a for a in atoms if a[0] not in _CHANGING], {}, game):
        free = [v for v in variables if v not in binding]
        for full in _enumerate(free, binding, variables, domains):
            if any(full[a] == full[b] for a, b in unequal):
                continue
            facts = tuple(tuple(full.get(word, word) for word in atom) for atom in atoms if atom[0] in _CHANGING)
            mask = 0
            for fact in facts:
                mask |= game.bit(fact)
            found.setdefault(mask, facts)
    if not found:
        raise ValueError("nothing in the room can reach the goal")
    return tuple(found.items())


def _join(atoms: list[Fact], binding: dict[str, str], game: Game) -> Iterator[dict[str, str]]:
    if not atoms:
        yield binding
        return
    predicate, *arguments = atoms[0]
    for fact in game.facts(predicate):
        extended = dict(binding)
        for variable, value in zip(arguments, fact[1:], strict=True):
            if (extended.setdefault(variable, value) if variable.startswith("?") else variable) != value:
                break
        else:
            yield from _join(atoms[1:], extended, game)


def _enumerate(
    free: list[str], binding: dict[str, str], types: Mapping[str, str], domains: Mapping[str, list[str]]
) -> Iterator[dict[str, str]]:
    if not free:
        yield binding
        return
    for value in domains[types[free[0]]]:
        yield from _enumerate(free[1:], {**binding, free[0]: value}, types, domains)
