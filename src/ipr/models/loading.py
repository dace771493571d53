"""Models: check, load and save them.

Decided here: a folder of ours is a plain transformers folder (config.json, safetensors, tokenizer with chat template),
or for LoRA a plain peft folder with the tokenizer and a `base.json` that tells which base the adapter was trained on.
With LoRA there is one adapter, handed on: SFT makes it on the base, every preference training goes on from a copy of
one, and the reference is simply the SFT folder (its log-probabilities are computed once, before the training).
What is wrong with a folder is found by `check_model` before the long work starts.
"""

from __future__ import annotations

import gc
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ipr import store
from ipr.config import DATE, ModelConfig
from ipr.models.folders import (
    base_of,
    check_adapter,
    check_config,
    check_tokenizer,
    check_weights,
    first_line,
    hash_of_base,
    intact_base_of,
    one_line,
    read_config,
    resolve,
)
from ipr.profiling import timed
from ipr.tokens import ChatTokens, with_date
from ipr.types import IprError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

LARGE = 500_000_000
"""Parameters from which training recomputes activations instead of keeping them: slower, but a 7B model needs it."""
_LESS = "train adapters (model.lora.rank=16), or take a smaller model"


def check_model(path: str | Path, config: ModelConfig | None = None) -> None:
    """Cheap check (no weights are read) that `path` can be loaded and can chat; and be trained as `config` has it.

    Raises IprError naming the folder and the fix: missing folder, no or broken config.json, missing, truncated, foreign
    or quantized weights, no tokenizer, a chat template that cannot be used, no such modules for an adapter.
    """
    name = resolve(path)
    model, is_adapter = _outline(name), (Path(name) / "adapter_config.json").exists()
    chat = ChatTokens(load_tokenizer(path))
    size = model.get_input_embeddings().weight.shape[0]
    if len(chat.tokenizer) > size and not is_adapter:
        raise IprError(
            f"model {path}: its tokenizer has {len(chat.tokenizer)} tokens, its config {size}; one is foreign"
        )
    if config and config.lora.rank:
        if is_adapter:
            _check_same(model, name, config)
        else:
            with_adapter(model, config)


