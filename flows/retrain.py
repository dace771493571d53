"""Scheduled retraining: continue from the champion model on the newest data."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from prefect import flow, serve
from prefect.client.schemas.objects import ConcurrencyLimitConfig, State
from prefect.client.schemas.schedules import CronSchedule
from prefect.runtime import flow_run
from prefect.states import Completed

from flows import automations, clock, launch
from flows.refine import evaluate_stages
from ipr.config import RunConfig, load
from ipr.data import datasets
from ipr.runs import alerts
from ipr.runs.project import project_root
from ipr.tracking import champion_info
from ipr.types import IprError

PRESETS = Path(__file__).parent / "configs"


@flow(name="retrain", flow_run_name=clock.name)
def retrain(preset: str, overrides: list[str], runs: str) -> State[dict[str, Any]]:
    """One scheduled run: an unfinished earlier one is continued, else a new one starts from the champion.

    Without a champion the run starts from the preset's base model; its best agent then becomes the first champion.
    The champion has been through SFT, so it is the new run's SFT agent (reference and scorer) as it is.
    """
    root = project_root()
    config = load(preset, overrides, PRESETS)
    clock.on_time(config, root / runs)
    try:
        folder, config = _next(preset, overrides, root / runs, config)
        summary = launch.run(folder, config, preset)
    except Exception as error:  # of a run that has begun it is told already
        book = root / runs / alerts.BOOK
        if not getattr(error, launch.TOLD, False):
            alerts.tell(config.alerts, "failed", str(flow_run.name), " ".join(str(error).split())[:1000], book)
        raise
    decision = summary["champion"]
    told = {"folder": str(folder), "reported": summary["reported"]}
    return Completed(message=decision["verdict"] if decision else f"{folder.name} is complete", data=told)


def _next(preset: str, overrides: list[str], runs: Path, config: RunConfig) -> tuple[Path, RunConfig]:
    """The folder and config of the run that is to be played: an unfinished one, or a new one."""
    root = project_root()
    datasets.pull_newest(root)
    if (folder := _unfinished(runs, preset)) is not None:
        return folder, load(folder / "config.yaml")
    if champion_info(config.track, root) is not None:
        config = load(preset, ["model.path=champion", "sft.epochs=0", *overrides], PRESETS)
    return runs / f"{preset}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}", config


def deploy(preset: str, overrides: list[str], cron: str, name: str, runs: Path, config: RunConfig) -> None:
    """Serve scheduled retraining until stopped, with a Prefect server. Raises IprError where `cron` is no schedule."""
    try:
        CronSchedule(cron=cron)
    except ValueError:
        raise IprError(
            f"--cron '{cron}' is no schedule; five fields, e.g. '0 3 * * *' (every night at three)"
        ) from None
    parameters = {"preset": preset, "overrides": overrides, "runs": str(runs.resolve())}
    os.environ.setdefault("PREFECT_FLOWS_HEARTBEAT_FREQUENCY", str(automations.HEARTBEAT))
    automations.make(config.alerts)
    one = ConcurrencyLimitConfig(limit=1)  # the next one waits, and takes the missed ones along
    deployments: list[Any] = [
        retrain.to_deployment(
            name=name, cron=cron, tags=["ipr", "retrain"], parameters=parameters, concurrency_limit=one
        ),
        evaluate_stages.to_deployment(name=name, tags=["ipr", "evaluate"]),
    ]
    serve(*deployments, limit=1)


def _unfinished(runs: Path, preset: str) -> Path | None:
    """The newest run of this schedule that was killed before it was complete."""
    for folder in reversed(_folders(runs, preset)):
        manifest = folder / "manifest.json"
        if manifest.is_file() and not json.loads(manifest.read_text()).get("complete"):
            return folder
    return None


def _folders(runs: Path, preset: str) -> list[Path]:
    """The runs of this schedule, oldest first."""
    return sorted(runs.glob(f"{preset}-*"))
