"""What the environments' tests share: real data, where `../shared` is there, and processes of their own."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

ARCHIVE = Path(__file__).parents[2] / "../shared/data/alfworld/alfworld_2.1.1_part.tar.xz"


@pytest.fixture(scope="session")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder json_2.1.1."""
    if not ARCHIVE.is_file():
        pytest.skip("no real ALFWorld games in ../shared")
    folder = tmp_path_factory.mktemp("alfworld")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return next(folder.rglob("json_2.1.1"))


@pytest.fixture(scope="session")
def spider() -> Path:
    """Spider's folder, cut down."""
    folder = (Path(__file__).parents[2] / "../shared/data/spider").resolve()
    if not folder.is_dir():
        pytest.skip("no Spider data in ../shared")
    return folder


@pytest.fixture(scope="session")
def in_two_processes() -> Callable[[str], set[str]]:
    """Runs code in two processes, whose hashes of strings differ; gives the different things that they print."""

    def run(code: str) -> set[str]:
        return {
            subprocess.run(
                [sys.executable, "-c", code],
                env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parents[2] / "src")},
                capture_output=True,
                text=True,
                check=True,
            ).stdout.strip()
            for seed in ("1", "2")
        }

    return run
