"""Model folders: look at them, load them, save them, make new ones.

Decided here: a folder of ours is a plain transformers folder (config.json, safetensors, tokenizer with chat template),
or for LoRA a plain peft folder with the tokenizer and a `base.json` that tells which base the adapter was trained on.
With LoRA there is one adapter, handed on: SFT makes it on the base, every preference training goes on from a copy of
one, and the reference is simply the SFT folder (its log-probabilities are computed once, before the training).
What is wrong with a folder is found by `check_model` before the long work starts.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ipr import store
from ipr.config import BASES, EMBEDDED, ModelConfig, shipped
from ipr.profiling import timed
from ipr.types import IprError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

_LARGE = 500_000_000
"""Parameters from which training recomputes activations instead of keeping them: slower, but a 7B model needs it."""

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")

PAD, BOS, USER, AGENT, END = SPECIAL_TOKENS = ("<|pad|>", "<|bos|>", "<|user|>", "<|agent|>", "<|end|>")
"""Of the tokenizers made here, ids 0 to 4. Padding is a token of its own: equal to the end, it would mask real ends."""

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ '<|agent|>' if message['role'] == 'assistant' else '<|user|>' }}{{ message['content'] }}<|end|>"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|agent|>{% endif %}"
)


def resolve(path: str | Path) -> str:
    """The folder or hub name that `path` stands for. Raises IprError where it is none.

    "embedded-NAME" is the shipped base of an environment; "embedded" alone, where no run says which, ALFWorld's.
    """
    if str(path) == EMBEDDED or str(path).startswith(f"{EMBEDDED}-"):
        name = str(path).removeprefix(EMBEDDED).removeprefix("-") or "alfworld"
        if name not in shipped():
            raise IprError(
                f"no base model is shipped for {name}, only for {', '.join(shipped())}; set model.path to a folder"
            )
        path = BASES / name
    folder = Path(path).expanduser()
    if folder.is_dir():
        return str(folder)
    if folder.exists():
        raise IprError(f"model {path} is a file; give the folder it is in")
    if isinstance(path, Path) or not _HUB_NAME.fullmatch(path):
        raise IprError(f"no model folder {path}; correct model.path, or use 'embedded'")
    return path


def check_model(path: str | Path) -> None:
    """Cheap check (no weights are read) that `path` can be loaded and can chat.

    Raises IprError naming the folder and the fix: missing folder, no or broken config.json, missing or truncated
    weights, no tokenizer, a chat template that cannot be used.
    """
    from ipr.training.tokens import ChatTokens

    name = resolve(path)
    folder = Path(name)
    if folder.is_dir():
        if (folder / "adapter_config.json").exists():
            _check_safetensors(folder / "adapter_model.safetensors")
            check_model(_base_of(folder)["path"])
        else:
            _check_config(folder)
            _check_weights(folder)
    chat = ChatTokens(load_tokenizer(path))
    size = 0 if (folder / "adapter_config.json").exists() else _model_config(name).get_text_config().vocab_size
    if size and len(chat.tokenizer) > size:
        raise IprError(
            f"model {path}: its tokenizer has {len(chat.tokenizer)} tokens, its config {size}; one is foreign"
        )


def load_tokenizer(path: str | Path) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(resolve(path))
    except (OSError, ValueError, KeyError) as error:
        raise IprError(f"no tokenizer in {path} ({_first_line(error)}); copy the base model's there") from None


@timed("io")
def load_model(path: str | Path, config: ModelConfig, *, training: bool = False) -> Any:
    """A causal language model on its device.

    For playing: weights in `config.dtype`, in evaluation mode. For training: float32 weights that require gradients,
    or, where `config.lora.rank` is set, a base in `config.dtype` with a trainable float32 adapter: a new one, or the
    folder's own where it holds one (with rank 0 that is merged into the weights and everything is trained).
    Raises IprError naming the folder and the fix.
    """
    name = resolve(path)
    rank = config.lora.rank if training else 0
    dtype = "float32" if training and not rank else config.dtype
    if not (Path(name) / "adapter_config.json").exists():
        model = _load_full(name, dtype)
        if rank:
            model = _new_adapter(model, path, config)
    else:
        from peft import PeftModel

        folder = Path(name)
        _check_safetensors(folder / "adapter_model.safetensors")
        base = _intact_base_of(folder)
        model = _load_full(resolve(base["path"]), dtype, base["revision"])
        model = PeftModel.from_pretrained(model, name, is_trainable=rank > 0)
        if rank and rank != (saved := model.peft_config["default"].r):  # type: ignore[union-attr]
            raise IprError(f"adapter {folder} has rank {saved}, model.lora.rank is {rank}; make them equal")
        if training and not rank:
            model = model.merge_and_unload().requires_grad_(True)
    if training and model.num_parameters() > _LARGE:
        model.activation_checkpointing_enable()
    model = model.to(device(config))
    return model.train() if training else model.eval()


def device(config: ModelConfig) -> torch.device:
    """Where `config.device` is; without a number each process of `accelerate launch` gets its own GPU."""
    import torch

    name = config.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        found = torch.device(name)
    except RuntimeError:
        raise IprError(f"model.device={name} is no device; use auto, cpu, cuda or cuda:1") from None
    if found.type == "cuda" and not torch.cuda.is_available():
        raise IprError(f"model.device={name}, but torch sees no GPU here; use auto or cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if name == "cuda" else found


@contextmanager
def fast_products() -> Iterator[None]:
    """float32 matrix products by oneDNN instead of MKL on CPUs where that is faster and still float32.

    MKL runs at half speed on AMD: 190 against 430 GFLOP/s on two cores of an EPYC with AVX-512 (with 16 rows or more;
    below, MKL is faster). torch takes oneDNN when bfloat16 is allowed, but oneDNN rounds to bfloat16 only where there
    is AMX (or ARM), so there it is left alone.
    """
    import torch

    onednn: Any = torch.backends.mkldnn
    setting, cpu = onednn.matmul, torch.cpu.get_capabilities()
    before = setting.fp32_precision
    if cpu.get("avx512_f") and not cpu.get("amx_tile"):
        setting.fp32_precision = "bf16"
    try:
        yield
    finally:
        setting.fp32_precision = before


def save_model(model: Any, tokenizer: PreTrainedTokenizerBase, folder: Path) -> Path:
    """Write model (or adapter) and tokenizer aside and rename: the folder is whole or not there."""

    def write(aside: Path) -> None:
        model.save_pretrained(aside)
        if hasattr(model, "peft_config"):
            (aside / "README.md").unlink(missing_ok=True)
            base = _base_of(aside)
            store.write_json(aside / "base.json", base | {"hash": _hash_of_base(base["path"])})
        tokenizer.save_pretrained(aside)
        for file in aside.iterdir():
            with open(file, "rb") as opened:
                os.fsync(opened.fileno())

    return store.replace_folder(Path(folder), write)


def copy_model(path: str | Path, folder: Path) -> Path:
    """A copy of a model folder, whole or not there."""
    source = resolve(path)
    if not Path(source).is_dir():
        raise IprError(f"{path} is a name on the hub, not a folder; download it first")
    return store.replace_folder(Path(folder), lambda aside: shutil.copytree(source, aside, dirs_exist_ok=True))


def adapter(path: str | Path) -> tuple[str, int] | None:
    """The base (folder or hub name) and the rank of the adapter in `path`; None for a whole model.

    Raises IprError where the base is missing or has changed since.
    """
    folder = Path(resolve(path))
    if not (folder / "adapter_config.json").exists():
        return None
    return resolve(_intact_base_of(folder)["path"]), int(store.read_json(folder / "adapter_config.json")["r"])


def context_length(path: str | Path) -> int:
    """Most tokens the model at `path` can read at once; a very large number where it has no limit."""
    folder = Path(resolve(path))
    name = _base_of(folder)["path"] if (folder / "adapter_config.json").exists() else path
    return longest(_model_config(resolve(name)))


def longest(config: Any) -> int:
    """`context_length` of a model's transformers config."""
    return getattr(config.get_text_config(), "max_position_embeddings", None) or 1 << 30


