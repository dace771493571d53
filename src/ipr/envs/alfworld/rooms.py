"""Facts of the generated world: what rooms have in them, what may lie where, and what one may be asked to do.

Written for this project from how ALFWorld's rooms are known to look; no text or data of ALFWorld is copied.
"""

from __future__ import annotations

ROOMS: dict[str, dict[str, tuple[int, int]]] = {
    "kitchen": {
        "Cabinet": (2, 6),
        "CoffeeMachine": (1, 1),
        "CounterTop": (1, 3),
        "DiningTable": (0, 1),
        "Drawer": (1, 4),
        "Fridge": (1, 1),
        "GarbageCan": (1, 1),
        "Microwave": (1, 1),
        "Shelf": (0, 2),
        "SideTable": (0, 1),
        "SinkBasin": (1, 1),
        "StoveBurner": (2, 4),
    },
    "living": {
        "ArmChair": (1, 2),
        "Cabinet": (0, 2),
        "CoffeeTable": (1, 1),
        "DiningTable": (0, 1),
        "Drawer": (1, 4),
        "Dresser": (0, 1),
        "GarbageCan": (1, 1),
        "Safe": (0, 1),
        "Shelf": (1, 3),
        "SideTable": (1, 2),
        "Sofa": (1, 1),
        "TVStand": (0, 1),
    },
    "bedroom": {
        "ArmChair": (0, 1),
        "Bed": (1, 1),
        "Cabinet": (0, 2),
        "Desk": (1, 2),
        "Drawer": (2, 5),
        "Dresser": (0, 1),
        "GarbageCan": (1, 1),
        "LaundryHamper": (0, 1),
        "Safe": (0, 1),
        "Shelf": (1, 4),
        "SideTable": (0, 2),
    },
    "bathroom": {
        "BathtubBasin": (0, 1),
        "Cabinet": (1, 4),
        "Cart": (0, 1),
        "CounterTop": (1, 1),
        "Drawer": (1, 3),
        "GarbageCan": (1, 1),
        "HandTowelHolder": (1, 2),
        "Shelf": (0, 2),
        "SinkBasin": (1, 2),
        "Toilet": (1, 1),
        "ToiletPaperHanger": (1, 1),
        "TowelHolder": (1, 1),
    },
}
"""Room -> receptacle type -> (fewest, most)."""

