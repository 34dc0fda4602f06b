"""What of an A-ASSOCIATE-RQ is accepted (PS3.8 section 9.3.2, PS3.7 annex D). pynetdicom reads, decides and writes."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pynetdicom import PYNETDICOM_IMPLEMENTATION_UID, PYNETDICOM_IMPLEMENTATION_VERSION
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    ImplementationClassUIDNotification,
    ImplementationVersionNameNotification,
    MaximumLengthNotification,
)
from pynetdicom.presentation import PresentationContext, negotiate_as_acceptor

from node.upper_layer.wire import ProtocolError

APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"
_FIXED_BYTES = 68
_UNLIMITED_BYTES, _LEAST_PDU_BYTES = 1 << 18, 128
_ACCEPTED, _PROVIDER = 0x00, 0x01
# What a malformed request makes of pynetdicom's decoders, which check little and late.
MALFORMED = (
    AssertionError,
    AttributeError,
    IndexError,
    KeyError,
    NotImplementedError,
    RecursionError,
    TypeError,
    ValueError,
    struct.error,
)


@dataclass(frozen=True)
class Request:
    """An A-ASSOCIATE-RQ. Titles as the peer sent them, without padding. max_pdu_bytes: longest P-DATA body it takes."""

    called_ae: str
    calling_ae: str
    application_context: str
    protocol_version: int
    max_pdu_bytes: int
    primitive: Any


@dataclass(frozen=True)
class Context:
    """An accepted presentation context."""

    abstract_syntax: str
    transfer_syntax: str


@dataclass(frozen=True)
class Accepted:
    """contexts: by context ID. missed: abstract syntaxes that no context took, with the result of the last one."""

    pdu: bytes
    contexts: dict[int, Context]
    missed: dict[str, int]


def read(body: bytes) -> Request:
    """Raises ProtocolError where pynetdicom cannot make sense of it."""
    if len(body) < _FIXED_BYTES:
        raise ProtocolError(ProtocolError.INVALID_VALUE, "an association request is too short")
    pdu = A_ASSOCIATE_RQ()
    try:
        with warnings.catch_warnings(action="ignore"):
            pdu.decode(struct.pack(">BxL", 1, len(body)) + body)
            primitive = pdu.to_primitive()
    except MALFORMED as error:
        raise ProtocolError(
            ProtocolError.INVALID_VALUE, f"an association request cannot be read ({type(error).__name__})"
        ) from error
    if not primitive.presentation_context_definition_list:
        raise ProtocolError(ProtocolError.INVALID_VALUE, "an association request proposes nothing")
    return Request(
        called_ae=str(primitive.called_ae_title or "").strip(),
        calling_ae=str(primitive.calling_ae_title or "").strip(),
        application_context=str(primitive.application_context_name or ""),
        protocol_version=int(pdu.protocol_version),
        max_pdu_bytes=_longest(primitive),
        primitive=primitive,
    )


def _longest(primitive: Any) -> int:
    """Where a peer sets no limit, or a high one, `_UNLIMITED_BYTES`; where it is absurdly low, what a header takes."""
    most = int(primitive.maximum_length_received or 0) or _UNLIMITED_BYTES
    return max(_LEAST_PDU_BYTES, min(most, _UNLIMITED_BYTES))


def accept(request: Request, supported: Sequence[PresentationContext], max_pdu_bytes: int) -> Accepted:
    """The A-ASSOCIATE-AC. Raises ProtocolError where what is proposed cannot be answered."""
    asked = request.primitive
    roles = {
        item.sop_class_uid: (item.scu_role, item.scp_role)
        for item in asked.user_information
        if hasattr(item, "scu_role")
    }
    try:
        results, answered_roles = negotiate_as_acceptor(
            asked.presentation_context_definition_list, list(supported), roles
        )
        pdu = _answer(request, results, answered_roles, max_pdu_bytes)
    except MALFORMED as error:
        raise ProtocolError(
            ProtocolError.INVALID_VALUE, f"what is proposed cannot be answered ({type(error).__name__})"
        ) from error
    contexts = {
        int(c.context_id or 0): Context(str(c.abstract_syntax), str(c.transfer_syntax[0]))
        for c in results
        if c.result == _ACCEPTED
    }
    taken = {context.abstract_syntax for context in contexts.values()}
    refused = {str(c.abstract_syntax): int(c.result or 0) for c in results if c.result != _ACCEPTED}
    return Accepted(pdu, contexts, {uid: result for uid, result in refused.items() if uid not in taken})


def _answer(request: Request, results: list[Any], roles: list[Any], max_pdu_bytes: int) -> bytes:
    answer = A_ASSOCIATE()
    answer.application_context_name = APPLICATION_CONTEXT
    answer.calling_ae_title = request.primitive.calling_ae_title
    answer.called_ae_title = request.primitive.called_ae_title
    answer.result, answer.result_source = _ACCEPTED, _PROVIDER
    answer.presentation_context_definition_results_list = results
    longest = MaximumLengthNotification()
    longest.maximum_length_received = max_pdu_bytes
    implementation = ImplementationClassUIDNotification()
    implementation.implementation_class_uid = PYNETDICOM_IMPLEMENTATION_UID
    version = ImplementationVersionNameNotification()
    version.implementation_version_name = PYNETDICOM_IMPLEMENTATION_VERSION
    answer.user_information = [longest, implementation, version, *roles]
    encoded: bytes = A_ASSOCIATE_AC(answer).encode()
    return encoded
