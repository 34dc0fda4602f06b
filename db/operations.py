"""What the operations page asks of the record. Every query reads what is under way, or a bounded number of the latest
rows: none of them grows with the archive.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Select, func, literal_column, select
from sqlalchemy.orm import Session

from db import outbox
from db.states import DeliveryState, JobState
from db.tables import Audit, Delivery, Instance, Job, Result, RevisionInstance, Study

MOST_JOBS = 1000
MOST_EVENTS = 1000
MOST_LETTERS = 100
MOST_AT_WORK = 200
_AT_ONCE = 500
# Said in full, as the index of those has it: a database that knows most jobs to be done trusts no bound value.
_IS_QUEUED = Job.state == literal_column(f"'{JobState.QUEUED}'")
_READ = (JobState.DONE, JobState.NOT_ANALYSED)
_OPEN_JOBS = (JobState.QUEUED, JobState.RUNNING, JobState.PARKED)
_OPEN_DELIVERIES = (DeliveryState.PENDING, DeliveryState.SENDING, DeliveryState.SENT, DeliveryState.DEAD)


@dataclass(frozen=True)
class Queues:
    """What is under way or was given up. oldest_queued_at: since when the longest waiting job waits."""

    jobs: dict[JobState, int]
    deliveries: dict[DeliveryState, int]
    messages: int
    oldest_queued_at: datetime | None


@dataclass(frozen=True)
class Turnaround:
    """Of one finished job, in seconds: waiting for a worker, being read, both; sent_s: until a peer had its results."""

    wait_s: float
    read_s: float
    whole_s: float
    sent_s: float | None


@dataclass(frozen=True)
class AtWork:
    """A job that a worker holds."""

    owner: str
    job_id: str
    model: str
    study_instance_uid: str
    started_at: datetime | None


@dataclass(frozen=True)
class LastRead:
    """What a worker finished last, of which model."""

    owner: str
    model: str
    model_version: str
    at: datetime


@dataclass(frozen=True)
class Letter:
    """Something given up: a dead delivery of an object, or a parked job (destination "")."""

    study_instance_uid: str
    what: str
    job_id: str
    destination: str
    reason: str
    attempts: int


@dataclass(frozen=True)
class Heard:
    """What was heard of one peer: studies sent, associations refused; last_at: the latest of both."""

    calling_ae: str
    address: str
    received: int
    refused: int
    last_at: datetime


def queues(session: Session) -> Queues:
    """How much waits where."""
    jobs = select(Job.state, func.count()).where(Job.state.in_(_OPEN_JOBS)).group_by(Job.state)
    sent = select(Delivery.state, func.count()).where(Delivery.state.in_(_OPEN_DELIVERIES)).group_by(Delivery.state)
    return Queues(
        jobs=dict.fromkeys(_OPEN_JOBS, 0) | {row[0]: row[1] for row in session.execute(jobs)},
        deliveries=dict.fromkeys(_OPEN_DELIVERIES, 0) | {row[0]: row[1] for row in session.execute(sent)},
        messages=outbox.waiting(session),
        oldest_queued_at=session.scalar(select(func.min(Job.available_at)).where(_IS_QUEUED)),
    )


def turnaround(session: Session, since: datetime, *, model: str = "") -> list[Turnaround]:
    """Of the latest `MOST_JOBS` jobs that were finished since then."""
    query = (
        select(Job.id, Job.created_at, Job.started_at, Job.finished_at)
        .where(Job.finished_at >= since, Job.state.in_(_READ))
        .order_by(Job.finished_at.desc())
        .limit(MOST_JOBS)
    )
    if model:
        query = query.where(Job.model == model)
    rows = list(session.execute(query))
    sent = _sent(session, [row[0] for row in rows])
    found = []
    for job_id, created_at, started_at, finished_at in rows:
        if finished_at is None:
            continue
        begun = started_at or finished_at
        sent_at = sent.get(job_id)
        found.append(
            Turnaround(
                wait_s=_seconds(begun - created_at),
                read_s=_seconds(finished_at - begun),
                whole_s=_seconds(finished_at - created_at),
                sent_s=None if sent_at is None else _seconds(sent_at - created_at),
            )
        )
    return found


def _sent(session: Session, job_ids: list[str]) -> dict[str, datetime]:
    """When the last of a job's objects had been taken by a peer."""
    found: dict[str, datetime] = {}
    for start in range(0, len(job_ids), _AT_ONCE):
        query = (
            select(Delivery.job_id, func.max(Delivery.sent_at))
            .where(Delivery.job_id.in_(job_ids[start : start + _AT_ONCE]), Delivery.sent_at.is_not(None))
            .group_by(Delivery.job_id)
        )
        found |= {job_id: at for job_id, at in session.execute(query) if at is not None}
    return found


def _seconds(span: timedelta) -> float:
    # A clock that was set back in between gives no negative wait.
    return max(0.0, span.total_seconds())


def finished_since(session: Session, since: datetime) -> int:
    """How many jobs were finished."""
    query = select(func.count()).select_from(Job).where(Job.finished_at >= since, Job.state.in_(_READ))
    return session.scalar(query) or 0


def received_since(session: Session, since: datetime) -> int:
    """How many studies got an image."""
    return session.scalar(select(func.count()).select_from(Study).where(Study.last_received_at >= since)) or 0


