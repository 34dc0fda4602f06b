"""The only writer of states: compare-and-set along the transition tables of `db.states`."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Any, cast

from sqlalchemy import ColumnElement, Connection, CursorResult, Table, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from db.errors import IllegalTransition
from db.states import TRANSITIONS
from db.tables import Base


def check(source: StrEnum, target: StrEnum) -> None:
    """Raise IllegalTransition unless the table allows `source` to become `target`."""
    if (source, target) not in TRANSITIONS[type(source)]:
        raise IllegalTransition(f"{type(source).__name__} {source} cannot become {target}")


def move(
    session: Session,
    table: type[Base],
    where: Iterable[ColumnElement[bool]],
    source: StrEnum,
    target: StrEnum,
    **values: Any,
) -> int:
    """Set `state` from `source` to `target` on the rows that match and still are in `source`.

    Returns how many rows changed: zero means that somebody else was first, which the caller must handle.
    Raises IllegalTransition for a change the table does not have.
    """
    check(source, target)
    state = table.__table__.c.state
    statement = update(table).where(state == source, *where).values(state=target, **values)
    return affected(session, statement)


def affected(session: Session, statement: Any) -> int:
    """Run an UPDATE or DELETE and say how many rows it touched."""
    result = cast("CursorResult[Any]", session.execute(statement, execution_options={"synchronize_session": False}))
    return result.rowcount


def insert_or_ignore(connection: Connection, table: type[Base]) -> postgresql.Insert | sqlite.Insert:
    """An INSERT that leaves out rows which a unique constraint already has.

    Written per dialect because a failed INSERT would poison PostgreSQL's whole transaction. Ask for what was inserted
    by RETURNING: SQLAlchemy gives no row count for an INSERT on PostgreSQL.
    """
    build = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    return build(cast("Table", table.__table__)).on_conflict_do_nothing()


def insert_ignore(session: Session, table: type[Base], **values: Any) -> bool:
    """Insert unless a unique constraint already has it. True when a row was inserted."""
    key = cast("Table", table.__table__).primary_key
    statement = insert_or_ignore(session.connection(), table).values(**values).returning(*key)
    return session.execute(statement).first() is not None
