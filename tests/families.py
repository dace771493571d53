"""A tiny tokenizer of each model family: its kind of vocabulary, its markers, its chat template (`chat_templates/`).

The templates decide what the published ones decide (what stands around a message, what is done to it, what is refused,
sections for tools); long instructions in sections that no agent of ours sees are cut.
"""

# ruff: noqa: RUF001 (the wide bars of DeepSeek's markers)
from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AddedToken, PreTrainedTokenizerFast

from tests import toy

TEMPLATES = Path(__file__).parent / "chat_templates"


def template(name: str) -> str:
    return (TEMPLATES / f"{name}.jinja").read_text().removesuffix("\n")


def _texts() -> list[str]:
    played = [toy.expert(task_id) for task_id in toy.task_ids("train")[:8]]
    return [m.content for t in played for m in (*toy.PROMPT, *t.history(len(t.steps)))]


@cache
def byte_level() -> str:
    """Llama-3's, Qwen's, DeepSeek's and others' kind: bytes, cut by a regular expression before they are merged."""
    bpe = Tokenizer(models.BPE())
    words = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    bpe.pre_tokenizer = pre_tokenizers.Sequence(  # type: ignore[assignment]
        [pre_tokenizers.Split(Regex(words), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    bpe.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        _texts(), trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet, show_progress=False)
    )
    return bpe.to_str()


@cache
def sentencepiece(blank: str) -> str:
    """Llama-2's kind: a blank is a letter, an unknown letter is bytes.

    What gets a blank before it: "every" part of a text between markers (Llama-2), its "first" (Mistral), "no" (Gemma).
    """
    first = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]
    bpe = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    spaces = normalizers.Replace(" ", "▁")
    if blank == "first":
        bpe.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)  # type: ignore[assignment]
    else:
        before = [normalizers.Prepend("▁")] if blank == "every" else []
        bpe.normalizer = normalizers.Sequence([*before, spaces])  # type: ignore[assignment]
    whole = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    bpe.decoder = decoders.Sequence(whole if blank == "no" else [*whole, decoders.Strip(" ", 1, 0)])  # type: ignore
    # Merges within words only, as sentencepiece has them; line breaks are bytes.
    words = [word for text in _texts() for word in text.replace(" ", " ▁").replace("\n", " ").split(" ")]
    learned = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    learned.train_from_iterator(words, trainers.BpeTrainer(vocab_size=500, special_tokens=first, show_progress=False))
    tree = json.loads(bpe.to_str()) | {"model": json.loads(learned.to_str())["model"]}
    return json.dumps(tree)


def make(
    kind: str, chat_template: str | None, bos: str | None, eos: str, special: str = "", plain: str = "", **options: Any
) -> Any:
    """A tokenizer with the markers named in `special` and `plain` (added tokens that are not special)."""
    made = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(kind), clean_up_tokenization_spaces=False)
    unknown = "<unk>" if "<unk>" in kind else eos  # as Granite and OLMo have it
    named = {"bos_token": bos, "eos_token": eos, "pad_token": eos, "unk_token": unknown}
    made.add_special_tokens({name: token for name, token in named.items() if token})
    for markers, is_special in ((special, True), (plain, False)):
        tokens = [AddedToken(m, special=is_special, normalized=False, **options) for m in markers.split(" ") if m]
        made.add_tokens(tokens, special_tokens=is_special)
    made.chat_template = chat_template
    return made


def _llama_3(version: str) -> Any:
    markers = "<|start_header_id|> <|end_header_id|> <|end_of_text|> <|python_tag|>"
    return make(byte_level(), template(f"llama-{version}"), "<|begin_of_text|>", "<|eot_id|>", markers)


def _qwen(version: str) -> Any:
    plain = "<tool_call> </tool_call> <tool_response> </tool_response> <think> </think> <|fim_prefix|>"
    return make(byte_level(), template(f"qwen{version}"), None, "<|im_end|>", "<|im_start|> <|endoftext|>", plain)


