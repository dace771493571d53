"""Generated games, each from its task id alone.

Decided here: a game needs no file. Its task id ("train/000123") is its seed; a draw that the expert does not win within
20 steps is drawn again, so that every game can be won by one who only sees (pretrain, which nobody need win, apart).
It has the form of the real files, with a domain and a grammar that hold just what our engine reads; `export` takes the
full texts from the `alfworld` package where that is installed, and such a file plays in the stock engine.

Splits: train, dev and seen share their rooms and nothing else, unseen has rooms of its own, and so has pretrain, whose
games are only for making a base model.
"""

from __future__ import annotations

import json
import random
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from ipr.envs.alfworld import expert, rooms
from ipr.envs.alfworld.engine import Game
from ipr.types import IprError, derive_seed

TYPES = (
    "pick_and_place_simple",
    "look_at_obj_in_light",
    "pick_clean_then_place_in_recep",
    "pick_heat_then_place_in_recep",
    "pick_cool_then_place_in_recep",
    "pick_two_obj_and_place",
)
SIZES = {"train": 4000, "dev": 500, "seen": 500, "unseen": 500, "pretrain": 50_000}
"""Generated games of each split."""


def task_ids(split: str) -> list[str]:
    if split not in SIZES:
        raise IprError(f"alfworld has no split '{split}'; there are {', '.join(SIZES)}")
    return [f"{split}/{k:06d}" for k in range(SIZES[split])]


def task_type(task_id: str) -> str:
    return TYPES[_parts(task_id)[1] % len(TYPES)]


@lru_cache(maxsize=256)  # some 0.1 MB each
def game(task_id: str) -> Game:
    """The parsed game of a task id."""
    return Game(generate(task_id), task_id)


# Generating ----------------------------------------------------------------------------------------------------------


def generate(task_id: str) -> dict[str, Any]:
    """The game of a task id, in the form of a real game file, always the same."""
    split, _ = _parts(task_id)
    attempt = 0
    while True:
        drawn = _draw(task_id, attempt)
        if drawn and (split == "pretrain" or expert.solve(Game(drawn, task_id), task_id)):
            return drawn
        attempt += 1


def _parts(task_id: str) -> tuple[str, int]:
    split, _, number = task_id.partition("/")
    if split not in SIZES or not re.fullmatch(r"\d{6}", number) or int(number) >= SIZES[split]:
        raise IprError(f"'{task_id}' is no generated game; ids run like train/000000 to train/{SIZES['train'] - 1:06d}")
    return split, int(number)


def _draw(task_id: str, attempt: int) -> dict[str, Any] | None:
    """One try: a room, things in it, and a goal; None where they do not fit together."""
    split, index = _parts(task_id)
    kind_of_task = TYPES[index % len(TYPES)]
    rng = random.Random(derive_seed("alfworld", "game", task_id, attempt))
    kind = rng.choice(_KINDS[kind_of_task])
    pool = rooms.pools()[split if split in rooms.pools() else "train"][kind]
    room = rng.choice(pool)
    laid = _lay(room, kind_of_task, rng)
    goal = _goal(room, kind_of_task, laid, rng)
    if goal is None:
        return None
    thing, target = goal
    words = rng.choice(_WORDS[kind_of_task]).format(o=thing.lower(), r=target.lower())
    problem = _problem(task_id, room, laid, _GOALS[kind_of_task].format(o=thing, r=target), kind_of_task, rng)
    trial = "trial_" + task_id.replace("/", "_")
    return {
        "pddl_domain": "(define (domain alfred))",
        "grammar": _GRAMMAR.replace("UNKNOWN GOAL", words),
        "pddl_problem": problem,
        "solvable": True,
        # What `export` needs; the engine reads none of it.
        "task_type": kind_of_task,
        "object_target": thing,
        "parent_target": target,
        "scene": room.number,
        "trial": trial,
        "task": words,
    }


