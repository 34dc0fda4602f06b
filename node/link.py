"""An open association of the node's own making: a socket and a plain blocking loop, for one thread at a time.

It sends a file as the bytes on disk, many PDUs at once, reads the answer with a deadline, and answers what the peer
asks meanwhile: a report on storage commitment comes on the association that asked for it. `node.sending` opens it.
"""

from __future__ import annotations

import os
import select
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import structlog
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pynetdicom.dsutils import encode

from db.errors import PeerUnavailable
from node.commitment import (
    COMMITMENT_CLASS,
    COMMITMENT_INSTANCE,
    MOST_REPORT_BYTES,
    CommitmentReport,
    build_request,
    decode_report,
    settle_report,
)
from node.dataset_source import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN, HeaderError, data_set_start
from node.scu import PeerRefused, at
from node.settings import Peer, Settings
from node.statuses import Status
from node.upper_layer import commands, requesting, wire
from node.upper_layer.commands import IS_COMMAND, IS_LAST, Command
from node.upper_layer.negotiation import Context
from node.upper_layer.states import Pdu
from node.upper_layer.wire import PeerGone, ProtocolError, TooSlow, Wire

log = structlog.get_logger(__name__)

COMMITMENT_CONTEXTS = (
    Context(COMMITMENT_CLASS, EXPLICIT_VR_LITTLE_ENDIAN),
    Context(COMMITMENT_CLASS, IMPLICIT_VR_LITTLE_ENDIAN),
)
"""To be offered next to those of the objects; the first that is accepted is used."""

_NATIVE = frozenset({EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN})
_COMMIT_ACTION = 1
_SUCCESS = 0x0000
# Stored all the same: coerced, elements discarded, data set does not match its class (PS3.4 B.2.3).
_STORED_WITH_WARNING = (0xB000, 0xB006, 0xB007)
_SLOWEST_LINE_BYTES_S = 20_000
# What one call hands to the system: many PDUs where the peer takes small ones.
_BATCH_BYTES = 1 << 18
_VALUE_HEADER = struct.Struct(">BxLLBB")
# For what a peer says of its own accord, and for its farewell.
_ASIDE_S = 5.0

OnCommitment = Callable[[CommitmentReport], bool]


@dataclass(frozen=True)
class SendResult:
    """One file's fate. reason: of a failure, or what the peer warned of. retriable: another try may help."""

    path: Path
    ok: bool
    reason: str = ""
    retriable: bool = False


