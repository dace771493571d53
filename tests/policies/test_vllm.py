"""The policy against `ipr serve`, which speaks vLLM's protocol with a real model, and against as much of `vllm.LLM` as
we use, with a real model behind it. vLLM itself needs a GPU and was not there.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import openai
import pytest
import torch

from ipr import config as configs
from ipr import engine as engines
from ipr import models, policies
from ipr.apps.serve_command import adapter
from ipr.config import LoraConfig, ModelConfig, RunConfig
from ipr.engine import Generated, Request
from ipr.policies import local, vllm
from ipr.policies.chat import ChatPolicy
from ipr.rollout import play
from ipr.types import IprError, Job, Message, Prefix, Sampling, Trajectory, Turn
from tests import toy
from tests.chat_server import scripted, serving

GREEDY, SAMPLED = Sampling(0.0, 12), Sampling(1.0, 12)
MODEL = ModelConfig(device="cpu", max_length=300, lora=LoraConfig(rank=4))


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A base, two adapters on it, and another whole model."""
    root = tmp_path_factory.mktemp("models")
    found = {name: models.save_model(toy.model(seed), toy.tokenizer(), root / name) for seed, name in enumerate("bo")}
    for seed, name in enumerate(("sft", "iteration-1")):
        model = models.load_model(found["b"], MODEL, training=True)
        random = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter += 0.3 * torch.randn(parameter.shape, generator=random)
        found[name] = models.save_model(model, toy.tokenizer(), root / name)
    return found


def settings(url: str | None = None, **model: Any) -> RunConfig:
    rollout = {"backend": "vllm", "slots": 8, "endpoint": url}
    fields = {"model": MODEL.model_dump() | model, "rollout": rollout, "endpoint": {"retries": 0}}
    return configs.validate(fields, "test")


def here(folder: Path, model: ModelConfig = MODEL) -> ChatPolicy:
    """What our own engine plays of a folder."""
    return local.load(str(folder), "local", RunConfig(model=model))


@pytest.fixture(scope="module")
def url(folders: dict[str, Path]) -> Iterator[str]:
    """The base behind `ipr serve`, with the routes for adapters."""
    base = str(folders["b"])
    with serving(
        here(folders["b"]), "base", base, lambda f: adapter(f, base, settings(), folders["b"].parent)
    ) as found:
        yield f"{found}/v1"


def turns(count: int = 4, seeds: Sequence[int] = (3, 4, 5, 9)) -> list[Turn]:
    """Two samples of a prompt and more, and a longer conversation."""
    talk = (Message("user", "Find it."), Message("assistant", "go to box 1"), Message("user", "You see nothing."))
    return [Turn(talk[:1] if i < 3 else talk, seed, f"s{i}") for i, seed in zip(range(count), seeds, strict=True)]


def episodes(policy: Any, sampling: Sampling) -> list[Trajectory]:
    jobs = [Job(Prefix(task_id), seed) for seed, task_id in enumerate(toy.task_ids("dev")[:4])]
    return play(toy.spec(max_steps=4), policy, jobs, sampling, slots=3)


def told(trajectories: list[Trajectory]) -> list[Any]:
    return [(t.steps, t.ending, t.reward, t.invalid) for t in trajectories]


def test_a_server_plays_what_is_played_here_also_with_adapters_changed_while_it_runs(
    folders: dict[str, Path], url: str
) -> None:
    answers = set()
    for name in ("b", "sft", "iteration-1", "sft"):
        hosted, ours = policies.load(str(folders[name]), name, settings(url)), here(folders[name])
        for sampling in (GREEDY, SAMPLED):
            found = hosted.generate(turns(), sampling)
            assert found == ours.generate(turns(), sampling), "token by token"
            assert told(episodes(hosted, sampling)) == told(episodes(ours, sampling))
            answers.add((name, found[0].token_ids))
    assert len(answers) == 6, "another adapter says something else"
    listed = [card.id for card in openai.OpenAI(base_url=url, api_key="none").models.list()]
    assert [name.rsplit("-", 1)[0] for name in listed] == ["base", "sft", "iteration-1"]


def test_an_adapter_that_the_server_has_lost_is_loaded_again(folders: dict[str, Path], url: str) -> None:
    hosted = policies.load(str(folders["sft"]), "sft", settings(url))
    before = hosted.generate(turns(), SAMPLED)
    client = openai.OpenAI(base_url=url, api_key="none")
    (name,) = (card.id for card in client.models.list() if card.id.startswith("sft-"))
    client.post("/unload_lora_adapter", body={"lora_name": name}, cast_to=str)
    assert hosted.generate(turns(), SAMPLED) == before
    assert name in [card.id for card in client.models.list()]


