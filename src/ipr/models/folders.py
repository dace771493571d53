"""Model folders as they lie on disk: which one a path names, what is in it, and the digest of what decides its answers.

No weights are loaded here.
"""

from __future__ import annotations

import contextlib
import filecmp
import json
import os
import re
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ipr import identity, store
from ipr.config import BASES, EMBEDDED, shipped
from ipr.types import IprError

WEIGHTS = (".safetensors", ".bin")
ARCHITECTURES = Path(__file__).parent / "architectures"
"""What decides the size of models that presets name, as their config.json has it; the file is the hub name."""
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_LONGEST = 96
"""Letters of a hub name."""
_QUANTIZED = ("F8", "F6", "F4", "I8", "I4")
"""How safetensors calls types in which no model computes; buffers of old ones are U8 and BOOL."""
_UNTRAINABLE = "which cannot be trained; take the one it was made of, or import a GGUF of it (ipr model import)"


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
    with one_line(f"no model folder {str(path)[:_LONGEST]}; correct model.path, or use 'embedded'"):
        there, is_folder = folder.exists(), folder.is_dir()
    if is_folder:
        return str(folder)
    if there:
        if folder.suffix == ".gguf":
            raise _unconverted(folder)
        raise IprError(f"model {path} is a file; give the folder it is in")
    if isinstance(path, Path) or not _HUB_NAME.fullmatch(path) or len(path) > _LONGEST:
        raise IprError(f"no model folder {path}; correct model.path, or use 'embedded'")
    return path


def copy_model(path: str | Path, folder: Path) -> Path:
    """A copy of a model folder, whole or not there."""
    source = resolve(path)
    if not Path(source).is_dir():
        raise IprError(f"{path} is a name on the hub, not a folder; download it first")
    return store.replace_folder(Path(folder), lambda aside: copy_files(source, aside))


def copy_files(source: str | Path, folder: Path) -> None:
    """Copy a model folder's files into `folder`; weights are hard links where the disk is the same one.

    No weights file is ever written in place, so sharing one is safe; and what goes here stays there. A file that is
    itself a symbolic link (as in the hub's cache) is copied as what it leads to.
    """

    def copy(file: str, target: str) -> None:
        if file.endswith(WEIGHTS):
            with contextlib.suppress(OSError):  # another disk, or one without links
                os.link(os.path.realpath(file), target)
                return
        shutil.copy2(file, target)

    shutil.copytree(source, folder, dirs_exist_ok=True, copy_function=copy)


def share_weights(folder: Path, other: str | Path) -> None:
    """Where weights of `folder` are those of the folder `other`, keep them once."""
    for file in sorted(folder.iterdir()) if Path(other).is_dir() else ():
        twin = Path(other) / file.name
        if file.suffix not in WEIGHTS or not twin.is_file() or not filecmp.cmp(file, twin, shallow=False):
            continue
        aside = file.with_name(f".{file.name}.part")
        with contextlib.suppress(OSError):  # another disk, or one without links
            os.link(twin.resolve(), aside)
            os.replace(aside, file)


def adapter(path: str | Path) -> tuple[str, int] | None:
    """The base (folder or hub name) and the rank of the adapter in `path`; None for a whole model.

    Raises IprError where the base is missing or has changed since.
    """
    folder = Path(resolve(path))
    if not (folder / "adapter_config.json").exists():
        return None
    return resolve(intact_base_of(folder)["path"]), adapter_config(folder)["r"]


def context_length(path: str | Path) -> int:
    """Most tokens the model at `path` can read at once; a very large number where it has no limit."""
    return longest(config_of(path))


def config_of(path: str | Path) -> Any:
    """The transformers config of a model, of an adapter's base. Raises IprError where it cannot be read."""
    folder = Path(resolve(path))
    name = base_of(folder)["path"] if (folder / "adapter_config.json").exists() else path
    return read_config(resolve(name))


def is_here(path: str | Path) -> bool:
    """Whether a model's config is on this machine: in a folder, or of a hub name that was fetched before."""
    from huggingface_hub import try_to_load_from_cache

    name = resolve(path)
    return Path(name).is_dir() or isinstance(try_to_load_from_cache(name, "config.json"), str)


def known(path: str) -> Any:
    """The transformers config of a hub name whose architecture is shipped, without its weights; else None."""
    from transformers import AutoConfig

    file = ARCHITECTURES / f"{path.replace('/', '--')}.json"
    return AutoConfig.for_model(**store.read_json(file)) if file.is_file() else None


