"""One decoder process, as the worker that started it sees it."""

from __future__ import annotations

import fcntl
import mmap
import os
import signal
import socket
import subprocess
import sys
import time
from typing import Any, BinaryIO

import structlog

from db.errors import RetriableError
from node.confinement import environment
from workers.sandbox import wire
from workers.sandbox.terms import Terms
from workers.sandbox.wire import Message, WireError

log = structlog.get_logger(__name__)

_START_S = 60.0
_MOST_SERVED = 2000
"""Files one decoder reads: what a library leaks goes with it."""
# The decoder's own alarm comes first, so that the reason of its end is told by the kernel.
_GRACE_S = 2.0
_TIME_SIGNALS = frozenset({signal.SIGALRM, signal.SIGXCPU})


class DecoderUnavailable(RetriableError):
    """This machine cannot start a decoder now: no memory, no process, a broken installation."""


class DecoderDied(Exception):
    """It ended while it read a file; the message says how."""


class DecoderTooSlow(Exception):
    """It was ended because its time was up."""


class DecoderProcess:
    """Starts at once and answers when it can. Belongs to one thread at a time."""

    def __init__(self, terms: Terms) -> None:
        self._served = 0
        self._well = True
        self._terms = terms
        self._ready = False
        self._picture: mmap.mmap | None = None
        ours, theirs = socket.socketpair()
        argv = [sys.executable, "-P", "-m", "workers.sandbox.child", str(theirs.fileno())]
        try:
            self._process = subprocess.Popen(
                [*argv, str(terms.memory_bytes), str(terms.seconds)],
                env=environment(),
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                # Native code writes what it finds wrong in a file, which may be a patient's.
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        except OSError as error:
            ours.close()
            raise DecoderUnavailable(f"no decoder can be started here ({error.strerror}); see to its memory") from error
        finally:
            theirs.close()
        self._sock = ours

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    @property
    def usable(self) -> bool:
        """It lives, its last answer came whole, and it has not read so many files that another should take over."""
        return self.alive and self._well and self._served < _MOST_SERVED

    def ask(self, body: dict[str, Any], file: BinaryIO) -> Message:
        """Have it read an open file. The reply's descriptor is taken over: see `picture`.

        Raises DecoderDied, DecoderTooSlow, DecoderUnavailable where it never started. After these, or whatever else
        interrupts it, the process is not `usable` any more.
        """
        self._well = False
        self._wait_ready()
        self._served += 1
        seconds = self._terms.seconds
        began = time.monotonic()
        try:
            wire.send(self._sock, Message(body, fd=file.fileno()))
            reply = self._receive(began + seconds + _GRACE_S)
            if set(reply.body) == {"pixels"}:
                pixels = reply.body["pixels"]
                if not isinstance(pixels, int) or pixels < 1:
                    raise WireError("a size that is none")
                reply = self._receive(time.monotonic() + self._terms.seconds_for(pixels) + _GRACE_S)
            if reply.fd >= 0:
                self._take_picture(reply.fd)
        except TimeoutError as error:
            raise DecoderTooSlow from error
        except (OSError, WireError) as error:
            raise self._obituary() from error
        self._well = reply.body.get("last") is not True
        return reply

    def picture(self, size: int) -> mmap.mmap:
        """Memory that it shares, of at least that many bytes. Raises DecoderDied where it shares none."""
        if self._picture is None or len(self._picture) < size:
            raise DecoderDied("it shared no picture")
        return self._picture

    def forget_picture(self) -> None:
        """It has given its memory back; ours goes when the last array that shows it does."""
        self._picture = None

    def end(self) -> None:
        """Kill it; it holds nothing that matters."""
        self._sock.close()
        if self.alive:
            self._process.kill()
        self._process.wait()

    def _wait_ready(self) -> None:
        if self._ready:
            return
        try:
            said = wire.receive(self._sock, time.monotonic() + _START_S)
        except (TimeoutError, OSError, WireError) as error:
            raise DecoderUnavailable("a decoder did not start; see to the machine's memory and load") from error
        if said is None:
            code = self._process.wait()
            raise DecoderUnavailable(f"a decoder ended at its start (exit status {code}); reinstall the node")
        if said.body.get("no_sockets") is not True:
            log.warning("decoder_may_use_sockets", reason="this kernel filters no system calls")
        if said.body.get("no_files") is not True:
            log.warning("decoder_may_open_files", reason="this kernel has no Landlock, or not for this process")
        self._ready = True

    def _receive(self, deadline: float) -> Message:
        reply = wire.receive(self._sock, deadline)
        if reply is None:
            raise WireError("closed")
        return reply

    def _obituary(self) -> DecoderDied | DecoderTooSlow:
        """Why the socket was closed: it ended by a signal, its own alarm among them, or by its own fault."""
        try:
            status = self._process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            return DecoderDied("it did not answer as agreed")
        if -status in _TIME_SIGNALS:
            return DecoderTooSlow()
        if status < 0:
            return DecoderDied(f"it was ended by {signal.Signals(-status).name}")
        return DecoderDied(f"it ended with exit status {status}")

    def _take_picture(self, fd: int) -> None:
        """Map what it shares, once it can no longer be cut short, which would kill whoever looks at it."""
        try:
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
            self._picture = mmap.mmap(fd, os.fstat(fd).st_size, prot=mmap.PROT_READ)
        except ValueError as error:
            raise WireError("an empty picture") from error
        finally:
            os.close(fd)
