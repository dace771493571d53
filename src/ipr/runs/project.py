"""Where the project is, and the environment's defaults: no server, no telemetry, everything inside the project;
and whether this process is one of several.

Decided here: only `os.environ.setdefault`, so a team points to its servers by environment variables alone. Prefect and
MLflow read these when they are imported, so `defaults` comes first. Left out: HF_HUB_OFFLINE, because `model.path` may
be a name on the hub.
"""

from __future__ import annotations

import os
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any


def project_root() -> Path:
    """The folder of `data.dvc`, `data/`, `mlflow/` and `.prefect/`.

    IPR_ROOT, else the nearest folder at or above the working directory with a data.dvc, else the checkout that the
    package is installed from (editable), else the working directory.
    """
    if named := os.environ.get("IPR_ROOT"):
        return Path(named).resolve()
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "data.dvc").is_file():
            return folder
    checkout = Path(__file__).resolve().parents[3]
    return checkout if (checkout / "pyproject.toml").is_file() else here


def code_state(file: Path = Path(__file__)) -> dict[str, Any]:
    """Commit of the checkout that this package's code is of, and whether that was changed; empty where it is of none.

    Not of the working directory, which may be in another repository, nor of one that an environment lies in.
    """

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=file.parent, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", file.name)
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.CalledProcessError):
        return {}


def launched() -> int:
    """How many processes `accelerate launch` (torchrun) has started together, this one among them; else 1.

    Clusters, MPI and old shells set the same variables for a process that is alone. They are forgotten, as accelerate
    would wait for processes that nobody starts.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return int(os.environ["WORLD_SIZE"])
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE"):
        os.environ.pop(name, None)
    return 1


STARTED_BY = "IPR_STARTED_BY"
"""The process id of who started it, in the environment of a temporary Prefect server (`apps.start.end_orphans`)."""


def defaults(root: Path) -> None:
    """Settings for a machine without servers; what the environment already says stays."""
    prefect = root / ".prefect"
    settings = {
        "PREFECT_HOME": str(prefect),
        "PREFECT_RESULTS_LOCAL_STORAGE_PATH": str(prefect / "results"),
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",  # the first start takes 20 to 90 s
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        # A server of our own may find its SQLite locked by itself; it tries again, and a traceback helps nobody.
        "PREFECT_LOGGING_SERVER_LEVEL": "CRITICAL",
        # Its recorder of task runs writes once a second, not at every event: then it met requests that were between
        # reading and writing, and that could freeze the server for a minute (docs/operations.md).
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "100",
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
        "DO_NOT_TRACK": "1",
        "MLFLOW_TRACKING_URI": default_tracking_uri(root),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        # MLflow's own defaults retry for four minutes; what fails here is sent again at the next stage.
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # `ipr --json` ends with one JSON value
        "DVC_NO_ANALYTICS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    for name, value in settings.items():
        os.environ.setdefault(name, value)
    os.environ[STARTED_BY] = str(os.getpid())  # whatever process it was inherited from


def default_tracking_uri(root: Path) -> str:
    return f"sqlite:///{root.resolve()}/mlflow/mlflow.db"


def answers(url: str, timeout: float = 5.0) -> bool:
    """Whether an HTTP server answers at all, whatever it says: clients with retries take minutes to find out."""
    try:
        with urllib.request.urlopen(url, timeout=timeout):
            return True
    except urllib.error.HTTPError:
        return True
    except (OSError, ValueError):
        return False
