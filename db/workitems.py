"""Work items on this node's worklist: Unified Procedure Steps (PS3.4 annex CC), whoever performs them.

Each operation decides (`db.workitem_rules`) and writes in one transaction, the events for subscribers with it. What it
answers is a status of the standard: SUCCESS or a warning where it is done.
"""

from __future__ import annotations

import hmac
import json
from dataclasses import dataclass
from datetime import datetime
from uuid import uuid4

from sqlalchemy import ColumnElement, or_, select, update
from sqlalchemy.orm import Session

from db import audit, notices, orders, workitem_subscriptions
from db.audit_events import Event, Outcome
from db.dicom_json import Json, element, text
from db.domain import PRIORITIES, more_urgent
from db.states import NoticeKind, NoticeState, WorkitemState
from db.tables import Study
from db.transitions import affected, insert_ignore, move
from db.types import utcnow
from db.workitem_rules import (
    HUMAN_PERFORMERS,
    MODIFIED_AT,
    MOST_CHARACTERS,
    PRIORITY,
    PROGRESS_INFORMATION,
    READINESS,
    READY,
    STATE,
    STATION_NAME,
    EventType,
    UpsStatus,
    assigned,
    cancel_requested,
    canceled,
    date_time,
    decide_change,
    progress_report,
    state_report,
    unmet,
)
from db.workitem_rules import PRIORITIES as LEVELS
from db.workitem_tables import Workitem

W = WorkitemState
OPEN = (W.SCHEDULED, W.IN_PROGRESS)


@dataclass(frozen=True)
class NewWorkitem:
    """A work item that is pushed. data: in the DICOM JSON model, valid, with its UIDs and state.

    instances: SOP Instance UIDs that its input names; none means the whole study. expires_at: when it is given up where
    its study has not come; None: never. ready: all its input is where this node gets its images from. created_by: an AE
    title. by: for the audit, where that is not all that is known of whoever pushes it.
    """

    sop_instance_uid: str
    study_instance_uid: str
    data: Json
    created_by: str
    priority: str = "routine"
    instances: tuple[str, ...] = ()
    expires_at: datetime | None = None
    ready: bool = False
    by: str = ""


@dataclass(frozen=True)
class WorkitemView:
    """A work item as it is on record. transaction_uid: for its performer alone, and never shown."""

    id: int
    sop_instance_uid: str
    state: WorkitemState
    priority: str
    study_instance_uid: str
    instances: tuple[str, ...]
    data: Json
    version: int
    transaction_uid: str
    performer: str
    created_by: str
    reason: str
    created_at: datetime
    changed_at: datetime
    expires_at: datetime | None


def view(row: Workitem) -> WorkitemView:
    """The row as a value."""
    return WorkitemView(
        id=row.id,
        sop_instance_uid=row.sop_instance_uid,
        state=row.state,
        priority=row.priority,
        study_instance_uid=row.study_instance_uid,
        instances=tuple(str(uid) for uid in row.instances),
        data=row.data,
        version=row.version,
        transaction_uid=row.transaction_uid,
        performer=row.performer,
        created_by=row.created_by,
        reason=row.reason,
        created_at=row.created_at,
        changed_at=row.changed_at,
        expires_at=row.expires_at,
    )


def create(session: Session, new: NewWorkitem) -> bool:
    """Put an item on the worklist, SCHEDULED. False where one of that UID is there already.

    Queued work on its study becomes as urgent as it is. An item that is ready, and names its images, spares the study
    the silence once all of them are here (`db.notices`).
    """
    now = utcnow()
    if not insert_ignore(
        session,
        Workitem,
        sop_instance_uid=new.sop_instance_uid,
        state=W.SCHEDULED,
        priority=new.priority,
        study_instance_uid=new.study_instance_uid,
        instances=list(new.instances),
        data=new.data,
        version=1,
        transaction_uid="",
        performer="",
        created_by=new.created_by,
        reason="",
        check_at=now,
        expires_at=new.expires_at,
        created_at=now,
        changed_at=now,
    ):
        return False
    row_id = session.scalars(select(Workitem.id).where(Workitem.sop_instance_uid == new.sop_instance_uid)).one()
    workitem_subscriptions.of_created(session, row_id, new.sop_instance_uid, new.data)
    _note(session, "workitem_received", new.by or new.created_by, new)
    _hasten(session, new.study_instance_uid, new.priority)
    if new.ready:
        _spare_silence(session, new)
    return True


def _spare_silence(session: Session, item: Workitem | NewWorkitem) -> None:
    if item.instances:
        notices.record(
            session,
            NoticeKind.WORKITEM,
            item.sop_instance_uid,
            [item.study_instance_uid],
            state=NoticeState.COMPLETED,
            instances=[str(uid) for uid in item.instances],
            calling_ae=item.created_by,
        )


