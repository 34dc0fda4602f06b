"""Orders from real worklists: DCMTK's and Orthanc's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select

from db import aside, orders, schema, studies
from db.domain import Intake, NewOrder
from db.errors import PeerUnavailable
from db.session import Record
from db.states import InstanceState, JobState, OrderState
from db.tables import Instance, Job, Study
from db.types import utcnow
from node import scu
from node.rules import Match, Route
from node.settings import Completeness, Peer, Settings
from node.settings_worklist import Worklist as WorklistSettings
from node.sweeper import Sweeper
from node.worklist import query
from node.worklist.desk import OrderDesk
from node.worklist.matching import Key
from tests.support.processes import free_port
from tests.support.records import image, receive
from tests.support.worklists import Worklist, orthanc_worklist, wlmscpfs

Server = Callable[[Path], AbstractContextManager[Worklist]]
ROUTE = Route(name="chest", models=("cxr",), match=Match(modality=("CR",)), ask_worklist=True)


@pytest.fixture(scope="module", params=[wlmscpfs, orthanc_worklist], ids=["dcmtk", "orthanc"])
def any_worklist(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worklist]:
    serve: Server = request.param
    with serve(tmp_path_factory.mktemp("worklist")) as server:
        server.add("A-1", RequestedProcedurePriority="STAT")
        server.add("A-2", PatientID="ID-4712", PatientName="M\u00fcller^J\u00f6rg", PatientBirthDate="19600229")
        server.add("A-3", PatientName="\x1b[2J<script>^'; DROP", PatientID="ID-4713", date="20260302")
        yield server


@pytest.fixture(scope="module")
def dcmtk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worklist]:
    with wlmscpfs(tmp_path_factory.mktemp("worklist")) as server:
        server.add("A-1", RequestedProcedurePriority="STAT")
        server.add("A-9", PatientID="SOMEBODY-ELSE", PatientName="Roe^Richard", RequestedProcedurePriority="STAT")
        yield server


@pytest.fixture
def record(tmp_path: Path) -> Iterator[Record]:
    opened = Record(f"sqlite:///{tmp_path / 'record.db'}")
    schema.upgrade(opened)
    yield opened
    opened.close()


def settings_of(peer: Peer, **worklist: float) -> Settings:
    return Settings().model_copy(
        update={
            "peers": {"ris": peer},
            "routes": (ROUTE,),
            "completeness": Completeness(quiet_period_s=0, deadline_s=600),
            "worklist": WorklistSettings(peer="ris", **worklist),  # type: ignore[arg-type]
        }
    )


def received(record: Record, number: int, accession: str, **changes: object) -> str:
    """One image of Jane Doe's, come a minute ago, in a study of its own; gives the study's UID."""
    uid = f"1.2.840.{number}"
    said = {"accession_number": accession, "patient_id": "ID-4711", "patient_birth_date": "19700101"} | changes
    new = image(number, uid, received_at=utcnow() - timedelta(seconds=60), **said)
    assert receive(record, new) == [Intake.NEW]
    return uid


def jobs(record: Record) -> list[tuple[str, JobState]]:
    with record.read() as session:
        return [(job.priority, job.state) for job in session.scalars(select(Job).order_by(Job.created_at))]


def reason(record: Record, uid: str) -> str:
    with record.read() as session:
        return session.scalars(select(Study.completeness_reason).where(Study.study_instance_uid == uid)).one()


def test_an_order_is_found_by_accession_number_with_its_priority_and_identity(any_worklist: Worklist) -> None:
    settings = settings_of(any_worklist.peer)
    (order,) = query.ask(any_worklist.peer, settings, "ris", Key(accession_number="A-1"))
    assert (order.accession_number, order.priority, order.procedure) == ("A-1", "stat", "Chest PA")
    assert (order.patient_id, order.patient_name, order.patient_birth_date) == ("ID-4711", "Doe^Jane", "19700101")
    assert (order.requested_procedure_id, order.modality, order.scheduled_date) == ("RP-A-1", "CR", "20260301")
    assert query.ask(any_worklist.peer, settings, "ris", Key(accession_number="A-77")) == []


def test_names_beyond_ascii_and_hostile_ones_come_as_printable_text(any_worklist: Worklist) -> None:
    settings = settings_of(any_worklist.peer)
    (order,) = query.ask(any_worklist.peer, settings, "ris", Key(accession_number="A-2"))
    assert (order.patient_name, order.patient_birth_date) == ("M\u00fcller^J\u00f6rg", "19600229")
    (order,) = query.ask(any_worklist.peer, settings, "ris", Key(accession_number="A-3"))
    assert order.patient_name.isprintable()
    assert "<script>" in order.patient_name


def test_an_order_is_found_by_patient_and_date(any_worklist: Worklist) -> None:
    settings = settings_of(any_worklist.peer)
    found = query.ask(any_worklist.peer, settings, "ris", Key(patient_id="ID-4713", date="20260302"))
    assert [one.accession_number for one in found] == ["A-3"]
    assert query.ask(any_worklist.peer, settings, "ris", Key(patient_id="ID-4713", date="20260303")) == []


def test_a_study_waits_for_its_order_and_a_stat_order_makes_it_stat(record: Record, dcmtk: Worklist) -> None:
    uid = received(record, 1, "A-1")
    settings = settings_of(dcmtk.peer)
    sweeper, desk = Sweeper(settings, record, lambda _: None), OrderDesk(settings, record)
    assert sweeper.run_once() == 0
    assert reason(record, uid) == "chest: asking for its order"
    assert desk.run_once() == 1
    assert sweeper.run_once() == 1
    assert jobs(record) == [("stat", JobState.QUEUED)]
    assert reason(record, uid).endswith("ordered as stat")
    assert desk.run_once() == 0


def test_an_order_of_another_patient_quarantines_the_images_until_a_person_vouches(
    record: Record, dcmtk: Worklist
) -> None:
    received(record, 1, "A-9")
    settings = settings_of(dcmtk.peer)
    sweeper, desk = Sweeper(settings, record, lambda _: None), OrderDesk(settings, record)
    sweeper.run_once()
    desk.run_once()
    assert sweeper.run_once() == 0
    with record.read() as session:
        (kept,) = aside.set_aside(session)
        stored = session.scalars(select(Study)).one()
    assert (kept["state"], kept["reason"]) == ("QUARANTINED", "the worklist has its order for another patient")
    # Nothing was mended.
    assert (stored.patient_id, stored.patient_name) == ("ID-4711", "Doe^Jane")
    with record.write() as session:
        assert aside.release(session, kept["sop_instance_uid"], actor="anna")
    assert sweeper.run_once() == 1
    assert jobs(record) == [("routine", JobState.QUEUED)]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_with_the_worklist_down_a_study_is_read_as_routine_and_pulled_forward_once_it_is_back(
    record: Record, tmp_path: Path
) -> None:
    port = free_port()
    away = Peer(ae_title="RIS", host="127.0.0.1", port=port)
    uid = received(record, 1, "A-1")
    settings = settings_of(away, wait_s=0.0, retry_first_s=0.01)
    sweeper, desk = Sweeper(settings, record, lambda _: None), OrderDesk(settings, record)
    sweeper.run_once()
    desk.run_once()
    assert sweeper.run_once() == 1
    assert jobs(record) == [("routine", JobState.QUEUED)]
    assert "the worklist did not answer in time, priority of the route" in reason(record, uid)
    with record.read() as session:
        study = session.scalars(select(Study.id)).one()
        assert "cannot be reached" in orders.of_studies(session, [study])[study].reason
    with wlmscpfs(tmp_path / "worklist", port) as back:
        back.add("A-1", RequestedProcedurePriority="STAT")
        with record.write() as session:
            orders.postpone(session, [study], utcnow(), "asked again now")
        assert desk.run_once() == 1
    assert jobs(record) == [("stat", JobState.QUEUED)]


def test_an_image_whose_accession_number_would_match_every_order_asks_for_none(record: Record, dcmtk: Worklist) -> None:
    received(record, 1, "*")
    settings = settings_of(dcmtk.peer)
    sweeper, desk = Sweeper(settings, record, lambda _: None), OrderDesk(settings, record)
    sweeper.run_once()
    assert desk.run_once() == 0
    with record.read() as session:
        view = studies.load_study(session, session.scalars(select(Study.id)).one())
        assert session.scalars(select(Instance.state)).one() is InstanceState.RECEIVED
    assert view.order is not None
    assert view.order.state is OrderState.ABSENT
    assert sweeper.run_once() == 1


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_worklist_that_is_away_is_said_to_be(tmp_path: Path) -> None:
    peer = Peer(ae_title="RIS", host="127.0.0.1", port=free_port())
    with pytest.raises(PeerUnavailable, match="cannot be reached"):
        query.ask(peer, settings_of(peer), "ris", Key(accession_number="A-1"))
    assert not scu.echo(peer, settings_of(peer)).ok


def test_orders_told_otherwise_are_found_without_a_worklist(record: Record) -> None:
    received(record, 1, "A-1")
    settings = settings_of(Peer(ae_title="RIS", host="127.0.0.1")).model_copy(update={"worklist": WorklistSettings()})
    sweeper, desk = Sweeper(settings, record, lambda _: None), OrderDesk(settings, record)
    sweeper.run_once()
    assert desk.run_once() == 0
    with record.write() as session:
        orders.tell(session, NewOrder("his", "A-1", patient_id="ID-4711", priority="stat"))
    assert desk.run_once() == 1
    assert sweeper.run_once() == 1
    assert jobs(record) == [("stat", JobState.QUEUED)]


def test_what_the_worklist_corrects_is_corrected(record: Record, dcmtk: Worklist) -> None:
    settings = settings_of(dcmtk.peer)
    with record.write() as session:
        orders.store(session, NewOrder("ris", "A-1", "RP-A-1", "ID-9999", priority="routine"))
    received(record, 1, "A-1")
    sweeper, desk = Sweeper(settings, record, lambda _: None), OrderDesk(settings, record)
    sweeper.run_once()
    assert desk.run_once() == 1
    with record.read() as session:
        assert [one.patient_id for one in orders.known(session, "A-1")] == ["ID-4711"]
