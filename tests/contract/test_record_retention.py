"""What was set aside, how much of it there may be, and what the record forgets."""

from __future__ import annotations

import pytest
from sqlalchemy import select

from db import aside, audit, deletions, deliveries, files, intake, listing, retention
from db.audit import Wanted
from db.domain import Intake, NewRefusal
from db.errors import StudyGoing
from db.session import Record
from db.states import InstanceState, RefusalKind
from db.tables import Delivery, Refusal
from db.types import utcnow
from tests.support import records
from tests.support.deleting import LATER, ONE, deliver, end, read_study, set_images
from tests.support.records import STUDY, finished_job, image, receive, result


def aside_object(record: Record, digest: str, path: str, size: int = 700, *, sender: str = "MODALITY") -> None:
    refusal = NewRefusal(
        sop_instance_uid=f"{STUDY}.1.1",
        sop_class_uid=records.CR,
        study_instance_uid=ONE,
        status=0,
        reason="another object",
        calling_ae=sender,
        peer_address="127.0.0.1",
        path=path,
        sha256=digest,
        size_bytes=size,
    )
    with record.write() as session:
        intake.record_refusal(session, RefusalKind.CONFLICT, refusal)


def test_what_was_set_aside_goes_and_may_come_again(record: Record) -> None:
    aside_object(record, "a", "quarantine/1.dcm")
    aside_object(record, "a", "quarantine/1.dcm")
    with record.read() as session:
        assert retention.aside_bytes(session) == 700
        assert retention.due_aside(session, utcnow() - LATER, limit=5) == []
        (refusal_id,) = retention.due_aside(session, utcnow() + LATER, limit=5)
    with record.write() as session:
        assert deletions.begin_aside(session, refusal_id, actor="retention", reason="old")
        assert not deletions.begin_aside(session, refusal_id, actor="retention", reason="old")
        assert retention.is_going(session, "quarantine/1.dcm")
    with pytest.raises(StudyGoing):
        aside_object(record, "a", "quarantine/1.dcm")
    assert end(record).paths == ("quarantine/1.dcm",)
    with record.read() as session:
        assert retention.aside_bytes(session) == 0
        told = audit.latest(session, Wanted(events=("instances_deleted",)))
    assert told is not None
    assert (told.subject, told.detail["what"]) == (ONE, "aside")
    aside_object(record, "a", "quarantine/1.dcm")
    with record.read() as session:
        assert session.scalars(select(Refusal.path)).one() == "quarantine/1.dcm"
        assert session.scalars(select(Refusal.occurrences)).one() == 3


def test_one_file_of_two_senders_goes_with_the_last_of_them(record: Record) -> None:
    for sender in ("MODALITY", "OTHER"):
        aside_object(record, "a", "quarantine/1.dcm", sender=sender)
    with record.read() as session:
        first, second = retention.due_aside(session, utcnow() + LATER, limit=5)
    with record.write() as session:
        assert deletions.begin_aside(session, first, actor="retention", reason="old")
        assert not deletions.any_open(session)
        assert [one.path for one in files.named_files(session)] == ["quarantine/1.dcm"]
        assert deletions.begin_aside(session, second, actor="retention", reason="old")
        assert list(files.named_files(session)) == []
    assert end(record).paths == ("quarantine/1.dcm",)


def test_an_image_that_left_quarantine_is_not_taken_again_before_its_file_is_gone(record: Record) -> None:
    read_study(record)
    # As where the worklist's order is another patient's: the image itself does not tell.
    receive(record, image(2, ONE))
    set_images(record, 2, InstanceState.QUARANTINED)
    with record.write() as session:
        assert deletions.begin_set_aside(session, f"{STUDY}.1.2", actor="anna", reason="looked at")
        assert list(session.scalars(retention.leaving_quarantine())) == [["instances/2.dcm"]]
    assert receive(record, image(2, ONE)) == [Intake.GOING]
    end(record)
    assert receive(record, image(2, ONE)) == [Intake.NEW]


