"""The champion: the reported agent takes the alias only where it beats the present champion on dev, game by game."""

from __future__ import annotations

from ipr import evaluate as statistics
from ipr import store
from ipr.project import project_root
from ipr.run import Run, stage_name
from ipr.summary import reported_iteration
from ipr.tracking import Tracker, champion_info
from ipr.types import IprError, Trajectory
from tasks.common import eval_file, stage_task


@stage_task("champion")
def champion(run_dir: str, iteration: int) -> dict:
    """Decide and record; returns the decision. `iteration` is the run's last."""
    run = Run(run_dir)

    def work() -> dict:
        reported = reported_iteration(run)
        assert reported is not None
        mine = store.load(eval_file(run, reported, "dev"), Trajectory)
        try:
            present = champion_info(run.config.track, project_root()) if run.config.track.enabled else None
        except IprError as error:  # the alias stays where it is; the run does not fail for a tracker that is down
            return {"iteration": reported, "stage": stage_name(reported), "promote": False, "why": str(error)}
        decision = {"iteration": reported, "stage": stage_name(reported), "promote": True, "why": "first champion"}
        if present is not None:
            theirs = store.load(present["dev"], Trajectory) if present["dev"] else []
            decision |= _against(theirs, mine, run.config.eval.bootstrap) | {"champion": present["version"]}
        Tracker(run.folder, run.config.track, project_root()).champion(decision)
        return decision

    return run.once(iteration, "champion", work)


def _against(theirs: list[Trajectory], mine: list[Trajectory], resamples: int) -> dict:
    if {t.task_id for t in theirs} != {t.task_id for t in mine}:
        return {"promote": False, "why": "the champion was measured on other dev games; compare by hand: ipr compare"}
    found = statistics.compare(theirs, mine, resamples, 0)
    better = statistics.better(found)
    return {"promote": better, "why": "better on dev" if better else "not better on dev", "comparison": found}
