"""Who may ask `ipr serve`, and how much: over real HTTP, on loopback."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from ipr import models
from ipr.apps import guard
from ipr.apps.guard import Limits
from ipr.apps.serve_command import adapter
from ipr.config import LoraConfig, ModelConfig, RunConfig
from ipr.policies.chat import ChatPolicy
from ipr.types import IprError
from tests import toy
from tests.chat_server import serving

ASK = {"model": "tiny", "messages": [{"role": "user", "content": "You are in a room."}], "max_tokens": 4}
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def url(policy: ChatPolicy) -> Iterator[str]:
    may = Limits(key="sesame", hosts=("agent.example",), body=2000, tokens=100, requests=1, seconds=0.5)
    with serving(policy, "tiny", None, None, may) as found:
        yield found


def ask(url: str, path: str = CHAT, **more: Any) -> httpx.Response:
    headers = {"Authorization": "Bearer sesame"} | more.pop("headers", {})
    return httpx.request("GET" if path.endswith("models") else "POST", url + path, headers=headers, timeout=60, **more)


def refused(answer: httpx.Response) -> int:
    said = answer.json()["error"]
    assert set(said) == {"message", "type", "param", "code"}, "as OpenAI's and vLLM's"
    assert said["message"]
    assert said["type"]
    assert said["code"] == answer.status_code, "as vLLM's"
    return answer.status_code


def test_the_key_is_needed_everywhere(url: str) -> None:
    for path in (CHAT, "/v1/models", "/nowhere"):
        for wrong in ("", "Bearer", "Bearer other", "Basic sesame", "Bearer sesamee", "Bearer sésame"):
            answer = ask(url, path, headers={"Authorization": wrong.encode("latin-1")})
            assert refused(answer) == 401
    assert ask(url, json=ASK).status_code == 200
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{url}/v1", api_key="none").models.list()


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "evil.example:8000", "[", "localhost@evil"])
def test_a_name_that_is_not_ours_is_refused(url: str, host: str) -> None:
    assert refused(ask(url, "/v1/models", headers={"Host": host})) == 403
    assert refused(ask(url, json=ASK, headers={"Origin": f"http://{host}"})) == 403


@pytest.mark.parametrize("host", ["localhost", "localhost:8000", "127.0.0.1:1", "[::1]:8000", "AGENT.example:80"])
def test_a_name_that_is_ours_is_answered(url: str, host: str) -> None:
    assert ask(url, "/v1/models", headers={"Host": host, "Origin": f"http://{host}"}).status_code == 200


def test_a_page_without_an_origin_of_its_own_is_refused(url: str) -> None:
    assert refused(ask(url, json=ASK, headers={"Origin": "null"})) == 403


def test_large_requests_are_refused_with_and_without_their_length(url: str) -> None:
    talk = [{"role": "user", "content": "x" * 3000}]
    assert refused(ask(url, json=ASK | {"messages": talk})) == 413
    pieces = (b"x" * 500 for _ in range(10))
    assert refused(ask(url, content=pieces)) == 413


def test_many_tokens_are_refused(url: str) -> None:
    assert refused(ask(url, json=ASK | {"n": 26})) == 400
    assert refused(ask(url, json=ASK | {"max_tokens": None})) == 400, "up to the context's end: 200"
    prompts = {"model": "tiny", "prompt": [[5]] * 11, "max_tokens": 10}
    assert refused(ask(url, "/v1/completions", json=prompts)) == 400
    assert ask(url, json=ASK | {"n": 25}).status_code == 200


def test_requests_beyond_the_limit_are_told_to_come_again(
    url: str, policy: ChatPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    engine: Any = policy.engine
    stream = engine.stream

    def slow(*arguments: Any, **named: Any) -> Any:
        begun.set()
        go_on.wait(30)
        return stream(*arguments, **named)

    with ThreadPoolExecutor(1) as pool, monkeypatch.context() as patch:
        patch.setattr(engine, "stream", slow)
        first = pool.submit(ask, url, json=ASK)
        assert begun.wait(30)
        answer = ask(url, json=ASK)
        go_on.set()
        assert refused(answer) == 429
        assert answer.headers["retry-after"] == "1"
        assert first.result().status_code == 200
    assert ask(url, json=ASK).status_code == 200, "there is room again"


def test_a_request_that_does_not_arrive_makes_room(url: str) -> None:
    host, port = url.removeprefix("http://").split(":")
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer sesame\r\nContent-Length: 100\r\n\r\n"
    with socket.create_connection((host, int(port)), timeout=10) as slow:
        slow.sendall(head.encode("latin-1") + b"{")
        assert b" 408 " in slow.recv(100)
    assert ask(url, json=ASK).status_code == 200


def test_others_than_this_machine_need_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(guard.KEY, raising=False)
    for host in ("127.0.0.1", "localhost", "::1", "127.0.0.9"):
        assert guard.limits(host, [], 1, 1, 1).key is None
    for host in ("0.0.0.0", "::", "10.1.2.3", "machine"):
        with pytest.raises(IprError, match=f"set {guard.KEY}"):
            guard.limits(host, [], 1, 1, 1)
    monkeypatch.setenv(guard.KEY, "sésame")
    with pytest.raises(IprError, match="ASCII"):
        guard.limits("127.0.0.1", [], 1, 1, 1)
    monkeypatch.setenv(guard.KEY, "secret\r\n")
    assert guard.limits("127.0.0.1", [], 1, 1, 1).key == "secret"
    assert guard.limits("0.0.0.0", ["Agent.example"], 1, 1, 1).hosts == ("0.0.0.0", "agent.example")


def test_adapters_come_from_their_folder_alone(tmp_path: Path) -> None:
    settings = ModelConfig(max_length=200, lora=LoraConfig(rank=4, targets=["q_proj"]))
    base = models.save_model(toy.model(), toy.tokenizer(), tmp_path / "base")
    trained = models.load_model(base, settings, training=True)
    inside = tmp_path / "inside"
    for place in (inside / "good", tmp_path / "outside"):
        models.save_model(trained, toy.tokenizer(), place)
    (inside / "link").symlink_to(tmp_path / "outside")
    config = RunConfig(model=settings)

    loads: list[str] = []

    def load(folder: str) -> ChatPolicy:
        loads.append(folder)
        return adapter(folder, str(base), config, inside)

    with serving(load("good"), "tiny", str(base), load) as url:

        def loaded(path: str) -> httpx.Response:
            body = {"lora_name": f"a{path}", "lora_path": path}
            return httpx.post(f"{url}/v1/load_lora_adapter", json=body, timeout=60)

        for path in (str(tmp_path / "outside"), "../outside", "link", "someone/adapter", str(base), "/etc", "a\0b"):
            assert refused(loaded(path)) == 404, path
        for path in ("good", str(inside / "good")):
            assert loaded(path).status_code == 200
        loads.clear()
        with ThreadPoolExecutor(6) as pool:  # as a stage's turns do whose server was started again
            assert sorted(r.status_code for r in pool.map(loaded, 6 * ["./good"])) == [200, *5 * [400]]
        assert loads == ["./good"]
        assert refused(httpx.post(url + CHAT, json=ASK | {"model": "someone/model"})) == 404
