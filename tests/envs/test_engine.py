"""The engine on a small kitchen whose every fact is written out here, in both wordings; then on the real games."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ipr.envs.alfworld.engine import Game
from ipr.envs.alfworld.real import check_data
from ipr.types import IprError

PROBLEM = """(define (problem small) (:domain alfred)
(:objects agent1 - agent)
(:init
  (atLocation agent1 loc_bar_0)
  (receptacleType CounterTop_bar_1 CounterTopType) (receptacleAtLocation CounterTop_bar_1 loc_bar_1)
  (receptacleType CoffeeMachine_bar_1 CoffeeMachineType) (receptacleAtLocation CoffeeMachine_bar_1 loc_bar_1)
  (receptacleType Fridge_bar_1 FridgeType) (receptacleAtLocation Fridge_bar_1 loc_bar_2) (openable Fridge_bar_1)
  (receptacleType Microwave_bar_1 MicrowaveType) (receptacleAtLocation Microwave_bar_1 loc_bar_3)
  (openable Microwave_bar_1)
  (receptacleType Sink_bar_1_bar_SinkBasin SinkBasinType)
  (receptacleAtLocation Sink_bar_1_bar_SinkBasin loc_bar_4)
  (objectType Mug_bar_a MugType) (objectType Mug_bar_b MugType) (objectType Apple_bar_1 AppleType)
  (objectType Knife_bar_1 KnifeType) (objectType DeskLamp_bar_1 DeskLampType)
  (pickupable Mug_bar_a) (pickupable Mug_bar_b) (pickupable Apple_bar_1) (pickupable Knife_bar_1)
  (isReceptacleObject Mug_bar_a) (isReceptacleObject Mug_bar_b) (inReceptacleObject Knife_bar_1 Mug_bar_b)
  (cleanable Mug_bar_a) (cleanable Apple_bar_1) (heatable Apple_bar_1) (coolable Apple_bar_1) (sliceable Apple_bar_1)
  (toggleable DeskLamp_bar_1) (isCool Apple_bar_1)
  (inReceptacle Mug_bar_a CounterTop_bar_1) (objectAtLocation Mug_bar_a loc_bar_1)
  (inReceptacle Mug_bar_b CounterTop_bar_1) (inReceptacle Mug_bar_b CoffeeMachine_bar_1)
  (objectAtLocation Mug_bar_b loc_bar_1)
  (inReceptacle Apple_bar_1 Fridge_bar_1) (objectAtLocation Apple_bar_1 loc_bar_2)
  (inReceptacle Knife_bar_1 CounterTop_bar_1) (objectAtLocation Knife_bar_1 loc_bar_1)
  (inReceptacle DeskLamp_bar_1 CounterTop_bar_1) (objectAtLocation DeskLamp_bar_1 loc_bar_1)
  (canContain CounterTopType MugType) (canContain CoffeeMachineType MugType) (canContain CounterTopType AppleType)
  (canContain CounterTopType KnifeType) (canContain FridgeType AppleType) (= (total-cost) 0)
)
(:goal (and (exists (?r - receptacle) (exists (?o - object) (and (heatable ?o) (objectType ?o AppleType)
  (receptacleType ?r CounterTopType) (isHot ?o) (inReceptacle ?o ?r)))))))
