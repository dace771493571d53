"""Files that the authors of IPR published beside a data set, to be its splits."""

from __future__ import annotations

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