class Link:
    """An open association. `usable` until it is ended by either side."""

    def __init__(
        self,
        connection: socket.socket,
        answer: requesting.Answer,
        peer: Peer,
        settings: Settings,
        *,
        offered: Sequence[Context],
        on_commitment: OnCommitment | None,
    ) -> None:
        """offered: accepted or not. answered: messages so far. reports_due: on commitment, not seen here yet."""
        self.offered = frozenset(offered)
        self.usable = True
        self.answered = 0
        self.reports_due = 0
        self._connection = connection
        self._answer = answer
        self._peer = peer
        self._response_s = settings.delivery.response_timeout_s
        self._wire = Wire(connection, settings.limits.max_pdu_bytes, self._response_s, self._response_s)
        self._on_commitment = on_commitment
        self._by_id = {context_id: context for context, context_id in answer.contexts.items()}
        self._message_id = 0

    @property
    def accepted(self) -> tuple[Context, ...]:
        """The contexts that objects may be sent in."""
        return tuple(self._answer.contexts)

    def store(self, path: Path, context: Context, sop_instance_uid: str) -> SendResult:
        """C-STORE a DICOM file: as the bytes on disk, or encoded anew where the context has another syntax than it."""
        if not self.usable:
            return SendResult(path, False, "the peer has closed the association", retriable=True)
        try:
            with path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                start, syntax = data_set_start(file, size)
                data: BinaryIO = file
                if syntax not in ("", context.transfer_syntax):
                    if not {syntax, context.transfer_syntax} <= _NATIVE:
                        raise ValueError("a compressed data set is sent as it is, or not at all")
                    data = BytesIO(_encoded(dcmread(path), context.transfer_syntax))
                    start, size = 0, len(data.getbuffer())
                data.seek(start)
                until = time.monotonic() + 2 * self._response_s + size / _SLOWEST_LINE_BYTES_S
                request = commands.store_request(self._next_id(), context.abstract_syntax, sop_instance_uid)
                answer = self._ask(self._answer.contexts[context], request, data, size - start, until)
        except (HeaderError, InvalidDicomError, AttributeError, ValueError) as error:
            self.abort()
            return SendResult(path, False, f"it could not be encoded ({type(error).__name__})")
        except FileNotFoundError:
            return SendResult(path, False, "its file is gone from the disk; restore it")
        except OSError as error:
            self.abort()
            return SendResult(path, False, f"its file cannot be read ({error.strerror}); check the disk", True)
        except (PeerGone, ProtocolError) as error:
            log.warning("association_broken", peer=at(self._peer), reason=str(error))
            return SendResult(path, False, "the peer did not answer, or closed the association", retriable=True)
        return _told(path, answer.status)

    def request_commitment(self, transaction_uid: str, refs: Sequence[tuple[str, str]]) -> None:
        """N-ACTION "Request Storage Commitment" (PS3.4 J.3.2) for (SOP Class UID, SOP Instance UID) pairs.

        The answer comes as a report: on this association, or on a new one to the listener.

        Raises:
            PeerRefused: the peer answered a failure, or offers no storage commitment on this association.
            PeerUnavailable: it did not answer.
        """
        context = next((one for one in COMMITMENT_CONTEXTS if one in self._answer.contexts), None)
        if context is None:
            raise PeerRefused(f"{self._peer.ae_title} offers no storage commitment")
        data = _encoded(build_request(transaction_uid, refs), context.transfer_syntax)
        request = commands.action_request(self._next_id(), COMMITMENT_CLASS, COMMITMENT_INSTANCE, _COMMIT_ACTION)
        # From here on, as the report may come before the answer.
        self.reports_due += 1
        try:
            until = time.monotonic() + 2 * self._response_s
            answer = self._ask(self._answer.contexts[context], request, BytesIO(data), len(data), until)
        except (PeerGone, ProtocolError) as error:
            raise PeerUnavailable(f"{self._peer.ae_title} did not answer the request for storage commitment") from error
        if answer.status != _SUCCESS:
            self.reports_due -= 1
            raise PeerRefused(
                f"{self._peer.ae_title} answered the request for storage commitment with {_status(answer.status)}"
            )

    def attend(self) -> bool:
        """Answer what the peer has sent of its own accord, if anything, without waiting; whether it is still usable.

        One that does not come to an end within a few seconds is aborted: it would hold up whoever attends.
        """
        until = time.monotonic() + _ASIDE_S
        try:
            while self.usable and self.readable():
                self._serve(*self._message(until))
        except (PeerGone, ProtocolError) as error:
            self.abort()
            log.info("association_ended", peer=at(self._peer), reason=str(error))
        return self.usable

    def release(self) -> None:
        """End it in order (PS3.8 7.2), within a few seconds."""
        if not self.attend():
            return
        self.usable = False
        until = time.monotonic() + _ASIDE_S
        try:
            self._send(wire.release_request(), until)
            while self._wire.read(_ASIDE_S, until)[0] is Pdu.P_DATA:
                continue
        except (PeerGone, ProtocolError) as error:
            log.info("association_not_released", peer=at(self._peer), reason=str(error))
        finally:
            self._connection.close()

    def _next_id(self) -> int:
        self._message_id = self._message_id % 0xFFFF + 1
        return self._message_id

    def _ask(self, context_id: int, request: bytes, data: BinaryIO, size: int, until: float) -> Command:
        """Send a command with its data set, and wait for what answers it."""
        try:
            for batch in _batches(context_id, request, data, size, self._answer.max_pdu_bytes):
                self._send(batch, until)
            while True:
                command, context, received = self._message(until)
                if _answers(command, commands.parse(request)):
                    self.answered += 1
                    return command
                self._serve(command, context, received)
        except (PeerGone, ProtocolError):
            self.abort()
            raise

    def _send(self, data: bytes | bytearray, until: float) -> None:
        left = until - time.monotonic()
        if left <= 0:
            raise TooSlow("a message could not be sent in time")
        try:
            self._connection.settimeout(left)
            self._connection.sendall(data)
        except OSError as error:
            raise PeerGone(f"nothing can be sent ({type(error).__name__})") from error

    def _message(self, until: float) -> tuple[Command, Context, bytes]:
        """The next command with its data set."""
        collected: dict[bool, bytearray] = {True: bytearray(), False: bytearray()}
        command: Command | None = None
        while True:
            for context_id, control, value in values(self._data(until)):
                is_command = bool(control & IS_COMMAND)
                collected[is_command] += value
                if context_id not in self._by_id or is_command is not (command is None):
                    raise ProtocolError(ProtocolError.UNEXPECTED_PARAMETER, "a message out of place")
                if len(collected[is_command]) > (commands.MOST_COMMAND_BYTES if is_command else MOST_REPORT_BYTES):
                    raise ProtocolError(ProtocolError.INVALID_VALUE, "a message is too long")
                if control & IS_LAST:
                    command = command or commands.parse(bytes(collected[True]))
                    if not is_command or not command.has_data_set:
                        return command, self._by_id[context_id], bytes(collected[False])

    def _data(self, until: float) -> memoryview:
        kind, body = self._wire.read(self._response_s, until)
        if kind is Pdu.P_DATA:
            return body
        if kind is Pdu.RELEASE_RQ:
            self._send(wire.release_response(), until)
            raise PeerGone("the peer released the association")
        if kind is Pdu.ABORT:
            raise PeerGone("the peer aborted")
        raise ProtocolError(ProtocolError.UNEXPECTED_PDU, f"a PDU {kind.name} in an association")

    def _serve(self, command: Command, context: Context, received: bytes) -> None:
        """Answer a request of the peer's: a report on storage commitment (PS3.4 J.3.3), and nothing else."""
        if command.field & commands.RESPONSE:
            raise ProtocolError(ProtocolError.UNEXPECTED_PARAMETER, "a response to nothing")
        status = Status.UNRECOGNISED_OPERATION
        if command.field == commands.N_EVENT_REPORT_RQ and context in COMMITMENT_CONTEXTS and self._on_commitment:
            self.reports_due = max(0, self.reports_due - 1)
            status = settle_report(lambda: decode_report(received, context.transfer_syntax), self._on_commitment)
        answer = wire.data(self._answer.contexts[context], commands.response(command, status), command=True)
        self._send(answer, time.monotonic() + _ASIDE_S)

    def readable(self) -> bool:
        """Whether the peer has sent something, or has gone."""
        if isinstance(self._connection, ssl.SSLSocket) and self._connection.pending():
            return True
        look = select.poll()
        look.register(self._connection, select.POLLIN)
        return bool(look.poll(0))

    def abort(self) -> None:
        """End it at once, whatever it is in the middle of."""
        if not self.usable:
            return
        self.usable = False
        try:
            self._send(wire.abort(0, 0), time.monotonic() + _ASIDE_S)
        except PeerGone as error:
            log.debug("association_gone", peer=at(self._peer), reason=str(error))
        finally:
            self._connection.close()


