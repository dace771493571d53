"""The policy against a plain model that reads everything anew for every token."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from ipr.engine import attention
from ipr.engine.kernels import TILE
from ipr.engine.rows import Guesses, Seen, Texts, accept, chances, different, follow, guess, keep
from ipr.policies import hf
from ipr.policies.hf import TransformersPolicy, draw
from ipr.rollout import play, replay
from ipr.tokens import ChatTokens
from ipr.types import Completion, IprError, Job, Message, Prefix, Sampling, Turn, derive_seed
from tests import toy

GREEDY = Sampling(0.0, 12)
SAMPLED = Sampling(1.0, 12)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # faster for tiny models, and for neighbours
    yield
    torch.set_num_threads(before)


def make(model: Any = None, *, slots: int = 8, max_length: int = 512) -> TransformersPolicy:
    return TransformersPolicy(model or toy.model(), toy.tokenizer(), "tiny", max_length=max_length, slots=slots)


@torch.no_grad()
def plain(model: Any, turn: Turn, sampling: Sampling) -> tuple[int, ...]:
    """The tokens of a turn, by one whole forward pass a token."""
    chat = ChatTokens(toy.tokenizer())
    ids, written = chat.prompt(turn.conversation), []
    while len(written) < sampling.max_new_tokens and chat.end_id not in written:
        logits = model(torch.tensor([ids + written])).logits[:, -1]
        seeds = np.array([turn.seed], dtype=np.uint64)
        written.append(int(draw(logits, sampling.temperature, seeds, len(written))[0]))
    return tuple(written)


def conversation(task_id: str = "train-0", t: int = 0) -> tuple[Message, ...]:
    return (*toy.PROMPT, *toy.expert(task_id).history(t))


def turns(n: int, sampled: bool = False) -> list[Turn]:
    """Of several tasks and lengths, some of them equal but for the seed."""
    return [
        Turn(conversation(f"train-{i // 4}", i % 3), derive_seed(7, i) if sampled else 0, session=i) for i in range(n)
    ]


def go_on(turn: Turn, answer: Completion, observation: str) -> Turn:
    more = (Message("assistant", answer.text), Message("user", observation))
    return replace(turn, conversation=(*turn.conversation, *more), seed=turn.seed + 1)


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_sessions_over_several_turns_equal_reading_everything_anew(sampling: Sampling):
    model = toy.model()
    policy = make(model, slots=16)
    asked = turns(12, sampled=True)
    for observation in ("Nothing happens.", "You are at box 3. You see a ring.", "You see nothing."):
        answers = policy.generate(asked, sampling)
        assert [a.token_ids for a in answers] == [plain(model, turn, sampling) for turn in asked]
        assert [a.text for a in answers] == [policy.chat.text(a.token_ids) for a in answers]
        # Not every session comes back in every round.
        asked = [go_on(t, a, observation) for t, a in zip(asked, answers, strict=True)][1:]


def test_only_what_is_new_is_fed(monkeypatch: pytest.MonkeyPatch):
    policy = make()
    fed: list[int] = []
    forward = policy._forward
    monkeypatch.setattr(policy, "_forward", lambda ids, *rest: (fed.append(len(ids)), forward(ids, *rest))[1])
    one = Sampling(0.0, 1)
    base = conversation("train-0", 2)
    asked = [Turn(base, seed=i, session=i) for i in range(5)]
    answers = policy.generate(asked, one)
    length = len(policy.chat.prompt(base))
    assert sum(fed) == length, "five forks are read once"

    fed.clear()
    again = [go_on(t, a, "Nothing happens.") for t, a in zip(asked, answers, strict=True)]
    policy.generate(again, one)
    new = [len(policy.chat.prompt(t.conversation)) - length for t in again]
    assert sum(fed) <= sum(new) + 5  # the answers' text may have other tokens than were drawn

    fed.clear()
    policy.generate([Turn(conversation("train-0", 3), session="longer")], one)
    assert sum(fed) == len(policy.chat.prompt(conversation("train-0", 3))) - length, "another row held the beginning"

    fed.clear()
    fresh = make()
    forward = fresh._forward
    monkeypatch.setattr(fresh, "_forward", lambda ids, *rest: (fed.append(len(ids)), forward(ids, *rest))[1])
    prompts = [conversation(f"train-{i}") for i in range(6)]
    fresh.generate([Turn(p, session=i) for i, p in enumerate(prompts)], one)
    ids = [fresh.chat.prompt(p) for p in prompts]
    shared = next(k for k in range(len(ids[0])) if len({row[k] for row in ids}) > 1)
    assert sum(fed) == shared + sum(len(row) - shared for row in ids), "what all begin with is read once"


def test_forks_equal_separate_episodes():
    asked = [Turn(conversation("train-1", 2), derive_seed(3, i), session=i) for i in range(6)]
    together = make().generate(asked, SAMPLED)
    apart = [make().generate([turn], SAMPLED)[0] for turn in asked]
    assert together == apart
    assert len({a.token_ids for a in together}) > 1, "seeds make a difference"


@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize("worth", [9, 12, 1000])
def test_attention_over_what_rows_share_is_attention(monkeypatch: pytest.MonkeyPatch, width: int, worth: int):
    monkeypatch.setattr(attention, "_WORTH_A_BRANCH", worth)
    chance = torch.Generator().manual_seed(0)
    pool = (torch.randn(8, 2, 64, 8, generator=chance), torch.randn(8, 2, 64, 8, generator=chance))
    ids = np.random.default_rng(0).integers(9, size=(8, 64))
    # All begin alike; 1, 4 and 7 go on alike, and of them 4 and 7 further still.
    for row, donor, shared in ((1, 0, 12), (2, 0, 12), (4, 1, 22), (7, 4, 31), (4, 1, 22), (5, 0, 12)):
        for side in pool:
            side[row, :, :shared] = side[donor, :, :shared]
        ids[row, :shared] = ids[donor, :shared]
    rows, lengths = np.array([0, 1, 2, 4, 5, 7]), np.array([33, 50, 12, 32, 45, 40])
    sharing = attention.Sharing(ids, rows, lengths)
    branches = {9: {(6, 0, 12), (3, 12, 22), (2, 22, 31)}, 12: {(6, 0, 12), (2, 12, 31)}, 1000: set()}
    assert {(b - a, s, e) for _, s, e, a, b in sharing._branches} == branches[worth]
    for going in ([0, 1, 2, 3, 4, 5], [1, 3, 4]):  # some are done after the first pass
        positions = lengths[going][:, None] + np.arange(width)
        for side in pool:
            new = torch.randn(2, positions.size, 8)
            side[np.repeat(rows[going], width), :, positions.ravel()] = new.transpose(0, 1)
        query = torch.randn(positions.size, 6, 8)
        sharing.begin(rows[going], lengths[going], np.full(len(going), width))
        tiles = pool[0].unflatten(2, (-1, TILE)).transpose(-1, -2).contiguous()
        found = sharing.attend(query, tiles, pool[1])
        where = zip(np.repeat(rows[going], width), positions.ravel(), strict=True)
        for q, (row, position), out in zip(query, where, found, strict=True):
            keys, values = (side[row, :, : position + 1].repeat_interleave(3, 0) for side in pool)
            weights = torch.softmax(keys @ q[..., None], 1)
            assert torch.allclose(out, (weights * values).sum(1), atol=1e-5)
        lengths[going] += width


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_right_guesses_save_passes_and_change_no_token(monkeypatch: pytest.MonkeyPatch, temperature: float):
    model, sampling = toy.model(), Sampling(temperature, 40)
    policy, asked = make(model, slots=16), turns(6, sampled=True)
    passes: list[int] = []
    forward = policy._forward
    monkeypatch.setattr(policy, "_forward", lambda ids, *rest: (passes.append(len(ids)), forward(ids, *rest))[1])
    first = policy.generate(asked, sampling)
    needed = len(passes)
    again = policy.generate([replace(turn, session=f"again {turn.session}") for turn in asked], sampling)
    assert again == first
    assert [a.token_ids for a in again] == [plain(model, turn, sampling) for turn in asked]
    assert len(passes) - needed < needed


@pytest.mark.parametrize("temperature", [0.0, 0.1])
def test_what_has_the_same_tokens_is_run_once(monkeypatch: pytest.MonkeyPatch, temperature: float):
    model, sampling = toy.model(), Sampling(temperature, 20)
    fed: list[int] = []

    def run(asked: list[list[Turn]]) -> list[list[Completion]]:
        policy = make(model, slots=16)
        forward = policy._forward
        monkeypatch.setattr(policy, "_forward", lambda ids, *rest: (fed.append(len(ids)), forward(ids, *rest))[1])
        fed.clear()
        found = []
        for turns in asked:
            found.append(policy.generate(turns, sampling))
            # All play on with what the first one said.
            asked = [[go_on(t, found[-1][0], "Nothing happens.") for t in turns]]
        return [*found, policy.generate(asked[0], sampling)]

    one = run([[Turn(conversation(), 5, session=0)]])
    alone = sum(fed)
    # With equal seeds nobody ever draws anything else; with others they part.
    assert run([[Turn(conversation(), 5, session=i) for i in range(6)]]) == [answers * 6 for answers in one]
    assert sum(fed) == alone
    apart = [Turn(conversation(), derive_seed(5, i), session=i) for i in range(6)]
    assert [a.token_ids for a in run([apart])[0]] == [plain(model, turn, sampling) for turn in apart]
    assert temperature == 0 or sum(fed) > 2 * alone


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_what_is_remembered_is_what_would_be_drawn(temperature: float):
    chance = np.random.default_rng(0)
    logits, ends = torch.from_numpy(chance.normal(scale=3, size=(300, 50))), np.array([-1])
    texts, seen, guesses = Texts.empty(600, 9), Seen.empty(), Guesses.empty()
    leaders, others = np.arange(300), np.arange(300, 600)
    for row in range(600):
        texts.begin(row, 0, np.array([row % 300, row % 300 % 7]), row, 3, guesses)
    none = np.zeros((0, 16), dtype=np.int64), np.zeros(300, dtype=np.int64)
    drawn, cumulative = hf._draw(logits, temperature, chances(texts, leaders, none[1]))
    keep(texts, leaders, seen, *none, drawn, np.empty((300, 0)) if cumulative is None else cumulative.numpy())
    expected = hf._draw(logits, temperature, chances(texts, others, none[1]))[0]
    ended, followed = follow(texts, others, seen, temperature > 0, ends)
    assert 0.6 < followed / 300 <= 1
    assert ended.sum() == followed, "the limit is one token"
    assert (texts.ids[others, 2] == expected)[ended].all()
    assert (texts.leaders[others] == np.where(ended, leaders, -1)).all()
    # What comes after other tokens is not known, nor what was forgotten.
    assert follow(texts, others[ended], seen, temperature > 0, ends)[1] == 0
    seen.forget()
    assert follow(texts, others[~ended], seen, temperature > 0, ends)[1] == 0


def test_a_stream_answers_as_turns_come():
    model, asked = toy.model(), turns(12, sampled=True)
    policy, free = make(model, slots=4), make(model, slots=16)
    expected, more = free.generate(asked, SAMPLED), [t for t in asked if t.session % 2]  # type: ignore[operator]
    answers = {turn.session: answer for turn, answer in zip(asked, expected, strict=True)}
    again = [go_on(turn, answers[turn.session], "You see a ring.") for turn in more]
    expected += free.generate(again, SAMPLED)
    waiting, found = deque(asked), {}
    for turn, answer in policy.stream(waiting, SAMPLED):
        found[turn.session, len(turn.conversation)] = answer
        following = [t for t in again if t.session == turn.session and len(t.conversation) > len(turn.conversation)]
        waiting.extend(following)
    assert found == {(t.session, len(t.conversation)): a for t, a in zip([*asked, *again], expected, strict=True)}
    with pytest.raises(ValueError, match="one turn at a time"):
        list(policy.stream(deque([Turn(conversation(), session="s")] * 2), SAMPLED))


def test_guesses_are_what_came_after_the_same_tokens():
    texts, guesses, context = Texts.empty(6, 40), Guesses.empty(), list(range(10, 18))
    other = [*range(90, 95), *context[5:]]
    for row, text in enumerate(
        [
            [*context, 1, 2, 3, 4, 5, 6, 7],
            [*[i + 30 for i in context[:5]], *context[5:], 8, 9],
            context,
            other,
            [i + 60 for i in context],
        ]
    ):
        texts.begin(row, 0, np.array(text), 0, 40, guesses)
    likely, kinds, worth = guess(texts, np.array([2, 4]), guesses, 0.5)
    assert (likely[:, 0].tolist(), worth.tolist()) == ([1, 0], [0, 0]), "none are worth it before some were right"
    assert kinds[0, 0] > 0 == kinds[1, 0], "never seen"

    def judged(rows: list[int], right: bool) -> list[list[int]]:
        """What is guessed after these rows' tokens, of which one was right, or not."""
        likely, kinds, worth = guess(texts, np.array(rows), guesses, 0.5)
        for i, row in enumerate(rows):  # as if they had been alone, and only the guesses that are fed had been made
            drawn = likely[i : i + 1, : worth[i] + 1].ravel() + (not right)
            known = texts.known[row]
            one = slice(i, i + 1)
            accept(texts, np.array([row]), guesses, likely[one], kinds[one], worth[one], drawn, np.array([-1]))
            texts.known[row] = known
        return [guessed[:n].tolist() for guessed, n in zip(likely, worth, strict=True)]

    for _ in range(60):
        judged([2, 3], right=True)
    eight, three = judged([2, 3], right=True)
    assert (eight[:7], three[:2]) == ([1, 2, 3, 4, 5, 6, 7], [8, 9]), "the last time that the context was seen"
    for _ in range(60):  # what comes is always another token than the last time, which is what is guessed
        judged([2], right=False)
    assert judged([2], right=True) == [[]]
    guesses.forget()
    assert guess(texts, np.array([2]), guesses, 0.5)[1].tolist() == [[0] * 16]


