"""The console: contract, reading of turns, limits, snapshots, reward on submit; the published wrapper's reading."""

from __future__ import annotations

import json
import pickle
import re
import sqlite3
import time
from pathlib import Path

import pytest

from ipr import envs
from ipr.envs import checker, sql
from ipr.envs.react import action_of
from ipr.envs.sql import questions
from ipr.envs.sql.prompt import HELP
from ipr.envs.sql.real import Folder
from ipr.envs.sql.world import SUBMIT, Console, read
from ipr.policies.scripted import ScriptedPolicy
from ipr.rollout import play
from ipr.types import EnvSpec, IprError, Job, Outcome, Prefix, Sampling

SHARED = Path(__file__).parents[2] / "../shared"
CONDUCTORS = (
    *("Antal Doráti", "Igor Stravinsky", "Colin Davis", "Paul Jorgensen", "Antal Brown", "Charles Dutoit"),
    *("Gerard Schwarz", "Pierre Boulez", "Valeri Gergiev", "Robert Craft", "Seiji Ozawa", "Michael Tilson Thomas"),
)


@pytest.fixture(scope="module")
def spec() -> EnvSpec:
    return envs.get("sql")


def orchestra(folder: Path, gold: str = "SELECT Name FROM conductor") -> Path:
    """A folder in Spider's layout with one small database."""
    file = folder / "database/orchestra/orchestra.sqlite"
    file.parent.mkdir(parents=True)
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE conductor (Conductor_ID INTEGER PRIMARY KEY, Name TEXT)")
        connection.executemany("INSERT INTO conductor VALUES (?, ?)", enumerate(CONDUCTORS, 1))
    connection.close()
    item = {"db": "orchestra", "gold": gold, "query": "Who conducts?", "hardness": "easy"}
    (folder / "ic_spider_dev.json").write_text(json.dumps([item]))
    return folder


def read_as_published(turn: str) -> str | None:
    """What the published wrapper runs of a turn: the first line of a block only, "submit" anywhere in the action."""
    action = action_of(turn)
    if action is None:
        return None
    if SUBMIT in action.lower():
        return SUBMIT
    block = re.search(r"```[ \t]*(?:(?:my)?sql(?:ite)?\b)?(.*?)(?:```|$)", action, re.DOTALL | re.IGNORECASE)
    lines = block[1].strip().splitlines() if block else []
    return lines[0] if lines else None


def turn(statement: str) -> str:
    return f"Thought: x\nAction: ```sql\n{statement}\n```"


def test_spec(spec: EnvSpec) -> None:
    assert (spec.name, spec.max_steps, envs.get("sql", max_steps=4).max_steps) == ("sql", 10, 4)
    instruction, ok = spec.prompt
    assert (instruction.role, ok.role, ok.content) == ("user", "assistant", "OK")
    assert len(instruction.content.split()) <= 90
    for word in ("SHOW TABLES", "DESC", "submit", "```sql", "Thought:", "Action:"):
        assert word in instruction.content
    with pytest.raises(IprError, match="split 'test'"):
        spec.task_ids("test")


def test_the_contract_holds_for_generated_questions(spec: EnvSpec) -> None:
    ids = [i for s in ("train", "dev", "seen", "unseen") for i in spec.task_ids(s)[:12]]
    report = checker.check(spec, ids)
    assert report["problems"] == []
    assert report["expert_wins"] == report["games"] == 48
    assert report["steps_per_s"] > 3000


def test_the_contract_holds_for_real_questions(spider: Path) -> None:
    spec = sql.spec(spider)
    report = checker.check(spec, spec.task_ids("unseen")[::20])
    assert report["problems"] == []
    assert report["expert_wins"] == report["games"] > 5


