"""The circuit breaker of each destination: after failures in a row it is left alone for a while."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import delete, or_, select, update
from sqlalchemy.orm import Session

from db.states import CircuitState
from db.tables import Circuit
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
