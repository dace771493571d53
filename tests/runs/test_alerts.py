"""Alerts, to real servers on loopback: once, retried, and never in a run's way."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ipr import config as configs
from ipr import store, yaml12
from ipr.config import AlertsConfig
from ipr.runs import alerts
from ipr.runs.alerts import tell
from ipr.types import IprError
from tests.sinks import Mails, Sink, serving


@pytest.fixture
def sink() -> Iterator[Sink]:
    yield from serving(Sink())


@pytest.fixture
def mails() -> Iterator[Mails]:
    yield from serving(Mails())


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alerts, "PAUSES", (0.0, 0.02, 0.02))
    for name in (alerts.WEBHOOK, alerts.TOKEN, alerts.USER, alerts.PASSWORD):
        monkeypatch.delenv(name, raising=False)


def test_all_channels_get_it_once_over_every_resume(
    sink: Sink, mails: Mails, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(alerts.TOKEN, "sesame")
    monkeypatch.setenv(alerts.USER, "eve")
    monkeypatch.setenv(alerts.PASSWORD, "hunter2")
    took = tmp_path / "took.jsonl"
    code = f"import sys; open({str(took)!r}, 'a').write(sys.stdin.read())"
    config = AlertsConfig(
        webhook=sink.url,
        email=["a@example.org", "b@example.org"],
        smtp=mails.address,
        command=f'{sys.executable} -c "{code}"',
    )
    book = tmp_path / "alerts.json"
    for _ in range(3):  # a resume tells the same again
        tell(config, "failed", "n-1", "no space\nleft on the disk", book, env="sql")
    ((body, headers),) = sink.got
    assert (body["event"], body["run"], body["env"], body["id"]) == ("failed", "n-1", "sql", "n-1/failed")
    assert body["text"] == "no space\nleft on the disk"
    assert headers["Authorization"] == "Bearer sesame"
    (mail,) = mails.got
    assert "Subject: ipr: n-1 failed" in mail
    assert "To: a@example.org, b@example.org" in mail
    assert "left on the disk" in mail
    assert len(mails.to) == 2
    assert len(mails.logins) == 1
    assert json.loads(took.read_text())["event"] == "failed"
    assert tell(config, "promoted", "n-1", "better", book) == ["webhook", "email", "command"]  # another event
    assert len(sink.got) == 2
    assert "hunter2" not in book.read_text() + mail
    assert store.read_json(book)["n-1/failed"] == ["webhook", "email", "command"]


def test_slack_s_form_through_an_address_that_is_a_secret(
    sink: Sink, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(alerts.WEBHOOK, sink.url)
    link = "http://mlflow.example/#/experiments/1/runs/2"
    tell(AlertsConfig(form="slack"), "worse", "n<2>", "a < b & c", tmp_path / "book.json", link=link)
    ((body, _),) = sink.got
    assert body == {"text": f"*ipr: n&lt;2&gt; is worse than the champion*\na &lt; b &amp; c\n{link}"}


def test_it_is_tried_again_and_what_was_not_wanted_is_not_told(sink: Sink, tmp_path: Path) -> None:
    sink.refuse = 2
    config = AlertsConfig(webhook=sink.url, events=["failed"])
    assert tell(config, "failed", "n", "x", tmp_path / "book.json") == ["webhook"]
    assert tell(config, "promoted", "n", "x", tmp_path / "book.json") == []
    assert len(sink.got) == 1


def test_a_channel_that_fails_or_hangs_costs_a_line_and_little_time(
    sink: Sink, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(alerts.WEBHOOK, "http://127.0.0.1:9/hunter2")
    hangs = AlertsConfig(command=f'{sys.executable} -c "import time; time.sleep(60)"')
    begin = time.monotonic()
    with caplog.at_level(logging.WARNING), monkeypatch.context() as hasty:
        hasty.setattr(alerts, "PATIENCE", 0.5)
        assert tell(hangs, "failed", "n", "x", tmp_path / "book.json") == []
    assert time.monotonic() - begin < 30
    assert "by webhook came to nothing" in caplog.text
    assert "by command came to nothing" in caplog.text
    assert "hunter2" not in caplog.text
    # What one channel did not take, it gets the next time; the others do not get it twice.
    monkeypatch.setenv(alerts.WEBHOOK, sink.url)
    (tmp_path / "book.json").write_text("{")
    assert tell(AlertsConfig(), "failed", "n", "x", tmp_path / "book.json") == []  # a broken book: a warning
    assert tell(AlertsConfig(), "failed", "n", "x", tmp_path / "nowhere" / "book.json") == ["webhook"]


def test_a_password_does_not_go_to_another_machine_without_encryption(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(alerts.USER, "eve")
    for mails in serving(Mails("127.0.0.2")):
        with pytest.raises(IprError, match="offers no STARTTLS"):
            alerts.mail(AlertsConfig(email=["a@example.org"], smtp=mails.address), {"title": "t", "text": "x"})
        assert mails.logins == mails.got == []


def test_the_alerts_of_the_documentation_are_a_config() -> None:
    page = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    block = page.partition("```yaml\nalerts:")[2].partition("```")[0]
    config = configs.validate(yaml12.loads("alerts:" + block), "the page").alerts
    assert list(alerts.channels(config)) == ["webhook", "email", "command"]
