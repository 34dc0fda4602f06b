"""Storage commitment asked of this node: what it answers, until the peer has been told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from db import audit
from db.order_tables import Pledge
from db.states import InstanceState, PledgeState
from db.tables import Instance, Study
from db.transitions import affected, insert_ignore, move
from db.types import utcnow

# Databases bound how many values one statement takes.
_AT_ONCE = 500
KEPT = timedelta(days=30)
"""An answer that was told, or given up, is forgotten then; the audit keeps that it was asked for."""


@dataclass(frozen=True)
class Answer:
    """committed: (SOP Class UID, SOP Instance UID). failed: the same with a Failure Reason (0008,1197)."""

    peer: str
    transaction_uid: str
    committed: tuple[tuple[str, str], ...] = ()
    failed: tuple[tuple[str, str, int], ...] = ()


@dataclass(frozen=True)
class DueAnswer:
    """An answer that this process tells the peer now."""

    id: int
    answer: Answer
    attempts: int
    asked_at: datetime


@dataclass(frozen=True)
class Held:
    """An instance on record. path: relative to the data folder."""

    sop_class_uid: str
    study_instance_uid: str
    path: str
    size_bytes: int


def held(session: Session, sop_instance_uids: Sequence[str]) -> dict[str, Held]:
    """By SOP Instance UID, what the record says of received instances; what is in quarantine is not vouched for."""
    found: dict[str, Held] = {}
    for start in range(0, len(sop_instance_uids), _AT_ONCE):
        rows = session.execute(
            select(Instance, Study.study_instance_uid)
            .join(Study, Study.id == Instance.study_id)
            .where(
                Instance.sop_instance_uid.in_(sop_instance_uids[start : start + _AT_ONCE]),
                Instance.state != InstanceState.QUARANTINED,
            )
        )
        for one, study_uid in rows:
            found[one.sop_instance_uid] = Held(one.sop_class_uid, study_uid, one.path, one.size_bytes)
    return found


def promise(session: Session, answer: Answer) -> None:
    """Note what a peer is to be told; a transaction asked about again is answered again, as things are now."""
    now = utcnow()
    _forget(session, now)
    values = {
        "committed": [list(one) for one in answer.committed],
        "failed": [list(one) for one in answer.failed],
        "reason": "",
        "attempts": 0,
        "next_attempt_at": now,
        "changed_at": now,
    }
    key = {"peer": answer.peer, "transaction_uid": answer.transaction_uid}
    if not insert_ignore(session, Pledge, **key, **values, state=PledgeState.WAITING, asked_at=now):
        same = [Pledge.peer == answer.peer, Pledge.transaction_uid == answer.transaction_uid]
        for before in (PledgeState.REPORTED, PledgeState.GIVEN_UP):
            move(session, Pledge, same, before, PledgeState.WAITING, **values, asked_at=now)
        affected(session, update(Pledge).where(*same, Pledge.state == PledgeState.WAITING).values(**values))
    audit.note(
        session,
        "commitment_asked",
        actor=answer.peer,
        subject=answer.transaction_uid,
        committed=len(answer.committed),
        failed=len(answer.failed),
    )


def _forget(session: Session, now: datetime) -> None:
    over = Pledge.state.in_((PledgeState.REPORTED, PledgeState.GIVEN_UP)), Pledge.changed_at < now - KEPT
    ids = list(session.scalars(select(Pledge.id).where(*over).order_by(Pledge.id).limit(_AT_ONCE)))
    if ids:
        session.execute(delete(Pledge).where(Pledge.id.in_(ids), *over))


def any_due(session: Session, now: datetime) -> bool:
    """Is there anything to claim? Takes no lock."""
    due = select(Pledge.id).where(Pledge.state == PledgeState.WAITING, Pledge.next_attempt_at <= now)
    return session.scalar(due.limit(1)) is not None


def claim_due(session: Session, now: datetime, *, lease_s: float, limit: int = 20) -> list[DueAnswer]:
    """Answers to be told now; each is nobody else's for `lease_s`."""
    due = session.scalars(
        select(Pledge)
        .where(Pledge.state == PledgeState.WAITING, Pledge.next_attempt_at <= now)
        .order_by(Pledge.next_attempt_at, Pledge.id)
        .limit(limit)
    ).all()
    return [_due(one) for one in due if _take(session, one, now + timedelta(seconds=lease_s))]


def _take(session: Session, one: Pledge, until: datetime) -> bool:
    mine = [Pledge.id == one.id, Pledge.state == PledgeState.WAITING, Pledge.next_attempt_at == one.next_attempt_at]
    taken = update(Pledge).where(*mine).values(next_attempt_at=until, attempts=Pledge.attempts + 1)
    return bool(affected(session, taken))


def _due(one: Pledge) -> DueAnswer:
    answer = Answer(
        one.peer,
        one.transaction_uid,
        tuple((str(a), str(b)) for a, b in one.committed),
        tuple((str(a), str(b), int(c)) for a, b, c in one.failed),
    )
    return DueAnswer(one.id, answer, one.attempts + 1, one.asked_at)


def told(session: Session, pledge_id: int) -> bool:
    """The peer has taken the report."""
    return _end(session, pledge_id, PledgeState.REPORTED, "")


def give_up(session: Session, pledge_id: int, reason: str) -> bool:
    """The peer could not be told in time."""
    return _end(session, pledge_id, PledgeState.GIVEN_UP, reason)


def _end(session: Session, pledge_id: int, target: PledgeState, reason: str) -> bool:
    here = [Pledge.id == pledge_id]
    return bool(move(session, Pledge, here, PledgeState.WAITING, target, reason=reason, changed_at=utcnow()))


def postpone(session: Session, pledge_id: int, at: datetime, reason: str) -> None:
    """The peer did not take the report: it is told again at `at`."""
    affected(
        session,
        update(Pledge)
        .where(Pledge.id == pledge_id, Pledge.state == PledgeState.WAITING)
        .values(next_attempt_at=at, reason=reason, changed_at=utcnow()),
    )
