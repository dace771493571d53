"""The event log, and MLflow as a view of it: told once, whatever is killed, retried or down."""

from __future__ import annotations

import json
import logging
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast, get_args
from unittest import mock

import pytest

from ipr import store
from ipr.config import TrackConfig
from ipr.data import datasets
from ipr.runs.project import answers
from ipr.runs.run import Run
from ipr.tracking import (
    Tracker,
    champion_info,
    champion_page,
    lineage,
    links,
    live,
    promote,
    restore_data,
    retention,
    roll_back,
)
from ipr.tracking.client import connect
from ipr.tracking.events import Kind, read
from ipr.tracking.view import Sent
from ipr.types import IprError, Trajectory

MD5 = "0123456789abcdef0123456789abcdef"
DEAD = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def _environment():
    """Each test's settings end with it."""
    with mock.patch.dict(os.environ):
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        yield


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path


EPISODE: dict[str, Any] = {
    "stage": "sft",
    "kind": "explored",
    "split": "train",
    "task_id": "train/1",
    "task_type": "look",
    "policy": "sft",
    "reward": 0.0,
    "solved": False,
    "ending": "truncated",
    "start": 1,
    "seed": 2**62,
    "invalid": 1,
    "first_observation": "A room.\nYour task is to: look.",
    "steps": [
        {"action": "go", "observation": "A lamp."},
        {"action": "wait", "observation": "", "mean": 0.4, "n": 5, "samples": [1, 1, 0, 0, 0], "source": "monte_carlo"},
    ],
    "pairs": [{"level": "step", "margin": 0.6, "winner": "expert"}],
}


def fill(tracker: Tracker, reward: float = 0.5, iterations: int = 1) -> None:
    """What a run tells: called again after a resume, with the same figures."""
    folder = tracker.folder
    tracker.start("toy", {"train.beta": 0.1, "long": "x" * 9000}, {"git.commit": "abc", "ipr.seed": 0, "none": None})
    for k in range(iterations + 1):
        stage = folder / ("sft" if k == 0 else f"iteration-{k}")
        store.write_text(stage / "model" / "weights.txt", f"weights {k}")
        store.save(stage / "eval" / "dev.parquet", [Trajectory("t1", "look", (), reward + k / 10, "terminated")])
        tracker.iteration(k, {"prefect.flow_run_id": "flow"})
        for update in (1, 2):
            tracker.metrics({"train/loss": 1 / update, "train/nan": float("nan")}, step=update, iteration=k)
        tracker.metrics({"dev/reward": reward + k / 10}, step=k)
        tracker.dataset("pairs", tracker.root / "data/toy/pairs.parquet", MD5, "output", k)
        tracker.dataset("data", tracker.root / "data", MD5 + ".dir", "output", k)
        tracker.artifact(stage / "eval" / "dev.parquet", k)
        tracker.model(stage / "model", k, {"dev/reward": reward + k / 10}, {"extra": 1})
        tracker.traces(store.write_json(stage / "traces.json", [EPISODE | {"stage": stage.name}]), k)
        tracker.games(stage.name, {"dev": stage / "eval" / "dev.parquet"}, 1.0, k)
    store.write_text(folder / "report.html", "report")
    tracker.artifact(folder / "report.html")


def dump(client: Any, name: str = "toy") -> dict[str, Any]:
    """Everything that MLflow has of the run, without its ids and times."""
    experiment = client.get_experiment_by_name("ipr").experiment_id
    found: dict[str, Any] = {}
    for run in client.search_runs([experiment]):
        history = {k: client.get_metric_history(run.info.run_id, k) for k in run.data.metrics}
        found[run.info.run_name] = {
            "status": run.info.status,
            "params": run.data.params,
            "tags": {k: v for k, v in run.data.tags.items() if k not in ("ipr.run_key", "mlflow.parentRunId")},
            "child": "mlflow.parentRunId" in run.data.tags,
            "metrics": {k: [(m.step, str(m.value)) for m in points] for k, points in history.items()},
            "datasets": [(d.dataset.name, d.dataset.digest, d.dataset.source) for d in run.inputs.dataset_inputs],
            "models": len(run.outputs.model_outputs if run.outputs else []),
            "artifacts": sorted(_files(client, run.info.run_id)),
        }
    found["logged models"] = sorted(m.name for m in client.search_logged_models([experiment]))
    versions = client.search_model_versions("name = 'ipr-agent'")
    found["versions"] = [{k: v for k, v in version.tags.items() if k != "ipr.event"} for version in versions]
    assert len([r for r in found if r == name]) == 1
    found["traces"] = sorted(
        (t.info.request_preview, t.info.tags["ipr.stage"], sorted((a.name, str(a.value)) for a in t.info.assessments))
        for t in client.search_traces(locations=[experiment])
    )
    found["games"] = [
        (data.name, sorted((r.inputs["stage"], r.inputs["game"], r.outputs["reward"]) for r in data.records))
        for data in client.search_datasets([experiment])
    ]
    return found


