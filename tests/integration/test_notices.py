"""What peers tell the listener of studies that are done, and what it answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from sqlalchemy import select

from db.order_tables import Notice
from db.session import Record
from db.states import NoticeState, StudyState
from db.tables import Study
from node.rules import Match, Route
from node.settings import Completeness
from node.sweeper import Sweeper
from node.syntaxes import AVAILABILITY_CLASS, PERFORMED_STEP_CLASS
from node.worklist.reporter import CommitmentReporter
from tests.support import listening, notices
from tests.support.listening import Listener, chest_file
from tests.support.orthanc import Modality, Orthanc, orthanc
from tests.support.processes import eventually, free_port

pytestmark = pytest.mark.e2e

MODALITY_PORT = free_port()


@pytest.fixture(scope="module")
def pacs_and_listener(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Orthanc, Listener]]:
    port = free_port()
    known = Modality("radnode", "RADNODE", port)
    with orthanc(tmp_path_factory.mktemp("pacs") / "data", modalities=(known,)) as pacs:
        settings = (
            f'[peers.pacs]\nae_title = "ORTHANC"\nhost = "127.0.0.1"\nport = {pacs.dicom_port}\n'
            f'[peers.modality]\nae_title = "MODALITY"\nhost = "127.0.0.1"\nport = {MODALITY_PORT}\n'
            "[notices]\ncommitment = true\n[retention]\nimages_days = 0\n"
        )
        with listening.running(tmp_path_factory.mktemp("listener"), settings, port=port) as listener:
            yield pacs, listener


@pytest.fixture
def listener(pacs_and_listener: tuple[Orthanc, Listener]) -> Listener:
    return pacs_and_listener[1]


@pytest.fixture
def files(tmp_path: Path) -> tuple[list[Path], str]:
    """Two images of one study, and its UID."""
    study = generate_uid()
    names = [generate_uid(), generate_uid()]
    return [chest_file(tmp_path, f"{one}.dcm", StudyInstanceUID=study) for one in names], study


def judged(listener: Listener, study: str) -> tuple[StudyState, str]:
    """The study's state after one sweep by a node that waits for an hour of silence, and why."""
    route = Route(name="chest", models=("cxr",), match=Match(modality=("CR",)))
    patient = Completeness(quiet_period_s=3600, deadline_s=7200)
    settings = listener.settings.model_copy(update={"routes": (route,), "completeness": patient})
    Sweeper(settings, listener.record, lambda _: None).run_once()
    with listener.record.read() as session:
        found = session.scalars(select(Study).where(Study.study_instance_uid == study)).one()
    return found.state, found.completeness_reason


def steps(record: Record, uid: str) -> list[NoticeState]:
    with record.read() as session:
        return list(session.scalars(select(Notice.state).where(Notice.uid == uid)))


def test_a_procedure_step_that_is_completed_spares_its_study_the_silence(
    listener: Listener, files: tuple[list[Path], str]
) -> None:
    (first, second), study = files
    uid = generate_uid()
    with notices.told_to(listener.port) as told:
        assert notices.create(told, notices.step(study), PERFORMED_STEP_CLASS, uid) == 0
        assert notices.create(told, notices.step(study), PERFORMED_STEP_CLASS, uid) == 0x0111
        assert listener.storescu(str(first)).returncode == 0
        assert judged(listener, study) == (StudyState.RECEIVING, "chest: images may still be arriving")
        refs = [notices.ref(first), notices.ref(second)]
        assert notices.change(told, notices.ended("COMPLETED", *refs), uid) == 0
        assert steps(listener.record, uid) == [NoticeState.COMPLETED]
        # One of the two is not here yet, and the node waits as ever.
        assert judged(listener, study)[0] is StudyState.RECEIVING
        assert listener.storescu(str(second)).returncode == 0
        assert judged(listener, study) == (StudyState.COMPLETE, "chest: 2 images, all that MPPS names")
        assert notices.change(told, notices.ended("DISCONTINUED"), uid) == 0x0110
        assert notices.change(told, notices.ended("COMPLETED"), generate_uid()) == 0x0112


def test_a_discontinued_step_hastens_nothing(listener: Listener, files: tuple[list[Path], str]) -> None:
    (first, _), study = files
    uid = generate_uid()
    assert listener.storescu(str(first)).returncode == 0
    with notices.told_to(listener.port) as told:
        assert notices.create(told, notices.step(study), PERFORMED_STEP_CLASS, uid) == 0
        assert notices.change(told, notices.ended("DISCONTINUED", notices.ref(first)), uid) == 0
    assert judged(listener, study)[0] is StudyState.RECEIVING


