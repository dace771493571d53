"""Scheduled runs for real, tiny: each does new work, and a machine that loses its disk does not lose the run."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ipr import envs, store
from ipr.types import Trajectory
from tests.conftest import Lay

pytestmark = pytest.mark.integration

TINY = ["env.max_steps=4", "eval.games=2", "eval.dev_games=2", "eval.splits=[unseen]", "algorithm.samples=1"]
TINY += ["algorithm.tau=0", "rollout.max_new_tokens=12", "sft.batch_size=2", "track.enabled=false"]
NIGHTS = """
import json, sys
from pathlib import Path
from ipr.runs.project import defaults, project_root
defaults(project_root())
from flows.retrain import retrain
count, runs, *overrides = sys.argv[1:]
for _ in range(int(count)):
    print("NIGHT " + json.dumps(retrain("smoke", overrides, runs)))
"""

HELD = """
import time
from ipr import credit
estimate = credit.estimate
def held(*given, **more):
    estimate(*given, **more)
    time.sleep(600)
credit.estimate = held
"""
"""Before NIGHTS: when the step rewards are played, and before the task has ended, the run waits to be killed."""


def nights(
    root: Path, count: int, overrides: list[str], to: int = subprocess.PIPE, code: str = NIGHTS
) -> subprocess.Popen:
    hidden = ("PREFECT_", "MLFLOW_", "OMP_", "IPR_")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(hidden)}
    return subprocess.Popen(
        [sys.executable, "-c", code, str(count), str(root / "runs"), *TINY, *overrides],
        env=kept | {"IPR_ROOT": str(root), "OMP_NUM_THREADS": "1"},
        cwd=root,
        stdout=to,
        stderr=to,
        text=True,
    )


def told(process: subprocess.Popen) -> list[dict]:
    out, errors = process.communicate(timeout=500)
    assert process.returncode == 0, errors[-3000:]
    return [json.loads(line.removeprefix("NIGHT ")) for line in out.splitlines() if line.startswith("NIGHT ")]


def weights(run: Path) -> list[str]:
    return [hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(run.glob("*/model/model.safetensors"))]


def explored(run: Path) -> set[str]:
    return {t.task_id for t in store.load(run / "iteration-1" / "explored.parquet", Trajectory)}


def test_two_nights_explore_other_problems_and_a_third_is_skipped(tmp_path: Path, with_data: Lay) -> None:
    with_data(tmp_path)
    spec = envs.get("alfworld")
    experts = store.save(tmp_path / "six.parquet", [spec.expert(i) for i in spec.task_ids("train")[:6]])
    overrides = ["env.tasks=3", f"env.experts={experts}"]
    found = told(nights(tmp_path, 3, overrides))
    runs = [Path(night["folder"]) for night in found[:2]]
    assert [run.name[:11] for run in runs] == ["smoke-0001-", "smoke-0002-"]
    assert len({weights(run)[-1] for run in runs}) == 2
    assert [len(explored(run)) for run in runs] == [3, 3]
    assert len(set.union(*map(explored, runs))) == 6
    assert "runs/smoke-0002" not in found[2]["skipped"]
    assert "all 6 problems of the train split have been explored" in found[2]["skipped"]
    # The folders are gone: the data remote remembers. With more experts there is something new.
    shutil.rmtree(tmp_path / "runs")
    assert told(nights(tmp_path, 1, overrides)) == [{"skipped": found[2]["skipped"]}]


def test_a_machine_that_loses_its_disk_does_not_lose_the_run(tmp_path: Path, with_data: Lay) -> None:
    """Killed while step rewards are played, its folder deleted; another checkout's schedule ends it with the same."""
    overrides = ["env.tasks=3", "algorithm.samples=2", "rollout.shard=16", "data.publish=false"]
    one, two = tmp_path / "one", tmp_path / "two"
    for root in (one, two):
        with_data(root)
    (whole,) = told(nights(one, 1, [*overrides, f"run.store={tmp_path / 'whole'}"]))

    shared = f"run.store={tmp_path / 'store'}"
    shutil.rmtree(one / "runs")
    # Its Prefect server outlives it for a while, with any pipe that it was given.
    process = nights(one, 1, [*overrides, shared], subprocess.DEVNULL, HELD + NIGHTS)
    limit = time.monotonic() + 300

    def sent() -> bool:
        index = list((tmp_path / "store").glob("*/index.json"))
        return bool(index) and "iteration-1/explore.json" in json.loads(index[0].read_text())["files"]

    while not sent():
        assert process.poll() is None
        assert time.monotonic() < limit
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (folder,) = (one / "runs").iterdir()
    assert not store.read_json(folder / "manifest.json").get("complete")
    shutil.rmtree(one)

    (again,) = told(nights(two, 1, [*overrides, shared]))
    assert Path(again["folder"]) == two / "runs" / folder.name
    other = tmp_path / "back" / folder.name
    from ipr.runs import mirror

    assert mirror.bring(other, str(tmp_path / "store"))
    assert weights(other) == weights(Path(again["folder"]))
    first = tmp_path / "first" / Path(whole["folder"]).name
    assert mirror.bring(first, str(tmp_path / "whole"))
    assert weights(first) == weights(other), "the same as the run that was not killed"
    for table in ("experts.parquet", "iteration-1/pairs.parquet", "iteration-1/step_rewards.parquet"):
        assert (first / table).read_bytes() == (other / table).read_bytes()
