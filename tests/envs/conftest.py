"""Real games for the tests, where `../shared` is there: extracted once a session."""

from __future__ import annotations

import tarfile
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