def _outline(name: str) -> Any:
    """A folder's or hub name's model without its numbers: of a folder, all but those of its files is looked at."""
    import torch
    from transformers import AutoModelForCausalLM

    folder = Path(name)
    if (folder / "adapter_config.json").exists():
        check_adapter(folder)
        return _with_saved_adapter(_outline(resolve(base_of(folder)["path"])), folder)
    if folder.is_dir():
        return _load_full(name, "float32", place="meta")
    config = read_config(name)
    with one_line(f"cannot make a model of the config of {name}"), torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def load_tokenizer(path: str | Path, date: str = DATE) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or hub name. Raises IprError where there is none.

    A chat template that shows the date shows `date`, or the one that it was saved with.
    """
    from transformers import AutoTokenizer

    from ipr.models import plug

    name = resolve(path)
    plug.reach_hub(name)
    if Path(name).is_dir():
        check_tokenizer(Path(name))
    with one_line(f"cannot read the tokenizer of {path}; restore it, or copy the base model's there"):
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    template = tokenizer.chat_template
    if isinstance(template, dict):  # several, by name
        tokenizer.chat_template = {name: with_date(each, date) for name, each in template.items()}
    elif template:
        tokenizer.chat_template = with_date(template, date)
    return tokenizer


@timed("io")
def load_model(path: str | Path, config: ModelConfig, *, training: bool = False) -> Any:
    """A causal language model on its device.

    For playing: weights in `config.dtype`, in evaluation mode. For training: float32 weights that require gradients
    (but for the embeddings where `config.freeze_embeddings` is set), or, where `config.lora.rank` is set, a base in
    `config.dtype` with a trainable float32 adapter: a new one, or the folder's own where it holds one (with rank 0 that
    is merged into the weights and everything is trained).
    Of several processes each loads it whole, and leaves one that is to be trained on the CPU: the training spreads it.
    Raises IprError naming the folder and the fix.
    """
    name = resolve(path)
    rank = config.lora.rank if training else 0
    dtype = dtype_of(config, training=training)
    if not (Path(name) / "adapter_config.json").exists():
        model = _load_full(name, dtype)
        if rank:
            model = _new_adapter(model, path, config)
    else:
        folder = Path(name)
        check_adapter(folder)
        base = intact_base_of(folder)
        model = _with_saved_adapter(_load_full(resolve(base["path"]), dtype, base["revision"]), folder, rank > 0)
        model.peft_config["default"].base_model_name_or_path = base["path"]  # where it lies now
        if rank:
            _check_same(model, name, config)
        if training and not rank:
            with one_line(f"adapter {folder} cannot be merged into its base"):
                model = model.merge_and_unload().requires_grad_(True)
    if training and config.freeze_embeddings:
        freeze_embeddings(model)
    if training and model.num_parameters() > LARGE:
        model.activation_checkpointing_enable()
    with enough_memory(_LESS if training else "take a smaller model, or fewer rollout.workers a GPU"):
        if not training:
            return model.to(device(config)).eval()
        from ipr.models import processes

        processes.here(device(config))
        return (model if processes.several() else model.to(device(config))).train()


def embeddings(model: Any) -> list[torch.nn.Parameter]:
    """The parameters of the input and of the output embeddings; tied ones come twice."""
    return [*model.get_input_embeddings().parameters(), *model.get_output_embeddings().parameters()]


def freeze_embeddings(model: Any) -> None:
    """Leave the input and the output embeddings as they are in training."""
    for parameter in embeddings(model):
        parameter.requires_grad_(False)


def dtype_of(config: ModelConfig, *, training: bool) -> str:
    """Of a model's weights; where an adapter is trained, of its base's."""
    return "float32" if training and not config.lora.rank else config.dtype


def device_named(config: ModelConfig) -> torch.device:
    """What `config.device` says, here or elsewhere. Raises IprError where that is no device."""
    import torch

    name = config.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.device(name)
    except RuntimeError:
        raise IprError(f"model.device={name} is no device; use auto, cpu, cuda or cuda:1") from None


def device(config: ModelConfig) -> torch.device:
    """Where `config.device` is; without a number each process of `accelerate launch` gets its own GPU."""
    import torch

    name, found = config.device, device_named(config)
    if found.type == "cuda" and not torch.cuda.is_available():
        raise IprError(f"model.device={name}, but torch sees no GPU here; use auto or cpu")
    whole = found.type == "cuda" and name in ("auto", "cuda")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if whole else found


def gpus(config: ModelConfig) -> list[str]:
    """What CUDA_VISIBLE_DEVICES calls the GPUs that several processes can share out; none where `config.device` is a
    CPU or names one of them.
    """
    import torch

    if device(config).type != "cuda" or config.device not in ("auto", "cuda"):
        return []
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",") if named else [str(number) for number in range(torch.cuda.device_count())]


def free_gpu() -> None:
    """Give back what torch keeps of the GPU for itself, e.g. after a training."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextmanager
