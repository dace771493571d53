"""ALFWorld: household tasks in text, generated or from the real data set. See `engine`, `games`, `expert`."""

from __future__ import annotations

from pathlib import Path

from ipr.envs.alfworld import expert, games
from ipr.envs.alfworld.prompt import prompt
from ipr.envs.alfworld.real import Folder, check_data
from ipr.envs.alfworld.world import Games, Household
from ipr.types import Environment, EnvSpec, Trajectory

__all__ = ["MAX_STEPS", "REAL_EXPERT_STEPS", "check_data", "spec"]

MAX_STEPS = 20
"""Step limit."""
REAL_EXPERT_STEPS = 50
"""Real rooms have up to 54 receptacles to search, so an expert trajectory of a real game may be longer."""


def spec(data: Path | None = None, max_steps: int | None = None) -> EnvSpec:
    """The environment: the generated world, or the games of a folder in the layout of the real data set."""
    limit = MAX_STEPS if max_steps is None else max_steps
    source: Games = games if data is None else Folder(data)
    longest = limit if data is None else max(limit, REAL_EXPERT_STEPS)

    def play_expert(task_id: str) -> Trajectory:
        return expert.play(source.game(task_id), task_id, longest)

    def oracle(env: Environment) -> float:
        assert isinstance(env, Household)
        return -env.steps_to_goal()

    return EnvSpec(
        name="alfworld",
        make=lambda: Household(source, limit),
        task_ids=source.task_ids,
        prompt=prompt() if data is None else prompt(_put(source)),
        max_steps=limit,
        expert=play_expert,
        task_type=source.task_type,
        oracle=oracle,
        version="generated-1" if data is None else "real-1",
    )


def _put(source: Games) -> str:
    """The folder's wording for putting something down; its games have all the same."""
    first = next(ids[0] for split in ("train", "seen", "unseen", "dev") if (ids := source.task_ids(split)))
    return source.game(first).wording.put
