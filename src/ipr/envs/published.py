"""Files that the authors of IPR published beside a data set, to be its splits."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from ipr.types import IprError


def both(files: Iterable[Path]) -> bool:
    """Whether they are there. Raises IprError where only one is: a split of its own would be another one, silently."""
    files = list(files)
    there = [file for file in files if file.is_file()]
    if there and len(there) < len(files):
        lacking = next(file for file in files if file not in there)
        raise IprError(f"{there[0]} is one of a pair, and {lacking.name} lacks; fetch it too, or move the other away")
    return bool(there)


def numbers(file: Path, count: int, what: str, fix: str) -> list[int]:
    """The tasks that an index file names of `count`, in its order, each once. `what` they are and the `fix` are said
    where it names others."""
    try:
        found = list(dict.fromkeys(json.loads(file.read_bytes())))
        if not all(type(k) is int and k >= 0 for k in found):
            raise ValueError("not a list of numbers")
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise IprError(f"{file}: no index file ({error}); fetch it again, or remove it") from None
    if found and max(found) >= count:
        raise IprError(f"{file} names {what} {max(found)} and the data has {count}: {fix}")
    return found
