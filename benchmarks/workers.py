"""Rollouts a second with several worker processes of one thread against one process of one thread, and their ratio.

    python benchmarks/workers.py [--workers 2] [--games 384] [--shard 16] [--json FILE]

The embedded model plays whole episodes of ALFWorld at temperature 1, the same jobs in the same shards for both, so the
trajectories must be equal, which is checked. Starting the processes and loading the model is timed apart: a run does it
once. For comparison, one process with as many threads as there are workers plays the same.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as `ipr` does

import torch

from ipr import config as configs
from ipr import envs
from ipr.runs import workers
from ipr.runs.run import cut
from ipr.types import Job, Prefix, Trajectory, derive_seed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--games", type=int, default=384, help="episodes to play")
    parser.add_argument("--shard", type=int, default=16, help="episodes in a shard")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    args = parser.parse_args()
    ids = envs.get("alfworld").task_ids("dev")[: args.games]
    jobs = [Job(Prefix(task_id), derive_seed(0, task_id)) for task_id in ids]
    shards = [[jobs[i] for i in shard] for shard in cut(jobs, args.shard)]

    torch.set_num_threads(1)
    one, alone = played(player(1), shards)
    print(f"1 process, 1 thread: {len(jobs) / one:.2f} rollouts/s")
    torch.set_num_threads(args.workers)
    threads, _ = played(player(1), shards)
    print(
        f"1 process, {args.workers} threads: {len(jobs) / threads:.2f} rollouts/s, {one / threads:.2f} times 1 thread"
    )
    several = player(args.workers)
    with workers.opened(several.config.rollout):
        start = time.perf_counter()
        list(workers.play(several, [[jobs[0]]] * args.workers))  # starts the processes
        starting = time.perf_counter() - start
        elsewhere, apart = played(several, shards)
    print(f"{args.workers} workers: {len(jobs) / elsewhere:.2f} rollouts/s, after {starting:.1f} s of starting")
    print(f"ratio: {one / elsewhere:.2f}; the same trajectories: {alone == apart}")
    if args.json:
        figures = {
            "games": len(jobs),
            "shards": len(shards),
            "workers": args.workers,
            "rollouts_per_second": {
                "one_thread": len(jobs) / one,
                "threads": len(jobs) / threads,
                "workers": len(jobs) / elsewhere,
            },
            "starting_seconds": starting,
            "ratio": one / elsewhere,
            "same": alone == apart,
        }
        args.json.write_text(json.dumps(figures, indent=1) + "\n")


def player(count: int) -> workers.Player:
    settings = ["model.max_length=2048", "rollout.max_new_tokens=56"]
    return workers.Player("embedded", "agent", configs.load(None, [*settings, f"rollout.workers={count}"]), 1.0)


def played(who: workers.Player, shards: list[list[Job]]) -> tuple[float, dict[int, list[Trajectory]]]:
    """Seconds, and the trajectories by shard. A model that is loaded here is loaded before."""
    if who.config.rollout.workers == 1:
        who.policy  # noqa: B018
    start = time.perf_counter()
    found = dict(workers.play(who, shards))
    return time.perf_counter() - start, found


if __name__ == "__main__":
    main()