def enough_memory(fix: str) -> Iterator[None]:
    """What ends within it for want of memory, of a GPU or of the CPU, becomes an IprError that names `fix`."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # Of torch, of CUDA and of NCCL ("Cuda failure 2 'out of memory'"); of cuBLAS; of the CPU.
        told = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "DefaultCPUAllocator")
        if not isinstance(error, MemoryError) and not any(words in str(error) for words in told):
            raise
        raise IprError(f"out of memory ({first_line(error)}); {fix}") from None


def smaller_passes(section: str) -> str:
    """What to do where the passes of a training, of that section of the config, lack memory."""
    return f"lower {section}.micro_batch_tokens; below the longest example it changes nothing, then {_LESS}"


def save_model(model: Any, tokenizer: PreTrainedTokenizerBase, folder: Path) -> Path:
    """Write model (or adapter) and tokenizer aside and rename: the folder is whole or not there.

    Of a model that is spread over processes all have to ask for it; the first writes.
    """
    from ipr.models import processes

    state = processes.whole_state(model)
    if state == {}:
        return folder

    def write(aside: Path) -> None:
        model.save_pretrained(aside, state_dict=state)
        if hasattr(model, "peft_config"):
            (aside / "README.md").unlink(missing_ok=True)
            base = base_of(aside)
            noted, home = base | {"hash": hash_of_base(base["path"])}, Path(folder).resolve()
            if Path(base["path"]).is_relative_to(home.parent.parent):  # both lie in a run's folder, which may be moved
                noted["beside"] = os.path.relpath(base["path"], home)
            store.write_json(aside / "base.json", noted)
        tokenizer.save_pretrained(aside)
        for file in aside.rglob("*"):  # chat templates beside the default one have a folder
            if file.is_file():
                with open(file, "rb") as opened:
                    os.fsync(opened.fileno())

    return store.replace_folder(Path(folder), write)


def save_blank_adapter(base: str | Path, config: ModelConfig, folder: Path) -> Path:
    """An adapter that changes nothing, of the shapes that a training on `base` would make; no weights are read.

    Raises IprError where the base's config cannot be read.
    """
    import torch
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(read_config(resolve(base)))
    model = _new_adapter(model, base, config)
    weights = {name: torch.zeros(value.shape) for name, value in get_peft_model_state_dict(model).items()}
    model.peft_config["default"].save_pretrained(str(folder))
    save_file(weights, folder / "adapter_model.safetensors")
    load_tokenizer(base).save_pretrained(str(folder))
    return folder


def _load_full(name: str, dtype: str, revision: str | None = None, place: str | None = None) -> Any:
    """A whole model; in the `place` "meta" it has no numbers, and of its files only the shapes are looked at."""
    import torch
    from accelerate.utils import patch_environment
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    from ipr.models import plug

    disable_progress_bar()
    plug.reach_hub(name)
    folder = Path(name)
    if folder.is_dir():
        check_config(folder)
        read_config(name)
        check_weights(folder)
    # What the launcher may say: that the first process alone has the weights.
    with (
        one_line(f"cannot load model {name}"),
        patch_environment(FSDP_CPU_RAM_EFFICIENT_LOADING="false"),
        plug.quiet() if place else nullcontext(),  # of tensors that are not used it tells when the model is loaded
    ):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            name,
            dtype=getattr(torch, dtype),
            revision=revision or "main",
            device_map=place,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    model, info = loaded
    # transformers fills these with random numbers.
    for what, told in (("missing_keys", "lack {} tensors"), ("mismatched_keys", "have other shapes in {} tensors")):
        if found := info[what]:
            raise IprError(
                f"weights of model {name} {told.format(len(found))} of its config"
                f" (e.g. {_first(found)}); they are another model's, or not all are there"
            )
    ends = getattr(model.generation_config, "eos_token_id", None)
    known = model.get_input_embeddings().weight.shape[0]
    if not all(isinstance(i, int) and 0 <= i < known for i in (ends if isinstance(ends, list) else [ends or 0])):
        raise IprError(f"generation_config.json of model {name}: eos_token_id={ends} is no token's id; correct it")
    return model


def _first(keys: Any) -> str:
    """One of the tensors' names, which are some without and some with their shapes."""
    return min(key if isinstance(key, str) else key[0] for key in keys)