def _gemma(version: str) -> Any:
    made = make(sentencepiece("no"), template(f"gemma-{version}"), "<bos>", "<eos>", "<start_of_turn> <end_of_turn>")
    made.add_tokens([AddedToken(piece, normalized=False) for piece in ("\n\n", "\n\n\n", "<table>", "<b>")])
    return made


def _deepseek(version: str) -> Any:
    plain = "<｜User｜> <｜Assistant｜> <think> </think> <｜tool▁outputs▁begin｜> <｜tool▁outputs▁end｜>"
    bos, eos = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"
    return make(byte_level(), template(f"deepseek-{version}"), bos, eos, plain=plain)


def _chatml(name: str) -> Any:
    return make(byte_level(), template(name), None, "<|im_end|>", "<|im_start|> <|im_sep|>", "<think> </think>")


def _no_thinking(name: str) -> str:
    """A template as it is with `enable_thinking` false."""
    return "{%- set enable_thinking = false %}" + template(name)


RIGHT: dict[str, Callable[[], Any]] = {
    "ours": toy.tokenizer,
    "chatml": lambda: _chatml("chatml"),
    "llama-2": lambda: make(sentencepiece("every"), template("llama-2"), "<s>", "</s>"),
    "llama-3.1": lambda: _llama_3("3.1"),
    "llama-3.2": lambda: _llama_3("3.2"),
    "qwen2.5": lambda: _qwen("2.5"),
    "qwen3": lambda: _qwen("3"),
    "mistral-7b-v0.1": lambda: make(sentencepiece("every"), template("mistral-7b-v0.1"), "<s>", "</s>"),
    "mistral-7b-v0.3": lambda: make(
        sentencepiece("first"), template("mistral-7b-v0.3"), "<s>", "</s>", "[INST] [/INST] [AVAILABLE_TOOLS]"
    ),
    "gemma-2": lambda: _gemma("2"),
    "gemma-3": lambda: _gemma("3"),
    "phi-3": lambda: make(
        sentencepiece("every"),
        template("phi-3"),
        "<s>",
        "<|endoftext|>",
        "<|user|> <|assistant|> <|system|> <|end|>",
        rstrip=True,
    ),
    "phi-4": lambda: _chatml("phi-4"),
    "olmo-2": lambda: make(byte_level(), template("olmo-2"), "<|endoftext|>", "<|endoftext|>"),
    "olmo-3": lambda: make(
        byte_level(), template("olmo-3"), "<|endoftext|>", "<|endoftext|>", "<|im_start|> <|im_end|>"
    ),
    "smollm2": lambda: _chatml("smollm2"),
    "smollm3": lambda: _chatml("smollm3"),
    "smollm3 without thinking": lambda: make(
        byte_level(), _no_thinking("smollm3"), None, "<|im_end|>", "<|im_start|>", "<think> </think>"
    ),
    "deepseek-v2": lambda: _deepseek("v2"),
    "deepseek-v3": lambda: _deepseek("v3"),
    "deepseek-r1-distill-first": lambda: _deepseek("r1-distill-first"),
    "granite-3.1": lambda: make(
        byte_level(), template("granite-3.1"), "<|end_of_text|>", "<|end_of_text|>", "<|start_of_role|> <|end_of_role|>"
    ),
}
"""Those whose agents can be trained."""

REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "gpt-neox": (lambda: make(byte_level(), None, None, "<|endoftext|>"), "no chat template"),
    "qwen3-thinking-2507": (lambda: _qwen("3-thinking-2507"), r"shows '<think>\\n' before the agent writes"),
    "qwen3 without thinking": (
        lambda: make(byte_level(), _no_thinking("qwen3"), None, "<|im_end|>", "<|im_start|>", "<think> </think>"),
        r"shows '<think>\\n\\n</think>\\n\\n' before the agent writes",
    ),
    "deepseek-r1-distill": (lambda: _deepseek("r1-distill"), r"shows '<think>\\n' before the agent writes"),
    "glm-4.5": (
        lambda: make(byte_level(), template("glm-4.5"), None, "<|endoftext|>", "[gMASK] <sop> <|user|> <|assistant|>"),
        r"puts '\\n<think></think>\\n' before the agent's words",
    ),
}
"""Those that are not, and what is said."""
