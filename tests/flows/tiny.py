"""The smallest runs, by the command in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from ipr import store
from ipr.types import Trajectory

TINY = [
    "env.tasks=4",
    "env.max_steps=8",
    "eval.games=3",
    "eval.dev_games=3",
    "algorithm.iterations=2",
    "algorithm.samples=2",
    "algorithm.tau=0",
    "rollout.max_new_tokens=24",
    "rollout.shard=16",
    "train.checkpoint_every=1",
    "track.promote=true",  # smoke's own agents are no champions
    "track.min_dev_reward=0",
]


def command(root: Path, run: str, preset: str = "smoke", *more: str) -> list[str]:
    return [sys.executable, "-m", "flows.cli", "run", preset, "--dir", str(root / "runs" / run), "--json", *TINY, *more]


def environment(root: Path) -> dict[str, str]:
    hidden = ("PREFECT_", "MLFLOW_", "OMP_", "IPR_")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(hidden)}
    return kept | {"IPR_ROOT": str(root), "OMP_NUM_THREADS": "1"}


def ended(root: Path, asked: list[str]) -> subprocess.CompletedProcess[str]:
    """A command that ends well."""
    done = subprocess.run(
        asked,
        env=environment(root),
        cwd=root,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def played(root: Path, asked: list[str]) -> dict:
    """The summary of a run that ends well."""
    return json.loads(ended(root, asked).stdout.splitlines()[-1])


def counts_hold(run: Path, iteration: int) -> None:
    """A run plays no more than its dry run says, and as much where nothing can be saved."""
    from ipr.apps import start
    from ipr.runs.run import Run

    config = Run(run).config
    planned, facts = (
        start.dry_run(config),
        {n: store.read_json(run / f"iteration-{iteration}" / f"{n}.json") for n in ("explore", "reward")},
    )
    most = planned["explore_episodes_per_iteration_at_most"]
    assert most / config.algorithm.draws <= facts["explore"]["episodes"] <= most
    assert facts["reward"]["rollouts"]["played"] <= planned["step_reward_rollouts_per_iteration_at_most"]
    played = sum(len(store.load(f, Trajectory)) for f in run.glob("*/eval/*.parquet") if f.stem != "step_rewards")
    assert played == planned["evaluation_episodes"]
