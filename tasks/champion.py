"""The champion: the reported agent takes the alias only where it beats the present champion on dev, game by game."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ipr import store
from ipr.data.experts import environment
from ipr.evaluate import better, compare
from ipr.runs.project import project_root
from ipr.runs.run import Run, stage_name
from ipr.runs.summary import reported_iteration
from ipr.tracking import Tracker, champion_info
from ipr.types import IprError, Trajectory
from tasks.common import eval_file, play, stage_task, whole_episodes

OTHERS = "the champion is of other games; compare by hand: ipr compare"


@stage_task("champion")
def champion(run_dir: str, iteration: int) -> dict:
    """Decide and record; returns the decision. `iteration` is the run's last."""
    run = Run(run_dir)

    def work() -> dict:
        reported = reported_iteration(run)
        assert reported is not None
        mine = store.load(eval_file(run, reported, "dev"), Trajectory)
        decision = {"iteration": reported, "stage": stage_name(reported), "promote": False}
        try:
            games = run.manifest.get("games")
            present = champion_info(run.config.track, project_root()) if run.config.track.enabled else None
            if present is None:
                decision |= {"promote": True, "why": "first champion"}
            elif present["tags"].get("ipr.games", games) != games:
                decision |= {"why": OTHERS, "champion": present["version"]}
            else:
                theirs = theirs_on(run, iteration, present, [t.task_id for t in mine])
                decision |= _against(theirs, mine, run.config.eval.bootstrap) | {"champion": present["version"]}
        except IprError as error:  # the alias stays where it is; the run does not fail for a tracker that is down
            return decision | {"why": str(error)}
        Tracker(run.folder, run.config.track, project_root()).champion(decision)
        return decision

    found = run.once(iteration, "champion", work)
    run.drop_shards(iteration)
    return found


def theirs_on(run: Run, iteration: int, present: Mapping[str, Any], ids: list[str]) -> list[Trajectory]:
    """The present champion's episodes on the dev games `ids`: as logged, or played now where it was measured on others
    or in another way (another step limit, prompt or version of the environment).

    On what was logged where that is of another environment or other data: there the two cannot be compared.
    """
    logged = store.load(present["dev"], Trajectory) if present["dev"] else []
    games = {t.task_id for t in logged}
    mine = run.manifest.get("episodes")
    alike = present.get("tags", {}).get("ipr.episodes", mine) == mine
    if not games or (alike and games == set(ids)) or not games <= set(environment(run.config.env).task_ids("dev")):
        return logged
    playing = play(run, iteration, f"champion-{present['version']}", Path(present["folder"]), 0.0)
    return playing(whole_episodes(ids))


def _against(theirs: list[Trajectory], mine: list[Trajectory], resamples: int) -> dict:
    if {t.task_id for t in theirs} != {t.task_id for t in mine}:
        return {"promote": False, "why": OTHERS}
    found = compare(theirs, mine, resamples, 0)
    promote = better(found)
    return {"promote": promote, "why": "better on dev" if promote else "not better on dev", "comparison": found}
