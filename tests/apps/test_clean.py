"""`ipr clean` on real folders, MLflow and DVC: what goes, what stays, and that nothing goes by itself."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from ipr import store
from ipr.apps.clean import GONE, clean
from ipr.config import RunConfig, load
from ipr.data import datasets
from ipr.runs.run import Run
from ipr.tracking import Tracker
from ipr.tracking.client import connect
from ipr.tracking.view import Sent
from ipr.types import IprError, Trajectory

pytestmark = pytest.mark.integration

NAMES = ("champion", "tagged", "base", "old", "older", "stopped", "running", "user", "new")
"""The runs, the oldest first. "user" was made from "base"; "stopped" and "running" are not finished."""


def config(model: str = "embedded") -> RunConfig:
    return load(None, [f"model.path={model}"])


def play(root: Path, name: str, number: int) -> None:
    """What a finished run leaves behind, told and published."""
    folder = root / "runs" / name
    settings = config(str(root / "runs/base/sft/model") if name == "user" else "embedded")
    run = Run.open(folder, settings, "smoke")
    run.note(created=f"2026-01-{number + 1:02}T00:00:00Z")
    if name in ("stopped", "running"):
        return
    store.write_text(run.model(0) / "weights.txt", f"weights of {name} " * 1000)
    store.save(folder / "pairs.parquet", [Trajectory(name, "look", (), 0.5, "terminated")])
    published = datasets.publish(root, {f"alfworld/{name}/pairs.parquet": folder / "pairs.parquet"})
    run.note(data={"md5": published.md5}, data_files=published.files)
    store.write_json(run.stage(0) / "published.json", {"md5": published.md5, "files": published.files})
    tracker = Tracker(folder, settings.track, root)
    tracker.start(name, {}, {"git.commit": "abc"})
    tracker.iteration(0)
    tracker.dataset("pairs", folder / "pairs.parquet", datasets.md5_of(folder / "pairs.parquet"), "output", 0)
    tracker.dataset("data", root / "data", published.md5, "output", 0)
    tracker.model(run.model(0), 0, {"dev/reward": 0.5}, {})
    if name == "champion":
        tracker.champion({"iteration": 0, "stage": "sft", "promote": True, "why": "best"})
    tracker.end("FINISHED")
    assert tracker.sync()
    run.note(complete=True)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("project")
    settings = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MLFLOW_"))}
    with mock.patch.dict(os.environ, settings | {"IPR_ROOT": str(root)}, clear=True):
        for number, name in enumerate(NAMES):
            play(root, name, number)
        (root / "runs/tagged/KEEP").touch()
        shutil.rmtree(root / "runs/new/sft/model")
        (root / "runs/new/sft/model").mkdir()
        store.write_text(root / "mlflow/downloads/m-gone/weights.txt", "x" * 1000)
        yield root


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Iterator[Path]:
    """The project, which is as before after each test: in its place, as MLflow keeps absolute paths."""
    kept = shutil.copytree(made, tmp_path / "kept")
    yield made
    database = shutil.ignore_patterns("mlflow.db*")  # MLflow has it open
    for folder in [p for p in made.iterdir() if p.is_dir() and p.name != "mlflow"] + [made / "mlflow/artifacts"]:
        shutil.rmtree(folder)
    shutil.copytree(kept, made, ignore=database, dirs_exist_ok=True)
    with (
        contextlib.closing(sqlite3.connect(kept / "mlflow/mlflow.db")) as source,
        contextlib.closing(sqlite3.connect(made / "mlflow/mlflow.db")) as target,
    ):
        source.backup(target)


def snapshot(root: Path) -> dict[str, int]:
    places = ("runs", "mlflow/artifacts", "mlflow/downloads", "data", ".dvc/cache", ".dvc-remote")
    return {
        str(f): f.stat().st_size
        for p in places
        for f in sorted((root / p).rglob("*"))
        if f.is_file() and f.name != ".lock"
    }


def objects(root: Path, place: str) -> set[str]:
    return {f.parent.name + f.name for f in (root / place / "files/md5").rglob("*") if f.is_file()}


def told(client: Any) -> set[str]:
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    return {r.data.tags.get("mlflow.runName", "") for r in runs if "mlflow.parentRunId" not in r.data.tags}


def test_nothing_goes_without_yes_and_then_what_was_said(root: Path) -> None:
    before = snapshot(root)
    with Run(root / "runs/running").lock():
        said = clean(root, root / "runs", 2, yes=False, remote=True)
        assert snapshot(root) == before
        done = clean(root, root / "runs", 2, yes=True, remote=True)
    assert set(said["runs"]) == {"old", "older"} == set(done["runs"])
    assert (
        done["stay"]
        == {
            "champion": "its version 1 has the alias champion",
            "tagged": "has a file KEEP",
            "base": "user was made from it",
            "stopped": "can be resumed",
            "running": "running",
            "user": "among the newest",
            "new": "among the newest",
        }
        or done["stay"]["base"] == "user was made from it"
    )
    for place in ("runs", "mlflow", "downloads", "data"):
        assert 0 < said["bytes"][place] == done["bytes"][place], place
    after = snapshot(root)
    assert sum(before.values()) - sum(after.values()) == pytest.approx(done["total"], abs=2000)
    assert sorted(p.name for p in (root / "runs").iterdir()) == sorted(set(NAMES) - {"old", "older"})

    client = connect(config().track, root)
    assert told(client) == set(NAMES) - {"old", "older", "stopped", "running"}
    versions = client.search_model_versions("name = 'ipr-agent'")
    assert len(versions) == 5
    assert str(client.get_model_version_by_alias("ipr-agent", "champion").version) == "1"
    for version in versions:
        assert client.list_artifacts(version.run_id) is not None
    with sqlite3.connect(root / "mlflow/mlflow.db") as database:
        (rows,) = database.execute("select count(*) from runs").fetchone()
    assert rows == 10, "for good: five runs and an iteration of each"

    assert datasets.verify(root) == []
    assert not (root / "data/alfworld/old").exists()
    assert (root / "data/alfworld/user/pairs.parquet").is_file()
    again = clean(root, root / "runs", 2, yes=False, remote=True)
    assert (again["runs"], again["total"]) == ({}, 0)


def test_what_runs_of_several_seeds_need_stays(root: Path) -> None:
    base = root / "runs/older/sft/model"
    Run.open(root / "runs/mine/mine-0", config(str(base)), "smoke")
    stay = clean(root, root / "runs", 1, False, False)["stay"]
    assert stay["older"] == "mine-0 was made from it"
    assert "old" not in stay


def test_a_change_by_hand_stays_and_is_not_published(root: Path) -> None:
    mine, published = root / "data/alfworld/new/pairs.parquet", datasets.hashes(root)[1]["alfworld/new/pairs.parquet"]
    store.save(mine, [Trajectory("half a thought", "look", (), 0.0, "terminated")])
    assert clean(root, root / "runs", 1, True, False)["bytes"]["data"] > 0
    assert not (root / "data/alfworld/old").exists()
    assert store.load(mine, Trajectory)[0].task_id == "half a thought"
    newest = datasets.history(root)[-1]
    assert newest.message.startswith("ipr clean: ")
    tree = datasets.restore(root, newest.md5, root.parent / "restored")
    assert datasets.md5_of(tree / "alfworld/new/pairs.parquet") == published
    assert not (tree / "alfworld/old").exists()


def test_what_mlflow_names_stays_in_cache_and_remote(root: Path, tmp_path: Path) -> None:
    """Plain `dvc gc -w` would remove the champion's data once data/ has moved on."""
    champion = Run(root / "runs/champion").manifest["data"]["md5"]
    clean(root, root / "runs", 2, yes=True, remote=True)
    for place in (".dvc/cache", ".dvc-remote"):
        assert champion in objects(root, place)
    for place in (".dvc/cache", ".dvc-remote"):  # each alone is enough
        hidden = (root / place).rename(tmp_path / "hidden")
        out = datasets.restore(root, champion, tmp_path / f"restored-{place.strip('.').replace('/', '-')}")
        assert store.load(out / "alfworld/champion/pairs.parquet", Trajectory)[0].task_id == "champion"
        shutil.rmtree(root / place, ignore_errors=True)
        hidden.rename(root / place)
    lost = store.read_json(tmp_path / "kept/runs/old/manifest.json")["data"]["md5"]
    assert lost not in objects(root, ".dvc/cache")
    assert lost in objects(root, ".dvc-remote"), "a published version stays there"


