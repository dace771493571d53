"""The champion: what is said of it before a run, the rule by which an agent becomes it, and `ipr champion`."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from ipr import identity, store
from ipr.config import RunConfig, TrackConfig, load
from ipr.data import experts
from ipr.evaluate import better, compare
from ipr.runs.project import defaults, project_root
from ipr.types import IprError, Trajectory


def of_other_games(config: RunConfig, root: Path) -> str:
    """One line where the champion was measured on games that the run does not have, so that it stays; else ""."""
    if not config.track.enabled:
        return ""
    from ipr.tracking import champion_info

    try:
        present = champion_info(config.track, root)
    except IprError:
        return ""  # the tracker is down: the run goes on, and says so itself
    if present is None or present["dev"] is None:
        return ""
    ids = {t.task_id for t in store.load(present["dev"], Trajectory)}
    spec = experts.environment(config.env)
    ours = identity.of_games(spec)
    if ids <= set(spec.task_ids("dev")) and present["tags"].get("ipr.games", ours) == ours:
        return ""
    return (
        f"the champion of '{config.track.registered_model}' (version {present['version']}) is of other games than this"
        " run's, so it stays champion whatever this run makes; give this one a name of its own:"
        " track.registered_model=NAME"
    )


def barred(track: TrackConfig, dev: Sequence[Trajectory]) -> str:
    """Why an agent may not become champion, whatever the present one can; "" where it may."""
    if not track.promote:
        return "runs of this preset do not promote (track.promote=false)"
    reward = fmean(t.reward for t in dev)
    if reward < track.min_dev_reward:
        return f"dev reward {reward:.3f} is below the minimum of {track.min_dev_reward:g} (track.min_dev_reward)"
    return ""


def judge(
    track: TrackConfig, mine: Sequence[Trajectory], theirs: Sequence[Trajectory] | None, version: str | None, draws: int
) -> dict[str, Any]:
    """The decision on an agent by its dev episodes and the champion's: {"promote", "outcome", "why", "dev_reward",
    "comparison" where there is one}. `theirs` and `version` are None where there is no champion.

    The outcome is "promoted", "kept" (the champion stays), or "worse" (the agent is so, beyond chance).
    """
    found: dict[str, Any] = {"promote": False, "outcome": "kept", "dev_reward": fmean(t.reward for t in mine)}
    if theirs is not None:
        if games_of(theirs) != games_of(mine):
            why = f"version {version}, the champion, is of other games; compare by hand: ipr compare"
            return found | {"why": why}
        found["comparison"] = compare(theirs, mine, draws, 0)
    if why := barred(track, mine):
        return found | {"why": why}
    if theirs is None:
        why = f"first champion, dev reward {found['dev_reward']:.3f} (at least {track.min_dev_reward:g})"
        return found | {"promote": True, "outcome": "promoted", "why": why}
    figures = found["comparison"]
    promote, worse = better(figures), figures["interval"][1] < 0
    word = "better" if promote else "worse" if worse else "not better"
    outcome = "promoted" if promote else "worse" if worse else "kept"
    low, high = figures["interval"]
    why = (
        f"{word} than version {version} on the same {figures['games']} dev games:"
        f" {100 * figures['difference']:+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}], p = {figures['p']:.3f},"
        f" {figures['win']} won, {figures['tie']} equal, {figures['lose']} lost"
    )
    return found | {"promote": promote, "outcome": outcome, "why": why}


def games_of(dev: Sequence[Trajectory]) -> set[tuple[str, str]]:
    """The games that were played: their names, and what one sees first, as another version has others of that name."""
    return {(t.task_id, t.first_observation) for t in dev}


# The command ---------------------------------------------------------------------------------------------------------


def command(options: Namespace) -> dict[str, Any]:
    """`ipr champion [promote|rollback]`."""
    from ipr import tracking

    root = project_root()
    defaults(root)
    name, _, version = (getattr(options, "version", None) or "").rpartition("/")
    track = named(options, name).track
    if options.what == "promote":
        return {"model": track.registered_model} | tracking.promote(track, root, version, options.reason)
    if options.what == "rollback":
        return {"model": track.registered_model} | tracking.roll_back(track, root, options.reason)
    page = tracking.champion_page(track, root)
    if page["version"]:
        made = tracking.lineage(page["version"], track, root)
        page["lineage"] = {key: made[key] for key in ("git_commit", "git_dirty", "config_hash", "data", "datasets")}
    return page


def text(page: Mapping[str, Any]) -> str:
    """`ipr champion`, for a terminal."""
    if "history" not in page:
        return f"champion of {page['model']} is now version {page['version']} (before: {page['before'] or 'none'})"
    if page["version"] is None:
        lines = [f"{page['model']} has no champion yet; ipr run quick, or: ipr champion promote VERSION --reason ..."]
    else:
        reward = "unknown" if page["dev_reward"] is None else f"{page['dev_reward']:.3f}"
        lines = [
            f"champion of {page['model']}: version {page['version']}, {page['stage']} of run {page['run']},"
            f" dev reward {reward}"
        ]
        lines += [f"  {key.replace('_', ' ')}: {value}" for key, value in page["lineage"].items() if value]
        lines += [f"  note: {page['note']}"] if "note" in page else []
    lines += ["history, newest first:"] if page["history"] else []
    for line in page["history"]:
        lines.append(f"  {line['when']}  version {line['version']}  {line['how']} ({line['by']}): {line['why']}")
    return "\n".join(lines)


def named(options: Namespace, name: str = "") -> RunConfig:
    """The config of the agent that `--env`, `--data` and `--registered-model` (or `name`) stand for."""
    data = [f"env.data={options.data}"] if options.data else []
    own = [f"track.registered_model={name}"] if (name := name or options.registered_model or "") else []
    return load(overrides=[f"env.name={options.env}", *data, *own])
