"""CONTRIBUTING.md, followed to the letter: its blocks become a package, and `smoke` runs with what they add."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from ipr import store
from ipr.types import Demonstration
from tests.conftest import Lay

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text()
TINY = [
    *("env.tasks=4", "sft.batch_size=2", "train.batch_size=2", "eval.games=2", "eval.dev_games=2"),
    *("rollout.max_new_tokens=12", "eval.bootstrap=100", "data.publish=false", "track.enabled=false"),
]


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)


def test_every_file_that_the_page_names_is_there() -> None:
    names = set(re.findall(r"`((?:src|tests|docs)/[\w./-]+)`|\]\(([\w./-]+)\)", PAGE))
    assert len(names) > 5
    assert [name for pair in names for name in pair if name and not (ROOT / name).exists()] == []
    for file, word in (
        ("envs/__init__", "_BUILT_IN"),
        ("algorithms/__init__", "_BUILT_IN"),
        ("training/losses", "LOSSES"),
        ("policies/__init__", "BACKENDS"),
    ):
        assert f"{word} = " in (ROOT / f"src/ipr/{file}.py").read_text()


@pytest.mark.integration
def test_smoke_runs_with_an_environment_a_method_a_loss_and_a_backend_of_the_page(
    tmp_path: Path, with_data: Lay
) -> None:
    with_data(tmp_path)
    site = tmp_path / "site"
    about = site / "toy_package-1.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-package\nVersion: 1\n")
    (points,) = blocks("toml")
    groups = tomllib.loads(points)["project"]["entry-points"]
    lines = [line for group, of in groups.items() for line in (f"[{group}]", *(f"{k} = {v}" for k, v in of.items()))]
    (about / "entry_points.txt").write_text("\n".join(lines) + "\n")
    shutil.copy(ROOT / "docs/example-environment/ipr_guess.py", site)
    for code in blocks("python"):
        (site / code.split("\n", 1)[0].removeprefix("# ")).write_text(code)

    run = tmp_path / "run"
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MLFLOW_", "PYTHONPATH", "IPR_"))}
    path = os.pathsep.join(map(str, (ROOT / "src", ROOT, site)))
    names = ["env.name=guess", "algorithm.name=wins", "rollout.backend=careful"]
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", "run", "smoke", "--dir", str(run), "--json", *names, *TINY],
        env=kept | {"PYTHONPATH": path, "IPR_ROOT": str(tmp_path), "OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    summary = json.loads(done.stdout.splitlines()[-1])
    assert (summary["env"], summary["stages"][-1]["name"]) == ("guess", "iteration-1")
    rows = store.load(run / "iteration-1" / "demonstrations.parquet", Demonstration)
    assert [row.source for row in rows[:4]] == ["expert"] * 4
    trained = json.loads((run / "iteration-1" / "train.json").read_text())
    assert trained["updates"] > 0
    assert 0 < trained["hinge"] == trained["loss"]
