"""Rollouts in other processes: the same trajectories, whatever dies, and what is refused."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from ipr import config as configs
from ipr import envs, models, profiling, store
from ipr.config import RunConfig
from ipr.runs import workers
from ipr.runs.run import Run
from ipr.types import IprError, Job, Prefix, Trajectory, derive_seed
from tests import toy

TINY = [
    "env.tasks=5",
    "env.max_steps=8",
    "model.max_length=2048",
    "rollout.max_new_tokens=12",
    "rollout.slots=8",
    "rollout.shard=8",
    "algorithm.samples=3",
    "algorithm.tau=0",
    "algorithm.curtail=true",
]


def config(*overrides: str) -> RunConfig:
    return configs.load(None, [*TINY, *overrides])


TWO = config("rollout.workers=2")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the workers
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.save_model(toy.model(max_length=2048), toy.tokenizer(), tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    with workers.opened(TWO.rollout):
        yield workers._client(TWO.rollout)
    assert not workers._connected


def shards(count: int = 6) -> list[list[Job]]:
    ids = envs.get("alfworld").task_ids("dev")[:count]
    return [[Job(Prefix(i), derive_seed(i, s)) for s in range(3)] for i in ids]


def played(player: workers.Player, jobs: list[list[Job]]) -> list[list[Trajectory]]:
    found = dict(workers.play(player, jobs))
    return [found[place] for place in range(len(jobs))]


def test_workers_play_what_one_process_plays(model: Path, client: Any) -> None:
    shown: list[tuple[int, int]] = []
    before = profiling.now()
    found = dict(workers.play(workers.Player(str(model), "agent", TWO, 1.0), shards(), lambda *at: shown.append(at)))
    spent = profiling.since(before)
    expected = played(workers.Player(str(model), "agent", config(), 1.0), shards())
    assert [found[place] for place in range(6)] == expected
    assert len({t.steps for shard in expected for t in shard}) > 6
    assert shown == [(3 * k, 18) for k in range(1, 7)]
    assert spent["episodes"] == 18
    assert spent["model"] > 0
    assert spent["environment"] > 0
    assert spent["workers"] >= spent["model"] + spent["environment"] + spent["tokenizer"]
    # Each worker has loaded the model once and keeps it.
    kept = client.run(lambda: [player.policy.name for player, _ in workers._kept])
    assert list(kept.values()) == [["agent"]] * 2


def test_each_worker_has_a_gpu_of_its_own(model: Path, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told by the names that CUDA reads; there are no GPUs here."""
    monkeypatch.setattr(models, "gpus", lambda _: ["3", "GPU-5"])
    player = workers.Player(str(model), "agent", TWO, 1.0)
    found = played(player, shards(4))
    seen = client.run(lambda: os.environ.get("CUDA_VISIBLE_DEVICES"))
    assert sorted(seen.values()) == ["3", "GPU-5"]
    pids = list(client.run(os.getpid).values())
    os.kill(pids[0], signal.SIGKILL)
    assert played(player, shards(4)) == found == played(workers.Player(str(model), "agent", config(), 1.0), shards(4))
    client.wait_for_workers(2, timeout=300)
    assert pids[0] not in client.run(os.getpid).values()
    played(player, shards(4))
    seen = client.run(lambda: os.environ.get("CUDA_VISIBLE_DEVICES"))
    assert sorted(seen.values()) == ["3", "GPU-5"]


def test_workers_that_share_a_gpu_take_a_part_of_it_each(model: Path, client: Any) -> None:
    def begin() -> None:
        mock.patch.object(torch.cuda, "set_per_process_memory_fraction").start()
        mock.patch.object(models, "device", return_value=torch.device("cuda", 0)).start()

    client.run(begin)
    try:
        played(workers.Player(str(model), "agent", TWO, 1.0), shards(4))
        said = client.run(lambda: torch.cuda.set_per_process_memory_fraction.call_args.args)  # type: ignore[attr-defined]
        assert list(said.values()) == [(0.5, torch.device("cuda", 0))] * 2
    finally:
        client.run(mock.patch.stopall)


def test_a_stage_that_is_played_leaves_the_gpu(model: Path, client: Any) -> None:
    """What plays is told to rest; a GPU's model goes (here CUDA is said to be in use), a CPU's stays."""
    player = workers.Player(str(model), "agent", TWO, 1.0)
    played(player, shards(2))
    assert set(client.run(lambda: len(workers._kept)).values()) == {1}

    def in_use() -> None:
        mock.patch.multiple(torch.cuda, is_initialized=lambda: True, empty_cache=lambda: None).start()

    client.run(in_use)
    try:
        played(player, shards(2))
        assert set(client.run(lambda: len(workers._kept)).values()) == {0}
    finally:
        client.run(mock.patch.stopall)


def test_a_worker_that_dies_changes_nothing(model: Path, client: Any) -> None:
    jobs = shards(12)
    player = workers.Player(str(model), "agent", TWO, 1.0)
    pids = list(client.run(os.getpid).values())
    found: dict[int, list[Trajectory]] = {}
    for place, trajectories in workers.play(player, jobs):
        if not found:
            os.kill(pids[0], signal.SIGKILL)
        found[place] = trajectories
    assert [found[place] for place in range(12)] == played(workers.Player(str(model), "agent", config(), 1.0), jobs)
    client.wait_for_workers(2, timeout=300)
    assert pids[0] not in client.run(os.getpid).values()


