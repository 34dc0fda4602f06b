"""Child processes: start, restart with back-off, stop within a bound. Knows nothing of what they do."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import structlog

log = structlog.get_logger(__name__)

_PR_SET_PDEATHSIG = 1
RESTART_FIRST_S = 0.5
RESTART_MAX_S = 30.0
# A child that ran this long was healthy: the next crash counts as the first.
HEALTHY_AFTER_S = 60.0
HELD_BACK_AT_MOST_S = 10.0


def end_with_parent(number: signal.Signals) -> None:
    """Whatever ends the parent of this process, SIGKILL included, sends it that signal (Linux)."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)


def _before_exec() -> None:
    end_with_parent(signal.SIGTERM)
    # Ctrl-C reaches the whole terminal group; children are stopped in order by the supervisor instead.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@dataclass
class Child:
    """One supervised process.

    after: the child that is to be ready before this one is begun with, for `HELD_BACK_AT_MOST_S` at the most.
    ready_fd: with `reports_ready`, the child inherits the write end of a pipe as RADNODE_READY_FD and writes to it when
    it can work.
    """

    name: str
    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    reports_ready: bool = False
    after: Child | None = None
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    restart_at: float = 0.0
    failures: int = 0
    ready: bool = False
    _ready_fd: int = -1

    def start(self) -> None:
        environment = {**os.environ, **self.env}
        inherited: tuple[int, ...] = ()
        if self.reports_ready:
            self._close_ready()
            self._ready_fd, write_end = os.pipe()
            os.set_blocking(self._ready_fd, False)
            environment["RADNODE_READY_FD"] = str(write_end)
            inherited = (write_end,)
        self.process = subprocess.Popen(
            list(self.argv),
            env=environment,
            pass_fds=inherited,
            preexec_fn=_before_exec,  # noqa: PLW1509 - the supervisor starts children from its only thread
            stdin=subprocess.DEVNULL,
        )
        for fd in inherited:
            os.close(fd)
        self.started_at = time.monotonic()
        self.ready = not self.reports_ready
        log.debug("child_started", child=self.name, pid=self.process.pid)

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def poll_ready(self) -> bool:
        """Has the child said that it can work?"""
        if not self.ready and self._ready_fd >= 0:
            try:
                self.ready = os.read(self._ready_fd, 1) != b""
            except BlockingIOError:
                return False
        return self.ready

    def note_exit(self) -> None:
        """The child has ended by itself: plan its restart."""
        if self.process is None:
            return
        if time.monotonic() - self.started_at > HEALTHY_AFTER_S:
            self.failures = 0
        wait_s = min(RESTART_FIRST_S * 2**self.failures, RESTART_MAX_S)
        self.failures += 1
        self.restart_at = time.monotonic() + wait_s
        log.error("child_ended", child=self.name, exit_code=self.process.returncode, restart_in_s=wait_s)
        self.process = None

    def stop(self, grace_s: float) -> None:
        """SIGTERM, then SIGKILL after `grace_s` seconds."""
        if self.process is not None and self.running:
            self.process.terminate()
            try:
                self.process.wait(grace_s)
            except subprocess.TimeoutExpired:
                log.warning("child_killed", child=self.name, grace_s=grace_s)
                self.process.kill()
                self.process.wait()
        self.process = None
        self._close_ready()

    def _close_ready(self) -> None:
        if self._ready_fd >= 0:
            os.close(self._ready_fd)
            self._ready_fd = -1


def stop_all(children: Sequence[tuple[Child, float]]) -> None:
    """Stop children side by side; each with its grace in seconds."""
    with ThreadPoolExecutor(max(1, len(children))) as stoppers:
        for done in [stoppers.submit(child.stop, grace_s) for child, grace_s in children]:
            done.result()


def supervise(children: Sequence[Child], stopping: Callable[[], bool], on_ready: Callable[[], None]) -> None:
    """Keep the children running until `stopping()`; calls `on_ready` once, when all have said they can work."""
    announced = False
    begun_at = time.monotonic()

    def held_back(child: Child) -> bool:
        waits = child.after is not None and not child.after.ready
        return waits and time.monotonic() - begun_at < HELD_BACK_AT_MOST_S

    while not stopping():
        for child in children:
            if child.running:
                child.poll_ready()
            elif child.process is not None:
                child.note_exit()
            elif time.monotonic() >= child.restart_at and not held_back(child):
                child.start()
        if not announced and all(child.ready for child in children):
            announced = True
            on_ready()
        time.sleep(0.02 if not announced else 0.2)


def report_ready() -> None:
    """Called by a child that can work now; does nothing when nobody listens."""
    fd = os.environ.pop("RADNODE_READY_FD", "")
    if fd:
        with os.fdopen(int(fd), "wb", buffering=0) as pipe:
            pipe.write(b"1")
