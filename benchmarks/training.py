"""Preference training: our tokens a second and memory against TRL's DPOTrainer, and the ratio.

    python benchmarks/training.py [--pairs 32] [--epochs 2] [--batch 8] [--repeats 2] [--json FILE]

Both train the shipped model on the same pairs, float32 on one thread of a CPU, with the same batch, beta, epochs,
learning rate and AdamW; the loss is DPO alone. The pairs are like those of IPR, from generated ALFWorld games: after a
common history (instruction, first observation, the expert's first steps) the expert's remainder is chosen, and what the
wanderer does from there is rejected; of every game one pair from the start and one from a later step.

A token is counted once for every epoch and row (history and chosen, history and rejected), for both the same. Time is
processor time, so that other work on the machine changes little: reference log-probabilities and updates, without
loading and (for TRL, in its favour) without making tokens. "peak" is the most that the process has held, "above start"
that without what it held before. TRL runs without recomputed activations (its default is with: measured too), with
reference log-probabilities computed first, and so again with the batch accumulated from quarters. The ratio is to the
fastest of these, whichever it is.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from random import Random
from typing import Any

from ipr import models
from ipr.algorithms.pairs import pair
from ipr.config import ModelConfig, PreferenceConfig
from ipr.envs.alfworld import expert, games, play
from ipr.envs.alfworld.prompt import prompt
from ipr.envs.alfworld.world import Household
from ipr.tokens import ChatTokens
from ipr.training.batches import pair_example
from ipr.training.trainer import reference_logps, train
from ipr.types import PreferencePair, Step, Trajectory

STEPS = 20
BETA, RATE = 0.1, 1e-5
THEIRS: dict[str, dict[str, Any]] = {
    "TRL": {},
    "TRL, recomputing": {"gradient_checkpointing": True},
    "TRL, reference first": {"precompute_ref_log_probs": True},
    "TRL, reference first, quarters": {"precompute_ref_log_probs": True, "gradient_accumulation_steps": 4},
}
OURS = "ours"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=2, help="of each, in turn; the fastest counts")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--part", choices=(OURS, *THEIRS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part:
        part = ours if args.part == OURS else theirs
        print(json.dumps(part(make_pairs(args.pairs), args)))
        return
    given = [f"--{name}={getattr(args, name)}" for name in ("pairs", "epochs", "batch")]
    found: dict[str, list[dict[str, float]]] = {OURS: []} | {name: [] for name in THEIRS}
    for _ in range(args.repeats):
        for name, rows in found.items():
            with tempfile.TemporaryDirectory() as folder:
                env = os.environ | {"HF_HOME": folder, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
                command = [sys.executable, __file__, *given, "--part", name]
                out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=folder, env=env).stdout
                rows.append(json.loads(out.splitlines()[-1]))
    if len({row["tokens"] for rows in found.values() for row in rows}) > 1:
        sys.exit("the two did not train on the same tokens")
    best = {name: min(rows, key=lambda row: row["seconds"]) for name, rows in found.items()}
    print("| | seconds | tokens/s | peak MB | above start MB |")
    print("|---|---:|---:|---:|---:|")
    for name, row in best.items():
        rate = row["tokens"] / row["seconds"]
        print(f"| {name} | {row['seconds']:.1f} | {rate:,.0f} | {row['peak']:.0f} | {row['peak'] - row['start']:.0f} |")
    trl = [best[name] for name in THEIRS]
    summary = {
        "tokens": best[OURS]["tokens"],
        "ratio": min(row["seconds"] for row in trl) / best[OURS]["seconds"],
        "memory_ratio": min(row["peak"] for row in trl) / best[OURS]["peak"],
    }
    print(
        f"ratio of tokens/s, to the fastest of TRL: {summary['ratio']:.2f};"
        f" least peak of TRL to ours: {summary['memory_ratio']:.2f}; {summary['tokens']:,} tokens each"
    )
    if args.json:
        args.json.write_text(json.dumps({"runs": found, **summary}, indent=1))


def make_pairs(count: int) -> list[PreferencePair]:
    rng, env, found = Random(0), Household(games), []
    for task_id in games.task_ids("train")[: -(-count // 2)]:
        best = expert.play(games.game(task_id), task_id, STEPS)
        for t in (0, rng.randrange(1, len(best.steps))):
            env.reset(task_id)
            steps = list(best.steps[:t])
            for step in steps:
                env.step(step.action)
            for step in play.wander(task_id, 0, STEPS - t).steps:
                outcome = env.step(step.action)
                steps.append(Step(step.action, outcome.observation))
                if outcome.terminated:
                    break
            agent = Trajectory(task_id, best.first_observation, tuple(steps), 0.0, "truncated", start=t)
            found.append(pair("step" if t else "outcome", best, agent, t, 1.0, "expert"))
    return found[:count]


def memory() -> float:
    """The most this process has held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def ours(pairs: list[PreferencePair], args: argparse.Namespace) -> dict[str, float]:
    import torch

    torch.set_num_threads(1)
    chat = ChatTokens(models.load_tokenizer("embedded"))
    model = models.load_model("embedded", ModelConfig(device="cpu"), training=True)
    settings = PreferenceConfig(
        epochs=args.epochs, batch_size=args.batch, beta=BETA, learning_rate=RATE, sft=0.0, micro_batch_tokens=4096
    )
    counted = sum(pair_example(chat, prompt(), pair).tokens for pair in pairs)
    held, start = memory(), time.process_time()
    reference = reference_logps(model, chat, pairs, lambda _: prompt(), settings, max_length=2048)
    with tempfile.TemporaryDirectory() as folder:
        limits: dict[str, Any] = {"max_length": 2048, "seed": 0, "out": Path(folder)}
        train(model, chat, pairs, lambda _: prompt(), "ipr", settings, reference=reference, **limits)
    seconds = time.process_time() - start
    return {"seconds": seconds, "tokens": counted * args.epochs, "start": held, "peak": memory()}


