"""What readers say of findings, having a study read again, and the views people keep."""

from __future__ import annotations

import pytest
from sqlalchemy import delete, select, update
from sqlalchemy.exc import DBAPIError

from db import jobs, readings, rerun, saved_views, studies, worklist
from db.reader_tables import Reading
from db.readings import NewReading
from db.session import Record
from db.states import JobState
from db.tables import Audit, Job, Outbox, Study
from tests.support.records import STUDY, WORKER, claim, load, outcome, queued_job, race, result, revision


def verdict(record: Record, said: str, *, reader: str = "ada", label: str = "pneumonia", **changes: str) -> int:
    given = {
        "study_instance_uid": STUDY, "job_id": "job-1", "model": "cxr", "model_version": "1.0.0",
        "sop_instance_uid": f"{STUDY}.1.1", "presence": "present", **changes,
    }  # fmt: skip
    with record.write() as session:
        return readings.add(session, NewReading(label=label, verdict=said, **given), reader=reader)


def events(record: Record) -> list[tuple[str, str, str]]:
    with record.read() as session:
        rows = session.scalars(select(Audit).order_by(Audit.id))
        return [(row.event, row.actor, str(row.detail.get("verdict", ""))) for row in rows]


def test_each_verdict_and_each_undo_is_an_event_of_its_own(record: Record) -> None:
    verdict(record, "accept")
    verdict(record, "reject", reason="not-there", laterality="left", comment="Jane's rib")
    with record.write() as session:
        taken = readings.undo(session, STUDY, reader="ada")
        assert readings.undo(session, STUDY, reader="eve") is None
    assert taken is not None
    assert (taken.verdict, taken.comment) == ("reject", "Jane's rib")
    with record.read() as session:
        listed = readings.of_study(session, STUDY)
        assert "rib" not in str([row.detail for row in session.scalars(select(Audit))])
    assert [(one.verdict, one.undone) for one in listed] == [("accept", False), ("reject", True), ("undo", False)]
    assert [one.verdict for one in readings.in_force(listed)] == ["accept"]
    told = [
        ("finding_judged", "ada", "accept"),
        ("finding_judged", "ada", "reject"),
        ("judgement_undone", "ada", "reject"),
    ]
    assert events(record) == told
    with record.write() as session:
        assert readings.undo(session, STUDY, reader="ada") is not None
        assert readings.undo(session, STUDY, reader="ada") is None


def test_two_that_undo_at_once_undo_two_verdicts_or_one(record: Record) -> None:
    verdict(record, "accept")

    def take_back(_number: int) -> bool:
        with record.write() as session:
            return readings.undo(session, STUDY, reader="ada") is not None

    assert sorted(race(2, take_back)) == [False, True]


def test_what_readers_said_can_be_neither_changed_nor_deleted(record: Record) -> None:
    verdict(record, "accept")
    for statement in (update(Reading).values(verdict="reject"), delete(Reading)):
        with pytest.raises(DBAPIError, match="append-only"), record.engine.begin() as connection:
            connection.execute(statement)


def test_agreement_counts_each_readers_last_word(record: Record) -> None:
    verdict(record, "reject")
    verdict(record, "accept")
    verdict(record, "reject", reader="eve")
    verdict(record, "uncertain", reader="bob")
    verdict(record, "accept", presence="absent", label="effusion")
    verdict(record, "accept", model_version="2.0.0")
    with record.write() as session:
        readings.undo(session, STUDY, reader="bob")
    with record.read() as session:
        told = readings.agreement(session, "cxr", "1.0.0")
    assert [(one.label, one.presence, one.accepted, one.rejected, one.uncertain) for one in told] == [
        ("effusion", "absent", 1, 0, 0),
        ("pneumonia", "present", 1, 1, 0),
    ]


def test_a_first_reading_is_known_and_is_not_taken_back(record: Record) -> None:
    with record.write() as session:
        readings.add_first(session, STUDY, "no-finding", reader="ada")
        assert readings.undo(session, STUDY, reader="ada") is None
    with record.read() as session:
        assert readings.read_first(session, [STUDY, "5.5"]) == {STUDY}
    assert events(record) == [("first_read", "ada", "no-finding")]


def test_a_finished_study_is_read_again_as_a_new_revision(record: Record) -> None:
    first = queued_job(record, priority="stat")
    assert claim(record, first) is not None
    with record.write() as session:
        jobs.finish(session, first, WORKER, outcome(result(1)))
    with record.write() as session:
        done = rerun.rerun(session, STUDY, actor="ada")
    assert done is not None
    assert (done.opened, done.retried, done.left, done.changed) == (1, 0, 0, True)
    with record.read() as session:
        row = worklist.study(session, STUDY)
        assert row is not None
        told = [(job.revision, job.current, job.state, job.priority) for job in row.jobs]
        second = row.jobs[1].id
        newest = rerun.current_revisions(session, session.scalars(select(Study.id)).one())
        announced = [one.subject for one in session.scalars(select(Outbox))]
    assert told == [(1, False, JobState.DONE, "stat"), (2, True, JobState.QUEUED, "stat")]
    assert second in announced
    assert [one.number for one in newest] == [2]
    claimed = claim(record, second)
    assert claimed is not None
    assert [ref.sop_instance_uid for ref in claimed.predecessors] == [f"{STUDY}.9.1"]
    with record.write() as session:
        again = rerun.rerun(session, STUDY, actor="ada")
        assert again is not None
        assert (again.opened, again.left, again.changed) == (0, 1, False)
        assert rerun.rerun(session, "5.5", actor="ada") is None
    assert [event for event, actor, _ in events(record) if actor == "ada"] == ["study_routed", "study_rerun"]


def test_a_revision_that_a_person_asked_for_supersedes_what_waits(record: Record) -> None:
    first = queued_job(record)
    view = load(record)
    with record.write() as session:
        studies.open_again(session, view.id, STUDY, revision(view), actor="ada")
    with record.read() as session:
        assert session.get_one(Job, first).state is JobState.SUPERSEDED
        assert [row.revision for row in worklist.study(session, STUDY).jobs if row.current] == [2]  # type: ignore[union-attr]


def test_a_parked_job_is_retried_and_two_that_ask_at_once_do_it_once(record: Record) -> None:
    job_id = queued_job(record)
    assert claim(record, job_id) is not None
    with record.write() as session:
        jobs.park(session, job_id, WORKER, reason="broken")

    def ask(_number: int) -> int:
        with record.write() as session:
            done = rerun.rerun(session, STUDY, actor="ada")
            return -1 if done is None else done.retried

    assert sorted(race(2, ask)) == [0, 1]
    with record.read() as session:
        assert session.get_one(Job, job_id).state is JobState.QUEUED


def test_people_keep_views_of_their_own(record: Record) -> None:
    with record.write() as session:
        saved_views.keep(session, "ada", "Night", "priority=stat")
        saved_views.keep(session, "ada", "Night", "priority=urgent")
        saved_views.keep(session, "eve", "Night", "state=done")
    with record.write() as session:
        (mine,) = saved_views.views(session, "ada")
        assert (mine.name, mine.query) == ("Night", "priority=urgent")
        assert not saved_views.drop(session, "eve", mine.id)
        assert saved_views.drop(session, "ada", mine.id)
        for number in range(saved_views.MOST_VIEWS):
            saved_views.keep(session, "ada", f"view {number}", "state=done")
        with pytest.raises(saved_views.TooManyViews):
            saved_views.keep(session, "ada", "one more", "state=done")
