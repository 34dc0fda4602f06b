"""What pynetdicom leaves open in an accepted association, closed from outside.

It reads as much as a peer claims and waits for it without end, dies silently on malformed messages, never answers a
C-STORE without SOP Instance UID, and lets silent connections take the places of working ones.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import structlog
from pynetdicom.association import Association
from pynetdicom.dimse_messages import C_STORE_RQ, DIMSEMessage
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.pdu_primitives import P_DATA

from db.errors import StorageFull
from node.settings import Limits
from node.statuses import Status

log = structlog.get_logger(__name__)

# An association request lists up to 128 contexts, each with all its transfer syntaxes.
_LEAST_PDU_LIMIT_BYTES = 1 << 20
# Commands, queries and commitment reports; only C-STORE data sets go to disk.
_MOST_MESSAGE_BYTES = 16 << 20
# A long data set is weighed against the free disk again after so many bytes.
_LOOK_EVERY_BYTES = 64 << 20
# Bit of the message control header (PS3.8 E.2): a fragment of the command, not of the data set.
_COMMAND = 0x01

# Told of a C-STORE that pynetdicom would not have served: (association, request, status, reason).
OnRefused = Callable[[Association, C_STORE, Status, str], None]


# Senders that keep Nagle's algorithm wait for an acknowledgement between command and data set, which Linux delays by
# 40 ms. The option has to be set anew for each read.
_QUICKACK: int | None = getattr(socket, "TCP_QUICKACK", None)


class MessageTooLong(Exception):
    """A peer's DIMSE message passes its limit; ends the association."""


def attach(association: Association, limits: Limits, on_refused: OnRefused, require_room: Callable[[], None]) -> None:
    """Put the guards into an association that has just been accepted by TCP and not been started.

    require_room: raises StorageFull; asked before and while a data set is taken.
    """
    dul: Any = association.dul
    dul.artim_timer.timeout = limits.acse_timeout_s
    dul.socket.recv = _BoundedReader(dul.socket, limits).recv
    dul.state_machine.do_action = _unbreakable(association, dul.state_machine.do_action)
    dimse: Any = association.dimse
    messages = _BoundedMessages(association, limits, on_refused, require_room)
    dimse.receive_primitive = messages.receive
    guarded: Any = association
    guarded._serve_request = _answering(association, association._serve_request, on_refused, messages.without_room)


def discard_unfinished(association: Association) -> None:
    """Remove the temporary files of messages that will not be served any more."""
    waiting: list[Any] = [association.dimse.message]
    while not association.dimse.msg_queue.empty():
        waiting.append(association.dimse.msg_queue.get_nowait()[1])
    for message in waiting:
        _discard(message)


class _BoundedReader:
    """Reads from the socket with a deadline per PDU and a limit to its length."""

    def __init__(self, transport: Any, limits: Limits) -> None:
        self._transport = transport
        self._limits = limits
        self._most = max(limits.max_pdu_bytes, _LEAST_PDU_LIMIT_BYTES)

    def recv(self, count: int) -> bytearray:
        """`count` bytes, or fewer where the peer closed. Raises OSError: the connection is lost."""
        if count > self._most:
            raise ConnectionAbortedError(f"a PDU of {count} bytes is announced; {self._most} are allowed")
        raw: socket.socket = self._transport.socket
        deadline = time.monotonic() + self._limits.dimse_timeout_s
        data = bytearray(count)
        got = 0
        with memoryview(data) as view:
            while got < count:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError("the rest of a PDU did not come in time")
                raw.settimeout(left)
                if _QUICKACK is not None:
                    raw.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)
                received = raw.recv_into(view[got:])
                if not received:
                    break
                got += received
        # Sending uses the same socket, and has its own limit.
        raw.settimeout(self._limits.network_timeout_s)
        del data[got:]
        return data