def test_a_full_context_ends_the_episode(folders: dict[str, Path], url: str) -> None:
    config, short = settings(url, max_length=90), MODEL.model_copy(update={"max_length": 90})
    hosted = policies.load(str(folders["b"]), "b", config)
    found = episodes(hosted, GREEDY)
    assert {t.ending for t in found} == {"overflow"}
    assert told(found) == told(episodes(here(folders["b"], short), GREEDY))


# What is refused ------------------------------------------------------------------------------------------------------


def test_a_run_is_checked_before_it_starts(folders: dict[str, Path], url: str) -> None:
    path = str(folders["b"])
    vllm.check(settings(url, path=path))
    with pytest.raises(IprError, match=r"cannot reach .*rollout\.endpoint"):
        vllm.check(settings("http://127.0.0.1:9/v1", path=path))
    with pytest.raises(
        IprError, match=f"serves base.*, not {folders['o']}; start it with: .*vllm serve {folders['o']}"
    ):
        vllm.check(settings(url, path=str(folders["o"])))
    with pytest.raises(IprError, match=r"takes 300 tokens.* up to 400 .*--max-model-len 400"):
        vllm.check(settings(url, path=path, max_length=400))
    with pytest.raises(IprError, match=r"train adapters .model\.lora\.rank"):
        vllm.check(settings(url, path=path, lora={"rank": 0}))
    with (
        serving(here(folders["b"]), path) as plain,
        pytest.raises(IprError, match=r"loads no adapters .*UPDATING=True"),
    ):
        vllm.check(settings(plain, path=path))
    with pytest.raises(IprError, match=r"set rollout\.backend=vllm too"):
        policies.check(configs.load(None, ["rollout.endpoint=http://127.0.0.1:8000/v1"]))
    with pytest.raises(IprError, match=r"unknown backend 'vlm'; did you mean 'vllm'"):
        policies.load(path, "b", configs.load(None, ["rollout.backend=vlm"]))


