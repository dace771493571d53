"""What `ipr run --dry-run` says of memory against what a real training and real playing take, on a CPU.

    python -m benchmarks.memory [CASE ...] [--scale 1] [--json FILE]

Training is the trainer's own, two updates on ALFWorld's experts or on pairs of theirs; playing is our engine with every
slot filled to its last token. Models have random weights and are some tens of MB; `--scale 2` doubles their widths.
"measured" is the most that the process has held (VmHWM) above what it held before the model was made. The estimate
knows the config, the model's config and the experts, not the rows.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from random import Random
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen3Config

from benchmarks.training import make_pairs
from ipr import config as configs
from ipr import engine as engines
from ipr import envs, models
from ipr.algorithms.rft import demonstration
from ipr.apps import memory
from ipr.config import RunConfig
from ipr.engine import Request
from ipr.engine.batching import TransformersEngine
from ipr.tokens import ChatTokens
from ipr.training.trainer import reference_logps, train

CASES: dict[str, tuple[str, list[str]]] = {
    "sft": ("sft", []),
    "sft, bf16": ("sft", ["sft.mixed_precision=bf16"]),
    "pairs, bf16, recomputing": ("train", ["train.mixed_precision=bf16"]),
    "pairs, adapter on bfloat16": (
        "train",
        ["model.lora.rank=8", "model.dtype=bfloat16", "train.mixed_precision=bf16"],
    ),
    "playing": ("playing", []),
    "playing, bfloat16": ("playing", ["model.dtype=bfloat16"]),
    "playing, keys in bfloat16": ("playing", ["rollout.kv_dtype=bfloat16"]),
}
"""Name -> what is done, and the keys of its config."""
COMMON = ["model.max_length=1024", "rollout.slots=8"]
COMMON += [f"{section}.{key}" for section in ("sft", "train") for key in ("batch_size=4", "micro_batch_tokens=1024")]
_MMAP_THRESHOLD = -3
"""Of mallopt: allocations from so many bytes on go back to the system at once."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"{'; '.join(CASES)} (default: all)")
    parser.add_argument("--scale", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    if unknown := set(options.cases) - set(CASES):
        parser.error(f"no case {unknown.pop()}")
    print("case                         estimated MiB  measured MiB  estimated / measured", flush=True)
    found = {}
    for name in options.cases or CASES:
        # In a process of its own: what one has freed, and still has of the system, another would take for nothing.
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as own:
            estimated, taken = own.submit(case, name, options.scale).result()
        found[name] = {"estimated": estimated, "measured": taken}
        print(f"{name:28} {estimated / 2**20:13.0f} {taken / 2**20:13.0f} {estimated / taken:21.2f}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


def case(name: str, scale: int = 1) -> tuple[int, int]:
    """Bytes that are estimated and measured."""
    kind, keys = CASES[name]
    config = configs.load(None, [*COMMON, *keys])
    with_recomputing = name.endswith("recomputing")
    before, models.LARGE = models.LARGE, 0 if with_recomputing else models.LARGE
    try:
        return (of_playing if kind == "playing" else of_training)(config, kind, scale)
    finally:
        models.LARGE = before


def of_training(config: RunConfig, section: str, scale: int) -> tuple[int, int]:
    chat = ChatTokens(models.load_tokenizer(configs.EMBEDDED))
    text, spec = architecture(section, scale), envs.get("alfworld")
    experts = [spec.expert(task_id) for task_id in spec.task_ids("train")[:8]]
    settings = getattr(config, section).model_copy(update={"updates": 2})
    examples = memory.updates(config, spec, chat, experts)[section]
    estimated = memory.training(text, config, settings, examples)["total"]
    pairs = make_pairs(8)
    rows: Any = pairs if section == "train" else [demonstration(t) for t in experts]
    loss = "ipr" if section == "train" else "sft"

    def learn(text: Any) -> None:
        model = made(text, config, training=True)
        limit: dict[str, Any] = {"max_length": config.model.max_length}
        reference = reference_logps(model, chat, rows, spec.told, settings, **limit) if loss == "ipr" else None
        with tempfile.TemporaryDirectory() as out:
            train(model, chat, rows, spec.told, loss, settings, reference=reference, seed=0, out=Path(out), **limit)

    return estimated, measured(learn, text)


def of_playing(config: RunConfig, kind: str, scale: int) -> tuple[int, int]:
    text, length, slots = architecture(kind, scale), config.model.max_length, config.rollout.slots
    rng, estimated = Random(0), memory.playing(text, config)["total"]
    kept = torch.bfloat16 if config.rollout.kv_dtype == "bfloat16" else None
    asked = [Request([5 + rng.randrange(1000) for _ in range(length - 8)], 8, k) for k in range(slots)]

    def play(text: Any) -> None:
        model = made(text, config, training=False)
        engine = TransformersEngine(model, [], max_length=length, slots=slots, kv_dtype=kept)
        engines.generate(engine, asked, 1.0)

    return estimated, measured(play, text)


def architecture(kind: str, scale: int) -> Any:
    common: dict[str, Any] = {"vocab_size": 8000, "num_hidden_layers": 4, "max_position_embeddings": 4096}
    if kind == "playing":  # much to keep of each token, and little to compute
        common |= {"num_attention_heads": 8, "num_key_value_heads": 8, "head_dim": 128}
        return Qwen3Config(**common, hidden_size=256 * scale, intermediate_size=512 * scale)
    common |= {"num_attention_heads": 8, "num_key_value_heads": 4}
    return LlamaConfig(**common, hidden_size=512 * scale, intermediate_size=1408 * scale)


def made(text: Any, config: RunConfig, *, training: bool) -> Any:
    """A model as `models.load_model` gives it."""
    dtype = getattr(torch, models.dtype_of(config.model, training=training))
    model = AutoModelForCausalLM.from_config(text, dtype=dtype)
    if training and config.model.lora.rank:
        model = models.with_adapter(model, config.model)
    if training and model.num_parameters() > models.LARGE:
        model.activation_checkpointing_enable()
    return model.train() if training else model.eval()


def measured(work: Callable[[Any], None], text: Any) -> int:
    """The most that the process holds while it does so with the model of a config, above what it held before."""
    ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, 1 << 16)
    small = models.shallow(text, 1)
    small.hidden_size, small.intermediate_size = 64, 64
    work(small)  # what is loaded at first use is there then
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = held("VmRSS")
    work(text)
    return held("VmHWM") - before


def held(what: str) -> int:
    found = re.search(rf"{what}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) << 10


if __name__ == "__main__":
    sys.exit(main())