def test_a_notification_of_availability_hastens_once_all_it_names_is_here(
    listener: Listener, files: tuple[list[Path], str]
) -> None:
    (first, second), study = files
    refs = [notices.ref(first), notices.ref(second)]
    with notices.told_to(listener.port) as told:
        # Before the first image of the study.
        assert notices.create(told, notices.availability(study, *refs), AVAILABILITY_CLASS) == 0
        # Without a name of its own, which the node gives it then.
        unnamed = generate_uid()
        status, _ = told.send_n_create(notices.availability(unnamed), AVAILABILITY_CLASS)
        assert status.Status == 0
    with listener.record.read() as session:
        named = select(Notice.uid).where(Notice.study_instance_uid == unnamed)
        assert session.scalars(named).one().startswith("2.25.")
    assert listener.storescu(str(first)).returncode == 0
    assert judged(listener, study)[0] is StudyState.RECEIVING
    assert listener.storescu(str(second)).returncode == 0
    assert judged(listener, study) == (StudyState.COMPLETE, "chest: 2 images, all that IAN names")


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_notices_that_say_nonsense_are_refused_and_the_association_goes_on(listener: Listener) -> None:
    hostile = notices.step("1.2.3")
    hostile.ScheduledStepAttributesSequence[0].add_new("StudyInstanceUID", "LO", "'; DROP TABLE notices; --")
    many = notices.step("1.2.3")
    many.ScheduledStepAttributesSequence = [
        notices.step(f"1.2.{number}").ScheduledStepAttributesSequence[0] for number in range(17)
    ]
    nameless = Dataset()
    nameless.PatientName = "Doe^Jane"
    with notices.told_to(listener.port) as told:
        assert notices.create(told, hostile, PERFORMED_STEP_CLASS) == 0x0106
        assert notices.create(told, many, PERFORMED_STEP_CLASS) == 0x0106
        assert notices.create(told, notices.step("1.2.3", "COMPLETED"), PERFORMED_STEP_CLASS) == 0x0106
        assert notices.create(told, notices.step("1.2.3", "\x1b[2J"), PERFORMED_STEP_CLASS) == 0x0106
        assert notices.create(told, nameless, PERFORMED_STEP_CLASS) == 0x0120
        assert notices.create(told, notices.availability(""), AVAILABILITY_CLASS) == 0x0120
        flat = notices.availability("1.2.3")
        flat.add_new("ReferencedSeriesSequence", "UT", "no sequence")
        assert notices.create(told, flat, AVAILABILITY_CLASS) in {0x0106, 0x0110}
        assert notices.create(told, notices.availability("1.2.3"), AVAILABILITY_CLASS) == 0
    with listener.record.read() as session:
        assert not any("DROP" in uid for uid in session.scalars(select(Notice.study_instance_uid)))


def test_commitment_is_answered_honestly_and_hastens_where_all_is_here(
    listener: Listener, files: tuple[list[Path], str]
) -> None:
    (first, second), study = files
    assert listener.storescu(str(first), str(second)).returncode == 0
    here, there = notices.ref(first), notices.ref(second)
    lost = ("1.2.840.10008.5.1.4.1.1.1", generate_uid())
    reporter = CommitmentReporter(listener.settings, listener.record)
    with notices.reports_to(MODALITY_PORT) as reports, notices.told_to(listener.port) as told:
        transaction = generate_uid()
        wrong_class = ("1.2.840.10008.5.1.4.1.1.2", there[1])
        assert notices.ask_commitment(told, transaction, here, wrong_class, lost) == 0
        assert reporter.run_once() == 1
        assert reports.arrived.wait(10)
        assert (reports.event, reports.transaction) == (2, transaction)
        assert reports.committed == {here[1]}
        assert reports.failed == {there[1]: 0x0119, lost[1]: 0x0112}
        assert judged(listener, study)[0] is StudyState.RECEIVING
        reports.arrived.clear()
        assert notices.ask_commitment(told, generate_uid(), here, there) == 0
        assert reporter.run_once() == 1
        assert reports.arrived.wait(10)
        assert (reports.event, reports.committed, reports.failed) == (1, {here[1], there[1]}, {})
        assert judged(listener, study) == (StudyState.COMPLETE, "chest: 2 images, all that COMMITMENT names")
        assert notices.ask_commitment(told, generate_uid(), here, action=7) == 0x0123
    with notices.told_to(listener.port, calling="NOBODY") as unknown:
        assert notices.ask_commitment(unknown, generate_uid(), here) == 0x0124


def test_a_file_that_is_gone_from_the_disk_is_not_committed(listener: Listener, files: tuple[list[Path], str]) -> None:
    (first, _), _ = files
    assert listener.storescu(str(first)).returncode == 0
    (stored,) = [one for one in listener.instances() if one.sop_instance_uid == notices.ref(first)[1]]
    (listener.settings.data_dir / stored.path).unlink()
    with notices.reports_to(MODALITY_PORT) as reports, notices.told_to(listener.port) as told:
        assert notices.ask_commitment(told, generate_uid(), notices.ref(first)) == 0
        CommitmentReporter(listener.settings, listener.record).run_once()
        assert reports.arrived.wait(10)
    assert reports.failed == {notices.ref(first)[1]: 0x0112}


def test_orthanc_sends_asks_for_commitment_and_is_told(
    pacs_and_listener: tuple[Orthanc, Listener], files: tuple[list[Path], str]
) -> None:
    pacs, listener = pacs_and_listener
    paths, study = files
    instances = [pacs.upload(path) for path in paths]
    sent = pacs.send("radnode", *instances, commitment=True)
    transaction = str(sent["StorageCommitmentTransactionUID"])
    reporter = CommitmentReporter(listener.settings, listener.record)
    eventually("the report is taken", lambda: reporter.run_once() == 1, timeout_s=20)
    found = pacs.json("GET", f"/storage-commitment/{transaction}")
    assert (found["Status"], len(found["Success"]), found["Failures"]) == ("Success", 2, [])
    assert judged(listener, study) == (StudyState.COMPLETE, "chest: 2 images, all that COMMITMENT names")
