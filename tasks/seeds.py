"""Several seeds as one experiment: their parent in MLflow, and their table and plot when all have been played."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ipr import store
from ipr.config import flat
from ipr.runs import seeds
from ipr.runs.project import project_root
from ipr.runs.run import Run
from ipr.tracking import Tracker, links

TABLE = "seeds_table.json"


def begin(folder: Path, run: Run, tracker: Tracker) -> None:
    """The run of a seed has its folder: it is told of its parent, which starts or goes on."""
    params = {key: value for key, value in flat(run.config).items() if key != "seed"}
    preset = run.manifest.get("preset")
    tags = {"ipr.preset": preset, "ipr.group": folder.resolve().name, "mlflow.source.name": f"ipr run {preset} --seeds"}
    tracker.start(folder.resolve().name, params, tags)
    mine = Tracker(run.folder, run.config.track, project_root())
    mine.group(tracker)


def finish(folder: Path, tracker: Tracker) -> dict[str, Any]:
    """seeds.json, the table and the plot, here and in MLflow; returns the summary."""
    summary = seeds.write(seeds.Seeds(folder))
    best = summary["stages"][-1]
    found = {
        f"{seeds.REPORTED}/{split}/{key}": best[split][key]
        for split in ("dev", "test")
        for key in ("reward", "success")
    }
    tracker.metrics(found, step=len(summary["seeds"]))  # a seed more makes other figures
    cells = [seeds.columns(summary), *seeds.rows(summary)]
    store.write_json(folder / TABLE, {"columns": cells[0], "data": cells[1:]})
    for path in ("seeds.json", TABLE, "plots/seeds.png"):
        tracker.artifact(folder / path)
    table = json.dumps([{"path": TABLE, "type": "table"}])
    tracker.tags({"mlflow.note.content": seeds.markdown(summary), "mlflow.loggedArtifacts": table})
    tracker.end("FINISHED")
    tracker.sync()
    summary["links"] = links(tracker.config, project_root(), folder) | {"plot": str(folder / "plots" / "seeds.png")}
    return summary
