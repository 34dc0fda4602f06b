"""Events of work items that subscribers have still to be told: in order for each subscriber, and durable.

A subscriber's queue has one teller at a time: whoever leases its head.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from db.dicom_json import Json
from db.states import TidingState
from db.transitions import affected, move
from db.types import utcnow
from db.workitem_rules import EventType
from db.workitem_tables import WorkitemTiding

KEPT = timedelta(days=30)
"""What was told, given up, or is nobody's to tell, is forgotten then."""

_AT_ONCE = 500
_W = TidingState.WAITING


@dataclass(frozen=True)
class Tiding:
    """One event to be told. information: in the DICOM JSON model. attempts: this one included."""

    id: int
    sop_instance_uid: str
    event_type: EventType
    information: Json
    attempts: int
    created_at: datetime


@dataclass(frozen=True)
class DueTidings:
    """What one subscriber is to be told now, in this order, by this process."""

    ae_title: str
    tidings: tuple[Tiding, ...]


def announce(
    session: Session, sop_instance_uid: str, event_type: EventType, information: Json, ae_titles: Iterable[str]
) -> None:
    """Put an event in the queues of these subscribers."""
    now = utcnow()
    session.add_all(
        WorkitemTiding(
            ae_title=ae_title,
            sop_instance_uid=sop_instance_uid,
            event_type=int(event_type),
            information=information,
            state=_W,
            next_attempt_at=now,
            created_at=now,
            changed_at=now,
        )
        for ae_title in ae_titles
    )


def _heads(session: Session, now: datetime, ae_titles: Collection[str]) -> list[WorkitemTiding]:
    """The oldest waiting event of each of these subscribers, where it is due."""
    waiting = (
        select(func.min(WorkitemTiding.id))
        .where(WorkitemTiding.state == _W, WorkitemTiding.ae_title.in_(ae_titles))
        .group_by(WorkitemTiding.ae_title)
    )
    due = select(WorkitemTiding).where(WorkitemTiding.id.in_(waiting), WorkitemTiding.next_attempt_at <= now)
    return list(session.scalars(due.order_by(WorkitemTiding.id)))


def any_due(session: Session, now: datetime, ae_titles: Collection[str]) -> bool:
    """Is there anything to claim? Takes no lock."""
    return bool(_heads(session, now, ae_titles))


def claim_due(
    session: Session, now: datetime, ae_titles: Collection[str], owner: str, *, lease_s: float, limit: int = 100
) -> list[DueTidings]:
    """What is due for these subscribers, at most `limit` for each; their queues are `owner`'s for `lease_s`."""
    until = now + timedelta(seconds=lease_s)
    found = []
    for head in _heads(session, now, ae_titles):
        mine = (WorkitemTiding.id == head.id, WorkitemTiding.state == _W)
        if not affected(
            session,
            update(WorkitemTiding)
            .where(*mine, WorkitemTiding.next_attempt_at == head.next_attempt_at)
            .values(next_attempt_at=until),
        ):
            continue
        queue = session.scalars(
            select(WorkitemTiding)
            .where(WorkitemTiding.state == _W, WorkitemTiding.ae_title == head.ae_title)
            .order_by(WorkitemTiding.id)
            .limit(limit)
        ).all()
        ids = [one.id for one in queue]
        # All of them: once the first is told, the next is the head.
        affected(
            session,
            update(WorkitemTiding)
            .where(WorkitemTiding.id.in_(ids), WorkitemTiding.state == _W)
            .values(next_attempt_at=until, attempts=WorkitemTiding.attempts + 1, lease_owner=owner),
        )
        found.append(
            DueTidings(
                head.ae_title,
                tuple(
                    Tiding(
                        one.id,
                        one.sop_instance_uid,
                        EventType(one.event_type),
                        one.information,
                        one.attempts + 1,
                        one.created_at,
                    )
                    for one in queue
                ),
            )
        )
    return found


def told(session: Session, tiding_id: int) -> bool:
    """The subscriber has taken it."""
    return _end(session, tiding_id, TidingState.TOLD, "")


def give_up(session: Session, tiding_id: int, reason: str) -> bool:
    """The subscriber could not be told in time, or refuses it."""
    return _end(session, tiding_id, TidingState.GIVEN_UP, reason)


def _end(session: Session, tiding_id: int, target: TidingState, reason: str) -> bool:
    here = [WorkitemTiding.id == tiding_id]
    return bool(move(session, WorkitemTiding, here, _W, target, reason=reason, changed_at=utcnow()))


def postpone(session: Session, tiding_ids: Collection[int], at: datetime, reason: str) -> None:
    """The subscriber is away: these are told from `at` on."""
    affected(
        session,
        update(WorkitemTiding)
        .where(WorkitemTiding.id.in_(tiding_ids), WorkitemTiding.state == _W)
        .values(next_attempt_at=at, reason=reason, changed_at=utcnow(), lease_owner=""),
    )


def free(session: Session, owner: str) -> int:
    """`owner` is gone: what it was telling is due at once. Returns how many events."""
    held = WorkitemTiding.state == _W, WorkitemTiding.lease_owner == owner
    return affected(session, update(WorkitemTiding).where(*held).values(next_attempt_at=utcnow(), lease_owner=""))


def any_old(session: Session, now: datetime) -> bool:
    """Whether `forget` would find one. Takes no lock."""
    return session.scalar(select(WorkitemTiding.id).where(WorkitemTiding.changed_at < now - KEPT).limit(1)) is not None


def forget(session: Session, now: datetime) -> int:
    """Let go of what is older than `KEPT`; returns how many."""
    old = select(WorkitemTiding.id).where(WorkitemTiding.changed_at < now - KEPT).order_by(WorkitemTiding.changed_at)
    ids = list(session.scalars(old.limit(_AT_ONCE)))
    return affected(session, delete(WorkitemTiding).where(WorkitemTiding.id.in_(ids))) if ids else 0


def counts(session: Session) -> dict[str, int]:
    """How many events are in each state."""
    rows = session.execute(select(WorkitemTiding.state, func.count()).group_by(WorkitemTiding.state))
    return {state.value: number for state, number in rows}


def of_item(session: Session, sop_instance_uid: str) -> list[dict[str, object]]:
    """For people: the events of one item, and which subscriber was told."""
    rows = session.scalars(
        select(WorkitemTiding).where(WorkitemTiding.sop_instance_uid == sop_instance_uid).order_by(WorkitemTiding.id)
    )
    return [
        {
            "event": EventType(row.event_type).name,
            "subscriber": row.ae_title,
            "state": row.state.value,
            "attempts": row.attempts,
            "reason": row.reason,
        }
        for row in rows
    ]