def test_quarantine_takes_so_much_and_no_more(record: Record) -> None:
    receive(record, image(1))
    aside_object(record, "a", "quarantine/1.dcm", size=500)
    arrivals = [image(2, patient_id="ID-2"), image(3, patient_id="ID-2"), image(4)]
    with record.write_rows() as connection:
        told = intake.record_instances(connection, arrivals, most_aside_bytes=500 + 1002)
    assert told == [Intake.NEW, Intake.NO_ROOM, Intake.NEW]
    with record.read() as session:
        assert retention.aside_bytes(session) == 1502
        assert len(listing.instances(session, STUDY)) == 3
        (lies, _) = aside.set_aside(session)
        assert lies["state"] == "QUARANTINED"


def test_old_notes_are_forgotten_and_what_has_a_file_is_not(record: Record) -> None:
    aside_object(record, "a", "quarantine/1.dcm")
    aside_object(record, "b", "")
    read_study(record)
    with record.write() as session:
        ids = list(session.scalars(select(Delivery.id)))
        deliveries.ask_commitment(session, "1.2.3", "pacs", ids, deadline_at=utcnow())
        deliveries.apply_commitment(session, "1.2.3", [], {}, retry_at=utcnow())
        deliveries.ask_commitment(session, "1.2.4", "pacs", ids, deadline_at=utcnow())
        assert not retention.any_notes(session, utcnow() - LATER)
        assert retention.any_notes(session, utcnow() + LATER)
        assert retention.prune_notes(session, utcnow() + LATER, limit=10) == 2
        assert not retention.any_notes(session, utcnow() + LATER)
        assert session.scalars(select(Refusal.sha256)).all() == ["a"]


def test_files_are_known_by_the_uid_of_their_object(record: Record) -> None:
    job_id = finished_job(record, result(1))
    deliver(record, job_id, sent_as="1.2.3")
    aside_object(record, "a", "quarantine/1.dcm")
    known = {
        "instances/1.dcm": f"{STUDY}.1.1",
        "results/1.dcm": f"{STUDY}.9.1",
        "results/any.dcm": "1.2.3",
        "quarantine/1.dcm": f"{STUDY}.1.1",
    }
    with record.read() as session:
        assert all(retention.is_named(session, path, uid) for path, uid in known.items())
        assert not retention.is_named(session, "instances/2.dcm", f"{STUDY}.1.1")


def test_a_person_has_something_deleted_out_of_quarantine(record: Record) -> None:
    read_study(record)
    receive(record, image(2, ONE, patient_id="ID-2"))
    aside_object(record, "a", "quarantine/1.dcm")
    for uid, begins in ((f"{STUDY}.1.2", True), (f"{STUDY}.1.1", True), (f"{STUDY}.1.1", False)):
        with record.write() as session:
            # The study's own image under the second UID is not in quarantine, and stays.
            begun = deletions.begin_set_aside(session, uid, actor="anna", reason="looked at")
        assert begun is begins
    with record.read() as session:
        assert deletions.open_count(session) == 2
        assert aside.set_aside(session) == []
        assert files.going_files(session) == {"instances/2.dcm", "quarantine/1.dcm"}
        assert [one.path for one in files.named_files(session)] == ["instances/1.dcm", "results/1.dcm"]
    # It comes again before its file is gone.
    with record.write_rows() as connection:
        again = [image(2, ONE, patient_id="ID-2")]
        assert intake.record_instances(connection, again, most_aside_bytes=1 << 30) == [Intake.GOING]
    assert {end(record).paths for _ in range(2)} == {("instances/2.dcm",), ("quarantine/1.dcm",)}


def test_files_are_named_by_rows_and_by_what_was_sent(record: Record) -> None:
    deliver(record, finished_job(record), sent_as="1.2.3")
    aside_object(record, "a", "quarantine/1.dcm")
    with record.read() as session:
        assert retention.first_received(session) == records.NOON
        assert {one.kind: (one.path, one.size_bytes) for one in files.named_files(session)} == {
            "image": ("instances/1.dcm", 1001),
            "result": ("results/1.dcm", 500),
            "set aside": ("quarantine/1.dcm", 700),
        }
        assert list(files.sent_under_own_uid(session)) == ["1.2.3"]