def model_hash(path: str | Path) -> str:
    """sha256 over the content of a folder's weights, config and, for an adapter, its base: what decides its answers.

    Independent of where the folder is. For a hub name: of the name.
    """
    name = resolve(path)
    folder = Path(name)
    found = hashlib.sha256()
    if not folder.is_dir():
        found.update(name.encode())
        return found.hexdigest()
    for file in sorted(folder.iterdir()):
        if file.suffix in (".safetensors", ".bin"):
            with open(file, "rb") as opened:
                found.update(hashlib.file_digest(opened, "sha256").digest())
        elif file.name in ("config.json", "adapter_config.json"):
            config = store.read_json(file)
            config.pop("base_model_name_or_path", None)  # a place, not a content: base.json has the content's hash
            if isinstance(modules := config.get("target_modules"), list):
                modules.sort()  # peft writes a set
            found.update(json.dumps(config, sort_keys=True).encode())
    if (folder / "adapter_config.json").exists():
        base = _base_of(folder)
        found.update((base["hash"] or str(base["path"])).encode())
    return found.hexdigest()


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


def _load_full(name: str, dtype: str, revision: str | None = None) -> Any:
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    folder = Path(name)
    if folder.is_dir():
        _check_config(folder)
        _check_weights(folder)
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            name, dtype=getattr(torch, dtype), revision=revision or "main", output_loading_info=True
        )
        model, info = loaded
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise IprError(f"cannot load model {name}: {_first_line(error)}") from None
    # transformers only warns of these, and fills them with random numbers.
    if info["missing_keys"]:
        raise IprError(f"weights of model {name} lack {len(info['missing_keys'])} tensors of its config; restore them")
    return model


