"""Whom this node turned away, on record; no more rows than a flood of attempts may cost the audit trail.

Whoever may connect may try a thousand times a minute. The first attempts of each address have a row each, those that
follow within the window share one that says how many there were: each attempt is told, few rows are needed.

An image that is refused has its row in the transaction of the refusal: whoever writes that asks first whether it may
have one (`take_row`), and counts it (`count`) where not.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

import structlog
from sqlalchemy.exc import SQLAlchemyError

from db import audit
from db.audit_events import Event
from db.errors import RetriableError
from db.session import Record

log = structlog.get_logger(__name__)

WINDOW_S = 60.0
ROWS_EACH = 5
"""Attempts of one address in one window that have a row of their own."""
MOST_ADDRESSES = 100
"""Told apart in one window; all others count as one, without an address."""
SEVERAL = "several"


@dataclass
class _Attempts:
    """In one window. untold: those that no row tells of yet; actor, reason: of the last of them."""

    rows: int = 0
    untold: int = 0
    actor: str = ""
    reason: str = ""

    def add(self, actor: str, reason: str) -> None:
        """One more without a row."""
        self.untold += 1
        self.actor = actor if self.actor in ("", actor) else SEVERAL
        self.reason = reason

    def merge(self, older: _Attempts) -> None:
        """Those of a window before, which no row tells of either."""
        self.untold += older.untold
        self.actor = self.actor if older.actor in ("", self.actor) else SEVERAL if self.actor else older.actor
        self.reason = self.reason or older.reason


_Key = tuple[Event, str]


class Alerts:
    """Belongs to one process; every method may be called from any thread."""

    def __init__(self, record: Record, window_s: float = WINDOW_S) -> None:
        self._record = record
        self._window_s = window_s
        self._lock = threading.Lock()
        self._seen: dict[_Key, _Attempts] = {}
        self._timer: threading.Timer | None = None
        self._closed = False

    def note(self, event: Event, actor: str, address: str, reason: str) -> None:
        """One attempt that was turned away. A record that is away changes nothing for the peer; the row comes later."""
        log.warning(event, calling_ae=actor, peer_address=address, reason=reason)
        if not self.take_row(event, address) or not self._written(event, actor, address, reason):
            self.count(event, actor, address, reason)

    def take_row(self, event: Event, address: str) -> bool:
        """Whether one more may have a row of its own; it counts as written. Takes no connection."""
        with self._lock:
            attempts = self._of(event, address)
            if attempts.rows >= ROWS_EACH and not self._closed:
                return False
            attempts.rows += 1
            self._begin_window()
            return True

    def count(self, event: Event, actor: str, address: str, reason: str) -> None:
        """One that has no row of its own: the window's last row tells of it."""
        with self._lock:
            self._of(event, address).add(actor, reason)
            self._begin_window()

    def close(self) -> None:
        """Tell what is untold; from now on each attempt has its row."""
        with self._lock:
            self._closed = True
            if self._timer is not None:
                self._timer.cancel()
        self._end_window()

    def _of(self, event: Event, address: str) -> _Attempts:
        """With the lock held, and not to be kept: once its window is over, its sum is about to be written."""
        key = (event, address)
        if key not in self._seen and len(self._seen) >= MOST_ADDRESSES:
            key = (event, "")
        return self._seen.setdefault(key, _Attempts())

    def _begin_window(self) -> None:
        """With the lock held."""
        if self._timer is None and not self._closed:
            self._timer = threading.Timer(self._window_s, self._end_window)
            self._timer.daemon = True
            self._timer.start()

    def _end_window(self) -> None:
        with self._lock:
            ended, self._seen, self._timer = self._seen, {}, None
        left = {key: one for key, one in ended.items() if one.untold and not self._summed(key, one)}
        if not left:
            return
        with self._lock:
            for key, one in left.items():
                newer = self._seen.setdefault(key, one)
                if newer is not one:
                    newer.merge(one)
            self._begin_window()

    def _summed(self, key: _Key, attempts: _Attempts) -> bool:
        event, address = key
        return self._written(event, attempts.actor, address, attempts.reason, attempts.untold)

    def _written(self, event: Event, actor: str, address: str, reason: str, count: int = 1) -> bool:
        try:
            with self._record.write() as session:
                audit.note(
                    session, event, actor=actor, outcome="failure", reason=reason, address=address, attempts=count
                )
        except (RetriableError, SQLAlchemyError) as error:
            log.error("alert_not_recorded", what=event, attempts=count, cause=type(error).__name__)
            return False
        return True
