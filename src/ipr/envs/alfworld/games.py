"""Generated ALFWorld games in the real format, from a task id alone: "<split>/<number>".

Decided here: rooms are layouts of their own ("scenes", numbered as ALFWorld numbers them); train, dev and seen games
share rooms, unseen games are in other rooms, and pretrain games (for the base model only) in others again. A game is
drawn again until the expert wins it within the step limit, so every game can be solved by looking around. Left out:
what ALFWorld's rooms also have and no task needs (paintings, light switches).
"""

from __future__ import annotations

import json
import random
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import Any

from ipr.envs.alfworld import rooms
from ipr.envs.alfworld.engine import Game
from ipr.types import IprError, derive_seed

SIZES = {"train": 20000, "dev": 1000, "seen": 1000, "unseen": 1000, "pretrain": 100000}
"""Games by split; as many as one likes could be drawn."""
KINDS = ("kitchen", "living", "bedroom", "bathroom")
FIRST_SCENE = {"kitchen": 0, "living": 200, "bedroom": 300, "bathroom": 400}
KNOWN, NEW, READ = range(1, 25), range(25, 31), range(31, 91)
"""Scene numbers within a kind: of train, dev and seen; of unseen; of pretrain."""
TYPES = {
    "pick_and_place_simple": KINDS,
    "look_at_obj_in_light": ("living", "bedroom"),
    "pick_clean_then_place_in_recep": ("kitchen", "bathroom"),
    "pick_heat_then_place_in_recep": ("kitchen",),
    "pick_cool_then_place_in_recep": ("kitchen",),
    "pick_two_obj_and_place": KINDS,
}
WORDS = {
    "pick_and_place_simple": ("put a {o} in {r}.", "put some {o} on {r}."),
    "look_at_obj_in_light": ("look at {o} under the desklamp.", "examine the {o} with the desklamp."),
    "pick_clean_then_place_in_recep": ("put a clean {o} in {r}.", "clean some {o} and put it in {r}."),
    "pick_heat_then_place_in_recep": ("put a hot {o} in {r}.", "heat some {o} and put it in {r}."),
    "pick_cool_then_place_in_recep": ("put a cool {o} in {r}.", "cool some {o} and put it in {r}."),
    "pick_two_obj_and_place": ("put two {o} in {r}.", "find two {o} and put them in {r}."),
}


def task_ids(split: str) -> list[str]:
    if split not in SIZES:
        raise IprError(f"alfworld: no split '{split}'; splits: {', '.join(SIZES)}")
    return [f"{split}/{i:05d}" for i in range(SIZES[split])]


def task_type(task_id: str) -> str:
    return _drawn(task_id)[0]["task_type"]


def source(task_id: str) -> dict[str, Any]:
    """The content of the game's `game.tw-pddl`, with the keys `task_type` and `folder` for the exporter."""
    return _drawn(task_id)[0]


def game(task_id: str) -> Game:
    return _drawn(task_id)[1]


@lru_cache(maxsize=8192)
def _drawn(task_id: str) -> tuple[dict[str, Any], Game]:
    from ipr.envs.alfworld.expert import solve

    split, _, number = task_id.partition("/")
    if split not in SIZES or not number.isdigit() or int(number) >= SIZES[split]:
        raise IprError(f"alfworld: no game '{task_id}'; ids are e.g. train/00012")
    for attempt in range(1000):
        random_ = random.Random(derive_seed("alfworld", task_id, attempt))
        drawn = _draw(random_, split)
        if drawn is None:
            continue
        made = Game(drawn, task_id)
        if solve(made, task_id) is not None:
            return drawn, made
    raise IprError(f"alfworld: no solvable game for '{task_id}'")  # never seen; 1000 draws fail


@lru_cache(maxsize=1024)
def layout(kind: str, scene: int) -> dict[str, int]:
    """Receptacle type -> how many, of a room; rooms of other groups never equal a known one."""
    for attempt in range(1000):
        random_ = random.Random(derive_seed("room", kind, scene, attempt))
        counts = {t: random_.randint(low, high) for t, (low, high) in rooms.ROOMS[kind].items()}
        if scene in KNOWN or all(counts != layout(kind, known) for known in KNOWN):
            return counts
    raise AssertionError(f"no new layout for {kind} {scene}")


