"""Who is told what became of a run: a webhook (JSON, or Slack's form), mail, a command.

Decided here: an alert is told once for a run and event, over every resume; what was told is in a file, its book. The
channels run at the same time, each tries a few times, and the caller waits `PATIENCE` seconds at most: an alert that
comes to nothing is a warning in the log, never the end of a run. Secrets are read from the environment when they are
used. At least once: where a process dies between telling and noting it, the next one tells again, with the same `id`.
"""

from __future__ import annotations

import html
import json
import logging
import os
import shlex
import smtplib
import socket
import ssl
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping
from email.message import EmailMessage
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ipr import store
from ipr.config import AlertsConfig, Told
from ipr.types import IprError

log = logging.getLogger("ipr")

BOOK = "alerts.json"
"""In a run's folder: what was told of it."""
PATIENCE = 20.0
"""Seconds that telling may take of a run's time."""
PAUSES = (0.0, 1.0, 4.0)
"""Seconds before each try."""
ANSWER = 5.0
"""Seconds that a server or a command may take."""
WEBHOOK, TOKEN, USER, PASSWORD = "IPR_ALERTS_WEBHOOK", "IPR_ALERTS_TOKEN", "IPR_SMTP_USER", "IPR_SMTP_PASSWORD"
HEADINGS: Mapping[Told, str] = {
    "failed": "failed",
    "crashed": "crashed",
    "late": "started late",
    "skipped": "was skipped",
    "worse": "is worse than the champion",
    "promoted": "is the new champion",
}

Alert = dict[str, Any]


def tell(config: AlertsConfig, event: Told, run: str, words: str, book: Path, **facts: Any) -> list[str]:
    """Tell that `event` happened to `run`, once; returns the channels that took it. Never raises.

    `words` say what happened, `facts` are more fields of the JSON, `book` is the file of what was told.
    """
    try:
        key = f"{run}/{event}"
        done = (store.read_json(book) if book.is_file() else {}).get(key, [])
        ways = {name: send for name, send in channels(config).items() if name not in done}
        if event not in config.events or not ways:
            return []
        alert = {"id": key, "event": event, "run": run, "title": f"ipr: {run} {HEADINGS[event]}", "text": words}
        alert |= {"host": socket.gethostname(), "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())} | facts
        told = _at_once(ways, alert)
        if told:
            store.write_json(book, (store.read_json(book) if book.is_file() else {}) | {key: [*done, *told]})
        return told
    except Exception as error:  # an alert is never the end of a run
        log.warning("alert %s of %s: %s", event, run, _said(error))
        return []


def channels(config: AlertsConfig) -> dict[str, Callable[[Alert], None]]:
    """The ways that are set, by name; each raises where it fails."""
    found: dict[str, Callable[[Alert], None]] = {}
    if url := webhook(config):
        found["webhook"] = lambda alert: post(url, posted(config, alert))
    if config.email:
        found["email"] = lambda alert: mail(config, alert)
    if command := config.command:
        found["command"] = lambda alert: start(command, alert)
    return found


def webhook(config: AlertsConfig) -> str | None:
    return os.environ.get(WEBHOOK) or config.webhook


def posted(config: AlertsConfig, alert: Alert) -> Alert:
    """What a webhook gets: all fields, or Slack's form."""
    if config.form == "json":
        return alert
    lines = [f"*{html.escape(alert['title'], quote=False)}*", html.escape(alert["text"], quote=False)]
    return {"text": "\n".join([*lines, *(str(alert[key]) for key in ("link",) if alert.get(key))])}


def post(url: str, body: Alert) -> None:
    headers = {"Content-Type": "application/json"}
    if token := os.environ.get(TOKEN):
        headers["Authorization"] = f"Bearer {token}"
    request = urllib.request.Request(url, json.dumps(body, default=str).encode(), headers)
    with urllib.request.urlopen(request, timeout=ANSWER):
        pass


def mail(config: AlertsConfig, alert: Alert) -> None:
    message = EmailMessage()
    message["Subject"] = " ".join(alert["title"].split())
    message["From"], message["To"] = config.sender, ", ".join(config.email)
    rest = [f"{key}: {value}" for key, value in alert.items() if key not in ("title", "text")]
    message.set_content("\n".join([alert["text"], "", *rest]) + "\n")
    at = urlsplit(config.smtp)
    safe = at.scheme == "smtps"
    host, port = at.hostname or "localhost", at.port or (465 if safe else 25)
    context = ssl.create_default_context()
    server = (
        smtplib.SMTP_SSL(host, port, timeout=ANSWER, context=context)
        if safe
        else smtplib.SMTP(host, port, timeout=ANSWER)
    )
    with server:
        server.ehlo()
        if not safe and server.has_extn("starttls"):
            server.starttls(context=context)
            server.ehlo()
            safe = True
        if user := os.environ.get(USER):
            if not safe and host not in ("localhost", "127.0.0.1", "::1"):
                raise IprError(f"{host} offers no STARTTLS, so the password is not sent; take alerts.smtp=smtps://...")
            server.login(user, os.environ.get(PASSWORD, ""))
        server.send_message(message)


def start(command: str, alert: Alert) -> None:
    text = json.dumps(alert, default=str) + "\n"
    done = subprocess.run(shlex.split(command), input=text, text=True, capture_output=True, timeout=ANSWER, check=False)
    if done.returncode:
        raise IprError(f"alerts.command ended with {done.returncode}: {(done.stderr or done.stdout).strip()[-200:]}")


def _at_once(ways: Mapping[str, Callable[[Alert], None]], alert: Alert) -> list[str]:
    """The channels that took the alert, within `PATIENCE`; the others are given up, with a line in the log."""
    told: list[str] = []
    failed: dict[str, str] = {}

    def attempt(name: str, send: Callable[[Alert], None]) -> None:
        for pause in PAUSES:
            time.sleep(pause)
            try:
                send(alert)
            except Exception as error:  # whatever a server, a mail library or a program does
                failed[name] = _said(error)
            else:
                told.append(name)
                return

    threads = [threading.Thread(target=attempt, args=way, daemon=True) for way in ways.items()]
    until = time.monotonic() + PATIENCE
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    took = [name for name in ways if name in told]
    for name in ways:
        if name not in took:
            log.warning("alert '%s' by %s came to nothing: %s", alert["title"], name, failed.get(name, "no answer"))
    return took


def _said(error: BaseException) -> str:
    """An error in a line; the address of a webhook is none of it, as it may be a secret."""
    text = " ".join((str(error) or type(error).__name__).split())[:300]
    secret = os.environ.get(WEBHOOK)
    return text.replace(secret, "the webhook") if secret else text
