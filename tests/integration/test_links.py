"""Associations that are kept open, against DCMTK's storescp; what a hostile peer answers a request with."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pynetdicom import build_context

from node.link import Link
from node.settings import Delivery, Peer, Settings
from node.upper_layer import negotiation, requesting
from node.upper_layer.negotiation import Context
from node.upper_layer.wire import ProtocolError, Wire
from tests.support.dcmtk import storescp
from tests.support.listening import CR, chest_file
from tests.support.processes import eventually, free_port
from workers.links import Links

CONTEXT = Context(CR, "1.2.840.10008.1.2.1")
ANOTHER = Context("1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.1.2.1")

pytestmark = pytest.mark.e2e


class Receiver:
    """A storescp that may be asked what it saw; it takes one association at a time, and PDUs of 4 KiB."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.peer = Peer(ae_title="ARCHIVE", host="127.0.0.1", port=free_port())

    def count(self, words: str) -> int:
        return self.folder.with_suffix(".log").read_text(encoding="latin_1").count(words)

    def wait_for(self, words: str, times: int = 1) -> None:
        until = time.monotonic() + 20
        while self.count(words) < times:
            assert time.monotonic() < until, f"it never said {words!r} {times} times"
            time.sleep(0.05)


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    made = Receiver(tmp_path / "received")
    with storescp(made.folder, port=made.peer.port, options=("-pdu", "4096")):
        yield made


def links(idle_s: float = 60.0) -> Links:
    return Links(Settings(delivery=Delivery(association_idle_s=idle_s)), lambda _: True)


def store(link: Link, path: Path) -> None:
    result = link.store(path, CONTEXT, str(dcmread(path, stop_before_pixels=True).SOPInstanceUID))
    assert result.ok, result.reason


def test_one_association_carries_job_after_job_and_every_byte(receiver: Receiver, tmp_path: Path) -> None:
    files = [
        chest_file(tmp_path, f"{n}.dcm", Rows=500, Columns=n, PixelData=bytes(range(250)) * 2 * n)
        for n in (2, 400, 600)
    ]
    with closing(links()) as kept:
        for file in files:
            with kept.use("archive", receiver.peer, [CONTEXT]) as link:
                store(link, file)
    receiver.wait_for("Association Release")
    assert receiver.count("Association Acknowledged") == 1
    got = {dataset.SOPInstanceUID: dataset for dataset in map(dcmread, receiver.folder.iterdir())}
    for file in files:
        sent = dcmread(file)
        assert got[sent.SOPInstanceUID] == sent


def test_it_is_released_when_nobody_uses_it(receiver: Receiver, tmp_path: Path) -> None:
    with closing(links(idle_s=0.3)) as kept:
        with kept.use("archive", receiver.peer, [CONTEXT]) as link:
            store(link, chest_file(tmp_path))
        receiver.wait_for("Association Release")
        assert not link.usable


def test_one_that_the_peer_has_ended_is_replaced(tmp_path: Path) -> None:
    peer = Peer(ae_title="ARCHIVE", host="127.0.0.1", port=free_port())
    with closing(links()) as kept:
        for place in range(2):
            folder = tmp_path / str(place)
            with storescp(folder, port=peer.port), kept.use("archive", peer, [CONTEXT]) as link:
                store(link, chest_file(tmp_path))
            assert len(list(folder.iterdir())) == 1


def test_what_was_not_offered_opens_a_new_one_that_offers_both(receiver: Receiver) -> None:
    with closing(links()) as kept:
        with kept.use("archive", receiver.peer, [CONTEXT]) as first:
            assert first.accepted == (CONTEXT,)
        with kept.use("archive", receiver.peer, [ANOTHER]) as second:
            assert set(second.accepted) == {CONTEXT, ANOTHER}
        with kept.use("archive", receiver.peer, [CONTEXT]) as third:
            assert third is second


def test_whoever_fails_in_the_middle_leaves_nothing_behind(receiver: Receiver) -> None:
    with closing(links()) as kept:
        with pytest.raises(KeyboardInterrupt), kept.use("archive", receiver.peer, [CONTEXT]) as link:
            raise KeyboardInterrupt
        assert not link.usable
        receiver.wait_for("Association Aborted")


def test_one_that_does_not_finish_its_sentence_holds_up_no_other(receiver: Receiver) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, closing(links()) as kept, ThreadPoolExecutor(1) as pool:
        slow = pool.submit(accepted, server)
        mute = Peer(ae_title="MUTE", host="127.0.0.1", port=server.getsockname()[1])
        with kept.use("mute", mute, [CONTEXT]) as link:
            pass
        with slow.result() as theirs:
            theirs.sendall(b"\4")
            # The byte has been taken, so that somebody waits for the rest of it.
            eventually("it is attended to", lambda: not link.readable())
            with kept.use("archive", receiver.peer, [CONTEXT]) as other:
                assert other.usable
            assert link.usable


def accepted(server: socket.socket) -> socket.socket:
    theirs, _ = server.accept()
    _, body = Wire(theirs, 16384, 5, 5).read(5)
    supported = [build_context(CONTEXT.abstract_syntax, CONTEXT.transfer_syntax)]
    theirs.sendall(negotiation.accept(negotiation.read(bytes(body)), supported, 16384).pdu)
    return theirs


@settings(max_examples=300, deadline=None)
@given(
    st.binary(max_size=400), st.sampled_from([requesting.read_refusal, lambda b: requesting.read_answer(b, [CONTEXT])])
)
def test_an_answer_that_is_none_is_a_broken_protocol(body: bytes, read: object) -> None:
    try:
        answer = read(body)
    except ProtocolError:
        return
    assert isinstance(answer, requesting.Answer | requesting.Refusal)
