"""Statuses the node answers (PS3.4 B.2.3, PS3.7 annex C)."""

from __future__ import annotations

from enum import IntEnum


class Status(IntEnum):
    """What a peer is told. Out-of-resources invites it to try again later; the other failures do not."""

    SUCCESS = 0x0000
    INVALID_VALUE = 0x0106
    PROCESSING_FAILURE = 0x0110
    DUPLICATE_INSTANCE = 0x0111
    NO_SUCH_INSTANCE = 0x0112
    INVALID_ARGUMENT = 0x0115
    INVALID_INSTANCE = 0x0117  # malformed or empty SOP Instance UID
    NO_SUCH_CLASS = 0x0118
    CLASS_INSTANCE_CONFLICT = 0x0119  # as a Failure Reason: the instance is of another class
    MISSING_ATTRIBUTE = 0x0120
    MISSING_VALUE = 0x0121
    CLASS_NOT_SUPPORTED = 0x0122  # the data set's class is not the one negotiated for its context
    NO_SUCH_ACTION = 0x0123
    NOT_AUTHORISED = 0x0124
    UNRECOGNISED_OPERATION = 0x0211
    RESOURCE_LIMITATION = 0x0213
    OUT_OF_RESOURCES = 0xA700
    MISMATCH = 0xA900  # the data set is not of the class or instance that the command names
    CANNOT_UNDERSTAND = 0xC000