def load(session: Session, sop_instance_uid: str) -> WorkitemView | None:
    row = session.scalars(select(Workitem).where(Workitem.sop_instance_uid == sop_instance_uid)).one_or_none()
    return None if row is None else view(row)


def change_state(
    session: Session,
    sop_instance_uid: str,
    target: WorkitemState,
    transaction_uid: str,
    *,
    actor: str,
    own: bool,
    by: str = "",
) -> UpsStatus:
    """Claim an item, or end it, under its Transaction UID (PS3.4 CC.2.1).

    What CANCELED asks for and the item lacks is put in. actor: AE title of whoever does. own: it is this node.
    by: for the audit, where an AE title is not all that is known of whoever does.
    """
    row = _held(session, sop_instance_uid)
    if row is None:
        return UpsStatus.NO_SUCH_WORKITEM
    now = utcnow()
    data = canceled(row.data, now) if target is W.CANCELED else row.data
    status = decide_change(
        row.state, target, correct=_correct(row, transaction_uid), met=target not in OPEN and not unmet(data, target)
    )
    if status is not UpsStatus.SUCCESS:
        return status
    claim = {"transaction_uid": transaction_uid, "performer": actor} if target is W.IN_PROGRESS else {}
    _turn(session, row, target, data, now, **claim)
    by_node: Event = "workitem_claimed" if target is W.IN_PROGRESS else "workitem_performed"
    _note(session, by_node if own else "workitem_changed", by or actor, row, state=target.value)
    return status


def request_cancel(
    session: Session, sop_instance_uid: str, *, requesting_ae: str, own_ae: str, information: Json, by: str = ""
) -> UpsStatus:
    """Somebody asks for an item to be canceled (PS3.4 CC.2.2).

    One that nobody has begun is. What this node itself has begun is finished. Another performer is told, where anybody
    is subscribed to the item. information: of the request. by: as in `change_state`.
    """
    row = _held(session, sop_instance_uid)
    if row is None:
        return UpsStatus.NO_SUCH_WORKITEM
    if row.state is W.COMPLETED:
        return UpsStatus.CANNOT_CANCEL_COMPLETED
    if row.state is W.CANCELED:
        return UpsStatus.ALREADY_CANCELED
    if row.state is W.IN_PROGRESS and row.performer == own_ae:
        return UpsStatus.PERFORMER_DECLINES
    now = utcnow()
    if row.state is W.SCHEDULED:
        lock = {"transaction_uid": f"2.25.{uuid4().int}", "performer": own_ae}
        _turn(session, row, W.IN_PROGRESS, row.data, now, **lock)
        _turn(session, row, W.CANCELED, canceled(row.data, now, information), now, reason="canceled on request")
    elif not workitem_subscriptions.tell(
        session, row.id, sop_instance_uid, EventType.CANCEL_REQUESTED, cancel_requested(requesting_ae, information)
    ):
        return UpsStatus.PERFORMER_UNREACHABLE
    _note(session, "workitem_changed", by or requesting_ae, row, state=row.state.value, asked="cancel")
    return UpsStatus.SUCCESS


def change(
    session: Session, sop_instance_uid: str, changes: Json, transaction_uid: str, *, actor: str, own: bool = False
) -> UpsStatus:
    """Set attributes of an item that has not ended; one that is claimed by its Transaction UID only (PS3.4 CC.2.6).

    changes: valid, and none of those that only other operations change. An empty attribute is kept empty. actor: for
    the audit. own: by this node, which may name as many outputs as it has made. One that is ready now spares its study
    the silence, as in `create`.
    """
    row = _held(session, sop_instance_uid)
    if row is None:
        return UpsStatus.NO_SUCH_WORKITEM
    if row.state not in OPEN:
        return UpsStatus.ENDED
    if row.state is W.IN_PROGRESS and not _correct(row, transaction_uid):
        return UpsStatus.WRONG_TRANSACTION
    now = utcnow()
    before, after = row.data, {**row.data, **changes, MODIFIED_AT: element("DT", date_time(now))}
    if not own and len(json.dumps(after)) > MOST_CHARACTERS:
        return UpsStatus.RESOURCE_LIMITATION
    priority = LEVELS.get(text(after, PRIORITY), row.priority)
    _write(session, row, data=after, priority=priority, changed_at=now)
    if priority != row.priority:
        _hasten(session, row.study_instance_uid, priority)
    if text(after, READINESS) == READY != text(before, READINESS):
        _spare_silence(session, row)
    _report(session, row.id, sop_instance_uid, before, after)
    if not own:
        _note(session, "workitem_changed", actor, row, state=row.state.value, asked="update")
    return UpsStatus.SUCCESS


