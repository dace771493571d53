"""Everything that wants a GPU, tried and timed on one: the engine, training, a small loop. `gpu_session.sh` runs all.

    python -m benchmarks.gpu check       # our engine writes what transformers does, and what it does on a CPU; training
    python -m benchmarks.gpu engines     # tokens a second beside transformers' generate, and vLLM's (--vllm PATH)
    python -m benchmarks.gpu training    # tokens a second and memory of SFT and of the pair loss
    python -m benchmarks.gpu loop        # the preset smoke, stage by stage, as `ipr sft`, `ipr explore` ... run it

`--seconds` ends a part in time: what is left is named and not begun. `--json FILE` adds a line a figure. Sizes other
than "embedded" (the shipped model) are Llamas of random weights. `--device cpu --sizes tiny` shows that a part runs.

engines: each row has a prompt of its own, of `--context` tokens or up to 15 less, so that rows differ in length as
they do in a run, and writes `--steps` tokens at temperature 1; every engine gets the same rows. "whole" is all tokens
written over all time, prompts read; "decode" only what comes after the first token: the difference of two calls. A
decode pass has to read all weights once and the key-values of every row; these bytes over the bandwidth that a large
copy reaches are the limit, and % its share that our passes reach ("pass": the model's forward alone, "decode"
everything from one pass to the next: drawing, layout, tokens to the CPU and back). `--compile` compiles our MLPs and
norms (torch.compile). Whole passes are in no CUDA graph: their attention reads exactly as many keys as the longest row
has, so shapes change with every token; what that costs is what few rows show.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any

import numpy as np
import torch

if not hasattr(torch.cpu, "get_capabilities"):  # before the torch that we pin; what is asked of it is little
    torch.cpu.get_capabilities = lambda: dict.fromkeys(  # type: ignore[attr-defined]
        ["avx2"] + ["avx512_f"] * (torch.backends.cpu.get_cpu_capability() == "AVX512"), True
    )

from ipr import config as configs
from ipr import engine as engines
from ipr import models
from ipr.engine import Request, kv
from ipr.engine.batching import TransformersEngine
from ipr.models.loading import LARGE

SIZES: dict[str, dict[str, int]] = {
    "tiny": {"vocab_size": 2048, "hidden": 64, "layers": 2, "heads": 4, "kv_heads": 2},
    "125M": {"vocab_size": 32000, "hidden": 768, "layers": 12, "heads": 12, "kv_heads": 12, "intermediate": 2560},
    "1B": {"vocab_size": 32000, "hidden": 2048, "layers": 16, "heads": 32, "kv_heads": 8, "intermediate": 8192},
    "3B": {"vocab_size": 32000, "hidden": 3072, "layers": 28, "heads": 24, "kv_heads": 8, "intermediate": 8192},
    "7B": {"vocab_size": 32000, "hidden": 4096, "layers": 32, "heads": 32, "kv_heads": 8, "intermediate": 14336},
}
EMBEDDED = "embedded"
WARM = 8
"""Tokens of a row in the call that warms up."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--sizes", nargs="*", choices=[EMBEDDED, *SIZES], default=[EMBEDDED, "125M", "1B"])
    parser.add_argument("--rows", type=int, nargs="*", default=[1, 32, 128, 512])
    parser.add_argument("--context", type=int, default=1024, help="tokens of a prompt")
    parser.add_argument("--steps", type=int, default=64, help="tokens that every row writes")
    parser.add_argument("--pairs", type=int, default=32, help="training: pairs, half of step level")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--vllm", help="engines: the `vllm` command of its environment")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        sys.exit("torch sees no GPU here; to see that a part runs: --device cpu --sizes tiny")
    device = torch.device(options.device)
    end = time.monotonic() + options.seconds
    failed = False

    def run(what: str, work: Callable[[], Any]) -> None:
        """One figure; what fails is shown, and the next begins."""
        nonlocal failed
        if time.monotonic() > end:
            print(f"{what}: no time left", flush=True)
            return
        start, wrong, found = time.monotonic(), None, None
        try:
            found = work()
            failed |= found is False
        except torch.OutOfMemoryError:
            wrong = "does not fit into the memory"
        except Exception as error:
            traceback.print_exc()
            wrong, failed = f"{type(error).__name__}: {error}", True
        free()
        if wrong:
            print(f"{what}: {wrong}", flush=True)
        if options.json:
            row = {"part": options.part, "what": what, "seconds": time.monotonic() - start, "failed": wrong}
            with options.json.open("a") as file:
                file.write(json.dumps(row | (found if isinstance(found, dict) else {"found": found})) + "\n")

    libraries = ", ".join(f"{name} {known_version(name)}" for name in ("torch", "transformers", "numpy", "numba"))
    print(f"{options.part}: {name_of(device)}, Python {platform.python_version()}, {libraries}", flush=True)
    for what, work in PARTS[options.part](options, device):
        run(what, work)
        if failed and options.part == "loop":  # each stage goes on from the one before
            break
    return int(failed)


