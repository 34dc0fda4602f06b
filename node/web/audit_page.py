"""The audit's page: filter and export. That it was looked at, or taken away, is on record too."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.responses import StreamingResponse

from db import audit, audit_look
from db.audit import Entry, Wanted
from db.audit_events import EVENTS
from db.session import Record
from node.web.access import Access
from node.web.context import Context, context_of
from node.web.guard import client_of
from node.web.identity import Principal
from node.web.permissions import Permission
from node.web.problems import Problem

Auditor = Annotated[Principal, Depends(Access(Permission.AUDIT_READ))]
Word = Annotated[str, Query(max_length=128, pattern=r"^[^\x00-\x1f\x7f]*$")]
OUTCOMES = ("success", "warning", "failure")
FORMATS = {"csv": "text/csv; charset=utf-8", "jsonl": "application/x-ndjson"}
COLUMNS = ("id", "at", "event", "outcome", "actor", "subject", "detail", "position", "digest")
PAGE_ROWS = 100
EXPORT_ROWS = 500
# A spreadsheet takes these for the beginning of a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


@dataclass(frozen=True)
class Asked:
    """The filters of the address, and the words they were written in."""

    wanted: Wanted
    words: dict[str, str]


def asked(
    *,
    event: Word = "",
    actor: Word = "",
    subject: Word = "",
    outcome: Word = "",
    since: Annotated[str, Query(max_length=32)] = "",
    until: Annotated[str, Query(max_length=32)] = "",
) -> Asked:
    """Raises Problem for words that mean nothing."""
    if event and event not in EVENTS:
        raise Problem(422, "there is no such event")
    if outcome and outcome not in OUTCOMES:
        raise Problem(422, f"outcome is one of: {', '.join(OUTCOMES)}")
    words = {"event": event, "actor": actor, "subject": subject, "outcome": outcome, "since": since, "until": until}
    wanted = Wanted((event,) if event else (), actor, subject, outcome, _moment(since), _moment(until))
    return Asked(wanted, {name: value for name, value in words.items() if value})


Filters = Annotated[Asked, Depends(asked)]


def add_routes(app: FastAPI) -> None:
    app.get("/audit", include_in_schema=False)(show_audit)
    app.get("/audit/export", include_in_schema=False)(export)


def show_audit(
    request: Request, principal: Auditor, filters: Filters, before: Annotated[int | None, Query(ge=1)] = None
) -> Response:
    """A page of the trail, newest first."""
    context = context_of(request)
    with context.record.read() as session:
        found = audit_look.look(session, filters.wanted, before=before, limit=PAGE_ROWS)
    _note(context, request, principal, "page", filters)
    return context.pages.render(
        "audit.html",
        request,
        principal=principal,
        entries=found.entries,
        words=filters.words,
        events=sorted(EVENTS),
        outcomes=OUTCOMES,
        formats=[(name, _address("/audit/export", {**filters.words, "format": name})) for name in FORMATS],
        older="" if found.before is None else _address("/audit", {**filters.words, "before": str(found.before)}),
        newest=_address("/audit", filters.words) if before is not None else "",
        window=audit_look.WINDOW,
    )


def export(
    request: Request,
    principal: Auditor,
    filters: Filters,
    form: Annotated[Literal["csv", "jsonl"], Query(alias="format")] = "jsonl",
) -> Response:
    """Everything that matches, oldest first, as it is read: the trail may be larger than memory."""
    context = context_of(request)
    # First, for what is written is out even if the rest fails.
    _note(context, request, principal, f"export as {form}", filters)
    lines = _csv if form == "csv" else _jsonl
    return StreamingResponse(
        lines(context.record, filters.wanted),
        media_type=FORMATS[form],
        headers={"Content-Disposition": f'attachment; filename="radnode-audit.{form}"'},
    )


def _entries(record: Record, wanted: Wanted) -> Iterator[Entry]:
    """In short reads: whoever takes an export slowly, or not at all, holds no connection and no snapshot open."""
    after = 0
    while True:
        with record.read() as session:
            found = list(audit.entries(session, wanted, limit=EXPORT_ROWS, after=after))
        yield from found
        if len(found) < EXPORT_ROWS:
            return
        after = found[-1].id


def _jsonl(record: Record, wanted: Wanted) -> Iterator[str]:
    for one in _entries(record, wanted):
        yield json.dumps({"position": one.position, "digest": one.digest, **one.values}) + "\n"


def _csv(record: Record, wanted: Wanted) -> Iterator[str]:
    yield _line(COLUMNS)
    for one in _entries(record, wanted):
        yield _line([_cell(one, name) for name in COLUMNS])


def _cell(one: Entry, name: str) -> str:
    if name == "detail":
        return json.dumps(one.detail)
    value = one.values[name] if name in one.values else getattr(one, name)
    text = "" if value is None else str(value)
    return f"'{text}" if text.startswith(_FORMULA) else text


def _line(cells: Any) -> str:
    buffer = io.StringIO()
    csv.writer(buffer).writerow(cells)
    return buffer.getvalue()


def _note(context: Context, request: Request, principal: Principal, how: str, filters: Asked) -> None:
    with context.record.write() as session:
        audit.note(
            session,
            "audit_used",
            actor=principal.actor,
            address=client_of(request).address,
            how=how,
            events=list(filters.wanted.events),
            of_actor=filters.wanted.actor,
            of_subject=filters.wanted.subject,
        )


def _moment(text: str) -> datetime | None:
    """ISO 8601; UTC where it names no zone, as a browser's date field does."""
    if not text:
        return None
    try:
        found = datetime.fromisoformat(text)
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise Problem(422, "since and until are moments in ISO 8601, such as 2026-11-25T08:00") from error


def _address(path: str, words: dict[str, str]) -> str:
    return f"{path}?{urlencode(words)}" if words else path
