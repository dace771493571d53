"""Real servers on loopback that keep what they get: a webhook's, and a mail server."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Sink(ThreadingHTTPServer):
    """Keeps what is posted; refuses the first `refuse` posts."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Posts)
        self.got: list[tuple[dict[str, Any], dict[str, str]]] = []
        self.refuse = 0
        self.url = f"http://127.0.0.1:{self.server_port}/hook"


class _Posts(BaseHTTPRequestHandler):
    server: Sink  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.refuse -= 1
        if self.server.refuse < 0:
            self.server.got.append((body, dict(self.headers)))
        self.send_response(200 if self.server.refuse < 0 else 503)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


class Mails(socketserver.ThreadingTCPServer):
    """A mail server that takes everything, and asks for a login that it notes."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, host: str = "127.0.0.1") -> None:
        super().__init__((host, 0), _Smtp)
        self.got: list[str] = []
        self.logins: list[str] = []
        self.to: list[str] = []
        self.address = f"smtp://{host}:{self.server_address[1]}"


class _Smtp(socketserver.StreamRequestHandler):
    server: Mails  # pyright: ignore[reportIncompatibleVariableOverride]

    def handle(self) -> None:
        self.say("220 sink")
        while line := self.rfile.readline().decode().strip():
            word = line.upper()
            if word.startswith("EHLO"):
                self.say("250-sink\r\n250 AUTH PLAIN")
            elif word.startswith("AUTH"):
                self.server.logins.append(line)
                self.say("235 come in")
            elif word.startswith("DATA"):
                self.say("354 go on")
                lines = iter(lambda: self.rfile.readline().decode().rstrip("\r\n"), ".")
                self.server.got.append("\n".join(lines))
                self.say("250 taken")
            elif word.startswith("QUIT"):
                self.say("221 bye")
                return
            else:
                if word.startswith("RCPT"):
                    self.server.to.append(line)
                self.say("250 yes")

    def say(self, line: str) -> None:
        self.wfile.write(f"{line}\r\n".encode())


def serving(server: Any) -> Iterator[Any]:
    with server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield server
        server.shutdown()