_KINDS = {
    "pick_and_place_simple": ("kitchen", "bathroom", "bedroom", "living"),
    "look_at_obj_in_light": ("bedroom", "living"),
    "pick_clean_then_place_in_recep": ("kitchen", "kitchen", "bathroom"),
    "pick_heat_then_place_in_recep": ("kitchen",),
    "pick_cool_then_place_in_recep": ("kitchen",),
    "pick_two_obj_and_place": ("kitchen", "bathroom", "bedroom", "living"),
}
_WORDS = {
    "pick_and_place_simple": ("put some {o} on {r}", "put a {o} in {r}"),
    "look_at_obj_in_light": ("look at {o} under the {r}", "examine the {o} with the {r}"),
    "pick_clean_then_place_in_recep": ("clean some {o} and put it in {r}", "put a clean {o} in {r}"),
    "pick_heat_then_place_in_recep": ("heat some {o} and put it in {r}", "put a hot {o} in {r}"),
    "pick_cool_then_place_in_recep": ("cool some {o} and put it in {r}", "put a cool {o} in {r}"),
    "pick_two_obj_and_place": ("find two {o} and put them in {r}", "put two {o} in {r}"),
}
_ABLE = {
    "pick_clean_then_place_in_recep": ("cleanable", "isClean"),
    "pick_heat_then_place_in_recep": ("heatable", "isHot"),
    "pick_cool_then_place_in_recep": ("coolable", "isCool"),
}
_PLACED = (
    "(exists (?r - receptacle) (exists (?o - object) (and {able}(objectType ?o {{o}}Type)"
    " (receptacleType ?r {{r}}Type) {done}(inReceptacle ?o ?r))))"
)
_GOALS = {
    "pick_and_place_simple": _PLACED.format(able="", done=""),
    "look_at_obj_in_light": (
        "(exists (?t - object ?r - receptacle ?a - agent ?l - location) (and (objectType ?t {r}Type) (toggleable ?t)"
        " (isToggled ?t) (receptacleAtLocation ?r ?l) (atLocation ?a ?l) (inReceptacle ?t ?r)))"
        " (exists (?o - object ?a - agent) (and (objectType ?o {o}Type) (holds ?a ?o)))"
    ),
    **{k: _PLACED.format(able=f"({able} ?o) ", done=f"({done} ?o) ") for k, (able, done) in _ABLE.items()},
    "pick_two_obj_and_place": (
        "(exists (?r - receptacle) (exists (?o1 - object) (and (objectType ?o1 {o}Type) (receptacleType ?r {r}Type)"
        " (inReceptacle ?o1 ?r) (exists (?o2 - object) (and (not (= ?o1 ?o2)) (objectType ?o2 {o}Type)"
        " (inReceptacle ?o2 ?r))))))"
    ),
}

Laid = list[tuple[str, str, str, str]]
"""Things in a room: id, type, and the id and type of the receptacle in which it lies."""


def _lay(room: rooms.Room, kind_of_task: str, rng: random.Random) -> Laid:
    """Things in a room, each where such things are found."""
    by_type: dict[str, list[str]] = {}
    for r, rtype in room.receptacles:
        by_type.setdefault(rtype, []).append(r)
    load = dict.fromkeys((r for r, _ in room.receptacles), 0)
    known = [t for t in rooms.THINGS[room.kind] if t not in rooms.FIXED]
    things = rng.choices(known, k=rng.randint(14, 28))
    if kind_of_task == "pick_two_obj_and_place":
        things += [rng.choice(things)]
    for fixed in sorted(rooms.FIXED & set(rooms.THINGS[room.kind])):
        if rng.random() < 0.5 or (fixed == "DeskLamp" and kind_of_task == "look_at_obj_in_light"):
            things.append(fixed)
    laid: Laid = []
    for thing in things:
        if sum(t == thing for _, t, _, _ in laid) == 3:
            continue
        places = {
            rtype: weight
            for rtype, weight in rooms.PLACES[thing].items()
            if weight and any(load[r] < rooms.CAPACITY.get(rtype, 6) for r in by_type.get(rtype, []))
        }
        if not places:
            continue
        rtype = rng.choices(list(places), list(places.values()))[0]
        r = rng.choice([r for r in by_type[rtype] if load[r] < rooms.CAPACITY.get(rtype, 6)])
        load[r] += 1
        laid.append((rooms.thing_id(thing, rng), thing, r, rtype))
    return laid


def _goal(room: rooms.Room, kind_of_task: str, laid: Laid, rng: random.Random) -> tuple[str, str] | None:
    """Which thing goes where; nothing that is so already."""
    count = 2 if kind_of_task == "pick_two_obj_and_place" else 1
    able = rooms.ABLE[_ABLE[kind_of_task][0]] if kind_of_task in _ABLE else None
    there = dict.fromkeys(rtype for _, rtype in room.receptacles)
    if kind_of_task == "look_at_obj_in_light":
        if not any(t == "DeskLamp" for _, t, _, _ in laid):
            return None
        found = [(t, "DeskLamp") for t in dict.fromkeys(t for _, t, _, _ in laid) if t not in rooms.FIXED]
        return rng.choice(found) if found else None
    found = []
    for thing in dict.fromkeys(t for _, t, _, _ in laid):
        where = [rtype for _, t, _, rtype in laid if t == thing]
        if thing in rooms.FIXED or (able is not None and thing not in able) or len(where) < count:
            continue
        found.append((thing, [r for r in rooms.PLACES[thing] if r in there and (able is not None or r not in where)]))
    found = [(thing, targets) for thing, targets in found if targets]
    if not found:
        return None
    thing, targets = rng.choice(found)
    return thing, rng.choice(targets)


