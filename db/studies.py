"""Studies that are being received, and the revisions that close them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from uuid import uuid4

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from db import audit, notices, orders, outbox, workitems
from db.domain import InstanceView, NewJob, NewRevision, StudyView, more_urgent
from db.errors import ConflictError
from db.states import InstanceState, JobState, StudyState
from db.tables import Instance, Job, Revision, RevisionInstance, RoutingDecision, Series, Study
from db.transitions import affected, move
from db.types import utcnow

# Databases bound how many values one statement takes.
_AT_ONCE = 500

STAT = "stat"


def due_studies(session: Session, now: datetime, limit: int = 100) -> list[int]:
    """Row ids of the studies a decision may be due for, the longest waiting first."""
    query = (
        select(Study.id)
        .where(Study.state == StudyState.RECEIVING, Study.check_at <= now)
        .order_by(Study.check_at, Study.id)
        .limit(limit)
    )
    return list(session.scalars(query))


def load_study(session: Session, study_id: int) -> StudyView:
    """Everything the decision on a study needs, quarantined instances left out."""
    study = session.get_one(Study, study_id)
    rows = session.execute(
        select(Instance, Series)
        .join(Series, Instance.series_id == Series.id)
        .where(Instance.study_id == study_id, Instance.state != InstanceState.QUARANTINED)
        .order_by(Instance.id)
    )
    instances = tuple(_view(instance, series) for instance, series in rows)
    routed = session.execute(
        select(Revision.route, RevisionInstance.instance_id)
        .join(RevisionInstance, RevisionInstance.revision_id == Revision.id)
        .where(Revision.study_id == study_id)
    )
    return StudyView(
        id=study.id,
        study_instance_uid=study.study_instance_uid,
        version=study.version,
        first_received_at=study.first_received_at,
        last_received_at=study.last_received_at,
        calling_ae=study.calling_ae,
        expected_instances=study.expected_instances,
        instances=instances,
        routed=frozenset((row[0], row[1]) for row in routed),
        order=orders.of_study(session, study_id),
        announced=notices.announced(session, study.study_instance_uid),
    )


def _view(instance: Instance, series: Series) -> InstanceView:
    return InstanceView(
        id=instance.id,
        sop_instance_uid=instance.sop_instance_uid,
        series_instance_uid=series.series_instance_uid,
        sop_class_uid=instance.sop_class_uid,
        state=instance.state,
        facts=instance.facts,
        calling_ae=instance.calling_ae,
        own_result=instance.own_result,
        received_at=instance.received_at,
        series_description=series.series_description,
        modality=series.modality,
    )


def settle(
    session: Session,
    study: StudyView,
    *,
    revisions: Sequence[NewRevision],
    stored: Sequence[tuple[int, str]],
    complete: bool,
    reason: str,
    check_at: datetime,
    quarantined: Sequence[tuple[int, str]] = (),
    ask_order: bool = False,
) -> list[int]:
    """Write one decision on a study, all or nothing.

    revisions: what is complete now, with its jobs. stored: (instance id, reason) for what no model reads.
    quarantined: the same for what waits for a person. ask_order: its order is wanted from now on.
    complete: nothing is left to wait for. Returns the ids of the new revisions.
    Raises ConflictError when an image arrived since `study` was loaded: decide again.
    """
    target = StudyState.COMPLETE if complete else StudyState.RECEIVING
    changed = affected(
        session,
        update(Study)
        .where(Study.id == study.id, Study.state == StudyState.RECEIVING, Study.version == study.version)
        .values(state=target, completeness_reason=reason, check_at=check_at),
    )
    if not changed:
        raise ConflictError(f"study {study.study_instance_uid} changed while it was judged; it is judged again")
    _note_received(
        session,
        study,
        [*(one for one, _ in (*stored, *quarantined)), *(i for new in revisions for i in new.instance_ids)],
    )
    for instance_id, why in stored:
        move(session, Instance, [Instance.id == instance_id], InstanceState.RECEIVED, InstanceState.STORED, reason=why)
    for instance_id, why in quarantined:
        for source in (InstanceState.RECEIVED, InstanceState.STORED):
            here = [Instance.id == instance_id]
            move(session, Instance, here, source, InstanceState.QUARANTINED, reason=why)
    if ask_order:
        orders.want(session, study.id)
    pushed = workitems.wake(session, study.study_instance_uid)
    if pushed:
        revisions = [_hastened(new, pushed) for new in revisions]
    return [_open_revision(session, study.id, study.study_instance_uid, new) for new in revisions]


def _hastened(new: NewRevision, priority: str) -> NewRevision:
    """A work item on the study may be more urgent than the route it takes."""
    jobs = tuple(replace(job, priority=more_urgent(job.priority, priority)) for job in new.jobs)
    return replace(new, jobs=jobs)


def open_again(session: Session, study_id: int, study_instance_uid: str, new: NewRevision, *, actor: str) -> int:
    """A revision that a person asked for, of images that were judged before; the study's state stays what it is."""
    return _open_revision(session, study_id, study_instance_uid, new, actor=actor)


