"""The only touch on the internals of torch and transformers.

Each function says what it relies on and the version it was made for; `tests/models/test_plug.py` fails, with a line
that names the function, where the installed library is another one in this.
"""

from __future__ import annotations

import logging
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AttentionInterface
from transformers.cache_utils import Cache
from transformers.integrations import moe
from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS
from transformers.utils import logging as telling
from transformers.utils.hub import resolve_revision

from ipr.types import IprError

log = logging.getLogger("ipr")

# torch ---------------------------------------------------------------------------------------------------------------


@contextmanager
def _products(precision: str) -> Iterator[None]:
    """What oneDNN may round float32 matrix products to.

    Relies on `torch.backends.mkldnn.matmul.fp32_precision` (torch 2.13), which takes "ieee", "tf32", "bf16" and "none".
    """
    setting: Any = getattr(torch.backends.mkldnn, "matmul")  # noqa: B009 (pyright does not know it)
    before = setting.fp32_precision
    setting.fp32_precision = precision
    try:
        yield
    finally:
        setting.fp32_precision = before


@contextmanager
def fast_products() -> Iterator[None]:
    """float32 matrix products by oneDNN instead of MKL on CPUs where that is faster and still float32.

    MKL runs at half speed on AMD: 190 against 430 GFLOP/s on two cores of an EPYC with AVX-512 (with 16 rows or more;
    below, MKL is faster). torch 2.13 takes oneDNN when bfloat16 is allowed, but oneDNN rounds to bfloat16 only where
    there is AMX (or ARM), so there it is left alone. Relies on the names in `torch.cpu.get_capabilities()` too.
    """
    cpu = torch.cpu.get_capabilities()
    with _products("bf16") if cpu.get("avx512_f") and not cpu.get("amx_tile") else nullcontext():
        yield


@contextmanager
def without_numbers(model: Any) -> Iterator[None]:
    """Within it tensors have shapes and no numbers, and a model that was made on "meta" runs as on a CPU, in no memory.

    What was made outside may be given to it. Relies on `FakeTensorMode` (torch 2.13), which knows grouped products of
    bfloat16 only, and on `moe._can_use_grouped_mm`, without which experts are multiplied otherwise (transformers 5.23).
    """
    before, moe._can_use_grouped_mm = moe._can_use_grouped_mm, lambda *_: False
    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            model.to_empty(device="cpu")
            _own(model).tie_weights()  # which are two parameters now
            yield
    finally:
        moe._can_use_grouped_mm = before


