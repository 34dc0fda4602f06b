"""Deliveries: what goes to which destination, how far it got, and the circuit breaker of each destination."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from sqlalchemy import delete, or_, select, update
from sqlalchemy.orm import Session

from db import audit, outbox
from db.domain import DueDelivery, ResultRef
from db.states import CircuitState, CommitmentState, DeliveryState
from db.tables import Circuit, Commitment, Delivery, Result
from db.transitions import affected, insert_ignore, move
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
    rows = session.execute(
        select(Delivery, Result)
        .join(Result, Result.id == Delivery.result_id)
        .where(*mine, Delivery.state == D.SENDING, Delivery.lease_owner == owner)
        .order_by(Result.id)
    )
    return [_due(delivery, result) for delivery, result in rows]


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
    return bool(
        move(
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
        )
    )


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
            destination=due.destination,
        )


def confirm(session: Session, delivery_ids: Iterable[int], reason: str) -> int:
    """The peer has proved that it holds them."""
    where = [Delivery.id.in_(list(delivery_ids))]
    values = {"reason": reason, "confirmed_at": utcnow()}
    return move(session, Delivery, where, D.SENT, D.CONFIRMED, **values) + move(
        session, Delivery, where, D.UNCONFIRMED, D.CONFIRMED, **values
    )


def leave_unconfirmed(session: Session, delivery_ids: Iterable[int], reason: str) -> int:
    return move(session, Delivery, [Delivery.id.in_(list(delivery_ids))], D.SENT, D.UNCONFIRMED, reason=reason)


def send_again(session: Session, delivery_id: int, reason: str, *, at: datetime) -> bool:
    """The peer says it does not hold what it answered Success for."""
    row = session.execute(select(Delivery.job_id, Delivery.destination).where(Delivery.id == delivery_id)).one_or_none()
    where, values = [Delivery.id == delivery_id], {"reason": reason, "next_attempt_at": at}
    if row is None or not (
        move(session, Delivery, where, D.SENT, D.PENDING, **values)
        or move(session, Delivery, where, D.UNCONFIRMED, D.PENDING, **values)
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
        affected(session, delete(Circuit).where(Circuit.destination == name))
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


def unproved(session: Session, destination: str, ids: Iterable[int]) -> list[tuple[int, ResultRef]]:
    """Which of these deliveries are SENT and not yet proved, with what the peer should hold."""
    rows = session.execute(
        select(Delivery, Result)
        .join(Result, Result.id == Delivery.result_id)
        .where(Delivery.id.in_(list(ids)), Delivery.destination == destination, Delivery.state == D.SENT)
        .order_by(Delivery.id)
    )
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
    session: Session, sent_before: datetime, *, limit: int = 500
) -> dict[str, list[tuple[int, datetime]]]:
    """Per destination, the deliveries sent before that moment, not proved, with no commitment report to come.

    Each as (delivery id, when it was sent), the oldest first.
    """
    rows = session.execute(
        select(Delivery.destination, Delivery.id, Delivery.sent_at)
        .join(Commitment, Commitment.transaction_uid == Delivery.commitment_uid, isouter=True)
        .where(
            Delivery.state == D.SENT,
            Delivery.sent_at < sent_before,
            or_(Delivery.commitment_uid.is_(None), Commitment.state != CommitmentState.ASKED),
        )
        .order_by(Delivery.sent_at)
        .limit(limit)
    )
    found: dict[str, list[tuple[int, datetime]]] = {}
    for destination, delivery_id, sent_at in rows:
        if sent_at is not None:
            found.setdefault(destination, []).append((delivery_id, sent_at))
    return found


def circuit_open_until(session: Session, destination: str) -> datetime | None:
    """When the destination may be tried again, or None when it may be tried now.

    An OPEN circuit whose time has come lets exactly one caller through (HALF_OPEN).
    """
    circuit = session.get(Circuit, destination)
    now = utcnow()
    if circuit is None or circuit.state is CircuitState.CLOSED:
        return None
    if circuit.open_until is not None and circuit.open_until > now:
        return circuit.open_until
    trial_until = now + timedelta(seconds=60)
    won = affected(
        session,
        update(Circuit)
        .where(
            Circuit.destination == destination,
            Circuit.open_until == circuit.open_until,
        )
        .values(state=CircuitState.HALF_OPEN, open_until=trial_until, changed_at=now),
    )
    return None if won else trial_until


def note_success(session: Session, destination: str) -> None:
    affected(session, delete(Circuit).where(Circuit.destination == destination))


def note_failure(session: Session, destination: str, *, threshold: int, open_s: float) -> None:
    """`threshold` failures in a row open the circuit for `open_s`; a failed trial opens it again at once."""
    now = utcnow()
    insert_ignore(session, Circuit, destination=destination, state=CircuitState.CLOSED, failures=0, changed_at=now)
    affected(
        session,
        update(Circuit).where(Circuit.destination == destination).values(failures=Circuit.failures + 1, changed_at=now),
    )
    affected(
        session,
        update(Circuit)
        .where(
            Circuit.destination == destination,
            or_(Circuit.failures >= threshold, Circuit.state == CircuitState.HALF_OPEN),
        )
        .values(state=CircuitState.OPEN, open_until=now + timedelta(seconds=open_s)),
    )


def open_circuits(session: Session) -> list[str]:
    return list(session.scalars(select(Circuit.destination).where(Circuit.state != CircuitState.CLOSED)))
