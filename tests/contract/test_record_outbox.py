"""Messages to the broker: leased, never lost, and harmless when they come twice."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta

from sqlalchemy import select

from db import outbox
from db.session import Record
from db.tables import Outbox
from db.types import utcnow
from tests.support.records import race


def announce(record: Record, *subjects: str) -> None:
    with record.write() as session:
        for subject in subjects:
            outbox.announce(session, outbox.TOPIC_INFER, subject)


def claim(record: Record, owner: str = "relay", limit: int = 10, lease_s: float = 60.0) -> list[str]:
    with record.write() as session:
        return [message.subject for message in outbox.claim(session, owner, limit=limit, lease_s=lease_s)]


def waiting(record: Record) -> int:
    with record.read() as session:
        return outbox.waiting(session)


def due(record: Record) -> bool:
    with record.read() as session:
        return outbox.any_due(session)


def test_messages_go_out_oldest_first_and_are_gone_when_done(record: Record) -> None:
    assert claim(record) == []
    announce(record, "a", "b", "c")
    assert due(record)
    with record.write() as session:
        taken = outbox.claim(session, "relay", limit=2, lease_s=60)
    assert [(m.topic, m.subject) for m in taken] == [("infer", "a"), ("infer", "b")]
    with record.write() as session:
        outbox.done(session, [m.id for m in taken])
        outbox.done(session, [m.id for m in taken])
    assert waiting(record) == 1
    assert claim(record) == ["c"]


def test_a_leased_message_is_nobody_elses_until_the_lease_runs_out(record: Record) -> None:
    announce(record, "a")
    assert claim(record, "first", lease_s=60) == ["a"]
    assert claim(record, "second") == []
    assert not due(record)
    assert waiting(record) == 1
    announce(record, "b")
    assert claim(record, "dead", lease_s=-1) == ["b"]
    assert due(record)
    assert claim(record, "second") == ["b"]
    with record.read() as session:
        rows = {row.subject: (row.lease_owner, row.attempts) for row in session.scalars(select(Outbox))}
    assert rows == {"a": ("first", 1), "b": ("second", 2)}


def test_what_the_broker_did_not_take_is_due_at_once(record: Record) -> None:
    announce(record, "a", "b")
    with record.write() as session:
        ids = [message.id for message in outbox.claim(session, "relay", limit=10, lease_s=60)]
    with record.write() as session:
        outbox.give_back(session, ids, "somebody else")
    assert not due(record)
    with record.write() as session:
        outbox.give_back(session, ids, "relay")
    assert claim(record, "second") == ["a", "b"]


def test_a_delayed_message_waits_for_its_time(record: Record) -> None:
    with record.write() as session:
        outbox.announce(session, outbox.TOPIC_DELIVER, "later", at=utcnow() + timedelta(hours=1))
        outbox.announce(session, outbox.TOPIC_DELIVER, "past", at=utcnow() - timedelta(hours=1))
        outbox.announce(session, outbox.TOPIC_DELIVER, "now")
    assert claim(record) == ["past", "now"]
    assert waiting(record) == 3


def test_a_message_stands_or_falls_with_its_transaction(record: Record) -> None:
    def fail_half_way() -> None:
        with record.write() as session:
            outbox.announce(session, outbox.TOPIC_INFER, "a")
            raise ZeroDivisionError

    try:
        fail_half_way()
    except ZeroDivisionError:
        assert waiting(record) == 0


def test_relays_at_once_share_the_messages(record: Record, other_record: Callable[[], Record]) -> None:
    announce(record, *(f"{n:02d}" for n in range(40)))
    relays = [other_record() for _ in range(4)]

    def drain(number: int) -> list[str]:
        taken = []
        while batch := claim(relays[number], f"relay-{number}", limit=3):
            taken += batch
        return taken

    shares = race(4, drain)
    claimed = sorted(subject for share in shares for subject in share)
    assert len(claimed) == len(set(claimed))
    # PostgreSQL's relays skip what another one is just taking, and may find nothing else; it stays due.
    assert sorted(claimed + claim(record, limit=100)) == [f"{n:02d}" for n in range(40)]


def test_a_relay_does_not_wait_for_another_one(record: Record, other_record: Callable[[], Record]) -> None:
    if record.dialect == "sqlite":
        # One writer at a time: the second relay sees what the first has left.
        announce(record, "a", "b")
        assert claim(record, "first", limit=1) + claim(other_record(), "second", limit=1) == ["a", "b"]
        return
    announce(record, "a", "b")
    second = other_record()
    with record.write() as session:
        assert [m.subject for m in outbox.claim(session, "first", limit=1, lease_s=60)] == ["a"]
        done = threading.Event()
        taken: list[str] = []

        def take() -> None:
            taken.extend(claim(second, "second", limit=1))
            done.set()

        threading.Thread(target=take, daemon=True).start()
        assert done.wait(20), "the second relay waits for the first"
    assert taken == ["b"]
