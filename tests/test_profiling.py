"""Where the time went: nothing is counted twice, and the parts make up the whole."""

from __future__ import annotations

import time

import pytest

from ipr import profiling
from ipr.policies.scripted import ScriptedPolicy
from ipr.rollout import play
from ipr.types import Job, Sampling
from tests import toy


def test_a_part_inside_another_is_not_counted_twice() -> None:
    start = profiling.now()
    with profiling.timed("training"):
        time.sleep(0.02)
        with profiling.timed("io"):
            time.sleep(0.04)
    time.sleep(0.03)
    found = profiling.since(start)
    assert found["training"] >= 0.02
    assert found["io"] >= 0.04
    assert found["training"] + found["io"] + found["other"] <= found["seconds"] + 0.01
    assert found["other"] >= 0.03
    parts = sum(found[part] for part in profiling.PARTS)
    assert parts + found["other"] == pytest.approx(found["seconds"], abs=0.01)


def test_a_workers_share_is_added_beside_the_own_time() -> None:
    share = {"seconds": 5.0, "workers": 0.0, "model": 4.0, "environment": 0.5, "other": 0.5, "episodes": 7}
    start = profiling.now()
    with profiling.timed("waiting"):
        time.sleep(0.01)
    profiling.add(share)
    found = profiling.since(start)
    assert (found["workers"], found["model"], found["environment"], found["episodes"]) == (5.0, 4.0, 0.5, 7)
    assert found["seconds"] < 5, "not the worker's"
    assert 0.5 <= found["other"] < 0.5 + found["seconds"]


def test_episodes_are_counted_and_the_joined_apart() -> None:
    spec = toy.spec()
    task_id = max(spec.task_ids("train"), key=lambda i: len(spec.expert(i).steps))
    expert = spec.expert(task_id)
    words = {f"room {task_id}.": [step.action for step in expert.steps]}
    start = profiling.now()
    n = len(play(spec, ScriptedPolicy(words), [Job(expert.prefix(t)) for t in range(len(expert.steps))], Sampling(0.0)))
    found = profiling.since(start)
    assert (found["episodes"], found["joined"]) == (1, n - 1)
