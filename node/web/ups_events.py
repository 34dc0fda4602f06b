"""The event channel of UPS-RS: a WebSocket by which a subscriber hears of work items (PS3.18 11.13, PS3.4 CC.2.4).

What an AE title is to be told waits in the record until it is told. An AE title of a peer entry is told by DICOM, and
has no channel; of every other each channel gets the events that no other has, so one is enough.
"""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from typing import Annotated

import structlog
from fastapi import Depends, FastAPI, WebSocket
from starlette.concurrency import run_in_threadpool
from starlette.websockets import WebSocketDisconnect

from db import workitem_tidings
from db.dicom_json import Json, element
from db.errors import RetriableError
from db.types import utcnow
from db.workitem_rules import PUSH_CLASS
from db.workitem_tidings import Tiding
from node.identity import owner
from node.web.access import ChannelAccess
from node.web.context import Context
from node.web.identity import Principal
from node.web.permissions import Permission

log = structlog.get_logger(__name__)

BASE = "/dicom-web/subscribers"
LONGEST_AE = 16
_LOOK_S = 0.5
# A process that dies while it tells gives the queue back after this.
_LEASE_S = 30.0
_MOST_CHANNELS = 100
# Then the client opens it again, with a key that is asked for anew.
_LONGEST_S = 3600.0
_POLICY_VIOLATION, _TRY_AGAIN_LATER, _GOING_AWAY = 1008, 1013, 1001

Listener = Annotated[Principal, Depends(ChannelAccess(Permission.WORKITEMS_READ))]


def add_routes(app: FastAPI) -> None:
    """Nothing where this node manages no work items."""
    if not app.state.context.settings.ups.push:
        return
    app.state.channels = 0
    app.websocket(f"{BASE}/{{ae_title}}")(channel)


def may_listen(context: Context, ae_title: str) -> bool:
    """Whether an AE title hears of events by a channel, and not by DICOM."""
    plain = ae_title.isascii() and ae_title.isprintable() and "\\" not in ae_title and ae_title == ae_title.strip()
    return plain and 0 < len(ae_title) <= LONGEST_AE and context.settings.peer_by_ae(ae_title) is None


async def channel(websocket: WebSocket, principal: Listener, ae_title: str) -> None:
    """Open Event Channel (11.13): events as they come, those that waited first."""
    context: Context = websocket.app.state.context
    state = websocket.app.state
    if not may_listen(context, ae_title):
        await websocket.close(_POLICY_VIOLATION)
        return
    if state.channels >= _MOST_CHANNELS:
        await websocket.close(_TRY_AGAIN_LATER)
        return
    state.channels += 1
    try:
        await websocket.accept()
        log.info("event_channel_opened", subscriber=ae_title, key=principal.name)
        await _serve(websocket, context, ae_title)
    except WebSocketDisconnect:
        log.info("event_channel_closed", subscriber=ae_title)
    finally:
        state.channels -= 1


async def _serve(websocket: WebSocket, context: Context, ae_title: str) -> None:
    until = time.monotonic() + _LONGEST_S
    said = asyncio.create_task(websocket.receive())
    try:
        while time.monotonic() < until and not context.changes.stopping:
            await _tell(websocket, context, ae_title)
            done, _ = await asyncio.wait({said}, timeout=_LOOK_S)
            if done:
                # A subscriber has nothing to say: it has gone, or is none.
                if said.result()["type"] != "websocket.disconnect":
                    await websocket.close(_POLICY_VIOLATION)
                return
        await websocket.close(_GOING_AWAY)
    finally:
        said.cancel()


async def _tell(websocket: WebSocket, context: Context, ae_title: str) -> None:
    """What waits for a subscriber, in order. What could not be told is told on the next channel."""
    try:
        due = await run_in_threadpool(_due, context, ae_title)
        for number, tiding in enumerate(due):
            try:
                await websocket.send_json(message(tiding))
            except (RuntimeError, WebSocketDisconnect) as error:
                await run_in_threadpool(_give_back, context, due[number:])
                raise WebSocketDisconnect from error
            await run_in_threadpool(_told, context, tiding)
    except RetriableError as error:
        log.warning("events_not_told", subscriber=ae_title, reason=str(error))


def message(tiding: Tiding) -> Json:
    """Send Event Report (11.14): the command's fields and the event's information in one data set."""
    return {
        "00000002": element("UI", PUSH_CLASS),
        "00000110": element("US", tiding.id % 0xFFFF + 1),
        "00001000": element("UI", tiding.sop_instance_uid),
        "00001002": element("US", int(tiding.event_type)),
        **tiding.information,
    }


def _due(context: Context, ae_title: str) -> tuple[Tiding, ...]:
    now = utcnow()
    with context.record.read() as session:
        if not workitem_tidings.any_due(session, now, [ae_title]):
            return ()
    oldest = now - timedelta(seconds=context.settings.ups.event_for_s)
    with context.record.write() as session:
        mine = owner(context.settings, "web")
        found = workitem_tidings.claim_due(session, now, [ae_title], mine, lease_s=_LEASE_S)
        waiting = [one for queue in found for one in queue.tidings]
        for late in (one for one in waiting if one.created_at < oldest):
            workitem_tidings.give_up(session, late.id, "no channel was open in time")
    return tuple(one for one in waiting if one.created_at >= oldest)


def _told(context: Context, tiding: Tiding) -> None:
    with context.record.write() as session:
        workitem_tidings.told(session, tiding.id)


def _give_back(context: Context, tidings: tuple[Tiding, ...]) -> None:
    with context.record.write() as session:
        workitem_tidings.postpone(session, [one.id for one in tidings], utcnow(), "its channel broke")