class _BoundedMessages:
    """Hands P-DATA to pynetdicom value by value, counting bytes per message.

    Of a C-STORE that finds no room pynetdicom gets the command and an empty data set, so that it can be answered; what
    the peer sends until then goes nowhere.
    """

    def __init__(
        self, association: Association, limits: Limits, on_refused: OnRefused, require_room: Callable[[], None]
    ) -> None:
        self._association = association
        self._receive = association.dimse.receive_primitive
        self._limits = limits
        self._on_refused = on_refused
        self._require_room = require_room
        self._bytes = 0
        self._look_at = 0
        self._dropping = False
        # Message ID -> why there is no room for it; until it is answered.
        self.without_room: dict[int, str] = {}

    def receive(self, primitive: P_DATA) -> None:
        for context_id, value in primitive.presentation_data_value_list:
            self._count(len(value))
            if not value[0] & _COMMAND:
                self._look_for_room()
            self._pass_on(context_id, value[:1] if self._dropping and not value[0] & _COMMAND else value)
            if self._association.dimse.message is None:
                self._bytes = self._look_at = 0
                self._dropping = False

    def _pass_on(self, context_id: int, value: bytes) -> None:
        single = P_DATA()
        single.presentation_data_value_list.append((context_id, value))
        try:
            self._receive(single)
        except (AttributeError, ValueError):
            if not _lacks_instance(self._association.dimse.message):
                raise
            # pynetdicom stops at the file meta information, which needs a SOP Instance UID. The data set that follows
            # is still read, so that the request can be answered.
        except OSError as error:
            if self._dropping or not self._drop(f"its data set could not be written ({error.strerror})"):
                raise
            if not value[0] & _COMMAND:
                self._pass_on(context_id, value[:1])

    def _look_for_room(self) -> None:
        if self._dropping or self._bytes < self._look_at:
            return
        self._look_at = self._bytes + _LOOK_EVERY_BYTES
        try:
            self._require_room()
        except StorageFull as error:
            self._drop(str(error))

    def _drop(self, reason: str) -> bool:
        """Take no more of this data set; False where it is no C-STORE's."""
        message = self._association.dimse.message
        number = message.command_set.get("MessageID") if isinstance(message, C_STORE_RQ) else None
        if number is None:
            return False
        self.without_room[int(number)] = reason
        self._dropping = True
        _discard(message)
        unlinked: Any = message
        unlinked._data_set_file = unlinked._data_set_path = None
        return True

    def _count(self, size: int) -> None:
        message = self._association.dimse.message
        is_store = isinstance(message, C_STORE_RQ)
        most = self._limits.max_dataset_bytes if is_store else min(_MOST_MESSAGE_BYTES, self._limits.max_dataset_bytes)
        self._bytes += size
        if self._bytes <= most + self._limits.max_pdu_bytes:
            return
        if is_store and message is not None:
            request = C_STORE()
            request.AffectedSOPClassUID = message.command_set.get("AffectedSOPClassUID")
            request.AffectedSOPInstanceUID = message.command_set.get("AffectedSOPInstanceUID")
            reason = f"it is longer than {most} bytes; the transfer was aborted"
            self._on_refused(self._association, request, Status.CANNOT_UNDERSTAND, reason)
        raise MessageTooLong(f"a message passed {most} bytes")


def _lacks_instance(message: DIMSEMessage | None) -> bool:
    return isinstance(message, C_STORE_RQ) and not message.command_set.get("AffectedSOPInstanceUID")


def _unbreakable(association: Association, act: Callable[[str], None]) -> Callable[[str], None]:
    """An exception in pynetdicom's reactor thread would leave the association hanging and its place taken."""

    def do_action(event: str) -> None:
        try:
            act(event)
        except Exception as error:  # noqa: BLE001 - the last stop before the thread ends; whatever it is, a peer made it
            log.warning("association_broken", cause=type(error).__name__, calling_ae=calling_ae(association))
            end(association)

    return do_action


def end(association: Association) -> None:
    """Stop both threads of an association and close its connection, whatever state it is in."""
    association.is_aborted = True
    association.is_established = False
    hard: Any = association
    hard._kill = True
    hard.dul._kill_thread = True
    # Wakes whoever waits for the association request or for a message.
    hard.dul.to_user_queue.put(None)
    hard.dimse.msg_queue.put((None, None))
    if hard.dul.socket is not None:
        hard.dul.socket._shutdown_socket()
    discard_unfinished(association)


def _answering(
    association: Association,
    serve: Callable[[Any, int], None],
    on_refused: OnRefused,
    without_room: dict[int, str],
) -> Callable[[Any, int], None]:
    """Answers the C-STORE requests that pynetdicom drops or aborts on."""

    def serve_request(message: Any, context_id: int) -> None:
        refusal = _refusal(association, message, context_id)
        full = without_room.pop(message.MessageID or 0, None) if isinstance(message, C_STORE) else None
        if refusal is None and full is not None:
            refusal = Status.OUT_OF_RESOURCES, full
        if refusal is None:
            serve(message, context_id)
            return
        status, reason = refusal
        _discard(message)
        on_refused(association, message, status, reason)
        response = C_STORE()
        response.MessageIDBeingRespondedTo = message.MessageID
        response.AffectedSOPClassUID = message.AffectedSOPClassUID
        response.Status = int(status)
        association.dimse.send_msg(response, context_id)

    return serve_request


def _refusal(association: Association, message: Any, context_id: int) -> tuple[Status, str] | None:
    if not isinstance(message, C_STORE) or message.MessageID is None or message.MessageIDBeingRespondedTo is not None:
        return None
    if not message.AffectedSOPInstanceUID:
        return Status.INVALID_INSTANCE, "its SOP Instance UID is empty or no UID"
    context = association._accepted_cx.get(context_id)
    if context is not None and context.abstract_syntax != message.AffectedSOPClassUID:
        return Status.CLASS_NOT_SUPPORTED, "its SOP class is not the one negotiated for its presentation context"
    return None


def _discard(message: Any) -> None:
    """Close and remove the temporary file of a message or request."""
    file = getattr(message, "_data_set_file", None) or getattr(message, "_dataset_file", None)
    if file is not None:
        # On a full disk what it still holds cannot be written; the file is removed anyway.
        with suppress(OSError):
            file.close()
    path = getattr(message, "_data_set_path", None) or getattr(message, "_dataset_path", None)
    if path is not None:
        path.unlink(missing_ok=True)


def calling_ae(association: Association) -> str:
    """The caller's AE title, "" before it has said one."""
    return "".join(c if " " <= c <= "~" else "?" for c in str(association.requestor.ae_title or "").strip()[:16])