def _problem(task_id: str, room: rooms.Room, laid: Laid, goal: str, kind_of_task: str, rng: random.Random) -> str:
    """The PDDL problem."""
    place = {
        r: f"loc_bar_{x}_bar_{rng.randint(-15, 15)}_bar_{x % 4}_bar_30" for x, (r, _) in enumerate(room.receptacles)
    }
    place = {r: where.replace("-", "_minus_") for r, where in place.items()}
    start = f"loc_bar_{len(place)}_bar_0_bar_0_bar_30"
    types = dict.fromkeys(t for _, t, _, _ in laid)
    rtypes = dict.fromkeys(t for _, t in room.receptacles)
    lines = [
        "(define (problem plan_trial_" + task_id.replace("/", "_") + ")",
        "(:domain alfred)",
        "(:objects",
        "agent1 - agent",
    ]
    lines += [f"{t}Type - otype" for t in types] + [f"{t}Type - rtype" for t in rtypes]
    # The domain's rules name these types, so a problem must declare them.
    lines += [f"{t} - otype" for t in ("KnifeType", "ButterKnifeType") if t[:-4] not in types]
    lines += [f"{t}Type - rtype" for t in ("SinkBasin", "Microwave", "Fridge") if t not in rtypes]
    lines += [f"{o} - object" for o, _, _, _ in laid] + [f"{r} - receptacle" for r, _ in room.receptacles]
    lines += [f"{where} - location" for where in (*place.values(), start)]
    lines += [")", "(:init", f"(atLocation agent1 {start})"]
    for r, rtype in room.receptacles:
        lines += [f"(receptacleType {r} {rtype}Type)", f"(receptacleAtLocation {r} {place[r]})"]
        if rtype in rooms.OPENABLE:
            lines.append(f"(openable {r})")
    for o, thing, r, rtype in laid:
        lines += [f"(objectType {o} {thing}Type)", f"(inReceptacle {o} {r})", f"(objectAtLocation {o} {place[r]})"]
        lines += [f"({able} {o})" for able, things in rooms.ABLE.items() if thing in things]
        if thing not in rooms.FIXED:
            lines.append(f"(pickupable {o})")
        # As in the real data, what lies in the fridge is cool, except where that would give the task away.
        if rtype == "Fridge" and thing in rooms.ABLE["coolable"] and kind_of_task != "pick_cool_then_place_in_recep":
            lines.append(f"(isCool {o})")
    lines += [
        f"(canContain {r}Type {t}Type)" for t in types if t not in rooms.FIXED for r in rooms.PLACES[t] if r in rtypes
    ]
    lines += [")", f"(:goal (and {goal}))", ")"]
    return "\n".join(lines)


_GRAMMAR = """
"task": [{"rhs": "Your task is to: UNKNOWN GOAL."}],
"GotoLocation.feedback": [{"rhs": "You arrive at {lend.name}. #examineReceptacle.feedback#"}],
"PutObject.feedback": [{"rhs": "You put the {o.name} in/on the {r.name}."}],
action PutObject {
    template :: "put {o} in/on {r}";
"""


# Exporting -----------------------------------------------------------------------------------------------------------


def export(data: dict[str, Any], folder: Path, split: str) -> Path:
    """Writes a generated game in the layout of the real data; returns its file.

    Domain and grammar are the installed `alfworld` package's (wording of that version), else our own short ones,
    which only our engine reads.
    """
    name = f"{data['task_type']}-{data['object_target']}-None-{data['parent_target']}-{data['scene']}"
    trial = folder / split / name / data["trial"]
    trial.mkdir(parents=True, exist_ok=True)
    full = stock_texts()
    game = {key: data[key] for key in ("pddl_domain", "grammar", "pddl_problem", "solvable")}
    if full is not None:
        game["pddl_domain"], game["grammar"] = full[0], full[1].replace("UNKNOWN GOAL", data["task"])
    light = data["task_type"] == "look_at_obj_in_light"
    traj = {
        "task_id": data["trial"],
        "task_type": data["task_type"],
        "scene": {"scene_num": data["scene"], "floor_plan": f"FloorPlan{data['scene']}"},
        "pddl_params": {
            "object_target": data["object_target"],
            "parent_target": "" if light else data["parent_target"],
            "toggle_target": data["parent_target"] if light else "",
            "mrecep_target": "",
            "object_sliced": False,
        },
        "turk_annotations": {"anns": [{"task_desc": data["task"]}]},
    }
    (trial / "traj_data.json").write_text(json.dumps(traj))
    (trial / "game.tw-pddl").write_text(json.dumps(game))
    return trial / "game.tw-pddl"


def stock_texts() -> tuple[str, str] | None:
    """Domain and grammar of the `alfworld` package, where it is installed (found without importing it)."""
    from importlib.util import find_spec

    found = find_spec("alfworld")
    if found is None or not found.origin:
        return None
    folder = Path(found.origin).parent / "data"
    return (folder / "alfred.pddl").read_text(), (folder / "alfred.twl2").read_text()
