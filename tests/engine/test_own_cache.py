"""Models that our engine cannot play are found by trying, and play by transformers' own cache: the same tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from ipr.engine import Generated, Request, generate
from ipr.engine.own_cache import OwnCacheEngine, lacks
from ipr.models import plug
from ipr.types import IprError
from tests import toy
from tests.engine.asking import ENDS, Passes, go_on, make, plain, requests

_COMMON: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 1024,
    "initializer_range": 0.2,
}
_LATENT: dict[str, Any] = {
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "n_routed_experts": 4,
    "n_group": 1,
    "topk_group": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "first_k_dense_replace": 1,
}
_LONG: dict[str, Any] = {
    "original_max_position_embeddings": 150,
    "rope_parameters": {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0] * 4,
        "long_factor": [1.0, 2.0, 4.0, 8.0],
        "original_max_position_embeddings": 150,
    },
}

_EXPERTS: dict[str, Any] = {"num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2}


def _of(name: str, **more: Any) -> Callable[[], Any]:
    def build() -> Any:
        import transformers

        config = getattr(transformers, f"{name}Config")(**_COMMON | {"vocab_size": len(toy.tokenizer())} | more)
        config.pad_token_id = None
        torch.manual_seed(0)
        return transformers.AutoModelForCausalLM.from_config(config).eval()

    return build


def _mamba() -> Any:
    from transformers import MambaConfig, MambaForCausalLM

    torch.manual_seed(0)
    size = {"hidden_size": 16, "num_hidden_layers": 2, "state_size": 4, "initializer_range": 0.2}
    return MambaForCausalLM(MambaConfig(vocab_size=len(toy.tokenizer()), **size)).eval()


_STATES: dict[str, Any] = {"mamba_n_heads": 2, "mamba_d_head": 32, "mamba_n_groups": 1, "mamba_d_state": 16}

OTHERS: dict[str, tuple[Callable[[], Any], str]] = {
    "gemma-2": (_of("Gemma2", head_dim=8), "softcap"),
    "gpt-oss": (_of("GptOss", head_dim=8, **_EXPERTS), "s_aux"),
    "deepseek-v2": (_of("DeepseekV2", **_LATENT), ""),
    "deepseek-v3": (_of("DeepseekV3", **_LATENT), ""),
    "nemotron": (_of("Nemotron"), ""),
    "doge": (_of("Doge"), "a mask of its own"),
    "phi-3.5-moe with a window": (_of("Phimoe", sliding_window=40, **_EXPERTS), "other results"),
    "qwen-2-moe with a window": (
        _of("Qwen2Moe", use_sliding_window=True, sliding_window=40, moe_intermediate_size=32, **_EXPERTS),
        "other results",
    ),
    "phi-3 with longrope": (_of("Phi3", **_LONG), "longrope"),
    "mamba": (_mamba, "mamba"),
    "granite-4": (
        _of("GraniteMoeHybrid", layer_types=["mamba", "attention"], num_local_experts=0, **_STATES),
        "granite",
    ),
    "bamba": (_of("Bamba", attn_layer_indices=[1], **_STATES), "bamba"),
}


@pytest.mark.parametrize("family", OTHERS)
def test_what_our_engine_cannot_play_plays_by_its_own_cache(family: str) -> None:
    build, why = OTHERS[family]
    model = build()
    assert why in (lacks(model, 512) or "nothing is lacking")
    engine, one = (OwnCacheEngine(model, ENDS, max_length=512, slots=slots) for slots in (8, 1))
    asked = requests(2, 5)
    for temperature in (0.0, 1.0):  # two turns
        answers = generate(engine, asked, temperature)
        assert answers == [plain(model, request, temperature) for request in asked]
        assert answers == generate(one, asked, temperature)
        asked = [go_on(r, a) for r, a in zip(asked, answers, strict=True)]


def test_positions_that_change_with_the_length_are_read_anew() -> None:
    """Six conversations that grow over the original length, alone and beside each other."""
    model = OTHERS["phi-3 with longrope"][0]()
    found = []
    for slots in (8, 1):
        engine, asked = OwnCacheEngine(model, ENDS, max_length=512, slots=slots), requests(6, 20)
        assert min(len(request.prompt) for request in asked) < 150
        for _ in range(2):
            answers = generate(engine, asked, 1.0)
            asked = [go_on(r, a, "You are at box 3. You see nothing.") for r, a in zip(asked, answers, strict=True)]
        assert max(len(request.prompt) for request in asked) > 150
        found.append([request.prompt for request in asked])
    assert found[0] == found[1]
    assert lacks(model, 150) is None, "up to the original length ours plays it"


def test_a_session_reads_what_is_new() -> None:
    model = OTHERS["nemotron"][0]()
    engine, fed = OwnCacheEngine(model, ENDS, max_length=512, slots=2), Passes(model)
    asked = [Request([5 + i] * 30, 2, 1, session=i) for i in range(3)]
    answers = generate(engine, asked, 1.0)
    fed.clear()
    again = [go_on(r, a) for r, a in zip(asked, answers, strict=True)]
    new = [len(r.prompt) - 31 + 1 for r in again]
    generate(engine, again[2:], 1.0)
    assert fed.taken() <= new[2]
    generate(engine, again[:1], 1.0)
    assert fed.taken() >= len(again[0].prompt), "pushed out, so read anew"
    assert generate(engine, [Request([5] * 512, 0)], 0.0) == [Generated((), "length")]
    with pytest.raises(ValueError, match="do not fit"):
        generate(engine, [Request([5] * 512, 1)], 0.0)


def test_what_our_engine_plays_is_found() -> None:
    assert lacks(toy.model(), 512) is None
    assert make(toy.model()).read([[5, 6, 7], [5, 6]]).shape[0] == 2


def test_a_model_that_gives_no_numbers_is_refused() -> None:
    model = OTHERS["nemotron"][0]()
    with torch.no_grad():
        model.get_input_embeddings().weight[6] = torch.nan
    with pytest.raises(IprError, match=r"this nemotron model gives nan: .*float32 \(model\.dtype\)"):
        lacks(model, 512)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_nan_after_the_trial_is_no_token(temperature: float) -> None:
    """Of a token that the trial does not read; by our engine and by the model's own cache."""
    for model, build in ((toy.model(), make), (toy.model(), lambda m: OwnCacheEngine(m, ENDS, max_length=99, slots=2))):
        with torch.no_grad():
            model.get_input_embeddings().weight[20] = torch.nan
        with pytest.raises(IprError, match=r"the model gives nan: .*float32 \(model\.dtype\)"):
            generate(build(model), [Request([5, 20], 4), Request([5, 6], 4)], temperature)


@pytest.mark.parametrize("family", ["Llama", "Gemma3Text"])
def test_dynamic_positions_do_not_depend_on_what_was_read_before(family: str) -> None:
    """Also where layers have positions of their own."""
    rope: Any = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}
    more: dict[str, Any] = {}
    if family == "Gemma3Text":
        rope = {"full_attention": rope, "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}}
        more = {"head_dim": 8, "layer_types": list(rope)}
    build = _of(family, max_position_embeddings=16, rope_parameters=rope, **more)
    longest, middle = ([5 + i % 9 for i in range(n)] for n in (60, 30))
    used = build()
    with torch.no_grad():
        before = plug.go_on(used, longest, None, keep=False)[0]
        after, alone = (plug.go_on(model, middle, None, keep=False)[0] for model in (used, build()))
    assert torch.equal(after, alone)
    assert not torch.equal(before[: len(middle)], after)
