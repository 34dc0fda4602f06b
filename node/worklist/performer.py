"""The loops that perform other systems' work items (UPS Pull): one for each manager; a slow one holds up no other.

A work item is claimed, waits for its images to come by whatever way they take, hastens their reading to its priority,
and ends when their results are where they belong, or when they will not get there. The routes decide what is read.
"""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from datetime import timedelta

import structlog
from pydicom.dataset import Dataset

from db import notices, orders, performances, study_work
from db.domain import PRIORITIES
from db.errors import PeerUnavailable, PermanentError, RetriableError
from db.performances import Code, DuePerformance, NewPerformance
from db.session import Record
from db.states import JobState, NoticeKind, NoticeState
from db.states import PerformanceState as F
from db.types import utcnow
from db.workitem_rules import UNSPECIFIED
from node.commitment import MALFORMED
from node.settings import Settings
from node.worklist import managers, work_items
from node.worklist.fetching import Fetcher
from node.worklist.managers import NotFinal, NotOurs, Taken, Talk
from node.worklist.performing import Step, judge
from node.worklist.work_items import NotPerformable

log = structlog.get_logger(__name__)

_WAKE_S = 0.2
# Between two looks at the record for a work item that is being worked on.
_LOOK_S = 1.0
# A process that dies while it looks after one gives it back after this.
_LEASE_S = 300.0
_MOST_DOUBLINGS = 16
_STATION_SCHEME = "99RADNODE"


