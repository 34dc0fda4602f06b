"""The queue of a destination that takes one thing after the other: HL7 messages, FHIR bundles.

It is the destination's deliveries in the order of their making. Only the first that is not settled is ever sent: what
is behind it waits, whatever the reason, so that a system never hears of a later revision first.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import datetime, timedelta

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from db import deliveries, outbox
from db.domain import DueDelivery
from db.states import DeliveryState
from db.tables import Delivery
from db.transitions import affected, move
from db.types import utcnow

D = DeliveryState
_UNSETTLED = (D.PENDING, D.SENDING)


def head_due(session: Session, destination: str) -> bool:
    """Could the first of the queue be sent now? Takes no lock."""
    head = _head(session, destination)
    return head is not None and head.is_due(utcnow())


def rest(session: Session, destination: str, until: datetime, reason: str) -> None:
    """Nothing of the queue is sent before `until`."""
    head = _head(session, destination)
    if head is not None and affected(
        session,
        update(Delivery)
        .where(Delivery.id == head.id, Delivery.state == D.PENDING)
        .values(next_attempt_at=until, reason=reason),
    ):
        announce(session, destination, until)


def announce(session: Session, destination: str, at: datetime | None = None) -> None:
    """Have a sender look at the queue; does nothing for an empty one."""
    head = _head(session, destination)
    if head is not None:
        outbox.announce(session, outbox.TOPIC_DELIVER, f"{head.job_id}:{destination}", at=at)


def claim_head(session: Session, destination: str, owner: str, *, lease_s: float) -> DueDelivery | None:
    """Take the first of the queue; None while it is not due or another sender has it."""
    now = utcnow()
    head = _head(session, destination)
    if head is None or not head.is_due(now):
        return None
    same = [Delivery.id == head.id, Delivery.attempts == head.attempts]
    if head.state is D.SENDING:
        move(session, Delivery, [*same, Delivery.lease_until < now], D.SENDING, D.PENDING, reason="its sender stopped")
    if not move(
        session,
        Delivery,
        same,
        D.PENDING,
        D.SENDING,
        attempts=head.attempts + 1,
        lease_owner=owner,
        lease_until=now + timedelta(seconds=lease_s),
    ):
        return None
    mine = deliveries.held(session, head.job_id, destination, owner)
    return next((due for due in mine if due.id == head.id), None)


def held(session: Session, destination: str, owner: str) -> list[DueDelivery]:
    """What `owner` has claimed of a queue and not settled."""
    jobs = session.scalars(
        select(Delivery.job_id)
        .where(Delivery.destination == destination, Delivery.state == D.SENDING, Delivery.lease_owner == owner)
        .distinct()
    )
    return [due for job_id in jobs.all() for due in deliveries.held(session, job_id, destination, owner)]


def accepted(session: Session, due: DueDelivery, owner: str, reason: str) -> bool:
    """The receiver has said that it has it: from now on it is responsible for it."""
    here = [Delivery.id == due.id]
    if not move(
        session,
        Delivery,
        [*here, Delivery.lease_owner == owner],
        D.SENDING,
        D.SENT,
        sent_at=utcnow(),
        lease_owner="",
        lease_until=None,
        reason=reason,
    ):
        return False
    # That answer is the proof that storage commitment is for images.
    move(session, Delivery, here, D.SENT, D.CONFIRMED, confirmed_at=utcnow())
    return True


def withdraw(session: Session, due: DueDelivery, owner: str, reason: str) -> bool:
    """The destination is not to be told of it."""
    here = [Delivery.id == due.id]
    return bool(
        move(
            session,
            Delivery,
            [*here, Delivery.lease_owner == owner],
            D.SENDING,
            D.PENDING,
            lease_owner="",
            lease_until=None,
        )
        and move(session, Delivery, here, D.PENDING, D.WITHDRAWN, reason=reason)
    )


def waiting(session: Session, destination: str) -> tuple[int, float]:
    """How many deliveries of a queue are not settled, and for how many seconds the first of them has been waiting."""
    number, oldest = session.execute(
        select(func.count(), func.min(Delivery.created_at)).where(
            Delivery.destination == destination, Delivery.state.in_(_UNSETTLED)
        )
    ).one()
    return number, 0.0 if oldest is None else max(0.0, (utcnow() - oldest).total_seconds())


@dataclass(frozen=True)
class _Head:
    id: int
    job_id: str
    state: DeliveryState
    attempts: int
    next_attempt_at: datetime
    lease_until: datetime | None

    def is_due(self, now: datetime) -> bool:
        if self.state is D.SENDING:
            return self.lease_until is not None and self.lease_until < now
        return self.next_attempt_at <= now


def _head(session: Session, destination: str) -> _Head | None:
    # Columns, not rows of the session: what they say is changed behind its back. One look by index for each state.
    columns = [getattr(Delivery, field.name) for field in fields(_Head)]
    found = [
        session.execute(
            select(*columns)
            .where(Delivery.destination == destination, Delivery.state == state)
            .order_by(Delivery.id)
            .limit(1)
        ).one_or_none()
        for state in _UNSETTLED
    ]
    return min((_Head(*one) for one in found if one is not None), key=lambda head: head.id, default=None)
