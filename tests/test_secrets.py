"""No secret gets into a run's files or a message: refused where it would be written, masked where it is shown."""

from __future__ import annotations

import os
import stat
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ipr import config as configs
from ipr.apps import doctor, start
from ipr.config import TrackConfig, public
from ipr.runs.project import answers
from ipr.runs.run import Run
from ipr.tracking.client import tracking_uri
from ipr.types import IprError


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("track.uri=http://eve:hunter2@mlflow.example:5000", "MLFLOW_TRACKING_USERNAME"),
        ("track.uri=postgresql://eve:hunter2@db/mlflow", "MLFLOW_TRACKING_URI"),
        ("rollout.endpoint=http://eve:hunter2@gpu:8000/v1", "OPENAI_API_KEY"),
        ("rollout.scheduler=tcp://eve:hunter2@head:8786", "Dask"),
        ("env.server=mysql://eve:hunter2@db/", "IPR_MYSQL_PASSWORD"),
        ("alerts.webhook=https://eve:hunter2@chat.example/hook", "IPR_ALERTS_WEBHOOK"),
        ("alerts.webhook=https://hooks.slack.com/services/hunter2", "IPR_ALERTS_WEBHOOK"),
        ("alerts.smtp=smtp://eve:hunter2@mail.example:25", "IPR_SMTP_PASSWORD"),
        ("endpoint.parameters={api_key: hunter2}", "OPENAI_API_KEY"),
    ],
)
def test_a_secret_in_a_key_is_refused_with_the_variable_and_not_shown(override: str, named: str) -> None:
    with pytest.raises(IprError) as refused:
        configs.load(None, [override])
    assert named in str(refused.value)
    assert "hunter2" not in str(refused.value)


def test_a_user_without_a_password_is_no_secret_where_a_database_needs_one() -> None:
    assert configs.load(None, ["env.server=mysql://ipr@db/"]).env.server == "mysql://ipr@db/"
    assert public("https://eve:hunter2@host/x") == "https://host/x"
    assert public("sqlite:////srv/a@b.db") == "sqlite:////srv/a@b.db"


def test_only_owner_and_group_read_the_config(tmp_path: Path) -> None:
    run = Run.open(tmp_path / "r", configs.load(None, []))
    for overrides in ([], ["track.enabled=false"]):
        Run.open(run.folder, configs.load(None, overrides))
        assert not stat.S_IMODE((run.folder / "config.yaml").stat().st_mode) & 0o007


class _Login(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.headers.get("Authorization") else 401)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_user_and_password_of_mlflow_s_address_reach_the_server_and_no_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, "")  # restored afterwards
        monkeypatch.delenv(name)
    with ThreadingHTTPServer(("127.0.0.1", 0), _Login) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        at = f"127.0.0.1:{server.server_port}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://eve:hunter%2F2@{at}")
        assert tracking_uri(TrackConfig(), tmp_path) == f"http://{at}"
        found = os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"]
        assert found == ("eve", "hunter/2")
        assert answers(f"http://{at}/health")
        server.shutdown()


def test_a_password_in_prefect_s_address_is_refused_and_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://eve:hunter2@127.0.0.1:9/api")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://eve:hunter2@127.0.0.1/mlflow")
    config = configs.load(None, [])
    with pytest.raises(IprError, match="PREFECT_API_AUTH_STRING") as refused:
        start.check_servers(config, tmp_path)
    found = {check.name: check for check in doctor._servers(tmp_path, config)}
    assert not found["prefect"].ok
    assert "PREFECT_API_AUTH_STRING" in found["prefect"].fix
    assert "hunter2" not in f"{refused.value} {found}"