def test_of_rows_with_the_same_tokens_one_is_fed():
    texts = Texts.empty(6, 9)
    for row, (text, held) in enumerate([("abc", 0), ("abd", 2), ("abc", 2), ("ab", 1), ("abc", 2), ("abd", 0)]):
        texts.begin(row, 0, np.array([ord(c) for c in text]), 0, 9, Guesses.empty())
        texts.lengths[row] = held
    assert different(texts, np.arange(6)).tolist() == [2, 1, 3], "the first that lacks least"


def test_a_session_that_begins_anew_with_less():
    policy = make()
    for length in (3, 2, 0, 1):  # the next prompt has only a beginning in common, or is one
        asked = Turn(conversation("train-1", length), 5, session="s")
        assert policy.generate([asked], SAMPLED) == make().generate([asked], SAMPLED)


def test_a_sample_does_not_depend_on_its_batch():
    model = toy.model()
    asked = turns(64, sampled=True)
    large = make(model, slots=64).generate(asked, SAMPLED)
    small = make(model, slots=1)
    assert large == [small.generate([turn], SAMPLED)[0] for turn in asked]
    reverse = make(model, slots=64).generate(asked[::-1], SAMPLED)
    assert large == reverse[::-1]


def test_same_calls_same_answers():
    asked = turns(10, sampled=True)
    assert make().generate(asked, SAMPLED) == make().generate(asked, SAMPLED)
    policy = make()
    first = policy.generate(asked, SAMPLED)
    assert policy.generate(asked, SAMPLED) == first, "a session may ask again"


