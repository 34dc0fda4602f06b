"""DIMSE command sets (PS3.7 section 6.3, annex E): read with every length checked, written by hand.

A command set is in implicit VR little endian and short; of it the node needs a handful of elements.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from uuid import uuid4

from node.upper_layer.wire import ProtocolError

MOST_COMMAND_BYTES = 1 << 16
# Bits of the message control header (PS3.8 E.2).
IS_COMMAND, IS_LAST = 0x01, 0x02

C_STORE_RQ, C_GET_RQ, C_MOVE_RQ, C_ECHO_RQ, C_CANCEL_RQ = 0x0001, 0x0010, 0x0021, 0x0030, 0x0FFF
C_FIND_RQ = 0x0020
N_EVENT_REPORT_RQ, N_GET_RQ, N_SET_RQ, N_ACTION_RQ, N_CREATE_RQ = 0x0100, 0x0110, 0x0120, 0x0130, 0x0140
RESPONSE = 0x8000
NO_DATA_SET = 0x0101

_AFFECTED_CLASS, _REQUESTED_CLASS, _COMMAND_FIELD, _MESSAGE_ID = 0x0002, 0x0003, 0x0100, 0x0110
_RESPONDED_TO, _PRIORITY, _DATA_SET_TYPE, _STATUS = 0x0120, 0x0700, 0x0800, 0x0900
_MOVE_DESTINATION, _MOVE_ORIGINATOR = 0x0600, 0x1030
_AFFECTED_INSTANCE, _REQUESTED_INSTANCE, _EVENT_TYPE, _ACTION_TYPE = 0x1000, 0x1001, 0x1002, 0x1008
_COMMENT, _ATTRIBUTES = 0x0902, 0x1005
_COMPLETED, _FAILED, _WARNED = 0x1021, 0x1022, 0x1023
_HEADER, _SHORT = struct.Struct("<HHL"), struct.Struct("<H")
_MEDIUM, _HAS_DATA_SET = 0x0000, 0x0001
_LONGEST_COMMENT = 64


@dataclass(frozen=True)
class Command:
    """A request or a response. UIDs are the peer's strings, as they came but for padding; "" where absent.

    attributes: tags that an N-GET asks for; none means all.

    responded_to, status: of a response. completed, failed, warned: how many objects of a C-GET or C-MOVE so far; None
    where it does not say. move_originator: the AE title whose C-MOVE brings a C-STORE.
    """

    field: int
    message_id: int
    has_data_set: bool
    sop_class_uid: str = ""
    sop_instance_uid: str = ""
    event_type: int | None = None
    action_type: int | None = None
    attributes: tuple[int, ...] = ()
    responded_to: int | None = None
    status: int | None = None
    completed: int | None = None
    failed: int | None = None
    warned: int | None = None
    move_originator: str = ""


def gathered(next_value: Callable[[], tuple[int, int, memoryview]]) -> tuple[Command, int]:
    """The next command set and its presentation context ID, as `next_value` gives it fragment by fragment.

    Raises ProtocolError where something else comes, it is too long or none; and what `next_value` raises.
    """
    collected = bytearray()
    while True:
        context_id, control, value = next_value()
        if not control & IS_COMMAND:
            raise ProtocolError(ProtocolError.UNEXPECTED_PARAMETER, "a data set without a command")
        collected += value
        if len(collected) > MOST_COMMAND_BYTES:
            raise ProtocolError(ProtocolError.INVALID_VALUE, "a command set is too long")
        if control & IS_LAST:
            return parse(bytes(collected)), context_id


def parse(data: bytes) -> Command:
    """Raises ProtocolError where it is no command set, or has no command field or message ID."""
    values: dict[int, bytes] = {}
    position = 0
    while position < len(data):
        if position + _HEADER.size > len(data):
            raise ProtocolError(ProtocolError.INVALID_VALUE, "a command set ends inside an element")
        group, element, length = _HEADER.unpack_from(data, position)
        position += _HEADER.size
        if group != 0x0000 or position + length > len(data):
            raise ProtocolError(ProtocolError.INVALID_VALUE, "a command set is malformed")
        values[element] = data[position : position + length]
        position += length
    number, message_id = _unsigned(values, _COMMAND_FIELD), _unsigned(values, _MESSAGE_ID)
    if number is None or (message_id is None and not number & RESPONSE and number != C_CANCEL_RQ):
        raise ProtocolError(ProtocolError.INVALID_VALUE, "a command has no command field or no message ID")
    return Command(
        field=number,
        message_id=message_id or 0,
        has_data_set=_unsigned(values, _DATA_SET_TYPE) != NO_DATA_SET,
        sop_class_uid=_uid(values, _AFFECTED_CLASS) or _uid(values, _REQUESTED_CLASS),
        sop_instance_uid=_uid(values, _AFFECTED_INSTANCE) or _uid(values, _REQUESTED_INSTANCE),
        event_type=_unsigned(values, _EVENT_TYPE),
        action_type=_unsigned(values, _ACTION_TYPE),
        attributes=_tags(values.get(_ATTRIBUTES, b"")),
        responded_to=_unsigned(values, _RESPONDED_TO),
        status=_unsigned(values, _STATUS),
        completed=_unsigned(values, _COMPLETED),
        failed=_unsigned(values, _FAILED),
        warned=_unsigned(values, _WARNED),
        move_originator=_uid(values, _MOVE_ORIGINATOR),
    )


def named(command: Command) -> Command:
    """An N-CREATE whose user leaves it to the provider to name the object gets a new UID (PS3.7 10.1.5.1.4)."""
    if command.field != N_CREATE_RQ or command.sop_instance_uid:
        return command
    return replace(command, sop_instance_uid=f"2.25.{uuid4().int}")


def response(command: Command, status: int, *, comment: str = "", data_set: bool = False) -> bytes:
    """The command set that answers. data_set: one follows.

    UIDs go back as they came (PS3.7 9.3 and 10.3 allow it), except where they are longer than a UID can be. comment:
    ASCII, of which an Error Comment (0000,0902) takes 64 characters.
    """
    elements = [
        (_AFFECTED_CLASS, _padded(command.sop_class_uid)),
        (_COMMAND_FIELD, _SHORT.pack(command.field | RESPONSE)),
        (_RESPONDED_TO, _SHORT.pack(command.message_id)),
        (_DATA_SET_TYPE, _SHORT.pack(_HAS_DATA_SET if data_set else NO_DATA_SET)),
        (_STATUS, _SHORT.pack(status)),
        (_COMMENT, _even(comment.encode("ascii", "replace")[:_LONGEST_COMMENT], b" ")),
        (_AFFECTED_INSTANCE, _padded(command.sop_instance_uid)),
        (_EVENT_TYPE, b"" if command.event_type is None else _SHORT.pack(command.event_type)),
        (_ACTION_TYPE, b"" if command.action_type is None else _SHORT.pack(command.action_type)),
    ]
    return _encoded(elements)


def store_request(message_id: int, sop_class_uid: str, sop_instance_uid: str) -> bytes:
    """The command set of a C-STORE-RQ (PS3.7 9.3.1.1)."""
    elements = [
        (_AFFECTED_CLASS, _padded(sop_class_uid)),
        (_COMMAND_FIELD, _SHORT.pack(C_STORE_RQ)),
        (_MESSAGE_ID, _SHORT.pack(message_id)),
        (_PRIORITY, _SHORT.pack(_MEDIUM)),
        (_DATA_SET_TYPE, _SHORT.pack(_HAS_DATA_SET)),
        (_AFFECTED_INSTANCE, _padded(sop_instance_uid)),
    ]
    return _encoded(elements)


def retrieve_request(message_id: int, sop_class_uid: str, move_destination: str = "") -> bytes:
    """The command set of a C-GET-RQ, or with a destination's AE title of a C-MOVE-RQ (PS3.7 9.3.3.1, 9.3.4.1)."""
    destination = move_destination.encode("ascii")
    elements = [
        (_AFFECTED_CLASS, _padded(sop_class_uid)),
        (_COMMAND_FIELD, _SHORT.pack(C_MOVE_RQ if move_destination else C_GET_RQ)),
        (_MESSAGE_ID, _SHORT.pack(message_id)),
        (_MOVE_DESTINATION, destination + b" " * (len(destination) % 2)),
        (_PRIORITY, _SHORT.pack(_MEDIUM)),
        (_DATA_SET_TYPE, _SHORT.pack(_HAS_DATA_SET)),
    ]
    return _encoded(elements)


