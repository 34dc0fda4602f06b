"""What an association takes for the answer to a C-STORE, and what it does with a file that is not as it should be."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydicom import dcmread

from node.link import Link
from node.settings import Peer, Settings
from node.upper_layer import commands, requesting, wire
from node.upper_layer.commands import C_ECHO_RQ, C_STORE_RQ, Command
from node.upper_layer.negotiation import Context
from node.upper_layer.wire import ProtocolError
from tests.support.listening import CR, chest_file

EXPLICIT, JPEG = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.70"


@contextmanager
def association(transfer_syntax: str = EXPLICIT, max_pdu_bytes: int = 16384) -> Iterator[tuple[Link, socket.socket]]:
    """A link on which one context is accepted, and the peer's end of it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname())
        theirs, _ = server.accept()
    context = Context(CR, transfer_syntax)
    answer = requesting.Answer({context: 1}, max_pdu_bytes)
    peer = Peer(ae_title="ARCHIVE", host="127.0.0.1", port=104)
    link = Link(ours, answer, peer, Settings(), offered=[context], on_commitment=lambda _: True)
    with theirs:
        yield link, theirs
        link.abort()


def said(field: int, message_id: int, uid: str, status: int = 0x0000) -> bytes:
    return wire.data(1, commands.response(Command(field, message_id, False, CR, uid), status), command=True)


def uid_of(path: Path) -> str:
    return str(dcmread(path, stop_before_pixels=True).SOPInstanceUID)


@pytest.mark.parametrize("uid", ["the same", ""])
def test_a_success_for_this_object_is_one(tmp_path: Path, uid: str) -> None:
    path = chest_file(tmp_path)
    with association() as (link, theirs):
        theirs.sendall(said(C_STORE_RQ, 1, uid_of(path) if uid else ""))
        assert link.store(path, Context(CR, EXPLICIT), uid_of(path)).ok
        assert link.usable


@pytest.mark.parametrize(
    ("field", "message_id", "uid"), [(C_STORE_RQ, 1, "1.2.3"), (C_STORE_RQ, 2, ""), (C_ECHO_RQ, 1, "")]
)
def test_a_success_for_anything_else_is_a_failure_and_the_end(
    tmp_path: Path, field: int, message_id: int, uid: str
) -> None:
    path = chest_file(tmp_path)
    with association() as (link, theirs):
        theirs.sendall(said(field, message_id, uid))
        result = link.store(path, Context(CR, EXPLICIT), uid_of(path))
        assert (result.ok, result.retriable, link.usable) == (False, True, False)


def test_a_second_answer_to_the_same_request_ends_the_association(tmp_path: Path) -> None:
    path = chest_file(tmp_path)
    with association() as (link, theirs):
        theirs.sendall(said(C_STORE_RQ, 1, "") * 2)
        assert link.store(path, Context(CR, EXPLICIT), uid_of(path)).ok
        assert not link.attend()


def test_a_file_is_not_encoded_anew_for_a_compressed_context(tmp_path: Path) -> None:
    path = chest_file(tmp_path)
    with association(JPEG) as (link, theirs):
        result = link.store(path, Context(CR, JPEG), uid_of(path))
        assert (result.ok, result.retriable) == (False, False)
        assert theirs.recv(1 << 16) == wire.abort(0, 0)


def test_fragments_are_of_even_length_whatever_the_peer_takes(tmp_path: Path) -> None:
    path = chest_file(tmp_path)
    with association(max_pdu_bytes=1001) as (link, theirs):
        theirs.sendall(said(C_STORE_RQ, 1, ""))
        assert link.store(path, Context(CR, EXPLICIT), uid_of(path)).ok
        theirs.settimeout(5)
        talk = wire.Wire(theirs, 1001, 5, 5)
        last = False
        while not last:
            _, body = talk.read(5)
            assert len(body) % 2 == 0
            last = body[5] == 0x02


def test_a_context_accepted_without_a_transfer_syntax_is_a_broken_protocol() -> None:
    def item(kind: int, value: bytes) -> bytes:
        return bytes((kind, 0)) + len(value).to_bytes(2, "big") + value

    accepted = item(0x21, bytes((1, 0, 0, 0)))
    body = b"\0\1\0\0" + b"A" * 32 + bytes(32) + item(0x10, b"1.2.840.10008.3.1.1.1") + accepted + item(0x50, b"")
    with pytest.raises(ProtocolError, match="not offered"):
        requesting.read_answer(body, [Context(CR, EXPLICIT)])