def test_more_sessions_than_slots_push_out_the_idle_ones():
    model = toy.model()
    policy, free = make(model, slots=3), make(model, slots=64)
    asked = turns(8, sampled=True)
    for observation in ("Nothing happens.", "You see a ring."):
        answers = policy.generate(asked, SAMPLED)
        assert answers == free.generate(asked, SAMPLED)
        assert len(policy._rows._of) == 3
        assert {side.shape[0] for sides in policy._pool._sides for side in sides} == {3}
        asked = [go_on(t, a, observation) for t, a in zip(asked, answers, strict=True)]
    # Of three sessions the one that was idle longest goes.
    policy = make(model, slots=3)
    for session in (0, 1, 2, 0, 3):
        policy.generate([Turn(conversation(), session=session)], GREEDY)
    assert list(policy._rows._of) == [2, 0, 3]


def test_closed_last_and_nameless_sessions_leave_their_row():
    policy = make(slots=2)
    policy.generate([Turn(conversation(), session="a"), Turn(conversation("train-1"), session="b")], GREEDY)
    assert set(policy._rows._of) == {"a", "b"}
    policy.close_session("a")
    policy.close_session("a")
    policy.close_session("unknown")
    assert set(policy._rows._of) == {"b"}
    policy.generate([Turn(conversation(), session="b", last=True), Turn(conversation("train-2"))], GREEDY)
    assert not policy._rows._of
    assert sorted(policy._rows._free) == [0, 1]


