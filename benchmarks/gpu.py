"""How near our engine's decode passes come to the limit of a GPU's memory, and vLLM's on the same model.

    python benchmarks/gpu.py [--parameters 0.5B|1B] [--context 1024] [--compile] [--json FILE]

A Llama of random weights in bfloat16; every row of a batch writes `--steps` tokens after a prompt of `--context`
tokens, or up to 15 less, so that rows differ in length as they do in a run. Batches grow fourfold up to what the
memory holds (or as `--batches` says). A pass has to read all weights once and the key-values of every row: these bytes
over the bandwidth that a large copy reaches are the limit. "pass" is the model's forward alone, "engine" everything
from one pass to the next (drawing, layout, tokens to the CPU and back).

vLLM plays where it is installed: the same model and prompt, one request for as many samples as there are rows, its
prefix cached. `--compile` compiles MLPs and norms (torch.compile). Whole passes are in no CUDA graph: their attention
reads exactly as many keys as the longest row has, so shapes change with every token; what that costs is what a small
batch shows. `--device cpu --parameters tiny` runs the script anywhere, to see that it runs.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ipr import config as configs
from ipr import engine as engines
from ipr import models
from ipr.engine import Request
from ipr.engine.batching import TransformersEngine
from ipr.policies.chat import end_tokens
from ipr.tokens import ChatTokens

SIZES: dict[str, dict[str, int]] = {
    "tiny": {"vocab_size": 2048, "hidden": 64, "layers": 2, "heads": 4, "kv_heads": 2},
    "0.5B": {"vocab_size": 32000, "hidden": 1280, "layers": 24, "heads": 20, "kv_heads": 4, "intermediate": 4096},
    "1B": {"vocab_size": 32000, "hidden": 2048, "layers": 16, "heads": 32, "kv_heads": 8, "intermediate": 8192},
}
_SPARE = 0.8
"""Share of the free memory that key-values and logits may take."""
_LOGIT_BYTES = 40
"""A token's logit, its probability in float64 while it is drawn, and copies of both."""


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parameters", default="1B", choices=SIZES)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--context", type=int, default=1024, help="tokens of the prompt")
    parser.add_argument("--steps", type=int, default=64, help="tokens that every row writes")
    parser.add_argument("--batches", type=int, nargs="*", help="rows; default: 1, 4, 16, ... as far as memory goes")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        sys.exit("torch sees no GPU here; to see that the script runs: --device cpu --parameters tiny")
    device = torch.device(options.device)
    speed = bandwidth(device)
    model, tokenizer = make(options.parameters, options.context + options.steps, device)
    if options.compile:
        compile_parts(model)
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    each = key_value_bytes(model.config, model.dtype)
    batches = options.batches or fitting(model, each, options.context + options.steps, device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(
        f"{name}: {speed / 1e9:.0f} GB/s; {model.num_parameters() / 1e9:.3f}B parameters ({weights / 1e9:.2f} GB), "
        f"{each / 1024:.0f} KiB of key-values a token"
    )
    print("rows  pass ms  GB a pass  limit tokens/s  pass tokens/s      %  engine tokens/s      %  memory GiB")
    rows: list[dict[str, Any]] = []
    for batch in batches:
        try:
            rows.append(decode(model, tokenizer, batch, options, weights, each, speed))
        except torch.OutOfMemoryError:
            print(f"{batch:4}  does not fit into the memory")
            break
    facts = {"device": name, "bandwidth": speed, "weights": weights, "key_values_a_token": each, "rows": rows}
    if find_spec("vllm") is not None and device.type == "cuda":
        with tempfile.TemporaryDirectory() as folder:
            models.save_model(model, tokenizer, Path(folder) / "model")
            del model
            free()
            facts["vllm"] = with_vllm(Path(folder) / "model", [row["rows"] for row in rows], options, rows)
    else:
        print("vLLM: not here")
    if options.json:
        options.json.write_text(json.dumps({"options": vars(options) | {"json": None}} | facts, indent=1) + "\n")
    return facts


def make(size: str, max_length: int, device: torch.device) -> tuple[Any, Any]:
    """A model in bfloat16 and a tokenizer with a chat template; of larger ids than its own it knows no text."""
    tokenizer = models.load_tokenizer("embedded")
    sizes = dict(SIZES[size])
    sizes["vocab_size"] = max(sizes["vocab_size"], len(tokenizer))
    with torch.device(device):
        model = models.new_base_model(**sizes, max_length=max_length + 8)  # type: ignore[arg-type]
    return model.to(torch.bfloat16).eval(), tokenizer


def compile_parts(model: Any) -> None:
    """What has the same shapes in every pass of a batch: MLPs and norms, not attention."""
    for layer in model.model.layers:
        for part in (layer.mlp, layer.input_layernorm, layer.post_attention_layernorm):
            part.compile(dynamic=True)


def key_value_bytes(config: Any, dtype: torch.dtype) -> int:
    width = config.hidden_size // config.num_attention_heads
    return 2 * config.num_hidden_layers * config.num_key_value_heads * width * dtype.itemsize


def bandwidth(device: torch.device) -> float:
    """Bytes a second that a large copy reads and writes."""
    source = torch.ones((1 << 30 if device.type == "cuda" else 1 << 26) // 4, device=device)
    target = torch.empty_like(source)
    seconds = []
    for _ in range(10):
        start = moment(device)
        target.copy_(source)
        seconds.append(moment(device) - start)
    return 2 * source.numel() * 4 / min(seconds)


def fitting(model: Any, each: int, length: int, device: torch.device) -> list[int]:
    """1, 4, 16, ... and the most rows of `length` tokens that the free memory holds; on a CPU up to 64."""
    most = 64
    if device.type == "cuda":
        free()
        bytes_a_row = each * (length + 64) + _LOGIT_BYTES * model.config.vocab_size
        most = int(_SPARE * torch.cuda.mem_get_info(device)[0] / bytes_a_row)
    return [*(4**k for k in range(12) if 4**k < most), most]


def moment(device: torch.device) -> float:
    """The time, when the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


class Timed(TransformersEngine):
    """Our engine with a clock around its decode passes and around the loop over them."""

    def clear(self) -> None:
        self.passes: list[tuple[int, int, float]] = []
        """Rows, key-values that they read, seconds."""
        self.seconds = 0.0

    def forward(self, ids: Any, layout: Any, keep: Any) -> torch.Tensor:
        start = moment(self.device)
        logits = super().forward(ids, layout, keep)
        if layout.small:  # a token a row
            self.passes.append((len(ids), int(np.sum(layout.places + 1)), moment(self.device) - start))
        return logits

    def step(self, active: Any, temperature: float) -> list[int]:
        start, before = moment(self.device), len(self.passes)
        ended = super().step(active, temperature)
        if len(self.passes) > before:
            self.seconds += moment(self.device) - start
        return ended


def decode(
    model: Any, tokenizer: Any, batch: int, options: argparse.Namespace, weights: int, each: int, speed: float
) -> dict[str, Any]:
    """One batch: passes against their limit. The first tokens are played once before, to warm up."""
    free()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    ends = end_tokens(ChatTokens(tokenizer), model.generation_config)
    engine = Timed(model, ends, max_length=options.context + options.steps, slots=batch)
    for steps in (min(4, options.steps), options.steps):
        engine.clear()
        requests = [Request(prompt(options.context - seed % 16), steps, seed) for seed in range(batch)]
        engines.generate(engine, requests, 1.0)
    tokens = sum(rows for rows, _, _ in engine.passes)
    seconds = sum(took for _, _, took in engine.passes)
    read = sum(weights + each * kept for _, kept, _ in engine.passes)
    row = {
        "rows": batch,
        "milliseconds_a_pass": 1e3 * seconds / len(engine.passes),
        "gigabytes_a_pass": read / len(engine.passes) / 1e9,
        "limit": tokens * speed / read,
        "pass": tokens / seconds,
        "engine": tokens / engine.seconds,
        "gibibytes": torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else None,
    }
    memory = "" if row["gibibytes"] is None else f"{row['gibibytes']:11.1f}"
    print(
        f"{batch:4} {row['milliseconds_a_pass']:8.2f} {row['gigabytes_a_pass']:10.3f} {row['limit']:15.0f}"
        f" {row['pass']:14.0f} {100 * row['pass'] / row['limit']:6.1f} {row['engine']:16.0f}"
        f" {100 * row['engine'] / row['limit']:6.1f} {memory}"
    )
    return row


def prompt(length: int) -> list[int]:
    return [5 + i * 7919 % 1000 for i in range(length)]


def with_vllm(folder: Path, batches: list[int], options: argparse.Namespace, ours: list[Any]) -> list[dict[str, Any]]:
    """The same rows by vLLM: the time of all tokens but the first, so that the prompt's is not in it."""
    from ipr.policies import load

    length = options.context + options.steps
    config = configs.validate(
        {
            "model": {"path": str(folder), "dtype": "bfloat16", "max_length": length},
            "rollout": {"backend": "vllm", "slots": max(batches)},
        },
        "gpu.py",
    )
    policy: Any = load(str(folder), "vllm", config)
    found = []
    for batch, own in zip(batches, ours, strict=True):
        took = {}
        for steps in (1, options.steps, 1, options.steps):  # the first two warm up
            start = time.perf_counter()
            requests = [Request(prompt(options.context), steps, seed) for seed in range(batch)]
            samples = engines.generate(policy.engine, requests, 1.0)
            took[steps] = time.perf_counter() - start
        speed = (sum(len(sample.ids) for sample in samples) - batch) / (took[options.steps] - took[1])
        share, ratio = 100 * speed / own["limit"], speed / own["engine"]
        print(f"vLLM, {batch} rows: {speed:.0f} tokens/s, {share:.1f} % of the limit, {ratio:.2f} times our engine")
        found.append({"rows": batch, "tokens_a_second": speed})
    return found


if __name__ == "__main__":
    main()
