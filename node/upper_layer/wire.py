"""PDUs from and to a socket (PS3.8 section 9.3): each has to come within its time, and no memory is taken on a
peer's word.
"""

from __future__ import annotations

import socket
import ssl
import struct
import time

from node.upper_layer.states import Pdu

# 128 contexts with 40 transfer syntaxes each take half of it.
_MOST_OTHER_BYTES = 1 << 18
_STEP_BYTES = 1 << 14
_HEADER = struct.Struct(">BxL")
# `struct timeval`: whole seconds and microseconds.
_TIMEVAL = struct.Struct("@ll")
# Senders that keep Nagle's algorithm wait for an acknowledgement between command and data set, which Linux delays by
# 40 ms. The option holds for a few segments only, and is set whenever there is something to wait for.
_QUICKACK: int | None = getattr(socket, "TCP_QUICKACK", None)


class PeerGone(Exception):
    """The connection is closed, reset, or was too slow; nobody is left to be told."""


class TooSlow(PeerGone):
    """The peer is still there, but silent beyond its time."""


class ProtocolError(Exception):
    """The peer broke PS3.8; carries the reason of the A-ABORT (table 9-26)."""

    NOT_SPECIFIED, UNRECOGNISED_PDU, UNEXPECTED_PDU = 0, 1, 2
    UNRECOGNISED_PARAMETER, UNEXPECTED_PARAMETER, INVALID_VALUE = 4, 5, 6

    def __init__(self, reason: int, what: str) -> None:
        super().__init__(what)
        self.reason = reason


class Wire:
    """One connection. P-DATA bodies share one buffer: each is valid until the next read.

    On a plain socket what has come is taken without any wait; for the rest the kernel itself waits until all of it is
    there or its time is over (MSG_WAITALL, SO_RCVTIMEO). Of 128 KiB that is one call or three, where Python's own
    time-outs take four for each part that comes, and let go of the interpreter three times. TLS comes in records, which
    Python has to put together: there its time-outs are the only way.

    max_pdu_bytes: as offered to the peer (PS3.8 D.1), hence the longest P-DATA body. pdu_s: for the rest of a PDU once
    it has begun. send_s: for a whole message out.
    """

    def __init__(self, connection: socket.socket, max_pdu_bytes: int, pdu_s: float, send_s: float) -> None:
        self._connection = connection
        self._plain = not isinstance(connection, ssl.SSLSocket)
        self._most = max_pdu_bytes
        self._pdu_s = pdu_s
        self._send_s = send_s
        self._header = bytearray(_HEADER.size)
        self._buffer: memoryview | None = None

    def read(self, wait_s: float, until: float | None = None) -> tuple[Pdu, memoryview]:
        """The next PDU's type and body.

        Args:
            wait_s: seconds for its first byte.
            until: on the monotonic clock; ends it all, whatever the other limits.

        Raises:
            PeerGone, TooSlow: as they say.
            ProtocolError: the PDU announces more than is allowed; none of it has been read.
        """
        header = memoryview(self._header)
        begun = self._there(header) or self._wait(header, _earlier(time.monotonic() + wait_s, until), whole=False)
        deadline = _earlier(time.monotonic() + self._pdu_s, until)
        if begun < len(header):
            self._fill(header[begun:], deadline)
        kind, length = _HEADER.unpack(header)
        if kind == Pdu.P_DATA:
            if length > self._most:
                raise ProtocolError(ProtocolError.INVALID_VALUE, f"a P-DATA PDU of {length} bytes is announced")
            if self._buffer is None:
                self._buffer = memoryview(bytearray(self._most))
            body = self._buffer[:length]
            self._fill(body, deadline)
            return Pdu.P_DATA, body
        known = Pdu(kind) if kind in Pdu.__members__.values() else Pdu.UNKNOWN
        if length > _MOST_OTHER_BYTES:
            raise ProtocolError(ProtocolError.INVALID_VALUE, f"a PDU of {length} bytes is announced")
        return known, self._grow(length, deadline)

    def send(self, data: bytes) -> None:
        """Raises PeerGone where the peer does not take it in time."""
        try:
            self._connection.settimeout(self._send_s)
            self._connection.sendall(data)
        except OSError as error:
            raise PeerGone(f"nothing can be sent ({type(error).__name__})") from error

    def drain(self, for_s: float) -> None:
        """Take and forget what comes until the peer closes, so that the answer on its way to it is not torn down."""
        scrap = memoryview(bytearray(_STEP_BYTES))
        deadline = time.monotonic() + for_s
        try:
            self._connection.settimeout(for_s)
            self._connection.shutdown(socket.SHUT_WR)
            while (left := deadline - time.monotonic()) > 0:
                self._connection.settimeout(left)
                if not self._connection.recv_into(scrap):
                    return
        except OSError:
            # Whatever ends it, it is over.
            return

    def _fill(self, target: memoryview, deadline: float) -> None:
        got = self._there(target)
        while got < len(target):
            got += self._wait(target[got:], deadline, whole=True)

    def _there(self, target: memoryview) -> int:
        """What has come already; how many bytes, 0 where that is not to be told without waiting."""
        if not self._plain:
            return 0
        try:
            # Whoever sent something last has left its time-out.
            if self._connection.gettimeout() is not None:
                self._connection.settimeout(None)
            count = self._connection.recv_into(target, 0, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise _lost(error) from error
        if not count:
            raise _closed()
        return count

    def _wait(self, target: memoryview, deadline: float, *, whole: bool) -> int:
        """At least a byte of what is to come; how many. whole: as many as fit, where the kernel can wait for them."""
        left = deadline - time.monotonic()
        if left <= 0:
            raise TooSlow("the rest of a message did not come in time")
        connection = self._connection
        try:
            if _QUICKACK is not None:
                connection.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)
            if self._plain:
                wait = _TIMEVAL.pack(int(left), max(1, int(left % 1 * 1e6)))
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, wait)
                count = connection.recv_into(target, 0, socket.MSG_WAITALL if whole else 0)
            else:
                connection.settimeout(left)
                count = connection.recv_into(target)
        except (TimeoutError, BlockingIOError) as error:
            raise TooSlow("nothing came in time") from error
        except OSError as error:
            raise _lost(error) from error
        if not count:
            raise _closed()
        return count

    def _grow(self, length: int, deadline: float) -> memoryview:
        """A body whose memory grows with what has come."""
        body = bytearray()
        while len(body) < length:
            step = memoryview(bytearray(min(_STEP_BYTES, length - len(body))))
            self._fill(step, deadline)
            body += step
        return memoryview(body)


