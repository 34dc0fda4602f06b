"""What waits for a person: jobs that are parked, and images that were set aside; and how it goes on."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from db import audit, orders
from db.states import InstanceState, JobState, RefusalKind, StudyState
from db.tables import Instance, Job, Refusal, RevisionInstance, Study
from db.transitions import affected, move
from db.types import utcnow

Row = dict[str, Any]


def parked(session: Session) -> list[Row]:
    """Every parked job, the one that waits longest first, with its images and what became of each."""
    jobs = session.execute(
        select(Job, Study.study_instance_uid)
        .join(Study, Study.id == Job.study_id)
        .where(Job.state == JobState.PARKED)
        .order_by(Job.finished_at, Job.id)
    ).all()
    return [
        {
            "id": job.id,
            "study_instance_uid": study_uid,
            "model": job.model,
            "attempts": job.attempts,
            "parked_at": job.finished_at.isoformat() if job.finished_at else None,
            "reason": job.reason,
            "instances": [
                {"sop_instance_uid": one.sop_instance_uid, "state": one.state.value, "path": one.path}
                for one in _images(session, job)
            ],
        }
        for job, study_uid in jobs
    ]


def give_up(session: Session, job_id: str, *, actor: str) -> bool:
    """A person has looked: the job stays without a reading, and waits no more. False when it is not parked."""
    if not move(
        session,
        Job,
        [Job.id == job_id],
        JobState.PARKED,
        JobState.NOT_ANALYSED,
        reason=f"given up by a person; {_reason(session, job_id)}",
    ):
        return False
    job = session.get_one(Job, job_id)
    study = session.scalar(select(Study.study_instance_uid).where(Study.id == job.study_id))
    ids = [one.id for one in _images(session, job)]
    move(
        session,
        Instance,
        [Instance.id.in_(ids)],
        InstanceState.FAILED,
        InstanceState.NOT_ANALYSED,
        reason="its job was given up by a person",
    )
    audit.note(session, "job_given_up", actor=actor, subject=job_id, study=study)
    return True


def set_aside(session: Session) -> list[Row]:
    """Images in quarantine, and objects that came under the UID of another one. Paths are below the data folder."""
    quarantined = session.execute(
        select(Instance, Study.study_instance_uid)
        .join(Study, Study.id == Instance.study_id)
        .where(Instance.state == InstanceState.QUARANTINED)
        .order_by(Instance.id)
    )
    here = (Refusal.kind == RefusalKind.CONFLICT, Refusal.path != "")
    conflicts = session.scalars(select(Refusal).where(*here).order_by(Refusal.id))
    return [
        {
            "sop_instance_uid": instance.sop_instance_uid,
            "study_instance_uid": study_uid,
            "state": instance.state.value,
            "reason": instance.reason,
            "calling_ae": instance.calling_ae,
            "received_at": instance.received_at.isoformat(),
            "path": instance.path,
        }
        for instance, study_uid in quarantined
    ] + [
        {
            "sop_instance_uid": refusal.sop_instance_uid,
            "study_instance_uid": refusal.study_instance_uid,
            "state": refusal.kind.value,
            "reason": refusal.reason,
            "calling_ae": refusal.calling_ae,
            "received_at": refusal.at.isoformat(),
            "path": refusal.path,
        }
        for refusal in conflicts
    ]


def release(session: Session, sop_instance_uid: str, *, actor: str) -> bool:
    """A person vouches that an image in quarantine is of its study's patient: it is judged like one that comes now.

    Where the study's order was another patient's, its other images are no longer held back either.

    False when no image in quarantine has that UID.
    """
    study_id = session.scalar(select(Instance.study_id).where(Instance.sop_instance_uid == sop_instance_uid))
    here = [Instance.sop_instance_uid == sop_instance_uid]
    if study_id is None or not move(
        session, Instance, here, InstanceState.QUARANTINED, InstanceState.RECEIVED, reason="released from quarantine"
    ):
        return False
    orders.vouch(session, study_id)
    # As with a late image: whoever is judging the study now must look again.
    affected(
        session,
        update(Study)
        .where(Study.id == study_id)
        .values(version=Study.version + 1, state=StudyState.RECEIVING, check_at=utcnow()),
    )
    study = session.scalar(select(Study.study_instance_uid).where(Study.id == study_id))
    audit.note(session, "instance_released", actor=actor, subject=sop_instance_uid, study=study)
    return True


def _images(session: Session, job: Job) -> list[Instance]:
    query = (
        select(Instance)
        .join(RevisionInstance, RevisionInstance.instance_id == Instance.id)
        .where(RevisionInstance.revision_id == job.revision_id)
        .order_by(Instance.id)
    )
    return list(session.scalars(query))


def _reason(session: Session, job_id: str) -> str:
    return session.scalar(select(Job.reason).where(Job.id == job_id)) or ""
