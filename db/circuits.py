"""The circuit breaker of each destination: after failures in a row it is left alone for a while."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import delete, or_, select, update
from sqlalchemy.orm import Session

from db import outbox
from db.states import CircuitState, DeliveryState
from db.tables import Circuit, Delivery
from db.transitions import affected, insert_ignore
from db.types import utcnow


def open_until(session: Session, destination: str) -> datetime | None:
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


def tried_by_another(session: Session, destination: str, owner: str) -> bool:
    """Has it failed since it last worked, and is another sender at it just now?"""
    if session.get(Circuit, destination) is None:
        return False
    query = select(Delivery.id).where(
        Delivery.destination == destination,
        Delivery.state == DeliveryState.SENDING,
        Delivery.lease_owner != owner,
        Delivery.lease_until > utcnow(),
    )
    return session.scalar(query.limit(1)) is not None


def note_success(session: Session, destination: str) -> int:
    """It works. Where it was being left alone, all that waits for it is due at once; returns of how many jobs."""
    where = (Circuit.destination == destination,)
    was_open = affected(session, delete(Circuit).where(*where, Circuit.state != CircuitState.CLOSED))
    affected(session, delete(Circuit).where(*where))
    return _hurry(session, destination) if was_open else 0


def _hurry(session: Session, destination: str) -> int:
    now = utcnow()
    waiting = (
        Delivery.destination == destination,
        Delivery.state == DeliveryState.PENDING,
        Delivery.next_attempt_at > now,
    )
    job_ids = session.scalars(select(Delivery.job_id).where(*waiting).distinct()).all()
    affected(session, update(Delivery).where(*waiting).values(next_attempt_at=now))
    for job_id in job_ids:
        outbox.announce(session, outbox.TOPIC_DELIVER, f"{job_id}:{destination}")
    return len(job_ids)


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
