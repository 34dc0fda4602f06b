"""Work items at the wire: a real listener, pynetdicom as whoever pushes, performs and watches."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from sqlalchemy import delete, select, update

from db import jobs, workitem_subscriptions, workitem_tidings, workitems
from db.dicom_json import element, sequence
from db.states import JobState, WorkitemState
from db.tables import Delivery, Job
from db.types import utcnow
from db.workitem_rules import FILTERED_SUBSCRIPTION, GLOBAL_SUBSCRIPTION, PROGRESS, PROGRESS_INFORMATION, EventType
from db.workitem_tables import Workitem, WorkitemTiding
from node.syntaxes import UPS_PUSH_CLASS, UPS_QUERY_CLASS, UPS_WATCH_CLASS
from node.worklist.pushed_performer import PushedPerformer
from node.worklist.tidings import TidingReporter
from tests.support import listening, records
from tests.support.listening import Listener
from tests.support.processes import eventually, free_port
from tests.support.workitems import Events, code_item, new, pushed, subscriber, worklist

pytestmark = [
    pytest.mark.e2e,
    # pynetdicom leaves the socket of a refused connection to the garbage collector, which runs before the next file.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

WATCHER_PORT = free_port()
SETTINGS = (
    f'[peers.watcher]\nae_title = "WATCHER"\nhost = "127.0.0.1"\nport = {WATCHER_PORT}\n'
    '[peers.sender]\nae_title = "PACS"\nhost = "127.0.0.1"\nport = 1\n'
    '[peers.modality]\nae_title = "MODALITY"\nhost = "127.0.0.1"\nport = 1\nmay = ["store"]\n'
    "[ups]\npush = true\n"
)
CREATED, WITH_MODIFICATIONS = 0x0000, 0xB300


@pytest.fixture(scope="module")
def listener(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listener]:
    with listening.running(tmp_path_factory.mktemp("listener"), SETTINGS) as running:
        yield running
    gc.collect()


@pytest.fixture(autouse=True)
def nobody_is_subscribed(listener: Listener) -> Iterator[None]:
    yield
    with listener.record.write() as session:
        for name in ("WATCHER", "PACS"):
            workitem_subscriptions.unsubscribe_globally(session, name)
        session.execute(delete(WorkitemTiding))


@pytest.fixture
def uid() -> str:
    return generate_uid()


@pytest.fixture
def study() -> str:
    """Short enough for UIDs of its series and images to be made from it."""
    return generate_uid()[:50].rstrip(".")


@pytest.fixture
def events() -> Iterator[Events]:
    with subscriber(WATCHER_PORT) as told:
        yield told


def reporter(listener: Listener, **changes: object) -> TidingReporter:
    return TidingReporter(listener.settings.model_copy(update=changes), listener.record, "test:events")


def report(listener: Listener, **changes: object) -> None:
    for thread in reporter(listener, **changes).run_once():
        thread.join(60)


def perform(listener: Listener) -> int:
    with listener.record.write() as session:
        session.execute(update(Workitem).values(check_at=utcnow() - timedelta(seconds=1)))
    return PushedPerformer(listener.settings, listener.record).run_once()


def state(listener: Listener, uid: str) -> WorkitemState:
    with listener.record.read() as session:
        found = workitems.load(session, uid)
    assert found is not None
    return found.state


def job_on(listener: Listener, study: str, **changes: object) -> str:
    image = records.image(1, study, sop_instance_uid=f"{study}.1.1", **changes)
    records.receive(listener.record, image)
    view = records.load(listener.record, study)
    (opened,) = records.settle(listener.record, view, records.revision(view))
    with listener.record.read() as session:
        return session.scalars(select(Job.id).where(Job.revision_id == opened)).one()


def end_jobs(listener: Listener, job: str, state: JobState) -> None:
    with listener.record.write() as session:
        session.execute(update(Job).where(Job.id == job).values(state=state))


def test_an_item_is_pushed_read_and_found(listener: Listener, uid: str, study: str) -> None:
    with worklist(listener.port) as items:
        assert items.create(pushed(study), uid) == (CREATED, "")
        assert items.create(pushed(study), uid)[0] == 0x0111
        status, found = items.get(uid)
        assert (status, str(found.PatientName), found.ProcedureStepState) == (0, "Doe^Jané", "SCHEDULED")
        assert (found.SOPInstanceUID, found.SOPClassUID) == (uid, UPS_PUSH_CLASS)
        assert "TransactionUID" not in found
        status, found = items.get(uid, 0x00741204, 0x00081195, through=UPS_WATCH_CLASS)
        assert (status, [element.keyword for element in found]) == (
            0x0001,
            ["SpecificCharacterSet", "ProcedureStepLabel"],
        )
        assert items.get(generate_uid())[0] == 0xC307
        keys = Dataset()
        keys.StudyInstanceUID, keys.PatientName, keys.ProcedureStepState = study, "doe*", ""
        keys.ScheduledWorkitemCodeSequence = [code_item("110004", "DCM", "")]
        for through in (UPS_QUERY_CLASS, UPS_WATCH_CLASS):
            status, matches = items.find(keys, through)
            assert (status, [match.SOPInstanceUID for match in matches]) == (0, [uid])
        assert matches[0].ProcedureStepState == "SCHEDULED"
        keys.ProcedureStepState = "COMPLETED"
        assert items.find(keys) == (0, [])


@pytest.mark.parametrize(
    ("changes", "status", "comment"),
    [
        ({"ProcedureStepState": "IN PROGRESS"}, 0xC309, "ProcedureStepState is not SCHEDULED"),
        ({"ProcedureStepLabel": None}, 0x0120, "ProcedureStepLabel is missing"),
        ({"ProcedureStepLabel": ""}, 0x0121, "ProcedureStepLabel has no value"),
        ({"ScheduledProcedureStepPriority": "NOW"}, 0x0106, "ScheduledProcedureStepPriority is none of its terms"),
        ({"InputReadinessState": "MAYBE"}, 0x0106, "InputReadinessState is none of its terms"),
        ({"TransactionUID": "1.2"}, 0x0106, "TransactionUID has to be empty"),
        ({"ScheduledWorkitemCodeSequence": [Dataset()]}, 0x0106, "ScheduledWorkitemCodeSequence has an item without"),
        ({"InputInformationSequence": [], "StudyInstanceUID": ""}, 0x0106, "InputInformationSequence: it names no"),
        ({"WorklistLabel": "", "AdmissionID": None}, WITH_MODIFICATIONS, "attributes of type 2 were put in"),
    ],
)
def test_what_an_item_lacks_is_said_and_names_no_value(
    listener: Listener, uid: str, study: str, changes: dict[str, Any], status: int, comment: str
) -> None:
    with worklist(listener.port) as items:
        answered, said = items.create(pushed(study, **changes), uid)
    assert answered == status
    assert said.startswith(comment[: len(said)])
    assert said


def test_operations_belong_to_their_class_and_to_who_may(listener: Listener, uid: str, study: str) -> None:
    with worklist(listener.port) as items:
        assert items.create(pushed(study), uid, sop_class="1.2.840.10008.5.1.4.34.6.3")[0] == 0x0118
        assert items.create(pushed(study), uid)[0] == CREATED
        assert items.cancel(uid, through="1.2.840.10008.5.1.4.34.6.3") == 0x0123
        assert items.subscribe(uid, "NOBODY") == 0xC308
        assert items.turn("BUSY", uid=uid) == 0x0115
    with worklist(listener.port, calling="RADNODE") as items:
        assert items.turn("IN PROGRESS", uid=uid) == 0x0124
    with pytest.raises(AssertionError), worklist(listener.port, calling="MODALITY"):
        pass


def test_another_performer_may_claim_change_and_end_an_item(
    listener: Listener, uid: str, study: str, events: Events
) -> None:
    with worklist(listener.port, calling="WATCHER") as items:
        assert items.create(pushed(study), uid)[0] == CREATED
        assert items.subscribe(uid, "WATCHER", lock="TRUE") == 0
        assert items.turn("COMPLETED", uid=uid) == 0xC310
        assert items.turn("IN PROGRESS", uid=uid) == 0
        assert items.turn("IN PROGRESS", "2.25.9", uid=uid) == 0xC301
        assert items.turn("IN PROGRESS", uid=uid) == 0xC302
        done = Dataset()
        done.TransactionUID = "2.25.1"
        done.ProcedureStepProgressInformationSequence = [Dataset()]
        done.ProcedureStepProgressInformationSequence[0].ProcedureStepProgress = "50"
        assert items.set(done, uid) == 0
        assert items.cancel(uid, ReasonForCancellation="not needed", ContactDisplayName="Dr X") == 0
        assert items.turn("COMPLETED", uid=uid) == 0xC304
        performed = Dataset()
        performed.PerformedStationNameCodeSequence = [code_item("S", "99TEST", "station")]
        performed.PerformedWorkitemCodeSequence = [code_item("110004", "DCM", "Computer Aided Detection")]
        performed.PerformedProcedureStepStartDateTime = "20260301120000"
        performed.PerformedProcedureStepEndDateTime = "20260301120500"
        performed.OutputInformationSequence = []
        done.UnifiedProcedureStepPerformedProcedureSequence = [performed]
        assert items.set(done, uid) == 0
        done.ProcedureStepState = "COMPLETED"
        assert items.set(done, uid) == 0x0106, "only N-ACTION changes the state"
        assert items.turn("COMPLETED", uid=uid) == 0
        assert items.turn("COMPLETED", uid=uid) == 0xB306
        assert items.turn("CANCELED", uid=uid) == 0xC300
        assert items.cancel(uid) == 0xC311
        assert items.unsubscribe(uid, "WATCHER") == 0
    assert perform(listener) == 0, "it is not this node's"
    report(listener)
    told = [(kind, which) for which, kind, _ in events.told]
    assert {which for _, which in told} == {uid}
    assert events.states == ["SCHEDULED", "IN PROGRESS", "COMPLETED"]
    assert [kind for kind, _ in told if kind != EventType.STATE_REPORT] == [3, 2]
    (asked,) = [information for _, kind, information in events.told if kind == EventType.CANCEL_REQUESTED]
    assert (asked.RequestingAE, asked.ReasonForCancellation, asked.ContactDisplayName) == (
        "WATCHER",
        "not needed",
        "Dr X",
    )


def test_the_node_performs_what_is_pushed_and_says_what_became_of_it(
    listener: Listener, uid: str, study: str, events: Events
) -> None:
    with worklist(listener.port) as items:
        assert items.create(pushed(study, priority="HIGH"), uid)[0] == CREATED
        assert items.subscribe(uid, "WATCHER") == 0
        perform(listener)
        assert state(listener, uid) is WorkitemState.SCHEDULED
        job = job_on(listener, study)
        with listener.record.read() as session:
            assert session.get_one(Job, job).priority == "stat"
        perform(listener)
        assert state(listener, uid) is WorkitemState.SCHEDULED, "no worker has begun"
        assert records.claim(listener.record, job) is not None
        perform(listener)
        assert state(listener, uid) is WorkitemState.IN_PROGRESS
        assert items.turn("CANCELED", uid=uid) == 0xC301
        assert items.cancel(uid) == 0xC313
        outcome = records.outcome(records.result(1), records.result(2, "SC"), destinations=("sender",))
        with listener.record.write() as session:
            jobs.finish(session, job, records.WORKER, outcome)
        perform(listener)
        assert state(listener, uid) is WorkitemState.IN_PROGRESS, "its results are under way"
        with listener.record.write() as session:
            session.execute(update(Delivery).values(state="CONFIRMED"))
        perform(listener)
        status, found = items.get(uid)
    assert (status, found.ProcedureStepState) == (0, "COMPLETED")
    (performed,) = found.UnifiedProcedureStepPerformedProcedureSequence
    named = [
        (ref.ReferencedSOPInstanceUID, place.DICOMRetrievalSequence[0].RetrieveAETitle)
        for place in performed.OutputInformationSequence
        for ref in place.ReferencedSOPSequence
    ]
    assert sorted(named) == sorted((one.ref.sop_instance_uid, "PACS") for one in outcome.results)
    report(listener)
    assert events.states == ["SCHEDULED", "IN PROGRESS", "COMPLETED"]


def test_progress_that_is_no_number_is_written_over(listener: Listener, uid: str, study: str) -> None:
    item, progress = new(uid, study), sequence([{PROGRESS: element("LO", "half of it")}])
    with listener.record.write() as session:
        assert workitems.create(session, replace(item, data={**item.data, PROGRESS_INFORMATION: progress}))
    assert records.claim(listener.record, job_on(listener, study)) is not None
    assert perform(listener) == 1
    with worklist(listener.port) as items:
        _, found = items.get(uid)
    assert found.ProcedureStepProgressInformationSequence[0].ProcedureStepProgress == 10


@pytest.mark.parametrize(
    ("ended", "code", "reason"),
    [
        (JobState.PARKED, "110501", "its analysis failed"),
        (JobState.NOT_ANALYSED, "110513", "its images could not be analysed"),
        (None, "110522", "no model of this node reads its images"),
    ],
)
def test_what_cannot_be_analysed_ends_as_canceled_with_the_reason(
    listener: Listener, uid: str, study: str, ended: JobState | None, code: str, reason: str
) -> None:
    with worklist(listener.port) as items:
        assert items.create(pushed(study), uid)[0] == CREATED
        if ended is None:
            records.receive(listener.record, records.image(1, study, sop_instance_uid=f"{study}.1.1"))
            view = records.load(listener.record, study)
            records.settle(listener.record, view, stored=[(view.instances[0].id, "no route")])
        else:
            end_jobs(listener, job_on(listener, study), ended)
        assert perform(listener) == 1
        _, found = items.get(uid)
        assert items.cancel(uid) == 0xB304
    assert found.ProcedureStepState == "CANCELED"
    (progress,) = found.ProcedureStepProgressInformationSequence
    assert progress.ReasonForCancellation.startswith(reason)
    assert progress.ProcedureStepDiscontinuationReasonCodeSequence[0].CodeValue == code


def test_an_item_of_another_patient_than_its_images_is_not_performed(listener: Listener, uid: str, study: str) -> None:
    with worklist(listener.port) as items:
        assert items.create(pushed(study, PatientID="ID-2"), uid)[0] == CREATED
    end_jobs(listener, job_on(listener, study), JobState.DONE)
    perform(listener)
    assert state(listener, uid) is WorkitemState.CANCELED


def test_an_item_whose_images_never_come_expires(listener: Listener, uid: str, study: str) -> None:
    with worklist(listener.port) as items:
        assert items.create(pushed(study), uid)[0] == CREATED
        perform(listener)
        assert state(listener, uid) is WorkitemState.SCHEDULED
        with listener.record.write() as session:
            session.execute(update(Workitem).values(expires_at=utcnow()))
        perform(listener)
        _, found = items.get(uid)
    (progress,) = found.ProcedureStepProgressInformationSequence
    assert (found.ProcedureStepState, progress.ReasonForCancellation) == ("CANCELED", "expired: waiting for its images")
    with listener.record.write() as session:
        session.execute(update(Workitem).values(expires_at=None))


def test_a_request_to_cancel_is_granted_before_the_work_begins(
    listener: Listener, uid: str, study: str, events: Events
) -> None:
    with worklist(listener.port) as items:
        assert items.create(pushed(study), uid)[0] == CREATED
        assert items.subscribe(uid, "WATCHER") == 0
        assert items.cancel(uid, through=UPS_WATCH_CLASS, ReasonForCancellation="ordered twice") == 0
    report(listener)
    assert events.states == ["SCHEDULED", "IN PROGRESS", "CANCELED"]
    assert events.told[-1][2].ReasonForCancellation == "ordered twice"
    job_on(listener, study)
    assert perform(listener) == 0


def test_global_subscriptions_are_to_all_or_to_what_matches(
    listener: Listener, uid: str, study: str, events: Events
) -> None:
    with worklist(listener.port) as items:
        assert items.subscribe(FILTERED_SUBSCRIPTION, "WATCHER", ProcedureStepLabel="Knee*") == 0
        assert items.create(pushed(study), uid)[0] == CREATED
        assert items.subscribe(GLOBAL_SUBSCRIPTION, "WATCHER") == 0
        second = generate_uid()
        assert items.create(pushed(study), second)[0] == CREATED
        assert items.suspend("WATCHER") == 0
        assert items.suspend("WATCHER", second) == 0xC314
        assert items.create(pushed(study), generate_uid())[0] == CREATED
        assert items.cancel(second) == 0
        reporter(listener).announce_start()
        assert items.unsubscribe(GLOBAL_SUBSCRIPTION, "WATCHER") == 0
    report(listener)
    assert {which for which, _, _ in events.told} == {second, GLOBAL_SUBSCRIPTION}
    assert events.states == ["SCHEDULED", "IN PROGRESS", "CANCELED"]
    assert events.told[-1][2].SCPStatus == "RESTARTED"


def test_events_wait_for_a_subscriber_that_is_away(listener: Listener, uid: str, study: str) -> None:
    with worklist(listener.port) as items:
        assert items.create(pushed(study), uid)[0] == CREATED
        assert items.subscribe(uid, "WATCHER") == 0
    patient = listener.settings.ups.model_copy(update={"event_retry_s": 0.001})
    report(listener, ups=patient)
    with subscriber(WATCHER_PORT) as events:
        report(listener, ups=patient)
        assert events.states == ["SCHEDULED"]


def test_a_silent_subscriber_holds_up_no_other(listener: Listener, uid: str, study: str, events: Events) -> None:
    with worklist(listener.port) as items:
        assert items.create(pushed(study), uid)[0] == CREATED
        assert items.subscribe(uid, "PACS") == items.subscribe(uid, "WATCHER") == 0
    peers, port = listener.settings.peers, free_port()
    with subscriber(port, "PACS") as silent:
        silent.may_answer.clear()
        hung = peers["sender"].model_copy(update={"port": port})
        threads = reporter(listener, peers={**peers, "sender": hung}).run_once()
        eventually("the other is told", lambda: events.states)
        assert not silent.told
        silent.may_answer.set()
        for thread in threads:
            thread.join(60)
        assert silent.states == events.states == ["SCHEDULED"]


def test_an_event_that_cannot_be_written_holds_up_no_other(
    listener: Listener, uid: str, study: str, events: Events
) -> None:
    with listener.record.write() as session:
        workitem_tidings.announce(session, uid, EventType.PROGRESS_REPORT, {"00741004": {"vr": "XX"}}, ["WATCHER"])
    with worklist(listener.port) as items:
        assert items.create(pushed(study), uid)[0] == CREATED
        assert items.subscribe(uid, "WATCHER") == 0
    report(listener)
    assert events.states == ["SCHEDULED"]
    with listener.record.read() as session:
        assert workitem_tidings.counts(session) == {"GIVEN_UP": 1, "TOLD": 1}
