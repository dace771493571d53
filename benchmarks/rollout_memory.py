"""Many rollouts in one process, and what the process holds: memory must not grow with the number of episodes.

    python benchmarks/rollout_memory.py [--rollouts 100000] [--json FILE]

Whole path (environment, rollout engine, transformers policy, tokenizer), with a tiny model of random weights and short
turns, so that it is many episodes that are played, not many tokens; in shards of 1024, as a run plays them.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch

from ipr import envs, models
from ipr.policies import local
from ipr.rollout import play
from ipr.types import Job, Prefix, Sampling, derive_seed

SHARD, SLOTS = 1024, 512


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rollouts", type=int, default=100_000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    tokenizer = models.load_tokenizer("embedded")
    model = models.new_base_model(len(tokenizer), hidden=32, layers=1, heads=1, kv_heads=1, max_length=1024).eval()
    policy = local.policy(model, tokenizer, "random", max_length=1024, slots=SLOTS)
    spec = envs.get("alfworld", max_steps=4)
    tasks = spec.task_ids("train")
    seen: list[tuple[int, float]] = []
    start = time.perf_counter()
    for first in range(0, options.rollouts, SHARD):
        ids = range(first, min(first + SHARD, options.rollouts))
        jobs = [Job(Prefix(tasks[i // 5 % len(tasks)]), derive_seed(0, "memory", i)) for i in ids]
        play(spec, policy, jobs, Sampling(1.0, 4), slots=SLOTS)
        seen.append((ids[-1] + 1, resident()))
        if len(seen) % 10 == 1:
            print(f"{seen[-1][0]:7} rollouts, {seen[-1][1]:.1f} MiB, {time.perf_counter() - start:.0f} s", flush=True)
    took = time.perf_counter() - start
    half = next(mib for rollouts, mib in seen if 2 * rollouts >= options.rollouts)
    print(
        f"{options.rollouts} rollouts in {took:.0f} s, {options.rollouts / took:.0f} a second; {seen[0][1]:.1f} MiB"
        f" after the first shard, {half:.1f} at half, {seen[-1][1]:.1f} at the end:"
        f" {seen[-1][1] - half:+.1f} MiB in the second half"
    )
    if options.json:
        options.json.write_text(json.dumps({"seconds": took, "rollouts": seen}, indent=1) + "\n")


def resident() -> float:
    """MiB of this process in memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


if __name__ == "__main__":
    main()