def test_what_mlflow_names_stays_also_where_no_run_is_left(root: Path) -> None:
    champion = Run(root / "runs/champion").manifest["data"]["md5"]
    shutil.rmtree(root / "runs")
    (root / "runs").mkdir()
    clean(root, root / "runs", 2, yes=True, remote=True)
    assert champion in objects(root, ".dvc/cache") & objects(root, ".dvc-remote")


def test_a_published_version_stays_in_the_remote(root: Path) -> None:
    old = Run(root / "runs/old").manifest["data"]["md5"]
    store.write_json(root / ".dvc-remote/ipr/versions.json", {"versions": [{"number": 1, "md5": old}]})
    clean(root, root / "runs", 2, yes=True, remote=True)
    listed = json.loads((root / f".dvc-remote/files/md5/{old[:2]}/{old[2:]}").read_text())
    assert {old, *(entry["md5"] for entry in listed)} <= objects(root, ".dvc-remote")
    assert old not in objects(root, ".dvc/cache")


def test_the_remote_is_left_alone_unless_asked(root: Path) -> None:
    before = objects(root, ".dvc-remote")
    found = clean(root, root / "runs", 2, yes=True, remote=False)
    assert "remote" not in found["bytes"]
    assert before <= objects(root, ".dvc-remote")


