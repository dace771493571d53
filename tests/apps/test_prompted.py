"""Evaluations outside a run: kept, continued, refused; and the command, against a real server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flows.cli import main
from ipr import config, envs, store
from ipr.apps import prompted
from ipr.apps.chosen_model import check_room
from ipr.evaluate import games
from ipr.policies.scripted import ScriptedPolicy
from ipr.types import IprError, Sampling, Trajectory
from tests import toy
from tests.chat_server import answer, refusal, scripted
from tests.envs.test_sql_world import orchestra

GREEDY = Sampling(0.0, 12)
SETTINGS = {"model": "m", "env": "toy"}
KEY = "sk-very-secret"


def expert(conversation: Any, _seed: int) -> str:
    """Plays like the expert, except in every third room, which it leaves at once."""
    task_id = conversation[2].content.split("room ")[2].split(".")[0]
    steps = toy.expert(task_id).steps
    return "Action: stop" if int(task_id.split("-")[1]) % 3 == 0 else steps[len(conversation) // 2 - 1].action


def evaluate(folder: Path, count: int, script: Any = expert, slots: int = 3) -> tuple[dict[str, Any], ScriptedPolicy]:
    policy = ScriptedPolicy(script)
    out = prompted.Folder(folder, SETTINGS)
    figures = prompted.play(toy.spec(), policy, GREEDY, split="dev", games=count, slots=slots, out=out, resamples=100)
    return figures, policy


def test_a_killed_evaluation_plays_only_the_rest(tmp_path: Path) -> None:
    asked = 0

    def dies(conversation: Any, seed: int) -> str:
        nonlocal asked
        asked += 1
        if asked > 25:
            raise KeyboardInterrupt
        return expert(conversation, seed)

    with pytest.raises(KeyboardInterrupt):
        evaluate(tmp_path / "a", 12, dies)
    kept = prompted.Folder(tmp_path / "a", SETTINGS).played("dev")
    assert 0 < len(kept) < 12
    figures, policy = evaluate(tmp_path / "a", 12)
    assert len({t.session for b in policy.batches for t in b}) == 12 - len(kept)
    whole, _ = evaluate(tmp_path / "b", 12)
    assert figures == whole
    assert figures["success"] == pytest.approx(2 / 3)
    files = [tmp_path / name / "eval" / "dev.parquet" for name in ("a", "b")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert [t.task_id for t in store.load(files[0], Trajectory)] == games(toy.task_ids("dev"), "dev", 12)


def test_more_games_play_only_the_new_ones_and_none_asks_nothing(tmp_path: Path) -> None:
    evaluate(tmp_path, 12)
    assert evaluate(tmp_path, 12)[1].batches == []
    assert evaluate(tmp_path, 5)[0]["games"] == 5
    assert evaluate(tmp_path, 12)[1].batches == [], "what was played once is never lost"


def test_another_model_is_refused(tmp_path: Path) -> None:
    evaluate(tmp_path, 2)
    with pytest.raises(IprError, match="model: 'm' -> 'n'"):
        prompted.Folder(tmp_path, SETTINGS | {"model": "n"})
    (tmp_path / "file").touch()
    with pytest.raises(IprError, match="is a file"):
        prompted.Folder(tmp_path / "file", SETTINGS)


def test_a_folder_is_played_into_by_one_command_at_a_time(tmp_path: Path) -> None:
    first, late = prompted.Folder(tmp_path, SETTINGS), prompted.Folder(tmp_path, SETTINGS)
    first.note_spent("dev", {})
    for second in (lambda: prompted.Folder(tmp_path, SETTINGS), lambda: late.note_spent("dev", {})):
        with pytest.raises(IprError, match=r"another command is playing into .*use another --out"):
            second()
    del first
    prompted.Folder(tmp_path, SETTINGS).note_spent("dev", {})


@pytest.mark.parametrize("name", envs.names())
def test_the_example_is_a_solved_pretrain_episode_in_turns(name: str) -> None:
    plain, spec = envs.get(name), envs.get(name, max_steps=2, shots=1)
    assert spec.prompt[: len(plain.prompt)] == plain.prompt
    assert [m.role for m in spec.prompt] == ["user", "assistant"] * (len(spec.prompt) // 2)
    turns = [m.content for m in spec.prompt if m.role == "assistant" and m.content != "OK"]
    played = map(plain.expert, plain.task_ids("pretrain")[:20])
    source = next(t for t in played if [s.action for s in t.steps] == turns)
    assert source.reward == 1
    for split in ("train", "dev", "seen", "unseen"):
        assert source.task_id not in plain.task_ids(split)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["eval", "--model", "m", "--split", "dev", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize("env", envs.names())
def test_the_command_with_a_hosted_model(
    env: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    heard: list[Any] = []
    ends = {"alfworld": "look", "sql": "submit", "webshop": "click[Buy Now]"}

    def reply(body: dict[str, Any], headers: dict[str, str]) -> Any:
        heard.append((body["messages"], headers["authorization"]))
        return answer(f"Thought: so\nAction: {ends[env]}")

    out = tmp_path / "out"
    with scripted(reply) as url:
        more = ["--endpoint", url, "--env", env, "--games", "3", "--shots", "1", "--out", str(out)]
        prices = ["env.max_steps=2", "endpoint.price_in=10", "endpoint.price_out=20"]
        code, printed, _ = run(capsys, *more, *prices)
        assert code == 0
        asked = len(heard) - 1  # the first request asks whether all is well
        assert f"{asked + 1} requests (0 retries), {7 * (asked + 1)} tokens in" in printed
        assert f"${(asked + 1) * (7 * 10 + 3 * 20) / 1e6:.4f}" in printed
        assert "Here is an example" in heard[1][0][2]["content"]
        assert run(capsys, *more, *prices)[1] == printed
        lenient = json.loads(run(capsys, *more, *prices, "algorithm.success=0", "--json")[1])
        assert lenient["success"] == 1, "every reward is a success where 0 is one"
        assert len(heard) == asked + 1, "nothing is asked twice"
    assert {key for _, key in heard} == {f"Bearer {KEY}"}
    files = [file for file in out.rglob("*") if file.is_file()]
    assert len(store.load(out / "eval" / "dev.parquet", Trajectory)) == 3
    assert len(files) >= 5
    assert not any(KEY.encode() in file.read_bytes() for file in files)
    assert main(["compare", str(out), str(out), "--split", "dev"]) == 0


def test_an_outage_keeps_what_was_played_and_its_cost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    down, asked = True, 0

    def reply(*_: Any) -> Any:
        nonlocal asked
        asked += 1
        return refusal(503, f"down, {KEY}") if down and asked > 5 else answer("Action: submit")

    more = ["--env", "sql", "--games", "6", "--out", str(tmp_path), "endpoint.retries=0", "endpoint.concurrency=2"]
    with scripted(reply) as url:
        code, printed, said = run(capsys, "--endpoint", url, *more)
        assert (code, printed) == (2, "")
        assert "503 down" in said
        assert KEY not in said
        assert json.loads((tmp_path / "played" / "dev" / "usage.json").read_text())["requests"] == 5
        down = False
        code, printed, _ = run(capsys, "--endpoint", url, *more)
    assert code == 0
    assert "8 requests" in printed  # six games, and twice the question whether all is well
    assert "unknown price" in printed


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--endpoint", "http://127.0.0.1:9/v1", "--out", "OUT"], "cannot reach"),
        (["--endpoint", "http://127.0.0.1:9/v1"], "--out FOLDER"),
        (["--endpoint", "127.0.0.1", "--out", "OUT"], "is no URL"),
        (["--endpoint", "http://127.0.0.1:9/v1", "--out", "OUT", "--env", "chess"], "unknown environment"),
        (["--endpoint", "http://127.0.0.1:9/v1", "--out", "OUT", "endpoint.price=1"], "did you mean 'endpoint.price_"),
    ],
)
def test_bad_input_is_one_line_and_leaves_no_folder(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, error = run(capsys, *(str(tmp_path / "out") if a == "OUT" else a for a in arguments))
    assert code == 2
    assert said in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_prompt_that_does_not_fit_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The first request is the expert's usual episode up to its last turn: nothing is played where that is too long."""
    reply, heard = refusal(400, "x", "context_length_exceeded"), []
    with scripted(lambda body, _: heard.append(body["messages"]) or reply) as url:
        code, _, said = run(capsys, "--endpoint", url, "--env", "sql", "--games", "2", "--out", str(tmp_path))
    assert code == 2
    assert "a usual episode is longer than the context of m (400 x); use --shots 0" in said
    (asked,) = heard
    assert [m["role"] for m in asked] == ["user", "assistant"] * (len(asked) // 2) + ["user"]
    assert len(asked) > 5


def test_a_local_model_is_refused_where_most_episodes_do_not_fit(capsys: pytest.CaptureFixture[str]) -> None:
    spec, path = envs.get("webshop", shots=1), config.embedded(config.EMBEDDED, "webshop")

    def room(shots: int, length: int) -> None:
        settings = config.load(None, ["env.name=webshop", f"env.shots={shots}", f"model.max_length={length}"])
        check_room(spec if shots else envs.get("webshop"), "dev", path, settings)

    room(0, 4096)
    assert capsys.readouterr().err == ""
    room(1, 4096)
    note = capsys.readouterr().err
    assert note.startswith("note: ")
    assert note.endswith("use a model with a longer context, or leave the example out (env.shots=0)\n")
    with pytest.raises(IprError, match=r"longer than the context of 2048 tokens .*; raise model.max_length, or leave"):
        room(1, 2048)


def test_an_expert_that_says_more_than_the_agent_may_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """Gemma, whose tokens are shorter than those of the model that a preset is for, lost its plans so."""
    path = config.embedded(config.EMBEDDED, "alfworld")
    for limit in (59, 60):  # the longest turn of the experts looked at has 60, its end included
        check_room(envs.get("alfworld"), "train", path, config.load(None, [f"rollout.max_new_tokens={limit}"]))
    note = capsys.readouterr().err
    assert note.startswith("note: 1 of 20 expert episodes have a turn of more than rollout.max_new_tokens=59 tokens;")
    assert note.endswith(": set it to 60 or more\n")
    assert note.count("note") == 1


def test_games_that_outgrow_the_context_are_told(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    reply = refusal(400, "x", "context_length_exceeded")
    with scripted(lambda body, _: reply if len(body["messages"]) == 3 else answer("OK")) as url:
        code, _, said = run(capsys, "--endpoint", url, "--env", "sql", "--games", "2", "--out", str(tmp_path))
    assert (code, "is longer than the context of m; use --shots 0" in said) == (2, True)
    with scripted(lambda body, _: reply if len(body["messages"]) == 5 else answer("OK")) as url:
        out = str(tmp_path / "other")
        code, printed, _ = run(capsys, "--endpoint", url, "--env", "sql", "--games", "2", "--out", out)
    assert code == 0
    assert "2 games ended because the context was full: use --shots 0" in printed
    assert "(100 % of all games)" in printed


def test_a_split_without_games_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It was said to be longer than the model's context."""
    orchestra(tmp_path)
    code = main(["eval", "--model", "embedded", "--env", "sql", "--data", str(tmp_path), "--split", "unseen"])
    assert code == 2
    said = capsys.readouterr().err
    assert f"split 'unseen' of env.data={tmp_path} has no games (train " in said
    assert said.rstrip().endswith("; give more data")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--dir", "runs/x", "--games", "5"], "--games: not with --dir, as a run's own config says"),
        (["--dir", "runs/x", "--shots", "0", "a=b"], "--shots, KEY=VALUE: not with --dir"),
        (["--dir", "runs/x", "--model", "embedded"], "--model: not with --dir"),
        (["--model", "embedded", "env.name=sql"], "env.name=sql: say it by the option of its own (--env"),
    ],
)
def test_options_that_would_be_ignored_are_refused(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_a_file_in_the_way_is_told_without_a_flag_that_is_not_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    out = ["--endpoint", "http://127.0.0.1:1/v1", "--env", "sql", "--out", str(tmp_path / "file" / "out")]
    code, _, said = run(capsys, *out)
    assert code == 2
    assert "is a file; choose another folder" in said


@pytest.mark.parametrize(
    ("command", "override"),
    [
        ("eval --model embedded", "rollout.workers=2"),
        ("eval --model embedded", "endpoint.concurrency=2"),
        ("eval --model m --endpoint http://127.0.0.1:1/v1 --out {}", "rollout.slots=2"),
        ("eval --model m --endpoint http://127.0.0.1:1/v1 --out {}", "model.max_length=900"),
        ("serve embedded", "rollout.backend=vllm"),
        ("serve embedded", "rollout.max_new_tokens=9"),
    ],
)
def test_keys_that_a_command_would_ignore_are_refused(
    command: str, override: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command.format(tmp_path / "out").split(), override]) == 2
    assert f"{override} changes nothing " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
