"""The WebSocket side of a connection, for the server: it gives its share of an address back when it ends."""

from __future__ import annotations

from collections.abc import Callable

from uvicorn.protocols.websockets.wsproto_impl import WSProtocol

MOST_MESSAGE_BYTES = 1024
"""Of what a client sends, which nobody asks for."""


class Channel(WSProtocol):
    """Apart from the server's other half, so that what it needs is loaded only where channels are opened."""

    released: Callable[[], None] | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        if self.released is not None:
            self.released()
            self.released = None
        super().connection_lost(exc)
