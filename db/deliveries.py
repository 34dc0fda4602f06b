"""Deliveries: what goes to which destination, and how far it got."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, delete, func, or_, select, update
from sqlalchemy.orm import Session

from db import audit, circuits, outbox
from db.domain import DueDelivery, ResultRef
from db.states import CommitmentState, DeliveryState
from db.tables import Commitment, Delivery, Result
from db.transitions import affected, move
from db.types import utcnow

D = DeliveryState


def claim(session: Session, job_id: str, destination: str, owner: str, *, lease_s: float) -> list[DueDelivery]:
    """Take the objects of one job that are due for one destination; SENDING ones whose lease ran out count as due."""
    now = utcnow()
    mine = [Delivery.job_id == job_id, Delivery.destination == destination]
    lease = {"lease_owner": owner, "lease_until": now + timedelta(seconds=lease_s)}
    move(session, Delivery, [*mine, Delivery.lease_until < now], D.SENDING, D.PENDING, reason="its sender stopped")
    move(
        session,
        Delivery,
        [*mine, Delivery.next_attempt_at <= now],
        D.PENDING,
        D.SENDING,
        attempts=Delivery.attempts + 1,
        **lease,
    )
    return held(session, job_id, destination, owner)


def _due(delivery: Delivery, result: Result) -> DueDelivery:
    ref = ResultRef(
        result.sop_class_uid, result.sop_instance_uid, result.series_instance_uid, result.study_instance_uid
    )
    return DueDelivery(
        delivery.id,
        delivery.job_id,
        delivery.destination,
        ref,
        result.transfer_syntax_uid,
        result.path,
        delivery.attempts,
    )


def mark_sent(session: Session, delivery_id: int, owner: str, sent: ResultRef, reason: str) -> bool:
    """The peer answered Success (or a warning, named in `reason`) for the object `sent`."""
    if not move(
        session,
        Delivery,
        [Delivery.id == delivery_id, Delivery.lease_owner == owner],
        D.SENDING,
        D.SENT,
        reason=reason,
        sent_at=utcnow(),
        sent_sop_class_uid=sent.sop_class_uid,
        sent_sop_instance_uid=sent.sop_instance_uid,
        lease_owner="",
        lease_until=None,
    ):
        return False
    audit.note(
        session,
        "result_sent",
        actor=owner,
        subject=sent.sop_instance_uid,
        study=sent.study_instance_uid,
        destination=session.scalar(select(Delivery.destination).where(Delivery.id == delivery_id)),
        sop_classes=audit.count_by_class([(sent.sop_class_uid, sent.sop_instance_uid)]),
    )
    return True


def postpone(session: Session, due: DueDelivery, owner: str, *, reason: str, at: datetime, count: bool = True) -> None:
    """Try again at `at`. With count=False the attempt is not held against it (the circuit was open)."""
    values = {} if count else {"attempts": Delivery.attempts - 1}
    if move(
        session,
        Delivery,
        [Delivery.id == due.id, Delivery.lease_owner == owner],
        D.SENDING,
        D.PENDING,
        reason=reason,
        next_attempt_at=at,
        lease_owner="",
        lease_until=None,
        **values,
    ):
        outbox.announce(session, outbox.TOPIC_DELIVER, f"{due.job_id}:{due.destination}", at=at)


def bury(session: Session, due: DueDelivery, owner: str, *, reason: str) -> None:
    """Given up: a person sees it in `radnode deliveries` and may `radnode retry`."""
    if move(
        session,
        Delivery,
        [Delivery.id == due.id, Delivery.lease_owner == owner],
        D.SENDING,
        D.DEAD,
        reason=reason,
        lease_owner="",
        lease_until=None,
    ):
        audit.note(
            session,
            "delivery_dead",
            actor=owner,
            subject=due.ref.sop_instance_uid,
            outcome="failure",
            study=due.ref.study_instance_uid,
            destination=due.destination,
            sop_classes=audit.count_by_class([(due.ref.sop_class_uid, due.ref.sop_instance_uid)]),
        )


def confirm(session: Session, delivery_ids: Iterable[int], reason: str) -> int:
    """The peer has proved that it holds them."""
    where = [Delivery.id.in_(list(delivery_ids))]
    values = {"reason": reason, "confirmed_at": utcnow()}
    return move(session, Delivery, where, D.SENT, D.CONFIRMED, **values) + move(
        session, Delivery, where, D.UNCONFIRMED, D.CONFIRMED, **values
    )


def held(session: Session, job_id: str, destination: str, owner: str) -> list[DueDelivery]:
    """What `owner` has claimed and not settled."""
    rows = session.execute(
        select(Delivery, Result)
        .join(Result, Result.id == Delivery.result_id)
        .where(
            Delivery.job_id == job_id,
            Delivery.destination == destination,
            Delivery.state == D.SENDING,
            Delivery.lease_owner == owner,
        )
        .order_by(Result.id)
    )
    return [_due(delivery, result) for delivery, result in rows]


def delivered_count(session: Session, study_instance_uid: str, destination: str) -> int:
    """How many results of a study the destination has taken: it counts them among the study's instances."""
    query = (
        select(func.count())
        .select_from(Delivery)
        .join(Result, Result.id == Delivery.result_id)
        .where(
            Result.study_instance_uid == study_instance_uid,
            Delivery.destination == destination,
            Delivery.state.in_([D.SENT, D.CONFIRMED, D.UNCONFIRMED]),
        )
    )
    return session.scalar(query) or 0


