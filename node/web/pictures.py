"""Pictures of stored files. They are decoded elsewhere, two at a time at most, and a few are kept for the next look."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections import OrderedDict
from pathlib import Path

import structlog

from node.confinement import environment
from node.web.picture_process import EXIT_UNREADABLE, NO_FILES, NO_SOCKETS
from node.web.problems import Problem

log = structlog.get_logger(__name__)

_AT_ONCE = 2
# Requests that may wait for their turn; each of them keeps a thread that other pages need.
_MOST_WAITING = 8
_TIMEOUT_S = 40.0
_KEPT_BYTES = 64 * 1024**2
# What a process that makes pictures tells -> what the log says where it does not.
_UNHELD = {
    NO_SOCKETS: ("picture_maker_may_use_sockets", "this kernel filters no system calls"),
    NO_FILES: ("picture_maker_may_open_files", "this kernel has no Landlock, or not for this process"),
}


class Pictures:
    """Makes pictures in processes of their own."""

    def __init__(self) -> None:
        self._turn = threading.BoundedSemaphore(_AT_ONCE)
        self._room = threading.BoundedSemaphore(_AT_ONCE + _MOST_WAITING)
        self._kept: OrderedDict[tuple[str, ...], bytes] = OrderedDict()
        self._kept_bytes = 0
        self._unheld: set[str] = set()
        self._lock = threading.Lock()

    def make(self, writer: str, path: Path, *numbers: float | None) -> bytes:
        """PNG by the named writer. Raises Problem where there is no picture, and says why."""
        told = tuple("-" if number is None else f"{number:.6g}" for number in numbers)
        key = (writer, str(path), *told)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        png = self._run(writer, path, told)
        self._keep(key, png)
        return png

    def _run(self, writer: str, path: Path, told: tuple[str, ...]) -> bytes:
        if not self._room.acquire(blocking=False):
            raise Problem(503, "too many pictures are being made; try again", {"Retry-After": "5"})
        try:
            # It gets the open file: it may open none itself.
            with self._turn, path.open("rb") as file:
                done = subprocess.run(
                    [sys.executable, "-P", "-m", "node.web.picture_process", writer, *told],
                    stdin=file,
                    capture_output=True,
                    timeout=_TIMEOUT_S,
                    check=False,
                    env=environment(),
                )
        except subprocess.TimeoutExpired as error:
            raise Problem(422, "the image takes too long to decode") from error
        except OSError as error:
            log.error("picture_not_started", writer=writer, cause=type(error).__name__, reason=error.strerror)
            raise Problem(503, "the stored file cannot be opened, or no process be started for it") from error
        finally:
            self._room.release()
        told_back = done.stderr.decode("utf-8", "replace").rstrip("\n").split("\n")
        if done.returncode in (0, EXIT_UNREADABLE):
            self._note_unheld(told_back)
        if done.returncode == EXIT_UNREADABLE:
            raise Problem(422, told_back[-1])
        if done.returncode != 0:
            log.warning("picture_failed", exit_code=done.returncode, writer=writer)
            raise Problem(422, "the image cannot be decoded within the limits of time and memory")
        return done.stdout

    def _note_unheld(self, lines: list[str]) -> None:
        """Once for each: every picture of this machine is made under the same kernel."""
        for held, (event, reason) in _UNHELD.items():
            with self._lock:
                new = held not in lines and event not in self._unheld
                if new:
                    self._unheld.add(event)
            if new:
                log.warning(event, reason=reason)

    def _keep(self, key: tuple[str, ...], png: bytes) -> None:
        with self._lock:
            if key not in self._kept:
                self._kept[key] = png
                self._kept_bytes += len(png)
            while self._kept_bytes > _KEPT_BYTES:
                _, dropped = self._kept.popitem(last=False)
                self._kept_bytes -= len(dropped)
