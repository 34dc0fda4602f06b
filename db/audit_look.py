"""A page of the audit trail, newest first, that costs the same however long the trail is."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from db import audit
from db.audit import Entry, Wanted
from db.audit_tables import AuditLink
from db.tables import Audit

# How many rows of the trail one page looks through. A subject's rows are found by their index instead.
WINDOW = 50_000


@dataclass(frozen=True)
class Look:
    """entries: newest first. before: where the next page goes on; None at the trail's beginning."""

    entries: tuple[Entry, ...]
    before: int | None


def look(session: Session, wanted: Wanted, *, before: int | None = None, limit: int = 50) -> Look:
    """What matches among the rows before that id. A page may be short, or empty, though older rows match."""
    newest = session.scalar(select(func.max(Audit.id))) or 0
    top = newest + 1 if before is None else min(before, newest + 1)
    low = 0 if wanted.subject else max(0, top - WINDOW)
    query = (
        select(Audit, AuditLink.position, AuditLink.digest)
        .outerjoin_from(Audit, AuditLink, AuditLink.audit_id == Audit.id)
        .where(Audit.id < top, Audit.id >= low)
        .order_by(Audit.id.desc())
        .limit(limit + 1)
    )
    rows = list(session.execute(audit.narrowed(query, wanted)))
    found = tuple(audit.entry(row, position, digest or "") for row, position, digest in rows[:limit])
    if len(rows) > limit:
        return Look(found, found[-1].id)
    return Look(found, low if low > 1 and not _begins_after(wanted, session, low) else None)


def _begins_after(wanted: Wanted, session: Session, low: int) -> bool:
    """Whether everything wanted is younger than the rows at `low`."""
    if wanted.since is None:
        return False
    at = session.scalar(select(Audit.at).where(Audit.id >= low).order_by(Audit.id).limit(1))
    return at is not None and at < wanted.since
