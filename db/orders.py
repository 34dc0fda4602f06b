"""The hospital's orders, and which of them is a study's.

A study's order is wanted, asked for in the background, and then matched, absent or mismatched. Each answer wakes
whoever judges the study, and reaches work that was queued before it came.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from db import audit, identities, outbox
from db.domain import PRIORITIES, NewOrder, OrderView, ShownOrder, WantedOrder
from db.order_tables import Order, StudyOrder
from db.states import InstanceState, JobState, OrderState, StudyState
from db.tables import Instance, Job, RevisionInstance, Series, Study
from db.transitions import affected, insert_ignore, move
from db.types import utcnow

_ASKED_FOR = (OrderState.WANTED, OrderState.ABSENT)
_STAT = PRIORITIES[0]


def want(session: Session, study_id: int) -> bool:
    """Ask for a study's order in the background. False where that was done before."""
    now = utcnow()
    return insert_ignore(
        session,
        StudyOrder,
        study_id=study_id,
        state=OrderState.WANTED,
        reason="",
        attempts=0,
        next_attempt_at=now,
        wanted_at=now,
        changed_at=now,
    )


def any_due(session: Session, now: datetime) -> bool:
    """Is there anything to claim? Takes no lock."""
    due = select(StudyOrder.study_id).where(StudyOrder.next_attempt_at <= now, StudyOrder.state.in_(_ASKED_FOR))
    return session.scalar(due.limit(1)) is not None


def claim_due(session: Session, now: datetime, *, lease_s: float, limit: int = 50) -> list[WantedOrder]:
    """Questions that are due, the longest waiting first; each is nobody else's for `lease_s`."""
    due = session.execute(
        select(StudyOrder.study_id, StudyOrder.next_attempt_at)
        .where(StudyOrder.next_attempt_at <= now, StudyOrder.state.in_(_ASKED_FOR))
        .order_by(StudyOrder.next_attempt_at, StudyOrder.study_id)
        .limit(limit)
    ).all()
    until = now + timedelta(seconds=lease_s)
    mine = [
        study_id
        for study_id, at in due
        if affected(
            session,
            update(StudyOrder)
            .where(StudyOrder.study_id == study_id, StudyOrder.next_attempt_at == at)
            .values(next_attempt_at=until, attempts=StudyOrder.attempts + 1),
        )
    ]
    return _wanted(session, mine)


def _wanted(session: Session, study_ids: Sequence[int]) -> list[WantedOrder]:
    modalities: dict[int, set[str]] = {}
    for study_id, modality in session.execute(
        select(Series.study_id, Series.modality).where(Series.study_id.in_(study_ids)).distinct()
    ):
        modalities.setdefault(study_id, set()).add(modality)
    rows = session.execute(
        select(StudyOrder, Study).join(Study, Study.id == StudyOrder.study_id).where(Study.id.in_(study_ids))
    )
    found = {}
    for asked, study in rows:
        # An order names its patient as it is known today; the images do as it was known when they were made.
        changed = identities.current(session, study.id)
        now = identities.Identity("") if changed is None else changed.identity
        found[study.id] = WantedOrder(
            study_id=study.id,
            study_instance_uid=study.study_instance_uid,
            accession_number=study.accession_number,
            patient_id=now.patient_id or study.patient_id,
            patient_name=now.name or study.patient_name,
            patient_birth_date=now.birth_date or study.patient_birth_date,
            study_date=study.study_date,
            modalities=tuple(sorted(modalities.get(study.id, ()))),
            wanted_at=asked.wanted_at,
            attempts=asked.attempts,
        )
    return [found[study_id] for study_id in study_ids if study_id in found]


def store(session: Session, new: NewOrder) -> int:
    """Keep what a source tells of an order, in place of what it told before; gives the row's id.

    The same order for another patient than before is a correction, where it has an accession number to be known by.
    """
    key = {
        "source": new.source,
        "accession_number": new.accession_number,
        "patient_id": new.patient_id,
        "requested_procedure_id": new.requested_procedure_id,
    }
    values = {
        "patient_name": new.patient_name,
        "patient_birth_date": new.patient_birth_date,
        "patient_sex": new.patient_sex,
        "study_instance_uid": new.study_instance_uid,
        "priority": new.priority,
        "procedure": new.procedure,
        "modality": new.modality,
        "scheduled_date": new.scheduled_date,
        "placer_number": new.placer_number,
        "filler_number": new.filler_number,
        "changed_at": utcnow(),
    }
    same = [getattr(Order, name) == value for name, value in key.items()]
    corrected = _other_patients(session, new)
    if corrected is not None:
        affected(session, update(Order).where(Order.id == corrected).values(**values, patient_id=new.patient_id))
    elif not insert_ignore(session, Order, **key, **values, created_at=values["changed_at"]):
        affected(session, update(Order).where(*same).values(**values))
    return session.scalars(select(Order.id).where(*same)).one()


