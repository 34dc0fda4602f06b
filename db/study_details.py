"""One study in detail: its images, what the models left behind, where it went, and what happened when."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from db.states import DeliveryState, InstanceState
from db.tables import Audit, Delivery, Instance, Job, Result, Series, Study


@dataclass(frozen=True)
class ResultView:
    """A result object and where it was sent. path: relative to the data folder. deleted_at: since when it is gone from
    there.
    """

    job_id: str
    kind: str
    sop_instance_uid: str
    path: str
    created_at: datetime
    deliveries: tuple[DeliveryView, ...]
    deleted_at: datetime | None = None


@dataclass(frozen=True)
class DeliveryView:
    destination: str
    state: DeliveryState
    reason: str
    attempts: int
    sent_at: datetime | None
    confirmed_at: datetime | None


@dataclass(frozen=True)
class ImageView:
    """A received image. reason: why it was not analysed, or what became of it. rows, columns: 0 where unknown."""

    sop_instance_uid: str
    series_instance_uid: str
    modality: str
    state: InstanceState
    reason: str
    rows: int
    columns: int
    has_pixels: bool
    received_at: datetime


def study_results(session: Session, study_id: int) -> list[ResultView]:
    """What the models' work on a study left behind, in the order it was made."""
    sent: dict[int, list[DeliveryView]] = defaultdict(list)
    for one in session.scalars(
        select(Delivery).join(Job, Job.id == Delivery.job_id).where(Job.study_id == study_id).order_by(Delivery.id)
    ):
        sent[one.result_id].append(
            DeliveryView(one.destination, one.state, one.reason, one.attempts, one.sent_at, one.confirmed_at)
        )
    query = select(Result).join(Job, Job.id == Result.job_id).where(Job.study_id == study_id).order_by(Result.id)
    return [
        ResultView(
            one.job_id, one.kind, one.sop_instance_uid, one.path, one.created_at, tuple(sent[one.id]), one.deleted_at
        )
        for one in session.scalars(query)
    ]


def study_images(session: Session, study_id: int, limit: int = 500) -> list[ImageView]:
    """The received images of a study, without results that came back and without what is quarantined."""
    query = (
        select(Instance, Series)
        .join(Series, Series.id == Instance.series_id)
        .where(
            Instance.study_id == study_id,
            Instance.own_result.is_(False),
            Instance.state != InstanceState.QUARANTINED,
        )
        .order_by(Instance.id)
        .limit(limit)
    )
    return [
        ImageView(
            sop_instance_uid=image.sop_instance_uid,
            series_instance_uid=series.series_instance_uid,
            modality=series.modality,
            state=image.state,
            reason=image.reason,
            rows=int(image.facts.get("rows") or 0),
            columns=int(image.facts.get("columns") or 0),
            has_pixels=bool(image.facts.get("has_pixels", True)),
            received_at=image.received_at,
        )
        for image, series in session.execute(query)
    ]


def history(
    session: Session, study_instance_uid: str, job_ids: Sequence[str], limit: int = 500
) -> list[tuple[datetime, str, str, str]]:
    """(when, event, outcome, actor) of what the audit holds on a study, its instances, its jobs and their results.

    Oldest first; the latest where there are more than `limit`.
    """
    images = (
        select(Instance.sop_instance_uid)
        .join(Study, Study.id == Instance.study_id)
        .where(Study.study_instance_uid == study_instance_uid)
        .limit(limit)
    )
    made = select(Result.sop_instance_uid).where(Result.job_id.in_(list(job_ids))).limit(limit)
    # A peer may have got a report under another UID.
    sent = select(Delivery.sent_sop_instance_uid).where(Delivery.job_id.in_(list(job_ids))).limit(limit)
    subjects = {study_instance_uid, *job_ids}
    for part in (images, made, sent):
        subjects.update(uid for uid in session.scalars(part) if uid)
    query = (
        select(Audit.at, Audit.event, Audit.outcome, Audit.actor)
        # By name: the database looks each of them up, and not through the whole audit.
        .where(Audit.subject.in_(sorted(subjects)))
        .order_by(Audit.id.desc())
        .limit(limit)
    )
    return [(row[0], row[1], row[2], row[3]) for row in reversed(session.execute(query).all())]


def stored_file(session: Session, study_instance_uid: str, sop_instance_uid: str) -> str | None:
    """The path, relative to the data folder, of a received image of that study; None where there is none.

    A result of this node that came back from a peer is none: it tells what a model says.
    """
    query = (
        select(Instance.path)
        .join(Study, Study.id == Instance.study_id)
        .where(
            Study.study_instance_uid == study_instance_uid,
            Instance.sop_instance_uid == sop_instance_uid,
            Instance.own_result.is_(False),
            Instance.state != InstanceState.QUARANTINED,
        )
    )
    return session.scalar(query)
