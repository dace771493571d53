"""The whole job for real, tiny: the command, Prefect, MLflow, DVC; killed with SIGKILL and continued."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from flows.cli import main
from ipr import store, tracking
from ipr.runs.telling import slug
from ipr.types import PreferencePair, StepReward, Trajectory
from tests.conftest import Lay
from tests.flows.tiny import command, counts_hold, ended, environment, played
from tests.living import alive

pytestmark = pytest.mark.integration

ODD = "Löwe lr=1e-4, 50% {x} $y_ " + 150 * "n"
"""Of a run's folder: a space, an umlaut, what formats and URIs take for their own, and long."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, with_data: Lay) -> Path:
    """A project of its own, so that the checkout's data sets and tracking stay as they are."""
    importlib.import_module("tasks.report")  # Prefect sets up logging at import, which would undo a test's caplog
    folder = tmp_path_factory.mktemp("project")
    (folder / "runs").mkdir()
    return with_data(folder)


@pytest.fixture(scope="module")
def whole(root: Path) -> dict:
    return played(root, command(root, "whole"))


def weights(run: Path) -> dict[str, str]:
    files = sorted(run.glob("*/model/model.safetensors"))
    return {str(f.relative_to(run)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def tables(run: Path) -> dict[str, bytes]:
    return {str(f.relative_to(run)): f.read_bytes() for f in sorted(run.glob("**/*.parquet"))}


def test_the_loop_makes_what_it_promises(root: Path, whole: dict) -> None:
    run = root / "runs" / "whole"
    assert [s["name"] for s in whole["stages"]] == ["base", "sft", "iteration-1", "iteration-2"]
    assert whole["status"] == "complete"
    for k in (1, 2):
        stage = run / f"iteration-{k}"
        explored = store.load(stage / "explored.parquet", Trajectory)
        assert len(explored) == sum(len(e.steps) for e in store.load(run / "experts.parquet", Trajectory))
        store.load(stage / "step_rewards.parquet", StepReward)
        store.load(stage / "pairs.parquet", PreferencePair)
        assert (stage / "model" / "model.safetensors").is_file()
        scored = store.read_json(stage / "reward.json")
        assert sum(scored["endings"].values()) == scored["rollouts"]["played"]
    counts_hold(run, 1)
    for name in ("config.yaml", "manifest.json", "summary.json", "report.html", "metrics.json", "plots/learning.png"):
        assert (run / name).is_file()
    verdict = whole["champion"]["verdict"]
    assert re.match(r"Champion: (sft|iteration-\d) is promoted: first champion, dev reward", verdict)
    assert verdict in (run / "report.html").read_text()
    assert "http" not in (run / "report.html").read_text().replace("http://www.w3.org", "").split("<svg")[0]


def test_the_server_of_a_killed_run_is_ended_and_no_other() -> None:
    from ipr.apps.start import end_orphans
    from ipr.runs.project import STARTED_BY

    start = (
        "import os, subprocess\n"
        f"env = {{'PREFECT__SERVER_EPHEMERAL': '1', '{STARTED_BY}': str(os.getpid())}}\n"
        "null = subprocess.DEVNULL\n"
        "server = subprocess.Popen(['sleep', '60'], env=env, stdout=null, stderr=null)\n"
    )
    run = subprocess.run([sys.executable, "-c", start + "print(server.pid)"], capture_output=True, check=True)
    orphan = psutil.Process(int(run.stdout))
    assert alive(orphan)
    ours = subprocess.Popen(["sleep", "60"], env={"PREFECT__SERVER_EPHEMERAL": "1", STARTED_BY: str(os.getpid())})
    end_orphans()
    for _ in range(50):
        if not alive(orphan):
            break
        time.sleep(0.1)
    else:
        pytest.fail("the orphan lives")
    assert ours.poll() is None
    ours.kill()
    ours.wait()


def test_a_champion_measured_on_other_dev_games_plays_the_runs(root: Path, whole: dict, tmp_path: Path) -> None:
    from ipr.runs.run import Run
    from tasks.champion import theirs_on

    run = Run(shutil.copytree(root / "runs" / "whole", tmp_path / "run"))
    mine = store.load(run.stage(0) / "eval" / "dev.parquet", Trajectory)

    def theirs(logged: list[Trajectory], **tags: str) -> list[Trajectory]:
        file = store.save(tmp_path / "dev.parquet", logged)
        present = {"version": "1", "folder": run.model(0), "dev": file, "tags": tags}
        return theirs_on(run, 2, present, mine)

    assert [t.steps for t in theirs(mine[:1])] == [t.steps for t in mine]
    logged = [replace(t, reward=0.5) for t in mine]
    assert theirs(logged, **{"ipr.episodes": run.manifest["episodes"]}) == logged
    again = theirs(logged, **{"ipr.episodes": "with another step limit"})
    assert [t.reward for t in again] == [t.reward for t in mine], "is played again"
    foreign = [Trajectory("of another environment", "", (), 1.0, "terminated")]
    assert theirs(foreign) == foreign


def test_a_promotion_that_waited_for_mlflow_is_told_when_it_comes(
    root: Path, whole: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows import launch
    from ipr.runs.report import verdict
    from ipr.runs.run import Run
    from tasks.champion import decided, settle

    monkeypatch.setenv("IPR_ROOT", str(root))
    folder = shutil.copytree(root / "runs" / "whole", tmp_path / "runs" / "waiting")
    alert = f"alerts: {{command: 'tee {tmp_path}/told.json', events: [promoted]}}\n"
    config = re.sub(r"(?ms)^alerts:.*?(?=^\S)", "", (folder / "config.yaml").read_text() + "\n")
    (folder / "config.yaml").write_text(config + alert)
    (stage,) = folder.glob("*/champion.json")
    store.write_json(stage, store.read_json(stage) | {"promote": False, "outcome": "waits", "why": "better"})

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert not launch.deliver(Run(folder))
    assert store.read_json(stage)["outcome"] == "waits"
    copy = tmp_path / "mlflow.db"  # what this run tells is for no other test
    with closing(sqlite3.connect(root / "mlflow/mlflow.db")) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{copy}")
    launch._deliver_others(tmp_path / "runs" / "next")
    assert (store.read_json(stage)["outcome"], store.read_json(stage)["why"]) == ("promoted", "better")
    assert store.read_json(folder / "summary.json")["champion"]["verdict"].endswith("is promoted: better.")
    told = json.loads((tmp_path / "told.json").read_text())
    assert (told["event"], told["run"]) == ("promoted", "waiting")

    # Down when it was to be asked who is champion: decided when it answers.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    decision = decided(Run(folder), 2)
    assert decision["outcome"] == "waits"
    assert "is not compared with it yet" in verdict(decision)
    store.write_json(stage, decision)
    assert settle(Run(folder)) is None
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{copy}")
    events = folder / "events.jsonl"
    told_before = events.read_text()
    assert '"promote": true' in told_before
    events.write_text(told_before.replace('"promote": true', '"promote": false'))  # else it is champion already
    launch._deliver_others(tmp_path / "runs" / "next")
    assert store.read_json(stage)["outcome"] == "kept"
    assert store.read_json(stage)["comparison"]["games"] == 3


def test_a_run_killed_after_the_alias_moved_says_that_it_was_promoted(
    root: Path, whole: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ipr.runs.run import Run
    from tasks.champion import decided

    monkeypatch.setenv("IPR_ROOT", str(root))
    (record,) = (root / "runs" / "whole").glob("*/champion.json")
    kept = store.read_json(record)
    assert kept["outcome"] == "promoted"
    again = decided(Run(shutil.copytree(root / "runs" / "whole", tmp_path / "whole")), 2)
    assert again == {key: value for key, value in kept.items() if key not in ("profile", "seconds")}


def test_mlflow_and_dvc_have_it(root: Path, whole: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    from ipr.config import TrackConfig
    from ipr.data import datasets

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root}/mlflow/mlflow.db")
    found = tracking.lineage("champion", TrackConfig(), root)
    assert found["data"]
    assert datasets.verify(root) == []
    assert (root / "data" / "alfworld" / "whole" / "iteration-2" / "explored.parquet").is_file()
    assert tracking.Tracker(root / "runs" / "whole", TrackConfig(), root).sync()

    import mlflow

    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("ipr")
    assert experiment is not None
    parents = [r for r in client.search_runs([experiment.experiment_id]) if r.info.run_name == "whole"]
    best = next(s for s in whole["stages"] if s["name"] == whole["reported"])
    assert parents[0].data.metrics["reported/test/success"] == best["test"]["success"]
    assert "| iteration-2 |" in parents[0].data.tags["mlflow.note.content"].replace("*", "")
    verdict = whole["champion"]["verdict"]
    assert parents[0].data.tags["champion.verdict"] == verdict
    assert verdict in parents[0].data.tags["mlflow.note.content"]
    page = tracking.champion_page(TrackConfig(), root)
    assert page["run"] == "whole"
    assert "first champion" in page["history"][0]["why"]
    assert page["history"][0]["by"] == "run whole"
    inputs = parents[0].inputs
    assert inputs is not None
    assert {d.dataset.name for d in inputs.dataset_inputs} == {"experts", "data"}


def workers_of(pid: int) -> list[list[bytes]]:
    """The environment of the processes that a process has started by multiprocessing, as Dask's workers are."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int((process / "stat").read_bytes().rpartition(b")")[2].split()[1])
            if parent == pid and b"spawn_main" in (process / "cmdline").read_bytes():
                found.append((process / "environ").read_bytes().split(b"\0"))
    return found


def test_killed_and_continued_ends_with_the_same(root: Path, whole: dict) -> None:
    """SIGKILL twice: once while step rewards are played, once in training (or right after it). Two workers play, until
    all is explored."""
    run = root / "runs" / ODD
    killed = [*command(root, ODD), "rollout.workers=2", "--profile"]
    for kills, sign in enumerate(("iteration-1/shards/*", "iteration-2/reference.json")):
        process = subprocess.Popen(
            killed,
            env=environment(root),
            cwd=root,
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        limit = time.monotonic() + 300
        while not list(run.glob(sign)) and process.poll() is None and time.monotonic() < limit:
            time.sleep(0.05)
        if not kills:
            settings = workers_of(process.pid)
            assert len(settings) == 2
            assert all(b"OMP_WAIT_POLICY=PASSIVE" in lines for lines in settings)
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = ended(root, [*command(root, ODD), "--profile"])
    assert tables(run) == tables(root / "runs" / "whole")
    assert weights(run) == weights(root / "runs" / "whole")
    # Who plays decides nothing; a run that is complete says where its time went, too.
    profile = {(row["stage"], row["task"]): row for row in store.read_json(run / "profile.json")}
    assert profile["iteration-2", "explore"]["workers"] > 0
    assert profile["iteration-2", "train"]["training"] > 0
    assert "Where the time went" in (run / "report.html").read_text()
    events = (run / "events.jsonl").read_text()
    assert "profile/explore/model" in events
    assert "rollouts/saved" in events
    # A folder may have any name: nothing that tells of the run failed for it.
    assert "the run goes on" not in done.stderr
    assert (root / "data" / "alfworld" / ODD / "iteration-2" / "pairs.parquet").is_file()
    assert store.read_json(run / "mlflow.json").popitem()[1]["sent"] == len(events.splitlines())
    with sqlite3.connect(root / ".prefect" / "prefect.db") as database:
        keys = {key for (key,) in database.execute("select key from artifact where type = 'markdown'")}
    assert {slug(f"{ODD}-{stage}") for stage in ("sft", "iteration-1", "iteration-2")} <= keys


def _fail(*_: Any, **__: Any) -> Any:
    raise RuntimeError("it is broken")


@pytest.mark.parametrize(
    ("broken", "task", "still"),
    [
        ("tasks.report.create_markdown_artifact", "report", ("summary.json", "report.html", "events.jsonl")),
        ("tasks.report.write_html", "report", ("summary.json", "metrics.json", "events.jsonl")),
        ("tasks.report.links", "report", ("summary.json", "report.html", "metrics.json", "events.jsonl")),
        ("tasks.report._for_dvc", "report", ("summary.json", "report.html", "events.jsonl")),
        ("tasks.report.Tracker", "report", ("summary.json", "report.html", "metrics.json")),
        ("tasks.report.summarise", "report", ()),
        ("tasks.report.datasets.md5_of", "report", ("summary.json", "report.html", "metrics.json")),
        ("tasks.publish.datasets.publish", "publish", ()),
        ("tasks.champion.champion_info", "champion", ()),
        ("tasks.champion.Tracker", "champion", ()),
    ],
)
def test_what_only_tells_of_a_run_never_stops_it(
    root: Path,
    whole: dict,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    broken: str,
    task: str,
    still: tuple[str, ...],
) -> None:
    run = shutil.copytree(root / "runs" / "whole", tmp_path / "run", ignore=shutil.ignore_patterns("model"))
    for name in ("summary.json", "report.html", "metrics.json", "events.jsonl", "iteration-2/champion.json"):
        (run / name).unlink()
    (run / "iteration-2" / "model").mkdir()
    monkeypatch.setenv("IPR_ROOT", str(root))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/none.db")
    monkeypatch.setattr(tracking, "sync", lambda *_: True)
    for name in ("create_markdown_artifact", "create_link_artifact"):
        monkeypatch.setattr(f"tasks.report.{name}", lambda *_, **__: None)
    function = getattr(importlib.import_module(f"tasks.{task}"), task).fn
    monkeypatch.setattr(broken, _fail)
    function(str(run), 2)
    assert "it is broken); the run goes on" in caplog.text
    assert [name for name in still if not (run / name).is_file()] == []


def test_two_processes_train_the_model_of_one(root: Path, whole: dict, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    run = root / "runs" / "two"
    shutil.copytree(root / "runs" / "whole", run)
    for name in ("train.json", "reference.json"):
        (run / "iteration-2" / name).unlink()
    shutil.rmtree(run / "iteration-2" / "model")
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--use_fsdp", "--fsdp_version", "2"]
    launch += ["--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    launch += ["--main_process_port", "0", "--log_dir", str(tmp_path), "--tee", "3", "-m", "flows.cli"]
    subprocess.run(
        [*launch, "train", "--dir", str(run), "--iteration", "2"],
        env=environment(root),
        cwd=root,
        capture_output=True,
        timeout=300,
        check=True,
    )
    assert len([*tmp_path.rglob("stdout.log")]) == 2
    one, two = (load_file(r / "iteration-2" / "model" / "model.safetensors") for r in (root / "runs" / "whole", run))
    assert all((one[name] - two[name]).abs().max() < 1e-4 for name in one)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "quik"], "did you mean 'quick'"),
        (["run", "smoke", "train.bta=1"], "did you mean 'train.beta'"),
        (["run", "smoke", "model.path=nowhere/at/all"], "model"),
        (["run", "smoke", "env.data=nowhere"], "nowhere"),
        (["run", "smoke", "model.max_length=64"], "model.max_length"),
        (["compare", "a", "b"], "neither a Parquet file"),
    ],
)
def test_bad_input_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    said: str,
) -> None:
    monkeypatch.setenv("IPR_ROOT", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("ipr: ")
    assert re.search(said, line)
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["explore", "--dir", "nowhere"], "no run folder"),
        (["deploy", "quick", "--cron", "* * * * *"], "needs? a Prefect server"),
    ],
)
def test_a_command_ends_with_its_error_and_no_traceback(root: Path, arguments: list[str], said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", *arguments],
        env=environment(root),
        cwd=root,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith("ipr: ")
    assert re.search(said, line)
    assert "Traceback" not in done.stderr
