"""WebShop: buying what an instruction asks for, in a generated shop or in the real catalogue. See `pages`, `reward`."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

from ipr import identity
from ipr.envs.webshop import expert, generate
from ipr.envs.webshop.prompt import prompt
from ipr.envs.webshop.real import Folder, check_data, unpriced
from ipr.envs.webshop.world import Goals, Shop
from ipr.types import Environment, EnvSpec, Trajectory

__all__ = ["MAX_STEPS", "check_data", "spec"]

MAX_STEPS = 10
"""Step limit."""


def spec(data: Path | None = None, max_steps: int | None = None) -> EnvSpec:
    """The environment: the generated shop, or the catalogue in a folder of published files."""
    limit = MAX_STEPS if max_steps is None else max_steps
    source: Goals = generate if data is None else Folder(data)

    deciding = {"rapidfuzz": ".".join(version("rapidfuzz").split(".")[:2])}  # of the reward
    more: dict[str, Any] = {"deciding": lambda: deciding}
    if isinstance(source, Folder):
        more = {
            "deciding": lambda: {"data": identity.contents(source.read()), **deciding},
            "reword": lambda text, task_id: unpriced(text),
            "adopted": source.adopted,
        }

    def play_expert(task_id: str) -> Trajectory:
        if isinstance(source, Folder):
            return source.expert(task_id, limit)
        goal = source.goal(task_id)
        return expert.play(source.catalogue(), goal, task_id, lambda: expert.customer(goal, task_id), limit)

    def oracle(env: Environment) -> float:
        assert isinstance(env, Shop)
        return env.page_score()

    return EnvSpec(
        name="webshop",
        make=lambda: Shop(source),
        task_ids=source.task_ids,
        prompt=prompt(),
        max_steps=limit,
        expert=play_expert,
        task_type=source.task_type,
        oracle=oracle,
        version=f"real-3-{source.key}" if isinstance(source, Folder) else "generated-3",
        **more,
    )
