"""The worklist: a page for people and the same as JSON."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from fastapi import Depends, FastAPI, Query, Request, Response

from db import audit, saved_views, worklist
from db.domain import PRIORITIES
from db.states import DeliveryState, JobState
from db.types import utcnow
from db.worklist import Cursor, Filter
from node.web import blinded, views
from node.web.access import Access
from node.web.context import context_of
from node.web.identity import Principal
from node.web.permissions import Permission
from node.web.problems import Problem
from node.web.rows import Line, line
from node.web.schemas import StudiesAnswer, StudyAnswer

STATES = ("receiving", "stored", *(state.value.lower() for state in JobState))
DELIVERIES = tuple(state.value.lower() for state in DeliveryState)

PAGE_ROWS = 50
_EPOCH, _MICROSECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)
_CURSOR = re.compile(r"(\d{1,20})-(\d{1,18})")

Reader = Annotated[Principal, Depends(Access(Permission.STUDIES_READ))]
# PostgreSQL takes no NUL, and nobody searches for other control characters.
Word = Annotated[str, Query(max_length=64, pattern=r"^[^\x00-\x1f\x7f]*$")]


@dataclass(frozen=True)
class Wanted:
    """What the address asks for."""

    filter: Filter
    after: Cursor | None
    show: bool
    limit: int


def wanted(
    request: Request,
    principal: Reader,
    *,
    state: Word = "",
    priority: Word = "",
    modality: Word = "",
    model: Word = "",
    delivery: Word = "",
    q: Word = "",
    positive: bool = False,
    after: Annotated[str, Query(max_length=48)] = "",
    patients: Literal["", "show"] = "",
    limit: Annotated[int, Query(ge=1, le=worklist.MOST_ROWS)] = PAGE_ROWS,
) -> Wanted:
    """The filters of the address. Raises Problem for words that mean nothing."""
    for name, value, known in (
        ("state", state, STATES),
        ("priority", priority, PRIORITIES),
        ("delivery", delivery, DELIVERIES),
    ):
        if value and value not in known:
            raise Problem(422, f"{name} is one of: {', '.join(known)}")
    show = may_show(request, principal, asked=patients == "show")
    unseen = blinded.applies(request, principal)
    if positive and unseen:
        raise Problem(422, "what the models found is shown study by study here, once somebody has read it without")
    if q and not principal.may(Permission.PATIENTS_READ) and not re.fullmatch(r"[0-9.]+", q):
        # A search that answers yes or no would tell what the page hides.
        raise Problem(403, "this needs the right patients:read: without it only Study Instance UIDs can be looked for")
    text = q.strip()
    if text and not principal.may(Permission.PATIENTS_READ):
        found = Filter(state, priority, modality, model, delivery, "", positive, uid=text)
    else:
        found = Filter(state, priority, modality, model, delivery, text, positive)
    return Wanted(replace(found, ordered_only=unseen), _cursor(after), show, limit)


def may_show(request: Request, principal: Principal, *, asked: bool) -> bool:
    """Whether this page names patients: the right to it, and where the node masks them, a person's wish."""
    if not principal.may(Permission.PATIENTS_READ):
        return False
    return asked or not context_of(request).settings.web.mask_patients


Wish = Annotated[Wanted, Depends(wanted)]


def add_routes(app: FastAPI) -> None:
    app.get("/", include_in_schema=False)(show_worklist)
    app.get("/api/v1/studies", tags=["studies"], summary="Worklist")(list_studies)


def show_worklist(request: Request, principal: Reader, wish: Wish) -> Response:
    """The worklist as a page."""
    context = context_of(request)
    lines, following = _lines(request, principal, wish)
    with context.record.read() as session:
        kept = saved_views.views(session, principal.actor)
    return context.pages.render(
        "worklist.html",
        request,
        principal=principal,
        lines=lines,
        wish=wish,
        next=_address(request, after=following) if following else "",
        newest=_address(request, after="") if wish.after else "",
        shown=_address(request, patients="show"),
        maskable=context.settings.web.mask_patients and principal.may(Permission.PATIENTS_READ),
        filtered=wish.filter != Filter(ordered_only=wish.filter.ordered_only),
        blinded=wish.filter.ordered_only,
        views=kept,
        view=views.query_of(request.query_params.items()),
        most_views=saved_views.MOST_VIEWS,
        states=STATES,
        priorities=PRIORITIES,
        deliveries=DELIVERIES,
        now=utcnow(),
    )


def list_studies(request: Request, principal: Reader, wish: Wish) -> StudiesAnswer:
    """Studies, newest first."""
    lines, following = _lines(request, principal, wish)
    return StudiesAnswer(
        studies=[StudyAnswer(**as_answer(one)) for one in lines],
        next=_address(request, after=following) if following else None,
    )


def as_answer(one: Line) -> dict[str, Any]:
    """A line as the values of a StudyAnswer."""
    return {
        "study_instance_uid": one.uid,
        "patient_name": None if one.masked else one.patient,
        "patient_id": None if one.masked else one.patient_id,
        "accession_number": None if one.masked else one.accession,
        "study_description": None if one.masked else one.description,
        "requested_procedure": one.procedure or None,
        "order": one.order,
        "modalities": list(one.modalities),
        "body_parts": list(one.body_parts),
        "priority": one.priority or None,
        "age_s": round(one.age_s, 1),
        "target_s": one.target_s,
        "late": one.late,
        "state": one.state,
        "reason": one.reason,
        "top_finding": None if one.finding is None else asdict(one.finding),
        "models": one.models,
        "deliveries": {state: number for state, _, number in one.deliveries if number is not None},
        "images": one.images,
        "last_received_at": one.received_at,
    }


def _lines(request: Request, principal: Principal, wish: Wanted) -> tuple[list[Line], str]:
    """The lines, and where the next page begins. Patients shown where the node masks them are on record."""
    context, now = context_of(request), utcnow()
    with context.record.read() as session:
        found = worklist.page(session, wish.filter, after=wish.after, limit=wish.limit)
        unseen = blinded.hidden(request, principal, session, [row.study_instance_uid for row in found.rows])
    lines = [
        line(row, context.settings.web, now, show_patient=wish.show, show_ai=row.study_instance_uid not in unseen)
        for row in found.rows
    ]
    if wish.show and context.settings.web.mask_patients:
        with context.record.write() as session:
            audit.note(session, "patients_shown", actor=principal.actor, studies=len(lines))
    return lines, "" if found.after is None else _written(found.after)


def _cursor(text: str) -> Cursor | None:
    if not text:
        return None
    refused = Problem(422, "after is what the link to the next page says, and nothing else")
    found = _CURSOR.fullmatch(text)
    if found is None:
        raise refused
    try:
        moment = _EPOCH + int(found[1]) * _MICROSECOND
    except OverflowError as error:
        raise refused from error
    return Cursor(moment, int(found[2]))


def _written(cursor: Cursor) -> str:
    return f"{(cursor.last_received_at - _EPOCH) // _MICROSECOND}-{cursor.id}"


def _address(request: Request, **changes: str) -> str:
    """This page's own address with other parameters; all of it is encoded."""
    kept = {name: value for name, value in request.query_params.items() if value and name not in changes}
    query = urlencode({**kept, **{name: value for name, value in changes.items() if value}})
    return f"{request.url.path}?{query}" if query else request.url.path
