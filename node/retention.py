"""The keeper's look at what may go, by `[retention]`.

It begins deletions, and goes on with those that were cut short.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import structlog

from db import audit_chain, deletions, priors, retention
from db.errors import RetriableError
from db.session import Record
from db.types import utcnow
from node import storage
from node.deletion import carry_out, path_of_result
from node.orphans import Orphans
from node.settings import Settings

log = structlog.get_logger(__name__)

ACTOR = "retention"
# Also where the disk runs low: whoever looks at what has just come in is to find its images.
_EARLY_AFTER = timedelta(hours=1)
_NOTES_AT_ONCE = 500
_DAILY_S = 86400.0
_HOURLY_S = 3600.0


class Housekeeper:
    """Deletes what the settings let go. Several may run: each step is a compare-and-set in the record.

    owner: the name under which this process holds deletions. free_bytes: of the data folder's disk.
    """

    def __init__(
        self, settings: Settings, record: Record, owner: str, *, free_bytes: Callable[[Path], int] | None = None
    ) -> None:
        self.settings = settings
        self.record = record
        self.owner = owner
        self._free_bytes = free_bytes or (lambda folder: shutil.disk_usage(folder).free)
        self._orphans = Orphans(settings, record)
        self._making_room = False
        self._next_hourly = 0.0
        self._next_daily = 0.0

    def run(self, stop: threading.Event) -> None:
        """Until `stop` is set. The record or the disk being away is waited out."""
        wait_s = 0.0
        while not stop.wait(wait_s):
            begun = 0
            try:
                begun = self.run_once()
            except RetriableError as error:
                log.warning("retention_postponed", reason=str(error))
            # What did not fit into this look is due at once, with a breath for the others.
            wait_s = min(1.0, self.settings.retention.interval_s) if begun else self.settings.retention.interval_s

    def run_once(self) -> int:
        """One look; returns how many deletions were begun. Raises RecordUnavailable."""
        carry_out(self.settings, self.record, self.owner)
        now = utcnow()
        begun = self._studies(now) + self._results(now) + self._aside(now) + self._priors(now) + self._make_room(now)
        if begun:
            carry_out(self.settings, self.record, self.owner)
        self._notes(now)
        return begun

    def _studies(self, now: datetime) -> int:
        keep = self.settings.retention
        begun = 0
        if keep.images_days:
            begun += self._begin_images(now - timedelta(days=keep.images_days), f"kept for {keep.images_days} days")
        if keep.waiting_days:
            before = now - timedelta(days=keep.waiting_days)
            begun += self._begin_images(before, f"nobody came for {keep.waiting_days} days", waiting=True)
        return begun

    def _begin_images(self, before: datetime, reason: str, *, waiting: bool = False, limit: int = 0) -> int:
        with self.record.read() as session:
            limit = limit or self.settings.retention.batch
            due = retention.due_studies(session, before, waiting=waiting, limit=limit)
        begun = 0
        for study_id in due:
            with self.record.write() as session:
                begun += deletions.begin_images(
                    session, study_id, before=before, actor=ACTOR, reason=reason, waiting=waiting
                )
        return begun

    def _results(self, now: datetime) -> int:
        keep = self.settings.retention
        begun = 0
        for days, unconfirmed in ((keep.results_days, False), (keep.unconfirmed_results_days, True)):
            if not days:
                continue
            before, reason = now - timedelta(days=days), f"kept for {days} days"
            with self.record.read() as session:
                due = retention.due_results(session, before, unconfirmed=unconfirmed, limit=keep.batch)
            for ids in due:
                with self.record.write() as session:
                    begun += deletions.begin_results(
                        session, ids, path_of=path_of_result, actor=ACTOR, reason=reason, at=now
                    )
        return begun

    def _aside(self, now: datetime) -> int:
        keep = self.settings.retention
        if not keep.aside_days:
            return 0
        before, reason = now - timedelta(days=keep.aside_days), f"kept for {keep.aside_days} days"
        with self.record.read() as session:
            due = retention.due_aside(session, before, limit=keep.batch)
        begun = 0
        for refusal_id in due:
            with self.record.write() as session:
                begun += deletions.begin_aside(session, refusal_id, actor=ACTOR, reason=reason)
        return begun

    def _priors(self, now: datetime) -> int:
        """What was fetched for comparison, once its study's work has ended; sooner where the disk runs low."""
        hours = self.settings.priors.keep_hours
        free = self._free_bytes(self.settings.data_dir) if self.settings.data_dir.is_dir() else 0
        if free < self.settings.retention.early_below_bytes:
            hours = 0
        with self.record.read() as session:
            due = priors.due_gone(session, now - timedelta(hours=hours), limit=self.settings.retention.batch)
        begun = 0
        for request_id in due:
            with self.record.write() as session:
                begun += deletions.begin_priors(session, request_id, actor=ACTOR, reason="its study's work is done")
        return begun

    def _make_room(self, now: datetime) -> int:
        """Below the first mark finished studies lose their images, one after the other, until the second is reached."""
        keep = self.settings.retention
        if not keep.delete_early or not self.settings.data_dir.is_dir():
            return 0
        free = self._free_bytes(self.settings.data_dir)
        if free < keep.early_below_bytes and not self._making_room:
            log.warning("disk_low", free_bytes=free, below=keep.early_below_bytes)
            self._making_room = True
        begun = 0
        while self._making_room and begun < keep.batch:
            if self._free_bytes(self.settings.data_dir) >= keep.early_until_bytes:
                self._making_room = False
                break
            if not self._begin_images(now - _EARLY_AFTER, "the disk runs low", limit=1):
                break
            begun += 1
            # Only then it shows how much room that made.
            carry_out(self.settings, self.record, self.owner)
        return begun

    def _notes(self, now: datetime) -> None:
        """What is no file of an object: old notes, the oldest part of the audit, what was left in the spool."""
        keep = self.settings.retention
        if time.monotonic() >= self._next_hourly:
            self._next_hourly = time.monotonic() + _HOURLY_S
            self._spool()
            if keep.notes_days:
                self._prune_notes(now - timedelta(days=keep.notes_days))
        if keep.orphans_days:
            self._orphans.look_at_next(now - timedelta(days=keep.orphans_days))
        if keep.audit_days and time.monotonic() >= self._next_daily:
            self._next_daily = time.monotonic() + _DAILY_S
            while self._prune_audit(now - timedelta(days=keep.audit_days)):
                pass

    def _prune_audit(self, before: datetime) -> int:
        with self.record.write() as session:
            return audit_chain.prune(session, before=before, actor=ACTOR, collector=self.settings.audit.collector)

    def _spool(self) -> None:
        folder = self.settings.data_dir
        removed = storage.remove(storage.unfinished(folder, folder / storage.INCOMING / "nobody", time.time()))
        if removed:
            log.info("spool_cleared", files=removed)

    def _prune_notes(self, before: datetime) -> None:
        while True:
            with self.record.read() as session:
                if not retention.any_notes(session, before):
                    return
            with self.record.write() as session:
                if not retention.prune_notes(session, before, limit=_NOTES_AT_ONCE):
                    return
