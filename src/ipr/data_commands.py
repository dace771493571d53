"""`ipr data ...`: the published data sets, from the command line."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

from ipr import datasets, envs, store
from ipr.config import TrackConfig
from ipr.project import defaults, project_root
from ipr.types import IprError, Trajectory

EXPERTS = {"alfworld": 1000}
"""Expert trajectories in the published data set of each environment's generated world."""


def generate_published(data: Path) -> None:
    """Make what the committed data.dvc names: the experts of every environment in EXPERTS, whatever is run."""
    for env in EXPERTS:
        generate_experts(data, env)


def generate_experts(data: Path, env: str, count: int | None = None) -> Path:
    """Write `<data>/<env>/experts.parquet`; the same bytes on every machine. `count` is EXPERTS, else all of train."""
    spec = envs.get(env)
    ids = spec.task_ids("train")[: count or EXPERTS.get(env)]
    return store.save(data / env / "experts.parquet", [spec.expert(task_id) for task_id in ids], Trajectory)


def generate(options: Namespace) -> dict[str, Any]:
    path = generate_experts(project_root() / "data", options.env, options.count)
    return {"file": str(path), "md5": datasets.md5_of(path)}


def publish(options: Namespace) -> dict[str, Any]:
    defaults(project_root())
    published = datasets.publish(project_root(), {})
    return {"md5": published.md5, "pushed": published.pushed}


def pull(options: Namespace) -> dict[str, Any]:
    """`data/` as data.dvc names it: from DVC's cache or remote, else generated."""
    root = project_root()
    defaults(root)
    try:
        datasets.pull(root)
    except IprError:
        datasets.ensure(root, generate_published)
    return {"data": str(root / "data"), "md5": datasets.hashes(root)[0]}


def verify(options: Namespace) -> dict[str, Any]:
    problems = datasets.verify(project_root())
    if problems:
        raise IprError(
            f"data/ is not what data.dvc names: {'; '.join(problems[:3])}; ipr data pull, or ipr data publish"
        )
    return {"data": "is what data.dvc names"}


def games(options: Namespace) -> dict[str, Any]:
    from ipr.envs.alfworld import games as alfworld

    if options.env != "alfworld":
        raise IprError(f"only alfworld's games can be written as files, not {options.env}'s")
    ids = alfworld.task_ids(options.split)[: options.count]
    for task_id in ids:
        alfworld.export(alfworld.generate(task_id), options.out, options.split)
    return {"games": len(ids), "folder": str(options.out)}


def lineage(options: Namespace) -> dict[str, Any]:
    from ipr import tracking

    defaults(project_root())
    return tracking.lineage(options.ref, TrackConfig(), project_root())


def restore(options: Namespace) -> dict[str, Any]:
    from ipr import tracking

    defaults(project_root())
    return tracking.restore_data(options.ref, options.out, TrackConfig(), project_root())
