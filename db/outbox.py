"""Messages that must go out, written in the same commit as what they announce.

A message is a hint: whoever gets it asks the database whether there is anything to do. Losing all of them, or
delivering each twice, changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from db.tables import Outbox
from db.transitions import affected
from db.types import utcnow

TOPIC_INFER = "infer"
TOPIC_INFER_STAT = "infer.stat"
TOPIC_DELIVER = "deliver"


@dataclass(frozen=True)
class Message:
    id: int
    topic: str
    subject: str


def announce(session: Session, topic: str, subject: str, *, at: datetime | None = None) -> None:
    """Queue a message for the relay; `at` delays it."""
    now = utcnow()
    session.add(Outbox(topic=topic, subject=subject, created_at=now, available_at=at or now))


def claim(session: Session, owner: str, *, limit: int, lease_s: float) -> list[Message]:
    """Lease up to `limit` due messages, oldest first. A lease that runs out makes the row due again."""
    now = utcnow()
    due = select(Outbox.id).where(Outbox.available_at <= now).order_by(Outbox.available_at, Outbox.id).limit(limit)
    if session.get_bind().dialect.name == "postgresql":
        due = due.with_for_update(skip_locked=True)
    ids = list(session.scalars(due))
    if not ids:
        return []
    affected(
        session,
        update(Outbox)
        .where(Outbox.id.in_(ids))
        .values(lease_owner=owner, available_at=now + timedelta(seconds=lease_s), attempts=Outbox.attempts + 1),
    )
    rows = session.execute(
        select(Outbox.id, Outbox.topic, Outbox.subject).where(Outbox.id.in_(ids)).order_by(Outbox.id)
    )
    return [Message(row[0], row[1], row[2]) for row in rows]


def any_due(session: Session) -> bool:
    """Is there anything to claim? Takes no lock, so that an idle relay costs the record nothing."""
    return session.scalar(select(Outbox.id).where(Outbox.available_at <= utcnow()).limit(1)) is not None


def give_back(session: Session, ids: list[int], owner: str) -> None:
    """The broker did not take them: due again at once."""
    mine = (Outbox.id.in_(ids), Outbox.lease_owner == owner)
    affected(session, update(Outbox).where(*mine).values(available_at=utcnow(), lease_owner=""))


def done(session: Session, ids: list[int]) -> None:
    """The broker has them."""
    affected(session, delete(Outbox).where(Outbox.id.in_(ids)))


def waiting(session: Session) -> int:
    """How many messages the broker has not got yet."""
    return session.scalar(select(func.count()).select_from(Outbox)) or 0
