"""Changes of a patient's identity (ADT^A08, ADT^A40) and what they mean for studies that are here.

Work that is still to be done takes the new identity, and so does work that begins on the study later, for a late image
or because a person wants it read again. What is finished keeps the one it was made with; that it is superseded is on
record. A study that comes later is taken as its own header says.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import CompoundSelect, func, select, union_all, update
from sqlalchemy.orm import Session

from db import audit
from db.errors import RetriableError
from db.hl7_tables import IdentityChange, SpooledMessage
from db.order_tables import Order
from db.states import DeliveryState, JobState, StudyState
from db.tables import Delivery, Job, Result, Study
from db.transitions import affected
from db.types import utcnow

_TO_DO = (JobState.QUEUED, JobState.RUNNING, JobState.PARKED)


@dataclass(frozen=True)
class Identity:
    """Who a patient is from now on; "" leaves a value as it is. name: as DICOM writes it. birth_date: YYYYMMDD."""

    patient_id: str
    issuer: str = ""
    name: str = ""
    birth_date: str = ""
    sex: str = ""


@dataclass(frozen=True)
class Change:
    """What a message says: whoever had `superseded_id` is `identity` from now on."""

    superseded_id: str
    identity: Identity
    kind: Literal["update", "merge"]
    sender: str
    control_id: str


@dataclass(frozen=True)
class Correction:
    """The identity that work on a study takes instead of its images'. number: of the last change that it heeds."""

    identity: Identity
    at: datetime
    sender: str
    number: int


class IdentityChanged(RetriableError):
    """Work was done for an identity that was superseded meanwhile."""


@dataclass(frozen=True)
class Reached:
    """What a change meant: studies whose work takes it, and studies with finished results that do not."""

    applied: int
    superseded: int


def change(session: Session, told: Change, *, messages_to: Collection[str] = ()) -> Reached:
    """Bring a change to the studies of a patient, and to the orders.

    messages_to: destinations that are told of results by messages, which are written when they are sent.
    """
    # Orders first, as whoever matches them with studies does: the other way round two could wait for each other.
    _change_orders(session, told.superseded_id, told.identity)
    mine = select(Study).where(Study.id.in_(_once_of(told.superseded_id))).order_by(Study.id).with_for_update()
    reached = [
        _change_study(session, study, told, messages_to)
        for study in session.scalars(mine).all()
        if _patient_today(session, study) == told.superseded_id
    ]
    return Reached(sum(applied for applied, _ in reached), sum(finished > 0 for _, finished in reached))


def _once_of(patient_id: str) -> CompoundSelect[Any]:
    """Ids of studies whose images name that patient, or that an earlier change gave that id: each by its index."""
    changed = select(IdentityChange.study_id).where(IdentityChange.patient_id == patient_id)
    return union_all(select(Study.id).where(Study.patient_id == patient_id), changed)


def _patient_today(session: Session, study: Study) -> str:
    """Whose a study is now. A late word on an identifier that was merged away must not bring that one back."""
    heeded = current(session, study.id)
    return study.patient_id if heeded is None else heeded.identity.patient_id or study.patient_id


def _change_study(session: Session, study: Study, told: Change, messages_to: Collection[str]) -> tuple[bool, int]:
    if told.kind == "update" and not _tells_news(session, study, told.identity):
        # Of an address or an insurance: most of them are.
        return False, 0
    applied = _has_work(session, study, messages_to)
    finished = (
        session.scalar(
            select(func.count()).select_from(Result).join(Job, Job.id == Result.job_id).where(Job.study_id == study.id)
        )
        or 0
    )
    session.add(
        IdentityChange(
            study_id=study.id,
            kind=told.kind,
            sender=told.sender,
            control_id=told.control_id,
            superseded_patient_id=told.superseded_id,
            patient_id=told.identity.patient_id,
            issuer=told.identity.issuer,
            patient_name=told.identity.name,
            birth_date=told.identity.birth_date,
            sex=told.identity.sex,
            finished_results=finished,
            applied=applied,
            at=utcnow(),
        )
    )
    audit.note(
        session,
        "patient_identity_changed",
        actor=told.sender,
        subject=study.study_instance_uid,
        kind=told.kind,
        message=told.control_id,
        applied=applied,
        finished_results=finished,
    )
    return applied, finished