def _report(session: Session, row_id: int, uid: str, before: Json, after: Json) -> None:
    """Tell subscribers of what has changed, as far as there are events for it (PS3.4 CC.2.4.3)."""

    def changed(*tags: str) -> bool:
        return any(before.get(tag) != after.get(tag) for tag in tags)

    if changed(READINESS):
        workitem_subscriptions.tell(session, row_id, uid, EventType.STATE_REPORT, state_report(after))
    if changed(PROGRESS_INFORMATION):
        workitem_subscriptions.tell(session, row_id, uid, EventType.PROGRESS_REPORT, progress_report(after))
    if changed(STATION_NAME, HUMAN_PERFORMERS):
        workitem_subscriptions.tell(session, row_id, uid, EventType.ASSIGNED, assigned(after) or {})


def explain(session: Session, sop_instance_uid: str, reason: str, *, looked_at: datetime, check_at: datetime) -> None:
    """For people: why an item stands where it stands. Names no patient.

    check_at: when its performer looks again; at once where something has happened to it since `looked_at`.
    """
    here = Workitem.sop_instance_uid == sop_instance_uid
    affected(session, update(Workitem).where(here).values(reason=reason))
    affected(session, update(Workitem).where(here, Workitem.check_at <= looked_at).values(check_at=check_at))


def due(session: Session, now: datetime, own_ae: str, *, limit: int = 200) -> list[WorkitemView]:
    """Items that this node should look at: those nobody has claimed, and those it has; the longest waiting first."""
    rows = session.scalars(
        select(Workitem).where(*_mine(now, own_ae)).order_by(Workitem.check_at, Workitem.id).limit(limit)
    )
    return [view(row) for row in rows]


def _mine(now: datetime, own_ae: str) -> list[ColumnElement[bool]]:
    unclaimed_or_own = or_(Workitem.state == W.SCHEDULED, Workitem.performer == own_ae)
    return [Workitem.state.in_(OPEN), Workitem.check_at <= now, unclaimed_or_own]


def wake(session: Session, study_instance_uid: str) -> str:
    """Something was decided on a study: look at its items now. Gives the most urgent priority of those that are open,
    "" where there is none.
    """
    here = [Workitem.study_instance_uid == study_instance_uid, Workitem.state.in_(OPEN)]
    found = session.scalars(select(Workitem.priority).where(*here)).all()
    if not found:
        return ""
    affected(session, update(Workitem).where(*here).values(check_at=utcnow()))
    wanted = PRIORITIES[-1]
    for priority in found:
        wanted = more_urgent(wanted, priority)
    return wanted


def _held(session: Session, sop_instance_uid: str) -> Workitem | None:
    """The row, and nobody else's until the transaction ends."""
    mine = select(Workitem).where(Workitem.sop_instance_uid == sop_instance_uid).with_for_update()
    return session.scalars(mine).one_or_none()


def _correct(row: Workitem, transaction_uid: str) -> bool:
    if not transaction_uid:
        return False
    # Of one that nobody has claimed any UID is correct: it becomes the lock, or the state is refused for itself.
    return row.state is W.SCHEDULED or hmac.compare_digest(row.transaction_uid, transaction_uid)


def _turn(session: Session, row: Workitem, target: WorkitemState, data: Json, now: datetime, **changes: object) -> None:
    """A decided change of state, and its event."""
    source, after = row.state, {**data, STATE: element("CS", target.value)}
    ended = {} if target in OPEN else {"ended_at": now}
    mine = [Workitem.id == row.id]
    written = {"data": after, "version": row.version + 1, "check_at": now, "changed_at": now, **ended, **changes}
    move(session, Workitem, mine, source, target, **written)
    session.refresh(row)
    workitem_subscriptions.tell(session, row.id, row.sop_instance_uid, EventType.STATE_REPORT, state_report(after))


def _write(session: Session, row: Workitem, **changes: object) -> None:
    mine = Workitem.id == row.id, Workitem.version == row.version
    affected(session, update(Workitem).where(*mine).values(version=row.version + 1, **changes))


def _hasten(session: Session, study_instance_uid: str, priority: str) -> None:
    study = session.scalar(select(Study.id).where(Study.study_instance_uid == study_instance_uid))
    if study is not None:
        orders.pull_forward(session, study, priority)


def _note(session: Session, event: Event, actor: str, item: Workitem | NewWorkitem, **detail: object) -> None:
    outcome: Outcome = "warning" if detail.get("state") == W.CANCELED.value else "success"
    told = {"workitem": item.sop_instance_uid, "priority": item.priority, **detail}
    audit.note(session, event, actor=actor, subject=item.study_instance_uid, outcome=outcome, **told)
