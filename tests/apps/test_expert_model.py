"""`ipr data experts`: a model behind a real server as the expert of the train split."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flows.cli import main
from ipr import envs, evaluate, store
from ipr.config import EnvConfig
from ipr.data import experts
from ipr.types import Trajectory
from tests.chat_server import answer, refusal, scripted


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any, str]:
    code = main(["data", "experts", "--model", "m", *arguments, "--json"])
    said = capsys.readouterr()
    return code, json.loads(said.out.splitlines()[-1]) if said.out else None, said.err


def player(env: str, spoilt: int) -> tuple[Any, list[str]]:
    """A server's reply that plays as the expert does, but for the game of this number, and what it was asked of."""
    spec = envs.get(env)
    chosen = evaluate.games(spec.task_ids("train"), "train", 6)
    known = {spec.make().reset(i): spec.expert(i) for i in chosen}
    bad, asked = spec.expert(chosen[spoilt]), list[str]()

    def reply(body: dict[str, Any], _: Any) -> Any:
        said = [m["content"] for m in body["messages"][len(spec.prompt) :]]
        if said[0] not in known:
            return answer("Action: look")  # the question whether all is well
        asked.append(said[0])
        if known[said[0]] is bad or known[said[0]].task_id == bad.task_id:
            return answer("Thought: no\nAction: look")
        return answer(known[said[0]].steps[len(said) // 2].action)

    return reply, asked


@pytest.mark.parametrize("env", ["alfworld", "webshop"])
def test_what_earned_the_reward_is_kept(env: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Some games first, then more; what was played is not asked for again; a run takes the file."""
    reply, asked = player(env, 1)
    prices = [
        "env.max_steps=10" if env == "webshop" else "env.max_steps=20",
        "endpoint.price_in=10",
        "endpoint.price_out=20",
    ]
    with scripted(reply) as url:
        more = ["--endpoint", url, "--env", env, "--out", str(tmp_path / "out")]
        code, first, _ = run(capsys, *more, "--games", "3", *prices)
        assert (code, first["episodes"], first["kept"]) == (0, 3, 2)
        before = len(asked)
        code, found, _ = run(capsys, *more, "--games", "6", *prices)
        assert (code, found["episodes"], found["kept"]) == (0, 6, 5)
        assert not {*asked[:before]} & {*asked[before:]}
        again = len(asked)
        assert run(capsys, *more, "--games", "6", *prices)[1] == found
        assert len(asked) == again
    assert found["earned"] == ("more than 0.7" if env == "webshop" else "everything")
    assert found["usage"]["dollars"] == pytest.approx(found["usage"]["requests"] * (7 * 10 + 3 * 20) / 1e6)
    kept = store.load(Path(found["file"]), Trajectory)
    assert all(t.policy == "m" and t.reward > 0.7 for t in kept)
    config = EnvConfig(name=env, experts=found["file"])
    experts.check(config)
    assert sorted(experts.environment(config).task_ids("train")) == sorted(t.task_id for t in kept)


def test_none_that_earned_it_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with scripted(lambda *_: answer("Thought: no\nAction: look")) as url:
        code, _, said = run(capsys, "--endpoint", url, "--out", str(tmp_path), "--games", "2", "env.max_steps=2")
    assert code == 2
    assert "none of 2 episodes of m earned everything; take a better model, or --shots 1" in said
    assert "5 requests (0 retries), 35 tokens in (0 of them cached), 15 out; cost: unknown price" in said
    assert not (tmp_path / "experts.parquet").exists()


def test_a_full_context_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As the reason why so few are kept; it was in `endings` alone, and nowhere where none was kept."""
    long = refusal(400, "maximum context length is 99 tokens", "context_length_exceeded")
    asked: list[int] = []  # the first asks whether all is well

    def reply(body: dict[str, Any], _: Any) -> Any:
        asked.append(len(body["messages"]))
        return long if len(asked) > 1 and asked[-1] > 3 else answer("Action: look")

    with scripted(reply) as url:
        code, _, said = run(capsys, "--endpoint", url, "--out", str(tmp_path), "--games", "2")
    assert code == 2
    assert "WARNING: 2 games ended because the context was full" in said
    assert "(100 % of all games)" in said


def test_a_server_that_refuses_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with scripted(lambda *_: refusal(401, "no")) as url:
        code, _, said = run(capsys, "--endpoint", url, "--out", str(tmp_path), "--games", "2")
    assert code == 2
    assert "set OPENAI_API_KEY" in said