def _files(client: Any, run: str, folder: str = "") -> list[str]:
    found = []
    for file in client.list_artifacts(run, folder):
        found += _files(client, run, file.path) if file.is_dir else [file.path]
    return found


# The event log (no MLflow) -------------------------------------------------------------------------------------------


def events(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(event.line()) for event in read(folder / "events.jsonl")]


def test_telling_again_adds_nothing(root: Path):
    fill(Tracker(root / "run", TrackConfig(), root))
    before = events(root / "run")
    assert len({e["id"] for e in before}) == len(before)
    assert [e["time"] for e in before] == sorted(e["time"] for e in before)
    fill(Tracker(root / "run", TrackConfig(), root))
    assert events(root / "run") == before


def test_a_line_cut_short_by_a_kill_is_told_again(root: Path):
    fill(Tracker(root / "run", TrackConfig(), root))
    whole = [e["id"] for e in events(root / "run")]
    path = root / "run/events.jsonl"
    path.write_bytes(path.read_bytes()[:-7])
    assert [e["id"] for e in events(root / "run")] == whole[:-1]
    fill(Tracker(root / "run", TrackConfig(), root))
    assert [e["id"].partition("@")[0] for e in events(root / "run")] == [i.partition("@")[0] for i in whole]


def test_first_metrics_and_params_stay_and_newest_tags_count(root: Path):
    tracker = Tracker(root / "run", TrackConfig(), root)
    tracker.start("toy", {"a": 1}, {"x": 1})
    tracker.metrics({"m": 1, "other": True, "text": "no number", "none": None}, step=1)
    tracker.end("FAILED")
    tracker = Tracker(root / "run", TrackConfig(), root)
    tracker.start("toy", {"a": 2}, {"x": 2, "y": 1})
    tracker.metrics({"m": 2, "n": 3}, step=1)
    tracker.start("toy", {}, {"x": 1})
    tracker.end("FINISHED")
    told = events(root / "run")
    assert [e["values"] for e in told if e["kind"] == "metrics"] == [{"m": 1.0, "other": 1.0}, {"n": 3.0}]
    assert [e["params"] for e in told if e["kind"] == "params"] == [{"a": "1"}]
    assert [e["tags"] for e in told if e["kind"] == "tags"] == [{"x": "1"}, {"x": "2", "y": "1"}, {"x": "1"}]
    assert [e["status"] for e in told if e["kind"] == "status"] == ["FAILED", "RUNNING", "FINISHED"]


def test_what_comes_before_start_or_iteration_opens_them(root: Path):
    Tracker(root / "run", TrackConfig(), root).metrics({"m": 1}, step=1, iteration=2)
    assert [e["id"] for e in events(root / "run")] == ["start", "iteration/2", "metrics/2/1/m"]


def test_metric_names_hold_only_what_mlflow_takes(root: Path):
    tracker = Tracker(root / "run", TrackConfig(), root)
    tracker.metrics({"reward (unseen)": 1, "/a//b:c": 2}, step=0)
    assert list(events(root / "run")[-1]["values"]) == ["reward_unseen_", "a/b_c"]


def test_a_model_carries_the_tags_of_its_run_and_data(root: Path):
    fill(Tracker(root / "run", TrackConfig(), root))
    model = next(e for e in events(root / "run") if e["id"] == "model/1")
    assert model["path"] == "iteration-1/model"
    assert model["tags"] == {
        "git.commit": "abc",
        "ipr.seed": "0",
        "ipr.iteration": "1",
        "prefect.flow_run_id": "flow",
        "dvc.pairs.md5": MD5,
        "dvc.data.md5": MD5 + ".dir",
        "extra": "1",
    }


