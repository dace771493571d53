"""Trajectories from other people's files: found, matched, played again; what differs is named and left out."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flows.cli import main
from ipr import store
from ipr.data import exports, imports
from ipr.envs import get
from ipr.envs.alfworld import games
from ipr.envs.sql import questions
from ipr.envs.webshop import generate
from ipr.types import IprError, Message, Step, Trajectory

ENVS = ("alfworld", "sql", "webshop")


def experts(env: str, count: int = 3, split: str = "train") -> list[Trajectory]:
    spec = get(env)
    return [spec.expert(task_id) for task_id in spec.task_ids(split)[:count]]


def turns(t: Trajectory) -> list[Message]:
    return [*t.history(0), *t.continuation(0)]


def published(t: Trajectory, example: Trajectory | None = None, name: str = "", one: bool = False) -> dict[str, Any]:
    """A row of the from/value kind: instruction, "OK", an example, and the episode with labelled observations."""
    label = ["", *["Observation: "] * len(t.steps)]
    shown = [*turns(example)] if example else []
    episode = [
        Message(m.role, label[k // 2] + m.content if m.role == "user" else m.content) for k, m in enumerate(turns(t))
    ]
    # As in the published files, blank lines of the first observation are single there.
    episode[0] = Message("user", episode[0].content.replace("\n\n", "\n"))
    if one:  # instruction and example in the first message
        text = "\n".join(["Do this.", "---", *(m.content for m in shown), "---", "Your turn.", episode[0].content])
        told = [Message("user", text), *episode[1:]]
    else:
        told = [Message("user", "Do this.\n\nYour task is hard."), Message("assistant", "OK"), *shown, *episode]
    names = {"user": "human", "assistant": "gpt"}
    return {"id": name, "conversations": [{"from": names[m.role], "value": m.content} for m in told]}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few tasks, so that all of them are soon looked through."""
    for module in (games, questions, generate):
        for split in imports.SPLITS:
            monkeypatch.setitem(module.SIZES, split, 30)


@pytest.fixture
def file(tmp_path: Path) -> Callable[[list[Any]], Path]:
    def write(rows: list[Any], name: str = "given.json") -> Path:
        (tmp_path / name).write_text(json.dumps(rows))
        return tmp_path / name

    return write


@pytest.mark.parametrize("env", ENVS)
def test_messages_come_back_as_they_were(env: str, tmp_path: Path) -> None:
    given = experts(env)
    path = exports.write(exports.messages(given, get(env).prompt), tmp_path / "given.jsonl")
    assert imports.load("messages", path, env) == (given, [])


@pytest.mark.parametrize("env", ENVS)
def test_parquet_comes_back_as_it_was(env: str, tmp_path: Path) -> None:
    given = [replace(t, policy="sft", seed=7, start=2) for t in experts(env)]
    path = store.save(tmp_path / "given.parquet", given)
    assert imports.load("parquet", path, env) == (given, [])


@pytest.mark.parametrize("one", [False, True])
@pytest.mark.parametrize("env", ENVS)
def test_the_task_is_found_behind_instruction_and_example(env: str, one: bool, file: Callable[..., Path]) -> None:
    # The example is itself a task of the environment, as the published ones are.
    given, example = experts(env, 3), experts(env, 5)[4]
    path = file([published(t, example, f"{env}_{k}", one) for k, t in enumerate(given)])
    assert imports.load("conversations", path, env) == (given, [])


def test_an_example_that_is_the_task_itself(file: Callable[..., Path]) -> None:
    given = experts("alfworld")
    path = file([published(t, t) for t in given])
    assert imports.load("conversations", path, "alfworld") == (given, [])


def test_tasks_of_every_split_are_found(file: Callable[..., Path]) -> None:
    given = experts("alfworld", 2, "unseen")
    path = file([published(t, experts("alfworld")[0]) for t in given])
    assert imports.load("conversations", path, "alfworld") == (given, [])


def test_an_agent_that_goes_back_to_the_search_page(file: Callable[..., Path]) -> None:
    """There the shop says again what it said first."""
    task_id, spec = get("webshop").task_ids("train")[0], get("webshop")
    env, steps = spec.make(), []
    first = env.reset(task_id)
    for command in ("search[red]", "click[Back to Search]", "search[red]"):
        action = f"Thought: t\nAction: {command}"
        steps.append(Step(action, env.step(action).observation))
    assert steps[1].observation == first
    outcome = None
    for step in spec.expert(task_id).steps[: 10 - len(steps)]:
        outcome = env.step(step.action)
        steps.append(Step(step.action, outcome.observation))
    assert outcome is not None
    assert outcome.terminated
    t = Trajectory(task_id, first, tuple(steps), outcome.reward, "terminated", "expert")
    assert imports.load("conversations", file([published(t)]), "webshop") == ([t], [])


@pytest.mark.parametrize("path", ["{}", "json_2.1.1/{}", "a/json_2.1.1/{}/game.tw-pddl"])
def test_an_id_or_a_path_names_the_task(path: str, file: Callable[..., Path]) -> None:
    t = experts("alfworld")[0]
    row = published(t) | {"id": 5, "game_file": path.format(t.task_id)}
    assert imports.load("conversations", file([row]), "alfworld")[0] == [t]


