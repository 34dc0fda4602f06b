"""Jobs: claim with a lease, finish, hand back, park, sweep.

Whoever holds the lease may finish the job; whoever lost it may not, whatever it has computed. That, and result UIDs
that do not depend on the run, make a job killed at any moment end with exactly one set of results.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, or_, select, update
from sqlalchemy.orm import Session

from db import audit, outbox
from db.audit_events import Event, Outcome
from db.domain import ClaimedJob, JobOutcome, NewResult, ResultRef, SourceFile
from db.errors import LeaseLost
from db.states import DeliveryState, InstanceState, JobState, StudyState
from db.studies import topic_for
from db.tables import Delivery, Instance, Job, Result, Revision, RevisionInstance, Study
from db.transitions import affected, move
from db.types import utcnow

# Announcing again waits twice as long each time, so that a long queue is not drowned in repeats.
REANNOUNCE_FIRST_S = 60.0
REANNOUNCE_MAX_S = 900.0

# The kind of result that messages are about, and the one that only some destinations get.
REPORT, FLAGS = "SR", "KO"


def claim(session: Session, job_id: str, owner: str, *, lease_s: float, max_attempts: int) -> ClaimedJob | None:
    """Take a job that is due: QUEUED, or RUNNING with a lease that ran out.

    Returns None when there is nothing to do (done, held by another worker, not due yet) or when the job has used up
    `max_attempts`: then it is parked, so that a study which kills workers is not tried for ever.
    """
    now = utcnow()
    job = session.get(Job, job_id)
    if job is None or not _due(job, now):
        return None
    same = [Job.id == job_id, Job.attempts == job.attempts, Job.lease_owner == job.lease_owner]
    if _superseded(session, job.revision_id):
        # Its reading would come after the newer one and look like the last word.
        move(session, Job, same, job.state, JobState.SUPERSEDED, **_SUPERSEDED, finished_at=now)
        return None
    if job.attempts >= max_attempts:
        if move(
            session,
            Job,
            same,
            job.state,
            JobState.PARKED,
            finished_at=now,
            lease_until=None,
            lease_owner="",
            reason=f"tried {job.attempts} times, the worker never finished; see its log, then `radnode retry`",
        ):
            _fail_instances(session, job_id, "its job is parked")
            _note(session, "job_parked", job_id, owner, outcome="failure")
        return None
    until = now + timedelta(seconds=lease_s)
    taken = {"lease_owner": owner, "lease_until": until, "attempts": job.attempts + 1, "started_at": now}
    if not move(session, Job, same, job.state, JobState.RUNNING, **taken):
        return None
    return _claimed(session, job, owner, until, job.attempts + 1)


def _due(job: Job, now: datetime) -> bool:
    if job.state is JobState.QUEUED:
        return job.available_at <= now
    return job.state is JobState.RUNNING and job.lease_until is not None and job.lease_until < now


def _claimed(session: Session, job: Job, owner: str, until: datetime, attempt: int) -> ClaimedJob:
    revision = session.get_one(Revision, job.revision_id)
    study = session.get_one(Study, job.study_id)
    sources = session.scalars(
        select(Instance)
        .join(RevisionInstance, RevisionInstance.instance_id == Instance.id)
        .where(RevisionInstance.revision_id == revision.id)
        .order_by(Instance.id)
    )
    identity = "|".join((study.study_instance_uid, revision.route, revision.subject, str(revision.number), job.model))
    return ClaimedJob(
        id=job.id,
        identity=identity,
        study_instance_uid=study.study_instance_uid,
        route=revision.route,
        revision_number=revision.number,
        scope=revision.scope,
        model=job.model,
        priority=job.priority,
        destinations=tuple(job.destinations),
        attempt=attempt,
        created_at=job.created_at,
        lease_owner=owner,
        lease_until=until,
        sources=tuple(
            SourceFile(i.id, i.sop_instance_uid, i.sop_class_uid, i.path, i.facts, i.calling_ae) for i in sources
        ),
        predecessors=_predecessors(session, revision, job.model, REPORT),
        replaced_flags=_predecessors(session, revision, job.model, FLAGS),
    )


_SUPERSEDED: dict[str, Any] = {"reason": "later images were judged with it", "lease_owner": "", "lease_until": None}


def _superseded(session: Session, revision_id: int) -> bool:
    return session.scalar(select(Revision.id).where(Revision.supersedes_id == revision_id).limit(1)) is not None


def _overtaken(session: Session, revision_id: int, model: str) -> bool:
    """Has the reading of a later revision begun? It could not name this one among its predecessors."""
    begun = [JobState.RUNNING, JobState.DONE, JobState.NOT_ANALYSED]
    later = session.scalar(select(Revision.id).where(Revision.supersedes_id == revision_id))
    while later is not None:
        query = select(Job.id).where(Job.revision_id == later, Job.model == model, Job.state.in_(begun))
        if session.scalar(query) is not None:
            return True
        later = session.scalar(select(Revision.id).where(Revision.supersedes_id == later))
    return False


def _predecessors(session: Session, revision: Revision, model: str, kind: str) -> tuple[ResultRef, ...]:
    """The results of that kind of the last revision before that has any; of SRs see PS3.3 C.17.2.

    One that was superseded before it ran, or was parked, has none: the chain goes on behind it.
    """
    before = revision.supersedes_id
    while before is not None:
        rows = session.scalars(
            select(Result)
            .join(Job, Job.id == Result.job_id)
            .where(Job.revision_id == before, Job.model == model, Result.kind == kind)
            .order_by(Result.id)
        ).all()
        if rows:
            return tuple(
                ResultRef(r.sop_class_uid, r.sop_instance_uid, r.series_instance_uid, r.study_instance_uid)
                for r in rows
            )
        before = session.get_one(Revision, before).supersedes_id
    return ()


def heartbeat(session: Session, job_id: str, owner: str, *, lease_s: float) -> None:
    """Keep the lease. Raises LeaseLost when another worker has the job."""
    until = utcnow() + timedelta(seconds=lease_s)
    held = [Job.id == job_id, Job.lease_owner == owner]
    if not move(session, Job, held, JobState.RUNNING, JobState.RUNNING, lease_until=until):
        raise LeaseLost(f"job {job_id} is no longer held by {owner}; its work is thrown away")


def finish(session: Session, job_id: str, owner: str, outcome: JobOutcome) -> None:
    """Write the results, one delivery per object and destination, and their announcements, in one commit.

    Raises LeaseLost when another worker has taken the job over: then nothing is written.
    """
    now = utcnow()
    target = JobState.DONE if outcome.analysed else JobState.NOT_ANALYSED
    held = [Job.id == job_id, Job.lease_owner == owner]
    job = session.get(Job, job_id)
    if job is not None and _overtaken(session, job.revision_id, job.model):
        if not move(session, Job, held, JobState.RUNNING, JobState.SUPERSEDED, **_SUPERSEDED, finished_at=now):
            raise LeaseLost(f"job {job_id} is no longer held by {owner}; its work is thrown away")
        return
    if not move(
        session,
        Job,
        held,
        JobState.RUNNING,
        target,
        reason=outcome.reason,
        finished_at=now,
        lease_until=None,
        lease_owner="",
        model_version=outcome.model_version,
        model_digest=outcome.model_digest,
        summary=outcome.summary,
    ):
        raise LeaseLost(f"job {job_id} is no longer held by {owner}; its work is thrown away")
    for new in outcome.results:
        told = outcome.told if new.kind == REPORT else ()
        sent_to = outcome.flagged if new.kind == FLAGS else outcome.destinations
        _store_result(session, job_id, new, (*sent_to, *told), now)
    for destination in (*outcome.destinations, *outcome.told):
        if outcome.results:
            outbox.announce(session, outbox.TOPIC_DELIVER, f"{job_id}:{destination}")
    for one in outcome.instances:
        _set_instance(session, one.instance_id, one.state, one.reason)
    _note(session, "job_finished", job_id, owner, state=target.value, results=len(outcome.results))


def _store_result(session: Session, job_id: str, new: NewResult, destinations: Sequence[str], now: datetime) -> None:
    result = Result(
        job_id=job_id,
        kind=new.kind,
        sop_class_uid=new.ref.sop_class_uid,
        sop_instance_uid=new.ref.sop_instance_uid,
        series_instance_uid=new.ref.series_instance_uid,
        study_instance_uid=new.ref.study_instance_uid,
        transfer_syntax_uid=new.transfer_syntax_uid,
        path=new.path,
        size_bytes=new.size_bytes,
        sha256=new.sha256,
        created_at=now,
    )
    session.add(result)
    session.flush()
    session.add_all(
        Delivery(
            result_id=result.id,
            job_id=job_id,
            destination=name,
            state=DeliveryState.PENDING,
            next_attempt_at=now,
            created_at=now,
        )
        for name in destinations
    )


def _set_instance(session: Session, instance_id: int, target: InstanceState, reason: str) -> None:
    """An instance that one model has analysed stays ANALYSED whatever another model says of it."""
    for source in (InstanceState.ROUTED, InstanceState.NOT_ANALYSED, InstanceState.FAILED):
        if source is target:
            affected(
                session,
                update(Instance).where(Instance.id == instance_id, Instance.state == source).values(reason=reason),
            )
        elif move(session, Instance, [Instance.id == instance_id], source, target, reason=reason):
            return


def _fail_instances(session: Session, job_id: str, reason: str) -> None:
    ids = (
        select(RevisionInstance.instance_id)
        .join(Job, Job.revision_id == RevisionInstance.revision_id)
        .where(Job.id == job_id)
    )
    move(session, Instance, [Instance.id.in_(ids)], InstanceState.ROUTED, InstanceState.FAILED, reason=reason)


def hand_back(session: Session, job_id: str, owner: str, *, reason: str, delay_s: float, count: bool = True) -> None:
    """A retriable failure: QUEUED again after `delay_s`. With count=False the attempt is not held against the job."""
    again = utcnow() + timedelta(seconds=delay_s)
    held = [Job.id == job_id, Job.lease_owner == owner]
    if move(
        session,
        Job,
        held,
        JobState.RUNNING,
        JobState.QUEUED,
        reason=reason,
        attempts=Job.attempts if count else Job.attempts - 1,
        available_at=again,
        announced_at=again,
        lease_until=None,
        lease_owner="",
    ):
        priority = session.scalar(select(Job.priority).where(Job.id == job_id)) or ""
        outbox.announce(session, topic_for(priority), job_id, at=again)


def park(session: Session, job_id: str, owner: str, *, reason: str) -> None:
    """A permanent failure: no result, a person must look."""
    held = [Job.id == job_id, Job.lease_owner == owner]
    if move(
        session,
        Job,
        held,
        JobState.RUNNING,
        JobState.PARKED,
        reason=reason,
        finished_at=utcnow(),
        lease_until=None,
        lease_owner="",
    ):
        _fail_instances(session, job_id, f"its job is parked: {reason}")
        _note(session, "job_parked", job_id, owner, outcome="failure")


def note_shadow(session: Session, job_id: str, shadow: dict[str, Any]) -> None:
    """Keep what the version in the shadow said beside a finished job's own summary, unless its study was deleted."""
    job = session.get(Job, job_id, with_for_update=True)
    done, gone = (JobState.DONE, JobState.NOT_ANALYSED), (StudyState.DELETING, StudyState.DELETED)
    if job is not None and job.state in done and session.get_one(Study, job.study_id).state not in gone:
        job.summary = {**job.summary, "shadow": shadow}


