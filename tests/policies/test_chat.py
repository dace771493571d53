"""Text <-> tokens over an engine, and which backend plays."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ipr import config as configs
from ipr import models, policies
from ipr.engine import Answers, Generated, Request, kv
from ipr.policies import local
from ipr.policies.chat import ChatPolicy, end_tokens
from ipr.rollout import play, replay
from ipr.tokens import ChatTokens
from ipr.types import Completion, IprError, Job, Message, Prefix, Sampling, Turn, derive_seed
from tests import toy
from tests.engine.asking import Passes

GREEDY, SAMPLED = Sampling(0.0, 12), Sampling(1.0, 12)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make(model: Any = None, *, slots: int = 8, max_length: int = 512) -> ChatPolicy:
    return local.policy(model or toy.model(), toy.tokenizer(), "tiny", max_length=max_length, slots=slots)


def conversation(task_id: str = "train-0", t: int = 0) -> tuple[Message, ...]:
    return (*toy.PROMPT, *toy.expert(task_id).history(t))


class Parrot:
    """An engine that writes the same tokens always, as far as there is room; remembers what it was asked."""

    def __init__(self, words: list[int], max_length: int, ends: list[int]):
        self.words, self.max_length, self.slots, self.ends = words, max_length, 2, ends
        self.asked: list[Request] = []
        self.closed: list[Any] = []

    def stream(self, waiting: deque[Request], temperature: float) -> Answers:
        while waiting:
            self.asked.append(waiting.popleft())
            ids = tuple(self.words[: self.asked[-1].max_new_tokens])
            yield self.asked[-1], Generated(ids, "stop" if ids and ids[-1] in self.ends else "length")

    def close_session(self, session: Any) -> None:
        self.closed.append(session)


def test_any_engine_answers_chats() -> None:
    chat = ChatTokens(toy.tokenizer())
    words, first = chat.agent("go to box 1"), Turn(conversation(), 7, session="s", last=True)
    engine = Parrot(words, 512, end_tokens(chat))
    policy = ChatPolicy(engine, chat, "parrot")
    assert policy.generate([first], SAMPLED) == [Completion("go to box 1", tuple(words), "stop")]
    [asked] = engine.asked
    assert (asked.prompt, asked.seed, asked.session, asked.last) == (chat.prompt(first.conversation), 7, "s", True)
    policy.close_session("s")
    assert engine.closed == ["s"]
    # Turns that come while others are answered are taken too, each with its own answer.
    turns, seen = deque([first, Turn(conversation("train-1"))]), []
    for turn, completion in policy.stream(turns, Sampling(1.0, 2)):
        assert completion.finish == "length"
        if len(seen) < 2:
            turns.append(Turn(conversation("train-2"), len(seen)))
        seen.append(turn.seed)
    assert (seen, len(engine.asked)) == ([7, 0, 0, 1], 5)
    with pytest.raises(ValueError, match="one turn"):
        policy.generate([Turn(conversation(), session=1)] * 2, GREEDY)
    with pytest.raises(ValueError, match="ends with a user message"):
        policy.generate([Turn(conversation()[:-1])], GREEDY)


def test_tokens_that_end_a_turn() -> None:
    chat = ChatTokens(toy.tokenizer())
    one = {chat.end_id, chat.tokenizer.eos_token_id} - {None}
    assert end_tokens(chat) == sorted(one)
    model = toy.model()
    for more in (9, [9, 8]):
        model.generation_config.eos_token_id = more
        assert set(end_tokens(chat, model.generation_config)) == one | set([more] if isinstance(more, int) else more)


def test_a_full_context() -> None:
    model, base = toy.model(), conversation("train-0", 1)
    length = len(ChatTokens(toy.tokenizer()).prompt(base))
    free = make(model).generate([Turn(base)], GREEDY)[0]
    assert (free.finish, len(free.token_ids)) == ("length", 12)
    for room in (0, 1, 5):
        policy = make(model, max_length=length + room)
        longer = Turn(conversation("train-0", 2), session="longer")
        short, long = policy.generate([Turn(base, session=0), longer], GREEDY)
        assert short == Completion(policy.chat.text(free.token_ids[:room]), free.token_ids[:room], "overflow")
        assert long == Completion("", (), "overflow")
    assert make(model, max_length=length + 12).generate([Turn(base)], GREEDY)[0] == free
    assert make(toy.model(max_length=64), max_length=4096).engine.max_length == 64, "the model's own limit"


def test_words_are_those_of_the_ids() -> None:
    policy = make(slots=16)
    asked = [Turn(conversation(f"train-{i // 4}", i % 3), derive_seed(7, i), session=i) for i in range(12)]
    answers = policy.generate(asked, Sampling(1.0, 60))
    assert [a.text for a in answers] == [policy.chat.text(a.token_ids) for a in answers]
    stopped = [a for a in answers if a.finish == "stop"]
    assert all(a.token_ids.index(policy.chat.end_id) == len(a.token_ids) - 1 for a in stopped)
    # Another turn of the same session, whose text may have other tokens than were drawn.
    more = (Message("user", "Nothing happens."),)
    again = [
        replace(turn, conversation=(*turn.conversation, Message("assistant", answer.text), *more))
        for turn, answer in zip(asked, answers, strict=True)
    ]
    assert policy.generate(again, SAMPLED) == make(slots=16).generate(again, SAMPLED)
    assert policy.generate([], GREEDY) == []


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_play_with_a_model_is_a_function_of_the_jobs(temperature: float) -> None:
    spec, model = toy.spec(max_steps=4), toy.model()
    prefixes = [toy.expert(f"train-{i}").prefix(t) for i in range(3) for t in range(3)]
    jobs = [Job(p, derive_seed(p.key(), s)) for p in prefixes for s in range(2)]
    policy, fed = make(model, slots=8), Passes(model)
    played = play(spec, policy, jobs, Sampling(temperature, 10), slots=8)
    fed.clear()
    [alone] = play(toy.spec(max_steps=1), policy, [Job(Prefix("dev-0"))], Sampling(0.0, 1))
    first = policy.chat.prompt([*toy.PROMPT, Message("user", alone.first_observation)])
    assert fed.taken() == len(first), "all sessions were closed, so nothing was kept"
    assert play(spec, policy, jobs, Sampling(temperature, 10), slots=8) == played
    assert play(spec, make(model, slots=3), jobs, Sampling(temperature, 10), slots=5) == played
    assert all(replay(spec, t) == [] for t in played)
    some = [play(spec, make(model, slots=1), [job], Sampling(temperature, 10))[0] for job in jobs[::5]]
    assert some == played[::5]


def test_play_ends_when_the_context_is_full() -> None:
    spec = toy.spec(max_steps=9)
    played = play(spec, make(slots=4, max_length=150), [Job(Prefix(f"dev-{i}")) for i in range(4)], GREEDY)
    assert {t.ending for t in played} == {"overflow"}
    assert all(0 < len(t.steps) < 9 and t.reward == 0 for t in played)


def test_a_backend_is_one_line_of_the_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module with three functions, under a name that nobody else knows."""
    import sys
    from types import ModuleType, SimpleNamespace

    rested: list[str] = []
    module: Any = ModuleType("parrots")
    module.load = lambda path, name, config: SimpleNamespace(name=f"{name} of {path}")
    module.check = lambda config, folder: f"on a perch in {folder}"
    module.rest = lambda: rested.append("parrots")
    monkeypatch.setitem(sys.modules, "parrots", module)
    monkeypatch.setitem(policies.BACKENDS, "parrot", policies.Backend("parrots"))
    config = configs.load(None, ["rollout.backend=parrot"])
    assert policies.load("folder", "polly", config).name == "polly of folder"
    assert policies.check(config, Path("runs")) == "on a perch in runs"
    policies.rest()
    assert "parrots" in rested
    with pytest.raises(IprError, match=r"unknown backend 'parot'; did you mean 'parrot'\?"):
        policies.check(configs.load(None, ["rollout.backend=parot"]))
    with pytest.raises(IprError, match=r"set rollout\.backend=vllm too"):
        policies.load("folder", "p", configs.load(None, ["rollout.endpoint=http://127.0.0.1:8000/v1"]))


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_that_share_a_gpu_are_told_of_the_slots_of_each(
    workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = toy.model()
    place = models.save_model(model, toy.tokenizer(), tmp_path / "model")
    weights, slot = 4 * model.num_parameters(), kv.bytes_a_slot(64, model, torch.float32)
    room = 2 * weights + 20 * sum(slot)
    config = configs.load(None, [f"model.path={place}", "model.max_length=64", f"rollout.workers={workers}"])
    monkeypatch.setattr(models, "device", lambda _: torch.device("cuda", 0))
    monkeypatch.setattr(models, "gpus", lambda _: ["0"])
    monkeypatch.setattr(kv, "free", lambda _: room)
    slots = kv.slots_in(room // workers - weights, slot)
    assert local.check(config, None) == f"in the run's own process, auto, {slots} episodes at a time"
