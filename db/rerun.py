"""Having a study read again: by the models and versions of now, as new revisions of the same images.

What an earlier run said and sent stays as it was. The new report names the earlier one as its predecessor.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session, aliased

from db import audit, jobs, studies
from db.domain import NewJob, NewRevision
from db.states import JobState, StudyState
from db.tables import Job, Revision, RevisionInstance, RoutingDecision, Study

_HERE = frozenset({StudyState.RECEIVING, StudyState.COMPLETE})
_FINISHED = frozenset({JobState.DONE, JobState.NOT_ANALYSED})


@dataclass(frozen=True)
class Rerun:
    """opened: revisions that are read anew. retried: parked jobs queued again. left: jobs that are under way anyway.

    gone: of what was finished, something cannot be read again: its images are deleted.
    """

    opened: int = 0
    retried: int = 0
    left: int = 0
    gone: bool = False

    @property
    def changed(self) -> bool:
        return bool(self.opened or self.retried)


def rerun(session: Session, study_instance_uid: str, *, actor: str) -> Rerun | None:
    """Read a study again; None where none of that UID was received.

    A revision whose images are deleted stays as it is, also where later images have opened the study anew.

    Whoever else asks for the same at the same moment waits, and then finds the jobs queued.
    """
    held = select(Study).where(Study.study_instance_uid == study_instance_uid).with_for_update()
    study = session.scalars(held).one_or_none()
    if study is None:
        return None
    if study.state not in _HERE:
        return Rerun(gone=True)
    opened = retried = left = 0
    gone = False
    for revision in current_revisions(session, study.id):
        work = list(session.scalars(select(Job).where(Job.revision_id == revision.id).order_by(Job.created_at, Job.id)))
        if work and all(job.state in _FINISHED for job in work):
            again = _again(session, revision, work)
            if again.instance_ids:
                studies.open_again(session, study.id, study_instance_uid, again, actor=actor)
                opened += 1
            else:
                gone = True
            continue
        for job in work:
            if job.state is JobState.PARKED and jobs.retry(session, job.id, actor=actor):
                retried += 1
            elif job.state in {JobState.QUEUED, JobState.RUNNING}:
                left += 1
    done = Rerun(opened, retried, left, gone)
    if done.changed:
        audit.note(session, "study_rerun", actor=actor, subject=study_instance_uid, revisions=opened, retried=retried)
    return done


def current_revisions(session: Session, study_id: int) -> list[Revision]:
    """The revisions that no later one has replaced."""
    later = aliased(Revision)
    query = (
        select(Revision)
        .outerjoin(later, later.supersedes_id == Revision.id)
        .where(Revision.study_id == study_id, later.id.is_(None))
        .order_by(Revision.id)
    )
    return list(session.scalars(query))


def _again(session: Session, revision: Revision, work: list[Job]) -> NewRevision:
    decision = session.scalars(select(RoutingDecision).where(RoutingDecision.revision_id == revision.id)).first()
    instances = select(RevisionInstance.instance_id).where(RevisionInstance.revision_id == revision.id)
    return NewRevision(
        route=revision.route,
        scope=revision.scope,
        subject=revision.subject,
        reason="a person had it read again",
        instance_ids=tuple(session.scalars(instances.order_by(RevisionInstance.instance_id))),
        jobs=tuple(NewJob(job.model, job.priority, tuple(job.destinations)) for job in work),
        rules_digest="" if decision is None else decision.rules_digest,
        explanation=[] if decision is None else list(decision.explanation),
    )