@pytest.mark.integration
def test_the_stages_are_those_of_one_process(model: Path, client: Any, tmp_path: Path) -> None:
    """Explore and step rewards of two iterations, with join, gate, curtail and reuse: files and counters."""
    from tasks.explore import explore
    from tasks.reward import reward

    spec = envs.get("alfworld", max_steps=8)
    runs = [Run.open(tmp_path / name, c) for name, c in (("one", config()), ("two", TWO))]
    for run in runs:
        ids = spec.task_ids("train")[:5]
        # Two "experts" are the agent itself: what explores from their prefixes does the same, so it joins.
        own = workers.Player(str(model), "agent", config(), 0.0).play([Job(Prefix(task_id)) for task_id in ids[:2]])
        experts = [*own, *(spec.expert(task_id) for task_id in ids[2:])]
        store.save(run.folder / "experts.parquet", experts, Trajectory)
        for k in (0, 1):
            shutil.copytree(model, run.model(k))
            explore.fn(str(run.folder), k + 1)
            reward.fn(str(run.folder), k + 1)
    for k in (1, 2):
        for name in ("explored", "step_rewards"):
            a, b = (run.stage(k) / f"{name}.parquet" for run in runs)
            assert a.read_bytes() == b.read_bytes()
        for task in ("explore", "reward"):
            a, b = ((run.record(k, task) or {}) | {"seconds": 0, "profile": 0} for run in runs)
            assert a == b
    counts = (runs[1].record(1, "reward") or {})["rollouts"]
    assert counts["played"] > 0
    alone, apart = ((run.record(1, "explore") or {}) for run in runs)
    assert alone["joined"] == alone["profile"]["joined"] == apart["profile"]["joined"] > 0
    assert alone["profile"]["waiting"] == 0
    assert apart["profile"]["waiting"] > 0


def test_workers_refuse_what_they_would_play_differently(model: Path, client: Any) -> None:
    player = workers.Player(str(model), "agent", TWO, 1.0)
    mine, wanted = workers._versions(), player.identity()
    other = wanted | {"model": "another"}
    with pytest.raises(IprError, match=r"worker tcp://.* has another model in .*model; the run's folder"):
        client.submit(workers._work, player, [], None, other, mine, [], pure=False).result()
    other = wanted | {"data": "of old"}
    with pytest.raises(IprError, match=r"worker tcp://.* would play something else \(data: 'of old' -> None\)"):
        client.submit(workers._work, player, [], None, other, mine, [], pure=False).result()
    with pytest.raises(IprError, match=r"worker tcp://.* has torch .*, the run 0.4; install the same there"):
        client.submit(workers._work, player, [], None, wanted, mine | {"torch": "0.4"}, [], pure=False).result()
    lost = workers.Player("/no/such/folder", "agent", TWO, 1.0)
    with pytest.raises(IprError, match=r"worker .*no model folder /no/such/folder.*same path on every machine"):
        client.submit(workers._work, lost, [], None, wanted, mine, [], pure=False).result()


def test_a_scheduler_by_its_address(model: Path, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from distributed import LocalCluster

    address = client.scheduler.address
    monkeypatch.setattr(workers, "_connected", [])
    monkeypatch.setattr(workers, "_PATIENCE", 1)
    with workers.opened(config(f"rollout.scheduler={address}").rollout):
        there = played(workers.Player(str(model), "agent", config(f"rollout.scheduler={address}"), 1.0), shards(2))
    assert there == played(workers.Player(str(model), "agent", config(), 1.0), shards(2))
    assert len(client.nthreads()) == 2  # its workers are not ours to end
    silent = config("rollout.scheduler=tcp://127.0.0.1:9").rollout
    with (
        pytest.raises(IprError, match=r"no Dask scheduler answers at tcp://127.0.0.1:9 .*start"),
        workers.opened(silent),
    ):
        pytest.fail("it does not answer")
    cluster: Any = LocalCluster(n_workers=0, dashboard_address="127.0.0.1:0")
    with cluster:
        idle = config(f"rollout.scheduler={cluster.scheduler_address}").rollout
        with pytest.raises(IprError, match="has no workers; start some: dask worker tcp"), workers.opened(idle):
            pytest.fail("it has no workers")
    assert not workers._connected


def test_a_scheduler_whose_last_worker_goes_waits_for_others(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from distributed import LocalCluster

    monkeypatch.setattr(workers, "_connected", [])
    cluster: Any = LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0")
    told: list[str] = []

    def warning(words: str, *_: Any) -> None:
        told.append(words)
        cluster.scale(1)

    with cluster:
        named = config(f"rollout.scheduler={cluster.scheduler_address}")
        found: dict[int, list[Trajectory]] = {}
        with workers.opened(named.rollout):
            monkeypatch.setattr(workers, "_PATIENCE", 0.1)
            monkeypatch.setattr(workers.log, "warning", warning)
            for place, trajectories in workers.play(workers.Player(str(model), "agent", named, 1.0), shards(2)):
                if not found:
                    cluster.scale(0)
                found[place] = trajectories
    assert told == ["no worker is left at %s; waiting for one: dask worker %s"]
    assert [found[0], found[1]] == played(workers.Player(str(model), "agent", config(), 1.0), shards(2))
