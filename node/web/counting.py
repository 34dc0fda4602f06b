"""How many rows are in each state, for a scrape every few seconds, whatever the size of the archive.

What is under way is counted anew each time, by index. What has ended is millions of rows, and no index counts them
faster than it lists them: it is counted again when that takes no more than a hundredth of the time since.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from weakref import WeakKeyDictionary

from sqlalchemy.orm import Session

from db import listing
from db.session import Record

Counts = dict[str, dict[str, int]]

_MOST_OF_TIME = 0.01


class SeldomCounts:
    """Counts of one record; safe for many threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """clock: in seconds."""
        self._clock = clock
        self._lock = threading.Lock()
        self._whole: Counts = {}
        self._again_at = -1.0

    def counts(self, session: Session) -> Counts:
        """As `listing.counts`; of what has ended, as it was at most a hundred times ago of what counting it takes."""
        with self._lock:
            began = self._clock()
            if began >= self._again_at:
                self._whole = listing.counts(session)
                ended = self._clock()
                self._again_at = ended + (ended - began) / _MOST_OF_TIME
                return self._whole
            whole = self._whole
        under_way = listing.open_counts(session)
        return {name: _renewed(name, states, under_way) for name, states in whole.items()}


def _renewed(name: str, states: dict[str, int], under_way: Counts) -> dict[str, int]:
    if name not in under_way:
        return states
    ended = {state: number for state, number in states.items() if state not in listing.OPEN_STATES[name]}
    return ended | under_way[name]


_OF_RECORD: WeakKeyDictionary[Record, SeldomCounts] = WeakKeyDictionary()


def of_record(record: Record) -> SeldomCounts:
    """The one of this process for that record."""
    return _OF_RECORD.setdefault(record, SeldomCounts())
