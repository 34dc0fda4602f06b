"""How an association is asked for, and what is answered (PS3.8 9.3.2 to 9.3.4). pynetdicom writes and reads."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pynetdicom import PYNETDICOM_IMPLEMENTATION_UID, PYNETDICOM_IMPLEMENTATION_VERSION, build_context, build_role
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RJ, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    ImplementationClassUIDNotification,
    ImplementationVersionNameNotification,
    MaximumLengthNotification,
)

from node.upper_layer.negotiation import APPLICATION_CONTEXT, MALFORMED, Context
from node.upper_layer.states import Pdu
from node.upper_layer.wire import ProtocolError

MOST_CONTEXTS = 128
_ACCEPTED, _PERMANENT = 0x00, 0x01
# A peer that sets no limit gets PDUs of this size; one that sets less than a header takes is refused.
_UNLIMITED_BYTES, _LEAST_PDU_BYTES = 1 << 20, 128


@dataclass(frozen=True)
class Answer:
    """An A-ASSOCIATE-AC. contexts: what was accepted, with its ID. max_pdu_bytes: the longest P-DATA body to send."""

    contexts: dict[Context, int]
    max_pdu_bytes: int


@dataclass(frozen=True)
class Refusal:
    """An A-ASSOCIATE-RJ."""

    permanent: bool
    reason: str


def request(
    calling_ae: str, called_ae: str, offered: Sequence[Context], max_pdu_bytes: int, provides: Sequence[str] = ()
) -> bytes:
    """An A-ASSOCIATE-RQ that offers each context by itself; its ID is 1, 3, 5 and so on in their order.

    provides: abstract syntaxes in which this node is to be the provider, as whoever asks by C-GET is (PS3.7 D.3.3.4).
    """
    asked = A_ASSOCIATE()
    asked.application_context_name = APPLICATION_CONTEXT
    asked.calling_ae_title, asked.called_ae_title = calling_ae, called_ae
    contexts = []
    for place, one in enumerate(offered):
        context = build_context(one.abstract_syntax, one.transfer_syntax)
        context.context_id = 2 * place + 1
        contexts.append(context)
    asked.presentation_context_definition_list = contexts
    longest, implementation = MaximumLengthNotification(), ImplementationClassUIDNotification()
    version = ImplementationVersionNameNotification()
    longest.maximum_length_received = max_pdu_bytes
    implementation.implementation_class_uid = PYNETDICOM_IMPLEMENTATION_UID
    version.implementation_version_name = PYNETDICOM_IMPLEMENTATION_VERSION
    roles = [build_role(uid, scp_role=True) for uid in provides]
    asked.user_information = [longest, implementation, version, *roles]
    encoded: bytes = A_ASSOCIATE_RQ(asked).encode()
    return encoded


def read_answer(body: bytes, offered: Sequence[Context]) -> Answer:
    """Raises ProtocolError where it makes no sense, or accepts what was not offered."""
    answer = _decoded(A_ASSOCIATE_AC(), Pdu.ASSOCIATE_AC, body, lambda pdu: pdu.to_primitive())
    contexts = {}
    for result in answer.presentation_context_definition_results_list:
        if result.result != _ACCEPTED:
            continue
        place, odd = divmod(int(result.context_id), 2)
        syntaxes = [str(one) for one in result.transfer_syntax or ()]
        if not odd or place >= len(offered) or syntaxes[:1] != [offered[place].transfer_syntax]:
            raise ProtocolError(ProtocolError.INVALID_VALUE, "a presentation context is accepted that was not offered")
        contexts[offered[place]] = 2 * place + 1
    most = int(answer.maximum_length_received or 0) or _UNLIMITED_BYTES
    if most < _LEAST_PDU_BYTES:
        raise ProtocolError(ProtocolError.INVALID_VALUE, f"the peer takes no more than {most} bytes at a time")
    return Answer(contexts, min(most, _UNLIMITED_BYTES))


def read_refusal(body: bytes) -> Refusal:
    """Raises ProtocolError where it makes no sense."""
    permanent, reason = _decoded(
        A_ASSOCIATE_RJ(), Pdu.ASSOCIATE_RJ, body, lambda pdu: (pdu.result == _PERMANENT, str(pdu.reason_str))
    )
    return Refusal(permanent, reason)


def _decoded(pdu: Any, kind: Pdu, body: bytes, told: Callable[[Any], Any]) -> Any:
    try:
        with warnings.catch_warnings(action="ignore"):
            pdu.decode(struct.pack(">BxL", kind, len(body)) + body)
            return told(pdu)
    except MALFORMED as error:
        raise ProtocolError(
            ProtocolError.INVALID_VALUE, f"the answer to an association request cannot be read ({type(error).__name__})"
        ) from error
