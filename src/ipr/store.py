"""Typed files: one Parquet schema per noun, written aside and renamed, so that a file that exists is complete.

Decided here: rows are flat and readable by anyone's pandas (messages and steps are lists of structs); the same rows
give the same bytes (pinned pyarrow, no timestamps in the file), so that DVC's hashes are reproducible.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError

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

HALF = re.compile("[\ud800-\udfff]")
"""Half a character: a lone surrogate, or what `read_text` makes of a byte that is no UTF-8. No file can keep one."""

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
    except (OSError, SafetensorError) as error:
        raise _unwritten(path, error) from None
    finally:
        with contextlib.suppress(OSError):  # it is renamed, or could not be made at all
            aside.unlink()
    return path


def _unwritten(path: Path, error: Exception) -> IprError:
    told = getattr(error, "strerror", None) or error
    return IprError(f"cannot write {path}: {told}; free space or choose another folder")


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
    except (OSError, SafetensorError) as error:
        raise _unwritten(path, error) from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return path


def write_text(path: Path, text: str) -> Path:
    return replace(path, lambda p: p.write_text(text))


def write_json(path: Path, value: Any) -> Path:
    return write_text(path, json.dumps(value, indent=1, default=_jsonable) + "\n")


def encoding_of(file: Path) -> str:
    """How a text of other people is encoded: UTF-8, UTF-16 or UTF-32, with or without a mark of the order.

    Raises OSError where it cannot be read, and IprError where it is packed.
    """
    with file.open("rb") as opened:
        start = opened.read(4)
    if start.startswith(b"\x1f\x8b"):
        raise IprError(f"{file} is packed; unpack it and give what is in it: gunzip {file}")
    return json.detect_encoding(start)


def read_text(file: Path) -> str:
    """A text of other people, see `encoding_of`. A byte that is no UTF-8 becomes half a character (see `HALF`), so that
    it spoils the row that holds it and no other."""
    encoding = encoding_of(file)
    return file.read_bytes().decode(encoding, "surrogateescape" if encoding.startswith("utf-8") else "surrogatepass")


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
    """Read rows of one noun. Raises IprError naming the file where it is missing, broken or of another schema, and the
    row where a cell of it is empty."""
    rows = cells(path, kind)
    for k, row in enumerate(rows, 1):
        if lacking := next((name for name, value in row.items() if _empty(value) and name != _WEIGHTS.name), None):
            raise IprError(f"{path}: row {k} has no {lacking}; restore or remake the file")
    return [_noun(kind, row) for row in rows]


def cells(path: Path, kind: type) -> list[dict[str, Any]]:
    """The rows of a noun's file as they stand in it, cells without a value (None) included. Raises IprError naming the
    file where it is missing, broken or of another schema."""
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
        return table.select(schema.names).cast(schema).to_pylist()
    except (pa.ArrowException, ValueError) as error:
        raise IprError(f"{path}: wrong column type ({str(error).splitlines()[0]}); see docs/data.md") from None


def _empty(value: Any) -> bool:
    """Whether a cell, or a field of a step or message in it, has no value."""
    if isinstance(value, list):
        return any(_empty(item) for item in value)
    return value is None or (isinstance(value, dict) and None in value.values())


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