Works = Iterator[tuple[str, Callable[[], Any]]]
"""What is done, and how; it returns what is written down, or False where a check did not hold."""


# Are they right? ------------------------------------------------------------------------------------------------------


def check(options: argparse.Namespace, device: torch.device) -> Works:
    def shipped(dtype: str) -> Any:
        return models.load_model(EMBEDDED, at("cpu", dtype))

    yield "embedded", lambda: same("embedded", shipped("float32"), device)
    for name, make_one in families().items():
        yield name, lambda name=name, make_one=make_one: same(name, make_one(), device)
    yield "bfloat16", lambda: same("embedded, bfloat16", shipped("bfloat16"), device, exact=False)
    yield "training", lambda: same_training(options, device)


def families() -> dict[str, Callable[[], Any]]:
    """Tiny random models."""
    from transformers import (
        AutoModelForCausalLM,
        Gemma3TextConfig,
        GPTNeoXConfig,
        LlamaConfig,
        MistralConfig,
        Olmo2Config,
        PreTrainedConfig,
        Qwen3Config,
    )

    common: dict[str, Any] = {
        "vocab_size": 1024,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": 1024,
        "initializer_range": 0.1,  # far enough from a tie
    }
    kinds: dict[str, tuple[type[PreTrainedConfig], dict[str, Any]]] = {
        "llama": (LlamaConfig, {"num_key_value_heads": 2}),
        "qwen3": (Qwen3Config, {"num_key_value_heads": 2, "head_dim": 32}),
        "mistral with a window": (MistralConfig, {"num_key_value_heads": 2, "sliding_window": 48}),
        "gemma3": (Gemma3TextConfig, {"num_key_value_heads": 2, "head_dim": 16, "sliding_window": 48}),
        "olmo2": (Olmo2Config, {}),
        "gpt-neox": (GPTNeoXConfig, {}),
    }

    def of(kind: type[PreTrainedConfig], more: dict[str, Any]) -> Any:
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(kind(**common, **more)).eval()

    return {name: lambda kind=kind, more=more: of(kind, more) for name, (kind, more) in kinds.items()}


