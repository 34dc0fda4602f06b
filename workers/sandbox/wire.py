"""Messages between a worker and its decoders: a JSON object, bytes beside it, and at most one file descriptor."""

from __future__ import annotations

import array
import json
import os
import socket
import struct
import time
from typing import Any, NamedTuple

_HEAD = struct.Struct("<LL")
_MOST_JSON_BYTES = 16 << 20
_MOST_BLOB_BYTES = 4 << 20
_FD_BYTES = array.array("i").itemsize


class Message(NamedTuple):
    """fd: -1 where none came; whoever receives it closes it."""

    body: dict[str, Any]
    blob: bytes = b""
    fd: int = -1


class WireError(Exception):
    """The other end does not keep to the protocol."""


def send(sock: socket.socket, message: Message) -> None:
    """Raises OSError where the other end is gone."""
    body = json.dumps(message.body).encode()
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [message.fd]))] if message.fd >= 0 else []
    head = _HEAD.pack(len(body), len(message.blob))
    # The descriptor travels with the first byte; the rest may follow in pieces.
    sock.sendmsg([head], rights)
    sock.sendall(body + message.blob)


def receive(sock: socket.socket, deadline: float | None = None) -> Message | None:
    """The next message; None once the other end is closed.

    deadline: by `time.monotonic`; None waits for ever. Raises TimeoutError at the deadline, WireError, OSError.
    """
    _until(sock, deadline)
    head, ancillary, _, _ = sock.recvmsg(_HEAD.size, socket.CMSG_SPACE(4 * _FD_BYTES), socket.MSG_WAITALL)
    fds = _descriptors(ancillary)
    try:
        if not head:
            return None
        if len(head) < _HEAD.size or len(fds) > 1:
            raise WireError("a message without its head")
        body_bytes, blob_bytes = _HEAD.unpack(head)
        if body_bytes > _MOST_JSON_BYTES or blob_bytes > _MOST_BLOB_BYTES:
            raise WireError("a message that is too long")
        body = _parsed(_exactly(sock, body_bytes, deadline))
        blob = _exactly(sock, blob_bytes, deadline)
        return Message(body, blob, fds.pop() if fds else -1)
    finally:
        for fd in fds:
            os.close(fd)


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    found = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(data[: len(data) // _FD_BYTES * _FD_BYTES])
    return list(found)


def _parsed(raw: bytes) -> dict[str, Any]:
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise WireError("a message that is no JSON") from error
    if not isinstance(body, dict):
        raise WireError("a message that is no object")
    return body


def _exactly(sock: socket.socket, count: int, deadline: float | None) -> bytes:
    data = bytearray()
    while len(data) < count:
        _until(sock, deadline)
        piece = sock.recv(min(count - len(data), 1 << 20))
        if not piece:
            raise WireError("a message that does not end")
        data += piece
    return bytes(data)


def _until(sock: socket.socket, deadline: float | None) -> None:
    if deadline is None:
        sock.settimeout(None)
        return
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    sock.settimeout(left)