def _note_received(session: Session, study: StudyView, instance_ids: Sequence[int]) -> None:
    """One line for what each peer has sent and is judged now for the first time."""
    peers: dict[tuple[str, str], list[tuple[str, str]]] = {}
    ids = list(dict.fromkeys(instance_ids))
    for start in range(0, len(ids), _AT_ONCE):
        query = select(
            Instance.calling_ae, Instance.peer_address, Instance.sop_class_uid, Instance.sop_instance_uid
        ).where(Instance.id.in_(ids[start : start + _AT_ONCE]), Instance.state == InstanceState.RECEIVED)
        for calling_ae, address, sop_class, instance in session.execute(query):
            peers.setdefault((calling_ae, address), []).append((sop_class, instance))
    for (calling_ae, address), instances in peers.items():
        audit.note(
            session,
            "instances_received",
            actor=calling_ae,
            subject=study.study_instance_uid,
            address=address,
            sop_classes=audit.count_by_class(instances),
        )


def postpone(session: Session, study_id: int, check_at: datetime) -> str:
    """Look at a study that could not be judged again at `check_at`, or when an image comes; returns its UID."""
    affected(
        session,
        update(Study).where(Study.id == study_id, Study.state == StudyState.RECEIVING).values(check_at=check_at),
    )
    return session.get_one(Study, study_id).study_instance_uid


def _open_revision(
    session: Session, study_id: int, study_instance_uid: str, new: NewRevision, *, actor: str = "sweeper"
) -> int:
    now = utcnow()
    previous = session.scalars(
        select(Revision)
        .where(Revision.study_id == study_id, Revision.route == new.route, Revision.subject == new.subject)
        .order_by(Revision.number.desc())
        .limit(1)
    ).one_or_none()
    revision = Revision(
        study_id=study_id,
        route=new.route,
        scope=new.scope,
        subject=new.subject,
        number=1 if previous is None else previous.number + 1,
        supersedes_id=None if previous is None else previous.id,
        reason=new.reason,
        decided_at=now,
    )
    session.add(revision)
    session.flush()
    session.add_all(RevisionInstance(revision_id=revision.id, instance_id=i) for i in new.instance_ids)
    session.add(
        RoutingDecision(
            study_id=study_id,
            revision_id=revision.id,
            route=new.route,
            rules_digest=new.rules_digest,
            explanation=new.explanation,
            decided_at=now,
        )
    )
    if previous is not None:
        move(
            session,
            Job,
            [Job.revision_id == previous.id],
            JobState.QUEUED,
            JobState.SUPERSEDED,
            reason=f"revision {revision.number} has later images",
            finished_at=now,
        )
    for job in new.jobs:
        _queue(session, study_id, revision.id, job, now)
    for source in (InstanceState.RECEIVED, InstanceState.STORED):
        move(
            session,
            Instance,
            [Instance.id.in_(new.instance_ids)],
            source,
            InstanceState.ROUTED,
            reason=f"route {new.route}",
        )
    audit.note(
        session,
        "study_routed",
        actor=actor,
        subject=study_instance_uid,
        route=new.route,
        revision=revision.number,
        scope=new.scope.value,
        instances=len(new.instance_ids),
    )
    return revision.id


def _queue(session: Session, study_id: int, revision_id: int, new: NewJob, now: datetime) -> None:
    job_id = str(uuid4())
    session.add(
        Job(
            id=job_id,
            revision_id=revision_id,
            study_id=study_id,
            model=new.model,
            destinations=list(new.destinations),
            priority=new.priority,
            state=JobState.QUEUED,
            announced_at=now,
            available_at=now,
            created_at=now,
        )
    )
    outbox.announce(session, topic_for(new.priority), job_id)


def topic_for(priority: str) -> str:
    """STAT has a queue of its own, so that it overtakes whatever waits."""
    return outbox.TOPIC_INFER_STAT if priority == STAT else outbox.TOPIC_INFER


def receiving_count(session: Session) -> int:
    return session.scalar(select(func.count()).select_from(Study).where(Study.state == StudyState.RECEIVING)) or 0
