"""A destination that fails is tried by one sender at a time; when it works again nobody waits. On both databases."""

from __future__ import annotations

from datetime import timedelta

from db import circuits, deliveries, outbox
from db.session import Record
from db.types import utcnow
from tests.support import records

MINE, OTHER = "host:deliver:1", "host:deliver:2"


def postponed(record: Record, number: int, destination: str = "pacs") -> str:
    """A job whose result waits an hour for its next try."""
    job_id = records.finished_job(record, destinations=(destination,), number=number)
    with record.write() as session:
        (due,) = deliveries.claim(session, job_id, destination, MINE, lease_s=60)
        deliveries.postpone(session, due, MINE, reason="away", at=utcnow() + timedelta(hours=1))
    return job_id


def fail(record: Record, times: int) -> None:
    for _ in range(times):
        with record.write() as session:
            circuits.note_failure(session, "pacs", threshold=3, open_s=60)


def works(record: Record) -> int:
    with record.write() as session:
        return circuits.note_success(session, "pacs")


def announced(record: Record) -> list[str]:
    with record.write() as session:
        messages = outbox.claim(session, "relay", limit=100, lease_s=60)
        outbox.done(session, [one.id for one in messages])
    return [one.subject for one in messages if one.topic == outbox.TOPIC_DELIVER]


def test_when_it_works_again_all_that_waits_for_it_is_due(record: Record) -> None:
    first, second = postponed(record, 1), postponed(record, 2)
    postponed(record, 3, "ris")
    fail(record, 3)
    announced(record)
    assert works(record) == 2
    assert set(announced(record)) == {f"{first}:pacs", f"{second}:pacs"}
    with record.write() as session:
        assert len(deliveries.claim(session, first, "pacs", OTHER, lease_s=60)) == 1
    assert works(record) == 0


def test_one_failure_in_between_hurries_nobody(record: Record) -> None:
    postponed(record, 1)
    fail(record, 2)
    assert works(record) == 0


def test_while_it_fails_one_sender_at_a_time_is_at_it(record: Record) -> None:
    job_id = records.finished_job(record)
    with record.write() as session:
        assert len(deliveries.claim(session, job_id, "pacs", MINE, lease_s=60)) == 1
        assert not circuits.tried_by_another(session, "pacs", OTHER), "it has not failed"
    fail(record, 1)
    with record.read() as session:
        assert circuits.tried_by_another(session, "pacs", OTHER)
        assert not circuits.tried_by_another(session, "pacs", MINE)
        assert not circuits.tried_by_another(session, "ris", OTHER)
