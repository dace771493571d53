"""Environments of installed packages: found by their entry points, for real; broken ones; the example, whole."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from flows.cli import main
from ipr import envs
from ipr.types import IprError
from tests.conftest import Install

EXAMPLE = Path(__file__).parents[2] / "docs" / "example-environment"
ROOT = Path(__file__).parents[2]


def test_a_package_adds_an_environment_that_is_imported_when_it_is_asked_for(install: Install) -> None:
    install("plug-guess", {"guess": "plug_guess"}, plug_guess="from ipr_guess import spec")
    assert envs.names() == ["alfworld", "guess", "sql", "webshop"]
    assert envs.origin("guess") == "plug-guess"
    assert envs.origin("sql") == "built in"
    assert "plug_guess" not in sys.modules
    spec = envs.get("guess", max_steps=9)
    assert (spec.name, spec.max_steps) == ("guess", 9)
    assert envs.check_data("guess", Path()) is None
    assert [m.role for m in envs.get("guess", shots=1).prompt[-2:]] == ["user", "assistant"]
    with pytest.raises(IprError, match="did you mean 'guess'"):
        envs.get("gues")
    with pytest.raises(IprError, match="no real data set"):
        envs.get("guess", data="here")


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import plug_is_not_there", "module plug_{n} cannot be imported: ModuleNotFoundError: No module named"),
        ("def spec(:", "module plug_{n} cannot be imported: SyntaxError"),
        ("raise SystemError('at\\nimport')", "cannot be imported: SystemError: at import"),
        ("x = 1", "module plug_{n} has no spec"),
        ("spec = 3", "module plug_{n} has no spec"),
        ("def spec(): pass", r"of plug_{n} raises TypeError: spec\(\) takes 0 positional arguments"),
        ("def spec(data, max_steps): return 1 / 0", "of plug_{n} raises ZeroDivisionError"),
        ("def spec(data, max_steps): return {}", "of plug_{n} gives dict, no EnvSpec"),
        ("from ipr_guess import spec", "its EnvSpec is named 'guess'"),
    ],
)
def test_a_broken_one_is_one_line_and_not_in_the_way(
    install: Install, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str], code: str, said: str
) -> None:
    n = next(iter(request.node.callspec.indices.values()))  # a module of its own each time
    install("broken-package", {"broken": f"plug_{n}"}, **{f"plug_{n}": code})
    assert "broken" in envs.names()
    with pytest.raises(IprError, match=said.replace("{n}", str(n))) as error:
        envs.get("broken")
    assert str(error.value).startswith("environment 'broken' (package broken-package): ")
    assert "\n" not in str(error.value)
    assert envs.get("alfworld").name == "alfworld"
    assert main(["env", "list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert listed["broken"].startswith("broken: environment 'broken'")
    assert listed["sql"] == "built in"
    assert main(["env", "check", "broken"]) == 2


def test_check_data_is_its_own(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    code = "from ipr_guess import spec\ndef check_data(folder): return {'files': len([*folder.iterdir()])}"
    install("plug-guess", {"guess": "plug_data"}, plug_data=code)
    assert main(["env", "check", "guess", "--data", str(EXAMPLE)]) == 0
    assert json.loads(capsys.readouterr().out)["files"] >= 2
    assert main(["env", "check", "guess", "--data", "nowhere"]) == 2
    assert "(package plug-guess): check_data(nowhere) raises FileNotFoundError" in capsys.readouterr().err


def test_one_name_in_two_packages(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    install("one-package", {"chess": "one", "draughts": "plug_draughts"}, plug_draughts="from ipr_guess import spec")
    install("other-package", {"chess": "other", "alfworld": "other"})
    with pytest.raises(IprError, match="'chess' is in packages other-package and one-package; uninstall one"):
        envs.get("chess")
    assert envs.get("alfworld").version == "generated-2"
    (line,) = envs.refused()
    assert line.startswith("package other-package names an environment 'alfworld', which is built in and stays")
    assert main(["env", "list"]) == 0
    assert line in capsys.readouterr().out


def test_check_fails_with_one_line_for_a_problem(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    """Another process seeds its strings' hashes otherwise."""
    code = "\n".join(
        [
            "from dataclasses import replace",
            "import ipr_guess",
            "def spec(data=None, max_steps=None):",
            "    return replace(ipr_guess.spec(), name='hasty', task_type=lambda i: str(hash(i)))",
        ]
    )
    install("hasty-package", {"hasty": "plug_hasty"}, plug_hasty=code)
    assert main(["env", "check", "hasty", "--games", "2"]) == 1
    (line,) = [row for row in capsys.readouterr().out.splitlines() if row.startswith("problem: ")]
    assert line.startswith("problem: dev/0: another process plays it in another way (2 such)")


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which pip installed the example."""
    folder = tmp_path_factory.mktemp("example")
    shutil.copytree(EXAMPLE, folder / "source")
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            "-q",
            *options,
            "--target",
            str(folder / "site"),
            str(folder / "source"),
        ],
        check=True,
    )
    return folder / "site"


def ipr(example: Path, root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    hidden = ("PREFECT_", "MLFLOW_", "PYTHONPATH")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(hidden)}
    path = os.pathsep.join(map(str, (ROOT / "src", ROOT, example)))
    return subprocess.run(
        [sys.executable, "-m", "flows.cli", *arguments],
        env=kept | {"PYTHONPATH": path, "IPR_ROOT": str(root), "OMP_NUM_THREADS": "1"},
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_example_is_short() -> None:
    code = (EXAMPLE / "ipr_guess.py").read_text()
    assert len([line for line in code.splitlines() if line.strip()]) <= 25


def test_the_example_passes_its_check(example: Path, tmp_path: Path) -> None:
    done = ipr(example, tmp_path, "env", "check", "guess", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["ok"]
    done = ipr(example, tmp_path, "data", "generate", "--env", "guess", "--json")
    files = json.loads(done.stdout.splitlines()[-1])["files"]
    assert [Path(file) for file in files] == [tmp_path / "data" / "guess" / "experts.parquet"]


@pytest.mark.integration
def test_data_is_what_data_dvc_names_whatever_is_played(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No data/ at hand, and an environment that data.dvc does not name: publishing adds to what it names."""
    install("plug-guess", {"guess": "ipr_guess"})
    monkeypatch.setenv("IPR_ROOT", str(tmp_path))
    # As committed: a run in this checkout has published more and changed the file.
    committed = subprocess.run(["git", "show", "HEAD:data.dvc"], cwd=ROOT, capture_output=True, text=True, check=True)
    (tmp_path / "data.dvc").write_text(committed.stdout)
    from ipr import config
    from ipr.apps import data_commands
    from ipr.data import datasets
    from ipr.runs.run import Run
    from tasks import publish

    run = Run.open(tmp_path / "run", config.load(None, ["env.name=guess"]))
    assert publish.ensure_data.fn(str(run.folder)) is None
    assert datasets.verify(tmp_path) == []
    assert set(datasets.hashes(tmp_path)[1]) == {f"{env}/experts.parquet" for env in data_commands.EXPERTS}


