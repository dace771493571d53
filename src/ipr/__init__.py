"""Iterative step-level Process Refinement (IPR, arXiv 2406.11176): improve an LLM agent from its own mistakes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ipr.runs.frames import Frames

__version__ = "0.1.0"


def open(folder: str | Path) -> Frames:
    """A run's folder as pandas frames: `.stages .evaluations .trajectories .step_rewards .pairs`.

    `ipr.runs.frames` has their columns, docs/concepts.md recipes. Raises IprError where `folder` holds no run.
    """
    from ipr.runs.frames import Frames

    return Frames(folder)
