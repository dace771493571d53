"""`ipr serve`'s routes over real HTTP, asked by the protocol's own client."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest

from ipr.apps import serve
from ipr.policies.chat import ChatPolicy
from ipr.types import IprError, Message, Sampling, Turn
from tests.chat_server import serving
from tests.engine.asking import Passes

HELLO = [{"role": "user", "content": "You are in a room."}]


@pytest.fixture(scope="module")
def client(policy: ChatPolicy) -> Iterator[openai.OpenAI]:
    with serving(policy, "tiny") as url:
        yield openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


def ask(client: openai.OpenAI, **fields: Any) -> Any:
    return client.chat.completions.create(**{"model": "tiny", "messages": HELLO, "max_tokens": 12} | fields)


def locally(policy: ChatPolicy, temperature: float, seed: int, tokens: int = 12) -> str:
    turn = Turn((Message("user", HELLO[0]["content"]),), seed)
    return policy.generate([turn], Sampling(temperature, tokens))[0].text


def test_the_model_is_listed(client: openai.OpenAI) -> None:
    assert [m.id for m in client.models.list()] == ["tiny"]


def test_an_answer_is_the_policys(client: openai.OpenAI, policy: ChatPolicy) -> None:
    greedy, sampled = ask(client, temperature=0), ask(client, temperature=1, seed=7)
    assert greedy.choices[0].message.content == locally(policy, 0, 0)
    assert sampled.choices[0].message.content == locally(policy, 1, 7)
    assert greedy.usage.completion_tokens == 12
    assert greedy.choices[0].finish_reason == "length"
    assert greedy.usage.total_tokens == greedy.usage.prompt_tokens + 12


def test_many_samples_of_one_prompt(client: openai.OpenAI, policy: ChatPolicy) -> None:
    first, second = (ask(client, temperature=1, seed=7, n=5) for _ in range(2))
    texts = [choice.message.content for choice in first.choices]
    assert texts == [choice.message.content for choice in second.choices]
    assert texts[0] == locally(policy, 1, 7)
    assert len(set(texts)) == 5
    assert [choice.index for choice in first.choices] == [0, 1, 2, 3, 4]
    assert first.usage.completion_tokens <= 60
    assert ask(client, seed=None).choices[0].message.content != ask(client).choices[0].message.content, "unseeded"


def test_a_stop_text_cuts_the_answer(client: openai.OpenAI) -> None:
    whole = ask(client, temperature=0).choices[0].message.content
    cut = ask(client, temperature=0, stop=[whole[4:6], "never"]).choices[0]
    assert (cut.message.content, cut.finish_reason) == (whole[: whole.find(whole[4:6])], "stop")


def test_many_clients_at_once_get_their_own(client: openai.OpenAI, policy: ChatPolicy) -> None:
    with ThreadPoolExecutor(20) as pool:
        found = list(pool.map(lambda seed: ask(client, temperature=1, seed=seed, max_tokens=6 + seed % 2), range(20)))
    texts = [answer.choices[0].message.content for answer in found]
    assert texts == [locally(policy, 1, seed, 6 + seed % 2) for seed in range(20)]


def test_a_conversation_goes_on_with_its_key_values(client: openai.OpenAI, policy: ChatPolicy) -> None:
    messages = [{"role": "user", "content": "It is morning. " * 6}]
    engine: Any = policy.engine
    passes, lengths = Passes(engine.model), []
    for _ in range(3):
        said = ask(client, messages=messages, temperature=0, max_tokens=5).choices[0].message.content
        talk = [Message(m["role"], m["content"]) for m in messages]  # type: ignore[arg-type]
        lengths.append(len(policy.chat.prompt(talk)))
        fed = passes.taken()
        # What is new, and what is fed to write five tokens, drafts included.
        assert len(lengths) == 1 or fed <= lengths[-1] - lengths[-2] + 5 * 4 < lengths[0] <= lengths[-1]
        messages += [{"role": "assistant", "content": said}, {"role": "user", "content": "And then?"}]


@pytest.mark.parametrize(
    ("fields", "status", "param", "said"),
    [
        ({"model": "other"}, 404, "model", "There is tiny"),
        ({"messages": [{"role": "user", "content": "long " * 300}]}, 400, "input_tokens", "context length is 200"),
        ({"messages": HELLO * 2}, 400, "messages", "in turn"),
        ({"messages": [{"role": "system", "content": "x"}]}, 400, "body.messages.0.role", "role"),
        ({"messages": []}, 400, None, "messages"),
        ({"temperature": -1}, 400, "temperature", "temperature"),
        ({"top_p": 0.5}, 400, "top_p", "top_p"),
        ({"extra_body": {"min_tokens": 3}}, 400, "min_tokens", "min_tokens=3 is not supported"),
        ({"n": 1000}, 400, None, "at most 128"),
        ({"extra_body": {"tools": [{"a": 1}]}}, 400, "tools", "tools"),
    ],
)
def test_what_is_refused(
    client: openai.OpenAI, fields: dict[str, Any], status: int, param: str | None, said: str
) -> None:
    with pytest.raises(openai.APIStatusError, match=said) as error:
        ask(client, **fields)
    assert (error.value.status_code, str(error.value.code), error.value.param) == (status, str(status), param)


@pytest.mark.parametrize(
    ("body", "param", "said"),
    [
        ('{"messages": [{"role": "user", "content": "\\ud800"}]}', "body.messages.0.content", "lone surrogate"),
        (
            '{"messages": [{"role": "user", "content": [{"type": "text", "text": "a\\udc00"}]}]}',
            "body.messages.0.content.0.text",
            "lone surrogate",
        ),
        ('{"messages": [{"role": "user", "content": "a"}], "temperature": NaN}', "temperature", "finite"),
        ('{"messages": [{"role": "user", "content": "a"}], "temperature": Infinity}', "temperature", "finite"),
    ],
)
def test_what_no_client_of_openai_sends_is_refused_too(client: openai.OpenAI, body: str, param: str, said: str) -> None:
    answer = httpx.post(
        f"{client.base_url}chat/completions", content=body, headers={"Content-Type": "application/json"}
    )
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert said in answer.json()["error"]["message"]


def test_fields_that_ask_for_nothing_are_taken(client: openai.OpenAI) -> None:
    ask(client, top_p=1, presence_penalty=0, logprobs=False, user="me", response_format={"type": "text"})
    ask(client, extra_body={"min_tokens": 0, "logit_bias": {}})
    text = [{"type": "text", "text": HELLO[0]["content"]}]
    parts = ask(client, messages=[{"role": "user", "content": text}], temperature=0)
    assert parts.choices == ask(client, temperature=0).choices


def test_a_failure_is_told_and_the_next_request_answered(
    client: openai.OpenAI, policy: ChatPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Any:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(policy.engine, "stream", fail)
        with pytest.raises(openai.InternalServerError, match="RuntimeError") as failed:
            ask(client)
    assert failed.value.response.headers["connection"] == "close"  # as the server does, soon after
    assert ask(client, temperature=0).choices


def test_a_port_in_use_is_one_line() -> None:
    with serve.listen("127.0.0.1", 0) as taken, pytest.raises(IprError, match="choose another --port"):
        serve.listen("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(IprError, match="port must be 0-65535"):
        serve.listen("127.0.0.1", 99999)
