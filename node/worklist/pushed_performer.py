"""The loop that performs what peers push: it begins work items, reports their progress, ends and forgets them.

The routes decide what is read, whether or not there is a work item; an item says who wants to know, and how urgently.
Each step is one transaction, so a kill at any moment leaves an item as it was before the step, to be taken up again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from uuid import uuid4

import structlog

from db import study_work, workitem_queries, workitem_rules, workitem_tidings, workitems
from db.dicom_json import Json, code, element, items, sequence, text
from db.errors import RetriableError
from db.session import Record
from db.states import WorkitemState
from db.types import utcnow
from db.workitem_rules import UpsStatus
from db.workitems import WorkitemView
from node.settings import Settings
from node.worklist.pushed import Next, Step, judge
from node.worklist.tidings import TidingReporter
from node.worklist.work_items import outputs

log = structlog.get_logger(__name__)

_ROUND_S = 0.5
# Between two looks at an item: a tenth of the time for which it has been as it is, that a long queue costs little. The
# record wakes one whose study is decided on; where nothing of the study is here, nothing else can happen.
_SHARE = 0.1
_SOON_S, _LATER_S, _ABSENT_S = 0.5, 30.0, 600.0
_FORGET_S = 600.0
_STATION_SCHEME = "99RADNODE"
# CID 9231, for an item that does not say what is to be done.
_DETECTION = ("110004", "DCM", "Computer Aided Detection")


class PushedPerformer:
    """Several may run at once: each change is decided against the item as it is then."""

    def __init__(self, settings: Settings, record: Record) -> None:
        self.settings = settings
        self.record = record
        self._peers = {name: peer.ae_title for name, peer in settings.peers.items()}
        self._forget_at: datetime | None = None

    def run(self, stop: threading.Event) -> None:
        """Until `stop` is set. The record being away is waited out."""
        while not stop.wait(_ROUND_S):
            try:
                self.run_once()
            except RetriableError as error:
                log.warning("workitems_postponed", reason=str(error))

    def run_once(self) -> int:
        """Look after what is due; returns how many items changed their state."""
        now = utcnow()
        if self._forget_at is None or now >= self._forget_at:
            self._forget(now)
        with self.record.read() as session:
            due = workitems.due(session, now, self.settings.ae_title)
        return sum(self._look_after(item, now) for item in due)

    def _forget(self, now: datetime) -> None:
        ups = self.settings.ups
        before = now - timedelta(days=ups.keep_days)
        locked_before = now - timedelta(days=max(ups.keep_days, ups.keep_locked_days))
        self._forget_at = now + timedelta(seconds=_FORGET_S)
        with self.record.read() as session:
            over = workitem_queries.any_over(session, before, locked_before)
            if not over and not workitem_tidings.any_old(session, now):
                return
        with self.record.write() as session:
            gone = workitem_queries.forget(session, before, locked_before)
            told = workitem_tidings.forget(session, now)
        if gone or told:
            # A few hundred at a time: there may be more.
            self._forget_at = None
        if gone:
            log.info("workitems_forgotten", count=gone)

    def _look_after(self, item: WorkitemView, now: datetime) -> bool:
        with self.record.read() as session:
            work = study_work.of_study(session, item.study_instance_uid, item.instances)
        step = judge(item, work, self._peers, now)
        changed = False
        with self.record.write() as session:
            begin = item.state is WorkitemState.SCHEDULED and step.next is not Next.WAIT
            lock = f"2.25.{uuid4().int}" if begin else item.transaction_uid
            turns = _turns(step.next, begin)
            uid, own_ae = item.sop_instance_uid, self.settings.ae_title
            for target in turns:
                if target is not WorkitemState.IN_PROGRESS:
                    workitems.change(session, uid, self._told(item, step, now), lock, actor=own_ae, own=True)
                status = workitems.change_state(session, uid, target, lock, actor=own_ae, own=True)
                if status is not UpsStatus.SUCCESS:
                    # Somebody else has claimed, canceled or ended it since it was read.
                    log.info("workitem_lost", workitem=uid, status=f"{status:#06x}")
                    return False
                changed = True
            if step.next is Next.GO_ON and _progress_of(item.data) != str(step.progress):
                workitems.change(session, uid, self._told(item, step, now), lock, actor=own_ae, own=True)
            again = now + timedelta(seconds=_after_s(item, now, absent=work is None))
            # An item whose study does not come is looked at once more at the moment it expires.
            if item.expires_at is not None and item.expires_at > now:
                again = min(again, item.expires_at)
            workitems.explain(session, uid, step.reason, looked_at=now, check_at=again)
        if changed:
            log.info("workitem_stepped", workitem=uid, state=turns[-1].value, reason=step.reason)
        return changed

    def _told(self, item: WorkitemView, step: Step, now: datetime) -> Json:
        """What is set in an item that goes on, or before it ends."""
        progress: Json = {
            workitem_rules.PROGRESS: element("DS", step.progress),
            workitem_rules.PROGRESS_DESCRIPTION: element("ST", step.reason),
        }
        if step.discontinuation is not None:
            progress |= {
                workitem_rules.CANCELED_AT: element("DT", workitem_rules.date_time(now)),
                workitem_rules.CANCEL_REASON: element("LT", step.reason),
                workitem_rules.DISCONTINUATION: sequence([code(*step.discontinuation)]),
            }
        told = {workitem_rules.PROGRESS_INFORMATION: sequence([progress])}
        return told | {workitem_rules.PERFORMED: sequence([self._performed(item, step, now)])}

    def _performed(self, item: WorkitemView, step: Step, now: datetime) -> Json:
        before = (items(item.data, workitem_rules.PERFORMED) or [{}])[0]
        stamp = element("DT", workitem_rules.date_time(now))
        ae_title = self.settings.ae_title
        stations = items(item.data, workitem_rules.STATION_NAME) or [code(ae_title, _STATION_SCHEME, ae_title)]
        kinds = items(item.data, workitem_rules.WORKITEM_CODE) or [code(*_DETECTION)]
        performed = {
            workitem_rules.PERFORMED_STATION: sequence(stations[:1]),
            workitem_rules.PERFORMED_WORKITEM: sequence(kinds[:1]),
            workitem_rules.STARTED_AT: before.get(workitem_rules.STARTED_AT) or stamp,
            workitem_rules.OUTPUT: sequence([one.to_json_dict() for one in outputs(step.outputs, self._peers)]),
        }
        return performed | ({} if step.next is Next.GO_ON else {workitem_rules.ENDED_AT: stamp})


def _turns(step: Next, begin: bool) -> list[WorkitemState]:
    """An item has to be in progress before it ends."""
    first = [WorkitemState.IN_PROGRESS] if begin else []
    ends = {Next.COMPLETE: [WorkitemState.COMPLETED], Next.CANCEL: [WorkitemState.CANCELED]}
    return [*first, *ends.get(step, [])]


def _progress_of(data: Json) -> str:
    # Whoever pushed it may have put in anything, under any VR.
    progress = (items(data, workitem_rules.PROGRESS_INFORMATION) or [{}])[0]
    return text(progress, workitem_rules.PROGRESS)


def _after_s(item: WorkitemView, now: datetime, *, absent: bool) -> float:
    least, most = (_LATER_S, _ABSENT_S) if absent else (_SOON_S, _LATER_S)
    return min(most, max(least, _SHARE * (now - item.changed_at).total_seconds()))


def loops(settings: Settings, record: Record, owner: str) -> dict[str, Callable[[threading.Event], None]]:
    """What the keeper runs, where peers may push work items to this node. owner: under which name it takes leases."""
    if not settings.ups.push:
        return {}
    return {"workitems": PushedPerformer(settings, record).run, "events": TidingReporter(settings, record, owner).run}