def test_switched_off(root: Path):
    tracker = Tracker(root / "run", TrackConfig(enabled=False, uri=DEAD), root)
    fill(tracker)
    assert tracker.sync()
    assert links(tracker.config, root, tracker.folder) == {}


def test_a_dead_server_costs_one_warning_and_no_time(root: Path, caplog: pytest.LogCaptureFixture):
    config = TrackConfig()
    os.environ["MLFLOW_TRACKING_URI"] = "http://user:secret@127.0.0.1:9"
    tracker = Tracker(root / "run", config, root)
    fill(tracker)
    begin = time.monotonic()
    assert not tracker.sync()
    with pytest.raises(IprError, match=f"no answer from the MLflow server {DEAD}"):
        champion_info(config, root)  # not None: "no champion" would be a reason to promote
    assert time.monotonic() - begin < 20
    assert [r.levelno for r in caplog.records] == [logging.WARNING]
    assert f"{len(events(root / 'run'))} events wait for the next sync" in caplog.text
    assert "secret" not in caplog.text + str(links(config, root, root / "run"))


def test_a_server_that_never_answers_is_given_up():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        begin = time.monotonic()
        assert not answers(f"http://127.0.0.1:{silent.getsockname()[1]}/health", timeout=0.3)
        assert time.monotonic() - begin < 20


def test_a_broken_state_file_is_a_warning(root: Path, caplog: pytest.LogCaptureFixture):
    tracker = Tracker(root / "run", TrackConfig(), root)
    fill(tracker)
    (root / "run/mlflow.json").write_text("{")
    assert not tracker.sync()
    assert "mlflow.json" in caplog.text


def test_the_team_s_servers_have_the_versions_of_the_project():
    project = Path(__file__).parents[2]
    compose = (project / "mlflow/compose.yaml").read_text().replace("[auth]", "")
    wanted = tomllib.loads((project / "pyproject.toml").read_text())["project"]["dependencies"]
    for name in ("mlflow==", "prefect==", "fastapi>", "sqlalchemy>"):
        pin = next(p for p in wanted if p.startswith(name))
        assert f'"{pin}"' in compose


# MLflow for real -----------------------------------------------------------------------------------------------------