def same(what: str, model: Any, device: torch.device, exact: bool = True, rows: int = 8, steps: int = 24) -> bool:
    """Whether rows come out alike from our engine on the device, transformers' generate there, and ours on the CPU."""
    model.generation_config.eos_token_id = None
    length = 200 + 2 * steps
    asked = [Request(prompt(40 + 150 * k // rows, k // 2)[: 190 - 7 * k], steps, k, session=k) for k in range(rows)]

    def ours(place: torch.device, slots: int, temperature: float) -> list[tuple[int, ...]]:
        engine = TransformersEngine(model, [], max_length=length, slots=slots, device=place, accelerate=False)
        first = engines.generate(engine, asked, temperature)
        again = [
            Request([*request.prompt, *one.ids, 9, 10, 11], steps, request.seed + 1, session=request.session)
            for request, one in zip(asked, first, strict=True)
        ]
        return [one.ids + two.ids for one, two in zip(first, engines.generate(engine, again, temperature), strict=True)]

    def theirs() -> list[tuple[int, ...]]:
        found = []
        for request in asked:
            ids, written = list(request.prompt), ()
            for _ in range(2):  # turns
                out = model.generate(
                    torch.tensor([ids], device=device), do_sample=False, max_new_tokens=steps, pad_token_id=0
                )
                new = tuple(out[0, len(ids) :].tolist())
                ids, written = [*ids, *new, 9, 10, 11], written + new
            found.append(written)
        return found

    cpu = torch.device("cpu")
    on_cpu = ours(cpu, 8, 0.0), ours(cpu, 8, 1.0)
    model.to(device)
    with torch.inference_mode():
        reference = theirs()
    greedy, sampled = ours(device, 8, 0.0), ours(device, 8, 1.0)
    compared = {
        "greedy as transformers": (greedy, reference),
        "greedy as on the CPU": (greedy, on_cpu[0]),
        "sampled as on the CPU": (sampled, on_cpu[1]),
        "sampled with 8 as with 3 slots": (sampled, ours(device, 3, 1.0)),
    }
    fine = True
    for how, (a, b) in compared.items():
        equal = sum(x == y for x, y in zip(a, b, strict=True))
        fine = fine and equal == rows
        print(f"check {what}: {how}: {equal} of {rows} rows", flush=True)
    return fine or not exact


def same_training(options: argparse.Namespace, device: torch.device) -> bool:
    """Whether the losses of a few updates are those on a CPU."""
    found = {}
    for place in ("cpu", str(device)):
        for loss in ("sft", "ipr"):
            found[place, loss] = trained(EMBEDDED, loss, place, 8, "no", epochs=2)["losses"]
    fine = True
    for loss in ("sft", "ipr"):
        off = max(abs(a - b) / abs(a) for a, b in zip(found["cpu", loss], found[str(device), loss], strict=True))
        print(f"check training, {loss}: losses differ from the CPU's by at most {off:.1e} of them", flush=True)
        fine = fine and off < 1e-3
    return fine


# How fast do they write? ----------------------------------------------------------------------------------------------


def play(options: argparse.Namespace, device: torch.device) -> Works:
    speed = bandwidth(device)
    print(f"a large copy: {speed / 1e9:.0f} GB/s", flush=True)
    print(f"tokens/s, each row {options.context} and {options.steps} tokens", flush=True)
    print("model     rows engine        whole    decode  pass ms   pass %  decode %  memory GiB", flush=True)
    for size in options.sizes:
        kept: list[Any] = []  # one model a size

        def model(size: str = size, kept: list[Any] = kept) -> Any:
            if not kept:
                kept.append(make(size, options, device))
            return kept[0]

        for rows in options.rows:
            for engine in (ours, theirs):
                yield (
                    f"{size}, {rows} rows, {engine.__name__}",
                    lambda engine=engine, rows=rows, size=size: engine(model(), size, rows, options, speed, device),
                )
        if options.vllm is not None and device.type == "cuda":
            yield f"{size}, vLLM", lambda size=size, kept=kept: with_vllm(kept, size, options)
        else:
            print("vLLM: not asked for (--vllm PATH)", flush=True)
        kept.clear()
        free()


def make(size: str, options: argparse.Namespace, device: torch.device) -> Any:
    """A model in bfloat16 that knows no end."""
    if size == EMBEDDED:
        model = models.load_model(EMBEDDED, at(str(device), "bfloat16"))
    else:
        with torch.device(device):
            model = models.new_base_model(**SIZES[size], max_length=options.context + options.steps + 8)  # type: ignore
        model = model.to(torch.bfloat16).eval()
    model.generation_config.eos_token_id = None
    if options.compile:  # what has the same shapes in every pass of a batch, not attention
        for layer in model.model.layers:
            for part in (layer.mlp, layer.input_layernorm, layer.post_attention_layernorm):
                part.compile(dynamic=True)
    return model


class Timed(TransformersEngine):
    """Our engine with a clock around its decode passes."""

    def clear(self) -> None:
        self.passes: list[tuple[int, int, float]] = []
        """Rows, key-values that they read, seconds."""

    def forward(self, ids: Any, layout: Any, keep: Any) -> torch.Tensor:
        start = moment(self.device)
        logits = super().forward(ids, layout, keep)
        if layout.small:  # a token a row
            self.passes.append((len(ids), int(np.sum(layout.places + 1)), moment(self.device) - start))
        return logits


def ours(
    model: Any, size: str, rows: int, options: argparse.Namespace, speed: float, device: torch.device
) -> dict[str, Any]:
    length = min(options.context + options.steps, model.config.max_position_embeddings)
    engine = Timed(model, [], max_length=length, slots=rows)

    def write(steps: int) -> None:
        engine.clear()
        engines.generate(engine, asked(rows, steps, options), 1.0)

    found = timed(write, rows, options, device)
    if engine.passes:
        each, weights = kv.bytes_a_token(model, model.dtype), bytes_of(model)
        read = sum(weights + each * kept for _, kept, _ in engine.passes)
        seconds = sum(took for _, _, took in engine.passes)
        limit = sum(n for n, _, _ in engine.passes) * speed / read
        found |= {
            "milliseconds_a_pass": 1e3 * seconds / len(engine.passes),
            "gigabytes_a_pass": read / len(engine.passes) / 1e9,
            "pass_share": read / speed / seconds,
            "decode_share": found["decode"] / limit,
        }
    return shown(size, rows, "ours", found)


def theirs(
    model: Any, size: str, rows: int, options: argparse.Namespace, speed: float, device: torch.device
) -> dict[str, Any]:
    """transformers' generate, all rows at once, padded on the left."""

    def write(steps: int) -> None:
        prompts = [request.prompt for request in asked(rows, steps, options)]
        longest = max(map(len, prompts))
        ids = torch.tensor([[0] * (longest - len(one)) + list(one) for one in prompts], device=device)
        mask = torch.tensor([[0] * (longest - len(one)) + [1] * len(one) for one in prompts], device=device)
        with torch.inference_mode():
            out = model.generate(
                ids,
                attention_mask=mask,
                do_sample=True,
                top_k=0,
                top_p=1.0,
                max_new_tokens=steps,
                pad_token_id=0,
            )
        assert out.shape[1] == longest + steps

    return shown(size, rows, "transformers", timed(write, rows, options, device))


def with_vllm(kept: list[Any], size: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """The same rows; prompts are new in every call, else its prefix cache would have them."""
    from ipr.policies import load, rest

    with tempfile.TemporaryDirectory() as folder:
        models.save_model(kept.pop(), models.load_tokenizer(EMBEDDED), Path(folder) / "model")
        free()
        length = options.context + options.steps
        config = configs.validate(
            {
                "model": {"path": str(Path(folder) / "model"), "dtype": "bfloat16", "max_length": length},
                "rollout": {"backend": "vllm", "vllm": options.vllm, "slots": max(options.rows)},
            },
            "gpu.py",
        )
        policy: Any = load(config.model.path, "vllm", config)
        calls, found = iter(range(1000)), []
        for rows in options.rows:

            def write(steps: int, rows: int = rows) -> None:
                engines.generate(policy.engine, asked(rows, steps, options, 1 + next(calls)), 1.0)

            found.append(shown(size, rows, "vLLM", timed(write, rows, options, torch.device("cuda"))))
        rest()
        return found


def asked(rows: int, steps: int, options: argparse.Namespace, call: int = 0) -> list[Request]:
    return [Request(prompt(options.context - k % 16, 10_000 * call + k), steps, k) for k in range(rows)]


def prompt(length: int, seed: int) -> list[int]:
    """Like no other seed's."""
    return [5 + i for i in Random(seed).choices(range(1000), k=length)]


def timed(write: Callable[[int], None], rows: int, options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Of a function that writes so many tokens in each row: tokens a second, whole and after the first token."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    took = {}
    for steps in (min(WARM, options.steps), 1, options.steps):
        start = moment(device)
        write(steps)
        took[steps] = moment(device) - start
    whole = rows * options.steps / took[options.steps]
    decode = rows * (options.steps - 1) / max(took[options.steps] - took[1], 1e-9)
    memory = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else None
    return {"rows": rows, "whole": whole, "decode": decode, "first": took[1], "gibibytes": memory}


def shown(size: str, rows: int, engine: str, found: dict[str, Any]) -> dict[str, Any]:
    passes = " " * 28
    if "pass_share" in found:
        a, b = 100 * found["pass_share"], 100 * found["decode_share"]
        passes = f"{found['milliseconds_a_pass']:9.2f} {a:8.1f}  {b:8.1f}"
    memory = "" if found["gibibytes"] is None else f"{found['gibibytes']:11.1f}"
    print(f"{size:9} {rows:4} {engine:12} {found['whole']:8.0f}  {found['decode']:8.0f}{passes} {memory}", flush=True)
    return {"size": size, "engine": engine} | found


# How fast do they learn? ----------------------------------------------------------------------------------------------


def training(options: argparse.Namespace, device: torch.device) -> Works:
    print("model     loss  precision  updates  tokens/s  memory GiB", flush=True)
    for size in options.sizes:
        for loss in ("sft", "ipr"):
            yield (
                f"{size}, {loss}",
                lambda size=size, loss=loss: trained(size, loss, str(device), options.pairs, "bf16", show=True),
            )


def trained(
    size: str, loss: str, place: str, count: int, precision: Any, epochs: int = 3, show: bool = False
) -> dict[str, Any]:
    """One training with the loss; its pairs are ALFWorld's (see `benchmarks.training`), its chosen sides imitated."""
    from benchmarks.training import make_pairs
    from benchmarks.training import prompt as instruction
    from ipr.tokens import ChatTokens
    from ipr.training.batches import example
    from ipr.training.trainer import reference_logps, train
    from ipr.types import Demonstration

    chat = ChatTokens(models.load_tokenizer(EMBEDDED))
    pairs = make_pairs(count)
    rows: list[Any] = pairs if loss == "ipr" else [Demonstration(p.task_id, (*p.prompt, *p.chosen)) for p in pairs]
    section = configs.PreferenceConfig if loss == "ipr" else configs.TrainConfig
    settings = section(
        epochs=epochs, batch_size=8, learning_rate=1e-5, micro_batch_tokens=16384, mixed_precision=precision
    )
    device = torch.device(place)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    if size == EMBEDDED:
        model = models.load_model(EMBEDDED, at(place), training=True)
    else:
        with torch.device(device):
            model = models.new_base_model(**SIZES[size], max_length=4096)  # type: ignore[arg-type]
        model.train()
        if model.num_parameters() > LARGE:
            model.activation_checkpointing_enable()
    limits: dict[str, Any] = {"max_length": 4096, "progress": None}
    words = instruction()
    reference = reference_logps(model, chat, pairs, lambda _: words, settings, **limits) if loss == "ipr" else None
    moments: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        result = train(
            model,
            chat,
            rows,
            lambda _: words,
            loss,
            settings,
            reference=reference,
            seed=0,
            out=Path(folder),
            log=lambda *_: moments.append(moment(device)),
            **limits,
        )
    whole = sum(example(chat, instruction(), row).tokens for row in rows)
    later = epochs - 1  # the first warms up
    seconds = moments[-1] - moments[len(moments) // epochs - 1]
    found = {
        "size": size,
        "loss": loss,
        "tokens_a_second": later * whole / seconds,
        "updates": result.updates,
        "gibibytes": torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else None,
        "losses": [row["loss"] for row in result.history],
    }
    if show:
        memory = "" if found["gibibytes"] is None else f"{found['gibibytes']:11.1f}"
        speed = found["tokens_a_second"]
        print(f"{size:9} {loss:4}  {precision:9} {result.updates:8} {speed:9.0f} {memory}", flush=True)
    return found


# Does it all hang together? -------------------------------------------------------------------------------------------

STAGES = (("sft", 0), ("evaluate", 0), ("explore", 1), ("reward", 1), ("pairs", 1), ("train", 1), ("evaluate", 1))


def loop(options: argparse.Namespace, device: torch.device) -> Works:
    from ipr.runs import run as runs

    if find_spec("prefect") is None:
        without_prefect()
    runs.version = known_version  # a run notes it of what this part can do without, too
    folder = Path(tempfile.mkdtemp()) / "smoke"
    given = [f"model.device={device}", "track.enabled=false", "data.publish=false"]

    def stage(name: str, iteration: int) -> dict[str, Any]:
        from flows import launch

        config = configs.load("smoke", given, Path(__file__).parents[1] / "flows" / "configs")
        run = runs.Run.open(folder, config, "smoke")
        run.note(base=run.config.model.path)
        start = time.monotonic()
        facts = launch.one_task(folder, name, iteration)
        brief = {key: value for key, value in facts.items() if isinstance(value, int | float)}
        print(f"loop {name} {iteration}: {time.monotonic() - start:.1f} s, {json.dumps(brief)}", flush=True)
        return brief

    for name, iteration in STAGES:
        yield f"{name} {iteration}", lambda name=name, iteration=iteration: stage(name, iteration)


def without_prefect() -> None:
    """A stage is a plain function under Prefect's decorator; that is all that this part needs of Prefect."""
    prefect, policies = ModuleType("prefect"), ModuleType("prefect.cache_policies")

    def task(**_: Any) -> Callable[[Any], Any]:
        def decorate(function: Any) -> Any:
            function.fn = function
            return function

        return decorate

    prefect.task, policies.NO_CACHE = task, None  # type: ignore[attr-defined]
    sys.modules |= {"prefect": prefect, "prefect.cache_policies": policies}


# What they share ------------------------------------------------------------------------------------------------------


def known_version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not here"


def at(device: str, dtype: str = "float32") -> configs.ModelConfig:
    return configs.ModelConfig(device=device, dtype=dtype)  # type: ignore[arg-type]


def bytes_of(model: Any) -> int:
    return sum(p.numel() * p.element_size() for p in model.parameters())


def name_of(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


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


def moment(device: torch.device) -> float:
    """The time, when the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


PARTS = {"check": check, "engines": play, "training": training, "loop": loop}

if __name__ == "__main__":
    sys.exit(main())
