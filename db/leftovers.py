"""What a process that is gone has left in the record, and what a clock that was set back has put out of reach."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, func, select, update
from sqlalchemy.orm import InstrumentedAttribute, Session

from db import deletions, jobs, outbox, workitem_tidings
from db.house_tables import Deletion
from db.prior_tables import PriorRequest
from db.states import CommitmentState, DeletionState, DeliveryState, JobState, PriorState, StudyState, TidingState
from db.studies import STAT, topic_for
from db.tables import Circuit, Commitment, Delivery, Instance, Job, Outbox, Study
from db.transitions import affected, move
from db.types import utcnow
from db.workitem_tables import Workitem, WorkitemTiding

# Whoever is lost with it again and again may be lost because of it: it is not tried in quick succession.
_SUSPECT_ATTEMPTS = 3
_SUSPECT_WAIT_S = 60.0


def free(session: Session, owner: str) -> int:
    """`owner` is gone: what it held is due at once, and announced; its attempts count. Returns how many leases."""
    held = (_free_jobs, _free_deliveries, _free_messages, deletions.free, workitem_tidings.free)
    return sum(one(session, owner) for one in held)


def _free_jobs(session: Session, owner: str) -> int:
    now = utcnow()
    held = select(Job.id, Job.priority).where(Job.state == JobState.RUNNING, Job.lease_owner == owner)
    count = 0
    for job_id, priority in session.execute(held).all():
        if move(
            session,
            Job,
            [Job.id == job_id, Job.lease_owner == owner],
            JobState.RUNNING,
            JobState.QUEUED,
            lease_owner="",
            lease_until=None,
            available_at=now,
            announced_at=now,
            reason="its worker stopped",
        ):
            outbox.announce(session, topic_for(priority), job_id)
            count += 1
    return count


def _free_deliveries(session: Session, owner: str) -> int:
    held = [Delivery.state == DeliveryState.SENDING, Delivery.lease_owner == owner]
    tried = func.max(Delivery.attempts)
    query = select(Delivery.job_id, Delivery.destination, tried).where(*held)
    count = 0
    for job_id, destination, attempts in session.execute(query.group_by(Delivery.job_id, Delivery.destination)).all():
        at = utcnow() + timedelta(seconds=0.0 if attempts < _SUSPECT_ATTEMPTS else _SUSPECT_WAIT_S)
        count += move(
            session,
            Delivery,
            [Delivery.lease_owner == owner, Delivery.job_id == job_id, Delivery.destination == destination],
            DeliveryState.SENDING,
            DeliveryState.PENDING,
            lease_owner="",
            lease_until=None,
            next_attempt_at=at,
            reason="its sender stopped",
        )
        outbox.announce(session, outbox.TOPIC_DELIVER, f"{job_id}:{destination}", at=at)
    return count


def _free_messages(session: Session, owner: str) -> int:
    held = update(Outbox).where(Outbox.lease_owner == owner)
    return affected(session, held.values(available_at=utcnow(), lease_owner=""))


def announce_first(session: Session, most: int) -> int:
    """Processes are gone: what they had taken from the broker and not begun is among what has waited longest.

    No more than `most` jobs of either queue are announced, again; who gets a message twice finds nothing to do. Returns
    how many.
    """
    due = [Job.state == JobState.QUEUED, Job.available_at <= utcnow()]
    count = 0
    for queue in (Job.priority == STAT, Job.priority != STAT):
        first = select(Job.id, Job.priority).where(*due, queue).order_by(Job.available_at).limit(most)
        for job_id, priority in session.execute(first).all():
            outbox.announce(session, topic_for(priority), job_id)
            count += 1
    return count


def any_overdue(session: Session, now: datetime, *, grace_s: float) -> bool:
    """Whether `jobs.sweep` or `deliveries.sweep` would find something. Takes no lock: an idle node writes nothing."""
    late = now - timedelta(seconds=grace_s)
    queries = (
        select(Job.id).where(jobs.overdue(now)),
        select(Delivery.job_id).where(Delivery.state == DeliveryState.SENDING, Delivery.lease_until < now),
        select(Delivery.job_id).where(Delivery.state == DeliveryState.PENDING, Delivery.next_attempt_at < late),
    )
    return any(session.scalar(query.limit(1)) is not None for query in queries)


def announce_all(session: Session) -> int:
    """The broker has lost its messages: announce every job and every delivery that is due. Returns how many."""
    now = utcnow()
    waiting = select(Job.id, Job.priority).where(Job.state == JobState.QUEUED, Job.available_at <= now)
    due = [(topic_for(priority), job_id) for job_id, priority in session.execute(waiting.order_by(Job.created_at))]
    sends = select(Delivery.job_id, Delivery.destination).where(
        Delivery.state == DeliveryState.PENDING, Delivery.next_attempt_at <= now
    )
    due += [(outbox.TOPIC_DELIVER, f"{job_id}:{name}") for job_id, name in session.execute(sends.distinct())]
    for topic, subject in due:
        outbox.announce(session, topic, subject)
    return len(due)


def latest_event(session: Session) -> datetime | None:
    """The latest moment at which, by the record, something has happened; None where nothing has.

    One that is yet to come says that the clock was set back.
    """
    found = [session.scalar(select(func.max(column))) for column in (Study.last_received_at, Outbox.created_at)]
    return max((moment for moment in found if moment is not None), default=None)


def pull_back(session: Session, now: datetime, by: timedelta) -> int:
    """The clock was set back: what waits for a moment to come is to wait no longer than it was meant to.

    Without this all that was due before would rest for as long as the clock was set back. Facts (when an object was
    received, sent, confirmed) are left as they were written, but for the times from which a silence is counted.
    Returns how many moments were moved.
    """
    receiving = select(Study.id).where(Study.state == StudyState.RECEIVING)
    waiting: list[tuple[Sequence[InstrumentedAttribute[Any]], ColumnElement[bool]]] = [
        ((Outbox.created_at, Outbox.available_at), Outbox.id.is_not(None)),
        (
            (Job.available_at, Job.announced_at, Job.lease_until),
            Job.state.in_([JobState.QUEUED, JobState.RUNNING]),
        ),
        (
            (Delivery.next_attempt_at, Delivery.lease_until, Delivery.sent_at),
            Delivery.state.in_([DeliveryState.PENDING, DeliveryState.SENDING, DeliveryState.SENT]),
        ),
        (
            (Study.check_at, Study.first_received_at, Study.last_received_at),
            Study.state == StudyState.RECEIVING,
        ),
        ((Instance.received_at,), Instance.study_id.in_(receiving)),
        ((Commitment.deadline_at,), Commitment.state == CommitmentState.ASKED),
        ((Circuit.open_until,), Circuit.open_until.is_not(None)),
        ((Deletion.lease_until,), Deletion.state == DeletionState.BEGUN),
        ((PriorRequest.next_attempt_at, PriorRequest.wait_until), PriorRequest.state == PriorState.WANTED),
        ((Workitem.check_at,), Workitem.ended_at.is_(None)),
        ((WorkitemTiding.next_attempt_at,), WorkitemTiding.state == TidingState.WAITING),
    ]
    return sum(_move(session, column, where, now, by) for columns, where in waiting for column in columns)


def _move(
    session: Session, column: InstrumentedAttribute[Any], where: ColumnElement[bool], now: datetime, by: timedelta
) -> int:
    # Read and written back one value at a time: the two databases add intervals to moments in their own ways.
    moments = session.scalars(select(column).where(where, column > now).distinct()).all()
    for moment in sorted(moments):
        # In this order none is met twice: what was moved lands on values that are behind.
        affected(session, update(column.class_).where(where, column == moment).values({column: moment - by}))
    return len(moments)
