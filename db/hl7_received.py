"""Messages that were taken: one that comes again is known by its control id and its content, and does nothing."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from db.hl7_tables import ReceivedMessage
from db.transitions import affected, insert_ignore
from db.types import utcnow


@dataclass(frozen=True)
class NewMessage:
    """sender: MSH-3^MSH-4. digest: SHA-256 of what follows MSH. outcome: what it did; names no patient."""

    sender: str
    control_id: str
    digest: str
    kind: str
    peer_address: str


def take(session: Session, new: NewMessage) -> bool:
    """Write a message down in the transaction that does what it asks. False where it was taken before."""
    return insert_ignore(session, ReceivedMessage, **vars(new), outcome="", received_at=utcnow())


def note_outcome(session: Session, new: NewMessage, outcome: str) -> None:
    """What the message did, in the same transaction."""
    row = session.scalars(
        select(ReceivedMessage).where(
            ReceivedMessage.sender == new.sender,
            ReceivedMessage.control_id == new.control_id,
            ReceivedMessage.digest == new.digest,
        )
    ).one()
    row.outcome = outcome


def prune(session: Session, before: datetime) -> int:
    """Forget what was taken before that moment; returns how many."""
    return affected(session, delete(ReceivedMessage).where(ReceivedMessage.received_at < before))


def received(session: Session, limit: int | None = None) -> list[dict[str, Any]]:
    """What was taken, the newest first; nothing of its content."""
    rows = session.scalars(select(ReceivedMessage).order_by(ReceivedMessage.id.desc()).limit(limit))
    return [
        {
            "control_id": one.control_id,
            "kind": one.kind,
            "sender": one.sender,
            "peer_address": one.peer_address,
            "outcome": one.outcome,
            "received_at": one.received_at.isoformat(),
        }
        for one in rows
    ]


def counts(session: Session) -> dict[str, int]:
    """How many were taken of each kind, of those that are still known."""
    rows = session.execute(select(ReceivedMessage.kind, func.count()).group_by(ReceivedMessage.kind))
    return {row[0]: row[1] for row in rows}
