"""Work items of other systems that this node performs: from the claim until their manager knows how they ended.

A claim is on record, with its transaction UID, before it is sent. What a crash leaves in doubt is asked about under the
same UID, which nobody else knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import uuid4

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from db import audit
from db.performance_tables import Performance
from db.states import PerformanceState as F
from db.transitions import affected, insert_ignore, move
from db.types import utcnow

KEPT = timedelta(days=30)
"""What is over is forgotten then; the audit keeps it."""

OPEN = (F.CLAIMING, F.HELD, F.COMPLETING, F.CANCELING)
_ENDS = (F.COMPLETED, F.CANCELED, F.LOST, F.GIVEN_UP)
_AT_ONCE = 500

Code = tuple[str, str, str]
"""Code Value, Coding Scheme Designator, Code Meaning."""


@dataclass(frozen=True)
class NewPerformance:
    """A scheduled work item. instances: SOP Instance UIDs that it names; empty means its whole study.

    priority: stat, urgent or routine. Codes are None where it has none.
    """

    manager: str
    workitem_uid: str
    study_instance_uid: str
    instances: tuple[str, ...] = ()
    patient_id: str = ""
    priority: str = "routine"
    workitem_code: Code | None = None
    station_code: Code | None = None


@dataclass(frozen=True)
class Output:
    """A result object as a destination has it. destination: its name in the settings."""

    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    study_instance_uid: str
    destination: str


@dataclass(frozen=True)
class DuePerformance:
    """A work item that this process looks after now.

    attempts: times it was taken up in its present state, this one included. progress: percent told last, -1 if never.
    """

    id: int
    new: NewPerformance
    transaction_uid: str
    state: F
    claimed_at: datetime
    held_at: datetime | None = None
    decided_at: datetime | None = None
    cancel_asked_at: datetime | None = None
    attempts: int = 1
    progress: int = -1
    reason: str = ""
    discontinuation: Code | None = None
    outputs: tuple[Output, ...] = field(default=())


def take_up(session: Session, new: NewPerformance) -> bool:
    """Note that a scheduled work item is going to be claimed. False where it was before.

    One that could not be claimed in time, and is scheduled still, is claimed after all, under the same transaction UID.
    """
    now = utcnow()
    _forget(session, now)
    values = {"state": F.CLAIMING, "reason": "", "attempts": 0, "next_attempt_at": now, "changed_at": now}
    added = insert_ignore(
        session,
        Performance,
        **values,
        manager=new.manager,
        workitem_uid=new.workitem_uid,
        transaction_uid=f"2.25.{uuid4().int}",
        study_instance_uid=new.study_instance_uid,
        instances=list(new.instances),
        patient_id=new.patient_id,
        priority=new.priority,
        workitem_code=list(new.workitem_code or ()),
        station_code=list(new.station_code or ()),
        discontinuation=[],
        outputs=[],
        progress=-1,
        claimed_at=now,
    )
    if added:
        return True
    same = [Performance.manager == new.manager, Performance.workitem_uid == new.workitem_uid]
    # What was held before it was given up is not scheduled any more, whatever the manager lists.
    never_held = Performance.held_at.is_(None)
    del values["state"]
    values |= {"patient_id": new.patient_id, "claimed_at": now}
    return bool(move(session, Performance, [*same, never_held], F.GIVEN_UP, F.CLAIMING, **values))


def _forget(session: Session, now: datetime) -> None:
    over = Performance.state.in_(_ENDS), Performance.changed_at < now - KEPT
    ids = list(session.scalars(select(Performance.id).where(*over).order_by(Performance.id).limit(_AT_ONCE)))
    if ids:
        session.execute(delete(Performance).where(Performance.id.in_(ids), *over))


def under_way(session: Session, manager: str) -> int:
    """How many of a manager's work items this node is busy with."""
    mine = Performance.manager == manager, Performance.state.in_(OPEN)
    return session.scalar(select(func.count()).select_from(Performance).where(*mine)) or 0


