"""Frames to a syslog collector over TLS (RFC 5425), or in the clear to one on this machine.

Syslog knows no answer. So each batch has a connection of its own, and counts as taken only once the collector has
closed its side after ours and its machine has acknowledged the last octet: a collector that ends before it has read
everything answers with a reset instead. What was not taken is sent again, from the first message of its batch.
"""

from __future__ import annotations

import array
import fcntl
import socket
import ssl
import termios
import time
from collections.abc import Callable, Sequence

from db.errors import ConfigError, RetriableError
from node.settings import Tls
from node.settings_audit import AuditTrail
from node.tls import client_context

_CHUNK = 4096
_POLL_S = 0.01


class CollectorAway(RetriableError):
    """The collector did not take the batch."""


class _NotRead(OSError):
    """The other side's machine has thrown away what it had not given to the collector yet."""


def send(settings: AuditTrail, frames: Sequence[bytes]) -> None:
    """Deliver a batch. Raises CollectorAway, or ConfigError where certificates cannot be read."""
    connect = _tls(settings) if settings.transport == "tls" else _plain
    deadline = settings.send_timeout_s
    try:
        with socket.create_connection((settings.collector_host, settings.collector_port), deadline) as bare:
            bare.settimeout(deadline)
            with connect(bare) as stream:
                stream.sendall(b"".join(frames))
                _finish(stream, deadline)
    except ssl.SSLCertVerificationError as error:
        raise CollectorAway(
            f"the collector at {settings.collector} shows a certificate that [audit] ca does not vouch for, or of "
            f"another host ({error.verify_message}); check both"
        ) from error
    except (BrokenPipeError, ConnectionResetError, _NotRead) as error:
        raise CollectorAway(
            f"the collector at {settings.collector} closed the connection before it had read everything; see its log: "
            "it may want a certificate, which [audit] certificate names"
        ) from error
    except OSError as error:
        raise CollectorAway(
            f"the collector at {settings.collector} did not take a batch ({type(error).__name__}); it is tried again"
        ) from error


def _tls(settings: AuditTrail) -> Callable[[socket.socket], socket.socket]:
    tls = Tls(
        certificate=settings.certificate,
        private_key=settings.private_key,
        ca=settings.ca,
        require_client_certificate=False,
    )
    try:
        context = client_context(tls)
    except ConfigError as error:
        raise ConfigError(str(error).replace("[tls]", "[audit]")) from error
    return lambda bare: context.wrap_socket(bare, server_hostname=settings.collector_host)


def _plain(bare: socket.socket) -> socket.socket:
    return bare


def _finish(stream: socket.socket, timeout_s: float) -> None:
    """End our side, wait for the end of theirs, and for their machine's acknowledgement. Raises OSError."""
    if isinstance(stream, ssl.SSLSocket):
        try:
            stream.unwrap()
        except ssl.SSLEOFError:
            # Many collectors close the connection without TLS' own good-bye; what was read the next lines tell.
            pass
        except OSError as error:
            if isinstance(error, ssl.SSLError) or error.errno:
                raise
    else:
        stream.shutdown(socket.SHUT_WR)
        while stream.recv(_CHUNK):
            pass
    _acknowledged(stream, timeout_s)


def _acknowledged(stream: socket.socket, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    left = array.array("i", [0])
    while True:
        failed = stream.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if failed:
            raise _NotRead(failed, "after the last octet")
        fcntl.ioctl(stream, termios.TIOCOUTQ, left)
        if left[0] == 0:
            return
        if time.monotonic() > deadline:
            raise TimeoutError("the last octets were not acknowledged")
        time.sleep(_POLL_S)
