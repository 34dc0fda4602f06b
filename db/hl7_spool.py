"""HL7 messages as they were sent: each is kept until it is answered, so that one sent again is the same to the byte.

Their order is that of `db.queues`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from db import audit, deliveries, identities
from db.domain import DueDelivery
from db.hl7_tables import SpooledMessage
from db.order_tables import Order
from db.tables import Delivery, Job, Result, Study
from db.transitions import affected, insert_ignore
from db.types import utcnow


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
