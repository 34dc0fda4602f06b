"""Deleting in the record: what may go, what it leaves, and what comes again afterwards."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
from sqlalchemy import select

from db import audit, deletions, deliveries, jobs, leftovers, queues, retention
from db.audit import Wanted
from db.domain import Intake
from db.errors import ConflictError
from db.rerun import Rerun, rerun
from db.session import Record
from db.states import DeliveryState, InstanceState, JobState, StudyState
from db.tables import Delivery, Instance, Job, Result, RevisionInstance, RoutingDecision, Series, Study
from db.types import utcnow
from tests.support import records
from tests.support.deleting import LATER, ME, ONE, deliver, end, read_study, set_images
from tests.support.processes import eventually
from tests.support.records import STUDY, WORKER, finished_job, image, load, queued_job, race, receive


def path_of(uid: str) -> str:
    return f"results/of-{uid}.dcm"


def begin(record: Record, number: int = 1, *, before: datetime | None = None, waiting: bool = False) -> bool:
    view = load(record, f"{STUDY}.{number}")
    with record.write() as session:
        return deletions.begin_images(
            session, view.id, before=before or utcnow() + LATER, actor="retention", reason="kept long", waiting=waiting
        )


def state_of(record: Record, uid: str = ONE) -> StudyState:
    with record.read() as session:
        return session.scalars(select(Study.state).where(Study.study_instance_uid == uid)).one()


def due(record: Record, *, waiting: bool = False, before: datetime | None = None) -> list[int]:
    with record.read() as session:
        return retention.due_studies(session, before or utcnow() + LATER, waiting=waiting, limit=10)


def open_ends(record: Record, uid: str = ONE) -> list[str]:
    view = load(record, uid)
    with record.read() as session:
        return retention.unfinished(session, view.id, before=None, waiting=False)


def delete_study(record: Record, uid: str = ONE, *, force: bool = False) -> None:
    with record.write() as session:
        deletions.begin_study(session, uid, path_of=path_of, actor="anna", reason="wrong patient", force=force)


def test_images_go_and_what_was_found_in_them_stays(record: Record) -> None:
    uid = read_study(record)
    (study_id,) = due(record)
    assert begin(record)
    assert state_of(record) is StudyState.DELETING
    assert due(record) == []
    with record.read() as session:
        # From now on no row names the file, and one deletion does.
        assert session.scalars(select(Instance)).all() == session.scalars(select(Series)).all() == []
        assert session.scalars(select(RevisionInstance)).all() == []
        assert retention.is_named(session, "instances/1.dcm", f"{STUDY}.1.1")
        assert deletions.any_open(session)
    going = end(record)
    assert (going.paths, going.size_bytes, going.study_instance_uid) == (("instances/1.dcm",), 1001, uid)
    assert state_of(record) is StudyState.CLEARED
    with record.read() as session:
        assert not deletions.any_open(session)
        assert not retention.is_named(session, "instances/1.dcm", f"{STUDY}.1.1")
        assert session.scalars(select(Job.summary)).one() == {"pneumonia": 0.25}
        assert session.get_one(Study, study_id).patient_name == "Doe^Jane"
        told = audit.latest(session, Wanted(events=("instances_deleted",)))
    assert told is not None
    assert (told.actor, told.subject, told.detail["reason"]) == ("retention", uid, "kept long")
    assert told.detail["sop_classes"] == {records.CR: {"count": 1, "uids": [f"{STUDY}.1.1"]}}
    with record.write() as session:
        assert rerun(session, uid, actor="anna") == Rerun(gone=True)
    # A later image opens the study anew; what was read before still has no image to be read again.
    receive(record, image(2, uid))
    assert state_of(record) is StudyState.RECEIVING
    with record.write() as session:
        assert rerun(session, uid, actor="anna") == Rerun(gone=True)


def park(record: Record) -> None:
    job_id = queued_job(record, ONE)
    assert records.claim(record, job_id) is not None
    with record.write() as session:
        jobs.park(session, job_id, WORKER, reason="poison")


def undelivered(record: Record) -> None:
    finished_job(record)
    set_images(record, 1, InstanceState.ANALYSED)


def nowhere(record: Record) -> None:
    finished_job(record, destinations=())
    set_images(record, 1, InstanceState.ANALYSED)


def dead(record: Record) -> None:
    undelivered(record)
    (job_id,) = records.job_ids(record)
    with record.write() as session:
        for one in deliveries.claim(session, job_id, "pacs", "sender", lease_s=60):
            deliveries.bury(session, one, "sender", reason="refused")


def quarantined(record: Record) -> None:
    read_study(record)
    receive(record, image(2, ONE, patient_id="ID-2"))
    records.settle(record, load(record, ONE))


@pytest.mark.parametrize(
    ("make", "why", "for_a_person"),
    [
        (lambda record: receive(record, image(1, ONE)), "arriving", False),
        (lambda record: queued_job(record, ONE), "jobs are not done", False),
        (park, "jobs are parked", True),
        (undelivered, "results are not delivered", False),
        (nowhere, "results were sent nowhere", True),
        (dead, "deliveries are dead letters", True),
        (quarantined, "images wait for a person", True),
    ],
)
def test_what_is_not_finished_stays(
    record: Record, make: Callable[[Record], object], why: str, for_a_person: bool
) -> None:
    make(record)
    assert any(why in one for one in open_ends(record))
    assert due(record) == []
    assert not begin(record)
    # What a person did not come for may go where the settings say so, and what is in work never.
    assert bool(due(record, waiting=True)) is begin(record, waiting=True) is for_a_person
    with pytest.raises(ConflictError):
        delete_study(record)


def test_days_count_from_the_last_thing_that_happened(record: Record) -> None:
    read_study(record)
    before = utcnow() - timedelta(seconds=30)
    assert due(record, before=before) == []
    assert not begin(record, before=before)
    view = load(record, ONE)
    with record.read() as session:
        assert len(retention.unfinished(session, view.id, before=before, waiting=False)) == 2


def test_a_parked_job_is_given_up_with_its_images(record: Record) -> None:
    park(record)
    assert begin(record, waiting=True)
    with record.read() as session:
        (job,) = session.scalars(select(Job))
        assert (job.state, job.reason) == (JobState.NOT_ANALYSED, "given up: kept long")


def test_nothing_is_taken_while_files_are_going_and_afterwards_it_is_new(record: Record) -> None:
    read_study(record)
    assert begin(record)
    assert receive(record, image(1, ONE), image(2, ONE), image(3, f"{STUDY}.3")) == [
        Intake.GOING,
        Intake.GOING,
        Intake.NEW,
    ]
    with record.read() as session:
        assert len(session.scalars(select(Instance)).all()) == 1
    end(record)
    # The same UID, and even other bytes: what was there is gone.
    assert receive(record, image(1, ONE, sha256="e" * 64), image(1, ONE, sha256="e" * 64)) == [
        Intake.NEW,
        Intake.DUPLICATE,
    ]
    assert state_of(record) is StudyState.RECEIVING
    view = load(record, ONE)
    assert view.routed == frozenset()
    (opened,) = records.settle(record, view, records.revision(view))
    with record.read() as session:
        (job_id,) = session.scalars(select(Job.id).where(Job.revision_id == opened))
    claimed = records.claim(record, job_id)
    assert claimed is not None
    # Counted on, so that no UID of an earlier result is given to a new one; the earlier report is named.
    assert claimed.revision_number == 2
    assert [one.sop_instance_uid for one in claimed.predecessors] == [f"{STUDY}.9.1"]


def test_results_go_once_they_are_proved(record: Record) -> None:
    read_study(record, 1)
    read_study(record, 2, confirmed=False)
    job_id = finished_job(record, number=3)
    deliver(record, job_id, sent_as="1.2.3")
    finished_job(record, number=4)
    finished_job(record, number=5, destinations=())
    with record.read() as session:
        proved = retention.due_results(session, utcnow() + LATER, limit=10)
        assert [len(ids) for ids in proved] == [1, 1]
        assert len(retention.due_results(session, utcnow() + LATER, unconfirmed=True, limit=10)) == 3
        assert retention.due_results(session, utcnow() - LATER, limit=10) == []
    begun = []
    for ids in (*proved, proved[0]):
        with record.write() as session:
            begun.append(
                deletions.begin_results(session, ids, path_of=path_of, actor="retention", reason="old", at=utcnow())
            )
    assert begun == [1, 1, 0]
    with record.write() as session:
        # One that its peer had lost after all.
        (waits,) = session.scalars(select(Result.id).where(Result.sop_instance_uid == f"{STUDY}.9.4")).all()
        assert not deletions.begin_results(
            session, [waits], path_of=path_of, actor="retention", reason="old", at=utcnow()
        )
    assert {end(record).paths for _ in range(2)} == {
        ("results/1.dcm",),
        ("results/3.dcm", "results/of-1.2.3.dcm"),
    }
    with record.read() as session:
        assert session.scalars(select(Result.deleted_at).where(Result.id.in_(proved[0]))).one() is not None
        # Its study is not touched, and its UID is known for ever.
        assert session.scalars(select(Study.state).where(Study.study_instance_uid == ONE)).one() is StudyState.COMPLETE
        assert retention.due_results(session, utcnow() + LATER, limit=10) == []


@pytest.mark.parametrize("taken", [True, False])
def test_what_the_settings_keep_from_a_destination_is_not_waited_for(record: Record, taken: bool) -> None:
    names = ("pacs", "ris") if taken else ("ris",)
    job_id = finished_job(record, destinations=names)
    set_images(record, 1, InstanceState.ANALYSED)
    deliver(record, job_id)
    with record.write() as session:
        for one in deliveries.claim(session, job_id, "ris", "sender", lease_s=60):
            assert queues.withdraw(session, one, "sender", "the settings keep it back")
    # What was sent nowhere at all is nowhere else.
    assert open_ends(record) == ([] if taken else ["results were sent nowhere"])
    with record.read() as session:
        assert len(retention.due_results(session, utcnow() + LATER, limit=10)) == taken


def test_what_a_shadow_says_of_a_study_that_is_deleted_is_not_kept(record: Record) -> None:
    read_study(record)
    (job_id,) = records.job_ids(record)
    delete_study(record)
    with record.write() as session:
        jobs.note_shadow(session, job_id, {"pneumonia": 0.5})
    with record.read() as session:
        assert session.scalars(select(Job.summary)).one() == {}


def test_a_person_deletes_a_whole_study(record: Record) -> None:
    uid = read_study(record)
    delete_study(record)
    with pytest.raises(ConflictError, match="already"):
        delete_study(record)
    assert set(end(record).paths) == {"instances/1.dcm", "results/1.dcm"}
    assert state_of(record) is StudyState.DELETED
    with record.read() as session:
        study = session.scalars(select(Study)).one()
        assert (study.patient_name, study.patient_id, study.accession_number) == ("", "", "")
        assert session.scalars(select(Job.summary)).one() == {}
        assert session.scalars(select(RoutingDecision)).all() == []
        told = audit.latest(session, Wanted(events=("study_deleted",)))
    assert told is not None
    assert (told.actor, told.subject, told.detail["files"]) == ("anna", uid, 2)
    # Whoever it is of now, it is not set aside for what it was before.
    assert receive(record, image(7, ONE, patient_id="ID-9", patient_name="Roe^Rita")) == [Intake.NEW]
    with record.read() as session:
        study = session.scalars(select(Study)).one()
        assert (study.state, study.patient_name) == (StudyState.RECEIVING, "Roe^Rita")
        assert session.scalars(select(Instance.state)).one() is InstanceState.RECEIVED


def test_a_person_may_insist(record: Record) -> None:
    undelivered(record)
    with pytest.raises(ConflictError, match="not delivered"):
        delete_study(record)
    delete_study(record, force=True)
    end(record)
    with record.read() as session:
        assert session.scalars(select(Delivery.state)).one() is DeliveryState.WITHDRAWN
        told = audit.latest(session, Wanted(events=("study_deleted",)))
    assert told is not None
    assert told.detail["given_up"] == ["results are not delivered"]
    with record.write() as session:
        assert deliveries.retry(session, actor="anna") == 0


def test_what_a_worker_is_at_is_not_deleted(record: Record) -> None:
    assert records.claim(record, queued_job(record, ONE)) is not None
    with pytest.raises(ConflictError, match="a worker is at"):
        delete_study(record, force=True)
    assert state_of(record) is StudyState.COMPLETE
    with pytest.raises(ConflictError, match="is not here"):
        delete_study(record, "1.2.3.4")


def test_one_of_many_deletes_and_one_of_many_closes(record: Record) -> None:
    read_study(record)
    assert sum(race(4, lambda _: begin(record))) == 1

    def take(number: int) -> bool:
        with record.write() as session:
            going = deletions.claim(session, f"keeper-{number}", lease_s=60)
            return going is not None and deletions.finish(session, going.id, f"keeper-{number}")

    assert sum(race(4, take)) == 1
    with record.read() as session:
        assert len(list(audit.entries(session, Wanted(events=("instances_deleted",))))) == 1


def test_a_deletion_is_taken_over_from_the_dead_and_never_from_the_living(record: Record) -> None:
    read_study(record)
    assert begin(record)

    def take(owner: str) -> deletions.Going | None:
        with record.write() as session:
            return deletions.claim(session, owner, lease_s=60)

    first = take("dead")
    assert first is not None
    assert take(ME) is None
    with record.write() as session:
        assert leftovers.free(session, "dead") == 1
        assert deletions.free(session, "dead") == 0
    assert take(ME) == first
    with record.write() as session:
        assert not deletions.finish(session, first.id, "dead")
        # The disk does not let go of the files.
        deletions.postpone(session, first.id, ME, wait_s=0.3)
    with record.read() as session:
        assert not deletions.any_open(session)
    assert eventually("somebody tries again", lambda: take("other"), timeout_s=10) == first