def test_a_server_without_token_ids_is_one_line(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m").symlink_to(folders["b"])  # what the server lists
    choice = {"index": 0, "text": "words", "finish_reason": "stop", "logprobs": None}
    body = {"id": "1", "object": "text_completion", "created": 1, "model": "m", "choices": [choice]}
    with scripted(lambda *_: (200, {}, body)) as url, pytest.raises(IprError, match=r"vLLM 0\.10\.2"):
        policies.load("m", "m", settings(url)).generate(turns(), GREEDY)


def test_an_adapter_that_cannot_be_loaded_is_one_line(folders: dict[str, Path], url: str, tmp_path: Path) -> None:
    client = openai.OpenAI(base_url=url, api_key="none", max_retries=0)

    def post(route: str, **body: str) -> str:
        return client.post(f"/{route}_lora_adapter", body=body, cast_to=str)

    for folder, said in ((tmp_path / "none", "no adapter '"), (folders["o"], "no adapter '")):
        with pytest.raises(openai.BadRequestError, match=said):
            post("load", lora_name="a", lora_path=str(folder))
    post("load", lora_name="a", lora_path=str(folders["sft"]))
    with pytest.raises(openai.BadRequestError, match="loaded already"):
        post("load", lora_name="a", lora_path=str(folders["sft"]))
    post("unload", lora_name="a")
    with pytest.raises(openai.NotFoundError, match="no adapter 'a'"):
        post("unload", lora_name="a")
    with pytest.raises(openai.NotFoundError, match="no model 'a'"):
        client.completions.create(model="a", prompt=[5, 6])


def test_completions_are_vllms(folders: dict[str, Path], url: str) -> None:
    client: Any = openai.OpenAI(base_url=url, api_key="none", max_retries=0)
    prompts: list[list[int]] = [here(folders["b"]).chat.prompt(turn.conversation) for turn in turns()[2:]]
    more = {"return_token_ids": True}

    def ask(prompt: Any, **fields: Any) -> list[Any]:
        asked = client.completions.create(model="base", prompt=prompt, max_tokens=9, **{"extra_body": more} | fields)
        return [choice.model_dump()["token_ids"] for choice in asked.choices]

    samples = ask(prompts, n=2, seed=5)
    assert samples == [*ask(prompts[0], n=2, seed=5), *ask(prompts[1], seed=5), *ask(prompts[1], seed=6)]
    answer = client.completions.create(model="base", prompt=prompts[0], temperature=0)
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (len(prompts[0]), 16)
    for fields, said in (
        ({"prompt": "words"}, "prompt"),
        ({"prompt": [10**6]}, "not all are ids"),
        ({"prompt": [5] * 300}, "context length is 300"),
        ({"extra_body": {"stop_token_ids": [99]}}, "do not end a turn"),
        ({"extra_body": {"top_k": 5}}, "not supported"),
    ):
        with pytest.raises(openai.BadRequestError, match=said):
            client.completions.create(**{"model": "base", "prompt": prompts[0]} | fields)


# In this process ------------------------------------------------------------------------------------------------------


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """A module `vllm` with what we use of it, played by our own policy; the engines that were made."""
    made: list[LLM] = []

    class LLM:
        def __init__(self, model: str, *, max_model_len: int, max_num_seqs: int, enable_lora: bool = False, **_: Any):
            self._model = MODEL.model_copy(update={"max_length": max_model_len})
            self._base, self._lora, self.asleep, self.seen = model, enable_lora, False, []
            self._policies: dict[Any, ChatPolicy] = {}
            self.asked: list[Any] = []
            """What each call of `generate` had: (prompt, seed, n, most tokens)."""
            made.append(self)

        def generate(self, prompts: list[Any], params: list[Any], *, lora_request: Any, use_tqdm: bool) -> list[Any]:
            assert not self.asleep
            assert lora_request is None or self._lora
            self.seen.append(lora_request and lora_request.lora_int_id)
            folder = lora_request.lora_path if lora_request else self._base
            key = lora_request.lora_int_id if lora_request else None
            if key not in self._policies:
                self._policies[key] = here(Path(folder), self._model)
            self.asked.append(
                [(p["prompt_token_ids"], s.seed, s.n, s.max_tokens) for p, s in zip(prompts, params, strict=True)]
            )
            return [
                self._one(self._policies[key], p["prompt_token_ids"], s) for p, s in zip(prompts, params, strict=True)
            ]

        def _one(self, policy: ChatPolicy, ids: list[int], params: Any) -> Any:
            assert params.stop_token_ids == policy.engine.ends
            wanted = [Request(ids, params.max_tokens, params.seed + i) for i in range(params.n)]
            outputs = [
                SimpleNamespace(index=i, token_ids=list(one.ids), finish_reason=one.finish)
                for i, one in enumerate(engines.generate(policy.engine, wanted, params.temperature))
            ]
            return SimpleNamespace(outputs=outputs[::-1])

        def sleep(self, level: int) -> None:
            self.asleep = True

        def wake_up(self) -> None:
            self.asleep = False

    def lora(lora_name: str, lora_int_id: int, lora_path: str) -> Any:
        return SimpleNamespace(lora_name=lora_name, lora_int_id=lora_int_id, lora_path=lora_path)

    def module(name: str, **content: Callable[..., Any]) -> None:
        found = ModuleType(name)
        vars(found).update(content)
        monkeypatch.setitem(sys.modules, name, found)

    module("vllm", LLM=LLM, SamplingParams=SimpleNamespace, TokensPrompt=dict)
    module("vllm.lora.request", LoRARequest=lora)
    yield made
    vllm._kept.clear()


def test_the_engine_stays_while_adapters_change_and_goes_with_its_base(
    folders: dict[str, Path], library: list[Any]
) -> None:
    vllm.check(settings())
    for name in ("b", "sft", "iteration-1", "sft", "o"):
        policy = policies.load(str(folders[name]), name, settings())
        for sampling in (GREEDY, SAMPLED):
            assert policy.generate(turns(), sampling) == here(folders[name]).generate(turns(), sampling)
            policies.rest()
            assert library[-1].asleep
    assert [engine.seen for engine in library] == [[None, None, 1, 1, 2, 2, 1, 1], [None, None]]


def test_samples_in_a_row_are_one_request(folders: dict[str, Path], library: list[Any]) -> None:
    policy: Any = policies.load(str(folders["b"]), "p", settings())
    asked, ours = [replace(turns()[0], session=None)] * 2 + turns(), here(folders["b"])
    found = policy.generate(asked, SAMPLED)
    [first], prompt = library[0].asked, ours.chat.prompt(turns()[0].conversation)
    assert [one[1:] for one in first] == [(3, 3, 12), (9, 1, 12)]
    assert first[0][0] == prompt
    assert found == [ours.generate([turn], SAMPLED)[0] for turn in asked]
    policy.generate(turns(), GREEDY)
    assert [one[2] for one in library[0].asked[1]] == [1, 1], "greedy answers to a prompt are the same"
    full = [Request(prompt, 0, 5), Request(prompt, 3, 5)]
    assert [len(one.ids) for one in engines.generate(policy.engine, full, 1.0)] == [0, 3]
    assert engines.generate(policy.engine, full[:1], 1.0) == [Generated((), "length")]


def test_vllm_that_is_missing_is_one_line(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    for ask in (lambda: vllm.check(settings()), lambda: policies.load(str(folders["b"]), "b", settings())):
        with pytest.raises(IprError, match="pip install vllm, or name a server"):
            ask()
