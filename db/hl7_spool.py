"""The queue of each HL7 destination: one message after the other, each kept as it was sent until it is answered.

A destination's queue is its deliveries in the order of their making. Only the first that is not settled is ever sent:
what is behind it waits, whatever the reason, so that a system never hears of a later revision first.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from db import audit, deliveries, identities, outbox
from db.domain import DueDelivery
from db.hl7_tables import SpooledMessage
from db.order_tables import Order
from db.states import DeliveryState
from db.tables import Delivery, Job, Result, Study
from db.transitions import affected, insert_ignore, move
from db.types import utcnow

D = DeliveryState
_UNSETTLED = (D.PENDING, D.SENDING)


@dataclass(frozen=True)
class Spooled:
    """A message as it was sent for the first time. acknowledged: a positive answer has come."""

    control_id: str
    body: bytes
    acknowledged: bool


@dataclass(frozen=True)
class Matter:
    """What a message is about: a finished job, and what orders say of its study. Protected health information.

    summary: as the job left it. placer_number, filler_number, procedure: "" where no HL7 order names the accession and
    the patient.
    """

    study_id: int
    study_instance_uid: str
    accession_number: str
    model: str
    model_version: str
    summary: dict[str, Any]
    analysed: bool
    finished_at: datetime
    placer_number: str = ""
    filler_number: str = ""
    procedure: str = ""


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


def matter(session: Session, delivery_id: int) -> Matter:
    """What the message of a delivery is about."""
    job, study = session.execute(
        select(Job, Study)
        .join(Delivery, Delivery.job_id == Job.id)
        .join(Study, Study.id == Job.study_id)
        .where(Delivery.id == delivery_id)
    ).one()
    numbers = {}
    if study.accession_number:
        heeded = identities.current(session, study.id)
        # By the numbers of another patient's order the receiver would file the result with that patient.
        patients = {study.patient_id, *([] if heeded is None else [heeded.identity.patient_id])} - {""}
        order = session.scalars(
            select(Order)
            .where(
                Order.accession_number == study.accession_number,
                Order.patient_id.in_(patients),
                Order.placer_number != "",
            )
            .order_by(Order.changed_at.desc(), Order.id.desc())
            .limit(1)
        ).one_or_none()
        if order is not None:
            numbers = {
                "placer_number": order.placer_number,
                "filler_number": order.filler_number,
                "procedure": order.procedure,
            }
    return Matter(
        study_id=study.id,
        study_instance_uid=study.study_instance_uid,
        accession_number=study.accession_number,
        model=job.model,
        model_version=job.model_version,
        summary=job.summary,
        analysed=any(image.get("analysed") for image in job.summary.get("images", [])),
        finished_at=job.finished_at or job.created_at,
        **numbers,
    )


def spooled(session: Session, delivery_id: int, kind: str) -> Spooled | None:
    """The message of that kind, where one was sent already."""
    row = _message(session, delivery_id, kind)
    return None if row is None else Spooled(row.control_id, row.body, row.acknowledged_at is not None)


def keep(session: Session, due: DueDelivery, owner: str, kind: str, *, control_id: str, body: bytes) -> bool:
    """Keep a message that is about to be sent for the first time. False when the delivery is no longer `owner`'s."""
    if all(one.id != due.id for one in deliveries.held(session, due.job_id, due.destination, owner)):
        return False
    return insert_ignore(
        session,
        SpooledMessage,
        delivery_id=due.id,
        kind=kind,
        control_id=control_id,
        body=body,
        written_at=utcnow(),
        answer="",
    )


def note_answer(session: Session, due: DueDelivery, owner: str, kind: str, answer: str, *, positive: bool) -> None:
    """Write down MSA-1 of an answer; a positive one is audited: then the receiver has the message."""
    row = _message(session, due.id, kind)
    if row is None or row.acknowledged_at is not None:
        return
    row.answer = answer
    if positive:
        row.acknowledged_at = utcnow()
        # Its content is the receiver's now; here it would only be another copy of a patient's data.
        row.body = b""
        audit.note(
            session,
            "message_sent",
            actor=owner,
            subject=row.control_id,
            study=due.ref.study_instance_uid,
            destination=due.destination,
            kind=kind,
        )


def accepted(session: Session, due: DueDelivery, owner: str, reason: str) -> bool:
    """All messages of a delivery are answered by AA: the receiver is responsible for them from now on."""
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
    # An answer of AA is the proof that storage commitment is for images.
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


def _message(session: Session, delivery_id: int, kind: str) -> SpooledMessage | None:
    query = select(SpooledMessage).where(SpooledMessage.delivery_id == delivery_id, SpooledMessage.kind == kind)
    return session.scalars(query).one_or_none()


def forget(session: Session, study_id: int) -> None:
    """Of what was sent about a study only that it was."""
    mine = select(Delivery.id).join(Job, Job.id == Delivery.job_id).where(Job.study_id == study_id)
    affected(session, update(SpooledMessage).where(SpooledMessage.delivery_id.in_(mine)).values(body=b""))


def messages(session: Session, limit: int | None = None) -> list[dict[str, Any]]:
    """What was sent, the newest first; nothing of its content."""
    rows = session.execute(
        select(SpooledMessage, Delivery, Result.study_instance_uid)
        .join(Delivery, Delivery.id == SpooledMessage.delivery_id)
        .join(Result, Result.id == Delivery.result_id)
        .order_by(SpooledMessage.id.desc())
        .limit(limit)
    )
    return [
        {
            "control_id": message.control_id,
            "kind": message.kind,
            "destination": delivery.destination,
            "study_instance_uid": study_uid,
            "job_id": delivery.job_id,
            "answer": message.answer,
            "state": delivery.state.value,
            "attempts": delivery.attempts,
            "reason": delivery.reason,
            "written_at": message.written_at.isoformat(),
            "acknowledged_at": message.acknowledged_at.isoformat() if message.acknowledged_at else None,
        }
        for message, delivery, study_uid in rows
    ]


def waiting(session: Session, destination: str) -> tuple[int, float]:
    """How many deliveries of a queue are not settled, and for how many seconds the first of them has been waiting."""
    number, oldest = session.execute(
        select(func.count(), func.min(Delivery.created_at)).where(
            Delivery.destination == destination, Delivery.state.in_(_UNSETTLED)
        )
    ).one()
    return number, 0.0 if oldest is None else max(0.0, (utcnow() - oldest).total_seconds())
