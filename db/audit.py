"""What happened, for the record. Append only."""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm import Session

from db.tables import Audit
from db.types import utcnow


def note(
    session: Session, event: str, *, actor: str, subject: str = "", outcome: str = "success", **detail: Any
) -> None:
    """Append one event in the caller's transaction, so that it is there exactly if what it tells of is.

    actor: who did it (AE title, worker, command). subject: a UID or row id, never a patient.
    """
    session.add(Audit(at=utcnow(), event=event, outcome=outcome, actor=actor, subject=subject, detail=detail))