@pytest.mark.parametrize(
    ("text", "statement"),
    [
        ("Action: ```sql\nSELECT 1\n```", "SELECT 1"),
        ("Thought: x\nAction:\n```sql\nSELECT\n  1\n```\nand so on", "SELECT\n  1"),
        ("Action: ```SELECT 1```", "SELECT 1"),
        ("Action: ```mysql\nSELECT 1```", "SELECT 1"),
        ("Action: ```sql\nSELECT 1", "SELECT 1"),
        ("Action: SELECT 1", "SELECT 1"),
        ("Action: desc city;", "desc city;"),
        ("Action: (SELECT 1)", "(SELECT 1)"),
        ("Action: I run ```sql\nSELECT 1\n```", "SELECT 1"),
        ("Action: SELECT 'submit'", "SELECT 'submit'"),
        ("Action: submit", SUBMIT),
        ("Action: Submit.", SUBMIT),
        ("Action: `submit`", SUBMIT),
        ("Action: ```sql\nsubmit\n```", SUBMIT),
        ("Action: submit\nObservation: 1.0", SUBMIT),
        ("Thought: I submit it.\nAction: ```sql\nSELECT 1\n```", "SELECT 1"),
        ("Action: I submit the answer", None),
        ("Action: ```sql\n\n```", None),
        ("Action: look", None),
        ("Action: selected", None),
        ("SELECT 1", None),
        ("```sql\nSELECT 1\n```", None),
        ("Action:", None),
    ],
)
def test_what_a_turn_says(text: str, statement: str | None) -> None:
    assert read(text) == statement


@pytest.mark.parametrize(
    ("text", "statement"),
    [
        ("Action: ```sql\nSELECT count(*)\nFROM t\n```", "SELECT count(*)"),
        ("Action: ```sql SELECT 1; ```", "SELECT 1;"),
        ("Action: SELECT 1", None),
        ("Action: I will submit now", SUBMIT),
        ("Action: ```sql\nSELECT 'submit'\n```", SUBMIT),
        ("Thought: I will submit\nAction: ```sql\nSELECT 1\n```", "SELECT 1"),
        ("SELECT 1", None),
    ],
)
def test_what_a_turn_says_to_the_published_wrapper(text: str, statement: str | None) -> None:
    assert read_as_published(text) == statement


def test_reward_comes_with_submit_from_the_last_result(tmp_path: Path) -> None:
    env = Console(Folder(orchestra(tmp_path)))
    (task_id,) = [i for s in ("train", "dev", "seen", "unseen") for i in Folder(tmp_path).task_ids(s)]
    assert env.reset(task_id) == "Question: Who conducts?"
    assert env.value() == 0.0
    none = env.step(turn("SELECT COUNT(*) FROM conductor"))
    assert none == Outcome("[(12,)]", 0.0, False, valid=True)
    assert env.value() == 0.0
    env.step(turn("SELECT Name FROM conductor LIMIT 6"))
    assert env.value() == 0.5
    assert env.result() is not None
    long = env.step(turn("SELECT Name, Name FROM conductor"))  # cut where it is shown, never where it counts
    assert long.observation.endswith("...")
    assert len(long.observation) == 353
    env.step(turn("SELECT Name FROM conductor"))
    assert env.step("Action: what now?") == Outcome(HELP, 0.0, False, valid=False)  # leaves the result as it was
    end = env.step("Action: submit")
    assert (end.reward, end.terminated, end.valid) == (1.0, True, True)
    assert env.step(turn("SELECT 1")) == Outcome(end.observation, 1.0, True, valid=False)


def test_an_error_is_a_last_result_too(tmp_path: Path) -> None:
    env = Console(Folder(orchestra(tmp_path, "SELECT Name FROM conductor WHERE 1 = 0")))
    env.reset("ic_spider_dev/00000")
    failed = env.step(turn("SELECT nope FROM conductor"))
    assert not failed.valid
    assert env.step("Action: submit").reward == 0.0
    env.reset("ic_spider_dev/00000")
    env.step(turn("SELECT Name FROM conductor WHERE Name = ''"))
    assert env.step("Action: submit").reward == 1.0
    env.reset("ic_spider_dev/00000")
    assert env.step("Action: submit") == Outcome("None", 0.0, True, valid=True)


def test_step_limit(spec: EnvSpec) -> None:
    short, policy = envs.get("sql", max_steps=2), ScriptedPolicy(lambda *_: turn("SHOW TABLES"))
    (played,) = play(short, policy, [Job(Prefix("train/000000"))], Sampling())
    assert (played.ending, len(played.steps), played.invalid) == ("truncated", 2, 0)
    env = short.make()
    env.reset("train/000000")
    env.step(turn("SHOW TABLES"))
    assert env.step("Action: submit").terminated
    with pytest.raises(IprError, match="reset"):
        spec.make().step("Action: submit")