def _new_adapter(model: Any, path: str | Path, config: ModelConfig) -> Any:
    import torch
    from peft import LoraConfig, TaskType, get_peft_model

    lora = config.lora
    adapter = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.targets,
        revision=getattr(model.config, "_commit_hash", None),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # the same start for every process, and for a training that is resumed
        model = get_peft_model(model, adapter)
    folder = Path(path)
    # "embedded" and hub names mean the same everywhere; a folder only by its whole path.
    model.peft_config["default"].base_model_name_or_path = str(folder.resolve() if folder.is_dir() else path)
    return model


def _base_of(folder: Path) -> dict[str, Any]:
    """Base of an adapter: {"path", "revision", "hash"}; no hash where it is on the hub or the folder is not ours."""
    config = store.read_json(folder / "adapter_config.json")
    noted = store.read_json(folder / "base.json") if (folder / "base.json").exists() else {}
    path = config.get("base_model_name_or_path") or "./no-base-named"
    try:
        resolve(path)
    except IprError:
        raise IprError(
            f"adapter {folder}: its base model {path} is missing; put it back, or name another place for it"
            " (base_model_name_or_path in adapter_config.json)"
        ) from None
    return {"path": path, "revision": config.get("revision"), "hash": noted.get("hash")}


def _intact_base_of(folder: Path) -> dict[str, Any]:
    """`_base_of`; raises IprError where the base is another one than the adapter was trained on."""
    base = _base_of(folder)
    if base["hash"] and base["hash"] != model_hash(base["path"]):
        raise IprError(f"adapter {folder}: its base {base['path']} has changed since it was trained; restore the base")
    return base


def _hash_of_base(path: str) -> str | None:
    return model_hash(path) if Path(resolve(path)).is_dir() else None


def _model_config(name: str) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(name)
    except (OSError, ValueError, KeyError) as error:
        raise IprError(f"cannot read the config of model {name}: {_first_line(error)}") from None


def _check_config(folder: Path) -> None:
    if not (folder / "config.json").exists():
        raise IprError(f"no config.json in {folder}; a model folder holds config.json, weights and tokenizer")
    if "model_type" not in store.read_json(folder / "config.json"):
        raise IprError(f"{folder}/config.json names no model_type; restore it from the model's source")


def _check_weights(folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    names = set(store.read_json(index)["weight_map"].values()) if index.exists() else {"model.safetensors"}
    if names == {"model.safetensors"} and list(folder.glob("pytorch_model*.bin")):
        return  # the older format has no header to look at
    for name in sorted(names):
        _check_safetensors(folder / name)


def _check_safetensors(file: Path) -> None:
    """Size and header of a weights file agree: 8 bytes (length of the header), JSON header, tensors."""
    if not file.exists():
        raise IprError(f"no weights {file.name} in {file.parent}; copy them there or train the model again")
    size = file.stat().st_size
    try:
        with open(file, "rb") as opened:
            (length,) = struct.unpack("<Q", opened.read(8))
            if length > size:
                raise ValueError("header longer than the file")
            header = json.loads(opened.read(length))
        end = max((t["data_offsets"][1] for name, t in header.items() if name != "__metadata__"), default=0)
    except (OSError, ValueError, struct.error, KeyError, TypeError, AttributeError):
        raise IprError(f"weights {file} are corrupt (no safetensors header); copy or train them again") from None
    if 8 + length + end != size:
        raise IprError(f"weights {file} are truncated ({size} bytes of {8 + length + end}); copy or train them again")


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