class Held(TorchDispatchMode):
    """Counts the bytes of tensors that are made within it and not gone yet; those `outside` are not counted.

    Relies on `TorchDispatchMode`, and on storages that take weak references and are one object each (torch 2.13).
    """

    def __init__(self, outside: Iterable[Tensor] = ()):
        super().__init__()
        self.now = self.most = self.operations = 0
        self._known = {id(t.untyped_storage()): weakref.ref(t.untyped_storage()) for t in outside}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operations += 1
        found = func(*args, **kwargs or {})
        for tensor in tree_leaves(found):
            if isinstance(tensor, Tensor):
                self._hold(tensor.untyped_storage())
        return found

    def _hold(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()
        if key in self._known:
            return

        def gone(_: Any) -> None:
            del self._known[key]
            self.now -= size

        self._known[key] = weakref.ref(storage, gone)
        self.now += size
        self.most = max(self.most, self.now)


def small_products() -> Any:
    """By MKL inside `fast_products`: on small ones oneDNN takes two to four times as long."""
    return _products("ieee")


@contextmanager
def logits_only_at(model: Any, where: Tensor) -> Iterator[None]:
    """Let the output layer see only the hidden states at `where` [K], of all rows in turn: logits become [1, K, V].

    Done by a hook on the layer, so that whatever a model does to its logits (scaling, soft capping) stays in place and
    adapters need no special case. Logits of other positions are most of the memory for large vocabularies.
    Relies on a model that calls its `get_output_embeddings()` once, with nothing but states [B, T, width]
    (transformers 5.23).
    """
    # Not indexed: where a token is trained in several rows, the gradients are then added up in a fixed order.
    hook = model.get_output_embeddings().register_forward_pre_hook(
        lambda _, args: (args[0].flatten(0, 1).index_select(0, where)[None],)
    )
    try:
        yield
    finally:
        hook.remove()


# transformers --------------------------------------------------------------------------------------------------------


def register(name: str, attend: Callable[..., Tensor]) -> None:
    """Attention that `plugged_in` can put in the place of a model's own.

    attend(layer, query, key, value, scale, window, dropout, **given) -> [1, N, heads, width of value]: query [1, heads,
    N, width]; key and value as the cache's `update` returned them; `scale` None is width ** -0.5; `window`: most tokens
    that a token sees; `given`: the keywords of the model's call, those that are ours among them.
    Relies on `AttentionInterface.register` and the arguments with which models call what is registered
    (transformers 5.23). Raises IprError where the model's attention is more than scores and a window.
    """

    def plugged(
        module: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        scaling: float | None = None,
        dropout: float = 0.0,
        sliding_window: int | None = None,
        **given: Any,
    ) -> tuple[Tensor, None]:
        if lacking := _lacks(given):
            raise IprError(f"the model's attention uses {lacking}, which ours lacks")
        if attention_mask is not None:  # Doge: which tokens are seen depends on what they say
            raise IprError("the model's attention has a mask of its own, which ours lacks")
        return attend(module.layer_idx, query, key, value, scaling, sliding_window, dropout, **given), None

    AttentionInterface.register(name, plugged)


def _lacks(given: Mapping[str, Any]) -> str | None:
    """What a model wants of an attention that those plugged in here lack."""
    return next((n for n in ("softcap", "s_aux", "position_bias") if given.get(n) is not None), None)


@contextmanager
def plugged_in(config: Any, name: str) -> Iterator[None]:
    """The model of this config attends by what is registered under `name`; afterwards it is as it was.

    Relies on `_attn_implementation`, which a model reads anew in every layer of every call (transformers 5.23).
    """
    before = config._attn_implementation
    config._attn_implementation = name
    try:
        yield
    finally:
        config._attn_implementation = before


def pluggable(model: Any) -> bool:
    """Whether attention of ours can take the place of the model's own, by what the model says of itself.

    Relies on `_supports_attention_backend` and on the kinds that a config's `layer_types` name (transformers 5.23).
    """
    own = _own(model)
    kinds = set(getattr(own.config.get_text_config(), "layer_types", None) or ())
    return getattr(own, "_supports_attention_backend", False) and kinds <= {"full_attention", "sliding_attention"}


@contextmanager
def short_windows(model: Any, below: int) -> Iterator[None]:
    """Within it layers that see fewer tokens than `below` see few, so that a trial of some tokens shows how.

    Most hand their window to what is plugged in, some to their own masks alone (Phi-3.5-MoE). Relies on
    `sliding_window`, of a model's configs and of its layers, which is read anew in every call (transformers 5.23).
    """
    parts: dict[int, Any] = {
        id(part): part for module in model.modules() for part in (module, getattr(module, "config", None))
    }
    given = [(part, getattr(part, "sliding_window", None)) for part in parts.values()]
    windows = [(part, window) for part, window in given if isinstance(window, int) and 0 < window < below]
    try:
        for part, window in windows:
            part.sliding_window = min(window, _WINDOW)
        yield
    finally:
        for part, window in windows:
            part.sliding_window = window


_WINDOW = 3


def own_config(model: Any) -> Any:
    """The config of the model itself, where peft has wrapped it."""
    return _own(model).config


def _own(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "peft_config") else model


class KeyValues(Cache):
    """To transformers a cache; `update` is the subclass's.

    Relies on `Cache(layers=[])` and on a model that asks a cache for nothing but `get_seq_length`, `update` and what
    its layers are, of which there are none, where positions are given and attention is plugged in (transformers 5.23).
    """

    def __init__(self) -> None:
        super().__init__(layers=[])

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0  # positions are given; nothing else that is asked for depends on it


def go_on(model: Any, ids: Sequence[int], cache: Any, *, keep: bool) -> tuple[Tensor, Any]:
    """The logits [N, V] of N tokens after those that `cache` holds (None: of none), and with `keep` the cache then.

    Relies on a model that makes its own cache, returns it as `past_key_values` or `cache_params`, and takes it by that
    name (transformers 5.23).
    """
    named = {} if cache is None else {cache[0]: cache[1]}
    forget_length(model)
    output = model(input_ids=torch.tensor([list(ids)], device=model.device), use_cache=keep, **named)
    kinds = ("past_key_values", "cache_params") if keep else ()
    held = next(((kind, output[kind]) for kind in kinds if output.get(kind) is not None), None)
    return output.logits[0], held


def kept(cache: Any) -> list[Tensor]:
    """The tensors of a cache as `go_on` returns it. Relies on `layers` and their attributes (transformers 5.23)."""
    held = cache[1] if cache else None
    parts = [vars(part) for part in (held, *getattr(held, "layers", ())) if part is not None]
    return [tensor for tensor in tree_leaves(parts) if isinstance(tensor, Tensor)]


@contextmanager
def quiet() -> Iterator[None]:
    """transformers tells errors only, and nobody what its next release changes (peft asks for what goes then).

    Relies on its own logger's levels (transformers 5.23).
    """
    before = telling.get_verbosity()
    telling.set_verbosity_error()
    try:
        with warnings.catch_warnings(action="ignore", category=FutureWarning):
            yield
    finally:
        telling.set_verbosity(before)


def rope(config: Any) -> tuple[str, int]:
    """The kind of a model's rotary positions, and the tokens from which on they depend on a conversation's length.

    Relies on `rope_parameters`, in which layers of several types may have their own (transformers 5.23).
    """
    text = config.get_text_config()
    given = getattr(text, "rope_parameters", None) or {}
    for one in (given, *given.values()):
        if isinstance(one, dict) and (kind := one.get("rope_type")) in ("longrope", "dynamic"):
            # Some configs say it beside the parameters, some in them.
            longest = getattr(text, "original_max_position_embeddings", None)
            return kind, longest or one.get("original_max_position_embeddings") or text.max_position_embeddings
    return "default", 0


def positions(config: Any, length: int) -> int:
    """Equal for lengths of a conversation in which a token's position means the same, so that keys can be kept."""
    kind, longest = rope(config)
    if kind == "dynamic":
        return max(0, length - longest)
    return int(kind == "longrope" and length > longest)


def scaled(config: Any, most: int) -> bool:
    """Whether a token's position means another thing in some conversation of up to so many tokens."""
    return positions(config, most) != positions(config, 1)


def forget_length(model: Any) -> None:
    """Make `dynamic` rotary positions those of a new model; else those of the longest conversation read so far stay.

    Relies on `inv_freq`, `original_inv_freq` and `max_seq_len_cached` of its rotary modules, after the layers' type
    where each has its own, and on `original_max_seq_len` (transformers 5.23).
    """
    if rope(own_config(model))[0] != "dynamic":
        return
    for module in model.modules():
        for name, first in dict(module.named_buffers(recurse=False)).items():
            if not name.endswith("original_inv_freq"):
                continue
            prefix = name.removesuffix("original_inv_freq")
            first = first.to(getattr(module, f"{prefix}inv_freq").device)
            module.register_buffer(f"{prefix}inv_freq", first, persistent=False)
            setattr(module, f"{prefix}max_seq_len_cached", module.original_max_seq_len)


@contextmanager
def rows_alone(model: Any, lengths: Sequence[int]) -> Iterator[None]:
    """Within it the rotary positions of padded rows [B, T] are those of each row alone: `lengths` [B] of its tokens.

    Where they depend on a conversation's length, a model takes the longest row's for all. Relies on rotary modules that
    have a buffer `original_inv_freq` and are called with (x, position ids [1, T]), and return [1, T, ...] each
    (transformers 5.23).
    """
    config = own_config(model)
    if len({positions(config, n) for n in lengths}) == 1:
        yield
        return
    rotary = [
        module
        for module in model.modules()
        if any(name.endswith("original_inv_freq") for name, _ in module.named_buffers(recurse=False))
    ]

    def by_row(forward: Callable[..., Any]) -> Callable[..., Any]:
        def of_rows(x: Tensor, position_ids: Tensor, *rest: Any, **named: Any) -> tuple[Tensor, ...]:
            found = []
            for length in lengths:
                forget_length(model)
                found.append(forward(x, position_ids[:1].clamp(max=length - 1), *rest, **named))
            return tuple(torch.cat(parts) for parts in zip(*found, strict=True))

        return of_rows

    try:
        for module in rotary:
            module.forward = by_row(module.forward)
        yield
    finally:
        for module in rotary:
            del module.forward


@cache
def reach_hub(name: str) -> None:
    """Ask the hub for a model once; where it cannot be reached, this process goes on with what was fetched before.

    Otherwise each file that is not here, those that few models have among them, is asked for again for half a minute.
    Relies on `HF_HUB_OFFLINE`, which is read anew for each request (huggingface_hub 2.4).
    """
    if constants.is_offline_mode() or Path(name).is_dir():
        return
    try:
        get_hf_file_metadata(hf_hub_url(name, "config.json"))
    except HfHubHTTPError:  # it answers; what it refuses is told where the files are read
        return
    except Exception as error:  # no network, a proxy, a certificate
        log.warning("%s cannot be reached (%s); models that were fetched before are used", constants.ENDPOINT, error)
        constants.HF_HUB_OFFLINE = True


def revision(name: str) -> str | None:
    """The commit that a hub name stands for now; None for a folder, or where the hub does not say.

    Relies on `resolve_revision` and the `resolved` of what it returns (transformers 5.23; a config no longer knows it).
    """
    reach_hub(name)
    return getattr(resolve_revision(name), "resolved", None)


def gguf_cuts(kind: str) -> bool:
    """Whether words of a byte-level GGUF file with this `tokenizer.ggml.pre` are cut as its merges were learned.

    Relies on `GGUF_PRE_TOKENIZER_SPLITS`; of what is not in it words are cut as GPT-2's (transformers 5.23).
    """
    return kind in GGUF_PRE_TOKENIZER_SPLITS or kind in _CUT_AS_GPT_2


_CUT_AS_GPT_2 = (
    *("gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "modern-bert", "mellum"),
    # But for digits, each of which is alone; nothing is ever merged with one.
    *("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"),
)
"""As llama.cpp has it (llama-vocab.cpp)."""
