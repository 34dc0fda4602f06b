"""A modality's end of an association, byte by byte: for messages that no toolkit would send."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from pydicom.uid import UID
from pynetdicom import build_context
from pynetdicom.pdu import A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    ImplementationClassUIDNotification,
    MaximumLengthNotification,
)

CR = "1.2.840.10008.5.1.4.1.1.1"
VERIFICATION = "1.2.840.10008.1.1"
IMPLICIT, EXPLICIT, DEFLATED = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99"
# Context IDs of `request`'s default proposals.
ECHO, STORE, STORE_DEFLATED = 1, 3, 5
PROPOSALS = ((VERIFICATION, (IMPLICIT,)), (CR, (EXPLICIT,)), (CR, (DEFLATED,)))
ASSOCIATE_AC, ASSOCIATE_RJ, P_DATA, RELEASE_RP, ABORT = 2, 3, 4, 6, 7
RELEASE_RQ = struct.pack(">BxL4x", 5, 4)
FAILURE_STATUS = 0x0900


def request(
    proposals: Sequence[tuple[str, Sequence[str]]] = PROPOSALS, called: str = "RADNODE", calling: str = "RAW"
) -> bytes:
    """An A-ASSOCIATE-RQ; context IDs are 1, 3, 5 … in the order of the proposals."""
    primitive = A_ASSOCIATE()
    primitive.application_context_name = UID("1.2.840.10008.3.1.1.1")
    primitive.calling_ae_title, primitive.called_ae_title = calling, called
    contexts = [build_context(uid, list(syntaxes)) for uid, syntaxes in proposals]
    for number, context in enumerate(contexts):
        context.context_id = 2 * number + 1
    primitive.presentation_context_definition_list = contexts
    longest = MaximumLengthNotification()
    longest.maximum_length_received = 16384
    implementation = ImplementationClassUIDNotification()
    implementation.implementation_class_uid = UID("1.2.3.4")
    primitive.user_information = [longest, implementation]
    return bytes(A_ASSOCIATE_RQ(primitive).encode())


def pdu(kind: int, body: bytes) -> bytes:
    return struct.pack(">BxL", kind, len(body)) + body


def value(context_id: int, control: int, data: bytes) -> bytes:
    """A presentation data value item."""
    return struct.pack(">LBB", len(data) + 2, context_id, control) + data


def element(number: int, data: bytes) -> bytes:
    """An element of a command set."""
    return struct.pack("<HHL", 0, number, len(data)) + data


def uid_bytes(uid: str) -> bytes:
    data = uid.encode("latin_1")
    return data + b"\0" * (len(data) % 2)


def store_command(sop_instance: str, *, sop_class: str = CR, message_id: int = 1, data_set: int = 0) -> list[bytes]:
    """The elements of a C-STORE-RQ."""
    return [
        element(0x0002, uid_bytes(sop_class)),
        element(0x0100, b"\x01\x00"),
        element(0x0110, struct.pack("<H", message_id)),
        element(0x0700, b"\x02\x00"),
        element(0x0800, struct.pack("<H", data_set)),
        element(0x1000, uid_bytes(sop_instance)),
    ]


def echo_command() -> list[bytes]:
    return [
        element(0x0002, uid_bytes(VERIFICATION)),
        element(0x0100, b"\x30\x00"),
        element(0x0110, b"\x01\x00"),
        element(0x0800, b"\x01\x01"),
    ]


def with_length(elements: Sequence[bytes]) -> bytes:
    body = b"".join(elements)
    return element(0x0000, struct.pack("<L", len(body))) + body


def message(context_id: int, command: bytes, data: bytes | None = None, piece: int = 16000) -> bytes:
    """A whole DIMSE message as P-DATA PDUs."""
    parts = [pdu(P_DATA, value(context_id, 3, command))]
    if data is not None:
        pieces = [data[at : at + piece] for at in range(0, len(data), piece)] or [b""]
        parts += [pdu(P_DATA, value(context_id, 2 * (n == len(pieces) - 1), p)) for n, p in enumerate(pieces)]
    return b"".join(parts)


@dataclass(frozen=True)
class Answer:
    """A PDU that came back."""

    kind: int
    body: bytes

    @property
    def status(self) -> int | None:
        """Of the DIMSE response in it."""
        at = self.body.find(struct.pack("<HHL", 0, FAILURE_STATUS, 2))
        return None if self.kind != P_DATA or at < 0 else int.from_bytes(self.body[at + 8 : at + 10], "little")


class Raw:
    """One connection."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def read(self) -> Answer | None:
        """The next PDU; None where the other side closed or reset. Raises TimeoutError."""
        try:
            header = self._exactly(6)
            if header is None:
                return None
            kind, length = struct.unpack(">BxL", header)
            body = self._exactly(length)
        except ConnectionError:
            return None
        return None if body is None else Answer(kind, body)

    def rest(self) -> list[Answer]:
        """All PDUs until the other side closes. Raises TimeoutError."""
        found = []
        while (answer := self.read()) is not None:
            found.append(answer)
        return found

    def _exactly(self, count: int) -> bytes | None:
        data = b""
        while len(data) < count:
            more = self.socket.recv(count - len(data))
            if not more:
                return None
            data += more
        return data


@contextmanager
def connected(port: int, timeout_s: float = 10.0) -> Iterator[Raw]:
    with socket.create_connection(("127.0.0.1", port), timeout=timeout_s) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield Raw(connection)


@contextmanager
def associated(port: int, asked: bytes | None = None, timeout_s: float = 10.0) -> Iterator[Raw]:
    """A connection whose association was accepted."""
    with connected(port, timeout_s) as raw:
        raw.send(asked or request())
        answer = raw.read()
        assert answer is not None
        assert answer.kind == ASSOCIATE_AC
        yield raw


def store(raw: Raw, sop_instance: str, data: bytes, context_id: int = STORE, sop_class: str = CR) -> int | None:
    """C-STORE and its status; None where there was no answer."""
    raw.send(message(context_id, with_length(store_command(sop_instance, sop_class=sop_class)), data))
    answer = raw.read()
    return None if answer is None else answer.status