PLACES: dict[str, dict[str, dict[str, int]]] = {
    "kitchen": {
        "Apple": {"Fridge": 5, "CounterTop": 3, "DiningTable": 3, "GarbageCan": 2, "SinkBasin": 2, "Microwave": 1},
        "Bowl": {"Cabinet": 5, "Fridge": 3, "CounterTop": 3, "DiningTable": 2, "Shelf": 2},
        "Bread": {"CounterTop": 5, "DiningTable": 3, "Fridge": 2},
        "ButterKnife": {"CounterTop": 5, "DiningTable": 3, "Drawer": 2},
        "Cup": {"Cabinet": 4, "Fridge": 3, "SinkBasin": 2, "CounterTop": 2, "Microwave": 1, "SideTable": 1},
        "DishSponge": {"SinkBasin": 4, "Cabinet": 3, "Drawer": 2, "CounterTop": 2},
        "Egg": {"Fridge": 5, "SinkBasin": 2, "CounterTop": 2, "Microwave": 2, "GarbageCan": 2},
        "Fork": {"Drawer": 4, "CounterTop": 3, "DiningTable": 2, "SinkBasin": 2},
        "Glassbottle": {"Cabinet": 4, "CounterTop": 2, "GarbageCan": 1},
        "Kettle": {"StoveBurner": 4, "CounterTop": 2, "Cabinet": 2},
        "Knife": {"CounterTop": 5, "Drawer": 3, "DiningTable": 2},
        "Lettuce": {"Fridge": 4, "CounterTop": 4, "DiningTable": 2},
        "Mug": {"CoffeeMachine": 4, "Cabinet": 3, "CounterTop": 2, "Microwave": 1, "Shelf": 1},
        "Pan": {"StoveBurner": 6, "CounterTop": 2, "Cabinet": 2},
        "PepperShaker": {"Cabinet": 4, "CounterTop": 3, "Drawer": 2, "Shelf": 1, "DiningTable": 1},
        "Plate": {"Cabinet": 5, "CounterTop": 3, "DiningTable": 2, "Fridge": 1},
        "Pot": {"StoveBurner": 6, "SinkBasin": 1, "Fridge": 1},
        "Potato": {"Fridge": 4, "SinkBasin": 3, "CounterTop": 2, "Microwave": 2, "GarbageCan": 1},
        "SaltShaker": {"Cabinet": 4, "Drawer": 3, "CounterTop": 2, "Shelf": 1, "SideTable": 1},
        "SoapBottle": {"Cabinet": 4, "CounterTop": 3, "GarbageCan": 2, "SinkBasin": 1},
        "Spatula": {"CounterTop": 4, "Drawer": 3, "SinkBasin": 2, "DiningTable": 2},
        "Spoon": {"Drawer": 4, "CounterTop": 3, "SinkBasin": 2, "DiningTable": 2},
        "Tomato": {"Fridge": 5, "CounterTop": 3, "DiningTable": 2, "GarbageCan": 1},
    },
    "living": {
        "Book": {"Sofa": 3, "CoffeeTable": 3, "ArmChair": 2, "Shelf": 1},
        "Box": {"Sofa": 3, "DiningTable": 3, "CoffeeTable": 3, "Cabinet": 2, "ArmChair": 1},
        "CellPhone": {"Sofa": 3, "Drawer": 2, "ArmChair": 2},
        "CreditCard": {"CoffeeTable": 3, "Sofa": 3, "ArmChair": 2, "Drawer": 2, "SideTable": 2, "Dresser": 2},
        "DeskLamp": {"SideTable": 6, "Shelf": 1},
        "KeyChain": {"Drawer": 3, "Sofa": 2, "CoffeeTable": 2, "Dresser": 2, "Safe": 2, "TVStand": 2},
        "Laptop": {"CoffeeTable": 4, "Sofa": 3, "DiningTable": 3, "ArmChair": 1},
        "Newspaper": {"Sofa": 3, "ArmChair": 2, "CoffeeTable": 2, "Dresser": 2, "SideTable": 2, "Shelf": 1},
        "Pillow": {"Sofa": 6, "ArmChair": 3},
        "RemoteControl": {"CoffeeTable": 4, "Sofa": 3, "SideTable": 3, "Dresser": 2, "TVStand": 2, "ArmChair": 1},
        "Statue": {"CoffeeTable": 3, "Shelf": 3, "SideTable": 3, "DiningTable": 3, "TVStand": 2, "Dresser": 2},
        "TissueBox": {"Cabinet": 3, "Shelf": 3, "SideTable": 2},
        "Vase": {"Shelf": 4, "CoffeeTable": 2, "Dresser": 2, "Cabinet": 1, "Safe": 1, "SideTable": 1},
        "Watch": {"CoffeeTable": 3, "Drawer": 3, "Dresser": 2, "Shelf": 2, "TVStand": 1, "Safe": 1},
    },
    "bedroom": {
        "AlarmClock": {"Desk": 4, "SideTable": 3, "Dresser": 3, "Shelf": 3},
        "Book": {"Bed": 4, "Desk": 3, "Drawer": 2, "Dresser": 2, "Shelf": 1},
        "Bowl": {"Desk": 3, "Shelf": 3},
        "CD": {"Desk": 3, "Drawer": 3, "Dresser": 2, "Shelf": 2, "GarbageCan": 1, "SideTable": 1, "Safe": 1},
        "CellPhone": {"Bed": 4, "Drawer": 2, "Desk": 2, "SideTable": 2, "Dresser": 2, "Safe": 1},
        "CreditCard": {"Drawer": 4, "Desk": 2, "Dresser": 2, "Shelf": 2, "SideTable": 1, "ArmChair": 1},
        "DeskLamp": {"Desk": 5, "SideTable": 2, "Dresser": 2, "Shelf": 1},
        "KeyChain": {"Drawer": 3, "SideTable": 2, "Dresser": 2, "Shelf": 2, "Desk": 2, "Safe": 2},
        "Laptop": {"Bed": 5, "Desk": 3},
        "Mug": {"Desk": 4, "Shelf": 2, "SideTable": 1, "Cabinet": 1},
        "Pen": {"Desk": 3, "Drawer": 3, "Dresser": 2, "Shelf": 2, "SideTable": 2},
        "Pencil": {"Desk": 3, "Shelf": 3, "Drawer": 2, "Dresser": 2, "SideTable": 2, "GarbageCan": 1},
        "Pillow": {"Bed": 8, "ArmChair": 1},
        "TeddyBear": {"Bed": 5},
        "Watch": {"Drawer": 2, "Desk": 2, "Shelf": 2, "Dresser": 1},
    },
    "bathroom": {
        "Candle": {"CounterTop": 3, "Toilet": 3, "Cabinet": 2, "Drawer": 2, "Shelf": 2, "Cart": 1},
        "Cloth": {"Cabinet": 3, "BathtubBasin": 3, "CounterTop": 2, "Drawer": 2, "Cart": 1, "SinkBasin": 1},
        "DishSponge": {"BathtubBasin": 2, "CounterTop": 2, "Drawer": 1, "SinkBasin": 1},
        "HandTowel": {"HandTowelHolder": 8},
        "SoapBar": {"BathtubBasin": 3, "CounterTop": 3, "SinkBasin": 3, "Toilet": 2, "Cabinet": 2, "GarbageCan": 1},
        "SoapBottle": {"CounterTop": 4, "Cabinet": 3, "Toilet": 2, "Shelf": 2, "GarbageCan": 1},
        "SprayBottle": {"CounterTop": 4, "Toilet": 3, "Cabinet": 3, "GarbageCan": 2, "Shelf": 1, "Cart": 1},
        "TissueBox": {"CounterTop": 2, "Shelf": 2, "Drawer": 1, "Cabinet": 1},
        "ToiletPaper": {"Toilet": 3, "ToiletPaperHanger": 3, "CounterTop": 2, "Cabinet": 2, "Drawer": 1, "GarbageCan": 1},
        "Towel": {"TowelHolder": 6, "BathtubBasin": 1},
    },
}
"""Room -> object type -> receptacle type -> how likely it lies there; also what may be put there (canContain)."""

OPENABLE = frozenset({"Cabinet", "Drawer", "Fridge", "Microwave", "Safe"})
FIXED = frozenset({"DeskLamp"})
"""Objects that cannot be picked up."""
CLEANABLE = frozenset(
    "Apple Bowl ButterKnife Cloth Cup DishSponge Egg Fork Kettle Knife Lettuce Mug Pan Plate Pot Potato SoapBar Spatula"
    " Spoon Tomato".split()
)
HEATABLE = frozenset("Apple Bread Cup Egg Mug Plate Potato Tomato".split())
COOLABLE = frozenset("Apple Bowl Bread Cup Egg Lettuce Mug Pan Plate Pot Potato Tomato".split())
SLICEABLE = frozenset("Apple Bread Egg Lettuce Potato Tomato".split())
HOLLOW = frozenset("Bowl Box Cup Mug Pan Plate Pot".split())
"""isReceptacleObject."""
NOT_TARGETS = frozenset({"StoveBurner", "SinkBasin", "HandTowelHolder", "TowelHolder", "ToiletPaperHanger", "BathtubBasin"})
"""Receptacle types that no goal asks to put something in."""
