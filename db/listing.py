"""Read-only lists for people and scripts. No column here names a patient."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from db import orders
from db.order_tables import StudyOrder
from db.states import DeliveryState, InstanceState, JobState, StudyState
from db.tables import Delivery, Instance, Job, Refusal, Result, Revision, Series, Study

Row = dict[str, Any]

_STATES: dict[str, InstrumentedAttribute[Any]] = {
    "studies": Study.state,
    "instances": Instance.state,
    "jobs": Job.state,
    "deliveries": Delivery.state,
}
# The others are where rows end, and lie in their thousands.
OPEN_STATES: dict[str, frozenset[StrEnum]] = {
    "studies": frozenset({StudyState.RECEIVING, StudyState.DELETING}),
    "instances": frozenset(
        {InstanceState.RECEIVED, InstanceState.ROUTED, InstanceState.FAILED, InstanceState.QUARANTINED}
    ),
    "jobs": frozenset({JobState.QUEUED, JobState.RUNNING, JobState.PARKED}),
    "deliveries": frozenset({DeliveryState.PENDING, DeliveryState.SENDING, DeliveryState.SENT, DeliveryState.DEAD}),
}


def studies(session: Session, limit: int | None = None) -> list[Row]:
    """Newest first, with how many images each has and how far its order is known ("" where none is asked for)."""
    counted = session.execute(select(Instance.study_id, func.count()).group_by(Instance.study_id))
    counts = {row[0]: row[1] for row in counted}
    query = (
        select(Study, StudyOrder)
        .outerjoin(StudyOrder, StudyOrder.study_id == Study.id)
        .order_by(Study.last_received_at.desc(), Study.id.desc())
        .limit(limit)
    )
    return [
        {
            "study_instance_uid": study.study_instance_uid,
            "state": study.state.value,
            "reason": study.completeness_reason,
            "instances": counts.get(study.id, 0),
            "order": "" if asked is None else asked.state.value,
            "order_reason": "" if asked is None else asked.reason,
            "calling_ae": study.calling_ae,
            "first_received_at": study.first_received_at.isoformat(),
            "last_received_at": study.last_received_at.isoformat(),
        }
        for study, asked in session.execute(query)
    ]


def instances(session: Session, study_instance_uid: str | None = None) -> list[Row]:
    """Every instance with its outcome, then everything that was refused or set aside."""
    query = (
        select(Instance, Series.series_instance_uid, Study.study_instance_uid)
        .join(Series, Series.id == Instance.series_id)
        .join(Study, Study.id == Instance.study_id)
        .order_by(Instance.id)
    )
    refused = select(Refusal).order_by(Refusal.id)
    if study_instance_uid is not None:
        query = query.where(Study.study_instance_uid == study_instance_uid)
        refused = refused.where(Refusal.study_instance_uid == study_instance_uid)
    rows = [
        {
            "sop_instance_uid": instance.sop_instance_uid,
            "study_instance_uid": study_uid,
            "series_instance_uid": series_uid,
            "sop_class_uid": instance.sop_class_uid,
            "transfer_syntax_uid": instance.transfer_syntax_uid,
            "state": instance.state.value,
            "reason": instance.reason,
            "size_bytes": instance.size_bytes,
            "calling_ae": instance.calling_ae,
            "received_at": instance.received_at.isoformat(),
        }
        for instance, series_uid, study_uid in session.execute(query)
    ]
    return rows + [
        {
            "sop_instance_uid": refusal.sop_instance_uid,
            "study_instance_uid": refusal.study_instance_uid,
            "series_instance_uid": "",
            "sop_class_uid": refusal.sop_class_uid,
            "transfer_syntax_uid": "",
            "state": refusal.kind.value,
            "reason": refusal.reason,
            "status": f"{refusal.status:#06x}",
            "occurrences": refusal.occurrences,
            "calling_ae": refusal.calling_ae,
            "received_at": refusal.at.isoformat(),
        }
        for refusal in session.scalars(refused)
    ]


def jobs(session: Session) -> list[Row]:
    query = (
        select(Job, Study.study_instance_uid, Revision)
        .join(Study, Study.id == Job.study_id)
        .join(Revision, Revision.id == Job.revision_id)
        .order_by(Job.created_at, Job.id)
    )
    return [
        {
            "id": job.id,
            "study_instance_uid": study_uid,
            "route": revision.route,
            "revision": revision.number,
            "subject": revision.subject,
            "model": job.model,
            "model_version": job.model_version,
            "state": job.state.value,
            "reason": job.reason,
            "priority": job.priority,
            "attempts": job.attempts,
            "created_at": job.created_at.isoformat(),
            "started_at": job.started_at.isoformat() if job.started_at else None,
            "finished_at": job.finished_at.isoformat() if job.finished_at else None,
            "summary": job.summary,
        }
        for job, study_uid, revision in session.execute(query)
    ]


def deliveries(session: Session) -> list[Row]:
    query = select(Delivery, Result).join(Result, Result.id == Delivery.result_id).order_by(Delivery.id)
    return [
        {
            "sop_instance_uid": delivery.sent_sop_instance_uid or result.sop_instance_uid,
            "sop_class_uid": delivery.sent_sop_class_uid or result.sop_class_uid,
            "study_instance_uid": result.study_instance_uid,
            "kind": result.kind,
            "job_id": delivery.job_id,
            "destination": delivery.destination,
            "state": delivery.state.value,
            "attempts": delivery.attempts,
            "reason": delivery.reason,
            "next_attempt_at": delivery.next_attempt_at.isoformat(),
            "sent_at": delivery.sent_at.isoformat() if delivery.sent_at else None,
            "confirmed_at": delivery.confirmed_at.isoformat() if delivery.confirmed_at else None,
        }
        for delivery, result in session.execute(query)
    ]


def result_paths(session: Session, job_id: str) -> list[tuple[str, str]]:
    """(kind, path relative to the data folder) of a job's results."""
    rows = session.execute(select(Result.kind, Result.path).where(Result.job_id == job_id).order_by(Result.id))
    return [(row[0], row[1]) for row in rows]


def open_counts(session: Session) -> dict[str, dict[str, int]]:
    """`counts` of the states in which something is still to happen: by index, however much lies in the others."""
    return {
        name: {
            row[0].value: row[1]
            for row in session.execute(
                select(column, func.count()).where(column.in_(OPEN_STATES[name])).group_by(column)
            )
        }
        for name, column in _STATES.items()
    }


def counts(session: Session) -> dict[str, dict[str, int]]:
    """How many rows are in each state, per table; for metrics and `doctor`. Takes longer the more there are."""
    by_state = {
        name: {row[0].value: row[1] for row in session.execute(select(column, func.count()).group_by(column))}
        for name, column in _STATES.items()
    }
    return {**by_state, "orders": orders.counts(session)}
