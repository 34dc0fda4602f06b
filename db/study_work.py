"""What is known of the work on one study, for whoever asks whether it is done: a work item's performer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from db import identities, rerun
from db.performances import Output
from db.states import DeliveryState, InstanceState, JobState, StudyState
from db.tables import Delivery, Instance, Job, Result, Study

_AT_ONCE = 500
_UNDER_WAY = (DeliveryState.PENDING, DeliveryState.SENDING)
_TAKEN = (DeliveryState.SENT, DeliveryState.CONFIRMED, DeliveryState.UNCONFIRMED)


@dataclass(frozen=True)
class StudyWork:
    """patient_ids: of its images, and what they were changed to since. settled: no image is waited for.

    here, aside: of the instances asked about, how many are held, and how many of them are in quarantine; of all images
    where none were named. jobs: states of the jobs of the current revisions. sent: their results that a destination has
    taken; sending: how many deliveries are under way; dead: how many are given up.
    """

    id: int
    patient_ids: frozenset[str]
    settled: bool
    here: int
    aside: int
    jobs: tuple[JobState, ...] = ()
    sent: tuple[Output, ...] = ()
    sending: int = 0
    dead: int = 0


def of_study(session: Session, study_instance_uid: str, instances: Sequence[str] = ()) -> StudyWork | None:
    """None where no image of the study has come, or its images are deleted."""
    study = session.scalars(select(Study).where(Study.study_instance_uid == study_instance_uid)).one_or_none()
    if study is None or study.state not in (StudyState.RECEIVING, StudyState.COMPLETE):
        return None
    states = _held(session, study.id, instances)
    changed = identities.current(session, study.id)
    ids = {study.patient_id, "" if changed is None else changed.identity.patient_id}
    revisions = [one.id for one in rerun.current_revisions(session, study.id)]
    jobs = session.execute(select(Job.id, Job.state).where(Job.revision_id.in_(revisions)).order_by(Job.id)).all()
    rows = session.execute(
        select(Delivery, Result)
        .join(Result, Result.id == Delivery.result_id)
        .where(Delivery.job_id.in_([job for job, _ in jobs]))
        .order_by(Result.id, Delivery.id)
    ).all()
    return StudyWork(
        id=study.id,
        patient_ids=frozenset(one for one in ids if one),
        settled=study.state is StudyState.COMPLETE,
        here=sum(states.values()),
        aside=states.get(InstanceState.QUARANTINED, 0),
        jobs=tuple(state for _, state in jobs),
        sent=tuple(_output(delivery, result) for delivery, result in rows if delivery.state in _TAKEN),
        sending=sum(delivery.state in _UNDER_WAY for delivery, _ in rows),
        dead=sum(delivery.state is DeliveryState.DEAD for delivery, _ in rows),
    )


def _held(session: Session, study_id: int, instances: Sequence[str]) -> dict[InstanceState, int]:
    """How many are held, by state."""
    found: dict[InstanceState, int] = {}
    count = (
        select(Instance.state, func.count())
        .where(Instance.study_id == study_id, Instance.own_result.is_(False))
        .group_by(Instance.state)
    )
    parts = [instances[start : start + _AT_ONCE] for start in range(0, len(instances), _AT_ONCE)]
    for query in [count.where(Instance.sop_instance_uid.in_(part)) for part in parts] or [count]:
        for state, number in session.execute(query):
            found[state] = found.get(state, 0) + number
    return found


def _output(delivery: Delivery, result: Result) -> Output:
    return Output(
        sop_class_uid=delivery.sent_sop_class_uid or result.sop_class_uid,
        sop_instance_uid=delivery.sent_sop_instance_uid or result.sop_instance_uid,
        series_instance_uid=result.series_instance_uid,
        study_instance_uid=result.study_instance_uid,
        destination=delivery.destination,
    )
