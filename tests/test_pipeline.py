"""dvc.yaml as its users know it: what is committed works in a fresh clone, without a network and without a rerun."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ipr import config as configs
from ipr import yaml12
from ipr.data import datasets
from ipr.runs import DECIDED_BY
from ipr.runs.run import Run
from ipr.types import IprError

ROOT = Path(__file__).parents[1]
PIPELINE = yaml12.loads((ROOT / "dvc.yaml").read_text())
OF_COMMAND = {"eval": "evaluate"}


def stages() -> dict[str, dict[str, Any]]:
    return {name: stage.get("do", stage) for name, stage in PIPELINE["stages"].items()}


# What decides a stage -------------------------------------------------------------------------------------------------


def test_a_stage_depends_on_the_params_that_its_task_reads() -> None:
    named = {name: tuple(stage["params"]) for name, stage in stages().items() if "params" in stage}
    assert named == DECIDED_BY
    for name, stage in stages().items():
        command = stage["cmd"].split()[1]
        assert OF_COMMAND.get(command, command) == name


def test_every_key_that_decides_results_decides_a_stage() -> None:
    sections = set(configs.RunConfig.model_fields) - {"track", "data", "endpoint", "alerts", "run", "machine"}
    assert sections <= {part for parts in DECIDED_BY.values() for part in parts}


def test_params_hold_every_part_that_a_stage_names() -> None:
    params = yaml12.loads((ROOT / "params.yaml").read_text())
    config = configs.load(ROOT / "params.yaml")
    assert config.algorithm.iterations == len(PIPELINE["vars"][0]["iterations"])
    assert not config.data.publish
    for part in {part for parts in DECIDED_BY.values() for part in parts}:
        section, _, key = part.partition(".")
        assert key in params[section] if key else section in params


MADE = [f"iteration-{k}/{task}" for k in (1, 2) for task in ("pairs", "train")]


def begun(folder: Path, *overrides: str) -> Run:
    return Run.open(folder, configs.load(ROOT / "params.yaml", overrides), "params", by_stage=True)


@pytest.mark.parametrize(
    ("override", "stay"),
    [
        ("train.beta=0.3", ["base/evaluate", "sft/experts", "sft/train", "sft/evaluate", "iteration-1/pairs"]),
        ("algorithm.tau=0.9", ["base/evaluate", "sft/experts", "sft/train", "sft/evaluate"]),
        ("algorithm.samples=9", ["sft/experts", "sft/train"]),
        ("sft.learning_rate=0.1", ["base/evaluate", "sft/experts"]),
        (
            "eval.games=3",
            ["sft/experts", "sft/train", *(f"iteration-{k}/{t}" for k in (1, 2) for t in ("pairs", "train"))],
        ),
        ("rollout.workers=2", None),
        ("data.remote=other", None),
        ("seed=5", ["sft/experts"]),
        ("env.tasks=7", []),
    ],
)
def test_a_change_undoes_what_it_decides_and_what_follows(
    tmp_path: Path, override: str, stay: list[str] | None
) -> None:
    run = begun(tmp_path)
    done = ["base/evaluate", "sft/experts", "sft/train", "sft/evaluate"]
    done += [f"iteration-{k}/{task}" for k in (1, 2) for task in ("pairs", "train", "evaluate")]
    for name in done:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.json").write_text("{}")
    (run.stage(1) / "shards").mkdir()
    (run.stage(1) / "reference.json").write_text("{}")
    again = begun(tmp_path, override)
    left = [name for name in done if (tmp_path / f"{name}.json").exists()]
    assert left == (done if stay is None else [name for name in done if name in stay])
    assert again.config == configs.load(ROOT / "params.yaml", [override])
    # What had been begun belongs to what was there then.
    assert (run.stage(1) / "shards").exists() == (run.stage(1) / "reference.json").exists() == (stay is None)
    with pytest.raises(IprError, match="holds a run with another config"):
        Run.open(tmp_path, configs.load(ROOT / "params.yaml", ["seed=8"]))


@pytest.mark.parametrize(
    ("override", "stay"),
    [
        ("train.beta=0.3", ["base", "sft"]),  # agents of iterations are others; the scorer is the same
        ("sft.learning_rate=0.1", ["base"]),
        ("rollout.max_new_tokens=9", []),
        ("algorithm.temperature=0.5", []),
    ],
)
def test_what_an_agent_played_beside_the_tasks_goes_with_it(tmp_path: Path, override: str, stay: list[str]) -> None:
    run = begun(tmp_path)
    played = {}
    for k, stage in enumerate(("base", "sft", "iteration-1", "iteration-2"), start=-1):
        names = [f"{stage}/best_of.json", f"{stage}/best_of/4-at-1.parquet", f"quality/{stage}.parquet"]
        played[stage] = [run.folder / name for name in names]
        scored = run.stage(k) / "eval" / "step_rewards.parquet"
        for path in (*played[stage], scored):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    model = run.stage(1) / "reward_model.safetensors"
    model.touch()
    again = begun(tmp_path, override)
    assert [stage for stage, paths in played.items() if any(path.exists() for path in paths)] == stay
    assert all(path.exists() for stage in stay for path in played[stage])
    assert len(list(tmp_path.glob("*/eval/step_rewards.parquet"))) == (4 if "sft" in stay else 0)
    assert model.exists() == ("sft" in stay)
    if "sft" in stay:  # as when DVC makes a stage again because its inputs are others
        again.once(0, "train", dict)
        assert [stage for stage, paths in played.items() if any(path.exists() for path in paths)] == ["base"]
        assert list(tmp_path.glob("*/eval/step_rewards.parquet")) == []


def test_the_run_of_a_preset_is_never_undone(tmp_path: Path) -> None:
    Run.open(tmp_path, configs.load(ROOT / "params.yaml"))
    with pytest.raises(IprError, match="holds a run with another config"):
        begun(tmp_path, "train.beta=0.3")


# What is committed ----------------------------------------------------------------------------------------------------


def test_the_committed_remote_holds_what_data_dvc_names() -> None:
    wanted = datasets.recorded(ROOT)
    assert wanted is not None
    listing = ROOT / ".dvc-remote/files/md5" / wanted[:2] / wanted[2:]
    names = [wanted, *(entry["md5"] for entry in json.loads(listing.read_text()))] if listing.is_file() else [wanted]
    files = {f".dvc-remote/files/md5/{name[:2]}/{name[2:]}" for name in names}
    done = subprocess.run(["git", "ls-files", ".dvc-remote"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("no git checkout")
    committed = set(done.stdout.split())
    assert committed == files, "after `ipr data publish`: git rm --cached the old files, git add -f the new ones"


def test_the_image_holds_all_that_is_committed() -> None:
    """Else git finds files missing in it, and every run there is noted as one of changed code."""
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("no git checkout")
    patterns = [p for p in (ROOT / ".dockerignore").read_text().splitlines() if p and not p.startswith("#")]

    def left_out(path: Path) -> bool:
        """As Docker decides it: by the last pattern that the file or a folder of it matches."""
        names = [place.as_posix() for place in (path, *path.parents)]
        last = next((p for p in reversed(patterns) if fnmatch.filter(names, p.removeprefix("!"))), "!")
        return not last.startswith("!")

    assert [name for name in done.stdout.splitlines() if left_out(Path(name))] == [], "name it in .dockerignore with !"
    assert left_out(Path(".dvc-remote/files/md5/00/other"))


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("clone") / "ipr"
    if subprocess.run(["git", "clone", "-q", str(ROOT), str(folder)], check=False).returncode:
        pytest.skip("no git checkout")
    before = Path.cwd()
    os.chdir(folder)
    yield folder
    os.chdir(before)


def dvc(*arguments: str) -> str:
    """What the command prints; it must end well."""
    done = subprocess.run([sys.executable, "-m", "dvc", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.integration
def test_a_fresh_clone(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"DVC_NO_ANALYTICS": "1", "COLUMNS": "400"}.items():
        monkeypatch.setenv(name, value)
    dvc("pull")
    assert datasets.verify(clone) == []
    assert (clone / "data/alfworld/experts.parquet").is_file()

    def stale() -> list[str]:
        """The stages that would run; those after them may follow."""
        said = dvc("status", "--json")
        changed = {name: json.dumps(what) for name, what in json.loads(said).items()}
        return sorted(name for name, what in changed.items() if re.search(r'"(modified|new|changed command)', what))

    assert stale() == []
    dry = dvc("repro", "--dry", "--allow-missing")
    assert "Running stage" not in dry
    code = clone / "src/ipr/rollout.py"
    code.write_text(code.read_text() + "# a comment\n")
    assert stale() == []

    metrics = json.loads(dvc("metrics", "show", "--json"))
    (shown,) = metrics[""]["data"].values()
    assert {"base", "sft", "iteration-1", "iteration-2"} <= shown["data"].keys()
    page = Path(dvc("plots", "show").strip().removeprefix("file://"))
    text = page.read_text()
    images = re.findall(r'src="([^"]+)"', text)
    assert "http" not in text
    assert images
    assert all((page.parent / image).stat().st_size > 10_000 for image in images)

    params = clone / "params.yaml"
    params.write_text(params.read_text().replace("beta: 0.1", "beta: 0.2"))
    (found,) = json.loads(dvc("params", "diff", "--json"))["params.yaml"].items()
    assert found == ("train.beta", {"old": 0.1, "new": 0.2, "diff": 0.1})
    assert stale() == ["train@iteration-1", "train@iteration-2"]
