"""Does a machine that retrains every night fill its disk? 60 scheduled runs of the smallest size, each then cleaned.

In a project of its own, with Prefect's flow of `ipr deploy`, MLflow and DVC as they are without servers, in a process.
Prints the bytes on disk after each run, by place, and the ratio of the last to those after the first clean that had
something to remove. About 15 minutes on a core: python benchmarks/soak.py [--runs 60] [--keep 3]
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

TINY = [
    "env.tasks=2",
    "env.max_steps=3",
    "model.max_length=2048",
    "eval.games=2",
    "eval.dev_games=2",
    "eval.splits=[unseen]",
    "eval.bootstrap=100",
    "algorithm.samples=1",
    "algorithm.tau=0",
    "rollout.max_new_tokens=8",
]
PLACES = ("runs", "mlflow", "data", ".dvc", ".dvc-remote", ".prefect")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=60)
    parser.add_argument("--keep", type=int, default=3)
    parser.add_argument("--root", type=Path, help="an empty folder for the project (default: a temporary one)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        soak(options.root or Path(folder), options.runs, options.keep)


def soak(root: Path, runs: int, keep: int) -> list[int]:
    """Bytes on disk after each run and its clean."""
    os.environ["IPR_ROOT"] = str(root)
    (root / "runs").mkdir()
    from ipr.runs.project import defaults

    defaults(root)
    from flows.retrain import retrain
    from ipr.apps.clean import clean

    totals: list[int] = []
    for number in range(runs):
        start = time.monotonic()
        retrain("smoke", [*TINY, f"seed={number}"], str(root / "runs"))
        played = time.monotonic() - start
        found = clean(root, root / "runs", keep, yes=True, remote=True)
        sizes = {place: size_of(root / place) for place in PLACES}
        totals.append(sum(sizes.values()))
        told = ", ".join(f"{place} {size / 2**20:.1f}" for place, size in sizes.items())
        print(
            f"{number + 1}: {totals[-1] / 2**20:.1f} MiB ({told}); run {played:.0f} s, clean"
            f" {time.monotonic() - start - played:.0f} s, removed {found['total'] / 2**20:.1f} MiB",
            flush=True,
        )
    first = totals[min(keep + 1, runs - 1)]
    print(f"last / first full: {totals[-1] / first:.2f}; most {max(totals) / 2**20:.0f} MiB")
    return totals


def size_of(folder: Path) -> int:
    return sum(file.lstat().st_size for file in folder.rglob("*") if file.is_file())


if __name__ == "__main__":
    sys.exit(main())