def _lost(error: OSError) -> PeerGone:
    return PeerGone(f"the connection is lost ({type(error).__name__})")


def _closed() -> PeerGone:
    return PeerGone("the peer closed the connection")


def _earlier(deadline: float, until: float | None) -> float:
    return deadline if until is None else min(deadline, until)


def abort(source: int, reason: int) -> bytes:
    """An A-ABORT PDU (PS3.8 9.3.8). source: 0 service user, 2 service provider."""
    return struct.pack(">BxLxxBB", Pdu.ABORT, 4, source, reason if source else 0)


def reject(result: int, source: int, diagnostic: int) -> bytes:
    """An A-ASSOCIATE-RJ PDU (PS3.8 9.3.4)."""
    return struct.pack(">BxLxBBB", Pdu.ASSOCIATE_RJ, 4, result, source, diagnostic)


def release_request() -> bytes:
    """An A-RELEASE-RQ PDU (PS3.8 9.3.6)."""
    return struct.pack(">BxL4x", Pdu.RELEASE_RQ, 4)


def release_response() -> bytes:
    """An A-RELEASE-RP PDU (PS3.8 9.3.7)."""
    return struct.pack(">BxL4x", Pdu.RELEASE_RP, 4)


def data(context_id: int, value: bytes, *, command: bool) -> bytes:
    """A P-DATA-TF PDU with one value, the last fragment of its kind (PS3.8 9.3.5, E.2)."""
    return _fragment(context_id, value, 0x03 if command else 0x02)


def data_set(context_id: int, value: bytes, max_pdu_bytes: int) -> bytes:
    """A data set as P-DATA-TF PDUs, none with a longer body than that."""
    # An even number: not every receiver takes a fragment of an odd length.
    room = (max_pdu_bytes - 6) & ~1
    starts = range(0, max(len(value), 1), room)
    return b"".join(
        _fragment(context_id, value[start : start + room], 0x02 if start + room >= len(value) else 0x00)
        for start in starts
    )


def _fragment(context_id: int, value: bytes, control: int) -> bytes:
    return struct.pack(">BxLLBB", Pdu.P_DATA, len(value) + 6, len(value) + 2, context_id, control) + value
