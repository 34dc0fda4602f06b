"""What FHIR resources are made of: studies, the models' work on them, and what took the place of what.

Paging is by key, the newest first. Of deleted studies there is nothing. Protected health information.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, exists, func, not_, or_, select, union_all
from sqlalchemy.orm import Session, aliased

from db import identities, orders
from db.hl7_tables import IdentityChange
from db.jobs import REPORT
from db.order_tables import Order
from db.states import InstanceState, JobState, StudyState
from db.tables import Instance, Job, Result, Revision, Series, Study

FINISHED = (JobState.DONE, JobState.NOT_ANALYSED)
_GONE = (StudyState.DELETING, StudyState.DELETED)


@dataclass(frozen=True)
class SeriesMatter:
    """images: how many of it are here, this node's own results left out."""

    series_instance_uid: str
    modality: str
    images: int


@dataclass(frozen=True)
class StudyMatter:
    """A study with whose it is today. ordered: the accession number of an order that is this patient's, or ""."""

    id: int
    study_instance_uid: str
    patient_id: str
    issuer: str
    patient_name: str
    accession_number: str
    ordered: str
    study_date: str
    description: str
    last_received_at: datetime
    series: tuple[SeriesMatter, ...]


@dataclass(frozen=True)
class Work:
    """One model's work on one revision of a study.

    report_uid: SOP Instance UID of the structured report, "" while there is none. replaces: that of the report which
    this one took the place of, "" where it is the first. replaced_at: since when a later report has taken its place.
    key: where a following page begins.
    """

    job_id: str
    study: StudyMatter
    model: str
    model_version: str
    model_digest: str
    state: JobState
    reason: str
    priority: str
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    summary: dict[str, Any]
    report_uid: str
    replaces: str
    replaced_at: datetime | None
    key: Key

    @property
    def changed_at(self) -> datetime:
        """When it last became something else."""
        return self.replaced_at or self.finished_at or self.started_at or self.created_at


@dataclass(frozen=True)
class Key:
    """Where a page begins: behind this work, or with a `skip` within it, behind so many of its resources."""

    revision_id: int
    model: str
    skip: int | None = None


@dataclass(frozen=True)
class ModelMatter:
    """One version of a model that has read here. told: what its work says of it beside; {} of an older release's."""

    model: str
    version: str
    digest: str
    told: dict[str, Any]


@dataclass(frozen=True)
class Wanted:
    """Which; empty values ask for all. numbers: study UIDs or accession numbers. since is inclusive, before is not.

    replaced: only what a later report has taken the place of, or only what none has. digest: of the model's bundle.
    """

    patient_id: str = ""
    study_uid: str = ""
    numbers: str = ""
    report_uid: str = ""
    job_id: str = ""
    digest: str = ""
    states: tuple[JobState, ...] = ()
    replaced: bool | None = None
    since: datetime | None = None
    before: datetime | None = None


def works(session: Session, wanted: Wanted, *, after: Key | None = None, limit: int) -> tuple[list[Work], Key | None]:
    """The models' work that matches, finished or not, and the key that a following page begins after.

    With a `skip` this page begins with `after` itself.
    """
    query = (
        select(Job, Revision, Study)
        .join(Revision, Revision.id == Job.revision_id)
        .join(Study, Study.id == Job.study_id)
        .where(Study.state.not_in(_GONE), *_conditions(wanted))
        .order_by(Job.revision_id.desc(), Job.model)
        .limit(limit)
    )
    if after is not None:
        model = Job.model > after.model if after.skip is None else Job.model >= after.model
        # Said twice, because an index helps with the first alone.
        query = query.where(Job.revision_id <= after.revision_id, or_(Job.revision_id < after.revision_id, model))
    if wanted.report_uid:
        query = query.join(Result, Result.job_id == Job.id).where(
            Result.sop_instance_uid == wanted.report_uid, Result.kind == REPORT
        )
    rows = session.execute(query).all()
    matters = _matters(session, [study for _, _, study in rows])
    told = _reports(session, {study.id for _, _, study in rows})
    found = [
        _work(job, revision, matters[study.id], told)
        for job, revision, study in rows
        if not wanted.patient_id or matters[study.id].patient_id == wanted.patient_id
    ]
    return found, Key(rows[-1][0].revision_id, rows[-1][0].model) if len(rows) == limit else None


