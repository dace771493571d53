"""What a rollout costs: over N samples of a step, over its own new tokens, and over the history it starts from.

    python benchmarks/rollout_cost.py [--model embedded] [--tasks 32] [--plot docs/rollout-cost.png] [--json FILE]

One thread, seconds of the process. A straight line is fitted to each row of points; how much of
the points' variance it explains (R2) is printed, and for the history how much dearer a rollout gets with it.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ipr import credit, envs, models
from ipr.config import ModelConfig
from ipr.policies.hf import TransformersPolicy
from ipr.rollout import play
from ipr.types import Job, Prefix, Sampling, derive_seed

SLOTS, NEW = 128, 56


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="alfworld", choices=envs.names())
    parser.add_argument("--model", default="embedded", help="folder or hub name")
    parser.add_argument("--tasks", type=int, default=32, help="problems that are played")
    parser.add_argument("--plot", type=Path, default=Path("docs/rollout-cost.png"))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    spec = envs.get(options.env)
    experts = [spec.expert(i) for i in spec.task_ids("train")[: 2 * options.tasks]]
    model, tokenizer = models.load_model(options.model, ModelConfig(device="cpu")), models.load_tokenizer(options.model)

    def seconds(jobs: list[Job], max_steps: int) -> tuple[float, float]:
        """Seconds, and new tokens, of all jobs."""
        limit = min(4096, models.context_length(options.model))
        policy = TransformersPolicy(model, tokenizer, "", max_length=limit, slots=SLOTS)
        start = time.process_time()
        played = play(envs.get(options.env, max_steps=max_steps), policy, jobs, Sampling(1.0, NEW), slots=SLOTS)
        took = time.process_time() - start
        words = [step.action for t in played for step in t.steps[t.start :]]
        return took, sum(len(policy.chat.agent(text)) for text in words)

    whole = [Job(Prefix(e.task_id), derive_seed(0, e.task_id)) for e in experts]
    seconds(whole, 1)  # warm
    found: dict[str, Any] = {}
    # N samples of the same steps, which go on for 4 turns.
    steps = [e.prefix(2) for e in experts if len(e.steps) > 3][: options.tasks]
    counts = [1, 2, 5, 8, 11, 14, 17, 20]
    cost = [seconds([j for p in steps for j in credit.sample_jobs(p, 0, range(n))], 6)[0] for n in counts]
    found["samples"] = {"N": counts, "seconds": cost}
    # Whole episodes of more and more turns.
    turns, rows = [1, 4, 8, 12, 16, 20], []
    for limit in turns:
        took, tokens = seconds(whole, limit)
        rows.append((tokens / len(whole), took / len(whole)))
    found["tokens"] = {"turns": turns, "tokens": [r[0] for r in rows], "seconds": [r[1] for r in rows]}
    # Two turns after histories of more and more turns, five samples.
    histories, rows = [0, 3, 6, 9, 12, 15], []
    policy = TransformersPolicy(model, tokenizer, "", max_length=2048, slots=SLOTS)
    played = play(envs.get(options.env, max_steps=20), policy, whole, Sampling(1.0, NEW), slots=SLOTS)
    for t in histories:
        starts = [p.prefix(t) for p in played if len(p.steps) > 16]
        jobs = [j for p in starts for j in credit.sample_jobs(p, 0, range(5))]
        took, tokens = seconds(jobs, t + 2)
        conversations = [(*spec.prompt, *p.history(t)) for p in played if len(p.steps) > 16]
        length = float(np.mean([len(policy.chat.prompt(c)) for c in conversations]))
        rows.append((length, took / len(jobs), took / tokens))
    found["history"] = {
        "turns": histories,
        "length": [r[0] for r in rows],
        "seconds": [r[1] for r in rows],
        "seconds_per_token": [r[2] for r in rows],
    }
    draw(found, options.plot)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


def draw(found: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    panels = [
        ("samples", "N", "seconds", "N samples of 4 turns of each step", "N", "seconds in all"),
        ("tokens", "tokens", "seconds", "whole episodes of 1 to 20 turns", "own new tokens", "seconds a rollout"),
        (
            "history",
            "length",
            "seconds_per_token",
            "2 turns after a history",
            "tokens of history",
            "seconds a new token",
        ),
    ]
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    for axis, (name, x, y, title, below, beside) in zip(axes, panels, strict=True):
        xs, ys = np.array(found[name][x], dtype=float), np.array(found[name][y], dtype=float)
        slope, at0 = np.polyfit(xs, ys, 1)
        explained = 1 - np.square(ys - slope * xs - at0).sum() / np.square(ys - ys.mean()).sum()
        found[name] |= {"slope": slope, "intercept": at0, "r2": explained}
        axis.plot(xs, ys, "o", color="#1f6f8b")
        axis.plot(xs, slope * xs + at0, "-", color="#99a8b2", label=f"line, R² {explained:.3f}")
        axis.set(title=title, xlabel=below, ylabel=beside, xlim=(0, None), ylim=(0, None))
        axis.legend(frameon=False, loc="lower right")
        axis.spines[["top", "right"]].set_visible(False)
        print(
            f"{title}: {beside} = {at0:.2e} + {slope:.2e} {below}, R2 {explained:.3f}; from {ys[0]:.2e} to {ys[-1]:.2e}"
        )
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
