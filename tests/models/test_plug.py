"""What `plug` relies on is as it was in the versions it was made for: a failure here names the function to mend."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any, ClassVar

import pytest
import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig
from transformers.cache_utils import Cache
from transformers.utils.hub import resolve_revision

from ipr.models import plug
from ipr.types import IprError

TORCH = f"made for torch 2.13, installed is {torch.__version__}"
TRANSFORMERS = f"made for transformers 5.23, installed is {transformers.__version__}"
IDS = torch.tensor([[5, 6, 7, 8, 9]])
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    return LlamaForCausalLM(config).eval()


# torch -------------------------------------------------------------------------------------------------------------


def setting() -> Any:
    return getattr(torch.backends.mkldnn, "matmul")  # noqa: B009


@pytest.mark.parametrize("precision", ["bf16", "ieee", "none"])
def test_precision_of_products_can_be_set(precision):
    assert hasattr(setting(), "fp32_precision"), f"plug._products: torch.backends.mkldnn.matmul has none; {TORCH}"
    before = setting().fp32_precision
    try:
        setting().fp32_precision = precision
        assert setting().fp32_precision == precision, f"plug._products: {precision} is not taken; {TORCH}"
    finally:
        setting().fp32_precision = before


def test_fast_products_are_float32():
    a, b = torch.randn(300, 200), torch.randn(100, 200)
    before = setting().fp32_precision
    with plug.fast_products():
        fast = a @ b.T
    assert torch.allclose(fast.double(), a.double() @ b.double().T, atol=1e-4), "bfloat16 would be off by 0.1"
    assert setting().fp32_precision == before


def test_fast_products_are_those_of_onednn_and_small_ones_are_not(capfd):
    cpu = torch.cpu.get_capabilities()
    if cpu["architecture"] != "x86_64":
        pytest.skip("no x86-64")
    assert {"avx512_f", "amx_tile"} <= cpu.keys(), f"plug.fast_products: other names of capabilities; {TORCH}"
    if not cpu["avx512_f"] or cpu["amx_tile"]:
        pytest.skip("fast_products leaves this CPU alone")
    a, b = torch.randn(300, 200), torch.randn(100, 200)

    def products() -> int:
        capfd.readouterr()
        with torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):
            _ = a @ b.T
        return capfd.readouterr().out.count("exec,cpu,matmul")

    with plug.fast_products():
        assert products() == 1, f"plug.fast_products: the product is not oneDNN's; {TORCH}"
        with plug.small_products():
            assert products() == 0, f"plug.small_products: the product is oneDNN's; {TORCH}"
        assert products() == 1


def test_the_output_layer_sees_what_it_is_told_to(model):
    with torch.no_grad():
        whole = model(IDS).logits
        where = torch.tensor([3, 1])
        with plug.logits_only_at(model, where):
            logits = model(IDS).logits
        shape = tuple(logits.shape)
        assert shape == (1, 2, 50), f"plug.logits_only_at: logits are {shape}; {TRANSFORMERS}"
        torch.testing.assert_close(logits, whole[:, where])
        assert torch.equal(model(IDS).logits, whole)


# transformers ------------------------------------------------------------------------------------------------------


class Stored(plug.KeyValues):
    """Keeps nothing; what is asked of it is in `asked`."""

    asked: ClassVar[set[str]] = set()

    def __getattribute__(self, name: str) -> Any:
        Stored.asked.add(name)
        return super().__getattribute__(name)

    def update(self, key_states: Any, value_states: Any, layer_idx: int, *_: Any, **__: Any) -> Any:
        return key_states, value_states


def test_what_is_plugged_in_attends_with_all_it_was_promised(model):
    seen: list[tuple[Any, ...]] = []

    def attend(layer: int, query: Any, key: Any, value: Any, *rest: Any, ipr_test: str, **_: Any) -> Any:
        seen.append((layer, *(tuple(x.shape) for x in (query, key, value)), *rest, ipr_test))
        return query.transpose(1, 2)

    plug.register("ipr_test", attend)
    before = model.config._attn_implementation
    stored = Stored()
    Stored.asked.clear()
    with torch.no_grad(), plug.plugged_in(model.config, "ipr_test"):
        model(
            IDS,
            position_ids=torch.tensor([[0, 1, 2, 0, 1]]),
            past_key_values=stored,
            use_cache=True,
            logits_to_keep=torch.tensor([4]),
            ipr_test="given",
        )
    shapes = (1, 2, 5, 8), (1, 1, 5, 8), (1, 1, 5, 8)
    expected = [(layer, *shapes, 8**-0.5, None, 0.0, "given") for layer in (0, 1)]
    assert seen == expected, f"plug.register: models call attention in another way; {TRANSFORMERS}"
    assert model.config._attn_implementation == before
    more = Stored.asked - {"update", "get_seq_length", "layers", "is_linear", "is_sliding", "is_dummy"}
    assert not more, f"plug.KeyValues: a model asks for {more} too; {TRANSFORMERS}"


def test_a_cache_has_the_methods_that_are_replaced():
    for name in ("update", "get_seq_length"):
        assert callable(getattr(Cache, name, None)), f"plug.KeyValues: Cache has no {name}; {TRANSFORMERS}"


def test_an_attention_of_another_kind_is_refused(model):
    plug.register("ipr_other", lambda *_, **__: pytest.fail("it attends"))
    with plug.plugged_in(model.config, "ipr_other"), pytest.raises(IprError, match="uses softcap, which ours lacks"):
        model(IDS, use_cache=False, softcap=30.0)


def test_models_say_whether_attention_can_be_plugged_in(model):
    base = transformers.PreTrainedModel
    assert hasattr(base, "_supports_attention_backend"), f"plug.pluggable: models do not say so; {TRANSFORMERS}"
    assert plug.pluggable(model), f"plug.pluggable: Llama is no longer; {TRANSFORMERS}"
    sliding = LlamaForCausalLM(LlamaConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=1))
    sliding.config.layer_types = ["linear_attention"]
    assert not plug.pluggable(sliding)


def test_windows_are_short_only_there():
    torch.manual_seed(0)
    size: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 8}
    config = MistralConfig(vocab_size=50, intermediate_size=32, num_key_value_heads=2, sliding_window=100, **size)
    sees = transformers.MistralForCausalLM(config).eval()

    @torch.no_grad()
    def last(ids: Any) -> Any:
        return sees(torch.tensor([ids])).logits[0, -1]

    a, b = [5, 6, 7, 8, 9], [30, 6, 7, 8, 9]
    before = last(a)
    with plug.short_windows(sees, 200):
        assert torch.equal(last(a), last(b)), f"plug.short_windows: the first of five is seen; {TRANSFORMERS}"
    with plug.short_windows(sees, 100):
        assert torch.equal(last(a), before), "no conversation is as long as the window"
    assert torch.equal(last(a), before)
    assert not torch.equal(last(a), last(b))


def test_kinds_of_attention_have_their_names():
    from transformers.configuration_utils import ALLOWED_LAYER_TYPES

    assert {"full_attention", "sliding_attention"} <= set(ALLOWED_LAYER_TYPES), (
        f"plug.pluggable: other names of layer_types; {TRANSFORMERS}"
    )
    assert hasattr(MistralConfig(), "sliding_window"), f"plug.register: no sliding_window; {TRANSFORMERS}"


def test_transformers_is_quiet_only_there():
    told = logging.getLogger("transformers.modeling_utils")
    with plug.quiet():
        assert not told.isEnabledFor(logging.WARNING), f"plug.quiet: it is not; {TRANSFORMERS}"
    assert told.isEnabledFor(logging.WARNING)


def test_experts_are_multiplied_without_numbers():
    from transformers import AutoModelForCausalLM, MixtralConfig

    few: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(MixtralConfig(vocab_size=50, num_key_value_heads=2, **few))
    before = plug.moe._can_use_grouped_mm
    with plug.without_numbers(model):
        logits = model(input_ids=torch.zeros(1, 7, dtype=torch.long)).logits
        assert logits.shape == (1, 7, 50), f"plug.without_numbers: experts; {TRANSFORMERS}"
        logits.sum().backward()
    assert plug.moe._can_use_grouped_mm is before


def test_the_commit_of_a_hub_name_is_known(tmp_path, monkeypatch):
    """From a cache as huggingface_hub keeps it."""
    repository = tmp_path / "models--house--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    (repository / "snapshots" / COMMIT).mkdir(parents=True)
    cached = partial(resolve_revision, cache_dir=tmp_path, local_files_only=True)
    monkeypatch.setattr(plug, "resolve_revision", cached)
    assert plug.revision("house/tiny") == COMMIT, f"plug.revision: no commit is told; {TRANSFORMERS}"
    assert plug.revision(str(tmp_path)) is None
    assert plug.revision("house/other") is None


def test_bytes_are_counted_without_numbers():
    from transformers import AutoModelForCausalLM, LlamaConfig

    few: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(LlamaConfig(vocab_size=50, tie_word_embeddings=True, **few))
    with plug.without_numbers(model):
        assert model.lm_head.weight is model.model.embed_tokens.weight, "without_numbers: weights are tied again"
        with plug.Held(model.parameters()) as held:
            first = torch.zeros(1000)
            second = first + 1
            assert held.now == 8000, "Held: what is made is counted"
            del first
            assert (held.now, held.most) == (4000, 8000), "Held: what is gone is not"
            assert model(input_ids=torch.zeros(1, 7, dtype=torch.long)).logits.shape == (1, 7, 50)
            assert second.shape == (1000,)


def test_words_of_gguf_are_cut_as_its_file_says():
    assert plug.gguf_cuts("llama-bpe"), f"plug.gguf_cuts: Llama-3's are not known; {TRANSFORMERS}"
    assert plug.gguf_cuts("smollm")
    assert not plug.gguf_cuts("chatglm-bpe")
    assert not plug.gguf_cuts("")
