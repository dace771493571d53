"""The engine, ids in and ids out, against a plain model that reads everything anew for every token."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import Any

import pytest
import torch

from ipr import profiling
from ipr.engine import Generated, Request, batching, generate, sampling
from ipr.types import IprError, derive_seed
from tests import toy
from tests.engine.asking import CHAT, ENDS, Passes, go_on, make, plain, prompt, requests

both = pytest.mark.parametrize("accelerate", [True, False], ids=["accelerated", "plain"])


@both
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_sessions_over_several_turns_equal_reading_everything_anew(temperature: float, accelerate: bool) -> None:
    model = toy.model()
    engine, asked = make(model, slots=16, accelerate=accelerate), requests(12)
    for observation in ("Nothing happens.", "You are at box 3. You see a ring.", "You see nothing."):
        answers = generate(engine, asked, temperature)
        assert answers == [plain(model, request, temperature) for request in asked]
        # Not every session comes back in every round.
        asked = [go_on(r, a, observation) for r, a in zip(asked, answers, strict=True)][1:]


def test_greedy_tokens_are_those_of_transformers_own_generate() -> None:
    model = toy.model()
    for request, answer in zip(requests(6, 20), generate(make(model), requests(6, 20), 0.0), strict=True):
        ids = torch.tensor([request.prompt])
        found = model.generate(ids, max_new_tokens=20, do_sample=False, eos_token_id=ENDS, pad_token_id=0)
        assert answer.ids == tuple(found[0, len(request.prompt) :].tolist())


@both
def test_only_what_is_new_is_fed(accelerate: bool) -> None:
    model = toy.model()
    engine, fed, base = make(model, accelerate=accelerate), Passes(model), prompt("train-0", 2)
    asked = [Request(base, 1, seed, session=seed) for seed in range(5)]
    answers = generate(engine, asked, 0.0)
    # Forks are read once; without merging the last token is fed for each, because its logits are wanted.
    assert fed.taken() == len(base) + (0 if accelerate else 4)

    again = [go_on(r, a) for r, a in zip(asked, answers, strict=True)]
    generate(engine, again, 0.0)
    new = len(again[0].prompt) - len(base)
    assert fed.taken() == (new if accelerate else 5 * new), "all say the same"

    longer = prompt("train-0", 3)
    generate(engine, [Request(longer, 1, session="longer")], 0.0)
    assert fed.taken() == len(longer) - len(base), "another slot had the beginning"

    fresh = make(model, accelerate=accelerate)
    prompts = [prompt(f"train-{i}") for i in range(6)]
    generate(fresh, [Request(ids, 1, session=i) for i, ids in enumerate(prompts)], 0.0)
    shared = next(k for k in range(len(prompts[0])) if len({ids[k] for ids in prompts}) > 1)
    assert fed.taken() == shared + sum(len(ids) - shared for ids in prompts), "what all begin with is read once"


def test_equal_prompts_are_read_once_whatever_is_drawn_after_them() -> None:
    """Each sample parts from the others at its first token, most by an unlikely one."""
    model, base = toy.model(), prompt("train-0", 3)
    engine, fed = make(model, slots=16), Passes(model)
    asked = [Request(base, 4, derive_seed(3, i), session=i) for i in range(16)]
    answers = generate(engine, asked, 1.0)
    assert fed.taken() <= len(base) + sum(len(answer.ids) for answer in answers)
    assert len({answer.ids[0] for answer in answers}) > 8
    assert answers == [plain(model, request, 1.0) for request in asked]


def test_forks_equal_separate_episodes() -> None:
    asked = [Request(prompt("train-1", 2), 12, derive_seed(3, i), session=i) for i in range(6)]
    beside = generate(make(), asked, 1.0)
    assert beside == [generate(make(), [request], 1.0)[0] for request in asked]
    assert len({answer.ids for answer in beside}) > 1, "seeds make a difference"


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_right_drafts_save_passes_and_change_no_token(temperature: float) -> None:
    model, asked = toy.model(), requests(6, 40)
    engine, passes = make(model, slots=16), Passes(model)
    first = generate(engine, asked, temperature)
    needed = len(passes)
    again = generate(engine, [replace(request, session=f"again {request.session}") for request in asked], temperature)
    assert again == first == [plain(model, request, temperature) for request in asked]
    assert len(passes) - 2 * needed < 0


@pytest.mark.parametrize("temperature", [0.0, 0.1])
def test_what_has_the_same_tokens_is_run_once(temperature: float) -> None:
    model = toy.model()
    fed = Passes(model)

    def run(asked: list[Request]) -> tuple[list[list[Generated]], int]:
        """Two turns, the second of which goes on with what the first one said; and what was fed."""
        engine = make(model, slots=16)
        first = generate(engine, asked, temperature)
        second = generate(engine, [go_on(request, first[0]) for request in asked], temperature)
        return [first, second], fed.taken()

    one, alone = run([Request(prompt(), 20, 5, session=0)])
    # With equal seeds nobody ever draws anything else; with others they part.
    moment = profiling.now()
    assert run([Request(prompt(), 20, 5, session=i) for i in range(6)]) == ([answers * 6 for answers in one], alone)
    assert profiling.since(moment)["followed"] == 5 * sum(len(answers[0].ids) for answers in one)
    apart = [Request(prompt(), 20, derive_seed(5, i), session=i) for i in range(6)]
    found, fed_apart = run(apart)
    fed.clear()
    assert found[0] == [plain(model, request, temperature) for request in apart]
    assert temperature == 0 or fed_apart > 2 * alone


@both
def test_a_stream_answers_as_requests_come(accelerate: bool) -> None:
    model, asked = toy.model(), requests(12)
    engine, free = make(model, slots=4, accelerate=accelerate), make(model, slots=16)
    expected = generate(free, asked, 1.0)
    again = {r: go_on(r, a, "You see a ring.") for r, a in zip(asked, expected, strict=True) if r.session % 2}  # type: ignore[operator]
    expected += generate(free, list(again.values()), 1.0)
    waiting, found = deque(asked), {}
    for request, answer in engine.stream(waiting, 1.0):
        found[request] = answer
        if request in again:
            waiting.append(again[request])
    assert found == dict(zip([*asked, *again.values()], expected, strict=True))
    with pytest.raises(ValueError, match="one turn at a time"):
        list(engine.stream(deque([Request(prompt(), 9, session="s"), Request(prompt(), 9, session="s")]), 1.0))


def test_a_session_that_begins_anew_with_less() -> None:
    engine = make()
    for length in (3, 2, 0, 1):  # the next prompt has only a beginning in common, or is one
        asked = Request(prompt("train-1", length), 12, 5, session="s")
        assert generate(engine, [asked], 1.0) == generate(make(), [asked], 1.0)


@both
def test_a_sample_does_not_depend_on_its_batch(accelerate: bool) -> None:
    model, asked = toy.model(), requests(64)
    large = generate(make(model, slots=64, accelerate=accelerate), asked, 1.0)
    small = make(model, slots=1)
    assert large == [generate(small, [request], 1.0)[0] for request in asked]
    assert large == generate(make(model, slots=64, accelerate=accelerate), asked[::-1], 1.0)[::-1]


def test_same_calls_same_answers() -> None:
    asked, engine = requests(10), make()
    first = generate(engine, asked, 1.0)
    assert generate(make(), asked, 1.0) == first
    assert generate(engine, asked, 1.0) == first, "a session may ask again"


def test_more_sessions_than_slots_push_out_the_idle_ones() -> None:
    model = toy.model()
    engine, free, asked = make(model, slots=3), make(model, slots=64), requests(8)
    for observation in ("Nothing happens.", "You see a ring."):
        answers = generate(engine, asked, 1.0)
        assert answers == generate(free, asked, 1.0)
        asked = [go_on(r, a, observation) for r, a in zip(asked, answers, strict=True)]
    # Of three sessions the one that was idle longest goes, and pays for its whole text when it comes back.
    engine, fed = make(model, slots=3), Passes(model)
    each = [Request([*prompt(f"train-{i}"), 5 + i], 1, session=i) for i in range(4)]
    shared = next(k for k in range(999) if len({request.prompt[k] for request in each}) > 1)
    for session in (0, 1, 2, 0, 3):
        generate(engine, [each[session]], 0.0)
    fed.clear()
    for session in (2, 0, 3):
        generate(engine, [each[session]], 0.0)
        assert fed.taken() == 1, "it is still there"
    generate(engine, [each[1]], 0.0)
    assert fed.taken() == len(each[1].prompt) - shared


def test_closed_last_and_nameless_sessions_leave_their_slot() -> None:
    """A slot that is free does not push out a session; an engine without sessions has forgotten everything."""
    model = toy.model()
    engine, fed = make(model, slots=2), Passes(model)
    a, b, c = (Request([5 + i] * 30, 1, session=name) for i, name in enumerate("abc"))
    generate(engine, [a, b], 0.0)
    engine.close_session("a")
    engine.close_session("a")
    engine.close_session("unknown")
    generate(engine, [c], 0.0)
    fed.clear()
    generate(engine, [b], 0.0)
    assert fed.taken() == 1, "b was not pushed out"
    generate(engine, [replace(b, last=True), replace(c, last=True)], 0.0)
    generate(engine, [Request([9] * 30, 1), Request([11] * 30, 1)], 0.0)
    fed.clear()
    for request in (a, b, c):
        generate(engine, [replace(request, last=True)], 0.0)
        assert fed.taken() == 30


def test_what_fits_into_the_context() -> None:
    model, base = toy.model(), prompt("train-0", 1)
    free = generate(make(model), [Request(base, 12)], 0.0)[0]
    assert (free.finish, len(free.ids)) == ("length", 12)
    for room in (0, 1, 5, 12):
        engine = make(model, max_length=len(base) + room)
        short, none = generate(engine, [Request(base, room, session=0), Request([5] * 999, 0, session=1)], 0.0)
        assert short == Generated(free.ids[:room], "length")
        assert none == Generated((), "length")
        with pytest.raises(ValueError, match="do not fit"):
            generate(engine, [Request(base, room + 1)], 0.0)
    assert generate(make(model, max_length=len(base) + 12), [Request(base, 12)], 0.0)[0] == free


@both
def test_it_stops_at_the_end_of_the_turn(accelerate: bool) -> None:
    answers = generate(make(slots=64, accelerate=accelerate), requests(60, 60), 1.0)
    stopped = [a.ids for a in answers if a.finish == "stop"]
    assert stopped
    assert all(CHAT.end_id in ENDS and ids[-1] in ENDS and not set(ids[:-1]) & set(ENDS) for ids in stopped)
    assert all(not set(a.ids) & set(ENDS) and len(a.ids) == 60 for a in answers if a.finish != "stop")


@both
def test_long_prompts_are_read_in_pieces(monkeypatch: pytest.MonkeyPatch, accelerate: bool) -> None:
    model, asked = toy.model(), requests(9)
    whole = generate(make(model, slots=16), asked, 0.0)
    monkeypatch.setattr(batching, "PIECE_TOKENS", 24)
    monkeypatch.setattr(batching, "PASS_TOKENS", 50)
    passes = Passes(model)
    assert generate(make(model, slots=16, accelerate=accelerate), asked, 0.0) == whole
    assert max(passes) <= 9 * 16 + 50


def test_few_tokens_a_pass_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    model, asked = toy.model(), requests(9)
    whole = generate(make(model, slots=16), asked, 1.0)
    monkeypatch.setattr(batching, "SCORES", 1)
    for slots in (16, 1):
        assert generate(make(model, slots=slots), asked, 1.0) == whole


def test_key_values_of_half_the_width() -> None:
    model, asked = toy.model(), requests(6)
    found = [generate(make(model, kv_dtype=torch.bfloat16, accelerate=on), asked, 0.0) for on in (True, False)]
    assert found[0] == found[1]
    assert [answer.ids[0] for answer in found[0]] == [answer.ids[0] for answer in generate(make(model), asked, 0.0)]


def test_the_model_is_left_as_it_was() -> None:
    model = toy.model()
    ids = torch.tensor([prompt()])
    before = model.config._attn_implementation
    with torch.no_grad():
        expected = model(ids).logits
        generate(make(model), requests(3), 0.0)
        assert model.config._attn_implementation == before
        assert torch.equal(model(ids).logits, expected)


def _mistral() -> Any:
    from transformers import MistralConfig, MistralForCausalLM

    return MistralForCausalLM(
        MistralConfig(
            vocab_size=len(toy.tokenizer()),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=1,
            max_position_embeddings=512,
            sliding_window=40,
            initializer_range=0.2,
        )
    )


def _qwen() -> Any:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(toy.tokenizer()),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
            max_position_embeddings=512,
            initializer_range=0.2,
        )
    )


def _gpt2() -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    size = len(toy.tokenizer())
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=size,
            n_embd=32,
            n_layer=2,
            n_head=4,
            n_positions=512,
            initializer_range=0.2,
            bos_token_id=1,
            eos_token_id=4,
        )
    )


def _lora() -> Any:
    from peft import LoraConfig, TaskType, get_peft_model

    adapter = LoraConfig(task_type=TaskType.CAUSAL_LM, r=4, target_modules="all-linear", init_lora_weights=False)
    return get_peft_model(toy.model(), adapter)


@pytest.mark.parametrize("build", [_mistral, _qwen, _gpt2, _lora])
def test_other_architectures(build: Any) -> None:
    torch.manual_seed(0)
    model = build().eval()
    for accelerate in (True, False):
        engine, asked = make(model, accelerate=accelerate), requests(5, sampled=False)
        for observation in ("Nothing happens.", "You are at box 2. You see nothing."):
            answers = generate(engine, asked, 0.0)
            assert answers == [plain(model, request, 0.0) for request in asked]
            asked = [go_on(r, a, observation) for r, a in zip(asked, answers, strict=True)]


def test_a_model_that_cannot_be_played_is_refused() -> None:
    from transformers import MambaConfig, MambaForCausalLM

    config = MambaConfig(vocab_size=len(toy.tokenizer()), hidden_size=16, num_hidden_layers=1, state_size=4)
    with pytest.raises(IprError, match="models of type mamba cannot be played"):
        make(MambaForCausalLM(config))


def test_a_session_twice_in_a_call_is_refused() -> None:
    with pytest.raises(ValueError, match="one turn"):
        generate(make(), [Request(prompt(), 9, session=1), Request(prompt(), 9, session=1)], 0.0)


def test_a_failed_call_leaves_no_half_read_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make()
    expected = generate(engine, requests(4), 0.0)

    def fail(*_: Any) -> Any:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(sampling, "draw", fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            generate(engine, requests(6), 0.0)
    assert generate(engine, requests(4), 0.0) == expected


def test_who_stops_listening_leaves_every_slot_free() -> None:
    model, asked = toy.model(), requests(6)
    engine, fed = make(model, slots=4), Passes(model)
    for request, _ in engine.stream(deque(asked), 1.0):
        for other in asked:  # as `rollout.play` does where the environment fails
            engine.close_session(other.session)
        assert request in asked
        break
    fed.clear()
    generate(engine, [Request(prompt(), 1)], 0.0)
    assert fed.taken() == len(prompt()), "nobody owns a slot, so nothing is kept"
    assert generate(engine, asked, 1.0) == generate(make(model, slots=16), asked, 1.0)


def test_no_requests() -> None:
    assert generate(make(), [], 0.0) == []
