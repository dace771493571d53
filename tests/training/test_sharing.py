"""Shared rows against the same rows padded: log-probabilities and gradients, for several architectures."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from ipr.config import LoraConfig, ModelConfig
from ipr.models import load_model, save_model
from ipr.training import trainer
from ipr.training.batches import Example, collate, pair_example
from ipr.training.sharing import Tree, shared_rows
from tests.training import tiny

SIZE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
}


@pytest.fixture(scope="module")
def chat():
    return tiny.make_chat()


@pytest.fixture(scope="module")
def examples(chat) -> list[Example]:
    """Pairs of which some have a history, and two share their chosen side whole."""
    pairs = [pair_example(chat, tiny.PROMPT, pair) for pair in tiny.make_pairs(6)]
    return [*pairs, Example((pairs[0].rows[0], pairs[1].rows[1]))]


def make(name: str, chat, **more: Any) -> Any:
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(vocab_size=len(chat.tokenizer), **SIZE | more)
    return transformers.AutoModelForCausalLM.from_config(config).float().eval()


def can_share(model: Any) -> bool:
    with shared_rows(model, 512) as share:
        return share


def gradients(model: Any, examples: list[Example], share: bool) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.zero_grad()
    chosen, rejected = trainer._pair_logps(model, examples, share)
    (chosen.mean() - (0.3 * rejected).sigmoid().sum()).backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return torch.stack([chosen, rejected]).detach(), found


def assert_equal(model: Any, examples: list[Example]) -> None:
    with shared_rows(model, 512):
        packed, mine = gradients(model, examples, True)
    padded, theirs = gradients(model, examples, False)
    torch.testing.assert_close(packed, padded, rtol=1e-4, atol=1e-4)
    assert mine.keys() == theirs.keys()
    for name, gradient in theirs.items():
        torch.testing.assert_close(mine[name], gradient, rtol=1e-3, atol=1e-5 * float(gradient.abs().max()) + 1e-7)


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("Llama", {}),
        ("Qwen3", {}),
        ("Mistral", {"sliding_window": 9}),  # shorter than what is shared, and than the trial's rows are not
        ("Gemma3Text", {"sliding_window": 9, "layer_types": ["sliding_attention", "full_attention"]}),
        ("GPTNeoX", {}),
        ("GPT2", {"n_embd": 32, "n_layer": 2, "n_head": 4}),
        ("Qwen3Moe", {"num_experts": 4, "moe_intermediate_size": 16, "num_experts_per_tok": 2}),
        ("Afmoe", {"num_experts": 4, "moe_intermediate_size": 16, "num_experts_per_tok": 2, "sliding_window": 9}),
    ],
)
def test_models_that_share_give_the_gradients_of_padded_rows(chat, examples, name, more):
    model = make(name, chat, **more)
    before = model.config._attn_implementation
    assert can_share(model)
    assert_equal(model, examples)
    assert model.config._attn_implementation == before


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("Gemma2", {"attn_logit_softcapping": 1.0}),
        ("GptOss", {"num_local_experts": 4, "num_experts_per_tok": 2}),
        ("Mamba", {"state_size": 4}),
        ("Bloom", {"n_layer": 2, "n_head": 4}),
        ("Nemotron", {}),
        ("Phimoe", {"num_local_experts": 4, "sliding_window": 9}),  # which only its own mask knows of
    ],
)
def test_models_that_cannot_share_train_on_padded_rows(chat, tmp_path, name, more):
    model = make(name, chat, **more)
    assert not can_share(model)
    assert tiny.prefer(model, tmp_path, tiny.CONFIG.model_copy(update={"epochs": 1})).updates == 3


@pytest.mark.parametrize("recomputes", [False, True])
@pytest.mark.parametrize("kind", ["longrope", "dynamic"])
def test_positions_scaled_by_a_rows_length_are_those_of_the_row_alone(chat, examples, kind, recomputes):
    """Also in a pair of which one side alone is beyond the original length."""
    lengths = sorted({len(row.ids) - 1 for example in examples for row in example.rows})
    original = lengths[len(lengths) // 2]
    rope: dict[str, Any] = {"rope_type": kind, "rope_theta": 10000.0}
    if kind == "dynamic":
        model = make("Llama", chat, rope_parameters=rope | {"factor": 4.0}, max_position_embeddings=original)
    else:
        rope |= {"short_factor": [1.0] * 4, "long_factor": [4.0] * 4, "original_max_position_embeddings": original}
        model = make("Phi3", chat, rope_parameters=rope, original_max_position_embeddings=original)
    with shared_rows(model, original, True) as short, shared_rows(model, original + 1, True) as long:
        assert (short, long) == (True, False)
    if recomputes:
        model.train().activation_checkpointing_enable()
    assert any(len({len(row.ids) - 1 > original for row in example.rows}) == 2 for example in examples)
    found, together = gradients(model, examples, False)
    alone = [gradients(model, [Example((row, row))], False)[0][0] for example in examples for row in example.rows]
    torch.testing.assert_close(found.T.flatten(), torch.cat(alone), rtol=1e-4, atol=1e-4)
    assert all(gradient.isfinite().all() for gradient in together.values())
    assert "forward" not in vars(model.model.rotary_emb), "as it was"


def test_lora_and_recomputed_activations(chat, examples, tmp_path):
    save_model(tiny.make_model(chat), chat.tokenizer, tmp_path)
    model = load_model(tmp_path, ModelConfig(device="cpu", lora=LoraConfig(rank=4, dropout=0.0)), training=True)
    for name, p in model.named_parameters():
        if "lora_B" in name:  # they start at 0, where half of the gradients are 0
            torch.nn.init.normal_(p, std=0.1)
    assert can_share(model)
    assert model.training
    assert_equal(model, examples)
    model.activation_checkpointing_enable()
    assert_equal(model, examples)


def test_what_rows_have_in_common_is_read_once():
    rows = [torch.tensor(row) for row in ([1, 2, 3, 7], [1, 2, 3, 4, 5], [1, 2, 3, 4, 6], [1, 9], [1, 2, 3, 4, 6])]
    tree = Tree(rows)
    assert len(tree.ids) == 8
    for row, place in zip(rows, tree.places, strict=True):
        assert torch.equal(tree.ids[place], row)
        assert torch.equal(tree.positions[place], torch.arange(len(row)))


def test_a_pass_reads_fewer_tokens_than_the_rows_have(chat, examples):
    rows = [row for example in examples for row in example.rows]
    packed, padded = collate(rows, True), collate(rows, False)
    assert isinstance(packed.inputs, Tree)
    assert len(packed.inputs.ids) < sum(len(row.ids) - 1 for row in rows) * 0.6
    for name in ("targets", "rows", "agent", "weights"):
        assert torch.equal(getattr(packed, name), getattr(padded, name))


@pytest.mark.parametrize(
    ("device", "dtype", "width", "kept"),
    [
        ("cuda", torch.bfloat16, 64, [True, False]),  # flash attention takes a branch that is whole, without a mask
        ("cuda", torch.float32, 64, [False, False]),
        ("cuda", torch.bfloat16, 320, [False, False]),
        ("cpu", torch.float32, 64, [True, True]),
    ],
)
def test_a_gpu_gets_as_many_heads_of_keys_as_its_kernels_take(
    device: str, dtype: torch.dtype, width: int, kept: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    tree, grouped = Tree([torch.tensor([1, 2, 3, 4]), torch.tensor([1, 2, 5])]), []

    def attention(query: Tensor, key: Tensor, value: Tensor, enable_gqa: bool, **_: Any) -> Tensor:
        assert key.shape == value.shape
        assert key.shape[1] == (2 if enable_gqa else 4)
        grouped.append(enable_gqa)
        return query

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", attention)
    monkeypatch.setattr(Tree, "_mask", lambda *_: None)  # made by what only a GPU has
    with FakeTensorMode():
        query, key, value = (torch.empty(1, heads, 5, width, device=device, dtype=dtype) for heads in (4, 2, 2))
        tree.attend(query, key, value, None, None, 0.0)
    assert grouped == kept
