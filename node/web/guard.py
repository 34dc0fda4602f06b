"""What every request passes before anything reads it, and what every response carries.

Host header, rate, size of the body; then headers that tell a browser to trust nothing but this node's own files.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from urllib.parse import urlsplit

from fastapi import Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from node.settings import Settings
from node.web.clients import Client, identify, networks
from node.web.problems import Problem, refusal

CLIENT = "radnode.client"
# A balancer asks by the address it knows; nothing is told there that a host name could misuse.
_ANY_HOST = frozenset({"/healthz", "/readyz"})
_MOST_ADDRESSES = 10_000

CONTENT_SECURITY_POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
    ]
)
_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Robots-Tag": "noindex",
}
_HSTS = "max-age=31536000"


def client_of(request: Request) -> Client:
    """Whose request it is."""
    found: Client = request.scope[CLIENT]
    return found


class Rates:
    """Requests of each address within the running minute; a bounded number of addresses is remembered."""

    def __init__(self, per_minute: int) -> None:
        self._capacity = float(per_minute)
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait_s(self, address: str, now_s: float) -> float:
        """0 where the request may pass, else the seconds after which one may."""
        left, before = self._left.pop(address, (self._capacity, now_s))
        left = min(self._capacity, left + (now_s - before) * self._capacity / 60.0)
        passes = left >= 1.0
        self._left[address] = (left - 1.0 if passes else left, now_s)
        while len(self._left) > _MOST_ADDRESSES:
            self._left.popitem(last=False)
        return 0.0 if passes else (1.0 - left) * 60.0 / self._capacity


class TooLarge(Problem):
    """More came than a body may hold."""

    def __init__(self, most_bytes: int) -> None:
        super().__init__(413, f"the request is larger than {most_bytes} bytes")


class Guard:
    """Middleware around the whole application."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app = app
        web = settings.web
        self._hosts = web.allowed_hosts(settings.web_host)
        self._trusted = networks(web.trusted_proxies)
        self._rates = Rates(web.requests_per_minute)
        self._most_bytes = web.max_request_bytes
        self._timeout_s = web.request_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in {"http", "websocket"}:
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        client = self._client(scope, headers)
        scope[CLIENT] = client
        if scope["type"] == "websocket":
            if self._refusal(scope["path"], headers, client) is None:
                await self.app(scope, receive, send)
            else:
                # Before it is accepted, this answers 403.
                await send({"type": "websocket.close", "code": 1008})
            return
        decorated = _decorated(send, client, scope["path"])
        refused = self._refusal(scope["path"], headers, client)
        if refused is not None:
            await refused(scope, receive, decorated)
            return
        await self.app(scope, self._bounded(receive), decorated)

    def _client(self, scope: Scope, headers: Headers) -> Client:
        peer = scope["client"][0] if scope.get("client") else ""
        joined = ",".join(headers.getlist("x-forwarded-for")) if "x-forwarded-for" in headers else None
        if joined is None and "forwarded" in headers:
            joined = ""
        scheme = str(scope["scheme"]).replace("ws", "http", 1)
        return identify(peer, scheme, joined, headers.get("x-forwarded-proto"), self._trusted)

    def _refusal(self, path: str, headers: Headers, client: Client) -> ASGIApp | None:
        if path not in _ANY_HOST and not self._names_us(headers):
            return refusal(path, 421, "this node is not known by that host name; see web.hosts")
        wait_s = self._rates.wait_s(client.address, time.monotonic())
        if wait_s > 0:
            return refusal(path, 429, "too many requests; wait", {"Retry-After": str(int(wait_s) + 1)})
        length = headers.get("content-length", "0")
        if not length.isascii() or not length.isdigit() or int(length) > self._most_bytes:
            too_large = TooLarge(self._most_bytes)
            return refusal(path, too_large.status, too_large.detail)
        return None

    def _names_us(self, headers: Headers) -> bool:
        named = headers.getlist("host")
        if len(named) != 1:
            return False
        try:
            host = urlsplit(f"//{named[0]}").hostname
        except ValueError:
            return False
        return host is not None and host.rstrip(".") in self._hosts

    def _bounded(self, receive: Receive) -> Receive:
        """A body without a length, or with a wrong one, ends at the limit too, and one that drips at the deadline."""
        taken, coming, until_s = 0, True, time.monotonic() + self._timeout_s

        async def bounded() -> Message:
            nonlocal taken, coming
            if not coming:
                # The body is there; whoever still listens waits for the client to go.
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), max(0.0, until_s - time.monotonic()))
            except TimeoutError as error:
                raise Problem(408, "the request came too slowly", {"Connection": "close"}) from error
            taken += len(message.get("body", b""))
            coming = bool(message.get("more_body", False))
            if taken > self._most_bytes:
                raise TooLarge(self._most_bytes)
            return message

        return bounded


def _decorated(send: Send, client: Client, path: str) -> Send:
    async def decorated(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
            if not path.startswith("/static/"):
                # Patients' data: in no cache, and not behind the back button of the next person.
                headers.setdefault("Cache-Control", "no-store")
            if client.secure:
                headers.setdefault("Strict-Transport-Security", _HSTS)
        await send(message)

    return decorated