def longest(config: Any) -> int:
    """`context_length` of a model's transformers config."""
    text = config.get_text_config()
    return getattr(text, "max_position_embeddings", None) or getattr(text, "max_seq_len", None) or 1 << 30  # or MPT's


def model_hash(path: str | Path) -> str:
    """Of all that decides a model's answers (see `identity.model`), wherever its folder is.

    For a hub name: of the name, and of the commit that it stands for now.
    """
    name = resolve(path)
    folder = Path(name)
    if not folder.is_dir():
        from ipr.models import plug

        return identity.digest([name, plug.revision(name)])
    if not (folder / "adapter_config.json").exists():
        return identity.model(folder)
    base = base_of(folder)
    content = base["hash"] or hash_of_base(base["path"]) or base["path"]
    return identity.model(folder, content, Path(resolve(base["path"])))


def adapter_config(folder: Path) -> dict[str, Any]:
    """adapter_config.json of a LoRA adapter. Raises IprError where it is another kind's, or no adapter's."""
    file = folder / "adapter_config.json"
    config = _object(file)
    kind = config.get("peft_type")
    if kind != "LORA":
        raise IprError(f"adapter {folder} is of type {kind}, only LORA is played and trained; use a LoRA adapter")
    if type(config.get("r")) is not int:
        raise IprError(f"{file} names no rank r; restore it from the adapter's source")
    return config


def base_of(folder: Path) -> dict[str, Any]:
    """Base of an adapter: {"path", "revision", "hash"}; no hash where it is on the hub or the folder is not ours.

    Where the path is missing it is that beside the adapter (base.json): a run's folder may be anywhere.
    """
    config = adapter_config(folder)
    noted = _object(folder / "base.json") if (folder / "base.json").exists() else {}
    path = str(config.get("base_model_name_or_path") or "./no-base-named")
    beside = folder / str(noted.get("beside", "no-base-beside"))
    if Path(path).is_absolute() and not Path(path).is_dir() and beside.is_dir():
        path = str(beside.resolve())
    try:
        base = resolve(path)
    except IprError:
        raise IprError(
            f"adapter {folder}: its base model {path} is missing; put it back, or name another place for it"
            " (base_model_name_or_path in adapter_config.json)"
        ) from None
    if (Path(base) / "adapter_config.json").exists():
        raise IprError(
            f"adapter {folder}: its base {path} is an adapter itself; name a whole model"
            " (base_model_name_or_path in adapter_config.json)"
        )
    return {"path": path, "revision": config.get("revision"), "hash": noted.get("hash")}


def intact_base_of(folder: Path) -> dict[str, Any]:
    """`base_of`; raises IprError where the base is another one than the adapter was trained on."""
    base = base_of(folder)
    if base["hash"] and base["hash"] != hash_of_base(base["path"]):
        raise IprError(f"adapter {folder}: its base {base['path']} has changed since it was trained; restore the base")
    return base


def hash_of_base(path: str) -> str | None:
    """Of the weights that an adapter is trained on; the tokenizer lies beside the adapter."""
    folder = Path(resolve(path))
    return identity.weights(folder) if folder.is_dir() else None


def read_config(name: str) -> Any:
    from transformers import AutoConfig

    from ipr.models import plug

    plug.reach_hub(name)
    told = f"cannot read the config of model {name}"
    if not is_here(name):
        told += f"; correct model.path, or fetch it where the hub can be reached: hf download {name} (a gated one with"
        told += " HF_TOKEN)"
    with one_line(told):
        config: Any = AutoConfig.from_pretrained(name, trust_remote_code=False)
        if config.get_text_config().to_dict().get("num_hidden_layers", 1) < 1:
            raise ValueError("it has no layers")
    if quantized := getattr(config, "quantization_config", None):
        method = quantized.get("quant_method") if isinstance(quantized, dict) else None
        raise IprError(f"model {name} is quantized ({method}), {_UNTRAINABLE}")
    return config


def _unconverted(file: Path) -> IprError:
    return IprError(f"{file} is GGUF; make a model folder of it: ipr model import {file} --out NEW-FOLDER")


