"""Telling a process of this machine that there is something to do now, which it would otherwise find at its next look.

A hint and no more: the record says what is due, one that nobody hears costs the wait for the next look, and so does
every one between machines. A named pipe needs no server, and nobody waits for who listens or has died.
"""

from __future__ import annotations

import math
import os
import select
import stat
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)

FOLDER = "bells"
SWEEPER, RELAY = "sweeper", "relay"
# (stop, seconds) -> whether stop is set: until then, or until a bell rings.
Wait = Callable[[threading.Event, float], bool]

# How soon a thread that waits for a bell sees that it is to stop.
_STOP_LOOK_S = 0.25


def ring(data_dir: Path, name: str) -> None:
    """Wake whoever waits for that bell, if anybody does. Takes some 20 microseconds, never waits and never fails."""
    # No reader, no pipe, one that is full: in each case there is nobody to wake, or nobody who has not been told.
    with suppress(OSError):
        fd = os.open(data_dir / FOLDER / name, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if stat.S_ISFIFO(os.fstat(fd).st_mode):
                os.write(fd, b"\0")
        finally:
            os.close(fd)


class Bell:
    """The end that waits. Several processes may wait for one bell; it wakes one of them at least.

    deaf_s: for how long after it was heard it is not heard again, in seconds. A hundred images a second are looked at
    together.
    """

    def __init__(self, data_dir: Path, name: str, deaf_s: float = 0.0) -> None:
        self._fd = _open_pipe(data_dir / FOLDER / name)
        self._deaf_s = deaf_s
        self._heard_at = -math.inf

    def wait(self, stop: threading.Event, timeout_s: float) -> bool:
        """Until it rings, until the timeout, or until soon after `stop` is set; returns whether it is set."""
        if self._fd < 0:
            return stop.wait(timeout_s)
        ends_at = time.monotonic() + timeout_s
        while not stop.is_set() and (left_s := ends_at - time.monotonic()) > 0:
            if select.select([self._fd], [], [], min(left_s, _STOP_LOOK_S))[0]:
                stop.wait(max(0.0, min(left_s, self._heard_at + self._deaf_s - time.monotonic())))
                with suppress(BlockingIOError):
                    os.read(self._fd, 1 << 16)
                self._heard_at = time.monotonic()
                break
        return stop.is_set()

    def close(self) -> None:
        """Let go of the pipe."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _open_pipe(path: Path) -> int:
    """Its descriptor, open for both so that it never ends; -1 where this file system has no such thing."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with suppress(FileExistsError):
            os.mkfifo(path, 0o600)
        fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        if stat.S_ISFIFO(os.fstat(fd).st_mode):
            return fd
        os.close(fd)
        reason = "something else has its name"
    except OSError as error:
        reason = error.strerror or type(error).__name__
    log.warning("bell_not_hung", bell=path.name, reason=reason)
    return -1
