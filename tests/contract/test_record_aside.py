"""What waits for a person, on both databases: parked jobs and quarantined images, and their ways out."""

from __future__ import annotations

import pytest
from sqlalchemy import select, update

from db import aside, audit, intake, jobs, listing
from db.domain import NewRefusal
from db.session import Record
from db.states import RefusalKind
from db.studies import due_studies
from db.tables import Job, Study
from db.types import utcnow
from tests.support import records
from tests.support.records import STUDY, image, load, receive, revision, settle


def events(record: Record, *names: str) -> list[tuple[str, str, str]]:
    with record.read() as session:
        return [(one.event, one.actor, one.subject) for one in audit.entries(session, audit.Wanted(events=names))]


def parked_job(record: Record) -> str:
    job_id = records.queued_job(record)
    assert records.claim(record, job_id) is not None
    with record.write() as session:
        jobs.park(session, job_id, records.WORKER, reason="its decoder died 2 times")
    return job_id


def test_a_parked_job_is_listed_with_its_images(record: Record) -> None:
    with record.read() as session:
        assert aside.parked(session) == []
    job_id = parked_job(record)
    with record.read() as session:
        (row,) = aside.parked(session)
    assert (row["id"], row["study_instance_uid"], row["model"], row["attempts"]) == (job_id, STUDY, "cxr", 1)
    assert row["reason"] == "its decoder died 2 times"
    assert row["parked_at"]
    assert [(one["state"], one["path"]) for one in row["instances"]] == [("FAILED", "instances/1.dcm")]


def test_a_parked_job_is_given_up_once_and_its_instances_with_it(record: Record) -> None:
    job_id = parked_job(record)
    with record.write() as session:
        assert aside.give_up(session, job_id, actor="anna")
        assert not aside.give_up(session, job_id, actor="anna")
        assert not aside.give_up(session, "no-such-job", actor="anna")
    with record.read() as session:
        assert aside.parked(session) == []
        (job,) = listing.jobs(session)
        (instance,) = listing.instances(session)
    assert (job["state"], job["reason"]) == ("NOT_ANALYSED", "given up by a person; its decoder died 2 times")
    assert instance["state"] == "NOT_ANALYSED"
    assert events(record, "job_given_up") == [("job_given_up", "anna", job_id)]
    with record.write() as session:
        assert not jobs.retry(session, job_id, actor="anna")


@pytest.mark.parametrize("attempts", [1, 3])
def test_a_study_that_kills_its_workers_is_tried_that_often_and_parked(record: Record, attempts: int) -> None:
    """No worker lives to say what happened: the record alone counts."""
    job_id = records.queued_job(record)
    for number in range(attempts):
        worker = f"host:infer:{number}"
        assert records.claim(record, job_id, worker, max_attempts=attempts) is not None
        with record.write() as session:
            assert jobs.release(session, worker) == 1
    assert records.claim(record, job_id, "host:infer:last", max_attempts=attempts) is None
    with record.read() as session:
        (row,) = aside.parked(session)
    assert (row["id"], row["attempts"]) == (job_id, attempts)
    assert row["reason"].startswith(f"tried {attempts} times, the worker never finished")
    with record.write() as session:
        assert jobs.retry(session, job_id, actor="anna")
    assert records.claim(record, job_id, "host:infer:again", max_attempts=attempts) is not None


def quarantined(record: Record) -> None:
    """A study that is judged, and an image that came to it under another Patient ID."""
    receive(record, image(1))
    view = load(record)
    settle(record, view, revision(view))
    receive(record, image(2, patient_id="ID-2"))
    view = load(record)
    settle(record, view)


def test_what_was_set_aside_is_listed_with_where_it_lies(record: Record) -> None:
    quarantined(record)
    with record.write() as session:
        refusal = NewRefusal(
            sop_instance_uid=image(1).sop_instance_uid,
            sop_class_uid=records.CR,
            study_instance_uid=STUDY,
            status=0x0111,
            reason="other bytes under a known UID",
            calling_ae="MODALITY",
            peer_address="127.0.0.1",
            path="quarantine/x.dcm",
            sha256="a" * 64,
        )
        intake.record_refusal(session, RefusalKind.CONFLICT, refusal)
        intake.record_refusal(session, RefusalKind.REFUSED, refusal)
    with record.read() as session:
        found = [(row["state"], row["sop_instance_uid"], row["path"]) for row in aside.set_aside(session)]
    assert found == [
        ("QUARANTINED", image(2).sop_instance_uid, "instances/2.dcm"),
        ("CONFLICT", image(1).sop_instance_uid, "quarantine/x.dcm"),
    ]


def test_a_released_image_is_judged_with_its_study_again(record: Record) -> None:
    quarantined(record)
    uid = image(2).sop_instance_uid
    stale = load(record)
    with record.read() as session:
        assert due_studies(session, utcnow()) == []
    with record.write() as session:
        assert aside.release(session, uid, actor="anna")
        assert not aside.release(session, uid, actor="anna")
        assert not aside.release(session, image(1).sop_instance_uid, actor="anna")
        assert not aside.release(session, "1.2.3.4", actor="anna")
    with record.read() as session:
        assert len(due_studies(session, utcnow())) == 1
        assert aside.set_aside(session) == []
        assert session.scalars(select(Study.version)).one() > stale.version
    view = load(record)
    assert [one.sop_instance_uid for one in view.instances] == [image(1).sop_instance_uid, uid]
    settle(record, view, revision(view))
    with record.read() as session:
        assert [job["state"] for job in listing.jobs(session)] == ["SUPERSEDED", "QUEUED"]
    assert events(record, "instance_released") == [("instance_released", "anna", uid)]


def test_the_longest_waiting_comes_first(record: Record) -> None:
    first, second = records.queued_job(record, f"{STUDY}.1", 1), records.queued_job(record, f"{STUDY}.2", 2)
    for job_id in (second, first):
        assert records.claim(record, job_id) is not None
        with record.write() as session:
            jobs.park(session, job_id, records.WORKER, reason="because")
    with record.write() as session:
        session.execute(update(Job).where(Job.id == second).values(finished_at=records.NOON))
    with record.read() as session:
        assert [row["id"] for row in aside.parked(session)] == [second, first]