def retry(session: Session, job_id: str, *, actor: str) -> bool:
    """Queue a parked job again, with its attempts forgiven. False when it is not parked."""
    now = utcnow()
    if not move(
        session,
        Job,
        [Job.id == job_id],
        JobState.PARKED,
        JobState.QUEUED,
        attempts=0,
        reason="retried",
        available_at=now,
        announced_at=now,
        finished_at=None,
    ):
        return False
    priority = session.scalar(select(Job.priority).where(Job.id == job_id)) or ""
    outbox.announce(session, topic_for(priority), job_id)
    _note(session, "job_retried", job_id, actor)
    return True


def _note(
    session: Session, event: Event, job_id: str, actor: str, *, outcome: Outcome = "success", **detail: Any
) -> None:
    study = session.scalar(select(Study.study_instance_uid).join(Job, Job.study_id == Study.id).where(Job.id == job_id))
    audit.note(session, event, actor=actor, subject=job_id, outcome=outcome, study=study, **detail)


def parked(session: Session) -> list[str]:
    return list(session.scalars(select(Job.id).where(Job.state == JobState.PARKED).order_by(Job.created_at)))


def overdue(now: datetime) -> ColumnElement[bool]:
    """Whether a job's message was lost, or its worker died."""
    return or_(
        and_(Job.state == JobState.RUNNING, Job.lease_until < now, Job.announced_at < Job.lease_until),
        and_(
            Job.state.in_([JobState.QUEUED, JobState.RUNNING]),
            Job.available_at <= now,
            or_(Job.lease_until.is_(None), Job.lease_until < now),
            Job.announced_at < now - timedelta(seconds=REANNOUNCE_FIRST_S),
        ),
    )


