"""Who is told of work items (PS3.4 CC.2.3): of one, or of all that come.

A subscription to one item is a row; a global one makes such a row for each item that is created while it lasts.
"""

from __future__ import annotations

from sqlalchemy import delete, exists, select, update
from sqlalchemy.orm import Session

from db import workitem_tidings
from db.dicom_json import Json
from db.transitions import affected, insert_ignore
from db.types import utcnow
from db.workitem_matching import matches
from db.workitem_rules import EventType, UpsStatus, assigned, state_report
from db.workitem_tables import Workitem, WorkitemSubscriber, WorkitemSubscription

_AT_ONCE = 200


def subscribe(session: Session, sop_instance_uid: str, ae_title: str, *, lock: bool) -> UpsStatus:
    """Tell an AE of one item from now on, beginning with its state.

    lock: keep the item for it, also when it has ended. A later subscription takes the place of an earlier one.
    """
    # Nobody changes it meanwhile: such a change would be told neither with the state nor as an event.
    item = select(Workitem.id, Workitem.data).where(Workitem.sop_instance_uid == sop_instance_uid).with_for_update()
    row = session.execute(item).one_or_none()
    if row is None:
        return UpsStatus.NO_SUCH_WORKITEM
    if not _add(session, row[0], ae_title, lock=lock):
        same = WorkitemSubscription.workitem_id == row[0], WorkitemSubscription.ae_title == ae_title
        affected(session, update(WorkitemSubscription).where(*same).values(deletion_lock=lock))
    _tell(session, sop_instance_uid, EventType.STATE_REPORT, state_report(row[1]), ae_title)
    return UpsStatus.SUCCESS


def subscribe_globally(session: Session, ae_title: str, *, lock: bool, matching: Json | None = None) -> None:
    """Tell an AE of the items that come, or of those of them that match.

    lock: also of those there are and it is not subscribed to (PS3.4 table CC.2.3-2). A later global subscription takes
    the place of an earlier one.
    """
    values = {"deletion_lock": lock, "matching": matching or {}}
    if not insert_ignore(session, WorkitemSubscriber, ae_title=ae_title, since=utcnow(), **values):
        mine = update(WorkitemSubscriber).where(WorkitemSubscriber.ae_title == ae_title)
        affected(session, mine.values(**values))
    if not lock:
        return
    after = 0
    while True:
        known = exists().where(
            WorkitemSubscription.workitem_id == Workitem.id, WorkitemSubscription.ae_title == ae_title
        )
        rows = session.execute(
            select(Workitem.id, Workitem.sop_instance_uid, Workitem.data)
            .where(Workitem.id > after, ~known)
            .order_by(Workitem.id)
            .limit(_AT_ONCE)
            .with_for_update(of=Workitem)
        ).all()
        for workitem_id, uid, data in rows:
            if matches(matching or {}, data) and _add(session, workitem_id, ae_title, lock=True):
                _tell(session, uid, EventType.STATE_REPORT, state_report(data), ae_title)
        session.flush()
        if len(rows) < _AT_ONCE:
            return
        after = rows[-1][0]


def unsubscribe(session: Session, sop_instance_uid: str, ae_title: str) -> UpsStatus:
    """Tell an AE no more of one item."""
    item = session.scalar(select(Workitem.id).where(Workitem.sop_instance_uid == sop_instance_uid))
    if item is None:
        return UpsStatus.NO_SUCH_WORKITEM
    mine = WorkitemSubscription.workitem_id == item, WorkitemSubscription.ae_title == ae_title
    affected(session, delete(WorkitemSubscription).where(*mine))
    return UpsStatus.SUCCESS


def unsubscribe_globally(session: Session, ae_title: str) -> None:
    """Tell an AE of nothing any more, whatever it has subscribed to."""
    suspend(session, ae_title)
    affected(session, delete(WorkitemSubscription).where(WorkitemSubscription.ae_title == ae_title))


def suspend(session: Session, ae_title: str) -> None:
    """Tell an AE of no items that come; it is still told of those that it is subscribed to."""
    affected(session, delete(WorkitemSubscriber).where(WorkitemSubscriber.ae_title == ae_title))


def of_created(session: Session, workitem_id: int, sop_instance_uid: str, data: Json) -> None:
    """An item was created: whoever subscribes globally is told of it from now on."""
    for one in session.scalars(select(WorkitemSubscriber).order_by(WorkitemSubscriber.ae_title)).all():
        if not matches(one.matching, data):
            continue
        _add(session, workitem_id, one.ae_title, lock=one.deletion_lock)
        _tell(session, sop_instance_uid, EventType.STATE_REPORT, state_report(data), one.ae_title)
        to_whom = assigned(data)
        if to_whom is not None:
            _tell(session, sop_instance_uid, EventType.ASSIGNED, to_whom, one.ae_title)


def subscribers(session: Session, workitem_id: int) -> list[str]:
    """AE titles that are told of an item."""
    mine = select(WorkitemSubscription.ae_title).where(WorkitemSubscription.workitem_id == workitem_id)
    return list(session.scalars(mine.order_by(WorkitemSubscription.ae_title)))


def everybody(session: Session) -> list[str]:
    """AE titles that are subscribed to anything."""
    known = select(WorkitemSubscription.ae_title).union(select(WorkitemSubscriber.ae_title))
    return sorted(session.scalars(known))


def tell(session: Session, workitem_id: int, sop_instance_uid: str, event_type: EventType, information: Json) -> int:
    """Put an event in the queues of an item's subscribers; returns how many there are."""
    told = subscribers(session, workitem_id)
    workitem_tidings.announce(session, sop_instance_uid, event_type, information, told)
    return len(told)


def _tell(session: Session, uid: str, event_type: EventType, information: Json, ae_title: str) -> None:
    workitem_tidings.announce(session, uid, event_type, information, [ae_title])


def _add(session: Session, workitem_id: int, ae_title: str, *, lock: bool) -> bool:
    return insert_ignore(
        session,
        WorkitemSubscription,
        workitem_id=workitem_id,
        ae_title=ae_title,
        deletion_lock=lock,
        since=utcnow(),
    )
