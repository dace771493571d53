"""The policy against real HTTP servers: a scripted one that misbehaves, and our own with the shipped model."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from ipr import envs, models
from ipr.config import EndpointConfig, ModelConfig
from ipr.policies import local
from ipr.policies.chat import ChatPolicy
from ipr.policies.openai import EndpointPolicy, Usage, base_url
from ipr.rollout import play
from ipr.types import Completion, IprError, Job, Message, Prefix, Sampling, Turn
from tests import toy
from tests.chat_server import answer, refusal, scripted, serving

GREEDY = Sampling(0.0, 12)
TALK = [Message("user", "Say OK.")]
KEY = "sk-very-secret"


def changed(reply: Any, **fields: Any) -> Any:
    return (*reply[:2], reply[2] | fields)


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


@pytest.fixture(scope="module")
def embedded() -> Iterator[ChatPolicy]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    model = models.load_model("embedded", ModelConfig())
    yield local.policy(model, models.load_tokenizer("embedded"), "embedded", max_length=1000, slots=8)
    torch.set_num_threads(before)


def policy(url: str, **settings: Any) -> EndpointPolicy:
    return EndpointPolicy(url, "m", EndpointConfig(**settings))


def turn(text: str = "hello") -> Turn:
    return Turn((Message("user", text),))


@pytest.mark.parametrize(("env", "shots", "temperature"), [("alfworld", 0, 0.0), ("sql", 1, 0.0), ("alfworld", 0, 1.0)])
def test_episodes_through_the_server_are_the_local_ones(
    embedded: ChatPolicy, env: str, shots: int, temperature: float
) -> None:
    """Also where the context is full, and at temperature 1, because the seed is in the request."""
    spec = envs.get(env, max_steps=5, shots=shots)
    jobs = [Job(Prefix(task_id), seed) for seed, task_id in enumerate(spec.task_ids("dev")[:3])]
    sampling = Sampling(temperature, 32)
    local = play(spec, embedded, jobs, sampling, slots=3)
    with serving(embedded) as url:
        hosted = policy(url)
        played = play(spec, hosted, jobs, sampling, slots=3)
    assert [(t.steps, t.ending, t.reward, t.invalid) for t in played] == [
        (t.steps, t.ending, t.reward, t.invalid) for t in local
    ]
    assert env == "alfworld" or {t.ending for t in played} == {"overflow"}
    assert hosted.usage.requests >= sum(len(t.steps) for t in played)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (
            [{"type": "text", "text": "Thought: a\n"}, {"type": "text", "text": "Action: look"}],
            "Thought: a\nAction: look",
        ),
        ([{"type": "reasoning", "summary": []}, {"type": "text", "text": "Action: look"}, "."], "Action: look."),
        ("Action: \ud83d look \U0001f600", "Action: \ufffd look \U0001f600"),
        ([], ""),
        (None, ""),
    ],
)
def test_an_answer_in_parts_and_with_half_a_character(content: Any, text: str) -> None:
    """The protocol of chat completions has a text there, and servers send both."""
    with scripted(lambda _, __: answer(content)) as url:
        (found,) = policy(url).generate([turn()], GREEDY)
    assert found == Completion(text, (), "stop")
    found.text.encode()


def test_a_busy_and_a_failing_server_are_asked_again() -> None:
    seen: list[float] = []

    def reply(_: Any, __: Any) -> Any:
        seen.append(time.monotonic())
        if len(seen) == 1:
            return refusal(429, "slow down", **{"Retry_After": "0.9"})
        return refusal(500, "oops", **{"Retry_After": "0.05"}) if len(seen) == 2 else answer("yes")

    with scripted(reply) as url:
        asked = policy(url)
        assert asked.generate([turn()], GREEDY) == [Completion("yes", (), "stop")]
    assert seen[1] - seen[0] >= 0.9, "Retry-After is honoured"
    assert asked.usage == Usage(requests=1, retries=2, prompt_tokens=7, completion_tokens=3)


def test_an_error_that_comes_as_an_answer_is_asked_again_as_its_code_says() -> None:
    replies = [(200, {}, {"error": {"message": "upstream", "code": 502}}), answer("yes")]
    with scripted(lambda *_: replies.pop(0)) as url:
        asked = policy(url)
        assert asked.generate([turn()], GREEDY) == [Completion("yes", (), "stop")]
    assert asked.usage == Usage(requests=1, retries=1, prompt_tokens=7, completion_tokens=3)


def test_a_limit_of_the_servers_own_is_no_full_context() -> None:
    """As many tokens after prompts of unlike length; a full context has equal totals."""

    def cut(read: int, written: int) -> Any:
        usage = {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
        return changed(answer("cu", "length"), usage=usage)

    full = [cut(90, 10), cut(95, 5), cut(92, 8), cut(90, 10)]
    with scripted(lambda *_: full.pop()) as url:
        assert {c.finish for c in policy(url).generate([turn()] * 4, GREEDY)} == {"overflow"}
    capped = iter(range(40, 90, 5))
    said = r"cut answers off after 4 of the 12 .*--generation-config vllm.*rollout.max_new_tokens"
    with scripted(lambda *_: cut(next(capped), 4)) as url, pytest.raises(IprError, match=said):
        policy(url).generate([turn()] * 2, GREEDY)


def test_turns_of_a_call_are_asked_together_and_no_more_than_allowed() -> None:
    together = threading.Barrier(4, timeout=60)
    lock, under_way, most = threading.Lock(), 0, 0

    def reply(body: dict[str, Any], _: Any) -> Any:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        together.wait()  # fails unless four are here at the same time
        with lock:
            under_way -= 1
        return answer(body["messages"][-1]["content"])

    with scripted(reply) as url:
        found = policy(url, concurrency=4).generate([turn(str(i)) for i in range(8)], GREEDY)
    assert [c.text for c in found] == [str(i) for i in range(8)]
    assert most == 4


def test_a_stream_does_not_wait_for_the_slowest() -> None:
    later = threading.Event()

    def reply(body: dict[str, Any], _: Any) -> Any:
        said = body["messages"][-1]["content"]
        if said == "slow":
            assert later.wait(60), "the others wait for this one"
        return answer(said)

    with scripted(reply) as url:
        waiting, found = deque([turn("slow"), turn("a"), turn("b")]), []
        for asked, completion in policy(url, concurrency=2).stream(waiting, GREEDY):
            assert asked.conversation[-1].content == completion.text
            found.append(completion.text)
            if completion.text == "b":
                waiting.append(turn("c"))
            if completion.text == "c":
                later.set()
    assert found == ["a", "b", "c", "slow"]


def test_nobody_waits_for_what_is_under_way_when_it_is_ended() -> None:
    """By hand or by an error: an answer may take minutes, and its retries as long again."""
    later = threading.Event()
    code = """