def sweep(session: Session, now: datetime, *, limit: int = 500) -> int:
    """Announce again what a lost message or a dead worker left behind. Returns how many jobs."""
    due = select(Job.id, Job.priority, Job.announcements).where(overdue(now))
    count = 0
    for job_id, priority, announcements in session.execute(due.order_by(Job.announced_at).limit(limit)).all():
        outbox.announce(session, topic_for(priority), job_id)
        wait = reannounce_after_s(announcements)
        # announced_at may lie ahead: the next repeat is due REANNOUNCE_FIRST_S after it.
        affected(
            session,
            update(Job)
            .where(Job.id == job_id)
            .values(
                announcements=Job.announcements + 1, announced_at=now + timedelta(seconds=wait - REANNOUNCE_FIRST_S)
            ),
        )
        count += 1
    return count


def reannounce_after_s(announcements: int) -> float:
    """Seconds to the next repeat after that many: doubling up to REANNOUNCE_MAX_S, whatever the count has grown to."""
    doublings = min(announcements, math.ceil(math.log2(REANNOUNCE_MAX_S / REANNOUNCE_FIRST_S)))
    return min(REANNOUNCE_FIRST_S * 2.0**doublings, REANNOUNCE_MAX_S)


def release(session: Session, owner_prefix: str) -> int:
    """After a crash of everything on this node: what its workers held is free at once, and all is announced anew."""
    now = utcnow()
    freed = move(
        session,
        Job,
        [Job.lease_owner.startswith(owner_prefix, autoescape=True)],
        JobState.RUNNING,
        JobState.QUEUED,
        lease_owner="",
        lease_until=None,
        available_at=now,
        reason="its worker stopped",
    )
    waiting = session.execute(
        select(Job.id, Job.priority).where(Job.state == JobState.QUEUED, Job.available_at <= now)
    ).all()
    for job_id, priority in waiting:
        outbox.announce(session, topic_for(priority), job_id)
    return freed


def was_cut_short(session: Session, job_id: str) -> bool:
    """Whether a try of it counts that came to no end: its process died, its time was up, or nobody foresaw why."""
    undone = Job.state.in_([JobState.QUEUED, JobState.RUNNING])
    return session.scalar(select(Job.id).where(Job.id == job_id, undone, Job.attempts > 0)) is not None


def attempts_of(session: Session, job_id: str, owner: str) -> int | None:
    """How often a job has been tried, where `owner` holds it; None otherwise."""
    return session.scalar(
        select(Job.attempts).where(Job.id == job_id, Job.lease_owner == owner, Job.state == JobState.RUNNING)
    )
