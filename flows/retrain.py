"""Scheduled retraining: continue from the champion model on the newest data."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from prefect import flow, serve
from prefect.client.schemas.schedules import CronSchedule

from flows import launch
from flows.refine import evaluate_stages
from ipr.config import load
from ipr.data import datasets
from ipr.runs.project import project_root
from ipr.tracking import champion_info
from ipr.types import IprError


@flow(name="retrain", flow_run_name="retrain-{preset}")
def retrain(preset: str, overrides: list[str], runs: str) -> dict[str, Any]:
    """One scheduled run: an unfinished earlier one is continued, else a new one starts from the champion.

    Without a champion the run starts from the preset's base model; its best agent then becomes the first champion.
    The champion has been through SFT, so it is the new run's SFT agent (reference and scorer) as it is.
    """
    root = project_root()
    datasets.pull_newest(root)
    presets = Path(__file__).parent / "configs"
    folder = _unfinished(Path(runs), preset)
    if folder is not None:
        config = load(folder / "config.yaml")
    else:
        config = load(preset, overrides, presets)
        if champion_info(config.track, root) is not None:
            config = load(preset, ["model.path=champion", "sft.epochs=0", *overrides], presets)
        folder = Path(runs) / f"{preset}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}"
    summary = launch.run(folder, config, preset)
    return {"folder": str(folder), "reported": summary["reported"]}


def deploy(preset: str, overrides: list[str], cron: str, name: str, runs: Path) -> None:
    """Serve scheduled retraining until stopped, with a Prefect server. Raises IprError where `cron` is no schedule."""
    try:
        CronSchedule(cron=cron)
    except ValueError:
        raise IprError(
            f"--cron '{cron}' is no schedule; five fields, e.g. '0 3 * * *' (every night at three)"
        ) from None
    parameters = {"preset": preset, "overrides": overrides, "runs": str(runs.resolve())}
    deployments: list[Any] = [
        retrain.to_deployment(name=name, cron=cron, tags=["ipr", "retrain"], parameters=parameters),
        evaluate_stages.to_deployment(name=name, tags=["ipr", "evaluate"]),
    ]
    serve(*deployments, limit=1)


def _unfinished(runs: Path, preset: str) -> Path | None:
    """The newest run of this schedule that was killed before it was complete."""
    for folder in sorted(runs.glob(f"{preset}-*"), reverse=True):
        manifest = folder / "manifest.json"
        if manifest.is_file() and not json.loads(manifest.read_text()).get("complete"):
            return folder
    return None