def any_due(session: Session, manager: str, now: datetime) -> bool:
    """Is there anything to claim? Takes no lock."""
    due = select(Performance.id).where(
        Performance.manager == manager, Performance.state.in_(OPEN), Performance.next_attempt_at <= now
    )
    return session.scalar(due.limit(1)) is not None


def claim_due(
    session: Session, manager: str, now: datetime, *, lease_s: float, limit: int = 20
) -> list[DuePerformance]:
    """A manager's work items that are due, the longest waiting first; each is nobody else's for `lease_s`."""
    due = session.scalars(
        select(Performance)
        .where(Performance.manager == manager, Performance.state.in_(OPEN), Performance.next_attempt_at <= now)
        .order_by(Performance.next_attempt_at, Performance.id)
        .limit(limit)
    ).all()
    return [_due(one) for one in due if _take(session, one, now + timedelta(seconds=lease_s))]


def _take(session: Session, one: Performance, until: datetime) -> bool:
    mine = [
        Performance.id == one.id,
        Performance.state == one.state,
        Performance.next_attempt_at == one.next_attempt_at,
    ]
    taken = update(Performance).where(*mine).values(next_attempt_at=until, attempts=Performance.attempts + 1)
    return bool(affected(session, taken))


def _due(one: Performance) -> DuePerformance:
    return DuePerformance(
        id=one.id,
        new=NewPerformance(
            manager=one.manager,
            workitem_uid=one.workitem_uid,
            study_instance_uid=one.study_instance_uid,
            instances=tuple(str(uid) for uid in one.instances),
            patient_id=one.patient_id,
            priority=one.priority,
            workitem_code=_code(one.workitem_code),
            station_code=_code(one.station_code),
        ),
        transaction_uid=one.transaction_uid,
        state=one.state,
        claimed_at=one.claimed_at,
        held_at=one.held_at,
        decided_at=one.decided_at,
        cancel_asked_at=one.cancel_asked_at,
        attempts=one.attempts + 1,
        progress=one.progress,
        reason=one.reason,
        discontinuation=_code(one.discontinuation),
        outputs=tuple(Output(*(str(value) for value in output)) for output in one.outputs),
    )


def _code(stored: Sequence[object]) -> Code | None:
    return (str(stored[0]), str(stored[1]), str(stored[2])) if stored else None


def granted(session: Session, performance_id: int, *, look_at: datetime) -> bool:
    """Its manager has put it in progress under this node's transaction UID."""
    now = utcnow()
    here = [Performance.id == performance_id]
    values = {"held_at": now, "changed_at": now, "next_attempt_at": look_at, "attempts": 0, "reason": ""}
    if not move(session, Performance, here, F.CLAIMING, F.HELD, **values):
        return False
    one = session.get_one(Performance, performance_id)
    audit.note(
        session,
        "workitem_claimed",
        actor="performer",
        subject=one.study_instance_uid,
        manager=one.manager,
        workitem=one.workitem_uid,
        priority=one.priority,
    )
    return True


def decide(
    session: Session,
    performance_id: int,
    target: F,
    *,
    reason: str,
    discontinuation: Code | None = None,
    outputs: Sequence[Output] = (),
    source: F = F.HELD,
) -> bool:
    """How it ends here: COMPLETING or CANCELING. What the manager is told is on record before it is told."""
    now = utcnow()
    return bool(
        move(
            session,
            Performance,
            [Performance.id == performance_id],
            source,
            target,
            reason=reason,
            discontinuation=list(discontinuation or ()),
            outputs=[
                [
                    one.sop_class_uid,
                    one.sop_instance_uid,
                    one.series_instance_uid,
                    one.study_instance_uid,
                    one.destination,
                ]
                for one in outputs
            ],
            attempts=0,
            next_attempt_at=now,
            decided_at=now,
            changed_at=now,
        )
    )