def test_a_tag_in_mlflow_keeps_a_run(root: Path) -> None:
    client = connect(config().track, root)
    (run,) = [
        r
        for r in client.search_runs([e.experiment_id for e in client.search_experiments()])
        if r.data.tags.get("mlflow.runName") == "old"
    ]
    client.set_tag(run.info.run_id, "keep", "the paper's figure")
    found = clean(root, root / "runs", 2, yes=True, remote=False)
    assert found["stay"]["old"] == "is tagged keep in MLflow"
    assert set(found["runs"]) == {"older"}


def test_a_run_that_has_more_to_tell_stays(root: Path) -> None:
    Tracker(root / "runs/old", config().track, root).metrics({"late": 1.0}, step=9)
    found = clean(root, root / "runs", 2, yes=False, remote=False)
    assert "has more to tell MLflow" in found["stay"]["old"]
    assert set(found["runs"]) == {"older"}


def test_the_champion_before_stays_for_a_rollback(root: Path) -> None:
    client = connect(config().track, root)
    versions = {v.run_id: v.version for v in client.search_model_versions("name = 'ipr-agent'")}
    names = {r.info.run_id: r for r in client.search_runs([e.experiment_id for e in client.search_experiments()])}
    by_name = {names[names[i].data.tags["mlflow.parentRunId"]].info.run_name: str(v) for i, v in versions.items()}
    line = json.dumps({"version": by_name["new"], "before": by_name["old"]})
    client.set_registered_model_tag("ipr-agent", "champion.1700000000000", line)
    found = clean(root, root / "runs", 2, yes=False, remote=False)
    assert "is or was the last champion" in found["stay"]["old"]
    assert set(found["runs"]) == {"older"}


def test_without_an_answer_from_mlflow_nothing_is_removed(root: Path) -> None:
    before = snapshot(root)
    with mock.patch.dict(os.environ, {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}):
        for folder in (root / "runs").glob("*/mlflow.json"):  # as if they had been sent there
            sent = Sent(folder, config().track, root)
            sent.runs = {None: "x"}
            sent.save()
        with pytest.raises(IprError, match="no answer from the MLflow server"):
            clean(root, root / "runs", 2, yes=True, remote=True)
    assert snapshot(root).keys() == before.keys()


def test_what_a_killed_clean_left_goes(root: Path) -> None:
    (root / "runs/old").rename(root / f"runs/{GONE}old")
    found = clean(root, root / "runs", 99, yes=True, remote=False)
    assert found["runs"] == {}
    assert found["bytes"]["runs"] > 0
    assert not (root / f"runs/{GONE}old").exists()
