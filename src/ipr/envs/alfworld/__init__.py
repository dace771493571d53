"""ALFWorld: household tasks in text, generated or from the real data set. See `engine`, `games`, `expert`."""

from __future__ import annotations

from pathlib import Path

from ipr import identity
from ipr.envs.alfworld import expert, games
from ipr.envs.alfworld.pack import EXPERT_STEPS, pack
from ipr.envs.alfworld.prompt import PUT, prompt
from ipr.envs.alfworld.real import Folder, check_data
from ipr.envs.alfworld.wording import reword
from ipr.envs.alfworld.world import Games, Household
from ipr.types import Environment, EnvSpec, Trajectory

__all__ = ["MAX_STEPS", "REAL_EXPERT_STEPS", "check_data", "pack", "spec"]

MAX_STEPS = 20
"""Step limit."""
REAL_EXPERT_STEPS = EXPERT_STEPS
"""Most steps of an expert trajectory of a real game (see `pack`)."""


def spec(data: Path | None = None, max_steps: int | None = None) -> EnvSpec:
    """The environment: the generated world, or the games of a folder in the layout of the real data set."""
    limit = MAX_STEPS if max_steps is None else max_steps
    source: Games = games if data is None else Folder(data)
    put, more = PUT, {}
    if isinstance(source, Folder):
        put = source.wording(source.any())
        more = {
            "deciding": lambda: {"data": identity.contents(source.files())},
            "prompts": lambda task_id: prompt(source.wording(task_id)),
        }
    longest = limit if data is None else max(limit, REAL_EXPERT_STEPS)

    def play_expert(task_id: str) -> Trajectory:
        return expert.play(source.game(task_id), task_id, longest)

    def worded(text: str, task_id: str | None) -> str:
        return reword(text, source.wording(task_id) if task_id and isinstance(source, Folder) else put)

    def oracle(env: Environment) -> float:
        assert isinstance(env, Household)
        return -env.steps_to_goal()

    return EnvSpec(
        name="alfworld",
        make=lambda: Household(source),
        task_ids=source.task_ids,
        prompt=prompt(put),
        max_steps=limit,
        expert=play_expert,
        task_type=source.task_type,
        oracle=oracle,
        version="generated-2" if data is None else "real-3",
        reword=worded,
        **more,
    )
