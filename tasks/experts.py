"""The expert trajectories of a run: of a given file, else the published ones, else the environment's expert's.

Decided here: those that earned nothing are left out, whoever played them, for a failure is no example to imitate.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from ipr import identity, store
from ipr.data.experts import check, environment
from ipr.rollout import replay
from ipr.runs.run import Run
from ipr.runs.seeds import member, other_experts
from ipr.types import IprError, Trajectory
from tasks.common import log, stage_task


@stage_task("experts")
def experts(run_dir: str, published: str | None, iteration: int = 0) -> str:
    """Write `experts.parquet` of the run; returns its path. `published` is the data set's file, where there is one."""
    run = Run(run_dir)
    target = run.folder / "experts.parquet"
    if run.config.env.experts is not None:
        published = None

    def work() -> dict:
        spec = environment(run.config.env)
        check(run.config.env)
        ids = _chosen(run, spec.task_ids("train"))
        known: dict[str, Trajectory] = {}
        if published and Path(published).is_file():
            for t in store.load(Path(published), Trajectory):  # of several for a task the best, the first of equals
                if t.task_id not in known or t.reward > known[t.task_id].reward:
                    known[t.task_id] = t
            # A cheap look that the data set is of this environment (of experts that fit into an episode as it is here).
            for task_id in [i for i in ids if i in known and len(known[i].steps) <= spec.max_steps][:3]:
                if problem := replay(spec, known[task_id]):
                    raise IprError(
                        f"{published}: {task_id} does not replay ({problem[0]}); make it again: ipr data generate"
                    )
        every = [(known.get(task_id) or spec.expert(task_id)).trimmed() for task_id in ids]
        found = [t for t in every if t.reward > 0]
        if every and not found:
            where = run.config.env.experts or published or f"env.data={run.config.env.data}"
            raise IprError(f"{where}: none of {len(every)} experts earned more than 0; give others (env.experts)")
        if failed := len(every) - len(found):
            log.warning("%d of %d experts earned nothing and are left out", failed, len(every))
        content = identity.digest([asdict(t) for t in found])
        group = run.folder.resolve().parent
        if run.name == member(group, run.config.seed).name:  # one of several seeds
            others = [Run(path.parent) for path in sorted(group.glob("*/config.yaml")) if path.parent.name != run.name]
            if told := other_experts(run, content, others):
                raise IprError(f"{told}; restore the data set's experts, or use another --dir")
        store.save(target, found, Trajectory)
        taken = sum(t.task_id in known for t in found)
        log.info("%d expert trajectories%s", len(found), f", {taken} of them from {published}" if published else "")
        return {"experts": len(found), "published": taken, "given": run.config.env.experts, "digest": content}

    run.once(iteration, "experts", work)
    return str(target)


def _chosen(run: Run, ids: list[str]) -> list[str]:
    """The problems that have an expert in this run: the first `env.tasks`. In a scheduled run that explores from
    experts they are those that it claimed, and the first ones too where SFT has yet to learn from them."""
    first, claim = ids[: run.config.env.tasks], run.schedule
    if not (claim and claim["with_experts"]):
        return first
    return list(dict.fromkeys([*claim["problems"], *(first if run.config.sft.epochs else ())]))
