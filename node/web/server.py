"""The HTTP server: uvicorn, which gives no connection for ever to whoever says nothing."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from db.session import Record
from node.settings import Settings, Tls
from node.settings_web import Web
from node.tls import ServerTls
from node.web.app import create_app
from node.web.clients import Network, is_trusted, networks

_KEEP_ALIVE_S = 15
_STOP_WITHIN_S = 4
# uvicorn ticks ten times a second.
_RENEWAL_TICKS = 50
_MOST_CONNECTIONS = 500
# A browser opens six and one more for each page that renews itself.
MOST_OF_ONE_ADDRESS = 100


def run(settings: Settings, record: Record, on_ready: Callable[[], None]) -> None:
    """Serve until SIGTERM or SIGINT. on_ready: called once it listens. Raises ConfigError."""
    _server(settings, record, on_ready).run()


def serve_until(settings: Settings, record: Record, on_ready: Callable[[], None], stop: threading.Event) -> None:
    """As `run`, in a thread of somebody else's process, until `stop` is set."""
    server = _server(settings, record, on_ready)

    async def serve() -> None:
        serving = asyncio.create_task(server.serve())
        await asyncio.to_thread(stop.wait)
        server.should_exit = True
        await serving

    asyncio.run(serve())


def _server(settings: Settings, record: Record, on_ready: Callable[[], None]) -> _Server:
    app = create_app(settings, record)
    web = settings.web
    config = uvicorn.Config(
        app,
        host=settings.web_host,
        port=settings.web_port,
        http=impatient(web.request_timeout_s, networks(web.trusted_proxies)),
        ws=_channels(settings),
        ws_max_size=1024,
        log_config=None,
        access_log=False,
        # Whose headers are believed is this application's own affair: node/web/clients.py.
        proxy_headers=False,
        server_header=False,
        ssl_certfile=web.certificate,
        ssl_keyfile=web.private_key,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_STOP_WITHIN_S,
        limit_concurrency=_MOST_CONNECTIONS,
    )
    return _Server(config, web, on_ready, app.state.context.changes.stop)


def _channels(settings: Settings) -> Any:
    """The protocol of WebSockets, where this node opens any."""
    if not settings.ups.push:
        return "none"
    from node.web.channel_protocol import Channel  # noqa: PLC0415 - loaded only where it is needed

    return Channel


def impatient(timeout_s: float, proxies: tuple[Network, ...]) -> type[H11Protocol]:
    """HTTP/1.1 that closes a connection whose request's head has not arrived `timeout_s` seconds after it could.

    One address gets a share of the connections and no more, unless it is one of the trusted proxies.
    """
    open_now: Counter[str] = Counter()

    class Impatient(H11Protocol):
        _deadline: asyncio.TimerHandle | None = None
        _address = ""
        _upgraded = False

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            address = self.client[0] if self.client else ""
            if not is_trusted(address, proxies):
                if open_now[address] >= MOST_OF_ONE_ADDRESS:
                    transport.abort()
                    return
                open_now[address] += 1
                self._address = address
            self._watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            self._forget()
            self._release()
            super().connection_lost(exc)

        def handle_websocket_upgrade(self, event: Any) -> None:
            """From now on the connection is another protocol's, and its share is given back by that."""
            self._upgraded = True
            self._forget()
            super().handle_websocket_upgrade(event)
            channel: Any = self.transport.get_protocol()
            channel.released = self._release

        def _release(self) -> None:
            if self._address:
                open_now[self._address] -= 1
                if not open_now[self._address]:
                    del open_now[self._address]
                self._address = ""

        def _watch(self) -> None:
            if self._upgraded or not self._waits():
                self._forget()
            elif self._deadline is None:
                self._deadline = self.loop.call_later(timeout_s, self._late)

        def _waits(self) -> bool:
            return self.cycle is None or self.cycle.response_complete

        def _late(self) -> None:
            self._deadline = None
            if self._waits() and not self.transport.is_closing():
                self.transport.close()

        def _forget(self) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

    return Impatient


class _Server(uvicorn.Server):
    """Says when it listens; ends what would otherwise go on for as long as a page is open."""

    def __init__(
        self, config: uvicorn.Config, web: Web, on_ready: Callable[[], None], end_streams: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._web = web
        files = Tls(certificate=web.certificate, private_key=web.private_key, require_client_certificate=False)
        self._tls = ServerTls(files) if web.certificate is not None else None
        self._loaded = self._tls.context() if self._tls is not None else None
        self._on_ready = on_ready
        self._end_streams = end_streams

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_ready()

    async def on_tick(self, counter: int) -> bool:
        if self._tls is not None and counter % _RENEWAL_TICKS == 0:
            self._renew(self._tls)
        return await super().on_tick(counter)

    def _renew(self, tls: ServerTls) -> None:
        """Take a new certificate for the connections to come, once it has proved to fit its key."""
        current = tls.context()
        live, web = self.config.ssl, self._web
        if live is not None and web.certificate is not None and current is not self._loaded:
            self._loaded = current
            live.load_cert_chain(web.certificate, web.private_key)

    async def shutdown(self, sockets: Any = None) -> None:
        self._end_streams()
        await super().shutdown(sockets)
        # Whose answer takes longer than stopping may, as a picture can, is cut off: uvicorn leaves them open.
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        # Closed with the loop's next turn.
        await asyncio.sleep(0)