def at_work(session: Session) -> list[AtWork]:
    """The jobs that workers hold now, the longest held first."""
    query = (
        select(Job.lease_owner, Job.id, Job.model, Study.study_instance_uid, Job.started_at)
        .join(Study, Study.id == Job.study_id)
        .where(Job.state == JobState.RUNNING)
        .order_by(Job.started_at)
        .limit(MOST_AT_WORK)
    )
    return [AtWork(*row) for row in session.execute(query)]


def last_read(session: Session) -> list[LastRead]:
    """For each worker among the latest `MOST_EVENTS` ends of jobs, what it read last."""
    events = (
        select(Audit.actor, Audit.subject, Audit.at)
        .where(Audit.event == "job_finished")
        .order_by(Audit.id.desc())
        .limit(MOST_EVENTS)
    )
    latest: dict[str, tuple[str, datetime]] = {}
    for actor, job_id, at in session.execute(events):
        latest.setdefault(actor, (job_id, at))
    ids = [job_id for job_id, _ in latest.values()]
    models = {
        row[0]: (row[1], row[2])
        for row in session.execute(select(Job.id, Job.model, Job.model_version).where(Job.id.in_(ids)))
    }
    return [LastRead(owner, *models.get(job_id, ("", "")), at) for owner, (job_id, at) in latest.items()]


def dead_letters(session: Session) -> list[Letter]:
    """Deliveries that were given up, at most `MOST_LETTERS`, the latest first."""
    query = (
        select(Delivery, Result)
        .join(Result, Result.id == Delivery.result_id)
        .where(Delivery.state == DeliveryState.DEAD)
        .order_by(Delivery.next_attempt_at.desc(), Delivery.id.desc())
        .limit(MOST_LETTERS)
    )
    return [
        Letter(result.study_instance_uid, result.kind, one.job_id, one.destination, one.reason, one.attempts)
        for one, result in session.execute(query)
    ]


def parked_jobs(session: Session) -> list[Letter]:
    """Jobs that were given up, at most `MOST_LETTERS`, the latest first."""
    query = (
        select(Job, Study.study_instance_uid)
        .join(Study, Study.id == Job.study_id)
        .where(Job.state == JobState.PARKED)
        # Not by their end: the database would walk the index of all ends instead of that of the state.
        .order_by(Job.created_at.desc(), Job.id)
        .limit(MOST_LETTERS)
    )
    return [
        Letter(study, f"{job.model} {job.model_version}".strip(), job.id, "", job.reason, job.attempts)
        for job, study in session.execute(query)
    ]


def waiting_by_destination(session: Session) -> dict[str, int]:
    """How many objects wait for each destination."""
    query = select(Delivery.destination, func.count()).where(Delivery.state == DeliveryState.PENDING)
    return {row[0]: row[1] for row in session.execute(query.group_by(Delivery.destination))}


def last_study(session: Session, ae_titles: Iterable[str]) -> dict[str, datetime]:
    """When the latest image of a study that each of these opened came; without those that never sent one."""
    found: dict[str, datetime] = {}
    for title in ae_titles:
        at = session.scalar(select(func.max(Study.last_received_at)).where(Study.calling_ae == title))
        if at is not None:
            found[title] = at
    return found


def heard(session: Session, since: datetime) -> list[Heard]:
    """Who sent studies or was refused an association, by the latest `MOST_EVENTS` lines of the audit on each."""
    counts: Counter[tuple[str, str, str]] = Counter()
    last: dict[tuple[str, str], datetime] = {}
    for event in ("instances_received", "association_rejected"):
        query = (
            select(Audit.actor, Audit.detail, Audit.at)
            .where(Audit.event == event)
            .order_by(Audit.id.desc())
            .limit(MOST_EVENTS)
        )
        for actor, detail, at in session.execute(query):
            # Not asked of the database, which would look through all that is older.
            if at < since:
                break
            who = (actor, _address(detail))
            # Of a flood one row counts many (node/audit/alerts.py).
            counts[(*who, event)] += int(detail.get("attempts", 1))
            last[who] = max(at, last.get(who, at))
    return [
        Heard(*who, counts[(*who, "instances_received")], counts[(*who, "association_rejected")], at)
        for who, at in sorted(last.items(), key=lambda one: one[1], reverse=True)
    ]


def _address(detail: dict[str, Any]) -> str:
    return str(detail.get("address") or detail.get("peer_address") or "")


def _latest_done() -> Select[str]:
    return (
        select(Job.id)
        .where(Job.finished_at.is_not(None), Job.state == JobState.DONE)
        .order_by(Job.finished_at.desc())
        .limit(MOST_JOBS)
    )


def recent_summaries(session: Session, model: str, model_version: str) -> list[dict[str, Any]]:
    """What the latest `MOST_JOBS` finished jobs say of their images, of one model version among them."""
    query = select(Job.summary).where(
        Job.id.in_(_latest_done()), Job.model == model, Job.model_version == model_version
    )
    return [row[0] or {} for row in session.execute(query)]


def recent_facts(session: Session, model: str, model_version: str) -> list[dict[str, Any]]:
    """The header facts of at most `MOST_JOBS` images that the latest jobs of one model version read."""
    query = (
        select(Instance.facts)
        .join(RevisionInstance, RevisionInstance.instance_id == Instance.id)
        .join(Job, Job.revision_id == RevisionInstance.revision_id)
        .where(Job.id.in_(_latest_done()), Job.model == model, Job.model_version == model_version)
        .limit(MOST_JOBS)
    )
    return list(session.scalars(query))
