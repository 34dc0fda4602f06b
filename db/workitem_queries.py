"""Looking for work items, and letting go of those that are over."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, delete, func, or_, select, update
from sqlalchemy.orm import InstrumentedAttribute, Session

from db.dicom_json import Json, values
from db.states import WorkitemState
from db.transitions import affected
from db.workitem_matching import matches
from db.workitem_rules import SOP_INSTANCE, STATE, STUDY, names_patient
from db.workitem_tables import Workitem, WorkitemSubscription
from db.workitems import OPEN, WorkitemView, view

_AT_ONCE = 200
_COLUMNS: tuple[tuple[str, InstrumentedAttribute[Any]], ...] = (
    (SOP_INSTANCE, Workitem.sop_instance_uid),
    (STUDY, Workitem.study_instance_uid),
)


def find(session: Session, query: Json, *, limit: int) -> Iterator[WorkitemView]:
    """Items that match the keys of a query (`db.workitem_matching`), in the order of their creation.

    limit: of answers. The record narrows by state, UID and study; all other keys are held against each item left.
    """
    narrowed = _narrowed(query)
    after = count = 0
    while True:
        rows = session.execute(
            select(Workitem.id, Workitem.data)
            .where(Workitem.id > after, *narrowed)
            .order_by(Workitem.id)
            .limit(_AT_ONCE)
        ).all()
        matching = [row_id for row_id, data in rows if matches(query, data)][: limit - count]
        for row in session.scalars(select(Workitem).where(Workitem.id.in_(matching)).order_by(Workitem.id)).all():
            # Else the session would keep every row it has given out.
            session.expunge(row)
            yield view(row)
        count += len(matching)
        if count >= limit or len(rows) < _AT_ONCE:
            return
        after = rows[-1][0]


def _narrowed(query: Json) -> list[ColumnElement[bool]]:
    wanted = {tag: [str(one) for one in values(query, tag) if one] for tag in (STATE, SOP_INSTANCE, STUDY)}
    found: list[ColumnElement[bool]] = [column.in_(wanted[tag]) for tag, column in _COLUMNS if wanted[tag]]
    states = set(WorkitemState)
    if wanted[STATE] and states.issuperset(wanted[STATE]):
        found.append(Workitem.state.in_([WorkitemState(one) for one in wanted[STATE]]))
    return found


def shown(session: Session, *, states: Sequence[WorkitemState] = (), limit: int = 100) -> list[WorkitemView]:
    """For people: the latest first."""
    query = select(Workitem).order_by(Workitem.id.desc()).limit(limit)
    return [view(row) for row in session.scalars(query.where(Workitem.state.in_(states)) if states else query)]


def counts(session: Session) -> dict[str, int]:
    """How many items are in each state."""
    rows = session.execute(select(Workitem.state, func.count()).group_by(Workitem.state))
    return {state.value: number for state, number in rows}


def open_count(session: Session) -> int:
    """How many items wait or are in progress."""
    return session.scalar(select(func.count()).select_from(Workitem).where(Workitem.state.in_(OPEN))) or 0


def any_over(session: Session, before: datetime, locked_before: datetime) -> bool:
    """Whether `forget` would find one. Takes no lock."""
    return session.scalar(select(Workitem.id).where(_over(before, locked_before)).limit(1)) is not None


def _over(before: datetime, locked_before: datetime) -> ColumnElement[bool]:
    locked = select(WorkitemSubscription.workitem_id).where(
        WorkitemSubscription.workitem_id == Workitem.id, WorkitemSubscription.deletion_lock
    )
    return or_(Workitem.ended_at < locked_before, (Workitem.ended_at < before) & ~locked.exists())


def forget(session: Session, before: datetime, locked_before: datetime, *, limit: int = 200) -> int:
    """Let go of items that ended before that moment; where a subscriber holds a deletion lock, before the other one.

    Returns how many.
    """
    over = _over(before, locked_before)
    ids = list(session.scalars(select(Workitem.id).where(over).order_by(Workitem.id).limit(limit)))
    if not ids:
        return 0
    affected(session, delete(WorkitemSubscription).where(WorkitemSubscription.workitem_id.in_(ids)))
    return affected(session, delete(Workitem).where(Workitem.id.in_(ids)))


def forget_patient(session: Session, study_instance_uid: str) -> None:
    """A study is deleted with all that names its patient: its items keep the attributes, without a value."""
    theirs = select(Workitem).where(Workitem.study_instance_uid == study_instance_uid).with_for_update()
    for row in session.scalars(theirs).all():
        emptied = {tag: {"vr": row.data[tag]["vr"]} for tag in row.data if names_patient(tag)}
        here = Workitem.id == row.id
        affected(session, update(Workitem).where(here).values(data={**row.data, **emptied}, version=row.version + 1))
