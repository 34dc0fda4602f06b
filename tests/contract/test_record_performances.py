"""Work items of a manager that this node performs: what of them is on record, on both databases."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from db import performances, study_work
from db.performance_tables import Performance
from db.performances import NewPerformance, Output
from db.session import Record
from db.states import JobState
from db.states import PerformanceState as F
from db.types import utcnow
from tests.support import records
from tests.support.records import STUDY, image, race

FIRST = f"{STUDY}.1.1"


def rows(record: Record) -> list[Performance]:
    with record.read() as session:
        return list(session.scalars(select(Performance).order_by(Performance.id)))


def states(record: Record) -> list[F]:
    return [row.state for row in rows(record)]


def new(uid: str = "1.2.3") -> NewPerformance:
    return NewPerformance("ris", uid, STUDY, (FIRST,), "ID-1", "stat", ("1", "L", "m"), None)


def test_a_claim_is_on_record_before_it_is_sent_and_is_taken_up_once(record: Record) -> None:
    with record.write() as session:
        assert performances.take_up(session, new())
        assert not performances.take_up(session, new())
    with record.read() as session:
        assert performances.under_way(session, "ris") == 1
        assert performances.known(session, ["ris"], "1.2.3")
        assert not performances.known(session, ["other"], "1.2.3")
        assert performances.any_due(session, "ris", utcnow())
        assert performances.counts(session) == {("ris", "CLAIMING"): 1}
        assert performances.shown(session)[0]["state"] == "CLAIMING"
    assert rows(record)[0].transaction_uid.startswith("2.25.")


def test_one_process_alone_looks_after_a_work_item(record: Record) -> None:
    with record.write() as session:
        performances.take_up(session, new())
    moment = utcnow()

    def take(_: int) -> int:
        with record.write() as session:
            return len(performances.claim_due(session, "ris", moment, lease_s=60))

    assert sorted(race(4, take)) == [0, 0, 0, 1]


def test_what_ends_has_ended_once_and_stays_so(record: Record) -> None:
    with record.write() as session:
        performances.take_up(session, new())
        row = rows_in(session)[0].id
        assert performances.granted(session, row, look_at=utcnow())
        assert not performances.granted(session, row, look_at=utcnow())
        performances.look_again(session, row, utcnow() + timedelta(hours=1), reason="waiting", progress=10)
        assert performances.ask_to_cancel(session, ["ris"], "1.2.3")
        output = Output("1.1", "1.2", "1.3", STUDY, "pacs")
        assert performances.decide(session, row, F.COMPLETING, reason="read", outputs=[output])
        assert not performances.decide(session, row, F.CANCELING, reason="late")
        # What is decided is not undone by a request that comes too late.
        assert not performances.ask_to_cancel(session, ["ris"], "1.2.3")
        performances.postpone(session, row, F.COMPLETING, utcnow() - timedelta(seconds=1), reason="away")
        (due,) = performances.claim_due(session, "ris", utcnow(), lease_s=60)
        assert (due.outputs, due.state) == ((output,), F.COMPLETING)
        assert performances.end(session, row, F.COMPLETING, F.COMPLETED)
        assert not performances.end(session, row, F.COMPLETING, F.GIVEN_UP)
        assert performances.under_way(session, "ris") == 0
    assert states(record) == [F.COMPLETED]


def rows_in(session: Session) -> list[Performance]:
    return list(session.scalars(select(Performance)))


def test_what_is_over_and_what_is_deleted_names_no_patient(record: Record) -> None:
    with record.write() as session:
        performances.take_up(session, new())
        performances.take_up(session, new("1.2.4"))
        first, second = rows_in(session)
        performances.end(session, first.id, F.CLAIMING, F.LOST, reason="another performer has it")
    assert [row.patient_id for row in rows(record)] == ["", "ID-1"]
    with record.write() as session:
        performances.forget_patient(session, STUDY)
    assert [row.patient_id for row in rows(record)] == ["", ""]
    assert second.state is F.CLAIMING


def test_what_could_not_be_claimed_in_time_is_claimed_when_it_is_scheduled_still(record: Record) -> None:
    with record.write() as session:
        performances.take_up(session, new())
    before = rows(record)[0]
    with record.write() as session:
        performances.end(session, before.id, F.CLAIMING, F.GIVEN_UP, reason="away")
        assert performances.take_up(session, new())
    (after,) = rows(record)
    assert (after.state, after.transaction_uid, after.patient_id) == (F.CLAIMING, before.transaction_uid, "ID-1")


def test_a_study_without_images_is_nobodys_work(record: Record) -> None:
    with record.read() as session:
        assert study_work.of_study(session, STUDY) is None


def test_the_work_on_a_study_is_that_of_its_current_revisions(record: Record) -> None:
    job_id = records.queued_job(record)
    with record.read() as session:
        work = study_work.of_study(session, STUDY, [FIRST, "9.9.9"])
    assert work is not None
    assert (work.here, work.aside, work.jobs, work.settled) == (1, 0, (JobState.QUEUED,), True)
    assert work.patient_ids == {"ID-1"}
    assert records.claim(record, job_id) is not None
    records.receive(record, image(2))
    view = records.load(record)
    records.settle(record, view, records.revision(view))
    with record.read() as session:
        work = study_work.of_study(session, STUDY)
    assert work is not None
    # The running job is of a revision that a later image replaced.
    assert (work.here, work.jobs) == (2, (JobState.QUEUED,))