def _answers(command: Command, asked: Command) -> bool:
    """Whether it is the response to this request: to its message, and where it names an object, to that one."""
    return (
        command.field == asked.field | commands.RESPONSE
        and command.responded_to == asked.message_id
        and command.status is not None
        and (asked.field != commands.C_STORE_RQ or command.sop_instance_uid in ("", asked.sop_instance_uid))
    )


def _told(path: Path, status: int | None) -> SendResult:
    if status is None or status == _SUCCESS:
        return SendResult(path, status == _SUCCESS)
    stored = status in _STORED_WITH_WARNING
    return SendResult(path, stored, f"the peer answered {_status(status)}", retriable=_worth_another_try(status))


def _worth_another_try(status: int) -> bool:
    """Out of resources, processing failure, and the Cxxx codes, which archives use for whatever went wrong inside."""
    return status >> 8 == 0xA7 or status == 0x0110 or status >> 12 == 0xC


def _status(status: int | None) -> str:
    return "no status" if status is None else f"status {status:#06x}"


def _encoded(dataset: Dataset, transfer_syntax: str) -> bytes:
    """In one of the two native little endian syntaxes. Raises ValueError where it cannot be."""
    data = encode(dataset, transfer_syntax == IMPLICIT_VR_LITTLE_ENDIAN, True)
    if data is None:
        raise ValueError("the data set cannot be encoded")
    return data


def _batches(context_id: int, command: bytes, data: BinaryIO, size: int, max_pdu_bytes: int) -> Iterator[bytearray]:
    """A command and the next `size` bytes of a file as P-DATA-TF PDUs (PS3.8 9.3.5), many of them at a time."""
    batch = bytearray()
    # An even number: not every receiver takes a fragment of an odd length.
    room = (max_pdu_bytes - 6) & ~1
    parts: list[tuple[int, BinaryIO, int]] = [(IS_COMMAND, BytesIO(command), len(command)), (0, data, size)]
    for control, source, length in parts:
        left = length
        while True:
            piece = source.read(min(room, left))
            if not piece and left:
                raise HeaderError("the file became shorter while it was sent")
            left -= len(piece)
            last = control | (0 if left else IS_LAST)
            batch += _VALUE_HEADER.pack(Pdu.P_DATA, len(piece) + 6, len(piece) + 2, context_id, last)
            batch += piece
            if len(batch) >= _BATCH_BYTES:
                yield batch
                batch = bytearray()
            if not left:
                break
    if batch:
        yield batch


def values(body: memoryview) -> Iterator[tuple[int, int, memoryview]]:
    """The presentation data values of a P-DATA-TF: context ID, message control header, bytes."""
    while body:
        length = int.from_bytes(body[:4], "big")
        if length < 2 or length + 4 > len(body):
            raise ProtocolError(ProtocolError.INVALID_VALUE, "a presentation data value does not fit its PDU")
        yield body[4], body[5], body[6 : 4 + length]
        body = body[4 + length :]
