"""`ipr bench`: every method of a plan with every seed, each a run as any other; then their tables."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

from flows import launch
from ipr.runs import bench, workers
from ipr.runs.run import Run, stage_name
from ipr.runs.seeds import Seeds, member
from ipr.runs.summary import samples_file
from ipr.types import IprError


def play(folder: Path, plan: bench.Plan, seeds: int, samples: int) -> dict[str, Any]:
    """Play or go on with what lacks in `folder`; returns the tables of `bench.summary`, which is also written there.

    The methods of a seed share the SFT stage of the first. After a run: N episodes a test game at temperature 1 of its
    compared stage.
    """
    if seeds < 1 or samples < 2:
        raise IprError(f"--seeds {seeds} --samples {samples}: give 1 or more seeds and 2 or more samples")
    first = next(iter(plan.methods))
    start = plan.methods[first].seed
    for seed in range(start, start + seeds):
        shared = member(folder / first, seed)
        for name, config in plan.methods.items():
            place = member(folder / name, seed)
            print(f"seed {seed}, {name}", file=sys.stderr)
            mine = config.model_copy(update={"seed": seed})
            adopt = None if name == first else partial(bench.adopt, source=shared)
            launch.run(place, mine, plan.preset, opened=adopt)
            stages = {bench.stage_of(name, config)} | ({bench.SFT} if name == first else set())
            _sample(folder / name, seed, samples, stages)
    found, games = bench.summary(folder, list(plan.methods), samples)
    bench.write(folder, found, games)
    return found


def _sample(group: Path, seed: int, samples: int, stages: set[str]) -> None:
    from tasks.best_of import best_of

    run = Run(member(group, seed))
    with run.lock(), workers.opened(run.config.rollout):
        for k in sorted({Seeds(group).iteration(run, stage) for stage in stages}):
            if not samples_file(run, k, samples, 1.0).exists():
                print(f"{run.name}: {samples} samples a game of {stage_name(k)}", file=sys.stderr)
                best_of(run, k, samples, 1.0)
