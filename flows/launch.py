"""How the command line starts a run: bad input is refused first, then the servers' defaults are set, then it plays.

Prefect is imported late: it reads the defaults then.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ipr import policies
from ipr.apps import champion, start
from ipr.apps.chosen_model import base_of
from ipr.config import RunConfig
from ipr.runs import ITERATION, workers
from ipr.runs.project import defaults, project_root
from ipr.runs.run import Run, check_space, stage_name
from ipr.runs.seeds import member
from ipr.tracking import Tracker
from ipr.types import IprError


def run(
    folder: Path,
    config: RunConfig,
    preset: str,
    profile: bool = False,
    opened: Callable[[Run], None] | None = None,
) -> dict[str, Any]:
    """Run or resume the whole job in `folder`; returns its summary. With `profile` it also says where the time went.

    `opened` is told the run as soon as it has its folder.
    """
    root = project_root()
    check_space(folder, 200 << 20)
    start.check_servers(config, root)
    start.check(config)
    policies.check(config)
    defaults(root)
    run = Run.open(folder, config, preset)
    if told := champion.of_other_games(config, root):
        print(f"note: {told}", file=sys.stderr)
    with run.lock():
        if opened is not None and run.keeper:
            opened(run)
        run.note(base=base_of(run))
        if profile:
            run.note(profile=True)
        if not run.manifest.get("complete"):
            from flows.refine import refine

            start.end_orphans()
            os.environ[start.STARTED_BY] = str(os.getpid())
            with workers.opened(config.rollout):
                refine(str(folder.resolve()), config.algorithm.iterations, run.name)
            run.note(complete=True)
        from tasks.report import finish

        return finish(run)


def run_seeds(folder: Path, config: RunConfig, preset: str, count: int, profile: bool = False) -> dict[str, Any]:
    """Run or resume `count` runs in `folder`, of the config's seed and the next ones; returns what they say together.

    Each is a run as any other, in a folder named after its seed; they are played one after the other.
    """
    if count < 1:
        raise IprError(f"--seeds {count}: give 1 or more")
    if (folder / "config.yaml").exists():
        raise IprError(f"{folder} holds a single run; use another --dir for --seeds")
    from tasks import seeds

    tracker = Tracker(folder, config.track, project_root())
    try:
        for seed in range(config.seed, config.seed + count):
            print(f"seed {seed}", file=sys.stderr)
            mine = config.model_copy(update={"seed": seed})
            run(member(folder, seed), mine, preset, profile, lambda one: seeds.begin(folder, one, tracker))
    except BaseException as error:
        if tracker.events:
            tracker.end("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
            tracker.sync()
        raise
    return seeds.finish(folder, tracker)


def one_task(folder: Path, name: str, iteration: int) -> dict[str, Any]:
    """One stage of a run, as plain Python: no flow, no server."""
    run = Run(folder)
    defaults(project_root())
    for task in ITERATION[: ITERATION.index(name)] if name in ITERATION else ():
        if run.record(iteration, task) is None:
            raise IprError(f"{stage_name(iteration)} has no {task} yet; first: ipr {task} --dir {folder}")
    if name == "explore" and run.record(iteration - 1, "train") is None:
        before = "sft" if iteration == 1 else f"train --iteration {iteration - 1}"
        raise IprError(f"no model of {stage_name(iteration - 1)} yet; first: ipr {before} --dir {folder}")
    with run.lock(), workers.opened(run.config.rollout):
        if name == "sft":
            from tasks.common import wait_for_all
            from tasks.experts import experts
            from tasks.publish import ensure_data

            if run.keeper:
                experts.fn(str(folder), ensure_data.fn(str(folder)))
            wait_for_all(run)
        getattr(importlib.import_module(f"tasks.{name}"), name).fn(str(folder), iteration)
    record = run.record(iteration, "train" if name == "sft" else name) or {}
    return {key: value for key, value in record.items() if key not in ("history", "profile")}
