"""What dead processes hold, and what a clock that was set back puts out of reach, is due again; on both databases."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import select

from db import circuits, deliveries, jobs, leftovers, listing, outbox, studies
from db.session import Record
from db.tables import Job, Study
from db.types import utcnow
from tests.support import records

DEAD, ALIVE = "host:infer:12", "host:infer:123"
HOUR = timedelta(hours=1)


def free(record: Record, owner: str) -> int:
    with record.write() as session:
        return leftovers.free(session, owner)


def pull_back(record: Record, now: datetime, by: timedelta) -> int:
    with record.write() as session:
        return leftovers.pull_back(session, now, by)


def drain(record: Record) -> list[str]:
    """What is announced and due."""
    with record.write() as session:
        messages = outbox.claim(session, "relay", limit=100, lease_s=60)
        outbox.done(session, [message.id for message in messages])
    return [message.subject for message in messages]


def test_a_dead_workers_job_is_due_at_once_and_the_attempt_counts(record: Record) -> None:
    lost, kept = records.queued_job(record, "1.2.1", 1), records.queued_job(record, "1.2.2", 2)
    records.claim(record, lost, DEAD, lease_s=3600)
    records.claim(record, kept, ALIVE, lease_s=3600)
    drain(record)
    assert free(record, DEAD) == 1
    assert drain(record) == [lost]
    assert records.claim(record, kept, "host:infer:9") is None
    again = records.claim(record, lost, "host:infer:9")
    assert again is not None
    assert again.attempt == 2
    assert free(record, DEAD) == 0


def test_what_a_dead_worker_took_and_had_not_begun_is_announced_with_those_that_have_waited_longest(
    record: Record,
) -> None:
    waiting = [records.queued_job(record, f"1.2.{number}", number) for number in range(1, 5)]
    stat = records.queued_job(record, "1.2.9", 9, priority="stat")
    records.claim(record, waiting[0], ALIVE)
    drain(record)
    with record.write() as session:
        assert leftovers.announce_first(session, 2) == 3
    assert sorted(drain(record)) == sorted([waiting[1], waiting[2], stat])


def test_a_dead_senders_deliveries_are_due_at_once(record: Record) -> None:
    job_id = records.finished_job(record, records.result(1), records.result(2, "SC"))
    with record.write() as session:
        assert len(deliveries.claim(session, job_id, "pacs", DEAD, lease_s=3600)) == 2
    drain(record)
    assert free(record, ALIVE) == 0
    assert free(record, DEAD) == 2
    assert drain(record) == [f"{job_id}:pacs"]
    with record.write() as session:
        assert [one.attempt for one in deliveries.claim(session, job_id, "pacs", ALIVE, lease_s=60)] == [2, 2]


def test_a_dead_relays_messages_go_out_by_another(record: Record) -> None:
    records.queued_job(record)
    with record.write() as session:
        (held,) = outbox.claim(session, DEAD, limit=10, lease_s=3600)
    assert drain(record) == []
    assert free(record, DEAD) == 1
    assert drain(record) == [held.subject]


def test_what_was_due_before_the_clock_was_set_back_is_due_after_it(record: Record) -> None:
    job_id = records.queued_job(record)
    earlier = utcnow() - HOUR
    assert pull_back(record, earlier, HOUR) > 0
    with record.read() as session:
        job = session.scalars(select(Job).where(Job.id == job_id)).one()
    assert job.available_at <= earlier + timedelta(seconds=1)
    assert drain(record) == [job_id]


def test_a_wait_keeps_its_length_and_what_is_past_stays(record: Record) -> None:
    job_id = records.finished_job(record)
    now = utcnow()
    with record.write() as session:
        (due,) = deliveries.claim(session, job_id, "pacs", ALIVE, lease_s=60)
        deliveries.postpone(session, due, ALIVE, reason="away", at=now + HOUR + timedelta(seconds=30))
        circuits.note_failure(session, "pacs", threshold=1, open_s=3630)
        finished = listing.jobs(session)[0]["finished_at"]
    earlier = now - timedelta(minutes=30)
    pull_back(record, now, HOUR)
    with record.read() as session:
        (row,) = listing.deliveries(session)
        assert listing.jobs(session)[0]["finished_at"] == finished
        until = circuits.open_until(session, "pacs")
    assert until is not None
    assert timedelta(seconds=25) < until - now < timedelta(seconds=35)
    with record.write() as session:
        assert deliveries.sweep(session, now + timedelta(seconds=60), grace_s=0) == 1
        assert deliveries.sweep(session, earlier, grace_s=0) == 0
    assert row["state"] == "PENDING"


def test_a_silence_is_counted_by_the_clock_that_is_set(record: Record) -> None:
    now = utcnow()
    records.receive(record, records.image(1, received_at=now + HOUR))
    with record.read() as session:
        assert leftovers.latest_event(session) == now + HOUR
        assert studies.due_studies(session, now + timedelta(seconds=1)) == []
    pull_back(record, now, HOUR)
    with record.read() as session:
        (study,) = session.scalars(select(Study))
        assert studies.due_studies(session, now + timedelta(seconds=1)) == [study.id]
    assert study.last_received_at == now
    assert [image.received_at for image in records.load(record).instances] == [now]


def test_what_an_emptied_broker_has_lost_is_announced_again_but_not_what_is_at_work_or_waits(record: Record) -> None:
    queued, running = records.queued_job(record, "1.2.1", 1), records.queued_job(record, "1.2.2", 2)
    records.claim(record, running, ALIVE)
    finished = records.finished_job(record, destinations=("pacs", "ris"), number=3)
    with record.write() as session:
        (due,) = deliveries.claim(session, finished, "ris", ALIVE, lease_s=60)
        deliveries.postpone(session, due, ALIVE, reason="away", at=utcnow() + HOUR)
    drain(record)
    with record.write() as session:
        assert leftovers.announce_all(session) == 2
    assert drain(record) == [queued, f"{finished}:pacs"]


def test_an_empty_record_knows_of_no_event(record: Record) -> None:
    with record.read() as session:
        assert leftovers.latest_event(session) is None
        assert jobs.parked(session) == []