def test_a_full_context():
    model = toy.model()
    base = conversation("train-0", 1)
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
    assert make(toy.model(max_length=64), max_length=4096).max_length == 64, "the model's own limit"


def test_it_stops_at_the_end_of_the_turn():
    model = toy.model()
    policy = make(model, slots=64)
    answers = policy.generate(turns(60, sampled=True), Sampling(1.0, 60))
    stopped = [a for a in answers if a.finish == "stop"]
    assert stopped
    assert all(a.token_ids.index(policy.chat.end_id) == len(a.token_ids) - 1 for a in stopped)
    assert all(policy.chat.end_id not in a.token_ids for a in answers if a.finish != "stop")


def test_long_prompts_are_read_in_pieces(monkeypatch: pytest.MonkeyPatch):
    model = toy.model()
    asked = turns(9)
    whole = make(model, slots=16).generate(asked, GREEDY)
    monkeypatch.setattr(hf, "SEGMENT_TOKENS", 24)
    monkeypatch.setattr(hf, "_PASS_TOKENS", 50)
    assert make(model, slots=16).generate(asked, GREEDY) == whole


def test_few_tokens_a_pass_are_enough(monkeypatch: pytest.MonkeyPatch):
    model, asked = toy.model(), turns(9, sampled=True)
    whole = make(model, slots=16).generate(asked, SAMPLED)
    monkeypatch.setattr(hf, "_SCORES", 1)
    for slots in (16, 1):
        policy = make(model, slots=slots)
        assert policy._pass_written == slots + 64
        assert policy.generate(asked, SAMPLED) == whole