import sys
from collections import deque
from ipr.config import EndpointConfig
from ipr.policies.openai import EndpointPolicy
from ipr.types import Message, Sampling, Turn
policy = EndpointPolicy(sys.argv[1], "m", EndpointConfig(concurrency=2))
turns = deque(Turn((Message("user", said),)) for said in ("slow", "quick"))
for _ in policy.stream(turns, Sampling(0.0, 12)):
    raise KeyboardInterrupt
"""

    def reply(body: dict[str, Any], _: Any) -> Any:
        if body["messages"][-1]["content"] == "slow":
            later.wait(120)
        return answer("yes")

    with scripted(reply) as url:
        try:
            ended = subprocess.run([sys.executable, "-c", code, url], capture_output=True, timeout=60, check=False)
        finally:
            later.set()
    assert b"KeyboardInterrupt" in ended.stderr


def test_the_rate_is_limited() -> None:
    with scripted(lambda *_: answer("yes")) as url:
        start = time.monotonic()
        policy(url, requests_per_minute=600).generate([turn()] * 5, GREEDY)
    assert time.monotonic() - start >= 0.4


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (answer(" words\n"), Completion("words", (), "stop")),
        (answer(None), Completion("", (), "stop")),
        (answer("cut", "length", written=12), Completion("cut", (), "length")),
        (answer("cu", "length", written=2), Completion("cu", (), "overflow")),
        (answer("", "content_filter"), Completion("", (), "stop")),
        (refusal(400, "no such words here", "content_filter"), Completion("", (), "stop")),
        (refusal(400, "too long", "context_length_exceeded"), Completion("", (), "overflow")),
        (refusal(400, "This model's maximum context length is 99 tokens"), Completion("", (), "overflow")),
        (refusal(400, "max_tokens must be at least 1, got 0. (parameter=max_tokens)"), Completion("", (), "overflow")),
        (
            refusal(422, "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 4090"),
            Completion("", (), "overflow"),
        ),
        (
            (422, {}, {"error": "Input validation error: `inputs` must have less than 4096 tokens. Given: 4099"}),
            Completion("", (), "overflow"),
        ),
        (refusal(400, "too many tokens: size limit exceeded by 9 tokens"), Completion("", (), "overflow")),
        ((400, {}, {"message": "too many tokens: size limit exceeded by 9 tokens"}), Completion("", (), "overflow")),
        (refusal(413, "Payload Too Large"), Completion("", (), "overflow")),
        (changed(answer("yes"), usage={}), Completion("yes", (), "stop")),
        (
            changed(answer("yes"), usage={"prompt_tokens": None, "completion_tokens": None}),
            Completion("yes", (), "stop"),
        ),
        (changed(answer("cut", "length"), usage={}), Completion("cut", (), "length")),
        (changed(answer("yes"), choices=[{"finish_reason": "stop", "message": None}]), Completion("", (), "stop")),
        (changed(answer("yes"), choices=[{"finish_reason": "stop"}]), Completion("", (), "stop")),
        (
            changed(
                answer("cut", "length"), usage={"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 7 + 12}
            ),
            Completion("cut", (), "length"),
        ),
        ((200, {}, refusal(0, "full", "context_length_exceeded")[2]), Completion("", (), "overflow")),
    ],
)
def test_how_an_answer_ends(reply: Any, expected: Completion) -> None:
    with scripted(lambda *_: reply) as url:
        assert policy(url).generate([turn()], GREEDY) == [expected]


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (refusal(401, f"wrong key {KEY}"), "refuses the key .*wrong key <key>.*OPENAI_API_KEY"),
        (refusal(404, "no"), "has no model 'n'.*there are m"),
        (refusal(400, "temperature must be 1"), "temperature must be 1.*endpoint.parameters.temperature=null"),
        (refusal(429, "quota is used up"), "quota is used up"),
        (refusal(503, "down"), "503 down"),
        (
            (401, {}, {"error": f"Unauthorized {KEY}"}),
            r"refuses the key \(401 Unauthorized <key>\); set OPENAI_API_KEY",
        ),
        ((403, {}, b""), r"refuses the key \(403 Forbidden\)"),
        ((400, {}, {"detail": "no such field"}), r"\(400 no such field\)"),
        ((502, {}, b"<html>Bad gateway</html>"), "502 and a web page"),
        ((200, {}, b"<html>hello</html>"), "something else than a chat completion"),
        ((200, {}, {"object": "chat.completion", "choices": []}), "without a choice"),
        ((200, {}, {"error": {"message": "upstream", "code": 502}}), "502 upstream"),
        ((200, {}, {"choices": [{"error": {"message": "upstream", "code": 502}}]}), "502 .*upstream"),
    ],
)
def test_a_server_that_cannot_be_used_is_one_line(reply: Any, said: str) -> None:
    with scripted(lambda *_: reply) as url:
        asked = EndpointPolicy(url, "n", EndpointConfig(retries=0))
        with pytest.raises(IprError, match=said) as error:
            asked.check(GREEDY, TALK)
        assert KEY not in str(error.value)
        assert "\n" not in str(error.value)
        with pytest.raises(IprError):
            asked.generate([turn()], GREEDY)


def test_a_context_that_is_too_short_is_one_line() -> None:
    reply = refusal(400, "x", "context_length_exceeded")
    said = r"a usual episode is longer than the context of m .*use --shots 0"
    with scripted(lambda *_: reply) as url, pytest.raises(IprError, match=said):
        policy(url).check(GREEDY, TALK)


def test_nobody_there_and_too_slow() -> None:
    with scripted(lambda *_: answer("yes")) as url:
        pass
    with pytest.raises(IprError, match=r"cannot reach .*start the server"):
        policy(url).check(GREEDY, TALK)

    def slow(*_: Any) -> Any:
        time.sleep(0.5)
        return answer("yes")

    with scripted(slow) as url, pytest.raises(IprError, match=r"did not answer within 0\.1 s"):
        policy(url, timeout=0.1, retries=0).generate([turn()], GREEDY)


def test_what_is_sent() -> None:
    sent: list[dict[str, Any]] = []

    def reply(body: dict[str, Any], headers: dict[str, str]) -> Any:
        sent.append(body | {"key": headers["authorization"]})
        return answer("yes")

    said = (Message("user", "a"), Message("assistant", ""), Message("user", "b"))
    messages = [{"role": r, "content": c} for r, c in (("user", "a"), ("assistant", "..."), ("user", "b"))]
    with scripted(reply) as url:
        policy(url).generate([Turn(said, 5)], GREEDY)
        policy(url).generate([Turn(said, 2**62)], Sampling(0.5, 9))
        changed = {"temperature": None, "max_tokens": None, "max_completion_tokens": 99, "reasoning_effort": "low"}
        policy(url, parameters=changed).generate([Turn(said, 5)], GREEDY)
    common = {"model": "m", "messages": messages, "key": f"Bearer {KEY}"}
    assert sent == [
        common | {"temperature": 0.0, "max_tokens": 12},
        common | {"temperature": 0.5, "max_tokens": 9, "seed": 2**62},
        common | {"max_completion_tokens": 99, "reasoning_effort": "low"},
    ]


def test_an_outage_stops_the_play_and_frees_its_episodes() -> None:
    asked = 0

    def reply(*_: Any) -> Any:
        nonlocal asked
        asked += 1
        return answer("Thought: x\nAction: go to box 1") if asked <= 3 else refusal(503, "down")

    with scripted(reply) as url, pytest.raises(IprError, match="503 down"):
        play(toy.spec(), policy(url, retries=0), [Job(Prefix("dev-1")), Job(Prefix("dev-2"))], GREEDY)


@pytest.mark.parametrize("failures", [1, 2])
def test_one_turn_that_fails_is_asked_once_more_and_then_named(failures: int) -> None:
    """A refusal, which the client library does not ask again for; the other turns are answered."""
    refused = 0

    def reply(body: Any, _: Any) -> Any:
        nonlocal refused
        if body["messages"][0]["content"] == "bad" and refused < failures:
            refused += 1
            return refusal(400, "engine died")
        return answer("yes")

    turns = [turn(text) if text else Turn((Message("user", "bad"),), session=7) for text in ("a", "", "b")]
    with scripted(reply) as url:
        if failures == 1:
            assert policy(url).generate(turns, GREEDY) == [Completion("yes", (), "stop")] * 3
        else:
            with pytest.raises(IprError, match=r"engine died.*asked twice: turn 1 of episode 7"):
                policy(url).generate(turns, GREEDY)
    assert refused == failures


def test_cost() -> None:
    usage = Usage(requests=1, prompt_tokens=2_000_000, completion_tokens=500_000)
    assert usage.cost(EndpointConfig(price_in=0.5, price_out=2.0)) == 2.0
    assert usage.cost(EndpointConfig(price_in=0.5)) is None


def test_base_url() -> None:
    assert base_url("http://host:1") == base_url("http://host:1/v1/") == "http://host:1/v1"
    assert base_url("https://host/api/v3/chat/completions") == "https://host/api/v3"
    for bad in ("host:1", "ftp://host", "http://", "http://h:abc/v1", "http://[::1/v1", "http://a..b", "http://h\r/v1"):
        with pytest.raises(IprError, match="is no URL"):
            base_url(bad)
    for bad in ("http://me:secret@host:abc/v1", "ftp://me:secret@host", "http://me:secret@[::1/v1"):
        with pytest.raises(IprError, match="is no URL") as error:
            base_url(bad)
        assert "secret" not in str(error.value)
    for bad in ("http://me:secret@host/v1", "http://host/v1?key=secret"):
        with pytest.raises(IprError, match="OPENAI_API_KEY") as error:
            base_url(bad)
        assert "secret" not in str(error.value)


def test_a_key_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret\r\n")
    assert policy("http://127.0.0.1:9")._client.api_key == "sk-secret"
    for bad in ("sk-\u2026secret", "sk\rsecret"):
        monkeypatch.setenv("OPENAI_API_KEY", bad)
        with pytest.raises(IprError, match="OPENAI_API_KEY holds a character") as error:
            policy("http://127.0.0.1:9")
        assert "secret" not in str(error.value)