def check_config(folder: Path) -> None:
    if not (folder / "config.json").exists():
        if files := sorted(folder.glob("*.gguf")):
            raise _unconverted(files[0] if len(files) == 1 else folder / "ONE-OF-THEM.gguf")
        raise IprError(f"no config.json in {folder}; a model folder holds config.json, weights and tokenizer")
    if "model_type" not in _object(folder / "config.json"):
        raise IprError(f"{folder}/config.json names no model_type; restore it from the model's source")
    if (generation := folder / "generation_config.json").exists():
        _object(generation)


def check_tokenizer(folder: Path) -> None:
    if not any(any(folder.glob(name)) for name in identity.VOCABULARIES):
        raise IprError(
            f"no tokenizer in {folder} (tokenizer.json, or tokenizer.model or vocab.json with its merges); copy the"
            " base model's there, with tokenizer_config.json and the chat template"
        )


def check_weights(folder: Path) -> None:
    """Every file of the weights is there and begins as one."""
    for start, check in (("model.safetensors", check_safetensors), ("pytorch_model.bin", _check_torch)):
        index = folder / f"{start}.index.json"
        if not index.exists() and not (folder / start).exists():
            continue
        for name in _shards(index) if index.exists() else [start]:
            check(folder / name)
        return
    raise IprError(f"no weights model.safetensors in {folder}; copy them there or train the model again")


def check_adapter(folder: Path) -> None:
    adapter_config(folder)
    if not (folder / "adapter_model.safetensors").exists() and (folder / "adapter_model.bin").exists():
        raise IprError(
            f"adapter {folder} has its weights in adapter_model.bin; save them as adapter_model.safetensors"
            " (safetensors.torch.save_file of what torch.load gives)"
        )
    check_safetensors(folder / "adapter_model.safetensors")


def _shards(index: Path) -> list[str]:
    names = _object(index).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise IprError(f"{index} has no weight_map, which says what is in which file; copy it from the model's source")
    return sorted(set(names.values()))


def _object(file: Path) -> dict[str, Any]:
    found = store.read_json(file)
    if not isinstance(found, dict):
        raise IprError(f"{file} is no JSON object; restore it from the model's source")
    return found


def _check_torch(file: Path) -> None:
    _check_there(file)
    with open(file, "rb") as opened:
        if not opened.read(2).startswith((b"PK", b"\x80")):  # a zip, or a pickle of old
            raise IprError(f"weights {file} are corrupt (not written by torch.save); copy or train them again")


def _check_there(file: Path) -> None:
    if not file.is_file():
        raise IprError(f"no weights {file.name} in {file.parent}; copy them there or train the model again")


def check_safetensors(file: Path) -> None:
    """Size and header of a weights file agree: 8 bytes (length of the header), JSON header, tensors."""
    _check_there(file)
    size = file.stat().st_size
    try:
        with open(file, "rb") as opened:
            (length,) = struct.unpack("<Q", opened.read(8))
            if length > size:
                raise ValueError("header longer than the file")
            header = json.loads(opened.read(length))
        tensors = {name: t for name, t in header.items() if name != "__metadata__"}
        end = max((t["data_offsets"][1] for t in tensors.values()), default=0)
        quantized = next((t["dtype"] for t in tensors.values() if t["dtype"].startswith(_QUANTIZED)), None)
    except (OSError, ValueError, struct.error, KeyError, TypeError, AttributeError):
        raise IprError(f"weights {file} are corrupt (no safetensors header); copy or train them again") from None
    if 8 + length + end != size:
        raise IprError(f"weights {file} are truncated ({size} bytes of {8 + length + end}); copy or train them again")
    if quantized:  # read without their scales, they would be other numbers
        raise IprError(f"weights {file} are quantized ({quantized}), {_UNTRAINABLE}")


def first_line(error: BaseException) -> str:
    """The beginning of what an error says, and its type where that alone would not be understood."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = " ".join(lines[: 2 if lines and lines[0].endswith(":") else 1])
    told = told if len(told) < 300 else f"{told[:300]}..."
    if told and isinstance(error, (OSError, ValueError, RuntimeError, ImportError)):
        return told
    return f"{type(error).__name__}: {told}" if told else type(error).__name__


@contextlib.contextmanager
def one_line(told: str) -> Iterator[None]:
    """Whatever reading other people's files raises within (transformers, peft, torch, jinja) becomes an IprError."""
    try:
        yield
    except IprError:
        raise
    except Exception as error:
        raise IprError(f"{told}: {first_line(error)}") from None
