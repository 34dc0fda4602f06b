"""Outbox rows become Celery messages. A message is a hint; losing or doubling it changes nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog

from db import outbox
from db.errors import BrokerUnavailable, RetriableError
from db.session import Record
from node.bell import Wait

log = structlog.get_logger(__name__)

# For what no bell rang: of another machine, or what waited for its time. A look takes 0.2 ms.
_POLL_S = 0.02
_LEASE_S = 30.0
_BATCH = 200
_PAUSE_FIRST_S, _PAUSE_MAX_S = 1.0, 5.0

# (topic, subject): puts the message on the broker, or raises BrokerUnavailable.
Publish = Callable[[str, str], None]


class Relay:
    """Moves due rows to the broker until told to stop."""

    def __init__(self, record: Record, publish: Publish, owner: str, wait: Wait = threading.Event.wait) -> None:
        self.record = record
        self.publish = publish
        self.owner = owner
        self.wait = wait

    def run(self, stop: threading.Event) -> None:
        """Until `stop` is set. The record or the broker being away is waited out, longer each time."""
        pause_s = _PAUSE_FIRST_S
        while not stop.is_set():
            try:
                moved = self.run_once()
                pause_s = _PAUSE_FIRST_S
            except RetriableError as error:
                log.warning("relay_postponed", reason=str(error), wait_s=pause_s)
                stop.wait(pause_s)
                pause_s = min(pause_s * 2, _PAUSE_MAX_S)
                continue
            if not moved:
                self.wait(stop, _POLL_S)

    def run_once(self) -> int:
        """Publish what is due; returns how many messages. Raises RecordUnavailable or BrokerUnavailable."""
        with self.record.read() as session:
            if not outbox.any_due(session):
                return 0
        with self.record.write() as session:
            messages = outbox.claim(session, self.owner, limit=_BATCH, lease_s=_LEASE_S)
        published: list[int] = []
        try:
            for message in messages:
                self.publish(message.topic, message.subject)
                published.append(message.id)
        except BrokerUnavailable:
            with self.record.write() as session:
                outbox.give_back(session, [m.id for m in messages if m.id not in published], self.owner)
            raise
        finally:
            if published:
                with self.record.write() as session:
                    outbox.done(session, published)
        return len(published)
