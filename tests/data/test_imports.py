"""Trajectories from other people's files: found, matched, played again; what differs is named and left out."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.cli import main
from ipr import store
from ipr.config import EnvConfig
from ipr.data import experts as experts_of
from ipr.data import exports, imports
from ipr.data.alike import alike
from ipr.envs import get
from ipr.envs.alfworld import games
from ipr.envs.react import action_of
from ipr.envs.sql import questions
from ipr.envs.sql.prompt import HELP
from ipr.envs.sql.world import as_published
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
    path = exports.write(exports.messages(given, get(env).told), tmp_path / "given.jsonl")
    assert imports.load("messages", path, env) == (given, [])


@pytest.mark.parametrize("env", ENVS)
def test_parquet_comes_back_as_it_was(env: str, tmp_path: Path) -> None:
    given = [replace(t, policy="sft", seed=7, start=2) for t in experts(env)]
    path = store.save(tmp_path / "given.parquet", given)
    assert imports.load("parquet", path, env) == (given, [])


@pytest.mark.parametrize("env", ENVS)
def test_blanks_at_the_ends_of_turns_go(env: str, tmp_path: Path) -> None:
    given = experts(env)
    ended = [replace(t, steps=tuple(Step(f"{s.action} \n", s.observation) for s in t.steps)) for t in given]
    path = store.save(tmp_path / "given.parquet", ended)
    assert imports.load("parquet", path, env, strict=True) == (given, [])
    spec = experts_of.environment(EnvConfig(name=env, experts=str(path)))  # and from a file that was imported before
    assert [spec.expert(task_id) for task_id in spec.task_ids("train")] == given


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


def test_a_split_with_one_game_hides_no_other(file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    for split in ("dev", "seen"):
        monkeypatch.setitem(games.SIZES, split, 1)
    given = experts("alfworld", 2, "unseen")
    assert imports.load("conversations", file([published(t) for t in given]), "alfworld") == (given, [])


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


def test_blocks_of_several_lines_come_in_as_the_published_wrapper_ran_them(file: Callable[..., Path]) -> None:
    spec = get("sql")
    task_id = spec.task_ids("train")[0]
    *asked, end = spec.expert(task_id).steps
    gold = asked[-1].action.rpartition("```sql\n")[2].removesuffix("\n```")
    said = [
        f"Thought: I ask in two lines.\nAction: ```sql\n{gold.replace(' FROM', chr(10) + 'FROM')}\n```",
        f"Thought: I ask in one.\nAction: ```sql\n{gold}\n```",
        "Thought: That is it.\nAction: I submit it now",
    ]
    env = spec.make()
    first = env.reset(task_id)
    outcomes = [env.step(as_published(turn)) for turn in said]
    steps = [Step(as_published(turn), o.observation) for turn, o in zip(said, outcomes, strict=True)]
    outcome = outcomes[-1]
    assert (outcome.terminated, outcome.reward, as_published(end.action)) == (True, 1.0, end.action)
    assert steps[0].observation.startswith("Error")
    assert steps[0].action.count("\n") == 3
    t = Trajectory(task_id, first, tuple(steps), 1.0, "terminated", "expert", invalid=1)
    recorded = replace(t, steps=tuple(Step(turn, step.observation) for turn, step in zip(said, steps, strict=True)))
    assert imports.load("conversations", file([published(recorded)]), "sql") == ([t], [])
    # What is given back as it stands is left as it stands.
    env.reset(task_id)
    whole = [Step(turn, env.step(turn).observation) for turn in (said[0], end.action)]
    t = Trajectory(task_id, first, tuple(whole), 1.0, "terminated", "expert")
    assert imports.load("conversations", file([published(t)]), "sql") == ([t], [])


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
        ("first", "turn 0: expected"),
        ("reward", "expected 'reward 0.25', got 'reward 1.0'"),
        ("roles", "turn 0: expected 'agent and environment by turns'"),
        ("no messages", "turn 0: expected 'conversations: a list of messages', got 'nothing'"),
        ("no text", "turn 0: expected 'message 4: a text as content', got 'nothing'"),
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
    assert bad.task_id in line
    assert store.load(out, Trajectory) == [good]
    assert json.loads(said.out.splitlines()[-1])["left_out"] == 1


def test_a_turn_after_the_end_and_other_words_for_it(
    file: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    """Of what was won; with --strict nothing of it."""
    caplog.set_level("INFO", "ipr")
    given = experts("alfworld", 3)
    rows = [published(given[0]), differing(given[1], "goes on"), differing(given[2], "goes on")]
    rows[1]["conversations"][-2]["value"] = "You won! Task completed."
    rows[2]["conversations"][-2]["value"] += "\nTask completed!"
    assert imports.load("conversations", file(rows), "alfworld") == (given, [])
    assert "of 2 trajectories the turn after the end is left out" in caplog.text
    for row in rows[1:]:
        del row["conversations"][-1]
    assert imports.load("conversations", file(rows), "alfworld") == (given, [])
    kept, differences = imports.load(
        "conversations", file([*rows, differing(given[0], "goes on")]), "alfworld", strict=True
    )
    assert kept == given[:1]
    assert "expected 'the episode goes on', got 'it is over'" in str(differences[-1])
    rows[1]["reward"] = 0.25
    assert "expected 'reward 0.25'" in str(imports.load("conversations", file(rows), "alfworld")[1][0])


def test_a_lost_episode_tells_its_end(file: Callable[..., Path]) -> None:
    """Where a shop says what was earned, the record must say the same."""
    spec = get("webshop")
    env, task_id, steps = spec.make(), spec.task_ids("train")[0], []
    first = env.reset(task_id)
    page = env.step("Thought: t\nAction: search[red]").observation
    for command in ("search[red]", f"click[{re.findall(r'B[0-9A-Z]{9}', page)[-1]}]", "click[Buy Now]"):
        action = f"Thought: t\nAction: {command}"
        outcome = env.step(action) if steps else None
        steps.append(Step(action, outcome.observation if outcome else page))
    assert outcome is not None
    assert outcome.terminated
    assert outcome.reward < 1
    row = published(Trajectory(task_id, first, tuple(steps), outcome.reward, "terminated", "expert"))
    row["conversations"].append({"from": "human", "value": "Thank you! Your score: 1.0"})
    (kept, (difference,)) = imports.load("conversations", file([row]), "webshop")
    assert kept == []
    assert difference.turn == 3


@pytest.mark.parametrize("form", ["AgentGym", "AgentInstruct"])
def test_the_forms_of_other_collections(form: str, file: Callable[..., Path]) -> None:
    given, rows = experts("alfworld", 3), []
    for t in given:
        said = turns(t)
        if form == "AgentGym":
            users = [f"{m.content}\nAVAILABLE ACTIONS: go to desk 1,look\n" for m in said[::2]]
        else:
            one_line = said[0].content.replace("\n\n", " ")
            users = [f"Here is your task. {one_line}", *(f"The observation is: {m.content}" for m in said[2::2])]
        for message, text in zip(said[::2], users, strict=True):
            said[said.index(message)] = Message("user", text)
        names = {"user": "human", "assistant": "gpt"}
        told = [{"from": "human", "value": "Interact with a household."}, {"from": "gpt", "value": "OK"}]
        rows.append({"conversations": [*told, *({"from": names[m.role], "value": m.content} for m in said)]})
    assert imports.load("conversations", file(rows), "alfworld") == (given, [])


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


# Told otherwise ------------------------------------------------------------------------------------------------------


def test_an_article_a_comma_and_blanks_are_no_reason(
    file: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The observation that is kept is ours. With --strict they are one."""
    good, t = experts("alfworld", 2)
    row = published(t)
    for message in row["conversations"][2:]:
        if message["from"] == "human":
            message["value"] = message["value"].replace(", and a ", " and ").replace("the ", "").replace(", a", " ,an")
    path = file([published(good), row])
    assert imports.load("conversations", path, "alfworld") == ([good, t], [])
    (kept, (difference,)) = imports.load("conversations", path, "alfworld", strict=True)
    assert kept == [good]
    assert difference.record == "row 2"
    out = tmp_path / "out.parquet"
    typed = ["data", "import", "conversations", str(path), "--out", str(out), "--json"]
    assert main([*typed, "--strict"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["left_out"] == 1


@pytest.mark.parametrize(
    ("recorded", "ours"),
    [
        ("[(510.333333, Decimal('329000'))]", "[(510.3333333333333, 329000)]"),
        ("[('a',), ('b',)]", "[('B',), ('a',)]"),
        ("[('8', datetime.date(2018, 3, 14))]", "[(8, '2018-03-14')]"),
        ("[(datetime.datetime(2018, 3, 1, 0, 0),)]", "[('2018-03-01 00:00:00',)]"),
        (
            "[('Id', 'int', 'NO', 'PRI', None, 'auto_increment'), ('Name', 'text', 'YES', '', None, '')]",
            "[('id', 'int', 'YES', 'PRI', None, ''), ('name', 'text', 'YES', '', None, '')]",
        ),
        ("[('Aruba',), ('Afghanistan',), ('Be...", "[('Albania',), ('Aruba',), ('B..."),
        ("Error executing query: Unknown column 'id' in 'field list'", "Error executing query: Unknown column 'id'"),
        ("""(1146, "Table 'a.b' doesn't exist")""", "Error executing query: Table 'a.b' doesn't exist"),
        ("ProgrammingError: 1146 (42S02)", "Error executing query: Table 'a.b' doesn't exist"),
    ],
)
def test_results_that_tell_the_same(recorded: str, ours: str) -> None:
    assert alike(recorded, ours)
    assert alike(ours, recorded)


@pytest.mark.parametrize(
    ("recorded", "ours"),
    [
        ("[('a',)]", "[('b',)]"),
        ("[(1,), (1,)]", "[(1,)]"),
        ("[]", "[(1,)]"),
        ("[(1, 2)]", "[(1,)]"),
        ("[('a', 1), ('b...", "[('a',), ('b..."),
        ("[(1,)]", "Error executing query: no such table"),
        ("Nothing happens.", "You pick up the mug 1 from the desk 1."),
        ("On the desk 1, you see a mug 1.", "On the desk 1, you see a mug 2."),
        (
            "[('Id', 'int', 'NO', 'PRI', None, '')]",
            "[('Key', 'int', 'NO', 'PRI', None, '')]",
        ),
    ],
)
def test_results_that_do_not(recorded: str, ours: str) -> None:
    assert not alike(recorded, ours)
    assert not alike(ours, recorded)


def test_a_refusal_in_other_words_is_one(file: Callable[..., Path]) -> None:
    """Another wrapper's help text; the turn without an action stays, with our answer."""
    spec = get("sql")
    t = spec.expert(spec.task_ids("train")[0])
    row = published(t)
    help_text = 'Observation: I don\'t understand your input.\n Your input shoud include the key world "Action:".'
    row["conversations"][3:3] = [{"from": "gpt", "value": "I wonder."}, {"from": "human", "value": help_text}]
    ((found,), differences) = imports.load("conversations", file([row]), "sql")
    assert differences == []
    assert (found.steps[0].action, found.steps[0].observation) == ("I wonder.", HELP)
    assert found.steps[1:] == t.steps
    assert found.invalid == 1


# Tasks ---------------------------------------------------------------------------------------------------------------


def test_an_id_that_is_none_is_told_and_no_obstacle(file: Callable[..., Path]) -> None:
    t = experts("alfworld")[0]
    assert imports.load("conversations", file([published(t, name="alfworld_17")]), "alfworld") == ([t], [])
    row = published(experts("sql")[0], name="sql_17")
    _, (difference,) = imports.load("conversations", file([row]), "alfworld")
    assert difference.got == "none in the record, and its id 'sql_17' is no task here"


@pytest.mark.parametrize("as_it_is", ["file", "folder"])
def test_transcripts_of_real_games_as_they_are(as_it_is: str, tmp_path: Path) -> None:
    """gt_traj.json beside its game: bare commands after the stock engine's banner; its place names the task."""
    for task_id in games.task_ids("train")[:4]:
        games.export(games.generate(task_id), tmp_path / "json_2.1.1", "train")
    spec = get("alfworld", tmp_path)
    given = [spec.expert(i) for i in sorted(spec.task_ids("train"))[:2]]  # as a folder's files are read
    files = []
    for t in given:
        said = [f"-= Welcome to TextWorld, ALFRED! =-\n\n{t.first_observation}"]
        said += [text for s in t.steps for text in (action_of(s.action) or "", s.observation)]
        who = ("human", "gpt")
        files.append(tmp_path / "json_2.1.1" / t.task_id / "gt_traj.json")
        files[-1].write_text(json.dumps([{"from": who[k % 2], "value": text} for k, text in enumerate(said)]))
    place = files[0] if as_it_is == "file" else tmp_path
    played, differences = imports.load("conversations", place, "alfworld", tmp_path)
    assert differences == []
    assert [(p.task_id, p.reward) for p in played] == [(t.task_id, 1.0) for t in given[: len(played)]]
    assert len(played) == (1 if as_it_is == "file" else 2)
    assert [s.action for s in played[0].steps] == [f"Action: {action_of(s.action)}" for s in given[0].steps]


def test_a_folder_without_transcripts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IprError, match=r"no gt_traj\.json and no \.json or \.jsonl in this folder"):
        imports.load("conversations", tmp_path, "alfworld")


def test_a_folder_of_an_evaluation_has_a_file_for_each_episode(tmp_path: Path) -> None:
    """As the published agents' evaluations are written: named by the task's number, without an id of their own."""
    given = experts("sql", 3)
    for t in given:
        row = {"meta": {"steps": len(t.steps)}} | published(t)
        del row["id"]
        (tmp_path / f"{t.task_id.rpartition('/')[2]}.json").write_text(json.dumps(row, indent=2))
    (tmp_path / "config.json").write_text('{"model_name": "agent"}')
    (tmp_path / "cut.json").write_text('{"conversations": [')
    (tmp_path / "log.txt").write_text("begun")
    (tmp_path / "rest").mkdir()
    more = experts("sql", 5)[3:]
    (tmp_path / "rest" / "more.jsonl").write_text("".join(json.dumps(published(t)) + "\n" for t in more))
    played, differences = imports.load("conversations", tmp_path, "sql")
    assert played == [*given, *more]
    assert sorted((d.record, d.expected) for d in differences) == [
        (str(tmp_path / "config.json"), "conversations: a list of messages"),
        (str(tmp_path / "cut.json"), "a JSON object"),
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[]", "expected 'a transcript: a list of messages', got 'an empty list'"),
        ('[{"from": "hum', "expected 'a JSON object', got 'Unterminated string"),
        ('[{"from": "human"}]', "expected 'message 1: a text as content', got 'nothing'"),
        (None, "expected 'a file that can be read', got 'Is a directory'"),
    ],
)
def test_a_broken_transcript_of_a_folder_is_named_and_the_others_come_in(
    text: str | None, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for task_id in games.task_ids("train")[:4]:
        games.export(games.generate(task_id), tmp_path / "json_2.1.1", "train")
    spec = get("alfworld", tmp_path)
    good, bad = (spec.expert(i) for i in spec.task_ids("train")[:2])
    who = ("human", "gpt")
    row = [{"from": who[k % 2], "value": m.content} for k, m in enumerate([*good.history(0), *good.continuation(0)])]
    (tmp_path / "json_2.1.1" / good.task_id / "gt_traj.json").write_text(json.dumps(row))
    broken = tmp_path / "json_2.1.1" / bad.task_id / "gt_traj.json"
    if text is None:
        broken.mkdir()
    else:
        broken.write_text(text)
    typed = ["data", "import", "messages", str(tmp_path), "--env", "alfworld", "--data", str(tmp_path)]
    assert main([*typed, "--out", str(tmp_path / "out.parquet")]) == 0
    assert [t.task_id for t in store.load(tmp_path / "out.parquet", Trajectory)] == [good.task_id]
    assert f"{broken} (task ?): turn 0: {told}" in capsys.readouterr().err
    (tmp_path / "json_2.1.1" / good.task_id / "gt_traj.json").unlink()
    assert main([*typed, "--out", str(tmp_path / "none.parquet")]) == 2
    assert "none of 1 trajectories is given back" in capsys.readouterr().err


def test_bare_commands_are_the_reason(file: Callable[..., Path]) -> None:
    t = experts("alfworld")[0]
    row = published(t, name=t.task_id)
    for message in row["conversations"][3::2]:
        message["value"] = action_of(message["value"])
    _, (difference,) = imports.load("conversations", file([row]), "alfworld")
    first = action_of(t.steps[0].action)
    assert (difference.turn, difference.expected) == (1, "a turn with 'Action:'")
    assert difference.got == f"without: {first}"


def test_recorded_price_limits_are_adopted(
    file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The original draws them anew at every start, so that a record's is another one; its task is GOAL@LIMIT."""
    from tests.envs import test_webshop_real as shop

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    data = shop.lay(tmp_path / "data")
    spec = get("webshop", data)
    given = [spec.expert(i) for i in spec.task_ids("train")[:3]]

    def priced(t: Trajectory, limit: str) -> dict[str, Any]:
        return json.loads(re.sub(r"price lower than [\d.]+ dollars(?= \[SEP\])", limit, json.dumps(published(t))))

    other = [priced(given[1], "price lower than 990.00 dollars"), priced(given[2], "price lower than 10.00 dollars")]
    path = file([published(given[0]), *other])
    played, differences = imports.load("conversations", path, "webshop", data)
    assert differences == []
    assert played[0] == given[0]
    ids = [t.task_id for t in played]
    assert ids[1:] == [f"{given[1].task_id}@990.00", f"{given[2].task_id}@10.00"]
    assert "price lower than 990.00 dollars" in played[1].first_observation
    assert played[1].reward >= given[1].reward > played[2].reward  # the third one's product is too dear now
    for odd in ("40.0.0", "1000000.00", "999999.999"):  # no limit of the original's: left out, with its reason
        path = file([published(given[0]), priced(given[1], f"price lower than {odd} dollars")])
        kept, (left,) = imports.load("conversations", path, "webshop", data)
        assert kept == [given[0]]
        assert (left.record, left.expected) == ("row 2", "a message that begins a task")
    # A run trains on them: they are of the train split, and play as they were.
    saved = store.save(tmp_path / "experts.parquet", played, Trajectory)
    config = EnvConfig(name="webshop", data=str(data), experts=str(saved))
    assert experts_of.environment(config).task_ids("train") == sorted(ids)
    experts_of.check(config)
    assert not set(experts_of.without_expert(config, ids)) & {i.partition("@")[0] for i in ids}
    assert imports.load("parquet", saved, "webshop", data) == (played, [])


@pytest.mark.parametrize("form", ["{}", "webshop_{}", int])
def test_of_goals_that_begin_alike_the_one_with_the_ids_number_is_taken(
    form: Any, file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """IPR's records have a goal's number as their id, and two people may have wished for a thing in the same words."""
    from tests.envs import test_webshop_real as shop

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    data = shop.lay(tmp_path / "data")
    told = json.loads((data / "items_human_ins.json").read_text())
    for entries in told.values():
        entries[1:] = [entries[0] | {"instruction_attributes": ["nothing that it has"]}]
    (data / "items_human_ins.json").write_text(json.dumps(told))
    spec = get("webshop", data)
    given = [spec.expert(i) for split in ("train", "dev", "seen") for i in spec.task_ids(split)]
    assert len({t.reward for t in given}) > 1
    rows = [published(t) | {"id": (form if form is int else form.format)(t.task_id[5:])} for t in given]
    assert imports.load("conversations", file(rows), "webshop", data) == (given, [])


def test_a_number_that_is_no_task_is_told(file: Callable[..., Path]) -> None:
    _, (difference,) = imports.load("conversations", file([published(experts("sql")[0]) | {"id": 8}]), "alfworld")
    assert difference.got == "none in the record, and its id '8' is no task here"


# Files as people have them -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
@pytest.mark.parametrize("lines", [False, True])
def test_encodings(encoding: str, lines: bool, tmp_path: Path) -> None:
    given = experts("alfworld", 2)
    rows = [json.dumps(published(t) | {"note": "\u00e9"}, ensure_ascii=False) for t in given]
    path = tmp_path / "given.json"
    path.write_bytes(("\r\n".join(rows) if lines else f"[{','.join(rows)}]").encode(encoding))
    assert imports.load("conversations", path, "alfworld") == (given, [])


def test_roles_and_parts(file: Callable[..., Path]) -> None:
    (t,) = experts("alfworld", 1)
    row: dict[str, Any] = {"messages": [{"role": "developer", "content": "Be good."}]}
    for k, m in enumerate(turns(t)):
        role = "assistant" if k % 2 else ("user", "tool", "function")[k // 2 % 3]
        half = len(m.content) // 2
        parts = [{"type": "text", "text": m.content[:half]}, {"type": "text", "text": m.content[half:]}]
        row["messages"].append({"role": role, "content": parts})
    assert imports.load("messages", file([row]), "alfworld") == ([t], [])


def said(**change: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "Hello."} | change]}


@pytest.mark.parametrize(
    ("bad", "expected", "got"),
    [
        ({"seed": 1 << 70}, "seed: a whole number that has place in 63 bits", str(1 << 70)),
        ({"seed": "many"}, "seed: a whole number", "'many'"),
        ({"start": 1 << 40}, "start: a whole number that has place in 31 bits", str(1 << 40)),
        ({"start": -1}, "start: a number from 0 to {n}, the record's turns", "-1"),
        ({"start": 500}, "start: a number from 0 to {n}, the record's turns", "500"),
        (
            {"policy": "\ud83d"},
            "policy: whole characters",
            "half a character (a lone surrogate) at place 0",
        ),
        ({"reward": [1]}, "reward: a number", "a list"),
        ({"reward": 10**400}, "reward: a number", "1" + 59 * "0"),
        ({"messages": 7}, "messages: a list of messages", "7"),
        ({"messages": None}, "messages: a list of messages", "nothing"),
        ({"messages": []}, "messages: a list of messages", "an empty list"),
        ({"messages": {"a": 1}}, "messages: a list of messages", "an object"),
        ({"messages": ["hi"]}, "message 1: an object with role and content", "'hi'"),
        (said(role="boss"), "message 1: a role of user, human, tool, function, assistant, gpt", "'boss'"),
        (said(role=None), "message 1: a role of user, human, tool, function, assistant, gpt", "nothing"),
        (said(content=5), "message 1: a text as content", "5"),
        (said(content=[{"type": "image"}]), "message 1: parts that are texts", "one of type 'image', without text"),
        (said(content=[None]), "message 1: parts that are texts", "nothing"),
        (said(content="\ud83d"), "message 1: whole characters", "half a character (a lone surrogate) at place 0"),
    ],
)
def test_one_bad_row_is_left_out_and_the_others_come_in(
    bad: dict[str, Any],
    expected: str,
    got: str,
    file: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It is told what is expected under which key, and of which task."""
    given = experts("alfworld", 3)
    rows = exports.messages(given, get("alfworld").told)
    path, out = file([rows[0], rows[1] | bad, rows[2]]), tmp_path / "out.parquet"
    assert main(["data", "import", "messages", str(path), "--out", str(out)]) == 0
    assert store.load(out, Trajectory) == [given[0], given[2]]
    (line,) = (tmp_path / "out.report.txt").read_text().splitlines()
    assert line.startswith(f"row 2 (task {given[1].task_id}): turn 0: expected ")
    assert expected.format(n=len(given[1].steps)) in line
    assert got in line
    assert line in capsys.readouterr().err


def test_roles_in_capitals(file: Callable[..., Path]) -> None:
    given = experts("alfworld", 1)
    (row,) = exports.messages(given, get("alfworld").told)
    row["messages"] = [m | {"role": m["role"].upper()} for m in row["messages"]]
    assert imports.load("messages", file([row]), "alfworld") == (given, [])


def test_a_reward_that_is_no_number_is_a_difference(file: Callable[..., Path]) -> None:
    rows = exports.messages(experts("alfworld", 1), get("alfworld").told)
    _, (difference,) = imports.load("messages", file([rows[0] | {"reward": float("nan")}]), "alfworld")
    assert difference.expected == "reward nan"


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (b'{"task_id": "x", "mess', "expected 'a JSON object', got 'Unterminated string starting at character 18'"),
        (b"[" * 100_000 + b"]" * 100_000, "expected 'a JSON object', got 'it is nested too deep'"),
        (
            b'{"messages": [{"role": "user", "content": "caf\xe9"}]}',
            "got \"the byte 0xe9, no UTF-8, at place 3 of 'caf",
        ),
        (b'{"messages": [{"role": "user", "content": "a"}], "seed": ' + b"9" * 5000 + b"}", "'seed: a whole number'"),
        (b"5", "expected 'a JSON object', got '5'"),
        (b"null", "expected 'a JSON object', got 'nothing'"),
    ],
)
def test_one_bad_line_is_named_and_the_others_come_in(bad: bytes, told: str, tmp_path: Path) -> None:
    given = experts("alfworld", 2)
    rows = [json.dumps(row).encode() for row in exports.messages(given, get("alfworld").told)]
    path = tmp_path / "given.jsonl"
    path.write_bytes(b"\n".join([rows[0], b"", bad, rows[1]]))
    played, (difference,) = imports.load("messages", path, "alfworld")
    assert played == given
    assert str(difference).startswith("line 3 (task ?): turn 0: ")
    assert told in str(difference)


def test_a_long_number_in_a_list_is_of_its_row_alone(tmp_path: Path) -> None:
    given = experts("alfworld", 2)
    first, second = (json.dumps(row) for row in exports.messages(given, get("alfworld").told))
    path = tmp_path / "given.json"
    path.write_text(f'[{first}, {second[:-1]}, "seed": {"9" * 5000}}}]')
    played, (difference,) = imports.load("messages", path, "alfworld")
    assert played == given[:1]
    assert difference.expected == "seed: a whole number"


@pytest.mark.parametrize(
    ("empty", "expected"),
    [
        ({"steps": None}, "messages: a list of messages"),
        ({"steps": [{"action": None, "observation": "You see nothing."}]}, "message 2: a text as content"),
        ({"steps": [None]}, "message 2: a text as content"),
        ({"first_observation": None}, "message 1: a text as content"),
        ({"start": -3}, "start: a number from 0 to"),
    ],
)
def test_a_row_of_parquet_with_an_empty_cell(empty: dict[str, Any], expected: str, tmp_path: Path) -> None:
    given = experts("alfworld", 2)
    path = store.save(tmp_path / "given.parquet", given)
    rows = pq.read_table(path).to_pylist()
    pq.write_table(pa.Table.from_pylist([rows[0], rows[1] | empty], schema=store.SCHEMAS[Trajectory]), path)
    played, (difference,) = imports.load("parquet", path, "alfworld")
    assert played == given[:1]
    assert str(difference).startswith(f"row 2 (task {given[1].task_id}): turn 0: expected ")
    assert expected in str(difference)
    if "start" not in empty:  # a run, which takes the file as it is, says so before it begins
        with pytest.raises(IprError, match=rf"row 2 has no {next(iter(empty))}"):
            store.load(path, Trajectory)


def test_a_record_of_another_environment_is_told_in_its_own_words(file: Callable[..., Path]) -> None:
    """Not without the blanks, as it was compared. Ids of two environments may be the same."""
    t = experts("sql")[0]
    row = published(t, name=get("alfworld").task_ids("train")[0])
    row["conversations"] = row["conversations"][2:]
    _, (difference,) = imports.load("conversations", file([row]), "alfworld")
    assert (difference.expected, difference.got) == (
        row["conversations"][0]["value"],
        experts("alfworld")[0].first_observation,
    )


def test_half_a_character_in_the_bytes(tmp_path: Path) -> None:
    """As some programs write it: the half itself in UTF-8, which is none."""
    given = experts("alfworld", 2)
    rows = [json.dumps(row) for row in exports.messages(given, get("alfworld").told)]
    path = tmp_path / "given.jsonl"
    path.write_bytes(
        f"{rows[0]}\n".encode() + rows[1].replace("Thought", "\ud83dThought", 1).encode("utf-8", "surrogatepass")
    )
    played, (difference,) = imports.load("messages", path, "alfworld")
    assert played == given[:1]
    assert difference.record == "line 2"


def test_none_left_is_an_error(file: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = file([differing(experts("alfworld")[0], "observation")]), tmp_path / "out.parquet"
    assert main(["data", "import", "conversations", str(path), "--out", str(out)]) == 2
    assert "none of 1 trajectories is given back" in capsys.readouterr().err
    assert (tmp_path / "out.report.txt").is_file()
    assert not out.exists()


@pytest.mark.parametrize("text", [None, "{", "[1, 2", "hello\n5", "\xff"])
def test_a_file_that_cannot_be_read_is_one_line(text: str | None, tmp_path: Path) -> None:
    path = tmp_path / "given.json"
    if text is not None:
        path.write_bytes(text.encode("latin-1"))
    with pytest.raises(IprError, match=str(path)) as raised:
        imports.load("messages", path, "alfworld")
    assert "\n" not in str(raised.value)


def test_a_packed_file_is_to_be_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "given.jsonl.gz"
    path.write_bytes(gzip.compress(b"{}"))
    with pytest.raises(IprError, match=r"is packed; unpack it and give what is in it: gunzip .*given\.jsonl\.gz"):
        imports.load("messages", path, "alfworld")


@pytest.mark.parametrize("text", ["", "\n \n", "[]"])
def test_a_file_of_nothing(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "given.json"
    path.write_text(text)
    assert main(["data", "import", "messages", str(path), "--out", str(tmp_path / "out.parquet")]) == 2
    assert f"{path} holds no trajectory" in capsys.readouterr().err


def test_where_nothing_can_be_written_nothing_is_played(
    file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = file([])
    monkeypatch.setattr(imports, "load", lambda *_: pytest.fail("it is played"))
    for out, told in (
        (path / "out.parquet", "is a file; choose another folder"),
        (tmp_path, "is a folder; give a file"),
    ):
        assert main(["data", "import", "messages", str(path), "--out", str(out)]) == 2
        assert told in capsys.readouterr().err
