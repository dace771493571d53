"""Who may ask `ipr serve`, and how much: checked before a request reaches a route.

Decided here: a name in the Host or Origin header that is not ours is refused, so that a web page cannot reach a server
on this machine by a name that it lets point here (DNS rebinding), nor by asking it across origins; an address is no
name, and passes. The key is compared in constant time. A body is read whole, up to a limit, before anything is done
with it; requests beyond a limit are told to come again, not kept waiting.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import os
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from fastapi.responses import JSONResponse

from ipr.types import IprError

KEY = "IPR_API_KEY"
"""The environment variable that holds the key which clients must send (Authorization: Bearer ...)."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What is answered, and to whom."""

    key: str | None = None
    """None: whoever can reach the port."""
    hosts: tuple[str, ...] = ()
    """Names of this server besides localhost."""
    body: int = 16 << 20
    """Most bytes of a request."""
    tokens: int = 1_000_000
    """Most tokens that a request may ask to be written, all its samples together."""
    requests: int = 256
    """Most requests under way."""
    seconds: float = 60.0
    """In which a request has to arrive."""


def limits(host: str, hosts: list[str], body: int, tokens: int, requests: int) -> Limits:
    """With the key of the environment. Raises IprError where others than this machine could ask without one."""
    key = os.environ.get(KEY, "").strip() or None  # as that of a request
    if key is None and not _loopback(host):
        raise IprError(
            f"--host {host} lets other machines ask; set {KEY} to a secret that clients send as their API key"
        )
    if key is not None and not key.isascii():
        raise IprError(f"{KEY} has other characters than ASCII's, which clients send in different ways; choose another")
    return Limits(key, (host.lower(), *(name.lower() for name in hosts)), body, tokens, requests)


class Guard:
    """ASGI middleware: refuses with errors in the protocol's form, passes all else on."""

    def __init__(self, app: Any, limits: Limits):
        self.app, self.limits = app, limits
        self._under_way = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        refusal = self._refusal(headers)
        if refusal is not None:
            return await refusal(scope, receive, send)
        self._under_way += 1
        try:
            try:
                body = await asyncio.wait_for(self._body(headers, receive), self.limits.seconds)
            except TimeoutError:
                refusal = error("the request did not arrive in time", 408)
                return await refusal(scope, receive, send)
            if body is None:
                text = f"the request is larger than {self.limits.body} bytes"
                return await error(text, 413)(scope, receive, send)
            given = iter([{"type": "http.request", "body": body, "more_body": False}])

            async def again() -> Any:
                return next(given, None) or await receive()

            await self.app(scope, again, send)
        finally:
            self._under_way -= 1

    def _refusal(self, headers: dict[str, str]) -> JSONResponse | None:
        limits = self.limits
        for name in ("host", "origin"):
            value = headers.get(name)
            if value is not None and not self._ours(value if name == "origin" else f"//{value}"):
                text = f"{name.capitalize()} '{value[:200]}' is not this server; ipr serve --allow-host adds a name"
                return error(text, 403)
        if limits.key is not None:
            scheme, _, given = headers.get("authorization", "").partition(" ")
            right = hmac.compare_digest(given.strip().encode("latin-1"), limits.key.encode())
            if scheme.lower() != "bearer" or not right:
                return error("the API key is missing or wrong", 401)
        if self._under_way >= limits.requests:
            text = f"{limits.requests} requests are under way already; ask again later"
            return error(text, 429, headers={"Retry-After": "1"})
        return None

    def _ours(self, url: str) -> bool:
        try:
            host = (urlsplit(url).hostname or "").rstrip(".")
        except ValueError:
            return False
        return host == "localhost" or host in self.limits.hosts or _address(host) is not None

    async def _body(self, headers: dict[str, str], receive: Any) -> bytes | None:
        """The whole body; None where it is too large."""
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > self.limits.body:
            return None
        parts, size = [], 0
        while True:
            message = await receive()
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > self.limits.body:
                return None
            if message["type"] == "http.disconnect" or not message.get("more_body"):
                return b"".join(parts)


def error(
    message: str, status: int, kind: str | None = None, param: str | None = None, headers: dict[str, str] | None = None
) -> JSONResponse:
    """An error as vLLM's server has it: the code is the status, the type its phrase where there is no better one."""
    body = {"message": message, "type": kind or HTTPStatus(status).phrase, "param": param, "code": status}
    return JSONResponse({"error": body}, status, headers)


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _loopback(host: str) -> bool:
    address = _address(host)
    return host == "localhost" or (address is not None and address.is_loopback)