def _other_patients(session: Session, new: NewOrder) -> int | None:
    """The row that has the same order for another patient, unless there is one for this patient as well."""
    if not new.accession_number:
        return None
    rows = session.execute(
        select(Order.id, Order.patient_id)
        .where(
            Order.source == new.source,
            Order.accession_number == new.accession_number,
            Order.requested_procedure_id == new.requested_procedure_id,
        )
        .order_by(Order.id.desc())
    ).all()
    mine = any(patient_id == new.patient_id for _, patient_id in rows)
    return None if mine or not rows else int(rows[0][0])


def unused(session: Session, before: datetime, *, limit: int = 500) -> list[int]:
    """Row ids of orders that no study is matched with and nobody has told of since; may look at all there are."""
    in_use = select(StudyOrder.study_id).where(StudyOrder.order_id == Order.id)
    old = select(Order.id).where(Order.changed_at < before, ~in_use.exists()).order_by(Order.id).limit(limit)
    return list(session.scalars(old))


def forget(session: Session, order_ids: Sequence[int], before: datetime) -> int:
    """Let go of those of these orders that are `unused` still; returns how many."""
    in_use = select(StudyOrder.study_id).where(StudyOrder.order_id == Order.id)
    mine = Order.id.in_(order_ids), Order.changed_at < before
    return affected(session, delete(Order).where(*mine, ~in_use.exists()))


def tell(session: Session, new: NewOrder) -> int:
    """`store` of an order that came unasked: studies that wait for it are looked at again, work it matched is pulled
    forward where it has become more urgent, and parked where it is another patient's now.
    """
    order_id = store(session, new)
    if new.accession_number:
        waiting = select(Study.id).where(Study.accession_number == new.accession_number)
        affected(
            session,
            update(StudyOrder)
            .where(StudyOrder.study_id.in_(waiting), StudyOrder.state.in_(_ASKED_FOR))
            .values(next_attempt_at=utcnow()),
        )
    matched = select(StudyOrder.study_id).where(StudyOrder.state == OrderState.MATCHED)
    mine = set(session.scalars(matched.where(StudyOrder.order_id == order_id)))
    wanted = {one.study_id: one for one in _wanted(session, sorted(mine))}
    for study_id in sorted(mine):
        if wanted[study_id].patient_id != new.patient_id:
            _doubt(session, study_id, new)
    # The same order may have been told by the worklist before.
    same = matched.join(Study, Study.id == StudyOrder.study_id).where(
        Study.accession_number == new.accession_number, Study.patient_id == new.patient_id
    )
    here = [one for one in mine if wanted[one].patient_id == new.patient_id]
    for study_id in sorted({*here, *(session.scalars(same) if new.accession_number else ())}):
        pull_forward(session, study_id, new.priority)
    return order_id


def _doubt(session: Session, study_id: int, new: NewOrder) -> None:
    """The order that a study was matched with was given to another patient since."""
    reason = "its order was given to another Patient ID than the image has"
    here = [StudyOrder.study_id == study_id]
    if move(session, StudyOrder, here, OrderState.MATCHED, OrderState.MISMATCHED, reason=reason, changed_at=utcnow()):
        study_uid = _wake(session, study_id)
        _park(session, study_id, reason)
        audit.note(session, "order_mismatched", actor=new.source, subject=study_uid, outcome="warning", reason=reason)


def withdraw(session: Session, new: NewOrder) -> bool:
    """Its source has taken an order back. False where none such is on record, or images are matched with it: they are
    here, and are read whatever became of the order.
    """
    in_use = select(StudyOrder.study_id).where(StudyOrder.order_id == Order.id)
    gone = delete(Order).where(
        Order.source == new.source,
        Order.accession_number == new.accession_number,
        Order.patient_id == new.patient_id,
        Order.requested_procedure_id == new.requested_procedure_id,
        ~in_use.exists(),
    )
    return bool(affected(session, gone))


def known(session: Session, accession_number: str) -> list[NewOrder]:
    """The orders on record under an accession number, whoever told them; none for an empty one."""
    if not accession_number:
        return []
    rows = session.scalars(select(Order).where(Order.accession_number == accession_number).order_by(Order.id))
    return [
        NewOrder(
            source=one.source,
            accession_number=one.accession_number,
            requested_procedure_id=one.requested_procedure_id,
            patient_id=one.patient_id,
            patient_name=one.patient_name,
            patient_birth_date=one.patient_birth_date,
            patient_sex=one.patient_sex,
            study_instance_uid=one.study_instance_uid,
            priority=one.priority,
            procedure=one.procedure,
            modality=one.modality,
            scheduled_date=one.scheduled_date,
            placer_number=one.placer_number,
            filler_number=one.filler_number,
        )
        for one in rows
    ]


def postpone(session: Session, study_ids: Sequence[int], at: datetime | None, reason: str) -> None:
    """The worklist could not be asked. at: when it is tried again; None: never. reason names no patient."""
    affected(
        session,
        update(StudyOrder)
        .where(StudyOrder.study_id.in_(study_ids), StudyOrder.state.in_(_ASKED_FOR))
        .values(next_attempt_at=at, reason=reason, changed_at=utcnow()),
    )


