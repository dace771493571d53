"""The order of an iteration's tasks is told in `ipr.runs.ITERATION`; the flow keeps to it, however long one takes."""

from __future__ import annotations

import pytest

from ipr.runs import ITERATION


def test_the_flow_runs_an_iteration_in_its_order(monkeypatch: pytest.MonkeyPatch) -> None:
    from flows import refine

    done: list[str] = []
    for task in (*ITERATION, "evaluate", "publish", "report"):
        monkeypatch.setattr(refine, task, lambda run_dir, iteration, task=task: done.append(task))
    refine.iterate.fn("run", 1)
    assert tuple(done) == (*ITERATION, "evaluate", "publish", "report")


@pytest.mark.parametrize("task", ["sft", *ITERATION, "evaluate", "champion"])
def test_a_stage_takes_as_long_as_it_takes(task: str) -> None:
    from flows import refine

    assert getattr(refine, task).timeout_seconds is None