"""
OLD = """
"task": [{"rhs": "Your task is to: put a hot apple in countertop."}],
"GotoLocation.feedback": [{"rhs": "You arrive at {lend.name}. #examineReceptacle.feedback#"}],
"PutObject.feedback": [{"rhs": "You put the {o.name} in/on the {r.name}."}],
action PutObject {
    template :: "put {o} in/on {r}";
"""
NEW = """
"task": [{"rhs": "Your task is to: put a hot apple in countertop."}],
"GotoLocation.feedback": [{"rhs": "You arrive at {r.name}. #examineReceptacle.feedback#"}],
"PutObject.feedback": [{"rhs": "You move the {o.name} to the {r.name}."}],
"help.feedback": [{"rhs": "\\nYou can:\\n  look\\n"}],
action PutObject {
    template :: "move {o} to {r}";
"""


def small(grammar: str = OLD) -> Game:
    return Game({"pddl_problem": PROBLEM, "grammar": grammar}, "small")


def told(game: Game, *commands: str) -> list[str | None]:
    state, answers = game.start, []
    for command in commands:
        state, answer = game.play(state, command)
        answers.append(answer)
    return answers


def test_first_observation() -> None:
    assert small().first == (
        "You are in the middle of a room. Looking quickly around you, you see a coffeemachine 1, a countertop 1, "
        "a fridge 1, a microwave 1, and a sinkbasin 1.\n\nYour task is to: put a hot apple in countertop."
    )


def test_what_is_listed_but_nowhere_is_numbered_too() -> None:
    """As in two of the real games, where a cracked egg makes "egg 2" an "egg 3"; kinds are not."""
    listed = "(:objects agent1 - agent Mug - object\n Mug_bar_a_bar_MugCracked_0 - object\n Mug_bar_a - object"
    problem = PROBLEM.replace("(:objects agent1 - agent", listed)
    game = Game({"pddl_problem": problem, "grammar": OLD}, "small")
    assert sorted(game.object_names) == ["apple 1", "desklamp 1", "knife 1", "mug 1", "mug 3"]
    assert told(game, "go to countertop 1", "take mug 2 from countertop 1", "take mug 3 from countertop 1") == [
        "On the countertop 1, you see a desklamp 1, a knife 1, a mug 3, and a mug 1.",
        None,
        "You pick up the mug 3 from the countertop 1.",
    ]
    assert sorted(small().object_names) == ["apple 1", "desklamp 1", "knife 1", "mug 1", "mug 2"]


def test_the_old_wording_played_to_the_end() -> None:
    game = small()
    commands = [
        "go to fridge 1",
        "open fridge 1",
        "take apple 1 from fridge 1",
        "heat apple 1 with microwave 1",
        "go to microwave 1",
        "heat apple 1 with microwave 1",
        "examine apple 1",
        "go to countertop 1",
        "put apple 1 in/on countertop 1",
    ]
    assert told(game, *commands) == [
        "The fridge 1 is closed.",
        "You open the fridge 1. The fridge 1 is open. In it, you see a apple 1.",
        "You pick up the apple 1 from the fridge 1.",
        None,
        "The microwave 1 is closed.",
        "You heat the apple 1 using the microwave 1.",
        "This is a hot apple 1.",
        "On the countertop 1, you see a desklamp 1, a knife 1, a mug 2, and a mug 1.",
        "You put the apple 1 in/on the countertop 1.",
    ]
    state = game.start
    for command in commands:
        assert not game.won(state)
        state, _ = game.play(state, command)
    assert game.won(state)


def test_the_new_wording() -> None:
    game = small(NEW)
    assert told(
        game, "go to countertop 1", "take knife 1 from countertop 1", "move knife 1 to countertop 1", "help"
    ) == [
        "You arrive at countertop 1. On the countertop 1, you see a desklamp 1, a knife 1, a mug 2, and a mug 1.",
        "You pick up the knife 1 from the countertop 1.",
        "You move the knife 1 to the countertop 1.",
        "You can:\n  look\n",
    ]
    assert told(game, "put knife 1 in/on countertop 1") == [None]
    assert "help" in game.admissible(game.start)


def test_quirks_of_the_real_engine() -> None:
    game = small()
    assert told(game, "look") == ["You are in the middle of a room. Looking quickly around you, you see nothing."]
    assert told(game, "go to countertop 1", "go to countertop 1", "go to coffeemachine 1")[1:] == [None, None]
    assert told(game, "go to countertop 1", "examine mug 1")[1] is None
    assert (
        told(game, "go to countertop 1", "use desklamp 1", "use desklamp 1")[1:] == ["You turn on the desklamp 1."] * 2
    )
    assert told(game, "help", "xyzzy", "go to nowhere 1", "take mug 1 from fridge 9") == [None] * 4
    # An object in two receptacles at once; taking it from one leaves it in the other.
    assert told(game, "go to countertop 1", "take mug 1 from countertop 1", "examine coffeemachine 1")[1:] == [
        "You pick up the mug 1 from the countertop 1.",
        "On the coffeemachine 1, you see a mug 1.",
    ]
    # What moved between two receptacles of one place is seen "next to it" as well.
    moved = ["go to countertop 1", "take mug 2 from countertop 1", "put mug 2 in/on coffeemachine 1", "look"]
    assert told(game, *moved)[3] == "You are facing the coffeemachine 1, and countertop 1. Next to it, you see a mug 2."
    # An initial (isCool ...), and tools that work closed.
    cool = ["go to fridge 1", "open fridge 1", "take apple 1 from fridge 1", "examine apple 1", "close fridge 1"]
    assert told(game, *cool, "cool apple 1 with fridge 1")[3:] == [
        "This is a cold apple 1.",
        "You close the fridge 1.",
        "You cool the apple 1 using the fridge 1.",
    ]


def test_examining_and_the_hand() -> None:
    game = small()
    assert told(game, "go to countertop 1", "take mug 1 from countertop 1", "examine mug 1", "inventory")[2:] == [
        "This is a normal mug 1. In it, you see a knife 1.",
        "You are carrying: a mug 1.",
    ]
    assert told(game, "inventory") == ["You are not carrying anything."]
    fetch = ["go to fridge 1", "open fridge 1", "take apple 1 from fridge 1"]
    wash = ["go to sinkbasin 1", "clean apple 1 with sinkbasin 1", "examine apple 1"]
    assert told(game, *fetch, *wash)[-1] == "This is a cool and clean apple 1."
    assert told(game, *fetch, "go to countertop 1", "take knife 1 from countertop 1")[-1] is None
    put = [*fetch, "go to countertop 1", "put apple 1 in/on countertop 1", "take knife 1 from countertop 1"]
    cut = [*put, "slice apple 1 with knife 1", "put knife 1 in/on countertop 1", "take apple 1 from countertop 1"]
    assert told(game, *cut, "examine apple 1")[-1] == "This is a cool sliced apple 1."
    assert told(game, *put, "slice apple 1 with knife 1")[-1] == "You sliced the apple 1 with the knife 1."
    assert told(game, *put, "examine knife 1")[-1] == "There's nothing special about knife 1."


def test_admissible_commands() -> None:
    game = small()
    state, _ = game.play(game.start, "go to coffeemachine 1")
    assert game.admissible(state) == [
        "examine coffeemachine 1",
        "examine countertop 1",
        "go to fridge 1",
        "go to microwave 1",
        "go to sinkbasin 1",
        "inventory",
        "look",
        "take knife 1 from countertop 1",
        "take mug 1 from coffeemachine 1",
        "take mug 1 from countertop 1",
        "take mug 2 from countertop 1",
        "use desklamp 1",
    ]


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"pddl_problem": PROBLEM},
        {"pddl_problem": PROBLEM, "grammar": ""},
        {"pddl_problem": "", "grammar": OLD},
        {"pddl_problem": 3, "grammar": OLD},
        {"pddl_problem": PROBLEM.replace("AppleType", "PearType", 1), "grammar": OLD},
        {"pddl_problem": PROBLEM.replace("(atLocation agent1 loc_bar_0)", ""), "grammar": OLD},
        {"pddl_problem": PROBLEM.replace("(:goal (and", "(:goal (or"), "grammar": OLD},
        {"pddl_problem": PROBLEM[: PROBLEM.index("(:goal") + 12], "grammar": OLD},
        [],
    ],
)
def test_a_broken_game_is_named(data: dict) -> None:
    with pytest.raises(IprError, match=r"somewhere/game\.tw-pddl"):
        Game(data, "somewhere/game.tw-pddl")


def test_every_recorded_observation_is_equal(real: Path) -> None:
    report = check_data(real)
    assert report is not None
    assert report["games"] == report["wins"] == 400
    assert report["observations"] == report["equal"] == 7500
    assert report["broken"] == 0
    assert report["steps_per_s"] > 6_000


def test_broken_files_are_counted_not_raised(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "x"}, {"from": "gpt", "value": "look"}, {"from": "human", "value": "y"}]
    for name, game, recorded in (
        ("good", json.dumps({"pddl_problem": PROBLEM, "grammar": OLD}), json.dumps(turns)),
        ("no-json", "{", json.dumps(turns)),
        ("no-game", None, json.dumps(turns)),
        ("no-turns", json.dumps({"pddl_problem": PROBLEM, "grammar": OLD}), "[1]"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "gt_traj.json").write_text(recorded)
        if game is not None:
            (tmp_path / name / "game.tw-pddl").write_text(game)
    report = check_data(tmp_path)
    assert report is not None
    assert (report["games"], report["wins"], report["observations"], report["equal"]) == (1, 0, 2, 0)
    assert report["broken"] == 3
    assert all(str(tmp_path) in message for message in report["messages"])
    assert check_data(tmp_path / "good" / "nothing") is None