@pytest.mark.integration
def test_the_whole_loop_runs_in_the_example(example: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SFT, explore, step rewards, pairs, training, evaluation, publishing; in a project without any data."""
    monkeypatch.syspath_prepend(example)
    monkeypatch.setenv("IPR_ROOT", str(tmp_path))
    from flows import launch
    from ipr import config, store
    from ipr.apps import start
    from ipr.data import datasets
    from ipr.runs.run import Run
    from ipr.types import PreferencePair, StepReward
    from tasks import publish

    overrides = ["env.name=guess", "env.tasks=6", "algorithm.tau=0", "rollout.max_new_tokens=12", "sft.batch_size=2"]
    overrides += ["eval.games=2", "eval.dev_games=2", "model.device=cpu"]
    settings = config.load("smoke", overrides, ROOT / "flows" / "configs")
    start.check(settings)
    run = Run.open(tmp_path / "run", settings)
    for stage, iteration in (("sft", 0), ("explore", 1), ("reward", 1), ("pairs", 1), ("train", 1), ("evaluate", 1)):
        launch.one_task(run.folder, stage, iteration)
        if stage in ("sft", "train"):
            publish.publish.fn(str(run.folder), iteration)
    assert store.load(run.stage(1) / "step_rewards.parquet", StepReward)
    pairs = store.load(run.stage(1) / "pairs.parquet", PreferencePair)
    assert all(pair.prompt[0].content.startswith("Guess my number") for pair in pairs)
    record = run.record(1, "evaluate")
    assert record is not None
    assert record["test"]["games"] == 4
    kinds = {"explored", "step_rewards", "pairs"}
    assert datasets.verify(tmp_path) == []
    assert set(datasets.hashes(tmp_path)[1]) == {
        "guess/run/experts.parquet",
        *(f"guess/run/iteration-1/{kind}.parquet" for kind in kinds),
    }