def test_the_model_is_left_as_it_was():
    model = toy.model()
    ids = torch.tensor([ChatTokens(toy.tokenizer()).prompt(conversation())])
    before = model.config._attn_implementation
    with torch.no_grad():
        expected = model(ids).logits
        make(model).generate(turns(3), GREEDY)
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
def test_other_architectures(build: Any):
    torch.manual_seed(0)
    model = build().eval()
    policy = make(model)
    asked = turns(5)
    for observation in ("Nothing happens.", "You are at box 2. You see nothing."):
        answers = policy.generate(asked, GREEDY)
        assert [a.token_ids for a in answers] == [plain(model, turn, GREEDY) for turn in asked]
        asked = [go_on(t, a, observation) for t, a in zip(asked, answers, strict=True)]


def test_a_model_that_cannot_be_played_is_refused():
    from transformers import MambaConfig, MambaForCausalLM

    config = MambaConfig(vocab_size=len(toy.tokenizer()), hidden_size=16, num_hidden_layers=1, state_size=4)
    with pytest.raises(IprError, match="models of type mamba cannot be played"):
        make(MambaForCausalLM(config))


def test_a_session_twice_in_a_call_is_refused():
    with pytest.raises(ValueError, match="one turn"):
        make().generate([Turn(conversation(), session=1)] * 2, GREEDY)


