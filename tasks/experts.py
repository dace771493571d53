"""The expert trajectories of a run: from the published data set, else from the environment's expert."""

from __future__ import annotations

from pathlib import Path

from ipr import store
from ipr.rollout import replay
from ipr.run import Run
from ipr.types import IprError, Trajectory
from tasks.common import environment, log, stage_task


@stage_task("experts")
def experts(run_dir: str, published: str | None, iteration: int = 0) -> str:
    """Write `experts.parquet` of the run; returns its path. `published` is the data set's file, where there is one."""
    run = Run(run_dir)
    target = run.folder / "experts.parquet"

    def work() -> dict:
        spec = environment(run.config)
        ids = spec.task_ids("train")[: run.config.env.tasks]
        known: dict[str, Trajectory] = {}
        if published and Path(published).is_file():
            known = {t.task_id: t for t in store.load(Path(published), Trajectory)}
            for task_id in ids[:3]:  # a cheap look that the data set is of this environment
                if task_id in known and (problem := replay(spec, known[task_id])):
                    raise IprError(
                        f"{published}: {task_id} does not replay ({problem[0]}); make it again: ipr data generate"
                    )
        found = [known.get(task_id) or spec.expert(task_id) for task_id in ids]
        store.save(target, found, Trajectory)
        log.info("%d expert trajectories, %d of them from %s", len(found), len(known.keys() & set(ids)), published)
        return {"experts": len(found), "published": len(known.keys() & set(ids))}

    run.once(iteration, "experts", work)
    return str(target)
