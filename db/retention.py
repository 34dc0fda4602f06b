"""What may go: studies whose images have done their work, results that a peer has proved to hold, old notes.

Finished means that nothing about it is still to be done or to be looked at: every image has its outcome, every job has
ended, every result was sent and answered for. What was never sent is nowhere else, and is not for a clock to delete.
"""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, case, delete, exists, func, literal_column, or_, select
from sqlalchemy.orm import Session

from db.house_tables import Deletion
from db.prior_tables import PriorImage
from db.states import (
    CommitmentState,
    DeletionScope,
    DeletionState,
    DeliveryState,
    InstanceState,
    JobState,
    RefusalKind,
    StudyState,
)
from db.tables import Commitment, Delivery, Instance, Job, Refusal, Result, Study
from db.transitions import affected

# Not with a bound value: of an index on a part of the rows a database must see that it is the same part.
_IS_QUARANTINED = Instance.state == literal_column(f"'{InstanceState.QUARANTINED}'")
_IS_HERE = Refusal.path != literal_column("''")
_IN_WORK = (InstanceState.RECEIVED, InstanceState.ROUTED)
_FOR_A_PERSON = (InstanceState.QUARANTINED, InstanceState.FAILED)
_ENDED = (JobState.DONE, JobState.NOT_ANALYSED, JobState.SUPERSEDED)
_ON_ITS_WAY = (DeliveryState.PENDING, DeliveryState.SENDING, DeliveryState.SENT)
_TAKEN = (DeliveryState.CONFIRMED, DeliveryState.UNCONFIRMED)


def _open_ends(before: datetime | None, *, waiting: bool) -> dict[str, ColumnElement[bool]]:
    """What keeps a study from being finished, in words, as conditions on `Study`.

    before: what ended at that moment or later keeps it too; None takes any end. waiting: what waits for a person does
    not keep it.
    """
    image = Instance.study_id == Study.id
    job = Job.study_id == Study.id
    delivery = and_(Delivery.job_id == Job.id, job)
    found: dict[str, ColumnElement[bool]] = {
        "images are not read yet": exists().where(image, Instance.state.in_(_IN_WORK)),
        "jobs are not done": exists().where(job, Job.state.in_((JobState.QUEUED, JobState.RUNNING))),
        "results are not delivered": exists().where(delivery, Delivery.state.in_(_ON_ITS_WAY)),
    }
    if not waiting:
        nowhere = ~exists().where(Delivery.result_id == Result.id, Delivery.state != DeliveryState.WITHDRAWN)
        # Said so that SQLite looks up the results of the job, and not all that are not deleted.
        kept = case((Result.deleted_at.is_(None), 1), else_=0) == 1
        found |= {
            "images wait for a person": exists().where(image, Instance.state.in_(_FOR_A_PERSON)),
            "jobs are parked": exists().where(job, Job.state == JobState.PARKED),
            "deliveries are dead letters": exists().where(delivery, Delivery.state == DeliveryState.DEAD),
            "results were sent nowhere": exists().where(Result.job_id == Job.id, job, kept, nowhere),
        }
    if before is not None:
        last = func.coalesce(Delivery.confirmed_at, Delivery.sent_at)
        found |= {
            "its work has ended lately": exists().where(job, Job.finished_at >= before),
            "its results were sent lately": exists().where(delivery, last >= before),
        }
    return found


def unfinished(session: Session, study_id: int, *, before: datetime | None, waiting: bool) -> list[str]:
    """Why a study is not finished; empty where it is."""
    ends = _open_ends(before, waiting=waiting)
    row = session.execute(select(*ends.values()).select_from(Study).where(Study.id == study_id)).one()
    reasons = [words for words, holds in zip(ends, row, strict=True) if holds]
    if session.scalar(select(Study.state).where(Study.id == study_id)) is StudyState.RECEIVING:
        reasons.insert(0, "images are, or may still be, arriving")
    return reasons


def due_studies(session: Session, before: datetime, *, waiting: bool = False, limit: int) -> list[int]:
    """Row ids of finished studies whose last image came before that moment, the oldest first."""
    ends = _open_ends(before, waiting=waiting).values()
    query = (
        select(Study.id)
        .where(Study.state == StudyState.COMPLETE, Study.last_received_at < before, *(~end for end in ends))
        .order_by(Study.last_received_at)
        .limit(limit)
    )
    return list(session.scalars(query))