def test_a_failed_call_leaves_no_half_read_rows(monkeypatch: pytest.MonkeyPatch):
    model = toy.model()
    policy = make(model)
    expected = policy.generate(turns(4), GREEDY)

    def fail(*_: Any) -> Any:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(hf, "_draw", fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            policy.generate(turns(6), GREEDY)
    assert policy.generate(turns(4), GREEDY) == expected


def test_who_stops_listening_leaves_every_row_free():
    model, asked = toy.model(), turns(6, sampled=True)
    policy = make(model, slots=4)
    for turn, _ in policy.stream(deque(asked), SAMPLED):
        for other in asked:  # as `rollout.play` does where the environment fails
            policy.close_session(other.session)
        assert turn in asked
        break
    assert sorted(policy._rows._free) == [0, 1, 2, 3]
    assert policy.generate(asked, SAMPLED) == make(model, slots=16).generate(asked, SAMPLED)


def test_no_turns():
    assert make().generate([], GREEDY) == []


def test_draw_takes_the_first_token_above_the_uniform():
    logits = torch.tensor([[0.2, 0.3, 0.0, 0.5]]).log().repeat(4000, 1)
    seeds = np.array([derive_seed("draw", i) for i in range(4000)], dtype=np.uint64)
    drawn = draw(logits, 1.0, seeds, 3)
    u = hf.uniforms(seeds, 3)
    np.testing.assert_array_equal(drawn, np.select([u < 0.2, u < 0.5], [0, 1], 3))
    assert np.bincount(drawn, minlength=4) / 4000 == pytest.approx([0.2, 0.3, 0, 0.5], abs=0.03)
    # Squared and normalised at temperature 1/2.
    cold = np.bincount(draw(logits, 0.5, seeds, 3), minlength=4) / 4000
    assert cold == pytest.approx([0.04 / 0.38, 0.09 / 0.38, 0, 0.25 / 0.38], abs=0.03)
    assert (draw(logits, 0.0, seeds, 3) == 3).all()
    assert not (draw(logits, 1.0, seeds, 4) == drawn).all()


def test_uniforms_are_splitmix64():
    # First outputs of the reference implementation (Vigna, splitmix64.c) for seed 1234567.
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    seeds = np.array([1234567], dtype=np.uint64)
    assert [hf.uniforms(seeds, i)[0] for i in range(4)] == [(x >> 11) * 2.0**-53 for x in expected]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_play_with_a_model_is_a_function_of_the_jobs(temperature: float):
    spec = toy.spec(max_steps=4)
    model = toy.model()
    prefixes = [toy.expert(f"train-{i}").prefix(t) for i in range(3) for t in range(3)]
    jobs = [Job(p, derive_seed(p.key(), s)) for p in prefixes for s in range(2)]
    policy = make(model, slots=8)
    played = play(spec, policy, jobs, Sampling(temperature, 10), slots=8)
    assert not policy._rows._of, "all sessions are closed"
    assert play(spec, policy, jobs, Sampling(temperature, 10), slots=8) == played
    assert play(spec, make(model, slots=3), jobs, Sampling(temperature, 10), slots=5) == played
    assert all(replay(spec, t) == [] for t in played)
    alone = [play(spec, make(model, slots=1), [job], Sampling(temperature, 10))[0] for job in jobs[::5]]
    assert alone == played[::5]


def test_play_ends_when_the_context_is_full():
    spec = toy.spec(max_steps=9)
    played = play(spec, make(slots=4, max_length=150), [Job(Prefix(f"dev-{i}")) for i in range(4)], GREEDY)
    assert {t.ending for t in played} == {"overflow"}
    assert all(0 < len(t.steps) < 9 and t.reward == 0 for t in played)
