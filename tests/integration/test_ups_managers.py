"""Managers that are slow, hostile, gone or not reached, and what they ask of this node."""

from __future__ import annotations

import gc
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from db import performances, schema
from db.session import Record
from db.states import PerformanceState as F
from node.settings import Peer, Settings, Tls
from node.settings_ups import Ups
from node.settings_ups import UpsManager as ManagerSettings
from node.worklist.performer import Performer, loops
from tests.support.listening import running
from tests.support.performing import FIRST, new, performer, read_and_sent, rows, states, steps
from tests.support.processes import eventually
from tests.support.records import STUDY
from tests.support.ups_manager import UpsManager, ups_manager, work_item

# pynetdicom leaves the socket of an aborted connection to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(scope="module")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("record") / "record.db"
    made = Record(f"sqlite:///{path}")
    schema.upgrade(made)
    made.close()
    yield path
    # Not in another file, which does not look for it.
    gc.collect()


@pytest.fixture
def record(tmp_path: Path, migrated: Path) -> Iterator[Record]:
    shutil.copy(migrated, tmp_path / "record.db")
    opened = Record(f"sqlite:///{tmp_path / 'record.db'}")
    yield opened
    opened.close()


@pytest.fixture
def manager() -> Iterator[UpsManager]:
    with ups_manager() as running:
        yield running


def test_a_request_to_cancel_reaches_the_listener(tmp_path: Path, manager: UpsManager) -> None:
    more = (
        '[peers.ris]\nae_title = "MANAGER"\nhost = "127.0.0.1"\n[ups.managers.ris]\npeer = "ris"\nstation = "RADNODE"\n'
    )
    item, unknown = work_item(STUDY, FIRST), work_item(STUDY)
    with running(tmp_path, more) as listener:
        with listener.record.write() as session:
            performances.take_up(session, new(str(item.SOPInstanceUID)))
        assert manager.ask_to_cancel(item, listener.port, calling="STRANGER") == 0x0124
        assert rows(listener.record)[0].cancel_asked_at is None
        assert manager.ask_to_cancel(item, listener.port) == 0x0000
        assert rows(listener.record)[0].cancel_asked_at is not None
        assert manager.ask_to_cancel(unknown, listener.port) == 0x0112


@pytest.mark.filterwarnings("ignore:Invalid value:UserWarning", "ignore:The value length:UserWarning")
def test_hostile_answers_are_left_and_hold_up_no_other(record: Record, manager: UpsManager, tmp_path: Path) -> None:
    unnamed, long_code, no_list = work_item("not a UID"), work_item(STUDY), work_item(STUDY)
    long_code.ScheduledStationNameCodeSequence[0].CodeValue = "RADNODE" * 40
    del no_list.InputInformationSequence
    no_list.add_new(0x00404021, "LO", "no sequence")
    two_studies = work_item(STUDY)
    two_studies.InputInformationSequence.append(work_item("1.2.840.98").InputInformationSequence[0])
    good = work_item(STUDY, FIRST)
    good.ScheduledStationNameCodeSequence[0].CodeMeaning = "Röntgen\u0000\x1b[31m"
    good.SpecificCharacterSet = "ISO_IR 192"
    manager.schedule(unnamed, long_code, no_list, two_studies, good)
    read_and_sent(record)
    steps(performer(record, manager.port, tmp_path), record, 4)
    assert [manager.state(one) for one in (unnamed, long_code, no_list, two_studies)] == ["SCHEDULED"] * 4
    assert manager.state(good) == "COMPLETED"
    (told,) = good.UnifiedProcedureStepPerformedProcedureSequence
    assert told.PerformedStationNameCodeSequence[0].CodeMeaning.startswith("Röntgen")


def test_a_manager_that_does_not_answer_holds_up_no_other(record: Record, manager: UpsManager, tmp_path: Path) -> None:
    with ups_manager() as hung:
        hung.may_answer.clear()
        peers = {
            name: Peer(ae_title="MANAGER", host="127.0.0.1", port=one.port)
            for name, one in (("a", hung), ("b", manager))
        }
        managers = {name: ManagerSettings(peer=name, station="RADNODE", poll_s=0.1, timeout_s=120.0) for name in peers}
        settings = Settings(data_dir=tmp_path, peers=peers, ups=Ups(managers=managers))
        item = work_item(STUDY, FIRST)
        hung.schedule(work_item(STUDY))
        manager.schedule(item)
        stop = threading.Event()
        threads = [threading.Thread(target=loop, args=(stop,)) for loop in loops(settings, record).values()]
        for thread in threads:
            thread.start()
        try:
            eventually("the other claims", lambda: manager.state(item) == "IN PROGRESS", timeout_s=60)
        finally:
            stop.set()
            hung.may_answer.set()
            for thread in threads:
                thread.join(20)


def test_a_manager_that_hangs_up_is_asked_again(record: Record, manager: UpsManager, tmp_path: Path) -> None:
    item = work_item(STUDY, FIRST)
    manager.schedule(item)
    with record.write() as session:
        performances.take_up(session, new(str(item.SOPInstanceUID)))
    manager.hangs_up = True
    for _ in range(4):
        steps(performer(record, manager.port, tmp_path), record, 1)
    assert states(record) == [F.CLAIMING]
    manager.hangs_up = False
    steps(performer(record, manager.port, tmp_path), record, 1)
    assert (manager.state(item), states(record)) == ("IN PROGRESS", [F.HELD])


def test_a_state_that_cannot_be_read_ends_no_loop(record: Record, manager: UpsManager, tmp_path: Path) -> None:
    manager.schedule(work_item(STUDY, FIRST))
    node = performer(record, manager.port, tmp_path)
    steps(node, record, 3)
    manager.asked.clear()
    manager.garbles = True
    while not manager.asked["get"]:
        steps(node, record, 1)
    assert states(record) == [F.HELD]
    assert "a state that is none" in rows(record)[0].reason
    manager.garbles = False
    read_and_sent(record)
    steps(node, record, 3)
    assert states(record) == [F.COMPLETED]


def test_certificates_that_are_missing_end_no_loop(record: Record, manager: UpsManager, tmp_path: Path) -> None:
    item = work_item(STUDY, FIRST)
    with record.write() as session:
        performances.take_up(session, new(str(item.SOPInstanceUID)))
    node = performer(record, manager.port, tmp_path)
    tls = Tls(ca=tmp_path / "nowhere.pem")
    peer = node.peer.model_copy(update={"tls": True})
    settings = node.settings.model_copy(update={"tls": tls, "peers": {**node.settings.peers, "ris": peer}})
    steps(Performer(settings, record, "ris"), record, 2)
    assert states(record) == [F.CLAIMING]
    assert "[tls]" in rows(record)[0].reason