def settle(
    session: Session,
    study_id: int,
    target: OrderState,
    *,
    reason: str,
    order: NewOrder | None = None,
    again_at: datetime | None = None,
) -> bool:
    """Write the worklist's answer: MATCHED or MISMATCHED with its order, or ABSENT. False where it was answered before.

    An order that is more urgent than what is queued already pulls it forward; one of another patient has it parked.
    again_at: of ABSENT, when to ask once more.
    """
    now = utcnow()
    order_id = None if order is None else store(session, order)
    values = {"reason": reason, "order_id": order_id, "next_attempt_at": again_at, "changed_at": now}
    here = [StudyOrder.study_id == study_id]
    sources = [state for state in _ASKED_FOR if state is not target]
    changed = sum(move(session, StudyOrder, here, source, target, **values) for source in sources)
    if not changed:
        if target is OrderState.ABSENT:
            affected(session, update(StudyOrder).where(*here, StudyOrder.state == target).values(**values))
        return False
    study_uid = _wake(session, study_id)
    if target is OrderState.MATCHED and order is not None:
        pull_forward(session, study_id, order.priority)
        audit.note(session, "order_matched", actor=order.source, subject=study_uid, priority=order.priority)
    elif target is OrderState.MISMATCHED and order is not None:
        _park(session, study_id, reason)
        audit.note(session, "order_mismatched", actor=order.source, subject=study_uid, outcome="warning", reason=reason)
    return True


def _wake(session: Session, study_id: int) -> str:
    """Whoever is judging the study now must look again. Gives its UID."""
    affected(
        session,
        update(Study)
        .where(Study.id == study_id, Study.state == StudyState.RECEIVING)
        .values(version=Study.version + 1, check_at=utcnow()),
    )
    return session.scalars(select(Study.study_instance_uid).where(Study.id == study_id)).one()


def pull_forward(session: Session, study_id: int, priority: str) -> None:
    """Queued work on a study is at least as urgent as `priority` from now on."""
    lower = PRIORITIES[PRIORITIES.index(priority) + 1 :]
    jobs = session.scalars(
        select(Job.id).where(Job.study_id == study_id, Job.state == JobState.QUEUED, Job.priority.in_(lower))
    ).all()
    for job_id in jobs:
        raised = affected(
            session, update(Job).where(Job.id == job_id, Job.state == JobState.QUEUED).values(priority=priority)
        )
        # The old message finds nothing to do, or a job that is done.
        if raised and priority == _STAT:
            outbox.announce(session, outbox.TOPIC_INFER_STAT, job_id)


def _park(session: Session, study_id: int, reason: str) -> None:
    queued = session.scalars(select(Job).where(Job.study_id == study_id, Job.state == JobState.QUEUED)).all()
    for job in queued:
        parked = move(
            session,
            Job,
            [Job.id == job.id],
            JobState.QUEUED,
            JobState.PARKED,
            finished_at=utcnow(),
            reason=f"{reason}; make sure whose images these are, then `radnode retry` or `radnode parked give-up`",
        )
        if parked:
            images = select(RevisionInstance.instance_id).where(RevisionInstance.revision_id == job.revision_id)
            here = [Instance.id.in_(images)]
            move(session, Instance, here, InstanceState.ROUTED, InstanceState.FAILED, reason="its job is parked")
            audit.note(session, "job_parked", actor="worklist", subject=job.id, outcome="failure")


def vouch(session: Session, study_id: int) -> bool:
    """A person has made sure whose images these are, whatever the worklist says. False where nothing was amiss."""
    here = [StudyOrder.study_id == study_id]
    reason = "a person vouches for its patient"
    return bool(
        move(
            session,
            StudyOrder,
            here,
            OrderState.MISMATCHED,
            OrderState.VOUCHED,
            reason=reason,
            changed_at=utcnow(),
        )
    )


def of_study(session: Session, study_id: int) -> OrderView | None:
    """What the decision on a study needs to know of its order; None where nobody has asked for it."""
    found = session.execute(
        select(StudyOrder, Order.priority)
        .outerjoin(Order, Order.id == StudyOrder.order_id)
        .where(StudyOrder.study_id == study_id)
    ).one_or_none()
    return None if found is None else OrderView(found[0].state, found[0].wanted_at, found[1] or "")


def of_studies(session: Session, study_ids: Sequence[int]) -> dict[int, ShownOrder]:
    """By study row id, what a page shows of their orders. Another patient's order is not shown with a study."""
    rows = session.execute(
        select(StudyOrder, Order)
        .outerjoin(Order, (Order.id == StudyOrder.order_id) & (StudyOrder.state == OrderState.MATCHED))
        .where(StudyOrder.study_id.in_(study_ids))
    )
    return {
        asked.study_id: ShownOrder(
            state=asked.state,
            reason=asked.reason,
            accession_number="" if order is None else order.accession_number,
            priority="" if order is None else order.priority,
            procedure="" if order is None else order.procedure,
        )
        for asked, order in rows
    }


def counts(session: Session) -> dict[str, int]:
    """How many studies' orders are in each state."""
    rows = session.execute(select(StudyOrder.state, func.count()).group_by(StudyOrder.state))
    return {state.value: number for state, number in rows}
