"""A node that has nothing to do leaves the record alone: nobody who writes waits for it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from db import deliveries, jobs, leftovers
from db.session import Record
from db.types import utcnow
from node.retention import Housekeeper
from node.settings import Settings
from node.worklist.pushed_performer import PushedPerformer
from node.worklist.tidings import TidingReporter
from tests.support.records import SENDER, finished_job, queued_job
from workers.proof import Prover
from workers.upkeep import Upkeep


def overdue(record: Record, seconds: float) -> bool:
    with record.read() as session:
        return leftovers.any_overdue(session, utcnow() + timedelta(seconds=seconds), grace_s=30)


def test_idle_rounds_take_no_write_lock(settings: Settings, record: Record, other_record: Callable[[], Record]) -> None:
    (settings.data_dir / "instances").mkdir(parents=True)
    rounds = [
        Upkeep(settings, record).run_once,
        Prover(settings, record).run_once,
        Housekeeper(settings, record, "keeper").run_once,
        PushedPerformer(settings, record).run_once,
        TidingReporter(settings, record, "keeper").run_once,
    ]
    # On SQLite a writer would now wait for half a minute, and fail.
    with other_record().write():
        for run_once in rounds:
            run_once()


def test_what_is_overdue_is_seen_before_anything_is_written(record: Record) -> None:
    queued_job(record)
    assert not overdue(record, 1)
    # jobs.overdue: its message is lost.
    assert overdue(record, jobs.REANNOUNCE_FIRST_S + 1)


def test_a_delivery_is_overdue_when_its_message_is_lost_or_its_sender_dead(record: Record) -> None:
    job_id = finished_job(record)
    assert not overdue(record, 1)
    assert overdue(record, 31)
    with record.write() as session:
        deliveries.claim(session, job_id, "pacs", SENDER, lease_s=100)
    assert not overdue(record, 90)
    assert overdue(record, 101)