def due_results(session: Session, before: datetime, *, unconfirmed: bool = False, limit: int) -> list[list[int]]:
    """Row ids of results that every destination has proved to hold since before that moment, a list for each study.

    unconfirmed: also those that were sent to peers that offer no proof.
    """
    mine = Delivery.result_id == Result.id
    taken = _TAKEN if unconfirmed else (DeliveryState.CONFIRMED,)
    last = func.coalesce(Delivery.confirmed_at, Delivery.sent_at)
    query = (
        select(Job.study_id, Result.id)
        .join(Job, Job.id == Result.job_id)
        .where(
            Result.deleted_at.is_(None),
            Result.created_at < before,
            exists().where(mine, Delivery.state.in_(taken)),
            # What the settings keep from a destination, it is not waited for.
            ~exists().where(mine, or_(Delivery.state.not_in((*taken, DeliveryState.WITHDRAWN)), last >= before)),
        )
        .order_by(Result.created_at)
        .limit(limit)
    )
    found: dict[int, list[int]] = defaultdict(list)
    for study_id, result_id in session.execute(query):
        found[study_id].append(result_id)
    return list(found.values())


def due_aside(session: Session, before: datetime, *, limit: int) -> list[int]:
    """Row ids of refusals whose object was set aside before that moment and is still here."""
    query = (
        select(Refusal.id)
        .where(Refusal.kind == RefusalKind.CONFLICT, _IS_HERE, Refusal.at < before)
        .order_by(Refusal.at)
        .limit(limit)
    )
    return list(session.scalars(query))


def aside_bytes(session: Session) -> int:
    """How much lies in quarantine: images of another patient than their study's, and objects set aside."""
    images = select(func.sum(Instance.size_bytes)).where(_IS_QUARANTINED)
    objects = select(func.sum(Refusal.size_bytes)).where(Refusal.kind == RefusalKind.CONFLICT, _IS_HERE)
    return int(session.scalar(images) or 0) + int(session.scalar(objects) or 0)


def first_received(session: Session) -> datetime | None:
    """When the first image came of which this record knows; None where it knows of none."""
    return session.scalar(select(Study.first_received_at).order_by(Study.id).limit(1))


def leaving_quarantine() -> Select[list[Any]]:
    """Paths, a list for each deletion under way, of what is deleted out of quarantine while its study stays."""
    going = Deletion.state == DeletionState.BEGUN, Deletion.scope == DeletionScope.ASIDE
    return select(Deletion.paths).where(*going)


def is_named(session: Session, path: str, sop_instance_uid: str) -> bool:
    """Does the record know that file of that object, or a deletion that is under way?

    Asked by UID, which has an index; paths have none.
    """
    here = [
        select(Instance.id).where(Instance.sop_instance_uid == sop_instance_uid, Instance.path == path),
        select(Result.id).where(
            Result.sop_instance_uid == sop_instance_uid, Result.path == path, Result.deleted_at.is_(None)
        ),
        # The same report under another SOP class has a UID, and a file, of its own.
        select(Delivery.id)
        .join(Result, Result.id == Delivery.result_id)
        .where(Delivery.sent_sop_instance_uid == sop_instance_uid, Result.deleted_at.is_(None)),
        select(Refusal.id).where(Refusal.sop_instance_uid == sop_instance_uid, Refusal.path == path),
    ]
    if any(session.scalar(query.limit(1)) is not None for query in here):
        return True
    return is_prior(session, path, sop_instance_uid) or is_going(session, path)


def is_prior(session: Session, path: str, sop_instance_uid: str) -> bool:
    """Is that a file of a prior study, fetched to compare another with?"""
    here = [PriorImage.sop_instance_uid == sop_instance_uid, PriorImage.path == path]
    return session.scalar(select(PriorImage.id).where(*here).limit(1)) is not None


def is_going(session: Session, path: str) -> bool:
    """Is a deletion of that file under way?"""
    going = session.scalars(select(Deletion.paths).where(Deletion.state == DeletionState.BEGUN))
    return any(path in paths for paths in going)


def prune_notes(session: Session, before: datetime, *, limit: int) -> int:
    """Forget refusals without a file, and settled storage commitments, from before that moment. Returns how many rows.

    That something was refused stays in the audit.
    """
    refusals, commitments = _old_notes(before)
    count = 0
    ids = session.scalars(refusals.limit(limit)).all()
    if ids:
        count += affected(session, delete(Refusal).where(Refusal.id.in_(ids)))
    uids = session.scalars(commitments.limit(limit)).all()
    if uids:
        count += affected(session, delete(Commitment).where(Commitment.transaction_uid.in_(uids)))
    return count


def any_notes(session: Session, before: datetime) -> bool:
    """Whether `prune_notes` would find something. Takes no lock."""
    return any(session.scalar(query.limit(1)) is not None for query in _old_notes(before))


def _old_notes(before: datetime) -> tuple[Select[int], Select[str]]:
    refusals = select(Refusal.id).where(Refusal.at < before, Refusal.path == "").order_by(Refusal.at)
    waits = and_(Delivery.commitment_uid == Commitment.transaction_uid, Delivery.state == DeliveryState.SENT)
    commitments = select(Commitment.transaction_uid).where(
        Commitment.state != CommitmentState.ASKED, Commitment.asked_at < before, ~exists().where(waits)
    )
    return refusals, commitments
