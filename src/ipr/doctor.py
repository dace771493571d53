"""What is there, what is missing, and the one line that mends it. Quick: nothing heavy is imported."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ipr import datasets, models
from ipr.project import answers
from ipr.types import IprError

PINNED = {"prefect": "3.8.8", "mlflow": "3.17.2", "dvc": "3.67.1", "torch": "2.13.0"}
BELOW = {"fastapi": (0, 151), "sqlalchemy": (2, 1)}
"""Versions from which Prefect 3.8.8 no longer starts its server, or no longer fires its schedules."""


@dataclass(frozen=True)
class Check:
    name: str
    ok: bool
    detail: str
    fix: str


def checks(root: Path) -> list[Check]:
    return list(_checks(root))


def _checks(root: Path) -> Iterator[Check]:
    yield Check("python", sys.version_info >= (3, 11), sys.version.split()[0], "install Python 3.11 or later")
    for package, wanted in PINNED.items():
        found = _version(package)
        yield Check(package, found.split("+")[0] == wanted, found, f"make setup, or: pip install {package}=={wanted}")
    for package, limit in BELOW.items():
        found = _version(package)
        low = tuple(int(part) for part in found.split(".")[:2] if part.isdigit()) < limit
        bound = ".".join(map(str, limit))
        yield Check(package, low and found != "missing", found, f"make setup, or: pip install '{package}<{bound}'")
    free = shutil.disk_usage(root).free >> 20
    yield Check("disk", free > 2000, f"{free} MiB free", "free 2 GiB, or move the project")
    git = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=False)
    yield Check(
        "git", git.returncode == 0, git.stdout.strip()[:12] or "no repository", "git clone the project, or git init"
    )
    yield Check("dvc", (root / ".dvc").is_dir(), str(root / ".dvc"), "dvc init (or --no-scm outside git)")
    yield _data(root)
    yield _model()
    for name, url in (
        ("mlflow server", os.environ.get("MLFLOW_TRACKING_URI", "")),
        ("prefect server", os.environ.get("PREFECT_API_URL", "")),
    ):
        if url.startswith("http"):
            yield Check(
                name, answers(url), url, f"start it, or unset {name.split()[0].upper()}'s URL for the local default"
            )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"


def _data(root: Path) -> Check:
    if not (root / "data").is_dir():
        return Check("data", False, "no data/", "ipr data pull")
    try:
        problems = datasets.verify(root)
    except IprError as error:
        problems = [str(error)]
    detail = problems[0] if problems else "is what data.dvc names"
    return Check("data", not problems, detail, "ipr data publish (to keep data/) or ipr data pull (to go back)")


def _model() -> Check:
    try:
        models.check_model("embedded")
    except IprError as error:
        return Check("base model", False, str(error), "git checkout src/ipr/base, or: ipr base")
    return Check("base model", True, "embedded", "")
