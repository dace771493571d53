"""The champion: the reported agent takes the alias only where it beats the present champion on dev, game by game."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prefect.artifacts import create_markdown_artifact

from ipr import store
from ipr.apps.champion import games_of, judge
from ipr.data.experts import environment
from ipr.runs import workers
from ipr.runs.project import project_root
from ipr.runs.report import verdict
from ipr.runs.run import Run, stage_name
from ipr.runs.summary import reported_iteration
from ipr.runs.telling import may_fail, slug
from ipr.tracking import Tracker, champion_info
from ipr.types import IprError, Trajectory
from tasks.common import eval_file, log, play, stage_task, whole_episodes

OTHERS = "the champion is of other games; compare by hand: ipr compare"


@stage_task("champion", needed=False)
def champion(run_dir: str, iteration: int) -> str:
    """Decide, record, and move the alias where it is to be moved; returns the verdict in words.

    `iteration` is the run's last.
    """
    run = Run(run_dir)
    found = run.once(iteration, "champion", lambda: decided(run, iteration))
    run.drop_shards(iteration)
    words = verdict(found)
    log.info(words)
    with may_fail("Prefect's artifacts"):
        key = slug(f"{run.name}-champion")
        create_markdown_artifact(words, key=key, description=f"champion after {run.name}")
    return words


def decided(run: Run, iteration: int) -> dict[str, Any]:
    """The decision, and what came of it in MLflow."""
    track = run.config.track
    reported = reported_iteration(run)
    assert reported is not None
    decision: dict[str, Any] = {"iteration": reported, "stage": stage_name(reported)}
    if not track.enabled:
        return decision | {"promote": False, "outcome": "kept", "why": "nothing is tracked (track.enabled=false)"}
    mine = store.load(eval_file(run, reported, "dev"), Trajectory)
    try:
        present = champion_info(track, project_root())
    except IprError as error:  # the run does not fail for a tracker that is down: `settle` asks again
        return decision | {"promote": False, "outcome": "waits", "why": str(error)}
    tracker = Tracker(run.folder, track, project_root())
    made = tracker.decision(reported)
    if present and made and made["promote"] and present["run_id"] == tracker.run_id(reported):
        # By a process that was killed before it kept this; the agent is not compared with itself.
        return {key: value for key, value in made.items() if key != "by"}
    try:
        theirs = theirs_on(run, iteration, present, mine) if present else None
    except IprError as error:
        return decision | {"promote": False, "outcome": "kept", "why": str(error)}
    decision |= judge(track, mine, theirs, present["version"] if present else None, run.config.eval.bootstrap)
    if present:
        decision["champion"] = present["version"]
    tracker.champion(decision | {"by": f"run {run.name}"})
    return decision | came_of(tracker, decision)


def came_of(tracker: Tracker, decision: Mapping[str, Any]) -> dict[str, Any]:
    """Whether the alias did move: MLflow may be down by now, or the champion may be another one."""
    if not decision["promote"]:
        tracker.sync()
        return {}
    if not tracker.sync():
        return {"promote": False, "outcome": "waits"}
    if refused := tracker.refused(f"champion/{decision['iteration']}/{decision.get('champion')}"):
        return {"promote": False, "outcome": "kept", "why": refused}
    return {}


def settle(run: Run) -> dict[str, Any] | None:
    """What came of a decision that waited for MLflow, where that answers now; else None. Where it could not even be
    asked who is champion, the decision is made now."""
    last = run.config.algorithm.iterations
    decision = run.record(last, "champion")
    if not decision or decision["outcome"] != "waits":
        return None
    if "dev_reward" in decision:
        asked = decision | {"promote": True, "outcome": "promoted"}
        now = asked | came_of(Tracker(run.folder, run.config.track, project_root()), asked)
    else:
        with workers.opened(run.config.rollout):
            now = decision | decided(run, last)
        run.drop_shards(last)
    if now["outcome"] == "waits":
        return None
    store.write_json(run.stage(last) / "champion.json", now)
    return now


def theirs_on(run: Run, iteration: int, present: Mapping[str, Any], mine: Sequence[Trajectory]) -> list[Trajectory]:
    """The present champion's episodes on the dev games of `mine`: as logged, or played now where it was measured on
    others, or by other rules.

    On what was logged where that is of another environment or other data: there the two cannot be compared.
    """
    logged = store.load(present["dev"], Trajectory) if present["dev"] else []
    games = {t.task_id for t in logged}
    facts, tags = run.manifest, present.get("tags", {})
    if tags.get("ipr.games") not in (None, facts.get("games")):
        return []  # other data, be the names the same
    by_our_rules = tags.get("ipr.episodes") in (None, facts.get("episodes"))
    if games_of(logged) == games_of(mine) and by_our_rules:
        return logged
    if not games or not games <= set(environment(run.config.env).task_ids("dev")):
        return logged
    playing = play(run, iteration, f"champion-{present['version']}", Path(present["folder"]), 0.0)
    return playing(whole_episodes([t.task_id for t in mine]))