def leave_unconfirmed(session: Session, delivery_ids: Iterable[int], reason: str) -> int:
    return move(session, Delivery, [Delivery.id.in_(list(delivery_ids))], D.SENT, D.UNCONFIRMED, reason=reason)


def send_again(session: Session, delivery_id: int, reason: str, *, at: datetime) -> bool:
    """The peer says it does not hold what it answered Success for."""
    row = session.execute(select(Delivery.job_id, Delivery.destination).where(Delivery.id == delivery_id)).one_or_none()
    where, values = [Delivery.id == delivery_id], {"reason": reason, "next_attempt_at": at}
    if row is None or not (
        move(session, Delivery, where, D.SENT, D.PENDING, **values)
        or move(session, Delivery, where, D.UNCONFIRMED, D.PENDING, **values)
        or move(session, Delivery, where, D.CONFIRMED, D.PENDING, **values)
    ):
        return False
    outbox.announce(session, outbox.TOPIC_DELIVER, f"{row[0]}:{row[1]}", at=at)
    return True


def retry(session: Session, *, actor: str, destination: str | None = None, job_id: str | None = None) -> int:
    """Every dead letter (of one destination or job) is tried again, its attempts forgiven. Returns how many."""
    where = [Delivery.state == D.DEAD]
    if destination is not None:
        where.append(Delivery.destination == destination)
    if job_id is not None:
        where.append(Delivery.job_id == job_id)
    groups = session.execute(select(Delivery.job_id, Delivery.destination).where(*where).distinct()).all()
    now = utcnow()
    count = move(session, Delivery, where, D.DEAD, D.PENDING, attempts=0, next_attempt_at=now, reason="retried")
    for job, name in groups:
        outbox.announce(session, outbox.TOPIC_DELIVER, f"{job}:{name}")
        audit.note(session, "delivery_retried", actor=actor, subject=job, destination=name)
    for name in {name for _, name in groups}:
        circuits.note_success(session, name)
    return count


def sweep(session: Session, now: datetime, *, grace_s: float, limit: int = 500) -> int:
    """Announce again deliveries that are overdue: their message was lost or their sender died."""
    overdue = now - timedelta(seconds=grace_s)
    # As PENDING they are announced once per grace, not at every sweep for as long as no sender runs.
    move(
        session,
        Delivery,
        [Delivery.lease_until < now],
        D.SENDING,
        D.PENDING,
        reason="its sender stopped",
        lease_owner="",
        lease_until=None,
        next_attempt_at=overdue - timedelta(seconds=1),
    )
    due = (
        select(Delivery.job_id, Delivery.destination)
        .where(Delivery.state == D.PENDING, Delivery.next_attempt_at < overdue)
        .distinct()
        .limit(limit)
    )
    groups = session.execute(due).all()
    for job_id, destination in groups:
        outbox.announce(session, outbox.TOPIC_DELIVER, f"{job_id}:{destination}")
        affected(
            session,
            update(Delivery)
            .where(
                Delivery.job_id == job_id,
                Delivery.destination == destination,
                Delivery.state == D.PENDING,
                Delivery.next_attempt_at < overdue,
            )
            .values(next_attempt_at=now),
        )
    return len(groups)


def release(session: Session, owner_prefix: str) -> int:
    """After a crash of everything on this node: what its senders held is due at once."""
    now = utcnow()
    freed = move(
        session,
        Delivery,
        [Delivery.lease_owner.startswith(owner_prefix, autoescape=True)],
        D.SENDING,
        D.PENDING,
        lease_owner="",
        lease_until=None,
        next_attempt_at=now,
        reason="its sender stopped",
    )
    for job_id, name in session.execute(
        select(Delivery.job_id, Delivery.destination)
        .where(Delivery.state == D.PENDING, Delivery.next_attempt_at <= now)
        .distinct()
    ).all():
        outbox.announce(session, outbox.TOPIC_DELIVER, f"{job_id}:{name}")
    return freed


