"""Talking with MLflow: which one, a client of it, and what its errors mean.

It is imported inside functions, as that takes seconds.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from ipr import store
from ipr.config import TrackConfig, public
from ipr.runs.project import answers, default_tracking_uri, defaults
from ipr.types import IprError


class Refused(Exception):
    """What MLflow will never take; other events go on."""


def tracking_uri(config: TrackConfig, root: Path) -> str:
    """Of the config, else of the environment, else of the project.

    User and password of an http address go to the variables that MLflow's client reads them from: in the address they
    would be shown and written, and reach no server.
    """
    uri = config.uri or os.environ.get("MLFLOW_TRACKING_URI") or default_tracking_uri(root)
    parts = urlsplit(uri)
    if not uri.startswith("http") or parts.username is None:
        return uri
    os.environ.setdefault("MLFLOW_TRACKING_USERNAME", unquote(parts.username))
    os.environ.setdefault("MLFLOW_TRACKING_PASSWORD", unquote(parts.password or ""))
    os.environ["MLFLOW_TRACKING_URI"] = public(uri)
    return public(uri)


def connect(config: TrackConfig, root: Path) -> Any:
    """An `MlflowClient`. Raises IprError where its server does not answer."""
    uri = tracking_uri(config, root)
    if uri.startswith("http") and not answers(uri.rstrip("/") + "/health"):
        raise IprError(f"no answer from the MLflow server {public(uri)}; start it, or change track.uri")
    defaults(root)
    from mlflow import MlflowClient, set_tracking_uri

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # it logs whole tracebacks; our own line says what matters
    if uri.startswith("sqlite:///"):
        _made(Path(uri.removeprefix("sqlite:///")))
    set_tracking_uri(uri)  # MLflow's registry and artifact code ask the global one
    return MlflowClient(uri)


def _made(file: Path) -> None:
    """An SQLite database of MLflow's, made aside: where a kill ends MLflow amid its tables, it can never open it again.

    Relies on `mlflow.store.db.utils` (3.x), which MLflow's own stores begin with.
    """
    if file.exists():
        return
    from filelock import FileLock

    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(file.with_name(f".{file.name}.lock")):
        if not file.exists():  # another process may have made it meanwhile
            store.replace(file, _tables)


def _tables(file: Path) -> None:
    from mlflow.store.db import utils

    engine = utils.create_sqlalchemy_engine_with_retry(f"sqlite:///{file}")
    try:
        utils._initialize_tables(engine)
    finally:
        engine.dispose()


@contextlib.contextmanager
def asking(config: TrackConfig, root: Path) -> Iterator[Any]:
    """A client; what goes wrong while asking is one IprError."""
    try:
        yield connect(config, root)
    except IprError:
        raise
    except Exception as error:  # whatever MLflow, its database, its server or the network raise
        raise IprError(f"MLflow {public(tracking_uri(config, root))}: {first_words(error)}") from error


def missing(error: Any) -> bool:
    """MLflow's "there is no such run, version or alias"; for an alias it is called an invalid parameter."""
    return error.error_code in ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND", "INVALID_PARAMETER_VALUE")


def final(error: BaseException) -> bool:
    """Refused for what it says, so that sending it again is no use."""
    code = getattr(error, "error_code", None)
    return isinstance(error, Refused) or code in ("INVALID_PARAMETER_VALUE", "BAD_REQUEST")


def first_words(error: BaseException) -> str:
    """What an error says, in a line."""
    return " ".join((str(error) or type(error).__name__).split())[:300]


def cut(tags: dict[str, str]) -> dict[str, str]:
    """Tags no longer than MLflow takes."""
    return {k[:250]: v[:5000] for k, v in tags.items()}
