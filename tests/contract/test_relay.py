"""Outbox to broker on both databases: nothing lost when the broker is away, nothing twice when two relays run."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from db import outbox
from db.errors import BrokerUnavailable
from db.session import Record
from tests.support import records
from workers.relay import Relay


def announce(record: Record, *subjects: str) -> None:
    with record.write() as session:
        for subject in subjects:
            outbox.announce(session, outbox.TOPIC_INFER, subject)


def waiting(record: Record) -> int:
    with record.read() as session:
        return outbox.waiting(session)


def test_messages_go_out_in_order_and_only_once(record: Record) -> None:
    published: list[tuple[str, str]] = []
    relay = Relay(record, lambda topic, subject: published.append((topic, subject)), "a:relay:1")
    announce(record, "one", "two", "three")
    assert relay.run_once() == 3
    assert relay.run_once() == 0
    assert published == [("infer", "one"), ("infer", "two"), ("infer", "three")]
    assert waiting(record) == 0


def test_a_broker_that_is_away_costs_no_message(record: Record) -> None:
    published: list[str] = []
    broken = threading.Event()
    broken.set()

    def publish(topic: str, subject: str) -> None:
        if broken.is_set() and len(published) == 1:
            raise BrokerUnavailable("away")
        published.append(subject)

    relay = Relay(record, publish, "a:relay:1")
    announce(record, "one", "two", "three")
    with pytest.raises(BrokerUnavailable):
        relay.run_once()
    assert waiting(record) == 2
    broken.clear()
    assert relay.run_once() == 2
    assert published == ["one", "two", "three"]


def test_two_relays_share_the_work(record: Record, other_record: Callable[[], Record]) -> None:
    published: list[str] = []
    lock = threading.Lock()

    def publish(topic: str, subject: str) -> None:
        with lock:
            published.append(subject)

    subjects = [f"job-{number}" for number in range(40)]
    announce(record, *subjects)
    relays = [Relay(record, publish, "a:relay:1"), Relay(other_record(), publish, "b:relay:1")]
    records.race(2, lambda number: relays[number].run_once())
    assert sorted(published) == sorted(subjects)
    assert waiting(record) == 0