def theirs(pairs: list[PreferencePair], args: argparse.Namespace) -> dict[str, float]:
    import torch
    from datasets import Dataset
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer

    torch.set_num_threads(1)
    spent = 0.0

    class Timed(DPOTrainer):
        def _precompute_ref_logps(self, *given: Any, **more: Any) -> Any:
            nonlocal spent
            start = time.process_time()
            try:
                return super()._precompute_ref_logps(*given, **more)
            finally:
                spent += time.process_time() - start

    tokenizer = models.load_tokenizer("embedded")
    model = models.load_model("embedded", ModelConfig(device="cpu"), training=True)
    rows = [
        {
            "prompt": [m.as_dict() for m in (*prompt(), *pair.prompt)],
            "chosen": [m.as_dict() for m in pair.chosen],
            "rejected": [m.as_dict() for m in pair.rejected],
        }
        for pair in pairs
    ]
    more: dict[str, Any] = {"gradient_checkpointing": False} | THEIRS[args.part]
    held = memory()
    trainer = Timed(
        model=model,
        args=DPOConfig(
            output_dir="out",
            beta=BETA,
            learning_rate=RATE,
            lr_scheduler_type="cosine",
            num_train_epochs=args.epochs,
            per_device_train_batch_size=args.batch // more.get("gradient_accumulation_steps", 1),
            max_length=2048,
            use_cpu=True,
            bf16=False,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            **more,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    data: Any = trainer.train_dataset
    made = sum(2 * len(r["prompt_ids"]) + len(r["chosen_ids"]) + len(r["rejected_ids"]) for r in data)
    start = time.process_time()
    trainer.train()
    seconds = spent + time.process_time() - start
    return {"seconds": seconds, "tokens": made * args.epochs, "start": held, "peak": memory()}


if __name__ == "__main__":
    main()
