"""Real HTTP servers that speak the chat protocol: one that answers what a function says, one with a model of ours."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = tuple[int, dict[str, str], Any]
"""Status, headers, and the body: JSON, or bytes as they are."""


def answer(text: Any, finish: str = "stop", written: int = 3) -> Reply:
    """A completion, with 7 tokens read."""
    message = {"role": "assistant", "content": text}
    usage = {"prompt_tokens": 7, "completion_tokens": written, "total_tokens": 7 + written}
    return (
        200,
        {},
        {
            "id": "1",
            "object": "chat.completion",
            "created": 1,
            "model": "m",
            "choices": [{"index": 0, "message": message, "finish_reason": finish}],
            "usage": usage,
        },
    )


def refusal(status: int, message: str, code: str | None = None, **headers: str) -> Reply:
    return status, headers, {"error": {"message": message, "type": "error", "code": code, "param": None}}


_LISTED: Reply = (200, {}, {"object": "list", "data": [{"id": "m", "object": "model", "created": 1, "owned_by": ""}]})


@contextmanager
def scripted(reply: Callable[[dict[str, Any], dict[str, str]], Reply], listed: Reply = _LISTED) -> Iterator[str]:
    """The URL of a server that answers a chat request with `reply(body, headers)`, and lists the model "m"."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._send(*listed)

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self._send(*reply(body, {k.lower(): v for k, v in self.headers.items()}))

        def _send(self, status: int, headers: dict[str, str], content: Any) -> None:
            raw = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            kind = {"Content-Type": "text/html" if isinstance(content, bytes) else "application/json"}
            for name, value in {**kind, "Content-Length": str(len(raw)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            with suppress(BrokenPipeError):  # the client did not wait
                self.end_headers()
                self.wfile.write(raw)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 64

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def serving(policy: Any, name: str = "m", *more: Any) -> Iterator[str]:
    """The URL of `ipr.apps.serve` with a policy, in a thread; `more` as `serve.server` takes it."""
    from ipr.apps import serve

    listening = serve.listen("127.0.0.1", 0)
    server = serve.server(policy, name, *more)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
