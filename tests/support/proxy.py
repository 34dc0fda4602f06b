"""A TCP proxy on loopback that does to connections what networks and tired peers do."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from tests.support.processes import free_port

_CHUNK = 65536
# Closing with this option set sends RST: the other side sees a broken connection, not an end.
_RESET = struct.pack("ii", 1, 0)


@dataclass(frozen=True)
class Fault:
    """What happens to connections. The default is nothing.

    refuse: nobody listens. black_hole: connections are taken and nothing is ever answered. delay_s: before every piece
    in either direction. cut_after_bytes: broken, both ways, once the caller has sent so many. drip_bytes_s: the
    answers come one byte at a time, so many a second.
    """

    refuse: bool = False
    black_hole: bool = False
    delay_s: float = 0.0
    cut_after_bytes: int | None = None
    drip_bytes_s: float = 0.0


PASS = Fault()


@dataclass
class Proxy:
    """Stands before `target`, a port on loopback. What `fault` says goes for pieces and connections to come."""

    target: int
    port: int = field(default_factory=free_port)
    fault: Fault = PASS
    connections: int = 0
    cuts: int = 0

    def __post_init__(self) -> None:
        self._server: socket.socket | None = None
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []

    def set(self, fault: Fault) -> None:
        """From now on. Connections that are open stay, unless nobody is to be reached any more."""
        self.fault = fault
        if fault.refuse:
            self._stop_listening()
            self.break_all()
        elif self._server is None:
            self._listen()

    def break_all(self) -> None:
        """Break every connection there is."""
        with self._lock:
            for one in self._open:
                _reset(one)

    def close(self) -> None:
        self._ended.set()
        self._stop_listening()
        self.break_all()
        for thread in self._threads:
            thread.join(10)

    def _listen(self) -> None:
        self._server = socket.create_server(("127.0.0.1", self.port), backlog=64)
        self._start(self._accept, self._server)

    def _stop_listening(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            # Wakes the thread that accepts, which a mere close would not.
            with suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)
            server.close()

    def _start(self, work: object, *args: object) -> None:
        thread = threading.Thread(target=work, args=args, daemon=True)  # type: ignore[arg-type]
        self._threads = [one for one in self._threads if one.is_alive()]
        self._threads.append(thread)
        thread.start()

    def _accept(self, server: socket.socket) -> None:
        while True:
            try:
                caller, _ = server.accept()
            except OSError:
                return
            self.connections += 1
            self._start(self._serve, caller)

    def _serve(self, caller: socket.socket) -> None:
        with caller:
            self._keep(caller)
            try:
                if self.fault.black_hole:
                    self._swallow(caller)
                    return
                with socket.create_connection(("127.0.0.1", self.target), timeout=10) as peer:
                    peer.settimeout(None)
                    for one in (caller, peer):
                        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    self._keep(peer)
                    answers = threading.Thread(target=self._answer, args=(peer, caller), daemon=True)
                    answers.start()
                    self._ask(caller, peer)
                    answers.join()
                    self._drop(peer)
            except OSError:
                _reset(caller)
            finally:
                self._drop(caller)

    def _keep(self, one: socket.socket) -> None:
        with self._lock:
            self._open.add(one)

    def _drop(self, one: socket.socket) -> None:
        with self._lock:
            self._open.discard(one)

    def _swallow(self, caller: socket.socket) -> None:
        while caller.recv(_CHUNK):
            pass

    def _ask(self, caller: socket.socket, peer: socket.socket) -> None:
        passed = 0
        with suppress(OSError):
            while piece := caller.recv(_CHUNK):
                self._wait(self.fault.delay_s)
                limit = self.fault.cut_after_bytes
                if limit is not None and passed + len(piece) > limit:
                    peer.sendall(piece[: max(0, limit - passed)])
                    self.cuts += 1
                    _reset(peer)
                    _reset(caller)
                    return
                peer.sendall(piece)
                passed += len(piece)
        with suppress(OSError):
            peer.shutdown(socket.SHUT_WR)

    def _answer(self, peer: socket.socket, caller: socket.socket) -> None:
        with suppress(OSError):
            while piece := peer.recv(_CHUNK):
                self._wait(self.fault.delay_s)
                if self.fault.drip_bytes_s:
                    self._drip(piece, caller)
                else:
                    caller.sendall(piece)
        with suppress(OSError):
            caller.shutdown(socket.SHUT_WR)

    def _drip(self, piece: bytes, caller: socket.socket) -> None:
        for number in range(len(piece)):
            rate = self.fault.drip_bytes_s
            if rate:
                self._wait(1.0 / rate)
            caller.sendall(piece[number : number + 1])

    def _wait(self, seconds: float) -> None:
        if seconds > 0:
            self._ended.wait(seconds)


def _reset(one: socket.socket) -> None:
    with suppress(OSError):
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    # Both threads that wait on it are woken; the last of them closes it.
    with suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)


@contextmanager
def proxy(target: int, *, port: int | None = None, fault: Fault = PASS) -> Iterator[Proxy]:
    """Run one until the block ends."""
    one = Proxy(target, port or free_port())
    one.set(fault)
    try:
        yield one
    finally:
        one.close()
