"""This node as performer of work items, against a manager at the wire that is not ours."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from sqlalchemy import select, update

from db import performances, schema, study_work
from db.session import Record
from db.states import JobState
from db.states import PerformanceState as F
from db.tables import Job
from db.types import utcnow
from node.settings_ups import WorkitemCode
from tests.support import records
from tests.support.performing import FIRST, new, performer, read_and_sent, rows, states, steps
from tests.support.processes import eventually
from tests.support.records import STUDY, image
from tests.support.ups_manager import UpsManager, code, ups_manager, work_item

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


def test_a_work_item_becomes_report_and_picture_and_completed(
    record: Record, manager: UpsManager, tmp_path: Path
) -> None:
    item = work_item(STUDY, FIRST)
    manager.schedule(item)
    node = performer(record, manager.port, tmp_path)
    steps(node, record, 2)
    assert (manager.state(item), states(record)) == ("IN PROGRESS", [F.HELD])
    assert manager.subscribers == {item.SOPInstanceUID: "RADNODE"}
    read_and_sent(record)
    steps(node, record, 3)
    assert (manager.state(item), states(record)) == ("COMPLETED", [F.COMPLETED])
    (performed,) = item.UnifiedProcedureStepPerformedProcedureSequence
    told = [
        (one.ReferencedSOPInstanceUID, group.DICOMRetrievalSequence[0].RetrieveAETitle)
        for group in performed.OutputInformationSequence
        for one in group.ReferencedSOPSequence
    ]
    with record.read() as session:
        work = study_work.of_study(session, STUDY)
        assert work is not None
        assert sorted(told) == sorted((one.sop_instance_uid, "PACS") for one in work.sent)
    assert len(told) == 2
    assert performed.PerformedWorkitemCodeSequence[0].CodeValue == "110004"
    assert manager.progress == sorted(manager.progress)
    assert "TransactionUID" not in item


@pytest.mark.parametrize("lost", ["claim", "set", "final", "complete"])
def test_an_answer_that_is_lost_with_the_process_is_found_out(
    record: Record, manager: UpsManager, tmp_path: Path, lost: str
) -> None:
    """The manager has carried it out; this node dies before it hears of it, and another process takes its place."""
    read_and_sent(record)
    item = work_item(STUDY, FIRST)
    manager.schedule(item)
    manager.lose.append(lost)
    for _ in range(8):
        # Each time a new one: nothing is remembered but what is on record.
        steps(performer(record, manager.port, tmp_path), record, 1)
    assert not manager.lose or lost == "set"
    assert (manager.state(item), states(record)) == ("COMPLETED", [F.COMPLETED])


def test_a_process_that_dies_before_it_sends_the_claim_leaves_it_to_the_next(
    record: Record, manager: UpsManager, tmp_path: Path
) -> None:
    item = work_item(STUDY, FIRST)
    manager.schedule(item)
    with record.write() as session:
        performances.take_up(session, new(str(item.SOPInstanceUID)))
        assert performances.claim_due(session, "ris", utcnow(), lease_s=60)
    steps(performer(record, manager.port, tmp_path), record, 1)
    assert (manager.state(item), states(record)) == ("IN PROGRESS", [F.HELD])
    assert manager.owners[str(item.SOPInstanceUID)] == rows(record)[0].transaction_uid


@pytest.mark.parametrize("in_doubt", [False, True])
def test_what_another_performer_has_is_left_to_it(
    record: Record, manager: UpsManager, tmp_path: Path, in_doubt: bool
) -> None:
    item = work_item(STUDY, FIRST)
    manager.schedule(item)
    with record.write() as session:
        performances.take_up(session, new(str(item.SOPInstanceUID)))
    if in_doubt:
        with record.write() as session:
            performances.claim_due(session, "ris", utcnow(), lease_s=60)
    manager.claim_as_another(item)
    steps(performer(record, manager.port, tmp_path), record, 2)
    assert states(record) == [F.LOST]
    assert manager.asked["complete"] == manager.asked["cancel"] == 0


def test_only_this_stations_ready_items_are_claimed_the_most_urgent_first(
    record: Record, manager: UpsManager, tmp_path: Path
) -> None:
    others = [
        work_item(STUDY, ScheduledStationNameCodeSequence=[code("OTHER")]),
        work_item(STUDY, ScheduledWorkitemCodeSequence=[code("110001", "DCM")]),
        work_item(STUDY, InputReadinessState="INCOMPLETE"),
        work_item(STUDY, InputInformationSequence=[Dataset()]),
    ]
    low, high = work_item(f"{STUDY}.7"), work_item(f"{STUDY}.8", priority="HIGH")
    manager.schedule(*others, low, high)
    node = performer(
        record,
        manager.port,
        tmp_path,
        most_at_once=1,
        workitem_codes=[WorkitemCode(value="110004", scheme="DCM").model_dump()],
    )
    steps(node, record, 2)
    assert [row.workitem_uid for row in rows(record)] == [high.SOPInstanceUID]
    assert {manager.state(one) for one in (*others, low)} == {"SCHEDULED"}


def test_queued_work_is_hastened_to_the_work_items_priority(
    record: Record, manager: UpsManager, tmp_path: Path
) -> None:
    records.queued_job(record)
    manager.schedule(work_item(STUDY, FIRST, priority="HIGH"))
    steps(performer(record, manager.port, tmp_path), record, 2)
    with record.read() as session:
        assert session.scalars(select(Job.priority)).all() == ["stat"]


def ended(record: Record, manager: UpsManager, tmp_path: Path, item: Dataset, **changes: object) -> tuple[str, str]:
    """The code and the reason by which a work item is canceled."""
    manager.schedule(item)
    steps(performer(record, manager.port, tmp_path, **changes), record, 4)
    assert (manager.state(item), states(record)) == ("CANCELED", [F.CANCELED])
    (told,) = item.ProcedureStepProgressInformationSequence
    return told.ProcedureStepDiscontinuationReasonCodeSequence[0].CodeValue, told.ReasonForCancellation


def test_images_that_do_not_come_end_it(record: Record, manager: UpsManager, tmp_path: Path) -> None:
    item = work_item(STUDY, FIRST, f"{STUDY}.1.2")
    records.receive(record, image(1))
    assert ended(record, manager, tmp_path, item, images_for_s=0.001) == (
        "110523",
        "its images did not come within 0.001 s",
    )


def test_another_patients_images_end_it_and_no_patient_is_named(
    record: Record, manager: UpsManager, tmp_path: Path
) -> None:
    read_and_sent(record)
    value, reason = ended(record, manager, tmp_path, work_item(STUDY, FIRST, patient_id="ID-2"))
    assert value == "110514"
    assert "ID-" not in reason


def test_images_that_no_model_reads_end_it(record: Record, manager: UpsManager, tmp_path: Path) -> None:
    records.receive(record, image(1))
    records.settle(record, records.load(record))
    assert ended(record, manager, tmp_path, work_item(STUDY, FIRST))[0] == "110522"


def test_what_could_not_be_analysed_is_not_completed(record: Record, manager: UpsManager, tmp_path: Path) -> None:
    read_and_sent(record)
    with record.write() as session:
        session.execute(update(Job).values(state=JobState.NOT_ANALYSED))
    assert ended(record, manager, tmp_path, work_item(STUDY, FIRST))[0] == "110513"


def test_a_parked_job_ends_it_when_its_time_is_over(record: Record, manager: UpsManager, tmp_path: Path) -> None:
    records.queued_job(record)
    with record.write() as session:
        session.execute(update(Job).values(state=JobState.PARKED))
    value, reason = ended(record, manager, tmp_path, work_item(STUDY, FIRST), perform_for_s=0.001)
    assert value == "110501"
    assert "waits for a person" in reason


def test_a_request_to_cancel_is_followed(record: Record, manager: UpsManager, tmp_path: Path) -> None:
    records.queued_job(record)
    item = work_item(STUDY, FIRST)
    manager.schedule(item)
    node = performer(record, manager.port, tmp_path)
    steps(node, record, 2)
    with record.write() as session:
        assert performances.ask_to_cancel(session, ["ris"], str(item.SOPInstanceUID))
    # Due at once: not a look is waited for.
    for _ in range(3):
        node.run_once()
    assert (manager.state(item), states(record)) == ("CANCELED", [F.CANCELED])


def test_what_its_manager_ends_is_left(record: Record, manager: UpsManager, tmp_path: Path) -> None:
    item = work_item(STUDY, FIRST)
    manager.schedule(item)
    node = performer(record, manager.port, tmp_path, poll_s=0.1)
    steps(node, record, 3)
    item.ProcedureStepState = "CANCELED"
    while states(record) == [F.HELD]:
        steps(node, record, 1)
    assert states(record) == [F.LOST]


def test_a_manager_that_takes_no_completion_gets_a_cancellation_that_says_so(
    record: Record, manager: UpsManager, tmp_path: Path
) -> None:
    read_and_sent(record)
    manager.refuse["complete"] = [0xC304]
    assert ended(record, manager, tmp_path, work_item(STUDY, FIRST))[0] == "110513"


def test_a_refusal_for_good_is_given_up_and_one_for_now_is_not(
    record: Record, manager: UpsManager, tmp_path: Path
) -> None:
    read_and_sent(record)
    first = work_item(STUDY, FIRST)
    manager.schedule(first)
    manager.refuse["final"] = [0x0110, 0x0106]
    node = performer(record, manager.port, tmp_path)
    steps(node, record, 3)
    assert states(record) == [F.COMPLETING]
    steps(node, record, 1)
    assert states(record) == [F.GIVEN_UP]
    assert "0x0106" in rows(record)[0].reason


def test_a_manager_that_is_away_is_told_when_it_is_back(record: Record, manager: UpsManager, tmp_path: Path) -> None:
    item = work_item(STUDY, FIRST)
    manager.schedule(item)
    steps(performer(record, manager.port, tmp_path), record, 2)
    read_and_sent(record)
    away = performer(record, 1, tmp_path)
    steps(away, record, 3)
    assert states(record) == [F.COMPLETING]
    steps(performer(record, manager.port, tmp_path), record, 1)
    assert (manager.state(item), states(record)) == ("COMPLETED", [F.COMPLETED])


def test_images_that_do_not_come_by_themselves_are_asked_for_once(
    record: Record, manager: UpsManager, tmp_path: Path
) -> None:
    manager.schedule(work_item(STUDY, FIRST))
    node = performer(record, manager.port, tmp_path, retrieve_from="ris", retrieve_after_s=0.0)
    for _ in range(3):
        steps(node, record, 1)
    eventually("it is asked for", lambda: manager.moves)
    assert manager.moves == [(STUDY, "RADNODE")]
    read_and_sent(record)
    steps(node, record, 2)
    assert states(record) == [F.COMPLETED]
