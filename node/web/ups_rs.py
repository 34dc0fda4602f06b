"""UPS-RS, for programs: the work items on this node's worklist, under /dicom-web/workitems (PS3.18 chapter 11).

The same items as by DIMSE (`node.worklist.pushed_provider`), by the same rules, where `ups.push` is on. Peer entries
hear of events by DIMSE, all other subscribers by an event channel (`node.web.ups_events`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from typing import Annotated, Any
from urllib.parse import quote
from uuid import uuid4

from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse
from pydicom.dataset import Dataset
from starlette.concurrency import run_in_threadpool

from db import audit, workitem_queries, workitem_rules, workitem_subscriptions, workitems
from db.dicom_json import Json, text
from db.states import WorkitemState
from db.types import utcnow
from db.workitem_rules import FILTERED_SUBSCRIPTION, GLOBAL_SUBSCRIPTION, UpsStatus
from db.workitems import WorkitemView
from node import storage
from node.uids import valid_uid
from node.web import ups_events, ups_json
from node.web.access import Access
from node.web.context import context_of
from node.web.identity import Principal
from node.web.permissions import Permission
from node.web.problems import Problem
from node.worklist import pushed_reading as reading
from node.worklist.pushed_reading import WorkitemRefused

BASE = "/dicom-web/workitems"
MOST_ANSWER_BYTES = 16 << 20
_EVERYTHING = frozenset({GLOBAL_SUBSCRIPTION, FILTERED_SUBSCRIPTION})

# PS3.18 11.4 to 11.12, tables of status codes: 400 of the request itself, 409 of the state that is in the way.
_REFUSALS: dict[int, tuple[int, str]] = {
    UpsStatus.DUPLICATE: (409, "a work item of that UID is on the worklist"),
    UpsStatus.NO_SUCH_WORKITEM: (404, "there is no work item of that UID"),
    UpsStatus.ENDED: (409, "the work item has ended, and may no longer be changed"),
    UpsStatus.WRONG_TRANSACTION: (400, "the correct Transaction UID was not given"),
    UpsStatus.ALREADY_IN_PROGRESS: (409, "the work item is in progress already"),
    UpsStatus.ONLY_CREATED_SCHEDULED: (400, "a work item becomes SCHEDULED by its creation only"),
    UpsStatus.FINAL_STATE_UNMET: (409, "the work item lacks what the final state requires"),
    UpsStatus.NOT_IN_PROGRESS: (409, "the work item is not in progress"),
    UpsStatus.NOT_SCHEDULED: (400, "a work item is created as SCHEDULED"),
    UpsStatus.CANNOT_CANCEL_COMPLETED: (409, "the work item is completed"),
    UpsStatus.PERFORMER_UNREACHABLE: (409, "nobody is subscribed who could be asked to cancel it"),
    UpsStatus.PERFORMER_DECLINES: (409, "this node performs it, and finishes what it has begun"),
    UpsStatus.RESOURCE_LIMITATION: (413, "the work item is too long"),
}
_ALREADY = {
    UpsStatus.ALREADY_CANCELED: "the work item is canceled already",
    UpsStatus.ALREADY_COMPLETED: "the work item is completed already",
}


@dataclass(frozen=True)
class Body:
    """The data set of a request; an empty one where it has none. Raises Problem where it is required."""

    required: bool = True

    async def __call__(self, request: Request) -> Dataset:
        body = await request.body()
        if not body and not self.required:
            return Dataset()
        ups_json.require_taken(request.headers.get("content-type", ""))
        if len(body) > reading.MOST_BYTES:
            raise Problem(413, f"the request is larger than {reading.MOST_BYTES} bytes")
        # Half a megabyte of elements takes its time, which is nobody else's.
        return await run_in_threadpool(ups_json.read, body)


Reader = Annotated[Principal, Depends(Access(Permission.WORKITEMS_READ))]
Writer = Annotated[Principal, Depends(Access(Permission.WORKITEMS_WRITE))]
Told = Annotated[Dataset, Depends(Body())]
MayTell = Annotated[Dataset, Depends(Body(required=False))]


def add_routes(app: FastAPI) -> None:
    """Nothing where this node manages no work items."""
    if not app.state.context.settings.ups.push:
        return
    one, subscriber = f"{BASE}/{{uid}}", f"{BASE}/{{uid}}/subscribers/{{ae_title}}"
    for method, path, handler in (
        (app.post, BASE, create),
        (app.get, BASE, search),
        (app.get, one, retrieve),
        (app.post, one, update),
        (app.put, f"{one}/state", change_state),
        (app.post, f"{one}/cancelrequest", request_cancel),
        (app.post, subscriber, subscribe),
        (app.delete, subscriber, unsubscribe),
        (app.post, f"{subscriber}/suspend", suspend),
    ):
        method(path, include_in_schema=False)(handler)


def create(request: Request, principal: Writer, told: Told) -> Response:
    """Create Workitem (11.4). Its UID is named in the URL or in the data set, or is given here."""
    context = context_of(request)
    ups = context.settings.ups
    named = {_named(request, "workitem"), str(told.get("SOPInstanceUID", "") or "")} - {""}
    if len(named) > 1:
        raise Problem(400, "the URL names another UID than the data set")
    uid = next(iter(named), f"2.25.{uuid4().int}")
    _require_uid(uid)
    with _refusals():
        pushed = reading.created(
            told,
            uid,
            created_by=principal.actor[: ups_events.LONGEST_AE],
            own_ae=context.settings.ae_title,
            study_for_s=ups.study_for_s,
            now=utcnow(),
        )
    storage.require_room(context.settings)
    with context.record.write() as session:
        if workitem_queries.open_count(session) >= ups.most_open:
            raise Problem(503, "the worklist is full", {"Retry-After": "60"})
        done = workitems.create(session, replace(pushed.new, by=principal.actor))
    _require(UpsStatus.SUCCESS if done else UpsStatus.DUPLICATE)
    headers = {"Location": f"{_here(request)}{BASE}/{uid}"}
    if pushed.modified:
        headers |= _warning("the work item was created with modifications: attributes it lacked are empty")
    return Response(status_code=201, headers=headers)


def retrieve(request: Request, principal: Reader, uid: str) -> Response:
    """Retrieve Workitem (11.5)."""
    ups_json.require_given(request.headers.get("accept", ""))
    _require_uid(uid)
    with context_of(request).record.read() as session:
        found = workitems.load(session, uid)
    if found is None:
        raise Problem(*_REFUSALS[UpsStatus.NO_SUCH_WORKITEM])
    _note_shown(request, principal, 1)
    return _data([found.data])


def search(request: Request, principal: Reader) -> Response:
    """Search for Workitems (11.9), a page at a time, in the order of their creation."""
    ups_json.require_given(request.headers.get("accept", ""))
    asked = ups_json.search(request.query_params.multi_items())
    with context_of(request).record.read() as session:
        found = workitem_queries.find(session, asked.query, limit=asked.offset + asked.limit + 1)
        page, more = _page(islice(found, asked.offset, None), asked)
    said = ["there are more matches; ask for them by offset"] if more else []
    if asked.fuzzy:
        said.append("fuzzymatching is not supported; literal matching was done")
    headers = _warning("; ".join(said)) if said else {}
    if not page:
        return Response(status_code=204, headers=headers)
    _note_shown(request, principal, len(page))
    return _data(page, headers)


def update(request: Request, principal: Writer, uid: str, told: Told) -> Response:
    """Update Workitem (11.6)."""
    _require_uid(uid)
    with _refusals():
        changes, inside = reading.changes(told)
    named = {_named(request, "transaction-uid"), inside} - {""}
    if len(named) > 1:
        raise Problem(400, "the URL names another Transaction UID than the data set")
    with context_of(request).record.write() as session:
        status = workitems.change(session, uid, changes, next(iter(named), ""), actor=principal.actor)
    _require(status)
    return Response(status_code=200)


def change_state(request: Request, principal: Writer, uid: str, told: Told) -> Response:
    """Change Workitem State (11.7)."""
    _require_uid(uid)
    with _refusals():
        asked = reading.as_json(told)
    lock, target = text(asked, workitem_rules.TRANSACTION), text(asked, workitem_rules.STATE)
    if target not in set(WorkitemState):
        raise Problem(400, "ProcedureStepState is none")
    performer = principal.actor[: ups_events.LONGEST_AE]
    if performer == context_of(request).settings.ae_title:
        raise Problem(403, "a performer needs a name that is not this node's AE title")
    with context_of(request).record.write() as session:
        status = workitems.change_state(
            session,
            uid,
            WorkitemState(target),
            lock if valid_uid(lock) else "",
            actor=performer,
            own=False,
            by=principal.actor,
        )
    return Response(status_code=200, headers=_require(status))


def request_cancel(request: Request, principal: Writer, uid: str, told: MayTell) -> Response:
    """Request Cancellation (11.8): one that nobody has begun is canceled, the performer of another is told."""
    _require_uid(uid)
    with _refusals():
        information = reading.as_json(told)
    own_ae = context_of(request).settings.ae_title
    with context_of(request).record.write() as session:
        status = workitems.request_cancel(
            session, uid, requesting_ae=own_ae, own_ae=own_ae, information=information, by=principal.actor
        )
    return Response(status_code=202, headers=_require(status))


def subscribe(request: Request, _principal: Writer, uid: str, ae_title: str) -> Response:
    """Subscribe (11.10): an AE title, to one item, to all, or to all that match. Says where its channel is."""
    _require_subscriber(request, uid, ae_title)
    lock = request.query_params.get("deletionlock", "false").lower() == "true"
    with context_of(request).record.write() as session:
        if uid not in _EVERYTHING:
            _require(workitem_subscriptions.subscribe(session, uid, ae_title, lock=lock))
        else:
            matching = _filter(request) if uid == FILTERED_SUBSCRIPTION else {}
            workitem_subscriptions.subscribe_globally(session, ae_title, lock=lock, matching=matching)
    if context_of(request).settings.peer_by_ae(ae_title) is not None:
        told = "a peer entry has that AE title: it hears of events by DICOM N-EVENT-REPORT"
        return Response(status_code=201, headers=_warning(told))
    here = _here(request).replace("http", "ws", 1)
    return Response(status_code=201, headers={"Content-Location": f"{here}{ups_events.BASE}/{quote(ae_title)}"})


def unsubscribe(request: Request, _principal: Writer, uid: str, ae_title: str) -> Response:
    """Unsubscribe (11.11)."""
    _require_subscriber(request, uid, ae_title)
    with context_of(request).record.write() as session:
        if uid in _EVERYTHING:
            workitem_subscriptions.unsubscribe_globally(session, ae_title)
        else:
            _require(workitem_subscriptions.unsubscribe(session, uid, ae_title))
    return Response(status_code=200)


def suspend(request: Request, _principal: Writer, uid: str, ae_title: str) -> Response:
    """Suspend Global Subscription (11.12)."""
    _require_subscriber(request, uid, ae_title)
    if uid not in _EVERYTHING:
        raise Problem(400, "a global subscription alone is suspended")
    with context_of(request).record.write() as session:
        workitem_subscriptions.suspend(session, ae_title)
    return Response(status_code=200)


@contextmanager
def _refusals() -> Iterator[None]:
    """What the reading refuses, as a problem: its text names attributes, and never their values."""
    try:
        yield
    except WorkitemRefused as error:
        status, _ = _REFUSALS.get(error.status, (400, ""))
        raise Problem(status, str(error)) from error


def _require(status: UpsStatus) -> dict[str, str]:
    """Raise Problem unless it is done; the headers of the answer where it was so already."""
    if status in _REFUSALS:
        raise Problem(*_REFUSALS[status])
    return _warning(_ALREADY[status]) if status in _ALREADY else {}


def _require_uid(uid: str) -> None:
    if not valid_uid(uid):
        raise Problem(400, "the UID is none")


def _require_subscriber(request: Request, uid: str, ae_title: str) -> None:
    _require_uid(uid)
    context = context_of(request)
    if context.settings.peer_by_ae(ae_title) is None and not ups_events.may_listen(context, ae_title):
        raise Problem(400, "the AE title is none")


def _filter(request: Request) -> Json:
    """The keys of a filtered subscription: `filter=Attribute=value`, as often as there are keys."""
    given = [one.partition("=") for one in request.query_params.getlist("filter")]
    return ups_json.search((name, value) for name, _, value in given).query


def _named(request: Request, name: str) -> str:
    """A UID in the URL: as a parameter of that name, or by itself (?1.2.3)."""
    bare = next((key for key, value in request.query_params.multi_items() if not value and valid_uid(key)), "")
    return request.query_params.get(name, bare)


def _page(found: Iterable[WorkitemView], asked: ups_json.Search) -> tuple[list[Json], bool]:
    """What one answer holds, and whether there is more: a number of items, and of bytes, whichever is reached first."""
    page: list[Json] = []
    size = 0
    for one in found:
        size += len(json.dumps(part := _part(one.data, asked.wanted)))
        if len(page) >= asked.limit or (page and size > MOST_ANSWER_BYTES):
            return page, True
        page.append(part)
    return page, False


def _part(data: Json, wanted: frozenset[str] | None) -> Json:
    return data if wanted is None else {tag: one for tag, one in data.items() if tag in wanted}


def _data(found: list[Json], headers: Mapping[str, str] | None = None) -> Response:
    content: Any = found
    return JSONResponse(content, headers=dict(headers or {}), media_type=ups_json.MEDIA_TYPE)


def _here(request: Request) -> str:
    settings = context_of(request).settings
    return settings.web.url(settings.web_host, settings.web_port)


def _warning(said: str) -> dict[str, str]:
    return {"Warning": f'299 radnode "{said}"'}


def _note_shown(request: Request, principal: Principal, count: int) -> None:
    with context_of(request).record.write() as session:
        audit.note(session, "patients_shown", actor=principal.actor, studies=count, kind="UPS")