def _draw(random_: random.Random, split: str) -> dict[str, Any] | None:
    task_type = random_.choice(list(TYPES))
    kind = random_.choice(TYPES[task_type])
    scene = random_.choice({"unseen": NEW, "pretrain": READ}.get(split, KNOWN))
    counts = layout(kind, scene)
    places = rooms.PLACES[kind]
    receptacles = [(t, i) for t, n in counts.items() for i in range(n)]
    objects: list[tuple[str, tuple[str, int]]] = []

    def place(otype: str) -> bool:
        options = [(r, places[otype][r[0]] / counts[r[0]]) for r in receptacles if r[0] in places[otype]]
        if not options:
            return False
        objects.append((otype, random_.choices([r for r, _ in options], [w for _, w in options])[0]))
        return True

    movable = [o for o in places if o not in rooms.FIXED]
    abilities = {
        "pick_clean_then_place_in_recep": rooms.CLEANABLE,
        "pick_heat_then_place_in_recep": rooms.HEATABLE,
        "pick_cool_then_place_in_recep": rooms.COOLABLE,
    }
    able = [o for o in movable if o in abilities.get(task_type, movable)]
    otype = random_.choice(able)
    targets = [r for r in places[otype] if counts.get(r) and r not in rooms.NOT_TARGETS]
    if not targets:
        return None
    rtype = random_.choice(targets)
    if not place(otype) or (task_type == "pick_two_obj_and_place" and not place(otype)):
        return None
    if task_type == "look_at_obj_in_light" and not place("DeskLamp"):
        return None
    for other in random_.choices(movable, k=random_.randint(9, 16)):
        if other != otype or random_.random() < 0.3:
            place(other)
    if task_type.startswith("pick") and any(o == otype and r[0] == rtype for o, r in objects):
        return None  # (half) done before it starts
    task = random_.choice(WORDS[task_type]).format(o=otype.lower(), r=rtype.lower())
    names = {r: f"{r[0].removesuffix('Basin')}_bar_{r[1] + 1:02d}" + ("_bar_Basin" if r[0].endswith("Basin") else "")
             for r in receptacles}
    return {
        "pddl_domain": "(define (domain alfred))",
        "grammar": _grammar(task),
        "pddl_problem": _problem(kind, names, objects, _goal(task_type, otype, rtype)),
        "solvable": True,
        "task_type": task_type,
        "folder": f"{task_type}-{otype}-None-{'DeskLamp' if task_type.startswith('look') else rtype}"
        f"-{FIRST_SCENE[kind] + scene}",
    }


def _grammar(task: str) -> str:
    """What our engine reads of a grammar, in the wording of 2.1.1: the task, how to put, what is said to it."""
    rules = {
        "task": [{"rhs": f"Your task is to: {task}"}],
        "GotoLocation.feedback": [{"rhs": "You arrive at {lend.name}. #examineReceptacle.feedback#"}],
        "PutObject.feedback": [{"rhs": "You put the {o.name} in/on the {r.name}."}],
    }
    template = 'action PutObject {\n    template :: "put {o} in/on {r}";\n}\n'
    return f'grammar :: """\n{json.dumps(rules, indent=1)}\n""";\n\n{template}'