def test_snapshots_are_small_and_quick(spec: EnvSpec) -> None:
    env, other = spec.make(), spec.make()
    gold = questions.question("train/000003").gold
    env.reset("train/000003")
    env.step(turn(gold))
    state = pickle.loads(pickle.dumps(env.snapshot()))
    assert env.step("Action: submit").reward == 1.0
    for one in (other, env):
        one.restore(state)
        assert one.step("Action: submit").reward == 1.0
    start = time.perf_counter()
    for _ in range(1000):
        env.restore(env.snapshot())
    assert (time.perf_counter() - start) / 1000 < 50e-6


def test_the_oracle_is_what_submitting_brings(spec: EnvSpec) -> None:
    assert spec.oracle is not None
    env = spec.make()
    for task_id in spec.task_ids("dev")[:12]:
        env.reset(task_id)
        for step in spec.expert(task_id).steps[:-1]:
            value, before = spec.oracle(env), env.snapshot()
            assert env.step("Action: submit").reward == value
            env.restore(before)
            env.step(step.action)
        assert spec.oracle(env) == 1.0


def test_a_failing_gold_query_is_named(tmp_path: Path) -> None:
    env = Console(Folder(orchestra(tmp_path, "SELECT nope FROM conductor")))
    for _ in range(2):
        with pytest.raises(IprError, match=r"ic_spider_dev\.json.*ic_spider_dev/00000.*nope"):
            env.reset("ic_spider_dev/00000")
    with pytest.raises(IprError, match="reset"):
        env.step(turn("SELECT 1"))


# The published wrapper -----------------------------------------------------------------------------------------------


def as_mysql_8(text: str) -> str:
    """What MariaDB said, as MySQL 8 says it."""
    return text.replace("in 'SELECT'", "in 'field list'").replace("your MariaDB server", "your MySQL server")


def test_recorded_episodes(tmp_path: Path, spider: Path) -> None:
    """Equal in every letter but for the help text (our own words), and MySQL 8's words in place of MariaDB's."""
    file = SHARED / "fixtures/intercode_sql_observation_cases.json"
    if not file.is_file():
        pytest.skip("no observation cases in ../shared")
    folder = orchestra(tmp_path)
    (folder / "database/world_1").symlink_to(spider / "database/world_1")
    episodes = json.loads(file.read_text())["episodes"]
    items = [{"db": e["db"], "gold": e["gold"], "query": "?", "hardness": "easy"} for e in episodes]
    (folder / "ic_spider_dev.json").write_text(json.dumps(items))
    env = Console(Folder(folder))
    compared = 0
    for k, episode in enumerate(episodes):
        env.reset(f"ic_spider_dev/{k:05d}")
        for recorded in episode["trace"]:
            statement = read_as_published(recorded["llm"])
            said = "Action: submit" if statement == SUBMIT else turn(statement) if statement else "nothing"
            outcome = env.step(said)
            expected = as_mysql_8(recorded["observation"].removeprefix("Observation: "))
            if "I don't understand" in expected:
                # Said to a statement that gives nothing, too; ours calls that an error.
                error = outcome.observation.startswith("Error executing query: ")
                assert outcome == Outcome(outcome.observation if error else HELP, 0.0, False, valid=False)
            elif "int(11)" in expected:  # cut elsewhere, being longer
                mended = expected.replace("int(11)", "int").removesuffix("...")
                assert outcome.observation.startswith(mended)
            else:
                assert outcome.observation == expected
            assert outcome.terminated == recorded["finished"]
            if recorded["reward"] is not None:
                assert outcome.reward == recorded["reward"]
            compared += 1
    assert compared == sum(len(e["trace"]) for e in episodes) > 20


def test_whole_blocks_and_bare_statements_run(tmp_path: Path) -> None:
    env = Console(Folder(orchestra(tmp_path)))
    env.reset("ic_spider_dev/00000")
    assert env.step(turn("SELECT\n1")).observation == "[(1,)]"
    assert env.step(turn("-- remark\nSELECT count(*)\nFROM conductor")).observation == "[(12,)]"
    assert env.step("Action: SELECT 1").observation == "[(1,)]"
    assert env.step("Thought: x\nAction: SELECT 'submit'").observation == "[('submit',)]"
    assert env.step(turn("SELECT 1; SELECT 2")).valid is False
    assert env.step(turn("SELECT 1")).valid is True  # one bad statement spoils no other
    refused = env.step(turn("SET @x=1"))
    assert (refused.valid, env.value()) == (False, 0.0)
    assert re.match("Error executing query: SET command denied", refused.observation)
