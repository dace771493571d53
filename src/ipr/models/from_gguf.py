"""A model in GGUF becomes a model folder: `ipr model import FILE.gguf --out FOLDER`.

Decided here: it is converted once, so that nothing else has to know of GGUF. transformers reads the file; the folder
has the weights in float32, which holds all that any type of GGUF says, and the tokenizer with the file's chat template.
Refused is what transformers would read wrongly without a word. Left out: weights that stay quantised.
"""

from __future__ import annotations

import json
from importlib import util
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ipr.models.folders import first_line
from ipr.models.loading import check_model, save_model
from ipr.types import IprError


def import_gguf(file: Path, folder: Path) -> dict[str, Any]:
    """Write the model of a GGUF file to a new folder, and say what it is and what it lacks.

    Raises IprError where the package gguf is missing, or where the file cannot be read as what it is.
    """
    if util.find_spec("gguf") is None:
        raise IprError("GGUF needs the package gguf; pip install 'ipr[gguf]'")
    if not file.is_file():
        raise IprError(f"no file {file}; name the .gguf file itself")
    if folder.exists():
        raise IprError(f"{folder} is there already; choose another folder")
    model, tokenizer = _read(file.resolve())
    save_model(model, tokenizer, folder)
    found: dict[str, Any] = {"folder": str(folder), "parameters": model.num_parameters()}
    try:
        check_model(folder)
    except IprError as error:
        return found | {"lacks": str(error)}
    return found | {"next": f"ipr run quick model.path={folder}"}


def _read(file: Path) -> tuple[Any, Any]:
    import torch
    from gguf import GGUFReader
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils.logging import disable_progress_bar

    from ipr.models import plug

    disable_progress_bar()
    try:
        reader = GGUFReader(file)
        scaled = [tensor.name for tensor in reader.tensors if tensor.name.startswith("rope_")]
        scaled += [key for key in reader.fields if ".rope.scaling." in key]
        if scaled:  # Llama-3.1, Gemma-3 from 4B; transformers takes the plain embedding
            raise IprError(
                f"{file} scales positions ({scaled[0]}), which transformers leaves out; take its safetensors"
            )
        if _said(reader, "tokenizer.ggml.model") == "gpt2" and not plug.gguf_cuts(_said(reader, "tokenizer.ggml.pre")):
            raise IprError(
                f"{file} cuts words in a way ({_said(reader, 'tokenizer.ggml.pre') or 'it does not say which'}) that"
                " transformers does not know, so the model would read other tokens; take its safetensors"
            )
        with TemporaryDirectory() as alone:  # beside a tokenizer.json transformers would take that one
            Path(alone, file.name).symlink_to(file.resolve())
            built = AutoTokenizer.from_pretrained(alone, gguf_file=file.name)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            file.parent,
            gguf_file=file.name,
            dtype=torch.float32,
            quantization_config=GgufConfig(dequantize=True),
            output_loading_info=True,
        )
    except (OSError, ValueError, LookupError, RuntimeError, TypeError) as error:
        raise IprError(f"cannot read {file}: {first_line(error)}") from None
    model, info = loaded
    if lacking := info["missing_keys"]:
        raise IprError(f"{file} lacks {len(lacking)} tensors of its model; merge one that is in parts, or get it again")
    model.hf_quantizer = None  # the weights are whole
    return model, _as_built(built, len(reader.fields["tokenizer.ggml.tokens"].data), _blanks(reader, built, file))


def _said(reader: Any, key: str) -> str:
    """A text of the file's header; empty where there is none."""
    field = reader.fields.get(key)
    return str(field.contents()) if field else ""


def _blanks(reader: Any, built: Any, file: Path) -> bool | None:
    """Whether a blank goes before a text, and before one after a marker, of which transformers asks nothing; None where
    it knows by the model's family.

    Llama-2's kind has it, later vocabularies with markers of their own have it or do not, and no file says which.
    """
    family = _said(reader, "general.architecture")
    if _said(reader, "tokenizer.ggml.model") != "llama" or family.startswith(("gemma", "phi3")):
        return None
    if (field := reader.fields.get("tokenizer.ggml.add_space_prefix")) and not field.contents():
        return False
    plain = {built.bos_token, built.eos_token, built.unk_token, built.pad_token, "<unk>"}
    if others := sorted({token.content for token in built.added_tokens_decoder.values()} - plain):
        raise IprError(
            f"{file} does not say whether a blank follows its markers (e.g. {others[0]}); take its safetensors"
        )
    return True


def _as_built(built: Any, size: int, blanks: bool | None) -> Any:
    """The tokenizer that cuts as `built` does, but for `blanks` (see `_blanks`), and has the file's `size` tokens.

    Loaded as the family's own class it would be made anew from the vocabulary alone; and such a class may have added
    a token that the file does not have (GPT-2's end to Llama-3's vocabulary).
    """
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    tree = json.loads(built.backend_tokenizer.to_str())
    tree["added_tokens"] = [token for token in tree["added_tokens"] if token["id"] < size]
    if blanks is not None:
        tree["pre_tokenizer"], first = None, [{"type": "Prepend", "prepend": "▁"}] if blanks else []
        spaces = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
        tree["normalizer"] = {"type": "Sequence", "normalizers": [*first, spaces]}
        back = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
        last = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if blanks else []
        whole = [back, {"type": "ByteFallback"}, {"type": "Fuse"}, *last]
        tree["decoder"] = {"type": "Sequence", "decoders": whole}
    cut = Tokenizer.from_str(json.dumps(tree))
    named = {name: getattr(built, name) for name in ("bos_token", "eos_token", "unk_token", "pad_token")}
    named = {name: token for name, token in named.items() if token and cut.token_to_id(token) is not None}
    made = PreTrainedTokenizerFast(tokenizer_object=cut, clean_up_tokenization_spaces=False, **named)
    made.chat_template = built.chat_template
    return made