def earlier(session: Session, work: Work) -> list[Work]:
    """The finished work on the same that this one's report took the place of, the newest first."""
    mine, before = aliased(Revision), aliased(Revision)
    older = (
        select(Job.id)
        .join(before, before.id == Job.revision_id)
        .join(mine, _same(mine, before))
        .where(mine.id == work.key.revision_id, before.number < mine.number, Job.model == work.model)
        .order_by(before.number.desc())
    )
    # Most work has none, though its study may have been read image by image.
    pages = [works(session, Wanted(job_id=one, states=FINISHED), limit=1) for one in session.scalars(older).all()]
    return [one for found, _ in pages for one in found if one.report_uid]


def studies(
    session: Session, wanted: Wanted, *, after: int | None = None, limit: int
) -> tuple[list[StudyMatter], int | None]:
    """The studies that match, and the key that a following page begins after; None at the end."""
    query = select(Study).where(Study.state.not_in(_GONE), *_of_study(wanted)).order_by(Study.id.desc()).limit(limit)
    if after is not None:
        query = query.where(Study.id < after)
    if wanted.since is not None:
        query = query.where(Study.last_received_at >= wanted.since)
    if wanted.before is not None:
        query = query.where(Study.last_received_at < wanted.before)
    found = session.scalars(query).all()
    matters = _matters(session, found)
    mine = [matters[study.id] for study in found]
    following = found[-1].id if len(found) == limit else None
    return [one for one in mine if not wanted.patient_id or one.patient_id == wanted.patient_id], following


def models(session: Session, digest: str = "") -> list[ModelMatter]:
    """Every version of a model that has finished work here, by model and version; or that of a bundle's digest."""
    here = [Job.model_digest != "", Job.state.in_(FINISHED), Study.state.not_in(_GONE)]
    columns = (Job.model, Job.model_version, Job.model_digest)
    if digest:
        query = select(*columns, Job.summary).join(Study, Study.id == Job.study_id)
        rows = session.execute(query.where(*here, Job.model_digest == digest).limit(1)).all()
    else:
        seen = (
            select(*columns, func.min(Job.id).label("job_id"))
            .join(Study, Study.id == Job.study_id)
            .where(*here)
            .group_by(*columns)
            .subquery()
        )
        named = (seen.c.model, seen.c.model_version, seen.c.model_digest)
        rows = session.execute(select(*named, Job.summary).join(Job, Job.id == seen.c.job_id).order_by(*named)).all()
    return [ModelMatter(model, version, known, told_of(summary)) for model, version, known, summary in rows]


def told_of(summary: dict[str, Any]) -> dict[str, Any]:
    """What a job's summary says of the model that read."""
    told = summary.get("model")
    return told if isinstance(told, dict) else {}


def _conditions(wanted: Wanted) -> list[ColumnElement[bool]]:
    conditions = _of_study(wanted)
    if wanted.job_id:
        conditions.append(Job.id == wanted.job_id)
    if wanted.digest:
        conditions.append(Job.model_digest == wanted.digest)
    if wanted.states:
        conditions.append(Job.state.in_(wanted.states))
    if wanted.replaced is not None:
        conditions.append(Job.id.in_(_replaced()) if wanted.replaced else not_(_later()))
    changed = func.coalesce(Job.finished_at, Job.started_at, Job.created_at)
    if wanted.since is not None:
        conditions.append(or_(changed >= wanted.since, Job.id.in_(_replaced(wanted.since))))
    if wanted.before is not None:
        conditions += [changed < wanted.before, Job.id.not_in(_replaced(wanted.before))]
    return conditions


def _of_study(wanted: Wanted) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if wanted.study_uid:
        conditions.append(Study.study_instance_uid == wanted.study_uid)
    if wanted.numbers:
        known = or_(Study.study_instance_uid == wanted.numbers, Study.accession_number == wanted.numbers)
        conditions.append(known)
    if wanted.patient_id:
        # Whose it is today is looked at afterwards: changes of identity are few.
        changed = select(IdentityChange.study_id).where(IdentityChange.patient_id == wanted.patient_id)
        once = union_all(select(Study.id).where(Study.patient_id == wanted.patient_id), changed)
        conditions.append(Study.id.in_(once))
    return conditions


def _same(one: type[Revision], other: type[Revision]) -> ColumnElement[bool]:
    """Two revisions of the same: a study, or an image of it, on one route."""
    return and_(one.study_id == other.study_id, one.route == other.route, one.subject == other.subject)


def _later() -> ColumnElement[bool]:
    """Has the same model finished with a later revision of what the row is on?"""
    newer, later, mine = aliased(Job), aliased(Revision), aliased(Revision)
    return exists().where(
        newer.study_id == Job.study_id,
        newer.model == Job.model,
        newer.state.in_(FINISHED),
        later.id == newer.revision_id,
        mine.id == Job.revision_id,
        _same(later, mine),
        later.number > mine.number,
    )


