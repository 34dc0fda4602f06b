"""C-GET and C-MOVE against a peer that is set up for each: what is taken, what is answered, what is bounded."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pynetdicom import AE, evt

from db.errors import PeerUnavailable
from node.retrieve.retrieving import (
    STUDY_ROOT_GET,
    STUDY_ROOT_MOVE,
    Bounds,
    Incoming,
    TooMuch,
    Wanted,
    get,
    storage_contexts,
)
from node.scu import PeerRefused
from node.settings import Delivery, Peer, Settings
from node.upper_layer.requesting import MOST_CONTEXTS
from tests.support.listening import CR, chest_file
from tests.support.processes import free_port

# The peer's library leaves sockets open when it is aborted in the middle of something.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

STUDY = Wanted("1.2.3.4")


class Taker:
    """Takes every image, or answers `status`; remembers what came."""

    def __init__(self, status: int = 0x0000) -> None:
        self.came: list[tuple[Incoming, int]] = []
        self.status = status

    def __call__(self, incoming: Incoming, pieces: Iterator[memoryview]) -> int:
        self.came.append((incoming, sum(len(piece) for piece in pieces)))
        return self.status


@contextmanager
def archive(answers: Any, *models: str, storing: bool = True) -> Iterator[Settings]:
    """A peer whose C-GET and C-MOVE do as `answers(event)` says."""
    entity = AE("ARCHIVE")
    for model in models:
        entity.add_supported_context(model)
    if storing:
        entity.add_supported_context(CR, "1.2.840.10008.1.2.1", scu_role=False, scp_role=True)
    port = free_port()
    handlers: list[Any] = [(evt.EVT_C_GET, answers), (evt.EVT_C_MOVE, answers)]
    server: Any = entity.start_server(("127.0.0.1", port), block=False, evt_handlers=handlers)
    try:
        yield Settings(
            peers={"archive": Peer(ae_title="ARCHIVE", host="127.0.0.1", port=port)},
            delivery=Delivery(response_timeout_s=5.0, connect_timeout_s=5.0),
        )
    finally:
        server.shutdown()


def images(folder: Path, count: int) -> list[Dataset]:
    return [dcmread(chest_file(folder, f"{n}.dcm", SOPInstanceUID=f"1.2.3.4.{n}")) for n in range(1, count + 1)]


def gives(found: list[Dataset], asked: list[Dataset] | None = None) -> Any:
    def answers(event: evt.Event) -> Iterator[Any]:
        if asked is not None:
            asked.append(event.identifier)
        yield len(found)
        for one in found:
            yield 0xFF00, one

    return answers


def ask(settings: Settings, take: Taker, wanted: Wanted = STUDY, **bounds: Any) -> Any:
    return get(settings.peers["archive"], settings, wanted, (CR,), take, Bounds(**bounds))


def test_images_come_on_the_association_that_asks(tmp_path: Path) -> None:
    taker, asked = Taker(), list[Dataset]()
    with archive(gives(images(tmp_path, 3), asked), STUDY_ROOT_GET) as settings:
        outcome = ask(settings, taker, Wanted("1.2.3.4", ("1.2.3.4.5",)))
    assert (outcome.by, outcome.completed, outcome.whole) == ("C-GET", 3, True)
    assert [one.sop_instance_uid for one, _ in taker.came] == ["1.2.3.4.1", "1.2.3.4.2", "1.2.3.4.3"]
    assert {one.sop_class_uid for one, _ in taker.came} == {CR}
    assert all(size > 1000 for _, size in taker.came)
    (query,) = asked
    assert (query.QueryRetrieveLevel, query.StudyInstanceUID, query.SeriesInstanceUID) == (
        "SERIES",
        "1.2.3.4",
        "1.2.3.4.5",
    )


def test_what_is_refused_here_is_told_from_what_the_peer_could_not_give(tmp_path: Path) -> None:
    with archive(gives(images(tmp_path, 2)), STUDY_ROOT_GET) as settings:
        outcome = ask(settings, Taker(0xC000))
    assert (outcome.by, outcome.completed, outcome.refused, outcome.whole) == ("C-GET", 0, 2, False)


def test_more_than_the_bounds_allow_ends_it(tmp_path: Path) -> None:
    taker = Taker()
    with archive(gives(images(tmp_path, 5)), STUDY_ROOT_GET) as settings, pytest.raises(TooMuch, match="more than 2"):
        ask(settings, taker, objects=2)
    assert len(taker.came) == 2


def test_answers_without_end_end_in_time() -> None:
    stop = threading.Event()

    def endless(event: evt.Event) -> Iterator[Any]:
        yield 1000
        while not stop.wait(0.05):
            yield 0xFF00, None

    def slow(event: evt.Event) -> Iterator[Any]:
        yield 1
        stop.wait(30)

    for answers in (endless, slow):
        stop.clear()
        with archive(answers, STUDY_ROOT_GET) as settings:
            begun = time.monotonic()
            try:
                with pytest.raises(PeerUnavailable):
                    ask(settings, Taker(), within_s=1.0)
                assert time.monotonic() - begun < 5
            finally:
                stop.set()


def test_a_peer_without_c_get_is_said_to_have_none_and_one_that_fails_too(tmp_path: Path) -> None:
    with archive(gives([]), STUDY_ROOT_MOVE) as settings, pytest.raises(PeerRefused, match="offers no C-GET"):
        ask(settings, Taker())
    with archive(gives([]), STUDY_ROOT_GET, storing=False) as settings, pytest.raises(PeerRefused, match="no storage"):
        ask(settings, Taker())

    def fails(event: evt.Event) -> Iterator[Any]:
        yield 1
        yield 0xC001, None

    with archive(fails, STUDY_ROOT_GET) as settings:
        outcome = ask(settings, Taker())
    assert (outcome.whole, outcome.completed) == (False, 0)
    assert "0xc001" in outcome.reason


def test_every_class_has_a_context_however_many_are_asked_for() -> None:
    assert len(storage_contexts(["1.2.3"], 126)) > 4
    many = storage_contexts([f"1.2.3.{n}" for n in range(100)], 126)
    assert len(many) == 100
    assert len(storage_contexts([f"1.2.3.{n}" for n in range(300)], 126)) == 126 <= MOST_CONTEXTS
