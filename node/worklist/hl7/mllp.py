"""MLLP, the frame around HL7 messages on a stream (HL7 Transport Specification: MLLP, release 1).

A block is 0x0B, the message, 0x1C, 0x0D. Every read has a deadline and every length a limit.
"""

from __future__ import annotations

import socket
import time

START, END = b"\x0b", b"\x1c\x0d"
_CHUNK = 65536


class MllpError(Exception):
    """What came is no MLLP, or more than is taken; the connection is of no more use."""


def block(message: bytes) -> bytes:
    """A message with its frame. Raises ValueError where the message holds bytes that belong to the frame."""
    if START in message or END[:1] in message:
        raise ValueError("an HL7 message cannot hold the bytes 0x0B and 0x1C")
    return START + message + END


class Blocks:
    """The blocks that come over one connection, one after the other."""

    def __init__(self, connection: socket.socket, *, most_bytes: int, block_timeout_s: float) -> None:
        self._connection = connection
        self._most_bytes = most_bytes
        self._block_timeout_s = block_timeout_s
        self._unread = bytearray()

    def next(self, idle_timeout_s: float) -> bytes | None:
        """The next message; None once the peer has closed the connection between two of them.

        idle_timeout_s: until its first byte; the rest has `block_timeout_s` as a whole.
        Raises MllpError, TimeoutError, or OSError where the connection fails.
        """
        idle_until = time.monotonic() + idle_timeout_s
        while not self._unread:
            if not self._more(idle_until):
                return None
            # Some senders end a block with a line end too many.
            self._unread = self._unread.lstrip(b"\r\n")
        deadline = time.monotonic() + self._block_timeout_s
        if self._unread[:1] != START:
            raise MllpError("a block does not begin with 0x0B")
        looked_at = 0
        while (end := self._unread.find(END, max(0, looked_at - 1))) < 0:
            looked_at = len(self._unread)
            if looked_at > self._most_bytes:
                raise MllpError(f"a message is longer than {self._most_bytes} bytes")
            if not self._more(deadline):
                raise MllpError("the connection was closed in the middle of a message")
        if end > self._most_bytes:
            raise MllpError(f"a message is longer than {self._most_bytes} bytes")
        message = bytes(self._unread[1:end])
        self._unread = self._unread[end + len(END) :].lstrip(b"\r\n")
        return message

    def _more(self, deadline: float) -> bool:
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("no whole message came in time")
        self._connection.settimeout(left_s)
        data = self._connection.recv(_CHUNK)
        self._unread += data
        return bool(data)
