"""The upper layer's parts on their own: states, PDUs within their time and size, command sets, proposals."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pynetdicom.dimse_messages import C_STORE_RSP, N_EVENT_REPORT_RSP
from pynetdicom.dimse_primitives import C_STORE, N_EVENT_REPORT
from pynetdicom.pdu import A_ABORT_RQ, A_ASSOCIATE_AC, A_ASSOCIATE_RJ, A_RELEASE_RP

from node.syntaxes import supported_contexts
from node.upper_layer import commands, negotiation, wire
from node.upper_layer.states import TABLE, Action, Pdu, State
from node.upper_layer.wire import PeerGone, ProtocolError, TooSlow, Wire
from tests.support import raw_association as raw

UID = st.from_regex(r"[1-9][0-9]{0,7}(\.(0|[1-9][0-9]{0,7})){1,5}", fullmatch=True)


def test_every_pdu_has_an_action_in_every_state_that_takes_one() -> None:
    assert set(TABLE) == {(state, pdu) for state in (State.AWAITING_REQUEST, State.ESTABLISHED) for pdu in Pdu}
    served = {key for key, action in TABLE.items() if action in (Action.ANSWER_REQUEST, Action.TAKE_DATA)}
    assert served == {(State.AWAITING_REQUEST, Pdu.ASSOCIATE_RQ), (State.ESTABLISHED, Pdu.P_DATA)}


@pytest.fixture
def pair() -> Iterator[tuple[Wire, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        theirs = socket.create_connection(server.getsockname())
        ours, _ = server.accept()
    with ours, theirs:
        yield Wire(ours, max_pdu_bytes=1000, pdu_s=0.3, send_s=0.3), theirs


def test_pdus_come_whole_and_one_by_one(pair: tuple[Wire, socket.socket]) -> None:
    ours, theirs = pair
    theirs.sendall(raw.pdu(4, b"x" * 1000) + raw.pdu(1, b"y" * 70) + raw.pdu(200, b""))
    assert [(kind, bytes(body)) for kind, body in (ours.read(1) for _ in range(3))] == [
        (Pdu.P_DATA, b"x" * 1000),
        (Pdu.ASSOCIATE_RQ, b"y" * 70),
        (Pdu.UNKNOWN, b""),
    ]
    theirs.close()
    with pytest.raises(PeerGone):
        ours.read(1)


@pytest.mark.parametrize(("kind", "length"), [(4, 1001), (4, 2**32 - 1), (1, 2**18 + 1), (99, 2**31)])
def test_more_than_is_allowed_is_refused_unread(pair: tuple[Wire, socket.socket], kind: int, length: int) -> None:
    ours, theirs = pair
    theirs.sendall(struct.pack(">BxL", kind, length))
    with pytest.raises(ProtocolError):
        ours.read(1)


def test_a_pdu_that_drips_is_given_up_in_its_time(pair: tuple[Wire, socket.socket]) -> None:
    ours, theirs = pair
    theirs.sendall(raw.pdu(4, b"x" * 100)[:50])
    began = time.monotonic()
    with pytest.raises(TooSlow):
        ours.read(5)
    assert time.monotonic() - began < 1
    with pytest.raises(TooSlow):
        ours.read(5, until=time.monotonic() + 0.1)
    assert time.monotonic() - began < 1


def test_what_is_sent_is_what_pynetdicom_reads() -> None:
    aborted, rejected, released = A_ABORT_RQ(), A_ASSOCIATE_RJ(), A_RELEASE_RP()
    aborted.decode(wire.abort(2, 6))
    assert (aborted.source, aborted.reason_diagnostic) == (2, 6)
    rejected.decode(wire.reject(2, 3, 2))
    assert (rejected.result, rejected.source, rejected.reason_diagnostic) == (2, 3, 2)
    released.decode(wire.release_response())
    assert released.encode() == wire.release_response()


@given(UID, UID, st.integers(0, 65535), st.integers(0, 65535))
def test_a_response_is_pynetdicoms(sop_class: str, sop_instance: str, message_id: int, status: int) -> None:
    command = commands.Command(1, message_id, True, sop_class, sop_instance)
    theirs = C_STORE()
    theirs.MessageIDBeingRespondedTo, theirs.Status = message_id, status
    theirs.AffectedSOPClassUID, theirs.AffectedSOPInstanceUID = sop_class, sop_instance
    assert commands.response(command, status) == _encoded(C_STORE_RSP(), theirs)


def test_the_answer_to_a_report_is_pynetdicoms() -> None:
    theirs = N_EVENT_REPORT()
    theirs.MessageIDBeingRespondedTo, theirs.Status, theirs.EventTypeID = 7, 0x0112, 2
    theirs.AffectedSOPClassUID, theirs.AffectedSOPInstanceUID = "1.2.840.10008.1.20.1", "1.2.840.10008.1.20.1.1"
    command = commands.Command(0x0100, 7, True, "1.2.840.10008.1.20.1", "1.2.840.10008.1.20.1.1", event_type=2)
    assert commands.response(command, 0x0112) == _encoded(N_EVENT_REPORT_RSP(), theirs)


def _encoded(message: C_STORE_RSP | N_EVENT_REPORT_RSP, primitive: C_STORE | N_EVENT_REPORT) -> bytes:
    message.primitive_to_message(primitive)
    (value,) = message.encode_msg(1, 16384)
    return bytes(value.presentation_data_value_list[0][1][1:])


@given(st.binary(max_size=400))
def test_any_bytes_are_a_command_or_a_protocol_error(data: bytes) -> None:
    try:
        command = commands.parse(data)
    except ProtocolError:
        return
    assert 0 <= command.field <= 0xFFFF


@given(st.text(st.characters(max_codepoint=255), max_size=200))
def test_whatever_a_command_calls_an_instance_can_be_answered(name: str) -> None:
    command = commands.parse(raw.with_length(raw.store_command(name)))
    assert len(command.sop_instance_uid) <= 200
    assert len(commands.response(command, 0x0117)) < 300


@given(st.binary(max_size=600))
def test_any_bytes_are_a_request_or_a_protocol_error(data: bytes) -> None:
    for body in (data, raw.request()[6:80] + data):
        try:
            request = negotiation.read(body)
        except ProtocolError:
            continue
        assert request.primitive.presentation_context_definition_list


def test_proposals_are_answered_one_by_one() -> None:
    invented = "1.2.826.0.1.3680043.9.9999.1"
    proposals = [
        (raw.VERIFICATION, (raw.IMPLICIT,)),
        (raw.CR, ("1.2.3.4", raw.EXPLICIT)),
        (raw.CR, ("1.2.3.4",)),
        (invented, (raw.IMPLICIT,)),
        ("1.2.840.10008.5.1.4.1.1.2", ("1.2.3.4",)),
    ]
    request = negotiation.read(raw.request(proposals)[6:])
    assert (request.called_ae, request.calling_ae) == ("RADNODE", "RAW")
    accepted = negotiation.accept(request, supported_contexts(), 131072)
    assert {number: c.transfer_syntax for number, c in accepted.contexts.items()} == {1: raw.IMPLICIT, 3: raw.EXPLICIT}
    assert accepted.missed == {invented: 3, "1.2.840.10008.5.1.4.1.1.2": 4}
    answer = A_ASSOCIATE_AC()
    answer.decode(accepted.pdu)
    assert answer.user_information.maximum_length == 131072
    assert [context.result for context in answer.presentation_context] == [0, 0, 4, 3, 4]
