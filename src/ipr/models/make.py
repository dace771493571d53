"""New small models and tokenizers, from nothing: what the bases that are shipped were begun with."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

PAD, BOS, USER, AGENT, END = SPECIAL_TOKENS = ("<|pad|>", "<|bos|>", "<|user|>", "<|agent|>", "<|end|>")
"""Of the tokenizers made here, ids 0 to 4. Padding is a token of its own: equal to the end, it would mask real ends."""

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ '<|agent|>' if message['role'] == 'assistant' else '<|user|>' }}{{ message['content'] }}<|end|>"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|agent|>{% endif %}"
)


def new_base_model(
    vocab_size: int,
    *,
    hidden: int = 224,
    layers: int = 4,
    heads: int = 4,
    kv_heads: int = 2,
    intermediate: int | None = None,
    max_length: int = 2048,
    seed: int = 0,
    family: str = "llama",
) -> Any:
    """A model with random weights (tied embeddings), for a tokenizer made by `train_tokenizer`.

    `intermediate` is the width of the MLP; by default 8/3 of hidden, rounded up to 32. `family` is the architecture as
    transformers calls it (llama, qwen3, mistral, gpt_neox); one that knows no `kv_heads` has as many as `heads`.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        family,
        vocab_size=vocab_size,
        hidden_size=hidden,
        intermediate_size=intermediate or -(-hidden * 8 // 3 // 32) * 32,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=hidden // heads,
        max_position_embeddings=max_length,
        tie_word_embeddings=True,
        pad_token_id=SPECIAL_TOKENS.index(PAD),
        bos_token_id=SPECIAL_TOKENS.index(BOS),
        eos_token_id=SPECIAL_TOKENS.index(END),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def shallow(config: Any, layers: int) -> Any:
    """A copy of the text part of a transformers config, with the first `layers` of its layers."""
    text = copy.deepcopy(config.get_text_config())
    given, whole = text.to_dict(), text.num_hidden_layers  # which some configs write by another name
    text.num_hidden_layers = layers
    for name, value in given.items():  # what is said layer by layer
        if isinstance(value, list) and len(value) == whole:
            setattr(text, name, value[:layers])
    if shared := given.get("num_kv_shared_layers"):  # the last ones, which use others' key-values
        text.num_kv_shared_layers = max(0, layers - (whole - shared))
    return text


def tiny_copy(config: Any) -> Any:
    """A random model of the same architecture, in float32: few layers of each kind, narrow, of few tokens and experts.

    For trials. Raises what transformers raises where the architecture cannot be made so small.
    """
    import torch
    from transformers import AutoModelForCausalLM

    given = config.get_text_config().to_dict()
    kinds = given.get("layer_types") or []
    layers = next((k for k in range(2, len(kinds)) if set(kinds[:k]) == set(kinds)), 2)
    shared = int(bool(given.get("num_kv_shared_layers")))
    text = shallow(config, layers + shared)
    queries = given.get("num_attention_heads")  # none where there is no attention
    keys = given.get("num_key_value_heads") or queries
    groups = min(2, keys or 2)
    heads = groups if queries == keys or given.get("kv_lora_rank") else 2 * groups
    heads = 4 if given["model_type"] == "codegen" else heads  # whose queries, keys and values stand in so many blocks
    width = 16
    small = {
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
        "hidden_size": heads * width,
        "intermediate_size": 32,
        "moe_intermediate_size": 32,
        "shared_expert_intermediate_size": 32,
        "vocab_size": 64,
        "vocab_size_per_layer_input": 64,
        "hidden_size_per_layer_input": 16,
        "num_kv_shared_layers": shared,
        "first_k_dense_replace": 1,
        "n_group": 1,
        "topk_group": 1,
        "head_dim": width,
        "num_kv_heads": groups,  # Falcon's word
        "rotary_dim": width // 2,
    }
    small |= dict.fromkeys(("n_routed_experts", "num_local_experts", "num_experts"), 4)
    small |= dict.fromkeys(("num_experts_per_tok", "top_k_experts"), 2)
    if given.get("kv_lora_rank"):  # latent attention: a head's width is the one of its rotary part
        small |= {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8}
        small |= {"v_head_dim": 16, "head_dim": 8, "qk_head_dim": 24}
    inner = (getattr(text, "expand", None) or getattr(text, "mamba_expand", None) or 0) * small["hidden_size"]
    if inner:  # a state space's heads share it evenly
        small |= dict.fromkeys(("mamba_n_heads", "n_mamba_heads", "num_heads"), 2)
        small |= dict.fromkeys(("mamba_n_groups", "mamba_ngroups", "n_groups"), 1)
        small |= dict.fromkeys(("mamba_d_head", "mamba_headdim"), inner // 2) | {"mamba_d_ssm": inner}
        small["head_dim"] = inner // 2 if hasattr(text, "num_heads") else width
    if given.get("attention_hidden_size"):  # Zamba-2's attention sees the words beside the states
        small |= {"attention_hidden_size": 2 * small["hidden_size"], "attention_head_dim": 2 * width}
    text.per_layer_config = None  # else what layers have of their own cannot be asked for
    for name, value in small.items():
        before = getattr(text, name, None)
        if before is not None or name in ("num_key_value_heads", "num_experts_per_tok"):
            with contextlib.suppress(AttributeError):  # worked out from others
                setattr(text, name, [value] * len(before) if isinstance(before, list) else value)
    if own := given.get("per_layer_config"):
        text.per_layer_config = {
            layer: {name: max(1, small[name] * value // given[name]) for name, value in of.items() if name in small}
            for layer, of in own.items()
            if int(layer) < layers + shared
        }
    ropes = getattr(text, "rope_parameters", None) or {}
    for rope in (ropes, *(one for one in ropes.values() if isinstance(one, dict))):
        for name in ("short_factor", "long_factor"):
            if name in rope:
                rotary = width * (rope.get("partial_rotary_factor") or given.get("partial_rotary_factor") or 1.0)
                rope[name] = rope[name][: int(rotary) // 2]
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        if getattr(text, name, None) is not None:
            setattr(text, name, 0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(text, dtype=torch.float32).eval()


def relate_forms(model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    """Let a new model's embeddings of a word's forms ("ship", " ship", " Ship", " ships") begin near each other.

    A name is called so in a question and so in a table; where the forms are unrelated, a small model has to learn of
    every word that they are one. Each form is the word's embedding plus one for its blank, its case and its plural.
    """
    import torch

    weights = model.get_input_embeddings().weight
    weights.data.mul_(3.0)  # a tied embedding this small could not say its own token; copying begins sooner so
    scale = float(weights.detach().std())
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        blank, capital, plural = torch.randn(3, weights.shape[1]) * scale / 2
        stems: dict[str, torch.Tensor] = {}
        forms = [(str(tokenizer.decode([i])), i) for i in range(len(SPECIAL_TOKENS), len(tokenizer))]
        words = {text.strip().lower() for text, _ in forms}
        for text, i in forms:
            word = text.strip()
            if len(word) < 2 or not word.isalpha():
                continue
            stem = word.lower()
            many = stem.endswith("s") and stem[:-1] in words
            stem = stem[:-1] if many else stem
            weights[i] = stems.setdefault(stem, weights[i].clone())
            weights[i] += (text != word) * blank + word[0].isupper() * capital + many * plural


def train_tokenizer(texts: Iterable[str], vocab_size: int, *, names: bool = False) -> PreTrainedTokenizerBase:
    """A byte-level BPE tokenizer (lossless for any text) with our special tokens and chat template.

    `names`: a word and its number ("cabinet 1") may become one token, so that a small model finds it in one step.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    # GPT-2's pieces, and with `names` a first kind of its own.
    pieces = (
        r" ?\p{L}+ \p{N}+|" if names else ""
    ) + r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+"
    bpe.pre_tokenizer = pre_tokenizers.Sequence(  # type: ignore[assignment]
        [
            pre_tokenizers.Split(Regex(pieces), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=END,
        additional_special_tokens=[USER, AGENT],
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
