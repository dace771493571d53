"""What is where in a home: kinds of room, their receptacles, and the places at which each thing is found.

Decided here: own tables, written from common sense and sized so that a first observation stays short (8 to 20
receptacles, 12 to 30 objects; real kitchens have up to 54). The same places serve three ends: where the generator
lays things, where a thing may be put, and where the expert looks first. Rooms come in pools, and no two rooms of any
pool have the same receptacles, so that "unseen" rooms differ from every room of training.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from ipr.types import derive_seed

Kind = str
"""kitchen, bathroom, bedroom or living."""

RECEPTACLES: Mapping[Kind, Mapping[str, tuple[int, int]]] = {
    "kitchen": {
        "Cabinet": (2, 6),
        "CoffeeMachine": (1, 1),
        "CounterTop": (1, 2),
        "DiningTable": (0, 1),
        "Drawer": (1, 4),
        "Fridge": (1, 1),
        "GarbageCan": (1, 1),
        "Microwave": (1, 1),
        "Shelf": (0, 2),
        "SideTable": (0, 1),
        "SinkBasin": (1, 1),
        "StoveBurner": (2, 4),
        "Toaster": (1, 1),
    },
    "bathroom": {
        "BathtubBasin": (0, 1),
        "Cabinet": (0, 4),
        "Cart": (0, 1),
        "CounterTop": (0, 1),
        "Drawer": (0, 4),
        "GarbageCan": (1, 1),
        "HandTowelHolder": (1, 2),
        "Shelf": (0, 3),
        "SideTable": (0, 1),
        "SinkBasin": (1, 2),
        "Toilet": (1, 1),
        "ToiletPaperHanger": (1, 1),
        "TowelHolder": (1, 2),
    },
    "bedroom": {
        "ArmChair": (0, 1),
        "Bed": (1, 1),
        "Cabinet": (0, 2),
        "Desk": (1, 2),
        "Drawer": (2, 6),
        "Dresser": (0, 1),
        "GarbageCan": (1, 1),
        "LaundryHamper": (0, 1),
        "Safe": (0, 1),
        "Shelf": (0, 5),
        "SideTable": (0, 2),
    },
    "living": {
        "ArmChair": (1, 2),
        "Cabinet": (0, 3),
        "CoffeeTable": (1, 1),
        "DiningTable": (0, 1),
        "Drawer": (0, 4),
        "Dresser": (0, 1),
        "GarbageCan": (1, 1),
        "Ottoman": (0, 1),
        "Safe": (0, 1),
        "Shelf": (0, 4),
        "SideTable": (1, 3),
        "Sofa": (1, 2),
        "TVStand": (0, 1),
    },
}
"""Fewest and most of each receptacle."""

OPENABLE = frozenset({"Cabinet", "Drawer", "Fridge", "Microwave", "Safe"})
CAPACITY = {"StoveBurner": 1, "CoffeeMachine": 1, "ToiletPaperHanger": 1, "TowelHolder": 1, "HandTowelHolder": 1}
"""Most things that the generator lays there; six elsewhere."""

_THINGS = """
Apple         kitchen          Fridge 4, CounterTop 3, DiningTable 3, SinkBasin 2, GarbageCan 2, Microwave 1, SideTable 1
Bread         kitchen          CounterTop 5, DiningTable 3, Fridge 2, SideTable 1, GarbageCan 0, Microwave 0
Egg           kitchen          Fridge 5, CounterTop 3, SinkBasin 2, DiningTable 2, Microwave 1, GarbageCan 1, SideTable 1
Lettuce       kitchen          CounterTop 4, Fridge 4, DiningTable 3, SinkBasin 1, SideTable 1, GarbageCan 0
Potato        kitchen          CounterTop 4, Fridge 3, SinkBasin 2, DiningTable 2, GarbageCan 1, Microwave 1, SideTable 1
Tomato        kitchen          Fridge 4, CounterTop 4, DiningTable 2, SinkBasin 1, GarbageCan 1, SideTable 1, Microwave 0
Bowl          kitchen          Cabinet 4, CounterTop 3, DiningTable 2, Fridge 2, Shelf 1, SinkBasin 1, SideTable 1, Microwave 0
Cup           kitchen          Cabinet 4, CounterTop 3, SinkBasin 2, DiningTable 2, Fridge 2, Shelf 1, Microwave 1, SideTable 1
Mug           kitchen+bedroom  CounterTop 3, Desk 3, Cabinet 3, CoffeeMachine 2, SinkBasin 1, Shelf 1, Microwave 1, Fridge 1, DiningTable 1, SideTable 1, Dresser 0
Plate         kitchen          Cabinet 4, CounterTop 3, DiningTable 2, SinkBasin 1, Shelf 1, SideTable 1, Fridge 0, Microwave 0
Kettle        kitchen          StoveBurner 4, Cabinet 2, CounterTop 2, DiningTable 1, SinkBasin 0, Shelf 0, SideTable 0
Pan           kitchen          StoveBurner 5, CounterTop 2, Cabinet 1, DiningTable 0, Fridge 0, SinkBasin 0, SideTable 0
Pot           kitchen          StoveBurner 5, CounterTop 1, Cabinet 1, DiningTable 0, Fridge 0, SinkBasin 0, Shelf 0
ButterKnife   kitchen          CounterTop 4, Drawer 3, DiningTable 2, SinkBasin 1, SideTable 1
Fork          kitchen          Drawer 4, CounterTop 3, DiningTable 2, SinkBasin 1, SideTable 1
Knife         kitchen          CounterTop 4, Drawer 3, DiningTable 2, SinkBasin 1, SideTable 1
Ladle         kitchen          Drawer 3, CounterTop 3, Cabinet 2, DiningTable 1, SinkBasin 1
Spatula       kitchen          CounterTop 4, Drawer 3, DiningTable 2, SinkBasin 1, SideTable 1
Spoon         kitchen          Drawer 4, CounterTop 3, SinkBasin 2, DiningTable 2, SideTable 1
PepperShaker  kitchen          Cabinet 4, CounterTop 3, DiningTable 2, Drawer 2, Shelf 1, SideTable 1
SaltShaker    kitchen          Cabinet 4, CounterTop 3, DiningTable 2, Drawer 2, Shelf 1, SideTable 1
Glassbottle   kitchen          Cabinet 4, CounterTop 3, DiningTable 1, Shelf 1, GarbageCan 1, SinkBasin 0, Fridge 0, Microwave 0
WineBottle    kitchen          CounterTop 3, Cabinet 2, DiningTable 2, Fridge 1, Shelf 1, GarbageCan 1, SideTable 0
DishSponge    kitchen+bathroom CounterTop 3, Cabinet 2, Drawer 2, SinkBasin 2, BathtubBasin 1, Shelf 1, Cart 1, GarbageCan 1, Toilet 0, DiningTable 0, SideTable 0
SoapBottle    kitchen+bathroom CounterTop 3, Cabinet 3, Toilet 2, Shelf 2, Cart 2, GarbageCan 1, DiningTable 1, SideTable 1, Drawer 0
Candle        bathroom         Toilet 3, CounterTop 3, Cabinet 2, Drawer 2, Shelf 2, SideTable 1, Cart 1
Cloth         bathroom         BathtubBasin 3, Cabinet 3, CounterTop 2, Drawer 2, Shelf 1, SinkBasin 1, Cart 1, Toilet 0, GarbageCan 0, SideTable 0
HandTowel     bathroom         HandTowelHolder 6, CounterTop 1, Cabinet 0, Drawer 0, Shelf 0, SinkBasin 0, BathtubBasin 0, Toilet 0, GarbageCan 0, SideTable 0
SoapBar       bathroom         SinkBasin 3, CounterTop 3, BathtubBasin 3, Toilet 2, Cabinet 2, Drawer 1, GarbageCan 1, Cart 1, Shelf 1, SideTable 0
SprayBottle   bathroom         CounterTop 3, Toilet 3, Cabinet 3, Shelf 2, Cart 2, GarbageCan 1, SideTable 1, Drawer 1
TissueBox     bathroom+living  CounterTop 3, CoffeeTable 3, Shelf 2, SideTable 2, Drawer 1, Toilet 1, Cabinet 1, TVStand 1, DiningTable 1, Dresser 1, GarbageCan 0
ToiletPaper   bathroom         Toilet 3, ToiletPaperHanger 3, CounterTop 2, Cabinet 2, GarbageCan 1, Drawer 1, Shelf 1, SideTable 1
Towel         bathroom         TowelHolder 1
AlarmClock    bedroom          Desk 4, SideTable 3, Dresser 2, Shelf 2
Book          bedroom+living   Bed 4, Desk 2, Drawer 2, CoffeeTable 2, Dresser 1, SideTable 1, Shelf 1, Sofa 1, ArmChair 1, DiningTable 1, Cabinet 1
CD            bedroom          Drawer 4, Desk 3, Dresser 2, SideTable 2, Shelf 1, GarbageCan 1, Safe 1, Cabinet 0
CellPhone     bedroom+living   Bed 4, Drawer 3, Desk 2, Dresser 2, SideTable 2, CoffeeTable 1, Shelf 1, Safe 1, ArmChair 0, Sofa 0, DiningTable 0
CreditCard    bedroom+living   Drawer 4, Desk 2, Dresser 2, SideTable 2, Sofa 2, CoffeeTable 2, ArmChair 1, Shelf 1, Safe 1, DiningTable 1, Ottoman 0
KeyChain      bedroom+living   Drawer 3, Safe 2, Desk 2, SideTable 2, Sofa 2, Dresser 2, CoffeeTable 2, Shelf 1, DiningTable 1, ArmChair 0, Ottoman 0
Laptop        bedroom+living   Bed 4, Sofa 3, Desk 3, CoffeeTable 2, DiningTable 2, Dresser 1, ArmChair 1, SideTable 0, Ottoman 0
Pen           bedroom+living   Desk 4, Drawer 4, Dresser 2, SideTable 2, CoffeeTable 2, Shelf 1, GarbageCan 1, DiningTable 0
Pencil        bedroom+living   Desk 4, Drawer 3, Shelf 2, Dresser 2, SideTable 2, CoffeeTable 1, GarbageCan 1, DiningTable 0
Pillow        bedroom+living   Bed 4, Sofa 4, ArmChair 2, Ottoman 0
RemoteControl living           CoffeeTable 4, Sofa 3, SideTable 3, TVStand 2, Drawer 1, Dresser 1, DiningTable 1, ArmChair 1, Shelf 0, Ottoman 0
Newspaper     living           Sofa 3, CoffeeTable 3, SideTable 2, Dresser 1, DiningTable 1, ArmChair 1, Shelf 1, Drawer 1, GarbageCan 0, Ottoman 0, Cabinet 0
Statue        living           Shelf 3, CoffeeTable 3, SideTable 3, DiningTable 2, Dresser 1, TVStand 1, Safe 0
Vase          living           Shelf 4, CoffeeTable 3, SideTable 2, Dresser 2, DiningTable 1, TVStand 1, Safe 1, Cabinet 1
Watch         living           CoffeeTable 3, Drawer 3, DiningTable 2, Shelf 1, SideTable 1, TVStand 1, Dresser 1, Safe 1
Box           living           DiningTable 3, Sofa 3, CoffeeTable 3, SideTable 1, Dresser 1, Cabinet 1, ArmChair 0, Shelf 0, Ottoman 0
DeskLamp      bedroom+living   Desk 4, SideTable 3, Dresser 1, Shelf 1, CoffeeTable 1
Television    living           TVStand 4, Dresser 2, CoffeeTable 1
HousePlant    bedroom+living   SideTable 3, CoffeeTable 2, Shelf 2, Dresser 1, Desk 1
"""  # noqa: E501
# One thing a line: name, rooms, places with how often it is found there; 0: it may be put there, but is not found.

FIXED = frozenset({"DeskLamp", "Television", "HousePlant"})
"""Things that nobody can pick up; at most one a room."""
FOOD = frozenset({"Apple", "Bread", "Egg", "Lettuce", "Potato", "Tomato"})
_DISHES = frozenset({"Bowl", "Cup", "Mug", "Plate"})
_TOOLS = frozenset({"ButterKnife", "Fork", "Knife", "Ladle", "Spatula", "Spoon", "Kettle", "Pan", "Pot"})
ABLE: Mapping[str, frozenset[str]] = {
    "cleanable": (FOOD - {"Bread"}) | _DISHES | _TOOLS | {"Cloth", "DishSponge", "SoapBar"},
    "heatable": (FOOD - {"Lettuce"}) | (_DISHES - {"Bowl"}),
    "coolable": FOOD | _DISHES | {"Pan", "Pot", "WineBottle"},
    "sliceable": FOOD,
    "toggleable": frozenset({"DeskLamp"}),
    "isReceptacleObject": _DISHES | {"Pan", "Pot", "Box"},
}
"""What can be done to which thing (predicates of the PDDL domain)."""


def _read() -> tuple[dict[str, dict[str, int]], dict[Kind, list[str]]]:
    places: dict[str, dict[str, int]] = {}
    found: dict[Kind, list[str]] = {kind: [] for kind in RECEPTACLES}
    for line in _THINGS.strip().splitlines():
        thing, kinds, where = line.split(maxsplit=2)
        places[thing] = {r: int(n) for r, n in (entry.split() for entry in where.split(", "))}
        for kind in kinds.split("+"):
            found[kind].append(thing)
    return places, found


PLACES, THINGS = _read()
"""thing -> receptacle -> how often it is found there; kind of room -> things."""

POOLS = {"train": 30, "unseen": 10, "pretrain": 100}
"""Rooms of each kind. The splits train, dev and seen share the pool "train"."""
FEWEST, MOST = 8, 20
"""Receptacles of a room."""


@dataclass(frozen=True, slots=True)
class Room:
    """A layout: the receptacles of a room, each an id of the form of the real data, and its type."""

    kind: Kind
    number: int
    """Scene number, as in the real data: kitchens below 100, living rooms 200, bedrooms 300, bathrooms 400."""
    receptacles: tuple[tuple[str, str], ...]


@lru_cache(maxsize=1)
def pools() -> dict[str, dict[Kind, list[Room]]]:
    """Every room there is; no two have the same numbers of the same receptacles."""
    found: dict[str, dict[Kind, list[Room]]] = {}
    taken: set[tuple[object, ...]] = set()
    first = {"kitchen": 1, "living": 201, "bedroom": 301, "bathroom": 401}
    offset = 0
    for pool, size in POOLS.items():
        found[pool] = {kind: [] for kind in RECEPTACLES}
        for kind, ranges in RECEPTACLES.items():
            rng = random.Random(derive_seed("alfworld", "rooms", pool, kind))
            while len(found[pool][kind]) < size:
                counts = {r: rng.randint(*ranges[r]) for r in ranges}
                signature = (kind, *counts.values())
                if not FEWEST <= sum(counts.values()) <= MOST or signature in taken:
                    continue
                taken.add(signature)
                number = first[kind] + 1000 * offset + len(found[pool][kind])
                receptacles = tuple((thing_id(r, rng), r) for r, n in counts.items() for _ in range(n))
                found[pool][kind].append(Room(kind, number, receptacles))
        offset += 1
    return found


def thing_id(type_: str, rng: random.Random) -> str:
    """An id in the form of the real data: type and a place in space."""
    base, basin = (type_[:-5], f"_bar_{type_}") if type_.endswith("Basin") else (type_, "")
    return base + "".join(f"_bar_{_number(rng.uniform(-4, 4))}" for _ in range(3)) + basin


def _number(x: float) -> str:
    whole, part = f"{abs(x):05.2f}".split(".")
    return f"_{'minus' if x < 0 else 'plus'}_{whole}_dot_{part}"
