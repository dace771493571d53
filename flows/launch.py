"""How the command line starts a run: bad input is refused first, then the servers' defaults are set, then it plays.

Prefect is imported late: it reads the defaults then.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import Any

from ipr import policies
from ipr.apps import champion, start
from ipr.apps.chosen_model import base_of
from ipr.config import RunConfig
from ipr.runs import ITERATION, mirror, workers
from ipr.runs.project import defaults, project_root
from ipr.runs.run import Run, check_space, stage_name
from ipr.types import IprError


def run(folder: Path, config: RunConfig, preset: str, profile: bool = False) -> dict[str, Any]:
    """Run or resume the whole job in `folder`; returns its summary. With `profile` it also says where the time went."""
    root = project_root()
    check_space(folder, 200 << 20)
    start.check_servers(config, root)
    start.check(config)
    policies.check(config)
    defaults(root)
    try:
        if mirror.bring(folder, config.run.store, config.hash()):
            print(f"note: {folder} continues what {config.run.store} has of it", file=sys.stderr)
    except mirror.Taken:
        raise
    except IprError as error:
        print(f"note: run.store: {error}; the run goes on without it", file=sys.stderr)
    run = Run.open(folder, config, preset)
    if told := champion.of_other_games(config, root):
        print(f"note: {told}", file=sys.stderr)
    with run.lock(), mirror.kept(folder, config.run.store):
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
    with run.lock(), mirror.kept(folder, run.config.run.store), workers.opened(run.config.rollout):
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
