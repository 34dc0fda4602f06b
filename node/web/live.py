"""Server-sent events: a page hears that something changed and loads itself anew, with its own filters and rights.

An event holds nothing but that; so there is nothing in the stream that anybody must not see.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any

import structlog
from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from db import worklist
from db.errors import RetriableError
from db.session import Record
from node.web.access import Access
from node.web.context import context_of
from node.web.identity import Principal
from node.web.permissions import Permission
from node.web.problems import Problem

log = structlog.get_logger(__name__)

LOOK_EVERY_S = 1.0
# A stream ends after this and the browser opens it again: so that it ends with the session, at the latest then.
_STREAM_S = 120.0
_MOST_STREAMS = 200
# Proxies close what is silent.
_SIGN_OF_LIFE_S = 15.0


class Changes:
    """Looks at the record while somebody listens, once for all listeners."""

    def __init__(self, record: Record) -> None:
        self._record = record
        self._listeners: set[asyncio.Event] = set()
        self._watch: asyncio.Task[None] | None = None
        self._seen: Any = None
        self._stopping = False

    async def stream(self) -> AsyncIterator[str]:
        """Events until the stream is old enough, the listener goes or the node stops."""
        heard = asyncio.Event()
        self._listeners.add(heard)
        if self._watch is None or self._watch.done():
            self._watch = asyncio.create_task(self._look())
        until_s = time.monotonic() + _STREAM_S
        try:
            # What changed since the page was loaded, or between two streams, nobody was there to hear.
            yield "retry: 2000\nevent: changed\ndata: quietly\n\n"
            while not self._stopping and time.monotonic() < until_s:
                try:
                    await asyncio.wait_for(heard.wait(), _SIGN_OF_LIFE_S)
                except TimeoutError:
                    yield ": still here\n\n"
                    continue
                heard.clear()
                if not self._stopping:
                    yield "event: changed\ndata: \n\n"
        finally:
            self._listeners.discard(heard)

    @property
    def full(self) -> bool:
        return len(self._listeners) >= _MOST_STREAMS

    @property
    def stopping(self) -> bool:
        return self._stopping

    def stop(self) -> None:
        """End all streams: a server that stops waits for them."""
        self._stopping = True
        self._wake()

    def _wake(self) -> None:
        for listener in self._listeners:
            listener.set()

    async def _look(self) -> None:
        while self._listeners and not self._stopping:
            try:
                mark = await run_in_threadpool(self._mark)
            except RetriableError as error:
                log.warning("changes_not_seen", reason=str(error))
            else:
                # The first look of a watch, too: what the page has read by now may be older than it.
                if mark != self._seen:
                    self._wake()
                self._seen = mark
            await asyncio.sleep(LOOK_EVERY_S)

    def _mark(self) -> Any:
        with self._record.read() as session:
            return worklist.change_mark(session)


def add_routes(app: FastAPI) -> None:
    app.get("/events", include_in_schema=False)(events)


async def events(
    request: Request, _principal: Annotated[Principal, Depends(Access(Permission.EVENTS_READ))]
) -> Response:
    """That something changed, as it changes."""
    changes = context_of(request).changes
    if changes.full:
        raise Problem(503, "too many pages are open; this one renews itself later", {"Retry-After": "30"})
    return StreamingResponse(changes.stream(), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})
