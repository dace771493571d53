"""What the tasks share: opening a run, its environment, a policy on one of its models, playing jobs in shards."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prefect import task
from prefect.context import FlowRunContext, TaskRunContext
from prefect.logging.handlers import APILogHandler

from ipr import models, store
from ipr.runs import workers
from ipr.runs.progress import progress
from ipr.runs.run import Run, stage_name
from ipr.runs.telling import may_fail
from ipr.types import IprError, Job, More, Prefix, Trajectory

log = logging.getLogger("ipr")


def _to_prefect() -> None:
    """What `ipr` logs while a flow or task runs is in Prefect's logs of it, progress too."""
    handler = APILogHandler()
    handler.addFilter(lambda _: FlowRunContext.get() is not None or TaskRunContext.get() is not None)
    for name in ("ipr", "ipr.progress"):
        logger = logging.getLogger(name)
        if not any(isinstance(known, APILogHandler) for known in logger.handlers):
            logger.addHandler(handler)
        logger.setLevel(logging.INFO)


_to_prefect()

SCORER = 0
"""The SFT agent (stage 0) is the scorer and the reference through all iterations."""


def stage_task(
    name: str, retries: int = 1, timeout: float | None = None, needed: bool = True
) -> Callable[[Callable], Any]:
    """A Prefect task of the house: named after its stage, retried unless the input is bad, never cached.

    Files are the resume point (see `ipr.runs.run`), so Prefect's own result cache stays off. One that is not `needed`
    only tells of the run: its failure is a warning, and it returns None. `timeout` in seconds is for those: what a run
    needs takes as long as it takes.
    """
    from prefect.cache_policies import NO_CACHE

    decorate = task(
        name=name,
        task_run_name=name + "-{iteration}",
        tags=["ipr", name],
        retries=retries,
        retry_delay_seconds=5,
        retry_condition_fn=_worth_a_retry,
        timeout_seconds=timeout,
        cache_policy=NO_CACHE,
        persist_result=False,
    )
    return decorate if needed else lambda function: decorate(_telling(name, function))


def _telling(name: str, function: Callable) -> Callable:
    @functools.wraps(function)
    def told(*arguments: Any, **named: Any) -> Any:
        with may_fail(name):
            return function(*arguments, **named)

    return told


def _worth_a_retry(_task: Any, _run: Any, state: Any) -> bool:
    try:
        state.result()
    except IprError:
        return False
    except Exception:
        return True
    return True


def wait_for_all(run: Run) -> None:
    """Under `accelerate launch`: until every process is here."""
    from ipr.models.processes import here

    here(models.device(run.config.model)).wait_for_everyone()


def play(
    run: Run, iteration: int, task_name: str, who: int | Path, temperature: float
) -> Callable[..., list[Trajectory]]:
    """A function that plays jobs, and what `more` asks for, in shards that survive a kill, on the run's workers.

    With a stage's model or any.
    """
    if isinstance(who, Path):
        path, name = str(who), task_name
    else:
        path, name = run.base if who < 0 else str(run.model(who)), stage_name(who)
    player = workers.Player(path, name, run.config, temperature)
    label = f"{stage_name(iteration)} {task_name}"

    def played(jobs: list[Job], more: More | None = None) -> list[Trajectory]:
        shown = progress(label, "episodes")
        return run.in_shards(iteration, task_name, jobs, lambda lacking: workers.play(player, lacking, shown, more))

    return played


def experts(run: Run) -> list[Trajectory]:
    return store.load(run.folder / "experts.parquet", Trajectory)


def whole_episodes(task_ids: list[str]) -> list[Job]:
    return [Job(Prefix(task_id)) for task_id in task_ids]


def eval_file(run: Run, iteration: int, split: str) -> Path:
    return run.stage(iteration) / "eval" / f"{split}.parquet"