integration = pytest.mark.integration


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh database: making its tables takes ten seconds, copying it none."""
    folder = tmp_path_factory.mktemp("mlflow")
    with mock.patch.dict(os.environ):
        connect(TrackConfig(uri=f"sqlite:///{folder}/mlflow.db"), folder).search_experiments()
    return folder / "mlflow.db"


@integration
def test_a_kill_amid_the_making_of_mlflows_database_leaves_none(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.store.db import utils

    config = TrackConfig(uri=f"sqlite:///{root}/mlflow/mlflow.db")
    with monkeypatch.context() as patch:
        patch.setattr(utils, "_upgrade_db", mock.Mock(side_effect=SystemExit))
        with pytest.raises(SystemExit):
            connect(config, root)
    assert not (root / "mlflow" / "mlflow.db").exists()
    assert [e.name for e in connect(config, root).search_experiments()] == ["Default"]


@pytest.fixture
def config(root: Path, migrated: Path) -> TrackConfig:
    (root / "mlflow").mkdir()
    shutil.copyfile(migrated, root / "mlflow/mlflow.db")
    return TrackConfig(uri=f"sqlite:///{root}/mlflow/mlflow.db")


def told(root: Path, config: TrackConfig, name: str = "run", **arguments: Any) -> Tracker:
    """A whole run that is in MLflow."""
    tracker = Tracker(root / name, config, root)
    fill(tracker, **arguments)
    tracker.end("FINISHED")
    assert tracker.sync()
    return tracker


@integration
def test_the_view(root: Path, config: TrackConfig):
    told(root, config)
    client = connect(config, root)
    found = dump(client)
    assert found["toy"]["metrics"] == {"dev/reward": [(0, "0.5"), (1, "0.6")]}
    assert found["toy"]["params"] == {"train.beta": "0.1", "long": "x" * 6000}
    assert found["toy"]["artifacts"] == ["report.html"]
    assert not found["toy"]["child"]
    child = found["iteration-1"]
    assert child["child"]
    assert child["status"] == found["toy"]["status"] == found["sft"]["status"] == "FINISHED"
    assert child["metrics"]["train/loss"] == [(1, "1.0"), (2, "0.5")]
    assert child["metrics"]["train/nan"] == [(1, "nan"), (2, "nan")]
    assert [(name, digest) for name, digest, _ in child["datasets"]] == [("pairs", MD5), ("data", MD5 + ".dir")]
    assert '"path": "data/toy/pairs.parquet"' in child["datasets"][0][2]
    assert child["tags"]["dvc.data.md5"] == MD5 + ".dir"
    assert child["tags"]["git.commit"] == "abc"
    assert child["tags"]["ipr.iteration"] == "1"
    assert child["artifacts"] == ["eval/dev.parquet"]
    assert (child["models"], found["toy"]["models"]) == (1, 2)
    assert found["logged models"] == ["iteration-1", "sft"]
    assert len(found["versions"]) == 2
    shown = links(config, root, root / "run")
    assert "/#/experiments/1/runs/" in shown["mlflow run"]
    assert "--backend-store-uri" in shown["mlflow server"]
    key = shown["mlflow ranking"].partition("viewStateShareKey=")[2]
    view = json.loads(client.get_experiment_by_name("ipr").tags[f"mlflow.sharedViewState.{key}"])
    assert view["orderByKey"] in view["selectedColumns"]


@integration
def test_what_a_run_has_told_goes_with_it(root: Path, config: TrackConfig):
    tracker = told(root, config)
    client = connect(config, root)
    experiment = client.get_experiment_by_name("ipr").experiment_id
    assert client.search_traces(locations=[experiment])
    assert client.search_datasets([experiment])
    retention.remove(cast(Run, SimpleNamespace(config=SimpleNamespace(track=config), folder=tracker.folder)), root)
    assert not client.search_traces(locations=[experiment])
    assert not client.search_datasets([experiment])
    assert not client.search_runs([experiment])


@integration
def test_a_trace_has_the_step_rewards_at_its_steps(root: Path, config: TrackConfig):
    tracker = told(root, config)
    client = connect(config, root)
    experiment = client.get_experiment_by_name("ipr").experiment_id
    (trace,) = client.search_traces(
        locations=[experiment],
        filter_string="feedback.step_reward = '0.4' AND tags.`ipr.stage` = 'iteration-1'",
    )
    child = next(r for r in client.search_runs([experiment]) if r.info.run_name == "iteration-1")
    assert trace.info.trace_metadata["mlflow.sourceRun"] == child.info.run_id
    assert trace.info.trace_metadata["mlflow.trace.session"] == "train/1"
    episode, given, own = trace.data.spans
    assert (episode.name, given.name, own.name) == ("iteration-1 explored", "step 1 (given)", "step 2")
    assert given.parent_id == own.parent_id == episode.span_id
    assert (own.inputs, own.outputs) == ({"action": "wait"}, {"observation": ""})
    assert episode.outputs == {"reward": 0.0, "outcome": "failed", "ending": "step limit"}
    told_of = {a.name: (a.value, a.span_id, a.rationale) for a in trace.info.assessments}
    assert told_of == {
        "outcome_reward": (0.0, None, "environment"),
        "solved": (False, None, "environment"),
        "invalid_actions": (1, None, "environment"),
        "pair_margin": (0.6, None, "step pair, margin 0.60, expert chosen"),
        "step_reward": (0.4, own.span_id, "n = 5, monte_carlo: 1, 1, 0, 0, 0"),
        "mean_step_reward": (0.4, None, "of 1 actions of the agent"),
    }
    (games,) = client.search_datasets([experiment])
    assert games.name == "toy games"
    assert {r.inputs["stage"]: r.outputs["reward"] for r in games.records} == {"sft": 0.5, "iteration-1": 0.6}
    (root / "run/mlflow.json").unlink()  # told again, nothing is added
    before = dump(client)
    assert tracker.sync()
    assert dump(client) == before


@integration
def test_runs_of_several_seeds_have_one_parent(root: Path, config: TrackConfig):
    parent = Tracker(root / "seeds", config, root)
    parent.start("seeds", {}, {})
    for seed in (0, 1):  # sent before their parent is
        one = Tracker(root / f"seeds/seeds-{seed}", config, root)
        one.group(parent)
        one.start(f"seeds-{seed}", {"seed": seed}, {})
        assert one.sync()
    parent.end("FINISHED")
    assert parent.sync()
    client = connect(config, root)
    runs = {r.info.run_name: r for r in client.search_runs([client.get_experiment_by_name("ipr").experiment_id])}
    assert set(runs) == {"seeds", "seeds-0", "seeds-1"}
    assert runs["seeds"].info.status == "FINISHED"
    for seed in (0, 1):
        assert runs[f"seeds-{seed}"].data.tags["mlflow.parentRunId"] == runs["seeds"].info.run_id
        assert runs[f"seeds-{seed}"].data.params == {"seed": str(seed)}


class Kill(BaseException):
    """As sudden as SIGKILL: nothing catches it."""


@integration
def test_killed_after_every_event_the_view_is_the_same(
    root: Path, config: TrackConfig, migrated: Path, monkeypatch: pytest.MonkeyPatch
):
    """Between sending and marking is the worst moment: every event is sent twice."""
    tracker = Tracker(root / "run", config, root)
    fill(tracker)
    parent = Tracker(root / "seeds", config, root)
    parent.start("seeds", {}, {})
    tracker.group(parent)
    tracker.champion({"iteration": 1, "promote": True, "why": "first champion"})
    tracker.end("FINISHED")
    assert {e["kind"] for e in events(root / "run")} == set(get_args(Kind))
    save, marks = Sent.save, [0]

    def die_at_the_second(sent: Sent) -> None:
        marks[0] += 1
        if marks[0] == 2:
            raise Kill
        save(sent)

    monkeypatch.setattr(Sent, "save", die_at_the_second)
    kills = 0
    while True:
        marks[0] = 0
        try:
            assert Tracker(root / "run", config, root).sync()
            break
        except Kill:
            kills += 1
    assert kills > 15
    monkeypatch.setattr(Sent, "save", save)

    # The same log into a fresh database, in one go.
    (root / "other/mlflow").mkdir(parents=True)
    shutil.copyfile(migrated, root / "other/mlflow/mlflow.db")
    other = TrackConfig(uri=f"sqlite:///{root}/other/mlflow/mlflow.db")
    assert Tracker(root / "run", other, root / "other").sync()
    assert dump(connect(config, root)) == dump(connect(other, root / "other"))


@integration
def test_what_a_broken_server_did_not_take_comes_later_once(
    root: Path, config: TrackConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    dead = Tracker(root / "run", TrackConfig(uri=DEAD), root)
    fill(dead)
    assert not dead.sync()
    assert not (root / "run/mlflow.json").exists()

    def fail(*_: Any) -> None:
        raise ConnectionError("no space on the artifact server")

    with monkeypatch.context() as broken:
        broken.setattr("mlflow.MlflowClient.finalize_logged_model", fail)
        tracker = Tracker(root / "run", config, root)
        assert not tracker.sync()
    assert "no space on the artifact server" in caplog.text
    tracker.end("FINISHED")
    assert tracker.sync()
    assert tracker.sync()
    found = dump(connect(config, root))
    assert found["logged models"] == ["iteration-1", "sft"]
    assert found["iteration-1"]["metrics"]["train/loss"] == [(1, "1.0"), (2, "0.5")]


@integration
def test_curves_are_there_while_they_are_made(root: Path, config: TrackConfig, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(live, "EVERY", 0.05)
    tracker = Tracker(root / "run", config, root)
    tracker.start("toy", {}, {})
    assert tracker.run_id() is None
    assert tracker.sync()
    client = connect(config, root)
    run = tracker.run_id()
    assert run is not None
    assert client.get_run(run).info.status == "RUNNING"  # from the first minute
    with live.curve(tracker, "train", 1) as log:
        limit = time.monotonic() + 120
        for update in (1, 2):
            log(update, {"loss": 1 / update})
            while tracker._sent().count < len(tracker.events):
                assert time.monotonic() < limit
                time.sleep(0.02)
        experiment = client.get_experiment_by_name("ipr").experiment_id
        child = next(r for r in client.search_runs([experiment]) if r.info.run_name == "iteration-1")
        history = client.get_metric_history(child.info.run_id, "train/loss")
        assert [(m.step, m.value) for m in history] == [(1, 1.0), (2, 0.5)]
    assert tracker.sync()  # nobody else is sending any more


@integration
def test_the_machine_s_load_is_in_the_run(root: Path, config: TrackConfig, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")
    tracker = Tracker(root / "run", config, root)
    tracker.start("toy", {}, {})
    with live.system_metrics(tracker):  # MLflow has no such run yet: nothing
        pass
    assert tracker.sync()
    with live.system_metrics(tracker):
        time.sleep(1)
    run = connect(config, root).get_run(tracker.run_id())
    assert run.data.metrics["system/cpu_utilization_percentage"] >= 0


@integration
def test_an_event_that_cannot_be_taken_does_not_hold_up_the_others(
    root: Path, config: TrackConfig, caplog: pytest.LogCaptureFixture
):
    tracker = Tracker(root / "run", config, root)
    fill(tracker)
    (root / "run/report.html").unlink()
    shutil.rmtree(root / "run/sft/model")
    tracker.metrics({"good": 1}, step=8)
    tracker.metrics({"a/../b": 1}, step=8)
    tracker.end("FINISHED")
    assert tracker.sync()
    assert "MLflow refused 3 events, e.g. model/0" in caplog.text
    found = dump(connect(config, root))
    assert found["toy"]["status"] == "FINISHED"
    assert found["toy"]["metrics"]["good"] == [(8, "1.0")]
    assert found["logged models"] == ["iteration-1"]


@integration
def test_a_lost_database_is_filled_again(root: Path, config: TrackConfig, migrated: Path):
    told(root, config)
    lost = dump(connect(config, root))
    with sqlite3.connect(migrated) as empty, sqlite3.connect(root / "mlflow/mlflow.db") as database:
        empty.backup(database)
    assert Tracker(root / "run", config, root).sync()
    assert dump(connect(config, root)) == lost


@integration
def test_the_champion_changes_only_for_a_better_one(root: Path, config: TrackConfig, caplog: pytest.LogCaptureFixture):
    assert champion_info(config, root) is None
    tracker = told(root, config, "first")

    def decide(tracker: Tracker, promote: bool, against: str | None) -> dict[str, Any]:
        decision = {"iteration": 1, "promote": promote, "why": "a test"}
        tracker.champion(decision | ({"champion": against} if against else {}))
        assert tracker.sync()
        found = champion_info(config, root)
        assert found is not None
        return found | {"told": tracker.refused(f"champion/1/{against}")}

    first = decide(tracker, True, None)
    assert (first["folder"] / "weights.txt").read_text() == "weights 1"
    assert store.load(first["dev"], Trajectory)[0].reward == pytest.approx(0.6)
    assert first["tags"]["champion.event"] == "champion/1/None"
    assert decide(told(root, config, "worse", reward=0.1), False, first["version"])["version"] == first["version"]
    better = told(root, config, "better", reward=0.7)
    second = decide(better, True, first["version"])
    assert store.load(second["dev"], Trajectory)[0].reward == pytest.approx(0.8)

    # Decided against a champion that is no longer the champion: the alias stays.
    late = told(root, config, "late", reward=0.9)
    stays = decide(late, True, first["version"])
    assert stays["version"] == second["version"]
    assert "not moved: compared with" in stays["told"]
    assert "not moved: compared with" in caplog.text
    # Told again from the beginning, the first run does not take the alias back.
    (root / "first/mlflow.json").unlink()
    assert Tracker(root / "first", config, root).sync()
    again = champion_info(config, root)
    assert again is not None
    assert again["version"] == second["version"]


@integration
def test_a_person_promotes_and_rolls_back_and_the_reasons_stay(root: Path, config: TrackConfig):
    for name, reward in (("one", 0.3), ("two", 0.5), ("three", 0.4)):
        told(root, config, name, reward=reward, iterations=0)
    tracker = Tracker(root / "one", config, root)
    for _ in range(2):  # told twice, one line
        tracker.champion({"iteration": 0, "promote": True, "why": "first champion", "by": "run one"})
        assert tracker.sync()
        (root / "one/mlflow.json").unlink()
    assert promote(config, root, "2", "looks better to me")["before"] == "1"
    assert promote(config, root, "3", "try the third")["before"] == "2"
    page = champion_page(config, root)
    assert (page["version"], page["stage"], page["run"]) == ("3", "sft", None)
    assert page["dev_reward"] == pytest.approx(0.4)
    assert [(h["version"], h["how"], h["why"]) for h in page["history"]] == [
        ("3", "by hand", "try the third"),
        ("2", "by hand", "looks better to me"),
        ("1", "by a run", "first champion"),
    ]
    assert page["history"][-1]["by"] == "run one"
    for version in ("2", "1"):  # back, and further back, not to what was rolled back from
        assert roll_back(config, root, "it sulks")["version"] == version
    with pytest.raises(IprError, match="is the first champion"):
        roll_back(config, root, "further")
    client = connect(config, root)
    text = client.get_model_version("ipr-agent", "3").description
    assert "dev: reward 0.4" in text
    assert "try the third" in text
    assert set(client.get_model_version("ipr-agent", "3").tags) <= {"ipr.event", "git.commit", "dvc.data.md5"}
    for version, words in (("9", "no version 9 of .*; there are 1, 2, 3"), ("1", "is the champion already")):
        with pytest.raises(IprError, match=words):
            promote(config, root, version, "why not")
    client.set_registered_model_alias("ipr-agent", "champion", "2")
    assert "moved in MLflow itself" in champion_page(config, root)["note"]


@integration
def test_from_a_model_to_its_data_and_back(root: Path, config: TrackConfig):
    (root / "source").write_text("pairs")
    published = datasets.publish(root, {"toy/pairs.parquet": root / "source"})
    tracker = Tracker(root / "run", config, root)
    fill(tracker)
    for name, md5 in {"data": published.md5, "pairs": published.files["toy/pairs.parquet"]}.items():
        tracker.dataset(name, root / "data", md5, "output", 2)
    tracker.model(root / "run/iteration-1/model", 2, {}, {})
    tracker.champion({"iteration": 2, "promote": True, "why": "first champion"})
    assert tracker.sync()
    datasets.publish(root, {"toy/later.parquet": root / "source"})

    found = lineage("champion", config, root)
    assert found["data"] == published.md5
    assert found["datasets"] == {"pairs": published.files["toy/pairs.parquet"]}
    assert found["git_commit"] == "abc"
    for ref in (found["version"], found["run_id"]):
        assert lineage(ref, config, root)["data"] == published.md5
    restored = restore_data("champion", root / "restored", config, root)
    assert datasets.md5_of(Path(restored["folder"]) / "toy/pairs.parquet") == published.files["toy/pairs.parquet"]
    assert not (root / "restored/toy/later.parquet").exists()
    for ref in ("99", "no-such-run"):
        with pytest.raises(IprError, match=f"knows no '{ref}'"):
            lineage(ref, config, root)


@integration
def test_a_real_server_that_goes_away_and_comes_back(root: Path, config: TrackConfig):
    """Artifacts go through the server here, and the champion is downloaded."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    remote = TrackConfig(uri=f"http://127.0.0.1:{port}")

    def serve() -> subprocess.Popen[bytes]:
        command = ["server", "--backend-store-uri", str(config.uri), "--artifacts-destination", str(root / "served")]
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", *command, "--port", str(port), "--workers", "1"],
            env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"},
            cwd=root,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        limit = time.monotonic() + 120
        while not answers(f"{remote.uri}/health"):
            assert time.monotonic() < limit
            time.sleep(0.3)
        return process

    def stop(process: subprocess.Popen[bytes]) -> None:
        os.killpg(process.pid, 9)
        process.wait()

    tracker = Tracker(root / "run", remote, root)
    fill(tracker)
    server = serve()
    try:
        assert tracker.sync()
        stop(server)
        tracker.metrics({"late": 1}, step=1)
        tracker.champion({"iteration": 1, "promote": True, "why": "first champion"})
        tracker.end("FINISHED")
        begin = time.monotonic()
        assert not tracker.sync()
        assert time.monotonic() - begin < 30
        server = serve()
        assert tracker.sync()
        found = champion_info(remote, root)
        assert found is not None
        assert (found["folder"] / "weights.txt").read_text() == "weights 1"
        assert found["folder"].is_relative_to(root / "mlflow/downloads")
        assert store.load(found["dev"], Trajectory)[0].reward == pytest.approx(0.6)
        shown = dump(connect(remote, root))
        assert shown["toy"]["metrics"]["late"] == [(1, "1.0")]
        assert shown["logged models"] == ["iteration-1", "sft"]
    finally:
        stop(server)
