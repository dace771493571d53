"""What tests of several parts share: packages that add something to ipr, installed for real."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from filelock import FileLock

# As `ipr` sets it: pytest's workers have two threads each, which else spin while the other worker wants the cores. Read
# when torch is imported, so here, before anything of ours is.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("IPR_CHECK_KERNELS", "1")  # see ipr.engine.kernels

from ipr import envs

Install = Callable[..., None]
Lay = Callable[[Path], Path]


@pytest.fixture(autouse=True)
def _mlflow_closed() -> Iterator[None]:
    """MLflow keeps each database of a process open, with some 2 MB, and tests make many. The limit that `sql` sets
    SQLite is one for the whole process."""
    yield
    for kind in ("tracking", "model_registry"):
        if module := sys.modules.get(f"mlflow.store.{kind}.sqlalchemy_store"):
            for engine in module.SqlAlchemyStore._engine_map.values():
                engine.dispose()


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Installs a package in a folder of its own: its name, its entry points, its modules with their code."""

    def write(package: str, points: dict[str, str], group: str = envs.GROUP, **modules: str) -> None:
        folder = tmp_path / "site" / package
        about = folder / f"{package.replace('-', '_')}-1.dist-info"
        about.mkdir(parents=True)
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1\n")
        lines = [f"{name} = {value}" for name, value in points.items()]
        (about / "entry_points.txt").write_text("\n".join([f"[{group}]", *lines]) + "\n")
        for name, code in modules.items():
            (folder / f"{name}.py").write_text(code)
        monkeypatch.syspath_prepend(folder)

    return write


@pytest.fixture(scope="session")
def with_data(tmp_path_factory: pytest.TempPathFactory) -> Lay:
    """Gives a project, a folder, what its first run would make: the published data sets and Prefect's tables. They are
    made once, for all of pytest's workers: it takes as long as a tiny run."""
    from ipr.apps.data_commands import generate_published

    mine = tmp_path_factory.getbasetemp()
    made = (mine.parent if "PYTEST_XDIST_WORKER" in os.environ else mine) / "made"
    with FileLock(made.with_suffix(".lock")):
        if not made.is_dir():
            aside = mine / "aside"
            generate_published(aside / "data")
            kept = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
            tables = [sys.executable, "-m", "prefect", "server", "database", "upgrade", "-y"]
            home = {"PREFECT_HOME": str(aside / ".prefect")}
            subprocess.run(tables, env=kept | home, cwd=aside, capture_output=True, check=True)
            aside.rename(made)

    def lay(project: Path) -> Path:
        return shutil.copytree(made, project, dirs_exist_ok=True)

    return lay
