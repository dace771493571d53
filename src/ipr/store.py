"""Typed files: one Parquet schema per noun, written aside and renamed, so that a file that exists is complete.

Decided here: rows are flat and readable by anyone's pandas (messages and steps are lists of structs); the same rows
give the same bytes (pinned pyarrow, no timestamps in the file), so that DVC's hashes are reproducible.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ipr.profiling import timed
from ipr.types import Demonstration, IprError, Message, PreferencePair, Prefix, Step, StepReward, Trajectory

_STEPS = pa.list_(pa.struct([("action", pa.string()), ("observation", pa.string())]))
_MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))

SCHEMAS: dict[type, pa.Schema] = {
    Trajectory: pa.schema(
        [
            ("task_id", pa.string()),
            ("first_observation", pa.string()),
            ("steps", _STEPS),
            ("reward", pa.float64()),
            ("ending", pa.string()),
            ("policy", pa.string()),
            ("seed", pa.int64()),
            ("start", pa.int32()),
            ("invalid", pa.int32()),
        ]
    ),
    StepReward: pa.schema(
        [
            ("task_id", pa.string()),
            ("steps", _STEPS),
            ("mean", pa.float64()),
            ("n", pa.int32()),
            ("samples", pa.list_(pa.float64())),
            ("planned", pa.int32()),
            ("source", pa.string()),
        ]
    ),
    PreferencePair: pa.schema(
        [
            ("task_id", pa.string()),
            ("t", pa.int32()),
            ("level", pa.string()),
            ("prompt", _MESSAGES),
            ("chosen", _MESSAGES),
            ("rejected", _MESSAGES),
            ("margin", pa.float64()),
            ("winner", pa.string()),
        ]
    ),
    Demonstration: pa.schema([("task_id", pa.string()), ("messages", _MESSAGES), ("source", pa.string())]),
}
"""Columns of each noun's table; docs/data.md explains them."""

_WEIGHTS = pa.field("weights", pa.list_(pa.float64()))
"""A column of demonstrations that have them; others are written without it."""

T = TypeVar("T")


def replace(path: Path, write: Callable[[Path], Any]) -> Path:
    """Make `path` with `write(temporary)`, renamed into place when complete. Raises IprError, e.g. on a full disk."""
    path = Path(path)
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(aside)
        with open(aside, "rb") as file:
            os.fsync(file.fileno())
        os.replace(aside, path)
    except OSError as error:
        raise IprError(f"cannot write {path}: {error.strerror or error}; free space or choose another folder") from None
    finally:
        with contextlib.suppress(OSError):  # it is renamed, or could not be made at all
            aside.unlink()
    return path


@timed("io")
def replace_folder(path: Path, write: Callable[[Path], Any]) -> Path:
    """Make the folder `path` with `write(temporary folder)`, renamed into place when complete; an old one goes."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        aside.mkdir(parents=True)
        write(aside)
        shutil.rmtree(path, ignore_errors=True)
        os.replace(aside, path)
    except OSError as error:
        raise IprError(f"cannot write {path}: {error.strerror or error}; free space or choose another folder") from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return path


def write_text(path: Path, text: str) -> Path:
    return replace(path, lambda p: p.write_text(text))


def write_json(path: Path, value: Any) -> Path:
    return write_text(path, json.dumps(value, indent=1, default=_jsonable) + "\n")


def read_json(path: Path) -> Any:
    try:
        return json.loads(Path(path).read_text())
    except FileNotFoundError:
        raise IprError(f"no file {path}") from None
    except (OSError, ValueError) as error:
        raise IprError(f"{path}: {error}; delete it or restore it") from None


@timed("io")
def save(path: Path, rows: Iterable[Any], kind: type | None = None) -> Path:
    """Write rows of one noun as Parquet. `kind` is needed only where there may be no rows."""
    rows = list(rows)
    kind = kind or type(rows[0])
    schema = SCHEMAS[kind]
    if kind is Demonstration and any(row.weights for row in rows):
        schema = schema.append(_WEIGHTS)
    table = pa.Table.from_pylist([_row(r) for r in rows], schema=schema)
    return replace(path, lambda p: pq.write_table(table, p, compression="zstd"))


@timed("io")
def load(path: Path, kind: type[T]) -> list[T]:
    """Read rows of one noun. Raises IprError naming the file where it is missing, broken or of another schema."""
    try:
        table = pq.read_table(path)
    except FileNotFoundError:
        raise IprError(f"no file {path}") from None
    except (OSError, pa.ArrowException) as error:
        raise IprError(
            f"{path}: not a readable Parquet file ({str(error).splitlines()[0]}); restore or remake it"
        ) from None
    missing = [name for name in SCHEMAS[kind].names if name not in table.column_names]
    if missing:
        raise IprError(f"{path}: no column '{missing[0]}', so it holds no {kind.__name__} table (see docs/data.md)")
    schema = SCHEMAS[kind]
    if kind is Demonstration and _WEIGHTS.name in table.column_names:
        schema = schema.append(_WEIGHTS)
    try:
        table = table.select(schema.names).cast(schema)
    except (pa.ArrowException, ValueError) as error:
        raise IprError(f"{path}: wrong column type ({str(error).splitlines()[0]}); see docs/data.md") from None
    return [_noun(kind, row) for row in table.to_pylist()]


def _row(noun: Any) -> dict[str, Any]:
    row = asdict(noun)
    if isinstance(noun, StepReward):
        row |= row.pop("prefix")
    return row


def _noun(kind: type[T], row: dict[str, Any]) -> T:
    if "steps" in row:
        row["steps"] = tuple(Step(**s) for s in row["steps"])
    for name in ("messages", "prompt", "chosen", "rejected"):
        if name in row:
            row[name] = tuple(Message(**m) for m in row[name])
    if kind is Demonstration:
        row["weights"] = tuple(row.get("weights") or ())
    if kind is StepReward:
        row["prefix"] = Prefix(row.pop("task_id"), row.pop("steps"))
        row["samples"] = tuple(row["samples"])
    return kind(**{f.name: row[f.name] for f in fields(kind) if f.name in row})  # type: ignore[arg-type]


def _jsonable(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"not JSON: {type(value).__name__}")


def rows_of(paths: Sequence[Path], kind: type[T]) -> list[T]:
    """The rows of several files, in order."""
    return [row for path in paths for row in load(path, kind)]
