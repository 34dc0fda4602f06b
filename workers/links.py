"""Associations to destinations, kept open from one job to the next: opening one takes longer than sending a report.

A thread attends to those nobody uses: it answers reports on storage commitment, forgets what the peer has ended, and
releases what has been idle for long enough. Belongs to one process; made after a fork.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from node.commitment import CommitmentReport
from node.link import Link
from node.sending import open_link
from node.settings import Peer, Settings
from node.upper_layer.negotiation import Context

_LOOK_S = 0.25


class Links:
    """At most one idle association for each destination."""

    def __init__(self, settings: Settings, on_commitment: Callable[[CommitmentReport], bool]) -> None:
        self._settings = settings
        self._on_commitment = on_commitment
        self._changed = threading.Condition()
        # By destination, with when to release it, on the monotonic clock.
        self._idle: dict[str, tuple[Link, float]] = {}
        # Whose association the thread is at just now: its peer has said something, or it is over.
        self._attended = ""
        self._closed = False
        self._thread: threading.Thread | None = None

    @contextmanager
    def use(self, destination: str, peer: Peer, wanted: Sequence[Context]) -> Iterator[Link]:
        """An association on which at least these contexts were offered; kept afterwards, ended where the block fails.

        One that was kept has been looked at a moment ago: `Link.answered` tells it from a new one. Raises what
        `open_link` raises.
        """
        link = self._take(destination)
        if link is not None and not link.offered.issuperset(wanted):
            link.release()
            wanted = [*wanted, *sorted(link.offered.difference(wanted), key=str)]
            link = None
        if link is None:
            link = open_link(peer, self._settings, wanted, self._on_commitment)
        try:
            yield link
        except BaseException:
            link.abort()
            raise
        self._keep(destination, link)

    def close(self) -> None:
        """Release all of them. What is in use is released when its user is done."""
        with self._changed:
            self._closed = True
            idle = [link for link, _ in self._idle.values()]
            self._idle.clear()
            self._changed.notify_all()
        for link in idle:
            link.release()
        if self._thread is not None:
            self._thread.join()

    def _take(self, destination: str) -> Link | None:
        with self._changed:
            # For a few seconds at most; a second association is what some peers do not take.
            self._changed.wait_for(lambda: self._attended != destination)
            link, _ = self._idle.pop(destination, (None, 0.0))
        return link if link is not None and link.attend() else None

    def _keep(self, destination: str, link: Link) -> None:
        delivery = self._settings.delivery
        idle_s = max(delivery.association_idle_s, delivery.commitment_grace_s if link.reports_due else 0.0)
        self._put(destination, link, time.monotonic() + idle_s)

    def _put(self, destination: str, link: Link, until: float) -> None:
        with self._changed:
            left = link.usable and time.monotonic() < until
            keep = left and not self._closed and destination not in self._idle
            if keep:
                self._idle[destination] = (link, until)
                self._start()
            self._changed.notify_all()
        if not keep:
            link.release()

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._attend, name="links", daemon=True)
            self._thread.start()

    def _attend(self) -> None:
        while True:
            with self._changed:
                while not self._closed and (name := self._due()) is None:
                    self._changed.wait(_LOOK_S if self._idle else None)
                if self._closed or name is None:
                    return
                link, until = self._idle.pop(name)
                self._attended = name
            # Without the lock: one that has much to say, or says it slowly, holds up no other destination.
            try:
                if link.attend() and time.monotonic() >= until:
                    link.release()
            except BaseException:
                link.abort()
                raise
            finally:
                self._put(name, link, until)
                with self._changed:
                    self._attended = ""
                    self._changed.notify_all()

    def _due(self) -> str | None:
        """With the lock held: whose association is to be attended to, if any is."""
        now = time.monotonic()
        return next((name for name, (link, until) in self._idle.items() if now >= until or link.readable()), None)