def _with_saved_adapter(model: Any, folder: Path, trainable: bool = False) -> Any:
    """The adapter in `folder` on its base. Raises IprError where it is another model's."""
    from peft import PeftConfig, PeftModelForCausalLM

    from ipr.models import plug

    fix = "name the model that it was trained on (base_model_name_or_path in adapter_config.json)"
    how = {"low_cpu_mem_usage": model.device.type == "meta"}
    with one_line(f"adapter {folder} does not fit its base; {fix}"), plug.quiet():
        config = PeftConfig.from_pretrained(str(folder))
        config.inference_mode = not trainable
        found = PeftModelForCausalLM(model, config, **how)
        loaded = found.load_adapter(str(folder), "default", is_trainable=trainable, **how)
    for told, keys in (("lacks {} tensors for", loaded.missing_keys), ("has {} others than", loaded.unexpected_keys)):
        if keys:
            raise IprError(f"adapter {folder} {told.format(len(keys))} its base (e.g. {min(keys)}); {fix}")
    _check_ends(found, f"adapter {folder}", "train one of other modules")
    return found


def _check_same(model: Any, folder: str, config: ModelConfig) -> None:
    """Raises IprError where the model's adapter, read from `folder`, is not as `config.lora` has it: it goes on as it
    is."""
    adapter = model.peft_config["default"]
    for key, name in (("rank", "r"), ("alpha", "lora_alpha"), ("dropout", "lora_dropout")):
        if (saved := getattr(adapter, name)) != (asked := getattr(config.lora, key)):
            raise IprError(f"adapter {folder} has {key} {saved}, model.lora.{key} is {asked}; make them equal")


def _new_adapter(model: Any, path: str | Path, config: ModelConfig) -> Any:
    from ipr.models import plug

    model, folder = with_adapter(model, config, plug.revision(resolve(path))), Path(path)
    # "embedded" and hub names mean the same everywhere; a folder only by its whole path.
    model.peft_config["default"].base_model_name_or_path = str(folder.resolve() if folder.is_dir() else path)
    return model


def with_adapter(model: Any, config: ModelConfig, revision: str | None = None) -> Any:
    """A model with a new trainable float32 adapter, as `config.lora` has it; `revision` is the base's on the hub."""
    import torch
    from peft import LoraConfig, TaskType, get_peft_model

    from ipr.models import plug

    lora, modules = config.lora, dict(model.named_modules())
    linear = {name: module for name, module in modules.items() if isinstance(module, torch.nn.Linear)}
    other = [name for name, module in linear.items() if not _multiplies(module)]
    adapter = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.targets,
        exclude_modules=other or None,
        revision=revision,
    )
    there = {name.rpartition(".")[2] for name in linear.keys() - set(other)}
    told = f"model.lora.targets={lora.targets} cannot be adapted in this model, whose modules are {sorted(there)}"
    # Of a list peft leaves out what is not there, and an empty one is its own choice.
    known = {
        name[cut:] for name in modules.keys() - set(other) for cut in (0, *(m.end() for m in re.finditer(r"\.", name)))
    }
    if not lora.targets or not (isinstance(lora.targets, str) or known >= set(lora.targets)):
        raise IprError(told)
    with one_line(told), plug.quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # the same start for every process, and for a training that is resumed
        adapted = get_peft_model(model, adapter)
    _check_ends(adapted, f"model.lora.targets={lora.targets}", "leave them out (all-linear does)")
    return adapted


def _check_ends(adapted: Any, what: str, fix: str) -> None:
    """Raises IprError for embeddings that are the output layer too: merged, what one has learnt is the other's."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    model = adapted.get_base_model()
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    if getattr(model.config.get_text_config(), "tie_word_embeddings", False) and any(
        isinstance(end, BaseTunerLayer) for end in ends
    ):
        raise IprError(
            f"{what} adapts embeddings that this model has in common with its output layer, which no merged model could"
            f" keep; {fix}"
        )


def _multiplies(module: Any) -> bool:
    """Whether a linear layer gives its product and nothing else: a router gives scores and choices (Llama-4)."""
    import torch

    if type(module).forward is torch.nn.Linear.forward:
        return True
    try:
        found = module(module.weight.new_zeros(1, module.in_features))
    except Exception:  # it wants more than states, or states of another shape
        return False
    return isinstance(found, torch.Tensor) and found.shape == (1, module.out_features)
