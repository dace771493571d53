"""The engine on a device that is no CPU: nothing of a pass is left on the host, and slots are as many as fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig

from benchmarks import gpu
from ipr import models
from ipr.engine import Request, generate, kv, sampling
from ipr.engine.own_cache import OwnCacheEngine
from ipr.types import IprError
from tests import toy
from tests.engine.asking import make, requests


@pytest.mark.parametrize("family", ["llama", "mistral with a window"])
def test_a_pass_mixes_no_devices(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On "meta", which has shapes and no numbers: what would be on the CPU meets it, and torch says so."""

    def draw(logits: torch.Tensor, temperature: float, u: Any) -> Any:
        assert logits.device.type == "meta"
        with pytest.raises(NotImplementedError, match="meta"):  # all is done but for bringing the tokens here
            real(logits, temperature, u)
        return np.arange(len(logits)) % 7 + 9, None

    real = sampling.draw
    monkeypatch.setattr(sampling, "draw", draw)
    model = gpu.families()[family]().to("meta", torch.bfloat16)
    engine = make(model, slots=5)
    asked = [Request(gpu.prompt(40 + 20 * k, k // 2), 6, k, session=k) for k in range(7)]
    for temperature in (1.0, 0.0):
        answers = generate(engine, asked, temperature)
        asked = [
            Request([*request.prompt, *answer.ids, 9], 4, session=request.session)
            for request, answer in zip(asked, answers, strict=True)
        ]


@pytest.mark.parametrize(
    ("kind", "more"),
    [("gemma4_text", {"num_kv_shared_layers": 20}), ("gemma3n_text", {}), ("gpt_bigcode", {"multi_query": True})],
)
def test_what_a_slot_takes_is_what_the_layers_keep(kind: str, more: dict[str, Any]) -> None:
    """Layers with heads of their own width, or with others' key-values."""
    model = models.tiny_copy(AutoConfig.for_model(kind, **more))
    engine = make(model, slots=2, max_length=64, accelerate=False)
    engine.read([[1, 2, 3]])
    held = sum(layer.numel() for side in engine._pool._sides for layer in side) * 4
    assert kv.bytes_a_slot(64, model, torch.float32)[0] == held / 2


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("gptj", {}),
        ("codegen", {}),
        (
            "falcon",
            {"new_decoder_architecture": True, "num_attention_heads": 128, "num_kv_heads": 8, "hidden_size": 8192},
        ),
        ("falcon", {"multi_query": False, "num_kv_heads": 71}),
    ],
)
def test_families_with_words_of_their_own_can_be_made_small(kind: str, more: dict[str, Any]) -> None:
    model = models.tiny_copy(AutoConfig.for_model(kind, **more))
    assert model(torch.tensor([[1, 2, 3]])).logits.shape == (1, 3, model.config.vocab_size)


def test_latent_attention_keeps_what_its_heads_are_made_of() -> None:
    model = models.tiny_copy(AutoConfig.for_model("deepseek_v3"))
    width = model.config.kv_lora_rank + model.config.qk_rope_head_dim
    assert kv.bytes_a_token(model, torch.float32) == 4 * model.config.num_hidden_layers * width


def test_a_models_own_caches_are_as_many_as_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    model = models.tiny_copy(AutoConfig.for_model("deepseek_v3"))
    monkeypatch.setattr(kv, "free", lambda device: 4 * sum(kv.bytes_a_slot(64, model, torch.float32)))
    assert OwnCacheEngine(model, [], max_length=64, slots=128).slots == 3


def test_slots_are_sized_to_the_memory(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    with torch.device("meta"):
        llama = AutoModelForCausalLM.from_config(LlamaConfig())  # Llama-2-7B
    each = kv.bytes_a_token(llama, torch.bfloat16)
    assert each == 512 << 10
    assert each * 4096 * 128 == 256 << 30
    assert kv.fitting(128, 400 << 30, 4096, llama, torch.bfloat16) == 128
    assert not caplog.records
    assert kv.fitting(128, 66 << 30, 4096, llama, torch.bfloat16) == 28
    assert "28 slots instead of 128 (rollout.slots): key-values of 4096 tokens take 2.00 GiB" in caplog.text
    with pytest.raises(IprError, match=r"take 2.00 GiB, 1.5 GiB are free beside the weights; lower model.max_length"):
        kv.fitting(128, 3 << 29, 4096, llama, torch.bfloat16)

    model = toy.model()
    asked, whole = requests(8), make(model)
    room = 4 * (kv.bytes_a_token(model, torch.float32) * 512 + 40 * model.config.vocab_size)
    monkeypatch.setattr(kv, "free", lambda device: room)
    engine = make(model, slots=8)
    assert engine.slots == 3
    assert generate(engine, asked, 1.0) == generate(whole, asked, 1.0)


@pytest.mark.parametrize(("share", "held", "room"), [(1.0, 10, 70), (0.5, 10, 40), (0.5, 49, 1)])
def test_what_is_free_of_a_gpu_is_of_the_part_that_a_process_may_take(
    share: float, held: int, room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 100 bytes others hold 20, and torch has 10 in reserve."""
    told = {"memory_allocated": held, "memory_reserved": held + 10, "mem_get_info": (80 - held - 10, 100)}
    for name, value in (told | {"get_per_process_memory_fraction": share}).items():
        monkeypatch.setattr(torch.cuda, name, lambda _, value=value: value)
    assert kv.free(torch.device("cuda", 0)) == room
