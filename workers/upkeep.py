"""The keeper's round: what a lost message, a dead process or a clock that was set back left behind is due again."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from db import deliveries, jobs, leftovers
from db.errors import RetriableError
from db.session import Record
from db.types import utcnow
from node.settings import Settings
from workers import alive

log = structlog.get_logger(__name__)

# Of messages, by a process: the one it is about to begin, and one that waits behind it.
_TAKEN_AT_MOST = 2
_ROUND_S = 1.0
_DELIVERY_GRACE_S = 30.0
# A clock that is kept by NTP is moved by less than this at a time.
_JUMP_S = 2.0


@dataclass(frozen=True)
class Clocks:
    """One moment by the wall clock, and by one that nobody sets."""

    wall: datetime
    steady_s: float

    def set_back_by(self, now: Clocks) -> timedelta:
        """How far the wall clock was set back from here to `now`, where that is more than `_JUMP_S` seconds.

        One that was set forward is no matter: what waits is due early, and nothing is done twice for it.
        """
        back = self.wall + timedelta(seconds=now.steady_s - self.steady_s) - now.wall
        return back if back > timedelta(seconds=_JUMP_S) else timedelta(0)


class Upkeep:
    """One round a second; nothing in it waits for a peer."""

    def __init__(self, settings: Settings, record: Record) -> None:
        self.settings = settings
        self.record = record
        self._seen: Clocks | None = None

    def run(self, stop: threading.Event) -> None:
        """Until `stop` is set. The record being away is waited out."""
        while not stop.wait(_ROUND_S):
            try:
                self.run_once()
            except RetriableError as error:
                log.warning("upkeep_postponed", reason=str(error))

    def run_once(self) -> None:
        """Raises RecordUnavailable."""
        self._mind_the_clock()
        gone = alive.free_dead(self.settings, self._free)
        if gone:
            with self.record.write() as session:
                leftovers.announce_first(session, _TAKEN_AT_MOST * len(gone))
        now = utcnow()
        again = sends = 0
        with self.record.read() as session:
            overdue = leftovers.any_overdue(session, now, grace_s=_DELIVERY_GRACE_S)
        if overdue:
            with self.record.write() as session:
                again = jobs.sweep(session, now)
                sends = deliveries.sweep(session, now, grace_s=_DELIVERY_GRACE_S)
        if again or sends or gone:
            log.info("left_behind", jobs=again, deliveries=sends, ended=len(gone))

    def _free(self, owner: str) -> None:
        with self.record.write() as session:
            freed = leftovers.free(session, owner)
        if freed:
            log.warning("process_gone", owner=owner, freed=freed)

    def _mind_the_clock(self) -> None:
        now = Clocks(utcnow(), time.monotonic())
        back = (self._seen or self._by_the_record(now)).set_back_by(now)
        if back:
            with self.record.write() as session:
                moved = leftovers.pull_back(session, now.wall, back)
                # Whoever was told of it in between has found it not to be due.
                leftovers.announce_all(session)
            log.warning("clock_set_back", by_s=round(back.total_seconds(), 1), moments_moved=moved)
        self._seen = now

    def _by_the_record(self, now: Clocks) -> Clocks:
        """The clock may have been set back while no keeper ran: then the record knows of later moments than `now`."""
        with self.record.read() as session:
            latest = leftovers.latest_event(session)
        return Clocks(max(now.wall, latest or now.wall), now.steady_s)
