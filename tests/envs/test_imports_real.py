"""Imports of trajectories of real ALFWorld games."""

from __future__ import annotations

from pathlib import Path

from ipr.data import exports, imports
from ipr.envs import get
from ipr.types import Trajectory


def written(folder: Path, given: list[Trajectory]) -> Path:
    """As messages that name no task."""
    rows = [{"messages": row["messages"]} for row in exports.messages(given, get("alfworld").told)]
    return exports.write(rows, folder / "given.jsonl")


def test_two_tasks_that_begin_alike_are_told_apart_by_what_follows(real: Path, tmp_path: Path) -> None:
    spec = get("alfworld", real)
    by_text: dict[str, list[str]] = {}
    for task_id in spec.task_ids("train"):
        by_text.setdefault(spec.make().reset(task_id), []).append(task_id)
    alike = next(ids for ids in by_text.values() if len(ids) > 1)
    given = [spec.expert(i) for i in reversed(alike)]
    played, differences = imports.load("messages", written(tmp_path, given), "alfworld", real)
    assert differences == []
    assert [(p.steps, p.reward) for p in played] == [(t.steps, t.reward) for t in given]
    assert {p.task_id for p in played} == set(alike)


def test_an_expert_of_a_real_game_may_be_longer_than_an_episode(real: Path, tmp_path: Path) -> None:
    spec = get("alfworld", real)
    t = next(t for t in map(spec.expert, spec.task_ids("train")) if len(t.steps) > spec.max_steps)
    assert imports.load("messages", written(tmp_path, [t]), "alfworld", real) == ([t], [])
