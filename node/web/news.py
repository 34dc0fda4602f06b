"""Whether a study has changed since its page was loaded: said there, and shown when the reader wants it.

A page that renewed itself under a reader's eyes would move what they look at, and put on record looks that nobody took.
"""

from __future__ import annotations

import hashlib
from typing import Annotated

from fastapi import Depends, FastAPI, Query, Request, Response

from db import identities, readings, worklist
from db.identities import Correction
from db.readings import ReadingView
from db.types import utcnow
from db.worklist import StudyRow
from node.uids import valid_uid
from node.web import blinded
from node.web.access import Access
from node.web.context import context_of
from node.web.identity import Principal
from node.web.permissions import Permission
from node.web.problems import Problem
from node.web.rows import Line, line

Reader = Annotated[Principal, Depends(Access(Permission.STUDIES_READ))]
Seen = Annotated[str, Query(max_length=64)]


def mark_of(told: Line, row: StudyRow, said: list[ReadingView], correction: Correction | None) -> str:
    """Another text when something of what the study's page shows is another. Of patients it holds nothing."""
    changed = 0 if correction is None else correction.number
    shown = (told.state_text, told.reason, told.priority, told.order, told.deliveries, told.images, told.models)
    # What is hidden until a first reading must not show by a mark either.
    runs = () if told.hidden else tuple((job.id, job.state.value) for job in row.jobs)
    return hashlib.sha256(repr((shown, runs, len(said), changed)).encode()).hexdigest()[:16]


def add_routes(app: FastAPI) -> None:
    app.get("/studies/{uid}/news", include_in_schema=False)(news)


def news(request: Request, principal: Reader, uid: str, seen: Seen = "") -> Response:
    """204 while the study is as it was seen, else a sentence that says it is not."""
    context = context_of(request)
    with context.record.read() as session:
        row = worklist.study(session, uid) if valid_uid(uid) else None
        if row is None:
            raise Problem(404, "no study of that UID was received")
        said = readings.of_study(session, uid)
        correction = identities.of_study(session, uid)
        hidden = bool(blinded.hidden(request, principal, session, [uid]))
    told = line(row, context.settings.web, utcnow(), show_patient=False, show_ai=not hidden)
    if mark_of(told, row, said, correction) == seen:
        return Response(status_code=204)
    return context.pages.render("news.html", request, principal=principal, state=told.state_text)
