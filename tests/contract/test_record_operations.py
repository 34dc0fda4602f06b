"""What the operations page asks of the record."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import select

from db import audit, audit_look, deliveries, jobs, operations
from db.audit import Wanted
from db.audit_tables import AuditLink
from db.session import Record
from db.states import DeliveryState, JobState
from db.tables import Audit
from db.types import utcnow
from tests.support.records import (
    NOON,
    SENDER,
    WORKER,
    claim,
    finished_job,
    image,
    outcome,
    queued_job,
    receive,
    result,
)

HOUR = timedelta(hours=1)


def test_what_waits_and_what_was_given_up(record: Record) -> None:
    done = finished_job(record, result(1), result(2, kind="SC"))
    with record.write() as session:
        first, _ = deliveries.claim(session, done, "pacs", SENDER, lease_s=60)
        deliveries.bury(session, first, SENDER, reason="refused")
    parked = queued_job(record, "5.7", 7)
    assert claim(record, parked) is not None
    with record.write() as session:
        jobs.park(session, parked, WORKER, reason="broken")
    queued_job(record, "5.8", 8)
    with record.read() as session:
        found = operations.queues(session)
        (letter,) = operations.dead_letters(session)
        (job,) = operations.parked_jobs(session)
        waiting = operations.waiting_by_destination(session)
    assert found.jobs == {JobState.QUEUED: 1, JobState.RUNNING: 0, JobState.PARKED: 1}
    assert (found.deliveries[DeliveryState.DEAD], found.deliveries[DeliveryState.SENDING]) == (1, 1)
    assert found.messages > 0
    assert found.oldest_queued_at is not None
    assert (letter.destination, letter.reason, letter.what, letter.job_id) == ("pacs", "refused", "SR", done)
    assert (job.study_instance_uid, job.reason, job.job_id) == ("5.7", "broken", parked)
    assert waiting == {}


def test_how_long_the_latest_jobs_took(record: Record) -> None:
    job_id = finished_job(record, result(1))
    with record.read() as session:
        (unsent,) = operations.turnaround(session, utcnow() - HOUR)
    assert unsent.sent_s is None
    with record.write() as session:
        (due,) = deliveries.claim(session, job_id, "pacs", SENDER, lease_s=60)
        deliveries.mark_sent(session, due.id, SENDER, due.ref, "Success")
    with record.read() as session:
        (took,) = operations.turnaround(session, utcnow() - HOUR, model="cxr")
        assert operations.turnaround(session, utcnow() - HOUR, model="other") == []
        assert operations.turnaround(session, utcnow() + HOUR) == []
        assert operations.finished_since(session, utcnow() - HOUR) == 1
        assert operations.received_since(session, NOON) == 1
        assert operations.received_since(session, NOON + HOUR) == 0
    assert took.sent_s is not None
    assert 0 <= took.wait_s <= took.whole_s <= took.sent_s < 60
    assert abs(took.wait_s + took.read_s - took.whole_s) < 1e-6


def test_who_reads_what(record: Record) -> None:
    finished_job(record)
    held = queued_job(record, "5.9", 9)
    assert claim(record, held, "host-a:worker-2") is not None
    with record.read() as session:
        (now,) = operations.at_work(session)
        (last,) = operations.last_read(session)
        summaries = operations.recent_summaries(session, "cxr", "1.0.0")
        assert operations.recent_summaries(session, "cxr", "9.9.9") == []
        assert operations.recent_facts(session, "cxr", "1.0.0") == [image().facts]
    assert (now.owner, now.job_id, now.study_instance_uid) == ("host-a:worker-2", held, "5.9")
    assert (last.owner, last.model, last.model_version) == (WORKER, "cxr", "1.0.0")
    assert summaries == [outcome().summary]


def test_who_was_heard_of_and_when(record: Record) -> None:
    queued_job(record)
    receive(record, image(2, "5.2", calling_ae="CT1"))
    with record.write() as session:
        audit.note(session, "association_rejected", actor="EVIL", outcome="failure", address="192.0.2.1")
        audit.note(session, "association_rejected", actor="EVIL", outcome="failure", address="192.0.2.1", attempts=40)
    with record.read() as session:
        assert operations.last_study(session, ["MODALITY", "CT1", "NOBODY"]) == {"MODALITY": NOON, "CT1": NOON}
        heard = {one.calling_ae: (one.received, one.refused) for one in operations.heard(session, utcnow() - HOUR)}
        assert operations.heard(session, utcnow() + HOUR) == []
    assert heard == {"MODALITY": (1, 0), "EVIL": (0, 41)}


def test_the_audit_is_looked_at_page_by_page(record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(30):
        with record.write() as session:
            audit.note(session, "login" if number % 3 else "logout", actor=f"user {number % 2}", subject=str(number))

    def walk(wanted: Wanted, limit: int) -> tuple[list[str], int]:
        seen, pages, before = [], 0, None
        while True:
            with record.read() as session:
                found = audit_look.look(session, wanted, before=before, limit=limit)
            seen += [one.subject for one in found.entries]
            pages, before = pages + 1, found.before
            if before is None:
                return seen, pages

    everything = [str(number) for number in range(29, -1, -1)]
    assert walk(Wanted(), 7) == (everything, 5)
    assert walk(Wanted(events=("logout",), actor="user 0"), 50) == (["24", "18", "12", "6", "0"], 1)
    assert walk(Wanted(subject="3"), 50) == (["3"], 1)
    monkeypatch.setattr(audit_look, "WINDOW", 4)
    assert walk(Wanted(actor="user 1"), 50)[0] == everything[::2]
    assert walk(Wanted(actor="user 1", since=utcnow() + HOUR), 50) == ([], 1)
    with record.read() as session:
        every = select(Audit, AuditLink.position, AuditLink.digest).join(AuditLink, AuditLink.audit_id == Audit.id)
        narrowed = audit.narrowed(every, Wanted(actor="nobody"))
        assert session.execute(narrowed).all() == []
