"""TLS contexts: BCP 195 (RFC 8996, 9325), TLS 1.2 or later (PS3.15 B.9)."""

from __future__ import annotations

import ssl
import threading
from pathlib import Path

import structlog

from db.errors import ConfigError
from node.settings import Tls

log = structlog.get_logger(__name__)


class ServerTls:
    """A listener's side of TLS, by the files as they are at each connection: renewed ones count without a restart.

    Raises ConfigError when made with files that cannot be read.
    """

    def __init__(self, tls: Tls) -> None:
        self._tls = tls
        self._lock = threading.Lock()
        self._files = _state(tls)
        self._context = server_context(tls)

    def context(self) -> ssl.SSLContext | None:
        """For the next connection; None where no certificate is configured.

        While new files do not fit together yet, it is made of the last ones that did.
        """
        with self._lock:
            found = _state(self._tls)
            if found != self._files:
                self._files = found
                try:
                    self._context = server_context(self._tls)
                except ConfigError as error:
                    log.error("certificates_not_renewed", reason=str(error))
                else:
                    log.info("certificates_renewed")
            return self._context


def _state(tls: Tls) -> tuple[tuple[int, int, int] | None, ...]:
    return tuple(_seen(path) for path in (tls.certificate, tls.private_key, tls.ca) if path is not None)


def _seen(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def server_context(tls: Tls) -> ssl.SSLContext | None:
    """For the listener; None where no certificate is configured. Raises ConfigError."""
    if tls.certificate is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _load(context, tls)
    if tls.require_client_certificate:
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(tls: Tls) -> ssl.SSLContext:
    """For peers that are sent to over TLS; shows the node's own certificate where there is one. Raises ConfigError."""
    # Not ssl.create_default_context: it trusts the system's authorities, which say nothing of a hospital's peers.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _load(context, tls)
    if tls.ca is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    return context


def _load(context: ssl.SSLContext, tls: Tls) -> None:
    try:
        if tls.certificate is not None:
            context.load_cert_chain(tls.certificate, tls.private_key)
        if tls.ca is not None:
            context.load_verify_locations(tls.ca)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            "[tls] certificate, private_key or ca cannot be read as PEM, or key and certificate do not belong "
            f"together ({type(error).__name__}); check the files and their permissions"
        ) from error
