"""The DICOM listener's application entity and server."""

from __future__ import annotations

import socket
import ssl
import threading
from contextlib import suppress
from typing import Any

import structlog
from pynetdicom import _config
from pynetdicom.ae import ApplicationEntity
from pynetdicom.association import Association
from pynetdicom.transport import ThreadedAssociationServer

from db.errors import ConfigError
from node import guard
from node.commitment import COMMITMENT_CLASS
from node.handlers import Handlers
from node.settings import Limits, Settings
from node.syntaxes import decodable_transfer_syntaxes, storage_sop_classes
from node.tls import server_context

log = structlog.get_logger(__name__)

_VERIFICATION = "1.2.840.10008.1.1"
# Connections that have not asked for an association yet are cheap, but not free.
_CONNECTIONS_PER_ASSOCIATION = 6


class NodeEntity(ApplicationEntity):
    """Counts only associations that were asked for, so that silent connections take nobody's place."""

    @property
    def active_associations(self) -> list[Association]:
        return [a for a in self.connections if a.requestor.primitive is not None and not a.is_rejected]

    @property
    def connections(self) -> list[Association]:
        """Every association thread, silent ones included."""
        return [t for t in threading.enumerate() if isinstance(t, Association) and t.ae is self]


class NodeServer(ThreadedAssociationServer):
    """Greets each connection in a thread of its own, TLS included, and bounds their number."""

    daemon_threads = True
    request_queue_size = 128
    ae: NodeEntity

    def __init__(self, *args: Any, limits: Limits, **kwargs: Any) -> None:
        self._limits = limits
        # Connections without an association thread yet -> their TLS socket while it shakes hands.
        self._greeting: dict[Any, ssl.SSLSocket | None] = {}
        self._greeting_lock = threading.Lock()
        self._tls: ssl.SSLContext | None = None
        super().__init__(*args, **kwargs)

    @property
    def ssl_context(self) -> ssl.SSLContext | None:
        # pynetdicom would shake hands in the accepting thread, where one slow peer stops all others.
        return None

    @ssl_context.setter
    def ssl_context(self, context: ssl.SSLContext | None) -> None:
        self._tls = context

    def verify_request(self, request: Any, client_address: Any) -> bool:
        most = self._limits.max_associations * _CONNECTIONS_PER_ASSOCIATION
        given_up: ssl.SSLSocket | None = None
        with self._greeting_lock:
            full = len(self._greeting) + len(self.ae.connections) >= most
            if full:
                given_up = self._give_up_a_handshake()
            if not full or given_up is not None:
                self._greeting[request] = None
        if given_up is not None:
            # A peer shakes hands in milliseconds: whoever has been at it for the longest is not coming.
            log.warning("handshake_given_up", reason="too many connections")
            with suppress(OSError):
                # Not its own method, which would take the TLS object away from the thread that uses it.
                socket.socket.shutdown(given_up, socket.SHUT_RDWR)
        elif full:
            log.warning("connection_refused", peer_address=client_address[0], reason="too many connections")
            return False
        return True

    def _give_up_a_handshake(self) -> ssl.SSLSocket | None:
        for request, greeted in self._greeting.items():
            if greeted is not None:
                del self._greeting[request]
                return greeted
        return None

    # ThreadingMixIn's; AssociationServer overrides it without threads further down.
    def process_request_thread(self, request: Any, client_address: Any) -> None:
        greeted = request
        try:
            greeted = self._greet(request)
            self.finish_request(greeted, client_address)
        except (OSError, RuntimeError) as error:
            # RuntimeError: no more threads can be started.
            log.warning("connection_failed", peer_address=client_address[0], cause=type(error).__name__)
            self.shutdown_request(greeted)
        finally:
            self._forget(request)

    def shutdown_request(self, request: Any) -> None:
        # Also where no thread could be started for it.
        self._forget(request)
        super().shutdown_request(request)

    def _forget(self, request: Any) -> None:
        with self._greeting_lock:
            self._greeting.pop(request, None)

    def _greet(self, request: socket.socket) -> socket.socket:
        if self._tls is None:
            return request
        greeted = self._tls.wrap_socket(request, server_side=True, do_handshake_on_connect=False)
        try:
            self._note_handshake(request, greeted)
            # The limit holds for the handshake as a whole.
            greeted.settimeout(self._limits.acse_timeout_s)
            greeted.do_handshake()
            self._note_handshake(request, None)
        except OSError:
            greeted.close()
            raise
        return greeted

    def _note_handshake(self, request: socket.socket, greeted: ssl.SSLSocket | None) -> None:
        """Raises ConnectionAbortedError where the connection has been given up meanwhile."""
        with self._greeting_lock:
            if request not in self._greeting:
                raise ConnectionAbortedError("given up for a newer connection")
            self._greeting[request] = greeted


def start(settings: Settings, handlers: Handlers) -> NodeServer:
    """Bind and serve in background threads. Raises ConfigError where the address cannot be bound."""
    _config.STORE_RECV_CHUNKED_DATASET = True
    entity = _entity(settings)
    try:
        server = NodeServer(
            entity,
            (settings.dicom_host, settings.dicom_port),
            settings.ae_title,
            entity.supported_contexts,
            ssl_context=server_context(settings.tls),
            evt_handlers=handlers.bindings(),
            limits=settings.limits,
        )
    except OSError as error:
        raise ConfigError(
            f"{settings.dicom_host}:{settings.dicom_port} cannot be bound ({error.strerror}); "
            "is another node running? see dicom_host and dicom_port"
        ) from error
    entity._servers.append(server)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, name="acceptor", daemon=True).start()
    return server


def stop(server: NodeServer) -> None:
    """Take no more connections and end those there are; what was answered Success is durable already."""
    server.shutdown()
    for association in server.ae.connections:
        guard.end(association)


def _entity(settings: Settings) -> NodeEntity:
    limits = settings.limits
    entity = NodeEntity(ae_title=settings.ae_title)
    entity.maximum_associations = limits.max_associations
    entity.maximum_pdu_size = limits.max_pdu_bytes
    entity.acse_timeout = limits.acse_timeout_s
    entity.dimse_timeout = limits.dimse_timeout_s
    entity.network_timeout = limits.network_timeout_s
    syntaxes = [syntax.uid for syntax in decodable_transfer_syntaxes()]
    entity.add_supported_context(_VERIFICATION)
    for sop_class, _ in storage_sop_classes():
        entity.add_supported_context(sop_class, syntaxes)
    # Its provider opens the association to report, hence with the roles reversed (PS3.4 J.3.3).
    entity.add_supported_context(COMMITMENT_CLASS, scu_role=False, scp_role=True)
    return entity
