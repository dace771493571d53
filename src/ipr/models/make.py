"""New small models and tokenizers, from nothing: what the bases that are shipped were begun with."""

from __future__ import annotations

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
) -> Any:
    """A Llama-architecture model with random weights (tied embeddings), for a tokenizer made by `train_tokenizer`.

    `intermediate` is the width of the gated MLP; by default 8/3 of hidden, rounded up to 32.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=hidden,
        intermediate_size=intermediate or -(-hidden * 8 // 3 // 32) * 32,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=max_length,
        tie_word_embeddings=True,
        pad_token_id=SPECIAL_TOKENS.index(PAD),
        bos_token_id=SPECIAL_TOKENS.index(BOS),
        eos_token_id=SPECIAL_TOKENS.index(END),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


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
