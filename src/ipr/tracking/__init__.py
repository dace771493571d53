"""What goes to MLflow, and the only place that imports it.

`events`: the durable queue of what is to be sent, the truth about a run. `view`: what MLflow's pages show of it.
`live`: while it is played. `packaging`: model folders as MLflow's models. `registry`: versions, the champion, lineage.
`client`: talking with MLflow.
"""

from __future__ import annotations

from pathlib import Path

from ipr.config import TrackConfig
from ipr.tracking.client import tracking_uri
from ipr.tracking.events import Events
from ipr.tracking.registry import champion_info, champion_page, lineage, promote, restore_data, roll_back
from ipr.tracking.view import Sent, links, sync

__all__ = [
    "Tracker",
    "champion_info",
    "champion_page",
    "lineage",
    "links",
    "promote",
    "restore_data",
    "roll_back",
]


class Tracker(Events):
    """Appends what happened in a run; `sync` sends it."""

    def __init__(self, run_dir: Path, config: TrackConfig, root: Path):
        super().__init__(run_dir, root)
        self.config = config

    def sync(self, *, quietly: bool = False) -> bool:
        """Make MLflow's view complete; False, with a warning unless `quietly`, where it did not take everything.

        Never raises.
        """
        if not self.config.enabled or not self.events:
            return True
        return sync(self.events, self.folder, self.config, self.root, quietly)

    @property
    def uri(self) -> str:
        return tracking_uri(self.config, self.root)

    def run_id(self, iteration: int | None = None) -> str | None:
        """MLflow's run, or that of an iteration; None where it has none yet."""
        return self._sent().runs.get(iteration) if self.config.enabled else None

    def refused(self, event: str) -> str | None:
        """Why MLflow will never take an event; None where it took it, or was not asked yet."""
        return self._sent().refused.get(event)

    def _sent(self) -> Sent:
        return Sent(self.folder / "mlflow.json", self.config, self.root)