def _replaced(since: datetime | None = None) -> Select[str]:
    """Ids of the work whose report was replaced; since: at that moment or later."""
    older, newer, before, later = aliased(Job), aliased(Job), aliased(Revision), aliased(Revision)
    query = (
        select(older.id)
        .select_from(newer)
        .join(later, later.id == newer.revision_id)
        .join(before, _same(later, before))
        .join(older, and_(older.revision_id == before.id, older.model == newer.model))
        # The first revision takes the place of none: that leaves few.
        .where(newer.state.in_(FINISHED), later.number > 1, later.number > before.number)
    )
    return query if since is None else query.where(newer.finished_at >= since)


@dataclass(frozen=True)
class _Reported:
    job_id: str
    number: int
    finished_at: datetime
    report_uid: str


_Place = tuple[int, str, str, str]


def _reports(session: Session, study_ids: Iterable[int]) -> dict[_Place, list[_Reported]]:
    """All finished work of these studies by what it is on, in the order of the revisions."""
    found: dict[_Place, list[_Reported]] = defaultdict(list)
    rows = session.execute(
        select(
            *(Job.id, Job.study_id, Job.model, Job.finished_at, Job.created_at),
            *(Revision.route, Revision.subject, Revision.number, Result.sop_instance_uid),
        )
        .join(Revision, Revision.id == Job.revision_id)
        .outerjoin(Result, and_(Result.job_id == Job.id, Result.kind == REPORT))
        .where(Job.study_id.in_(sorted(study_ids)), Job.state.in_(FINISHED))
        .order_by(Revision.number)
    )
    for job_id, study_id, model, finished_at, created_at, route, subject, number, uid in rows:
        place = (study_id, route, subject, model)
        found[place].append(_Reported(job_id, number, finished_at or created_at, uid or ""))
    return found


def _work(job: Job, revision: Revision, study: StudyMatter, told: dict[_Place, list[_Reported]]) -> Work:
    line = told.get((study.id, revision.route, revision.subject, job.model), [])
    before = [one.report_uid for one in line if one.number < revision.number and one.report_uid]
    later = [one.finished_at for one in line if one.number > revision.number]
    return Work(
        job_id=job.id,
        study=study,
        model=job.model,
        model_version=job.model_version,
        model_digest=job.model_digest,
        state=job.state,
        reason=job.reason,
        priority=job.priority,
        created_at=job.created_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
        summary=job.summary,
        report_uid=next((one.report_uid for one in line if one.job_id == job.id), ""),
        replaces=before[-1] if before else "",
        replaced_at=max(later) if later and job.state in FINISHED else None,
        key=Key(job.revision_id, job.model),
    )


def _matters(session: Session, found: Sequence[Study]) -> dict[int, StudyMatter]:
    ids = sorted({study.id for study in found})
    series: dict[int, list[SeriesMatter]] = defaultdict(list)
    rows = session.execute(
        select(Series.study_id, Series.series_instance_uid, Series.modality, func.count())
        .join(Instance, Instance.series_id == Series.id)
        .where(
            Series.study_id.in_(ids),
            Instance.own_result.is_(False),
            Instance.state != InstanceState.QUARANTINED,
        )
        .group_by(Series.id, Series.study_id, Series.series_instance_uid, Series.modality)
        .order_by(Series.id)
    )
    for study_id, uid, modality, images in rows:
        series[study_id].append(SeriesMatter(uid, modality, images))
    matched = {one: shown.accession_number for one, shown in orders.of_studies(session, ids).items()}
    # A study stands there once for each piece of work on it.
    return {
        study.id: _matter(session, study, tuple(series[study.id]), matched.get(study.id, "")) for study in set(found)
    }


def _matter(session: Session, study: Study, series: tuple[SeriesMatter, ...], matched: str) -> StudyMatter:
    heeded = identities.current(session, study.id)
    now = identities.Identity("") if heeded is None else heeded.identity
    patient_id = now.patient_id or study.patient_id
    return StudyMatter(
        id=study.id,
        study_instance_uid=study.study_instance_uid,
        patient_id=patient_id,
        issuer=now.issuer,
        patient_name=now.name or study.patient_name,
        accession_number=study.accession_number,
        ordered=matched or _ordered(session, study.accession_number, patient_id),
        study_date=study.study_date,
        description=study.study_description,
        last_received_at=study.last_received_at,
        series=series,
    )


def _ordered(session: Session, accession_number: str, patient_id: str) -> str:
    """The accession number, where an order of it is on record that names the same patient."""
    if not accession_number or not patient_id:
        return ""
    query = select(Order.accession_number).where(
        Order.accession_number == accession_number, Order.patient_id == patient_id
    )
    return session.scalar(query.limit(1)) or ""