def ask_commitment(
    session: Session, transaction_uid: str, destination: str, ids: Iterable[int], *, deadline_at: datetime
) -> None:
    """Written before the N-ACTION goes out: the report may come back before the answer to it."""
    session.add(
        Commitment(
            transaction_uid=transaction_uid,
            destination=destination,
            state=CommitmentState.ASKED,
            asked_at=utcnow(),
            deadline_at=deadline_at,
        )
    )
    affected(session, update(Delivery).where(Delivery.id.in_(list(ids))).values(commitment_uid=transaction_uid))


def withdraw_commitment(session: Session, transaction_uid: str) -> None:
    """The N-ACTION did not get through: nothing will come back for it."""
    affected(session, update(Delivery).where(Delivery.commitment_uid == transaction_uid).values(commitment_uid=None))
    affected(session, delete(Commitment).where(Commitment.transaction_uid == transaction_uid))


def apply_commitment(
    session: Session, transaction_uid: str, committed: Iterable[str], failed: dict[str, int], *, retry_at: datetime
) -> bool:
    """An N-EVENT-REPORT (PS3.4 J.3.3). failed: SOP Instance UID to Failure Reason.

    Returns False for a transaction this node never asked for.
    """
    commitment = session.get(Commitment, transaction_uid)
    if commitment is None:
        return False
    if commitment.state is not CommitmentState.ANSWERED:
        move(
            session,
            Commitment,
            [Commitment.transaction_uid == transaction_uid],
            commitment.state,
            CommitmentState.ANSWERED,
        )
    rows = session.execute(
        select(Delivery.id, Delivery.sent_sop_instance_uid).where(Delivery.commitment_uid == transaction_uid)
    ).all()
    committed = set(committed)
    confirm(session, [i for i, uid in rows if uid in committed], "storage commitment")
    for delivery_id, uid in rows:
        if uid in failed:
            send_again(
                session, delivery_id, f"the peer did not commit it (failure reason {failed[uid]:#06x})", at=retry_at
            )
    return True


def expire_commitments(session: Session, now: datetime) -> int:
    """Stop waiting for reports that never came; `awaiting_proof` hands out what they were asked for."""
    return move(session, Commitment, [Commitment.deadline_at < now], CommitmentState.ASKED, CommitmentState.EXPIRED)


def any_expired(session: Session, now: datetime) -> bool:
    """Whether `expire_commitments` would find one. Takes no lock."""
    late = select(Commitment.transaction_uid).where(
        Commitment.state == CommitmentState.ASKED, Commitment.deadline_at < now
    )
    return session.scalar(late.limit(1)) is not None


def unproved(
    session: Session, destination: str, ids: Iterable[int], *, report_to_come: bool = True
) -> list[tuple[int, ResultRef]]:
    """Which of these deliveries are SENT and not yet proved, with what the peer should hold.

    report_to_come: also those whose storage commitment was asked for and may still be answered.
    """
    query = (
        select(Delivery, Result)
        .join(Result, Result.id == Delivery.result_id)
        .where(Delivery.id.in_(list(ids)), Delivery.destination == destination, Delivery.state == D.SENT)
        .order_by(Delivery.id)
    )
    if not report_to_come:
        query = query.join(Commitment, Commitment.transaction_uid == Delivery.commitment_uid, isouter=True).where(
            or_(Delivery.commitment_uid.is_(None), Commitment.state != CommitmentState.ASKED)
        )
    rows = session.execute(query)
    return [
        (
            delivery.id,
            ResultRef(
                delivery.sent_sop_class_uid,
                delivery.sent_sop_instance_uid,
                result.series_instance_uid,
                result.study_instance_uid,
            ),
        )
        for delivery, result in rows
    ]


def awaiting_proof(
    session: Session, destination: str, sent_before: datetime, *, limit: int = 500
) -> list[tuple[int, datetime]]:
    """What the destination took before that moment and is not proved, with no commitment report to come.

    Each as (delivery id, when it was sent), the oldest first.
    """
    rows = session.execute(
        select(Delivery.id, Delivery.sent_at)
        .join(Commitment, Commitment.transaction_uid == Delivery.commitment_uid, isouter=True)
        .where(*_awaiting(sent_before), Delivery.destination == destination)
        .order_by(Delivery.sent_at)
        .limit(limit)
    )
    return [(delivery_id, sent_at) for delivery_id, sent_at in rows if sent_at is not None]


def destinations_awaiting_proof(session: Session, sent_before: datetime) -> list[str]:
    """The destinations for which `awaiting_proof` has something."""
    query = (
        select(Delivery.destination)
        .join(Commitment, Commitment.transaction_uid == Delivery.commitment_uid, isouter=True)
        .where(*_awaiting(sent_before))
        .distinct()
    )
    return sorted(session.scalars(query))


def _awaiting(sent_before: datetime) -> list[ColumnElement[bool]]:
    return [
        Delivery.state == D.SENT,
        Delivery.sent_at < sent_before,
        or_(Delivery.commitment_uid.is_(None), Commitment.state != CommitmentState.ASKED),
    ]
