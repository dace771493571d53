"""What is to be known of the champion before a run: whether the run's agent can be compared with it at all."""

from __future__ import annotations

from pathlib import Path

from ipr import identity, store
from ipr.config import RunConfig
from ipr.data import experts
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
