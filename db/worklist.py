"""The worklist and the study page: what the record knows of studies, a page at a time.

Paging is by key, not by offset: a page deep in the list costs what the first one does, and rows that arrive meanwhile
move nothing. What names a patient stands in `PatientView` alone, so whoever has no right to it is easily spared it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Text, and_, cast, func, not_, or_, select
from sqlalchemy.orm import Session

from db import orders
from db.audit_events import Event
from db.domain import PRIORITIES, ShownOrder
from db.states import DeliveryState, JobState, StudyState
from db.tables import Audit, Delivery, Instance, Job, Revision, Series, Study

MOST_ROWS = 200
_PRESENT = '%"presence": "present"%'
_NO_JOB = "stored"
_UNDER_WAY = (DeliveryState.PENDING, DeliveryState.SENDING, DeliveryState.SENT, DeliveryState.DEAD)
# They change nothing that is shown. A list that names patients notes that it did, and would call for itself for ever.
_LOOKS: tuple[Event, ...] = ("patients_shown", "study_viewed", "report_viewed")


@dataclass(frozen=True)
class Filter:
    """What a page shows; empty values filter nothing.

    state: `receiving`, `stored` (no model reads it) or a job's state in lower case. priority: as `priority` says.
    text: the beginning of a patient's name or id, an accession number or a Study Instance UID. positive: at least one
    finding is present. uid: the beginning of a Study Instance UID, and of nothing else. ordered_only: priority is what
    was ordered, whatever was found.
    """

    state: str = ""
    priority: str = ""
    modality: str = ""
    model: str = ""
    delivery: str = ""
    text: str = ""
    positive: bool = False
    uid: str = ""
    ordered_only: bool = False


@dataclass(frozen=True)
class Cursor:
    """The last study of a page: the next page begins after it."""

    last_received_at: datetime
    id: int


@dataclass(frozen=True)
class PatientView:
    """Who it is. Protected health information."""

    name: str
    patient_id: str
    accession_number: str


@dataclass(frozen=True)
class JobView:
    """One model's work on a study. current: no later revision has taken its place."""

    id: str
    model: str
    model_version: str
    state: JobState
    reason: str
    priority: str
    route: str
    revision: int
    current: bool
    created_at: datetime
    finished_at: datetime | None
    summary: dict[str, Any]


@dataclass(frozen=True)
class StudyRow:
    """One line of the worklist. deliveries: how many are in each state. order: None where none is asked for."""

    id: int
    study_instance_uid: str
    state: StudyState
    reason: str
    calling_ae: str
    description: str
    first_received_at: datetime
    last_received_at: datetime
    patient: PatientView
    modalities: tuple[str, ...]
    body_parts: tuple[str, ...]
    instances: int
    jobs: tuple[JobView, ...]
    deliveries: dict[DeliveryState, int] = field(default_factory=dict)
    order: ShownOrder | None = None


@dataclass(frozen=True)
class Page:
    """rows: newest first. after: where the next page begins; None where there is none."""

    rows: tuple[StudyRow, ...]
    after: Cursor | None


def page(session: Session, wanted: Filter, *, after: Cursor | None = None, limit: int = 50) -> Page:
    """One page of the worklist, newest first. A page of positives or of a priority may be short though more follow."""
    limit = max(1, min(limit, MOST_ROWS))
    query = select(Study.id, Study.last_received_at).where(*_conditions(wanted))
    if after is not None:
        older = Study.last_received_at < after.last_received_at
        same = and_(Study.last_received_at == after.last_received_at, Study.id < after.id)
        query = query.where(or_(older, same), Study.last_received_at <= after.last_received_at)
    query = query.order_by(Study.last_received_at.desc(), Study.id.desc()).limit(limit + 1)
    keys = [(row[0], row[1]) for row in session.execute(query)]
    rows = _rows(session, [key[0] for key in keys[:limit]])
    # The database looks into the text of the summaries; what it cannot tell apart is told apart here.
    if wanted.positive:
        rows = tuple(row for row in rows if any(is_positive(job) for job in row.jobs if job.current))
    if wanted.priority:
        rows = tuple(row for row in rows if priority(row, ordered_only=wanted.ordered_only) == wanted.priority)
    following = None
    if len(keys) > limit:
        last_id, last_received_at = keys[limit - 1]
        following = Cursor(last_received_at, last_id)
    return Page(rows, following)


