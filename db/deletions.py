"""Deleting, so that it may be cut short at any moment.

One transaction takes the files out of the record and writes down that they are going (`begin_…`); then whoever holds
the deletion removes them, and a second transaction closes it and tells the audit (`finish`). So the record never names
a file that is not there, and a file that is left behind is named by a deletion that is taken up again.

While files of a study are going its state is DELETING, and nothing that arrives for it is taken (`db.intake`): a new
image would get the name of an old one, and be removed with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, exists, func, or_, select, update
from sqlalchemy.orm import Session

from db import audit, hl7_spool, identities, performances, priors, workitem_queries
from db.audit_events import Event
from db.errors import ConflictError
from db.house_tables import Deletion
from db.order_tables import StudyOrder
from db.prior_tables import PriorRequest
from db.retention import unfinished
from db.states import DeletionScope, DeletionState, DeliveryState, InstanceState, JobState, StudyState
from db.tables import (
    Delivery,
    Instance,
    Job,
    Refusal,
    Result,
    Revision,
    RevisionInstance,
    RoutingDecision,
    Series,
    Study,
)
from db.transitions import affected, move
from db.types import utcnow

# The path of an object that was sent under a UID of its own (another SR class), which no row names.
PathOf = Callable[[str], str]

_EVENTS: dict[DeletionScope, Event] = {
    DeletionScope.STUDY: "study_deleted",
    DeletionScope.IMAGES: "instances_deleted",
    DeletionScope.RESULTS: "instances_deleted",
    DeletionScope.PRIORS: "instances_deleted",
    DeletionScope.ASIDE: "instances_deleted",
}
_AFTERWARDS = {DeletionScope.STUDY: StudyState.DELETED, DeletionScope.IMAGES: StudyState.CLEARED}


@dataclass(frozen=True)
class Going:
    """A deletion in the hands of the caller. paths: relative to the data folder."""

    id: int
    scope: DeletionScope
    study_instance_uid: str
    paths: tuple[str, ...]
    size_bytes: int


def begin_images(session: Session, study_id: int, *, before: datetime, actor: str, reason: str, waiting: bool) -> bool:
    """The received images of a study go, if it is COMPLETE and finished (`db.retention`); what was found in them stays.

    before: everything about it must have ended before that moment. waiting: also where something waits for a person,
    which is given up with it. False where the study does not fit, or no longer does.
    """
    study = _locked(session, study_id)
    if study is None or study.state is not StudyState.COMPLETE:
        return False
    if unfinished(session, study_id, before=before, waiting=waiting):
        return False
    if waiting:
        _give_up_parked(session, study_id, reason)
    detail, paths, size = _take_out_images(session, study_id)
    _open(session, DeletionScope.IMAGES, study, actor, reason, paths=paths, size_bytes=size, detail=detail)
    move(session, Study, [Study.id == study_id], StudyState.COMPLETE, StudyState.DELETING)
    return True


def begin_results(
    session: Session, result_ids: Sequence[int], *, path_of: PathOf, actor: str, reason: str, at: datetime
) -> int:
    """The files of these results go, which are of one study; their rows stay. Returns how many were there to go.

    One that is to be sent again meanwhile stays.
    """
    wanted = (DeliveryState.PENDING, DeliveryState.SENDING, DeliveryState.SENT, DeliveryState.DEAD)
    on_its_way = exists().where(Delivery.result_id == Result.id, Delivery.state.in_(wanted))
    found = session.scalars(
        select(Result)
        .where(Result.id.in_(result_ids), Result.deleted_at.is_(None), ~on_its_way)
        .order_by(Result.id)
        .with_for_update()
    ).all()
    if not found:
        return 0
    study_id = session.scalar(select(Job.study_id).where(Job.id == found[0].job_id))
    study = None if study_id is None else session.get(Study, study_id)
    paths = _take_out_results(session, found, path_of, at)
    detail = {"sop_classes": audit.count_by_class((r.sop_class_uid, r.sop_instance_uid) for r in found)}
    size = sum(r.size_bytes for r in found)
    _open(session, DeletionScope.RESULTS, study, actor, reason, paths=paths, size_bytes=size, detail=detail)
    return len(found)


def begin_study(
    session: Session, study_instance_uid: str, *, path_of: PathOf, actor: str, reason: str, force: bool = False
) -> None:
    """Everything of a study goes but its UIDs: images, results, what names the patient, what was found.

    force: even where something of it is not finished; jobs are then closed and deliveries withdrawn. Raises
    ConflictError where it is not there, is going already, is not finished, or is in the hands of a worker.
    """
    study_id = session.scalar(select(Study.id).where(Study.study_instance_uid == study_instance_uid))
    study = None if study_id is None else _locked(session, study_id)
    if study is None or study.state in {StudyState.DELETING, StudyState.DELETED}:
        state = "is not here" if study is None else "is deleted already"
        raise ConflictError(f"study {study_instance_uid} {state}")
    open_ends = unfinished(session, study.id, before=None, waiting=False)
    if open_ends and not force:
        raise ConflictError(f"study {study_instance_uid} is not finished: {'; '.join(open_ends)}; see --force")
    detail: dict[str, Any] = {"forced": bool(open_ends), "given_up": list(open_ends)}
    _close_work(session, study)
    results = session.scalars(
        select(Result).join(Job, Job.id == Result.job_id).where(Job.study_id == study.id, Result.deleted_at.is_(None))
    ).all()
    more, paths, size = _take_out_images(session, study.id)
    paths += _take_out_results(session, results, path_of, utcnow())
    detail |= more | {"results": audit.count_by_class((r.sop_class_uid, r.sop_instance_uid) for r in results)}
    size += sum(result.size_bytes for result in results)
    _open(session, DeletionScope.STUDY, study, actor, reason, paths=paths, size_bytes=size, detail=detail)
    _forget(session, study.id)
    performances.forget_patient(session, study_instance_uid)
    workitem_queries.forget_patient(session, study_instance_uid)
    move(session, Study, [Study.id == study.id], study.state, StudyState.DELETING)


def begin_priors(session: Session, request_id: int, *, actor: str, reason: str) -> bool:
    """The prior studies that were fetched for a question go (`db.priors.due_gone`). False where there are none."""
    study = session.scalars(
        select(Study).join(PriorRequest, PriorRequest.study_id == Study.id).where(PriorRequest.id == request_id)
    ).one_or_none()
    named, paths, size = priors.take_out(session, [request_id])
    if not paths:
        return False
    detail = {"sop_classes": audit.count_by_class(named)}
    _open(session, DeletionScope.PRIORS, study, actor, reason, paths=paths, size_bytes=size, detail=detail)
    return True


def begin_aside(session: Session, refusal_id: int, *, actor: str, reason: str) -> bool:
    """The file of an object that was set aside goes; that it came stays on record. False where there is none.

    The same object from several senders is one file with a row for each: it goes with the last of them.
    """
    named = select(Refusal.sop_instance_uid, Refusal.path).where(Refusal.id == refusal_id, Refusal.path != "")
    uid, path = session.execute(named).one_or_none() or ("", "")
    # Locked in one order, so that of two at once the second sees what the first has left.
    same = select(Refusal).where(Refusal.sop_instance_uid == uid, Refusal.path == path, Refusal.path != "")
    rows = session.scalars(same.order_by(Refusal.id).with_for_update()).all()
    refusal = next((row for row in rows if row.id == refusal_id), None)
    if refusal is None:
        return False
    paths, size = [path], refusal.size_bytes
    affected(session, update(Refusal).where(Refusal.id == refusal_id).values(path="", size_bytes=0))
    if len(rows) > 1:
        return True
    detail = {"sop_classes": audit.count_by_class([(refusal.sop_class_uid, refusal.sop_instance_uid)])}
    _open(
        session, DeletionScope.ASIDE, None, actor, reason,
        paths=paths, size_bytes=size, detail=detail, study_uid=refusal.study_instance_uid,
    )  # fmt: skip
    return True


def begin_set_aside(session: Session, sop_instance_uid: str, *, actor: str, reason: str) -> bool:
    """What lies in quarantine under that UID goes: an image of another patient, objects under a UID in use.

    False where nothing does.
    """
    conflicts = select(Refusal.id).where(Refusal.sop_instance_uid == sop_instance_uid, Refusal.path != "")
    begun = [begin_aside(session, one, actor=actor, reason=reason) for one in session.scalars(conflicts).all()]
    image = session.scalars(
        select(Instance)
        .where(Instance.sop_instance_uid == sop_instance_uid, Instance.state == InstanceState.QUARANTINED)
        .with_for_update()
    ).one_or_none()
    if image is None:
        return any(begun)
    study_uid = session.scalar(select(Study.study_instance_uid).where(Study.id == image.study_id)) or ""
    affected(session, delete(RevisionInstance).where(RevisionInstance.instance_id == image.id))
    affected(session, delete(Instance).where(Instance.id == image.id))
    detail = {"sop_classes": audit.count_by_class([(image.sop_class_uid, image.sop_instance_uid)])}
    paths, size = [image.path], image.size_bytes
    _open(
        session, DeletionScope.ASIDE, None, actor, reason,
        paths=paths, size_bytes=size, detail=detail, study_uid=study_uid,
    )  # fmt: skip
    return True


def open_count(session: Session) -> int:
    """How many deletions are under way."""
    return session.scalar(select(func.count()).where(Deletion.state == DeletionState.BEGUN)) or 0


def claim(session: Session, owner: str, *, lease_s: float) -> Going | None:
    """The oldest deletion that nobody is at; None where there is none."""
    now = utcnow()
    free = or_(Deletion.lease_until.is_(None), Deletion.lease_until < now)
    query = select(Deletion).where(Deletion.state == DeletionState.BEGUN, free).order_by(Deletion.id).limit(1)
    found = session.scalars(query.with_for_update(skip_locked=True)).one_or_none()
    if found is None:
        return None
    lease = {"lease_owner": owner, "lease_until": now + timedelta(seconds=lease_s)}
    affected(session, update(Deletion).where(Deletion.id == found.id).values(**lease))
    return Going(found.id, found.scope, found.study_instance_uid, tuple(found.paths), found.size_bytes)


def any_open(session: Session) -> bool:
    """Whether there is a deletion to go on with. Takes no lock."""
    now = utcnow()
    free = or_(Deletion.lease_until.is_(None), Deletion.lease_until < now)
    return session.scalar(select(Deletion.id).where(Deletion.state == DeletionState.BEGUN, free).limit(1)) is not None


def postpone(session: Session, deletion_id: int, owner: str, *, wait_s: float) -> None:
    """Its files cannot be removed now: nobody tries for `wait_s` seconds, and others come before it."""
    until = utcnow() + timedelta(seconds=wait_s)
    held = update(Deletion).where(Deletion.id == deletion_id, Deletion.lease_owner == owner)
    affected(session, held.values(lease_owner="", lease_until=until))


def free(session: Session, owner: str) -> int:
    """`owner` is gone: what it was at may be taken up at once. Returns how many."""
    held = update(Deletion).where(Deletion.lease_owner == owner, Deletion.state == DeletionState.BEGUN)
    return affected(session, held.values(lease_owner="", lease_until=None))


def finish(session: Session, deletion_id: int, owner: str) -> bool:
    """The files are gone for good: close the deletion, and say so in the audit. False where another has it."""
    held = [Deletion.id == deletion_id, Deletion.lease_owner == owner]
    if not move(
        session,
        Deletion,
        held,
        DeletionState.BEGUN,
        DeletionState.DONE,
        paths=[],
        finished_at=utcnow(),
        lease_owner="",
        lease_until=None,
    ):
        return False
    done = session.get_one(Deletion, deletion_id)
    afterwards = _AFTERWARDS.get(done.scope)
    if afterwards is not None:
        move(session, Study, [Study.id == done.study_id], StudyState.DELETING, afterwards)
    audit.note(
        session,
        _EVENTS[done.scope],
        actor=done.actor,
        subject=done.study_instance_uid,
        reason=done.reason,
        what=done.scope.value.lower(),
        files=done.files,
        bytes=done.size_bytes,
        **done.detail,
    )
    return True


def _locked(session: Session, study_id: int) -> Study | None:
    """The study, and nobody else changes it or what hangs on it until this transaction ends."""
    return session.scalars(select(Study).where(Study.id == study_id).with_for_update()).one_or_none()


def _open(
    session: Session,
    scope: DeletionScope,
    study: Study | None,
    actor: str,
    reason: str,
    *,
    paths: list[str],
    size_bytes: int,
    detail: dict[str, Any],
    study_uid: str = "",
) -> None:
    session.add(
        Deletion(
            scope=scope,
            state=DeletionState.BEGUN,
            study_id=None if study is None else study.id,
            study_instance_uid=study_uid if study is None else study.study_instance_uid,
            actor=audit.clean(actor, 128),
            reason=audit.clean(reason),
            paths=paths,
            files=len(paths),
            size_bytes=size_bytes,
            detail=detail,
            begun_at=utcnow(),
        )
    )
    session.flush()


def _take_out_images(session: Session, study_id: int) -> tuple[dict[str, Any], list[str], int]:
    rows = session.execute(
        select(Instance.sop_class_uid, Instance.sop_instance_uid, Instance.path, Instance.size_bytes)
        .where(Instance.study_id == study_id)
        .order_by(Instance.id)
    ).all()
    mine = select(Instance.id).where(Instance.study_id == study_id)
    affected(session, delete(RevisionInstance).where(RevisionInstance.instance_id.in_(mine)))
    affected(session, delete(Instance).where(Instance.study_id == study_id))
    affected(session, delete(Series).where(Series.study_id == study_id))
    fetched, paths, size = priors.forget(session, study_id)
    return (
        {
            "sop_classes": audit.count_by_class((r[0], r[1]) for r in rows),
            **({"priors": audit.count_by_class(fetched)} if fetched else {}),
        },
        [r[2] for r in rows] + paths,
        sum(r[3] for r in rows) + size,
    )


def _take_out_results(session: Session, found: Iterable[Result], path_of: PathOf, at: datetime) -> list[str]:
    results = list(found)
    ids = [result.id for result in results]
    affected(session, update(Result).where(Result.id.in_(ids)).values(deleted_at=at))
    own = {result.sop_instance_uid for result in results}
    sent = session.scalars(
        select(Delivery.sent_sop_instance_uid).where(
            Delivery.result_id.in_(ids), Delivery.sent_sop_instance_uid != ""
        ).distinct()
    )  # fmt: skip
    return [result.path for result in results] + [path_of(uid) for uid in sent if uid not in own]


def _give_up_parked(session: Session, study_id: int, reason: str) -> None:
    why = f"given up: {reason}"
    move(session, Job, [Job.study_id == study_id], JobState.PARKED, JobState.NOT_ANALYSED, reason=why)


def _close_work(session: Session, study: Study) -> None:
    """Nothing of the study is done or sent any more. Raises ConflictError where a worker is at it."""
    mine, reason = [Job.study_id == study.id], "its study was deleted"
    move(session, Job, mine, JobState.QUEUED, JobState.SUPERSEDED, reason=reason, finished_at=utcnow())
    move(session, Job, mine, JobState.PARKED, JobState.NOT_ANALYSED, reason=reason)
    sends = [Delivery.job_id.in_(select(Job.id).where(*mine))]
    for source in (DeliveryState.PENDING, DeliveryState.DEAD):
        move(session, Delivery, sends, source, DeliveryState.WITHDRAWN, reason=reason)
    move(session, Delivery, sends, DeliveryState.SENT, DeliveryState.UNCONFIRMED, reason=reason)
    # Looked for last: what was taken up meanwhile is seen.
    busy = session.scalar(select(Job.id).where(*mine, Job.state == JobState.RUNNING).limit(1))
    busy = busy or session.scalar(
        select(Delivery.job_id).where(*sends, Delivery.state == DeliveryState.SENDING).limit(1)
    )
    if busy:
        raise ConflictError(f"a worker is at study {study.study_instance_uid}; try again in a minute")


def _forget(session: Session, study_id: int) -> None:
    """What names the patient, and what was found."""
    nothing = dict.fromkeys(
        ("patient_id", "patient_name", "patient_birth_date", "study_date", "accession_number", "study_description"), ""
    )
    affected(session, update(Study).where(Study.id == study_id).values(**nothing, completeness_reason=""))
    affected(session, update(Job).where(Job.study_id == study_id).values(summary={}))
    affected(session, delete(RoutingDecision).where(RoutingDecision.study_id == study_id))
    hl7_spool.forget(session, study_id)
    identities.forget(session, study_id)
    affected(session, update(Revision).where(Revision.study_id == study_id).values(reason=""))
    affected(session, delete(StudyOrder).where(StudyOrder.study_id == study_id))