def _problem(kind: str, receptacles: dict[tuple[str, int], str], objects: list[tuple[str, Any]], goal: str) -> str:
    """A PDDL problem as ALFWorld writes it: declarations, facts, goal."""
    numbers: Counter[str] = Counter()
    placed: list[tuple[str, str, str]] = []
    for otype, receptacle in objects:
        numbers[otype] += 1
        placed.append((f"{otype}_bar_{numbers[otype]:02d}", otype, receptacles[receptacle]))
    locations = {name: f"loc_bar_{i + 1}" for i, name in enumerate(receptacles.values())}
    otypes = sorted({o for _, o, _ in placed} | set(rooms.PLACES[kind]))
    rtypes = sorted({r for r, _ in receptacles})
    declared = ["agent1 - agent"]
    declared += [f"{o}Type - otype" for o in otypes] + [f"{r}Type - rtype" for r in rtypes]
    declared += [f"{id_} - object" for id_, _, _ in placed] + [f"{r} - receptacle" for r in receptacles.values()]
    declared += [f"{at} - location" for at in locations.values()] + ["loc_bar_0 - location"]
    facts = [f"(receptacleType {name} {r[0]}Type)" for r, name in receptacles.items()]
    facts += [f"(objectType {id_} {o}Type)" for id_, o, _ in placed]
    facts += [
        f"(canContain {r}Type {o}Type)"
        for r in rtypes
        for o in otypes
        if r in rooms.PLACES[kind].get(o, {}) and o not in rooms.FIXED
    ]
    for predicate, group in (
        ("cleanable", rooms.CLEANABLE),
        ("heatable", rooms.HEATABLE),
        ("coolable", rooms.COOLABLE),
        ("sliceable", rooms.SLICEABLE),
        ("isReceptacleObject", rooms.HOLLOW),
        ("toggleable", rooms.FIXED),
    ):
        facts += [f"({predicate} {id_})" for id_, o, _ in placed if o in group]
    facts += [f"(pickupable {id_})" for id_, o, _ in placed if o not in rooms.FIXED]
    facts += [f"(openable {name})" for r, name in receptacles.items() if r[0] in rooms.OPENABLE]
    facts += [f"(receptacleAtLocation {name} {at})" for name, at in locations.items()]
    facts += [f"(inReceptacle {id_} {name})" for id_, _, name in placed]
    facts += [f"(objectAtLocation {id_} {locations[name]})" for id_, _, name in placed]
    facts += ["(atLocation agent1 loc_bar_0)", "(= (total-cost) 0)"]
    lines = "\n    ".join
    return (
        f"(define (problem generated)\n(:domain alfred)\n(:objects\n    {lines(declared)}\n)\n"
        f"(:init\n    {lines(facts)}\n)\n(:goal {goal})\n)\n"
    )


def _goal(task_type: str, otype: str, rtype: str) -> str:
    o, r = f"(objectType ?o {otype}Type)", f"(receptacleType ?r {rtype}Type)"
    if task_type == "look_at_obj_in_light":
        return (
            "(and (exists (?ot - object ?r - receptacle ?a - agent ?l - location) (and (objectType ?ot DeskLampType)"
            " (toggleable ?ot) (isToggled ?ot) (receptacleAtLocation ?r ?l) (atLocation ?a ?l) (inReceptacle ?ot ?r)))"
            f" (exists (?o - object ?a - agent) (and {o} (holds ?a ?o))))"
        )
    if task_type == "pick_two_obj_and_place":
        first, second = o.replace("?o", "?o1"), o.replace("?o", "?o2")
        return (
            f"(and (exists (?r - receptacle) (exists (?o1 - object) (and {first} {r} (inReceptacle ?o1 ?r)"
            f" (exists (?o2 - object) (and (not (= ?o1 ?o2)) {second} {r} (inReceptacle ?o2 ?r)))))))"
        )
    made = {"clean": ("cleanable", "isClean"), "heat": ("heatable", "isHot"), "cool": ("coolable", "isCool")}
    able = next((f"({a} ?o) ({b} ?o) " for k, (a, b) in made.items() if task_type.startswith(f"pick_{k}")), "")
    return f"(and (exists (?r - receptacle) (exists (?o - object) (and {able}{o} {r} (inReceptacle ?o ?r)))))"


def export(task_id: str, folder: Path) -> Path:
    """Write a game as the real data set has it; where `alfworld` is installed, with its full domain and grammar.

    The file then plays in the stock engine; without that package it plays in ours.
    """
    from ipr import store

    drawn = source(task_id)
    made = {key: drawn[key] for key in ("pddl_domain", "grammar", "pddl_problem", "solvable")}
    task = game(task_id).task.removeprefix("Your task is to: ")
    made |= _stock_texts(task) or {}
    split = {"seen": "valid_seen", "unseen": "valid_unseen"}.get(task_id.split("/")[0], task_id.split("/")[0])
    place = folder / split / drawn["folder"] / f"trial_{task_id.replace('/', '_')}"
    store.write_json(place / "traj_data.json", {"task_type": drawn["task_type"], "task_id": place.name})
    return store.write_text(place / "game.tw-pddl", json.dumps(made))


def _stock_texts(task: str) -> dict[str, str] | None:
    try:
        from alfworld.info import ALFRED_PDDL_PATH, ALFRED_TWL2_PATH  # pyright: ignore[reportMissingImports]
    except ImportError:
        return None
    grammar = Path(ALFRED_TWL2_PATH).read_text()
    grammar = grammar.replace("UNKNOWN GOAL.", task)
    return {"pddl_domain": Path(ALFRED_PDDL_PATH).read_text(), "grammar": grammar}