class Performer:
    """Looks after the work items of one manager. name: its name in the settings."""

    def __init__(self, settings: Settings, record: Record, name: str) -> None:
        self.settings = settings
        self.record = record
        self.name = name
        self.manager = settings.ups.managers[name]
        self.peer = settings.peers[self.manager.peer]
        source = settings.peers.get(self.manager.retrieve_from)
        self._fetcher = Fetcher(settings, source, self.manager.retrieve_after_s)
        self._poll_at = 0.0
        self._failures = 0
        # Row id -> when the manager is asked again whether it is in progress still.
        self._check_at: dict[int, float] = {}

    def run(self, stop: threading.Event) -> None:
        """Until `stop` is set. The record being away is waited out."""
        while not stop.wait(_WAKE_S):
            try:
                self.run_once()
            except RetriableError as error:
                log.warning("performing_postponed", manager=self.name, reason=str(error))

    def run_once(self) -> None:
        """Look for new work items where that is due, and after those at hand."""
        if time.monotonic() >= self._poll_at:
            self._poll()
        now = utcnow()
        with self.record.read() as session:
            if not performances.any_due(session, self.name, now):
                return
        with self.record.write() as session:
            due = performances.claim_due(session, self.name, now, lease_s=_LEASE_S)
        with _Line(self) as line:
            for one in due:
                self._look_after(one, line)

    def _poll(self) -> None:
        with self.record.read() as session:
            room = self.manager.most_at_once - performances.under_way(session, self.name)
        self._poll_at = time.monotonic() + self.manager.poll_s
        if room <= 0:
            return
        try:
            found = managers.scheduled(self.peer, self.settings, self.manager)
        except (RetriableError, PermanentError) as error:
            wait_s = max(self.manager.poll_s, self._wait_s(self._failures))
            self._failures += 1
            self._poll_at = time.monotonic() + wait_s
            log.warning("manager_silent", manager=self.name, reason=str(error), again_in_s=wait_s)
            return
        self._failures = 0
        wanted = [one for one in map(self._read, found) if one is not None]
        for new in sorted(wanted, key=lambda one: PRIORITIES.index(one.priority)):
            if room <= 0:
                return
            with self.record.write() as session:
                room -= performances.take_up(session, new)

    def _read(self, found: Dataset) -> NewPerformance | None:
        try:
            with warnings.catch_warnings(action="ignore"):
                return work_items.read_item(found, self.name, self.manager)
        except NotPerformable as error:
            log.debug("workitem_left", manager=self.name, reason=str(error))
        except MALFORMED as error:
            log.warning("workitem_unreadable", manager=self.name, cause=type(error).__name__)
        return None

    def _look_after(self, one: DuePerformance, line: _Line) -> None:
        look = {F.CLAIMING: self._claim, F.HELD: self._work}.get(one.state, self._end)
        try:
            look(one, line)
        except NotOurs as error:
            self._over(one, F.LOST, str(error))
        except PeerUnavailable as error:
            self._again(one, str(error))
        except PermanentError as error:
            if line.unopened or one.state is F.HELD:
                # A setting on one of the two sides, which a person may mend.
                self._again(one, str(error))
            elif one.state is F.CLAIMING:
                self._over(one, F.LOST, str(error))
            else:
                self._over(one, F.GIVEN_UP, str(error))

    def _claim(self, one: DuePerformance, line: _Line) -> None:
        uid, transaction = one.new.workitem_uid, one.transaction_uid
        talk = line.talk()
        try:
            talk.claim(uid, transaction)
        except Taken:
            if one.attempts <= 1:
                raise NotOurs("another performer has it") from None
            # An earlier claim may have been granted without this node hearing of it: its transaction UID tells.
            talk.tell(uid, work_items.progress(one, 0, "claimed"))
        with self.record.write() as session:
            performances.granted(session, one.id, look_at=utcnow())
            if one.new.instances:
                # Where all of them are here, the study need not be quiet any longer.
                notices.record(
                    session,
                    NoticeKind.WORKITEM,
                    uid,
                    [one.new.study_instance_uid],
                    state=NoticeState.COMPLETED,
                    instances=one.new.instances,
                    calling_ae=self.peer.ae_title,
                )
        log.info("workitem_claimed", manager=self.name, workitem=uid, study_instance_uid=one.new.study_instance_uid)
        if self.manager.subscribe:
            try:
                talk.subscribe(uid, self.settings.ae_title)
            except (RetriableError, PermanentError) as error:
                log.warning("workitem_not_subscribed", manager=self.name, workitem=uid, reason=str(error))

    def _work(self, one: DuePerformance, line: _Line) -> None:
        now = utcnow()
        with self.record.read() as session:
            work = study_work.of_study(session, one.new.study_instance_uid, one.new.instances)
        step = judge(one, work, self.manager, self._destinations, now)
        if step.target is not F.HELD:
            with self.record.write() as session:
                performances.decide(
                    session,
                    one.id,
                    step.target,
                    reason=step.reason,
                    discontinuation=step.discontinuation,
                    outputs=step.outputs,
                )
            self._leave(one)
            return
        if step.missing:
            self._fetcher.ask(one.new.study_instance_uid)
        if work is not None and JobState.QUEUED in work.jobs:
            with self.record.write() as session:
                orders.pull_forward(session, work.id, one.new.priority)
        told = self._report(one, step, line)
        with self.record.write() as session:
            performances.look_again(
                session, one.id, utcnow() + timedelta(seconds=_LOOK_S), reason=step.reason, progress=told
            )

    def _report(self, one: DuePerformance, step: Step, line: _Line) -> int | None:
        """Tell the manager of progress, or now and then ask it whether it has ended the work item by itself.

        Gives the percent that it was told, None where nothing was said.
        """
        if step.progress > one.progress:
            line.talk().tell(one.new.workitem_uid, work_items.progress(one, step.progress, step.reason))
        elif not self._check_due(one.id):
            return None
        elif line.talk().state(one.new.workitem_uid) in ("COMPLETED", "CANCELED"):
            raise NotOurs("its manager has ended it", ended=True)
        self._check_at[one.id] = time.monotonic() + self.manager.poll_s
        return max(step.progress, one.progress)

    def _check_due(self, row: int) -> bool:
        return time.monotonic() >= self._check_at.setdefault(row, time.monotonic() + self.manager.poll_s)

    def _end(self, one: DuePerformance, line: _Line) -> None:
        uid, state = one.new.workitem_uid, one.state
        target = F.COMPLETED if state is F.COMPLETING else F.CANCELED
        peers = {name: peer.ae_title for name, peer in self.settings.peers.items()}
        talk = line.talk()
        try:
            talk.tell(uid, work_items.final(one, self._station, peers))
        except NotOurs as error:
            # Perhaps by this node itself, which did not hear the answer: the change of state will tell.
            if not error.ended:
                raise
        try:
            talk.end(uid, target.value, one.transaction_uid)
        except NotFinal as error:
            self._not_final(one, str(error))
            return
        self._over(one, target, "")

    def _not_final(self, one: DuePerformance, reason: str) -> None:
        log.error("workitem_not_final", manager=self.name, workitem=one.new.workitem_uid, reason=reason)
        if one.state is F.CANCELING:
            self._over(one, F.GIVEN_UP, reason)
            return
        with self.record.write() as session:
            performances.decide(
                session,
                one.id,
                F.CANCELING,
                source=F.COMPLETING,
                reason="read and sent, but its manager does not take it as completed",
                discontinuation=UNSPECIFIED,
                outputs=one.outputs,
            )

    def _over(self, one: DuePerformance, target: F, reason: str) -> None:
        with self.record.write() as session:
            ended = performances.end(session, one.id, one.state, target, reason=reason)
        self._leave(one)
        if ended:
            tell = log.error if target is F.GIVEN_UP else log.info
            tell(
                "workitem_over",
                manager=self.name,
                workitem=one.new.workitem_uid,
                state=target.value,
                reason=reason or one.reason,
            )

    def _leave(self, one: DuePerformance) -> None:
        self._check_at.pop(one.id, None)
        self._fetcher.here(one.new.study_instance_uid)

    def _again(self, one: DuePerformance, reason: str) -> None:
        """Later each time, until the manager has had its time."""
        now = utcnow()
        again = now + timedelta(seconds=self._wait_s(one.attempts - 1))
        log.warning("manager_not_told", manager=self.name, workitem=one.new.workitem_uid, reason=reason)
        since = one.decided_at or one.claimed_at
        if one.state is not F.HELD and again > since + timedelta(seconds=self.manager.retry_for_s):
            self._over(one, F.GIVEN_UP, reason)
            return
        with self.record.write() as session:
            performances.postpone(session, one.id, one.state, again, reason=reason)

    def _wait_s(self, failures: int) -> float:
        return min(self.manager.retry_first_s * 2.0 ** min(failures, _MOST_DOUBLINGS), self.manager.retry_max_s)

    @property
    def _destinations(self) -> frozenset[str]:
        return frozenset(self.settings.peers)

    @property
    def _station(self) -> Code:
        if self.manager.station:
            return self.manager.station, self.manager.station_scheme, self.manager.station
        return self.settings.ae_title, _STATION_SCHEME, self.settings.ae_title


class _Line:
    """An association with the manager, opened when there is something to say; one that fails is not tried again."""

    def __init__(self, performer: Performer) -> None:
        self._performer = performer
        self._stack = ExitStack()
        self._talk: Talk | None = None
        self._failed: PeerUnavailable | PermanentError | None = None

    @property
    def unopened(self) -> bool:
        return self._talk is None

    def talk(self) -> Talk:
        """Raises as `node.worklist.managers.talk`."""
        if self._failed is not None:
            raise self._failed
        if self._talk is None:
            own = self._performer
            try:
                self._talk = self._stack.enter_context(managers.talk(own.peer, own.settings, own.manager))
            except (PeerUnavailable, PermanentError) as error:
                self._failed = error
                raise
        return self._talk

    def __enter__(self) -> _Line:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()


def loops(settings: Settings, record: Record) -> dict[str, Callable[[threading.Event], None]]:
    """One for each manager, by a name for its thread."""
    return {f"ups-{name}": Performer(settings, record, name).run for name in settings.ups.managers}
