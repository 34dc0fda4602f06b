"""Who gets a thread: accepts connections, shakes hands where TLS is on, and bounds their number."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from contextlib import suppress
from dataclasses import dataclass

import structlog

from node.settings import Limits
from node.tls import ServerTls
from node.upper_layer.association import Association, Caller, Services
from node.upper_layer.wire import Wire

log = structlog.get_logger(__name__)

# Connections that have not asked for an association yet are cheap, but not free.
_CONNECTIONS_PER_ASSOCIATION = 6
_BACKLOG = 128
# What is being made durable when the server stops gets so long to be answered.
_STOP_GRACE_S = 5.0
# Where the system has no more descriptors, one may be free a moment later.
_AFTER_FAILURE_S = 0.05


@dataclass(eq=False)
class _Connection:
    socket: socket.socket
    address: str
    thread: threading.Thread | None = None
    admitted: bool = False


class Server:
    """Listens from its making; serves in threads of its own from `start` to `stop`.

    Raises OSError where the address cannot be bound.
    """

    def __init__(self, host: str, port: int, limits: Limits, services: Services, tls: ServerTls | None = None) -> None:
        self._limits = limits
        self._services = services
        self._tls = tls
        self._lock = threading.Lock()
        # Oldest first.
        self._connections: dict[_Connection, None] = {}
        self._stopping = threading.Event()
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listening = socket.create_server((host, port), family=family, backlog=_BACKLOG)
        self._acceptor = threading.Thread(target=self._accept, name="acceptor", daemon=True)

    def start(self) -> None:
        """Take connections."""
        self._acceptor.start()

    def stop(self) -> None:
        """Take no more connections and read no more from those there are; what is complete is still answered."""
        self._stopping.set()
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._acceptor.join()
        self._listening.close()
        with self._lock:
            open_now = list(self._connections)
            for connection in open_now:
                _shut(connection.socket, socket.SHUT_RD)
        deadline = time.monotonic() + _STOP_GRACE_S
        for connection in open_now:
            if connection.thread is not None:
                connection.thread.join(max(0.0, deadline - time.monotonic()))

    def _accept(self) -> None:
        while not self._stopping.is_set():
            try:
                accepted, address = self._listening.accept()
            except OSError as error:
                if not self._stopping.wait(_AFTER_FAILURE_S):
                    log.error("connection_not_accepted", cause=type(error).__name__, reason=error.strerror)
                continue
            connection = _Connection(accepted, str(address[0]))
            if not self._enter(connection):
                log.warning("connection_refused", peer_address=connection.address, reason="too many connections")
                accepted.close()
                continue
            connection.thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            try:
                connection.thread.start()
            except RuntimeError as error:
                # No more threads can be started.
                log.error("connection_refused", peer_address=connection.address, reason=str(error))
                self._leave(connection)

    def _enter(self, connection: _Connection) -> bool:
        most = self._limits.max_associations * _CONNECTIONS_PER_ASSOCIATION
        with self._lock:
            if len(self._connections) >= most:
                # A peer shakes hands and asks in milliseconds: whoever has been at it for the longest is not coming.
                silent = next((other for other in self._connections if not other.admitted), None)
                if silent is None:
                    return False
                log.warning("connection_given_up", peer_address=silent.address, reason="too many connections")
                del self._connections[silent]
                _shut(silent.socket, socket.SHUT_RDWR)
            self._connections[connection] = None
        return True

    def _serve(self, connection: _Connection) -> None:
        try:
            # Nagle's algorithm and delayed acknowledgements together add 40 ms to each answer.
            connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            tls = self._tls.context() if self._tls is not None else None
            if tls is not None:
                self._greet(connection, tls)
            limits = self._limits
            wire = Wire(connection.socket, limits.max_pdu_bytes, limits.dimse_timeout_s, limits.network_timeout_s)
            Association(wire, connection.address, limits, self._services, lambda: self._admit(connection)).run()
        except OSError as error:
            log.warning("connection_failed", peer_address=connection.address, cause=type(error).__name__)
        finally:
            self._leave(connection)

    def _greet(self, connection: _Connection, tls: ssl.SSLContext) -> None:
        """Shake hands. Raises OSError where that fails or takes too long."""
        plain = connection.socket
        # The time-out holds for the handshake as a whole.
        plain.settimeout(self._limits.acse_timeout_s)
        greeted = tls.wrap_socket(plain, server_side=True, do_handshake_on_connect=False)
        with self._lock:
            # From here on the plain one is an empty shell.
            connection.socket = greeted
            given_up = connection not in self._connections
        if given_up:
            raise ConnectionAbortedError("given up for a newer connection")
        try:
            greeted.do_handshake()
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
            # Whoever only tries the port says nothing and goes.
            raise
        except ssl.SSLError as error:
            said = getattr(error, "verify_message", "") or error.reason or "it speaks no TLS"
            self._services.turned_away("handshake_failed", Caller("", connection.address), f"TLS handshake: {said}")
            raise

    def _admit(self, connection: _Connection) -> bool:
        with self._lock:
            if sum(other.admitted for other in self._connections) >= self._limits.max_associations:
                return False
            connection.admitted = True
            return connection in self._connections

    def _leave(self, connection: _Connection) -> None:
        with self._lock:
            self._connections.pop(connection, None)
        connection.socket.close()


def _shut(connection: socket.socket, how: int) -> None:
    with suppress(OSError):
        socket.socket.shutdown(connection, how)
