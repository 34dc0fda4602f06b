"""The MLLP listener: who may connect, how many at once, and for how long; one thread for each connection."""

from __future__ import annotations

import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import structlog

from db.errors import ConfigError
from db.session import Record
from node import logs
from node.access import plain_address
from node.audit.alerts import Alerts
from node.settings import Settings
from node.tls import ServerTls
from node.worklist.hl7.mllp import Blocks, MllpError, block
from node.worklist.hl7.reception import Reception

log = structlog.get_logger(__name__)

_BACKLOG = 64
_STOP_GRACE_S = 5.0
# Where the system has no more descriptors, one may be free a moment later.
_AFTER_FAILURE_S = 0.05

# (message, address of the peer) -> acknowledgement
Answer = Callable[[bytes, str], bytes]


def run_server(settings: Settings, record: Record, stop: threading.Event, ready: Callable[[], None]) -> None:
    """Take messages until `stop` is set; `ready` is called once connections are taken.

    Raises ConfigError where the address cannot be bound or TLS files are wrong.
    """
    threading.excepthook = logs.tell_thread_failed
    alerts = Alerts(record)
    server = Server(settings, Reception(settings, record, alerts).answer, alerts)
    server.start()
    log.info("hl7_listening", host=settings.hl7.listener.host, port=settings.hl7.listener.port)
    ready()
    stop.wait()
    server.stop()
    alerts.close()


class Server:
    """Listens from its making; serves from `start` to `stop`. Raises ConfigError where it cannot."""

    def __init__(self, settings: Settings, answer: Answer, alerts: Alerts) -> None:
        self._listener = settings.hl7.listener
        self._alerts = alerts
        self._answer = answer
        self._tls = ServerTls(settings.tls) if self._listener.tls else None
        self._networks = [ipaddress.ip_network(one, strict=False) for one in self._listener.addresses]
        self._lock = threading.Lock()
        self._open: dict[socket.socket, threading.Thread] = {}
        self._stopping = threading.Event()
        host, port = self._listener.host, self._listener.port
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            self._listening = socket.create_server((host, port), family=family, backlog=_BACKLOG)
        except OSError as error:
            raise ConfigError(
                f"hl7.listener cannot listen on {host}:{port} ({error.strerror}); choose another host or port"
            ) from error
        self._acceptor = threading.Thread(target=self._accept, name="hl7-acceptor", daemon=True)

    def start(self) -> None:
        """Take connections."""
        self._acceptor.start()

    def stop(self) -> None:
        """Take no more, and read no more from those there are; what is complete is still answered."""
        self._stopping.set()
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._acceptor.join()
        self._listening.close()
        with self._lock:
            open_now = list(self._open.items())
        for connection, _ in open_now:
            with suppress(OSError):
                socket.socket.shutdown(connection, socket.SHUT_RD)
        deadline = time.monotonic() + _STOP_GRACE_S
        for _, thread in open_now:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _accept(self) -> None:
        while not self._stopping.is_set():
            try:
                connection, (address, *_) = self._listening.accept()
            except OSError as error:
                if not self._stopping.wait(_AFTER_FAILURE_S):
                    log.error("hl7_connection_not_accepted", cause=type(error).__name__, reason=error.strerror)
                continue
            if self._may_enter(str(address)):
                self._begin(connection, str(address))
            else:
                connection.close()

    def _may_enter(self, address: str) -> bool:
        caller = plain_address(address)
        if caller is None or not any(caller in network for network in self._networks):
            self._alerts.note("message_refused", address, address, "hl7.listener.addresses does not name it")
            return False
        with self._lock:
            full = len(self._open) >= self._listener.max_connections
        if full:
            log.warning("hl7_connection_refused", peer_address=address, reason="too many connections")
        return not full

    def _begin(self, connection: socket.socket, address: str) -> None:
        thread = threading.Thread(target=self._serve, args=(connection, address), daemon=True)
        with self._lock:
            self._open[connection] = thread
        try:
            thread.start()
        except RuntimeError as error:
            # No more threads can be started.
            log.error("hl7_connection_refused", peer_address=address, reason=str(error))
            self._end(connection, connection)

    def _serve(self, accepted: socket.socket, address: str) -> None:
        connection = accepted
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            tls = self._tls.context() if self._tls is not None else None
            if tls is not None:
                connection = greeted = self._greet(accepted, tls)
                self._shake_hands(greeted, address)
            self._talk(connection, address)
        except MllpError as error:
            log.warning("hl7_connection_ended", peer_address=address, reason=str(error))
        except OSError as error:
            log.warning("hl7_connection_ended", peer_address=address, reason=type(error).__name__)
        finally:
            self._end(accepted, connection)

    def _greet(self, plain: socket.socket, tls: ssl.SSLContext) -> ssl.SSLSocket:
        # It holds for the handshake as a whole.
        plain.settimeout(self._listener.message_timeout_s)
        greeted = tls.wrap_socket(plain, server_side=True, do_handshake_on_connect=False)
        with self._lock:
            # From here on the plain one is an empty shell.
            self._open[greeted] = self._open.pop(plain)
        return greeted

    def _shake_hands(self, greeted: ssl.SSLSocket, address: str) -> None:
        try:
            greeted.do_handshake()
        except ssl.SSLError as error:
            self._alerts.note("handshake_failed", address, address, error.reason or type(error).__name__)
            raise

    def _talk(self, connection: socket.socket, address: str) -> None:
        limits = self._listener
        blocks = Blocks(connection, most_bytes=limits.max_message_bytes, block_timeout_s=limits.message_timeout_s)
        while (message := blocks.next(limits.idle_timeout_s)) is not None:
            said = self._answer(message, address)
            connection.settimeout(limits.message_timeout_s)
            connection.sendall(block(said))

    def _end(self, accepted: socket.socket, connection: socket.socket) -> None:
        with self._lock:
            self._open.pop(accepted, None)
            self._open.pop(connection, None)
        connection.close()