def end(session: Session, performance_id: int, source: F, target: F, *, reason: str = "") -> bool:
    """COMPLETED, CANCELED, LOST or GIVEN_UP: the manager knows, or is told no more. False where it was over before.

    reason: names no patient; "" leaves what stands there.
    """
    # Whose it was is not needed any more.
    changes: dict[str, object] = {"changed_at": utcnow(), "patient_id": "", **({"reason": reason} if reason else {})}
    if target is F.COMPLETED:
        changes["progress"] = 100
    if not move(session, Performance, [Performance.id == performance_id], source, target, **changes):
        return False
    one = session.get_one(Performance, performance_id, populate_existing=True)
    # Of one that was never this node's, nothing was done.
    if source is not F.CLAIMING:
        audit.note(
            session,
            "workitem_performed",
            actor="performer",
            subject=one.study_instance_uid,
            outcome="success" if target is F.COMPLETED else "warning",
            manager=one.manager,
            workitem=one.workitem_uid,
            state=target.value,
            objects=len(one.outputs),
            reason=one.reason,
        )
    return True


def look_again(
    session: Session, performance_id: int, at: datetime, *, reason: str, progress: int | None = None
) -> None:
    """Nothing to do before `at`. progress: percent that the manager was told just now.

    A request to cancel that came meanwhile is due at once, and stays so.
    """
    values: dict[str, object] = {"next_attempt_at": at, "reason": reason, "attempts": 0}
    if progress is not None:
        values["progress"] = progress
    affected(
        session,
        update(Performance)
        .where(Performance.id == performance_id, Performance.state == F.HELD, Performance.next_attempt_at > utcnow())
        .values(**values),
    )


def postpone(session: Session, performance_id: int, state: F, at: datetime, *, reason: str) -> None:
    """Its manager could not be told: it is told again at `at`."""
    affected(
        session,
        update(Performance)
        .where(Performance.id == performance_id, Performance.state == state)
        .values(next_attempt_at=at, reason=reason),
    )


def ask_to_cancel(session: Session, managers: Sequence[str], workitem_uid: str) -> bool:
    """Its manager passes on that somebody wants it canceled. False where this node does not hold such a work item."""
    now = utcnow()
    mine = [
        Performance.manager.in_(managers),
        Performance.workitem_uid == workitem_uid,
        Performance.state.in_((F.CLAIMING, F.HELD)),
    ]
    asked = update(Performance).where(*mine).values(cancel_asked_at=now, next_attempt_at=now)
    return bool(affected(session, asked))


def forget_patient(session: Session, study_instance_uid: str) -> None:
    """A study is deleted with all that names its patient."""
    here = Performance.study_instance_uid == study_instance_uid
    affected(session, update(Performance).where(here).values(patient_id=""))


def known(session: Session, managers: Sequence[str], workitem_uid: str) -> bool:
    """Whether it is, or was, a work item of this node's at one of these managers."""
    mine = Performance.manager.in_(managers), Performance.workitem_uid == workitem_uid
    return session.scalar(select(Performance.id).where(*mine).limit(1)) is not None


def counts(session: Session) -> dict[tuple[str, str], int]:
    """How many work items are in each state, by (manager, state)."""
    rows = session.execute(
        select(Performance.manager, Performance.state, func.count()).group_by(Performance.manager, Performance.state)
    )
    return {(manager, state.value): number for manager, state, number in rows}


def shown(session: Session, limit: int = 100) -> list[dict[str, object]]:
    """For people, the latest first."""
    rows = session.scalars(select(Performance).order_by(Performance.id.desc()).limit(limit))
    return [
        {
            "workitem_uid": one.workitem_uid,
            "manager": one.manager,
            "study_instance_uid": one.study_instance_uid,
            "priority": one.priority,
            "state": one.state.value,
            "progress_percent": max(one.progress, 0),
            "reason": one.reason,
        }
        for one in rows
    ]