def action_request(message_id: int, sop_class_uid: str, sop_instance_uid: str, action_type: int) -> bytes:
    """The command set of an N-ACTION-RQ (PS3.7 10.3.4.1)."""
    elements = [
        (_REQUESTED_CLASS, _padded(sop_class_uid)),
        (_COMMAND_FIELD, _SHORT.pack(N_ACTION_RQ)),
        (_MESSAGE_ID, _SHORT.pack(message_id)),
        (_DATA_SET_TYPE, _SHORT.pack(_HAS_DATA_SET)),
        (_REQUESTED_INSTANCE, _padded(sop_instance_uid)),
        (_ACTION_TYPE, _SHORT.pack(action_type)),
    ]
    return _encoded(elements)


def _encoded(elements: list[tuple[int, bytes]]) -> bytes:
    body = b"".join(_HEADER.pack(0, element, len(value)) + value for element, value in elements if value)
    return _HEADER.pack(0, 0x0000, 4) + struct.pack("<L", len(body)) + body


def _tags(value: bytes) -> tuple[int, ...]:
    whole = value[: len(value) & ~3]
    return tuple(group << 16 | element for group, element in struct.iter_unpack("<HH", whole))


def _unsigned(values: dict[int, bytes], element: int) -> int | None:
    value = values.get(element, b"")
    return int.from_bytes(value, "little") if len(value) == 2 else None


def _uid(values: dict[int, bytes], element: int) -> str:
    return values.get(element, b"").decode("latin_1").strip("\0 ")


def _padded(uid: str) -> bytes:
    return _even(uid[:64].encode("latin_1"), b"\0")


def _even(value: bytes, pad: bytes) -> bytes:
    return value + pad * (len(value) % 2)