def _tells_news(session: Session, study: Study, identity: Identity) -> bool:
    heeded = current(session, study.id)
    known = Identity("") if heeded is None else heeded.identity
    pairs = (
        (identity.name, known.name or study.patient_name),
        (identity.birth_date, known.birth_date or study.patient_birth_date),
        # The record does not hold what the images say of it: the first update that tells it counts as news.
        (identity.sex, known.sex),
    )
    return any(told and told.rstrip("^= ") != before.rstrip("^= ") for told, before in pairs)


def _has_work(session: Session, study: Study, messages_to: Collection[str]) -> bool:
    """Is anything of the study still to be made: a reading, or a message that was never sent?"""
    if study.state is StudyState.RECEIVING:
        return True
    to_do = select(Job.id).where(Job.study_id == study.id, Job.state.in_(_TO_DO))
    unwritten = (
        select(Delivery.id)
        .join(Job, Job.id == Delivery.job_id)
        .outerjoin(SpooledMessage, SpooledMessage.delivery_id == Delivery.id)
        .where(
            Job.study_id == study.id,
            Delivery.destination.in_(messages_to),
            Delivery.state.in_([DeliveryState.PENDING, DeliveryState.SENDING]),
            SpooledMessage.id.is_(None),
        )
    )
    return any(session.scalar(query.limit(1)) is not None for query in (to_do, unwritten))


def _change_orders(session: Session, superseded_id: str, identity: Identity) -> None:
    values = {
        "patient_id": identity.patient_id,
        "patient_name": identity.name,
        "patient_birth_date": identity.birth_date,
        "patient_sex": identity.sex,
        "changed_at": utcnow(),
    }
    given = {name: value for name, value in values.items() if value}
    for order in session.scalars(select(Order).where(Order.patient_id == superseded_id)).all():
        told_already = select(Order.id).where(
            Order.id != order.id,
            Order.source == order.source,
            Order.accession_number == order.accession_number,
            Order.requested_procedure_id == order.requested_procedure_id,
            Order.patient_id == identity.patient_id,
        )
        if session.scalar(told_already) is None:
            affected(session, update(Order).where(Order.id == order.id).values(**given))


def current(session: Session, study_id: int) -> Correction | None:
    """Whom work on a study is for, where that changed after it came; None where it did not."""
    told_of = session.scalars(
        select(IdentityChange)
        .where(IdentityChange.study_id == study_id, IdentityChange.patient_id != "")
        .order_by(IdentityChange.id)
    ).all()
    if not told_of:
        return None
    values: dict[str, str] = {}
    for one in told_of:
        told = {
            "patient_id": one.patient_id,
            "issuer": one.issuer,
            "name": one.patient_name,
            "birth_date": one.birth_date,
            "sex": one.sex,
        }
        values |= {name: value for name, value in told.items() if value}
    last = told_of[-1]
    return Correction(Identity(**{"patient_id": "", **values}), last.at, last.sender, last.id)


def of_study(session: Session, study_instance_uid: str) -> Correction | None:
    """`current` by UID."""
    return current(session, _study_id(session, study_instance_uid))


def require_unchanged(session: Session, study_instance_uid: str, heeded: Correction | None) -> None:
    """Raise IdentityChanged unless `heeded` is still `of_study`; until the commit no change comes in between."""
    study_id = _study_id(session, study_instance_uid, lock=True)
    if current(session, study_id) != heeded:
        raise IdentityChanged("the patient's identity was changed while the images were read; they are read again")


def _study_id(session: Session, study_instance_uid: str, *, lock: bool = False) -> int:
    query = select(Study.id).where(Study.study_instance_uid == study_instance_uid)
    return session.scalars(query.with_for_update() if lock else query).one()


def forget(session: Session, study_id: int) -> None:
    """Of a study's changes only that there were some; images that come for it later are taken as they are."""
    texts = ("superseded_patient_id", "patient_id", "issuer", "patient_name", "birth_date", "sex")
    mine = update(IdentityChange).where(IdentityChange.study_id == study_id)
    affected(session, mine.values(**dict.fromkeys(texts, ""), applied=False))


def changes(session: Session, limit: int | None = None) -> list[dict[str, Any]]:
    """What changed, the newest first; nothing here names a patient."""
    rows = session.execute(
        select(IdentityChange, Study.study_instance_uid)
        .join(Study, Study.id == IdentityChange.study_id)
        .order_by(IdentityChange.id.desc())
        .limit(limit)
    )
    return [
        {
            "study_instance_uid": study_uid,
            "kind": one.kind,
            "sender": one.sender,
            "control_id": one.control_id,
            "applied": one.applied,
            "finished_results": one.finished_results,
            "at": one.at.isoformat(),
        }
        for one, study_uid in rows
    ]
