"""Two loops of the keeper: one gives rows their places in the chain, the other sends them to the collector.

Neither holds up the other, nor anything else: a collector that is away leaves rows where they are, in the record.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable

import structlog

from db import audit_chain
from db.audit_chain import Head
from db.errors import ConfigError, RetriableError
from db.session import Record
from node.audit import anchors, collector, syslog
from node.audit.message import Origin
from node.identity import owner
from node.settings import Settings
from node.version import VERSION

log = structlog.get_logger(__name__)

_FIRST_WAIT_S = 1.0
_IDLE_S = 1.0


def origin(settings: Settings) -> Origin:
    """How this node names itself in messages."""
    source = settings.audit.source_id or settings.ae_title
    return Origin(source_id=source, ae_title=settings.ae_title, host=socket.gethostname(), site=settings.audit.site)


def loops(settings: Settings, record: Record) -> dict[str, Callable[[threading.Event], None]]:
    """What the keeper runs, by name."""
    found: dict[str, Callable[[threading.Event], None]] = {"audit-seal": Sealer(settings, record).run}
    if settings.audit.collector:
        found["audit-send"] = Sender(settings, record).run
    return found


class Sealer:
    """Seals what waits, and anchors the end of the chain."""

    def __init__(self, settings: Settings, record: Record) -> None:
        self.settings = settings
        self.record = record
        self._anchored = Head(0, "")
        self._next_anchor = 0.0

    def run(self, stop: threading.Event) -> None:
        while not stop.wait(self.settings.audit.seal_interval_s):
            self._try()
        # What others wrote when they stopped.
        self._try()

    def _try(self) -> None:
        try:
            self.once()
        except RetriableError as error:
            log.warning("audit_seal_postponed", reason=str(error))

    def once(self) -> Head:
        """Seal all there is; returns the end of the chain. Raises RecordUnavailable, StorageFull."""
        with self.record.read() as session:
            more, end = audit_chain.any_waiting(session), audit_chain.head(session)
        while more:
            with self.record.write() as session:
                count, end = audit_chain.seal(session)
            more = count > 0
        if end != self._anchored and end.position and time.monotonic() >= self._next_anchor:
            anchors.add(anchors.anchor_file(self.settings), end)
            log.info("audit_anchored", position=end.position, digest=end.digest)
            self._anchored, self._next_anchor = end, time.monotonic() + self.settings.audit.anchor_interval_s
        return end


class Sender:
    """Sends the chain in its order to the one collector of the settings."""

    def __init__(self, settings: Settings, record: Record) -> None:
        self.settings = settings
        self.record = record
        self.owner = owner(settings, "audit")
        self._origin = origin(settings)

    def run(self, stop: threading.Event) -> None:
        wait_s, away = 0.0, False
        while not stop.wait(wait_s):
            try:
                sent = self.once()
            except (RetriableError, ConfigError) as error:
                wait_s = min(max(_FIRST_WAIT_S, 2 * wait_s), self.settings.audit.backoff_max_s)
                away = True
                log.warning("audit_not_sent", reason=str(error), wait_s=wait_s)
                continue
            if away and sent:
                away = False
                log.info("audit_sent_again", collector=self.settings.audit.collector)
            wait_s = 0.0 if sent else _IDLE_S
        self._leave()

    def once(self) -> int:
        """Send the next batch; returns how many messages. Raises CollectorAway, RecordUnavailable, ConfigError."""
        trail = self.settings.audit
        with self.record.read() as session:
            if audit_chain.head(session).position <= audit_chain.cursor(session, trail.collector):
                return 0
        with self.record.write() as session:
            # Longer than all the waiting that one batch may need.
            at = audit_chain.take_cursor(session, trail.collector, self.owner, lease_s=6 * trail.send_timeout_s)
            batch = [] if at is None else audit_chain.sealed(session, after=at, limit=trail.batch)
        if not batch:
            return 0
        collector.send(
            trail,
            [syslog.frame(one, self._origin, version=VERSION, process_id=os.getpid()) for one in batch],
        )
        with self.record.write() as session:
            audit_chain.advance_cursor(session, trail.collector, self.owner, batch[-1].position or 0)
        return len(batch)

    def _leave(self) -> None:
        try:
            with self.record.write() as session:
                audit_chain.leave_cursor(session, self.settings.audit.collector, self.owner)
        except RetriableError as error:
            log.warning("audit_cursor_not_left", reason=str(error))
