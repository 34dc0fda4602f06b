"""A lock that is given in the order in which it was asked for."""

from __future__ import annotations

import threading
from collections import deque


class Turn:
    """`with turn:` as with a lock. Where one thread takes it again and again, nobody else is kept waiting for that.

    Who asks for a plain lock may find it taken again by the one that has just let go of it, for seconds: one pass of a
    network follows the other, three hundred times for a series, while an urgent radiograph needs one.
    """

    def __init__(self) -> None:
        self._change = threading.Lock()
        self._taken = False
        self._waiting: deque[threading.Lock] = deque()

    @property
    def waiting(self) -> int:
        """How many threads have asked and wait."""
        return len(self._waiting)

    def __enter__(self) -> None:
        with self._change:
            if not self._taken:
                self._taken = True
                return
            mine = threading.Lock()
            mine.acquire()
            self._waiting.append(mine)
        mine.acquire()

    def __exit__(self, *_: object) -> None:
        with self._change:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._taken = False