def test_records_of_either_wording(tmp_path: Path, file: Callable[..., Path]) -> None:
    """The same games in both wordings: what was recorded in one comes back in the words of the other."""
    folders, given = {}, {}
    for wording in ("old", "new"):
        folder = folders[wording] = tmp_path / wording
        for task_id in games.task_ids("train")[:18]:
            path = games.export(games.generate(task_id), folder, "train")
            if wording == "new":
                grammar = path.read_text().replace("put {o} in/on {r}", "move {o} to {r}")
                grammar = grammar.replace("put the {o.name} in/on the", "move the {o.name} to the")
                path.write_text(grammar.replace("{lend.name}", "{r.name}"))
        spec = get("alfworld", folder)
        given[wording] = [spec.expert(i) for i in spec.task_ids("train")]
    assert given["old"] != given["new"]
    for recorded, wanted in (("old", "new"), ("new", "old")):
        path = file([published(t) for t in given[recorded]])
        assert imports.load("conversations", path, "alfworld", folders[wanted]) == (given[wanted], [])


def test_the_stock_engines_arrival_is_no_difference(file: Callable[..., Path]) -> None:
    t = experts("alfworld")[0]
    row = published(t)
    for message in row["conversations"]:
        if message["value"].startswith("Observation: On the"):
            message["value"] = message["value"].replace("On the", "You arrive at loc 12. On the", 1)
    assert imports.load("conversations", file([row]), "alfworld") == ([t], [])


# What is left out ----------------------------------------------------------------------------------------------------


def differing(t: Trajectory, how: str) -> dict[str, Any]:
    row = published(t, name=t.task_id)
    says = row["conversations"]
    match how:
        case "observation":
            says[4]["value"] = "Observation: Something else."
        case "unfinished":
            del says[-2:]
        case "goes on":
            says += [{"from": "human", "value": t.steps[-1].observation}, {"from": "gpt", "value": "Action: look"}]
        case "first":
            says[2]["value"] = "You are nowhere."
        case "reward":
            row["reward"] = 0.25
        case "roles":
            del says[4]
        case "no messages":
            del row["conversations"]
        case "no text":
            says[3]["value"] = None
    return row


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("observation", "turn 1: expected 'Something else.', got '"),
        ("unfinished", "expected 'the end of the episode', got 'it is not over'"),
        ("goes on", "expected 'the episode goes on', got 'it is over'"),
        ("first", "turn 0: expected"),
        ("reward", "expected 'reward 0.25', got 'reward 1.0'"),
        ("roles", "turn 0: expected 'agent and environment by turns'"),
        ("no messages", 'turn 0: expected "a record with \'conversations\'", got "KeyError'),
        ("no text", "a message without text"),
    ],
)
def test_a_difference_is_told_in_one_line(
    how: str, told: str, file: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = experts("alfworld", 2)
    path, out = file([published(good), differing(bad, how)]), tmp_path / "out.parquet"
    assert main(["data", "import", "conversations", str(path), "--env", "alfworld", "--out", str(out), "--json"]) == 0
    said = capsys.readouterr()
    (line,) = (tmp_path / "out.report.txt").read_text().splitlines()
    assert line.startswith("row 2 (task ")
    assert told in line
    assert line in said.err
    if how not in ("no messages", "no text"):
        assert bad.task_id in line
    assert store.load(out, Trajectory) == [good]
    assert json.loads(said.out.splitlines()[-1])["left_out"] == 1


def test_a_record_without_a_task_is_told(file: Callable[..., Path]) -> None:
    row = published(experts("sql")[0], experts("sql")[1])
    played, (difference,) = imports.load("conversations", file([row]), "alfworld")
    assert played == []
    assert str(difference).startswith("row 1 (task ?): turn 0: expected 'a message that begins a task'")


def test_a_difference_is_of_the_task_and_not_of_the_example(file: Callable[..., Path]) -> None:
    example, t = experts("alfworld", 2)
    row = published(t, example)
    row["conversations"][-2]["value"] = "Observation: Something else."
    _, (difference,) = imports.load("conversations", file([row]), "alfworld")
    assert difference.task_id == t.task_id
    assert difference.turn == len(t.steps) - 1


def test_none_left_is_an_error(file: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = file([differing(experts("alfworld")[0], "observation")]), tmp_path / "out.parquet"
    assert main(["data", "import", "conversations", str(path), "--out", str(out)]) == 2
    assert "none of 1 trajectories is given back" in capsys.readouterr().err
    assert (tmp_path / "out.report.txt").is_file()
    assert not out.exists()


@pytest.mark.parametrize("text", [None, "{", "[1, 2", '{"messages": []}\n{', "\xff"])
def test_a_file_that_cannot_be_read_is_one_line(text: str | None, tmp_path: Path) -> None:
    path = tmp_path / "given.json"
    if text is not None:
        path.write_bytes(text.encode("latin-1"))
    with pytest.raises(IprError, match=str(path)) as raised:
        imports.load("messages", path, "alfworld")
    assert "\n" not in str(raised.value)