def study(session: Session, study_instance_uid: str) -> StudyRow | None:
    """One study; None where none of that UID was received."""
    found = session.scalar(select(Study.id).where(Study.study_instance_uid == study_instance_uid))
    return None if found is None else _rows(session, [found])[0]


def findings(job: JobView) -> list[dict[str, Any]]:
    """All findings of a job's images: label, presence, probability, threshold, priority."""
    return [found for image in images(job) for found in image.get("findings", []) if isinstance(found, dict)]


def images(job: JobView) -> list[dict[str, Any]]:
    """What the job says of each image, and nothing of what a version in the shadow said."""
    listed = job.summary.get("images", [])
    return [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []


def priority(row: StudyRow, *, ordered_only: bool = False) -> str:
    """How soon a person should look: the most urgent of what was ordered and what was found; "" without a job."""
    jobs = [job for job in row.jobs if job.current]
    said = {job.priority for job in jobs}
    if not ordered_only:
        said |= {
            found.get("priority", "") for job in jobs for found in findings(job) if found.get("presence") == "present"
        }
    return next((one for one in PRIORITIES if one in said), PRIORITIES[-1] if jobs else "")


def is_positive(job: JobView) -> bool:
    """Whether at least one finding is present."""
    return any(found.get("presence") == "present" for found in findings(job))


def change_mark(session: Session) -> tuple[Any, ...]:
    """Something that is another after each change a worklist shows; cheap enough to be asked every second."""
    running = select(func.count(), func.max(Job.lease_until)).where(Job.state == JobState.RUNNING)
    # Of those that are not over: counting all of them would take longer with every study.
    deliveries = (
        select(Delivery.state, func.count())
        .where(Delivery.state.in_(_UNDER_WAY))
        .group_by(Delivery.state)
        .order_by(Delivery.state)
    )
    return (
        # Whatever ends a job, gives one up or takes one up again is noted there.
        session.scalar(select(Audit.id).where(Audit.event.not_in(_LOOKS)).order_by(Audit.id.desc()).limit(1)),
        session.scalar(select(func.max(Study.last_received_at))),
        tuple(session.execute(running).one()),
        session.scalar(select(func.count()).where(Job.state == JobState.QUEUED)),
        tuple((row[0], row[1]) for row in session.execute(deliveries)),
    )


def _conditions(wanted: Filter) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = []
    if wanted.state == "receiving":
        found.append(Study.state == StudyState.RECEIVING)
    elif wanted.state == _NO_JOB:
        found.append(not_(select(Job.id).where(Job.study_id == Study.id).exists()))
        found.append(Study.state == StudyState.COMPLETE)
    elif wanted.state:
        found.append(Study.id.in_(select(Job.study_id).where(Job.state == JobState(wanted.state.upper()))))
    if wanted.priority:
        summary = cast(Job.summary, Text)
        raised = and_(summary.like(_PRESENT), summary.contains(f'"priority": "{wanted.priority}"', autoescape=True))
        ordered = Job.priority == wanted.priority
        how = ordered if wanted.ordered_only else or_(ordered, raised)
        found.append(Study.id.in_(select(Job.study_id).where(how)))
    if wanted.model:
        found.append(Study.id.in_(select(Job.study_id).where(Job.model == wanted.model)))
    if wanted.positive:
        found.append(Study.id.in_(select(Job.study_id).where(cast(Job.summary, Text).like(_PRESENT))))
    if wanted.modality:
        found.append(Study.id.in_(select(Series.study_id).where(Series.modality == wanted.modality)))
    if wanted.delivery:
        state = DeliveryState(wanted.delivery.upper())
        sent = select(Job.study_id).join(Delivery, Delivery.job_id == Job.id).where(Delivery.state == state)
        found.append(Study.id.in_(sent))
    if wanted.uid:
        found.append(Study.study_instance_uid.startswith(wanted.uid, autoescape=True))
    if wanted.text:
        columns = (Study.patient_name, Study.patient_id, Study.accession_number, Study.study_instance_uid)
        found.append(or_(*(column.istartswith(wanted.text, autoescape=True) for column in columns)))
    return found


def _rows(session: Session, ids: Sequence[int]) -> tuple[StudyRow, ...]:
    """The studies of these row ids, in this order, with a handful of queries however many they are."""
    if not ids:
        return ()
    studies = {one.id: one for one in session.scalars(select(Study).where(Study.id.in_(ids)))}
    modalities: dict[int, set[str]] = defaultdict(set)
    for study_id, modality in session.execute(
        select(Series.study_id, Series.modality).where(Series.study_id.in_(ids)).distinct()
    ):
        modalities[study_id].add(modality)
    counts, parts = _instances(session, ids)
    jobs = _jobs(session, ids)
    ordered = orders.of_studies(session, ids)
    deliveries = _deliveries(session, ids)
    return tuple(
        StudyRow(
            id=one.id,
            study_instance_uid=one.study_instance_uid,
            state=one.state,
            reason=one.completeness_reason,
            calling_ae=one.calling_ae,
            description=one.study_description,
            first_received_at=one.first_received_at,
            last_received_at=one.last_received_at,
            patient=PatientView(one.patient_name, one.patient_id, one.accession_number),
            modalities=_words(modalities[one.id]),
            body_parts=_words(parts[one.id]),
            instances=counts[one.id],
            jobs=tuple(jobs[one.id]),
            deliveries=dict(deliveries[one.id]),
            order=ordered.get(one.id),
        )
        for one in (studies[study_id] for study_id in ids if study_id in studies)
    )


def _instances(session: Session, ids: Sequence[int]) -> tuple[dict[int, int], dict[int, set[str]]]:
    counts: dict[int, int] = defaultdict(int)
    parts: dict[int, set[str]] = defaultdict(set)
    body_part = Instance.facts["body_part"].as_string()
    for study_id, part, number in session.execute(
        select(Instance.study_id, body_part, func.count())
        .where(Instance.study_id.in_(ids), Instance.own_result.is_(False))
        .group_by(Instance.study_id, body_part)
    ):
        counts[study_id] += number
        parts[study_id].add(part or "")
    return counts, parts


def _jobs(session: Session, ids: Sequence[int]) -> dict[int, list[JobView]]:
    found: dict[int, list[JobView]] = defaultdict(list)
    superseded = select(Revision.supersedes_id).where(Revision.study_id.in_(ids), Revision.supersedes_id.is_not(None))
    old = set(session.scalars(superseded))
    query = (
        select(Job, Revision)
        .join(Revision, Revision.id == Job.revision_id)
        .where(Job.study_id.in_(ids))
        .order_by(Job.created_at, Job.id)
    )
    for job, revision in session.execute(query):
        found[job.study_id].append(
            JobView(
                id=job.id,
                model=job.model,
                model_version=job.model_version,
                state=job.state,
                reason=job.reason,
                priority=job.priority,
                route=revision.route,
                revision=revision.number,
                current=revision.id not in old,
                created_at=job.created_at,
                finished_at=job.finished_at,
                summary=job.summary or {},
            )
        )
    return found


def _deliveries(session: Session, ids: Sequence[int]) -> dict[int, dict[DeliveryState, int]]:
    found: dict[int, dict[DeliveryState, int]] = defaultdict(dict)
    for study_id, state, number in session.execute(
        select(Job.study_id, Delivery.state, func.count())
        .join(Delivery, Delivery.job_id == Job.id)
        .where(Job.study_id.in_(ids))
        .group_by(Job.study_id, Delivery.state)
    ):
        found[study_id][state] = number
    return found


def _words(found: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(word for word in found if word))
