"""`ipr bench`: every method of a plan with every seed, each a run as any other; then their tables.

Decided here: on a CPU runs are played side by side, a process and its share of the cores each. A small model's training
gains little from a second thread, so two runs on two cores take less time than one after the other.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import active_children, get_context, parent_process
from pathlib import Path
from typing import Any

from flows import launch
from ipr import models
from ipr.apps.doctor import cores
from ipr.config import RunConfig
from ipr.runs import bench, workers
from ipr.runs.run import Run, stage_name
from ipr.runs.seeds import Seeds, check, member
from ipr.runs.summary import samples_file
from ipr.types import IprError


def play(folder: Path, plan: bench.Plan, seeds: int, samples: int, jobs: int | None = None) -> dict[str, Any]:
    """Play or go on with what lacks in `folder`; returns the tables of `bench.summary`, which are also written there:
    first when all methods have played one seed, so a bench that is ended early has them of the seeds that are whole.

    The methods of a seed share the SFT stage of the first. After a run: N episodes a test game at temperature 1 of its
    compared stage. With `jobs` other than 1 so many runs are played at once (None: as many as there are cores, or one
    where the model is on a GPU or rollouts are played elsewhere).
    """
    for name, config in plan.methods.items():
        check(folder / name, config)
    first = next(iter(plan.methods.values()))
    chosen = range(first.seed, first.seed + seeds)
    jobs = min(jobs or _jobs(first), seeds * len(plan.methods))
    found: dict[str, Any] = {}
    whole = _side_by_side(folder, plan, chosen, samples, jobs) if jobs > 1 else _in_turn(folder, plan, chosen, samples)
    for seed in whole:
        found, games = bench.summary(folder, list(plan.methods), samples)
        bench.write(folder, found, games)
        print(f"seed {seed}: all methods have played it, {folder / 'bench.md'}", file=sys.stderr)
    return found


def _in_turn(folder: Path, plan: bench.Plan, seeds: Sequence[int], samples: int) -> Iterator[int]:
    """Yields each seed that all methods have played."""
    for seed in seeds:
        for name in plan.methods:
            print(f"seed {seed}, {name}", file=sys.stderr)
            _play(folder, plan, name, seed, samples)
        yield seed


def _play(folder: Path, plan: bench.Plan, name: str, seed: int, samples: int) -> None:
    first = next(iter(plan.methods))
    config = plan.methods[name]
    adopt = None if name == first else partial(bench.adopt, source=member(folder / first, seed))
    launch.run(member(folder / name, seed), config.model_copy(update={"seed": seed}), plan.preset, opened=adopt)
    stages = {bench.stage_of(name, config)} | ({bench.SFT} if name == first else set())
    _sample(folder / name, seed, samples, stages)


def _sample(group: Path, seed: int, samples: int, stages: set[str]) -> None:
    from tasks.best_of import best_of

    run = Run(member(group, seed))
    with run.lock(), workers.opened(run.config.rollout):
        for k in sorted({Seeds(group).iteration(run, stage) for stage in stages}):
            if not samples_file(run, k, samples, 1.0).exists():
                print(f"{run.name}: {samples} samples a game of {stage_name(k)}", file=sys.stderr)
                best_of(run, k, samples, 1.0)


# Side by side ---------------------------------------------------------------------------------------------------------


def _jobs(config: RunConfig) -> int:
    rollout = config.rollout
    elsewhere = rollout.endpoint or rollout.vllm or rollout.scheduler
    return 1 if elsewhere or models.device(config.model).type != "cpu" else cores()


def _side_by_side(folder: Path, plan: bench.Plan, seeds: Sequence[int], samples: int, jobs: int) -> Iterator[int]:
    """The first method with every seed, then what waits for its SFT agent. The first error ends all.

    Yields each seed that all methods have played.
    """
    first, *others = plan.methods
    share = max(1, cores() // jobs)
    shared = {
        name: config.model_copy(update={"rollout": config.rollout.model_copy(update={"workers": share})})
        for name, config in plan.methods.items()
    }
    plan = bench.Plan(plan.env, plan.preset, shared)
    os.environ["OMP_NUM_THREADS"] = str(share)  # read when a process imports torch
    # A process for each run: it leaves all memory, and all that it printed is in one file.
    pool = ProcessPoolExecutor(jobs, get_context("spawn"), initializer=_end_with_bench, max_tasks_per_child=1)

    def begin(name: str, seed: int) -> Future[None]:
        return pool.submit(_apart, folder, plan, name, seed, samples)

    try:
        playing = {begin(first, seed): (first, seed) for seed in seeds}
        left = {seed: set(plan.methods) for seed in seeds}
        while playing:
            done, _ = wait(playing, return_when=FIRST_COMPLETED)
            for future in done:
                name, seed = playing.pop(future)
                _ended(future, name, seed)
                if name == first:
                    playing |= {begin(other, seed): (other, seed) for other in others}
                left[seed].remove(name)
                if not left[seed]:
                    yield seed
        pool.shutdown()
    except BaseException:
        for process in active_children():
            process.terminate()  # the pool is broken then, and ends all
        pool.shutdown(cancel_futures=True)
        raise


def _ended(future: Future[None], name: str, seed: int) -> None:
    try:
        future.result()
    except IprError as error:
        raise IprError(f"{name} with seed {seed}: {error}") from None
    except BrokenProcessPool:
        raise IprError(
            "a run's process died, mostly for want of memory; with --jobs 1 one is played at a time. The same command"
            " continues"
        ) from None
    print(f"seed {seed}, {name}: played", file=sys.stderr)


def _end_with_bench() -> None:
    """Of a process: ends with the one that began it, also where that was killed while this one started."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
    if (begun_by := parent_process()) is not None and not begun_by.is_alive():
        os._exit(1)


def _apart(folder: Path, plan: bench.Plan, name: str, seed: int, samples: int) -> None:
    """In a process of its own; what is printed goes to a file beside the run."""
    log = folder / name / f"{member(folder / name, seed).name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stderr.write(f"seed {seed}, {name}: {log}\n")  # whole, as others write there too
    with open(log, "a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    _play(folder, plan, name, seed, samples)
