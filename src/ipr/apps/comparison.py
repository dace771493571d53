"""`ipr compare`: two models on the same games, or two groups of runs that differ in their seed alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ipr import evaluate, store
from ipr.runs.run import Run, stage_name
from ipr.runs.seeds import REPORTED, Seeds, is_group
from ipr.runs.summary import reported_iteration
from ipr.types import IprError, Trajectory


def compare(a: str, b: str, split: str | None, resamples: int) -> dict[str, Any]:
    """b against a, each a place as `ipr compare --help` says; `split` instead of all test splits.

    Raises IprError where a place is none, one is a group and the other is not, or the games differ.
    """
    first, second = _group(a), _group(b)
    if first and second:
        played = (seeds.played(stage, split) for seeds, stage in (first, second))
        return {"a": a, "b": b} | evaluate.compare_seeds(*played, resamples=resamples)
    if first or second:
        one, other = (a, b) if first else (b, a)
        raise IprError(f"{one} is a folder of runs and {other} is not; compare two of a kind")
    return {"a": a, "b": b} | evaluate.compare(_episodes(a, split), _episodes(b, split), resamples, 0)


def sentence(found: dict[str, Any]) -> str:
    low, high = found["interval"]
    told = f"{found['b']} - {found['a']}: {found['difference']:+.3f} [{low:+.3f}, {high:+.3f}] mean reward on"
    if "seeds" not in found:
        return (
            f"{told} {found['games']} games; wins {found['win']}, ties {found['tie']}, losses {found['lose']};"
            f" p = {found['p']:.3f}"
        )
    first, second = (len(seeds) for seeds in found["seeds"])
    if not found["paired"]:
        return f"{told} {found['games']} games; {first} seeds against {second} others"
    return f"{told} {found['games']} games, {first} seeds in pairs; better with {found['better']} of them"


def _group(place: str) -> tuple[Seeds, str] | None:
    """A folder of runs, or a stage of one (FOLDER/STAGE); else None."""
    path = Path(place)
    if path.is_dir() and is_group(path):
        return Seeds(path), REPORTED
    if not path.exists() and path.parent.is_dir() and is_group(path.parent):
        return Seeds(path.parent), path.name
    return None


def _episodes(place: str, split: str | None) -> list[Trajectory]:
    """Trajectories of a Parquet file, or of a stage's folder in a run (its test splits, or `split`)."""
    path = Path(place)
    if path.is_file():
        return store.load(path, Trajectory)
    if (path / "config.yaml").is_file():
        reported = reported_iteration(Run(path))
        path = path / (stage_name(reported) if reported is not None else "sft")
    files = sorted((path / "eval").glob("*.parquet"))
    wanted = [f for f in files if (f.stem == split if split else f.stem not in ("dev", "step_rewards"))]
    if not wanted:
        raise IprError(
            f"{place} is neither a Parquet file of trajectories, nor an evaluated stage such as runs/quick/sft, nor a"
            " run, nor a folder of runs"
        )
    return store.rows_of(wanted, Trajectory)
