"""Later images: whose reading counts, and whom a report supersedes; on both databases."""

from __future__ import annotations

from dataclasses import replace

from sqlalchemy import update

from db import deliveries, jobs, listing
from db.session import Record
from db.tables import Job
from tests.support import records


def open_revision(record: Record, number: int) -> str:
    """One more image of the study, and the job of the revision that it opens."""
    before = set(records.job_ids(record))
    records.receive(record, records.image(number))
    view = records.load(record)
    records.settle(record, view, records.revision(view))
    (job_id,) = set(records.job_ids(record)) - before
    return job_id


def finish(record: Record, job_id: str, number: int) -> None:
    with record.write() as session:
        jobs.finish(session, job_id, records.WORKER, records.outcome(records.result(number)))


def states(record: Record) -> list[str]:
    with record.read() as session:
        return [row["state"] for row in sorted(listing.jobs(session), key=lambda row: int(row["revision"]))]


def sent(record: Record) -> int:
    with record.read() as session:
        return len(listing.deliveries(session))


def test_the_chain_of_predecessors_goes_over_one_that_never_ran(record: Record) -> None:
    first = open_revision(record, 1)
    assert records.claim(record, first) is not None
    finish(record, first, 1)
    open_revision(record, 2)
    third = records.claim(record, open_revision(record, 3))
    assert states(record) == ["DONE", "SUPERSEDED", "RUNNING"]
    assert third is not None
    assert [ref.sop_instance_uid for ref in third.predecessors] == [records.result(1).ref.sop_instance_uid]


def test_a_job_handed_back_after_later_images_came_is_not_run_again(record: Record) -> None:
    first = open_revision(record, 1)
    assert records.claim(record, first) is not None
    open_revision(record, 2)
    with record.write() as session:
        jobs.hand_back(session, first, records.WORKER, reason="disk full", delay_s=0)
    assert records.claim(record, first) is None
    assert states(record) == ["SUPERSEDED", "QUEUED"]


def test_a_parked_job_that_is_retried_does_not_come_after_the_newer_one(record: Record) -> None:
    first = open_revision(record, 1)
    assert records.claim(record, first) is not None
    with record.write() as session:
        jobs.park(session, first, records.WORKER, reason="no such model")
    open_revision(record, 2)
    with record.write() as session:
        assert jobs.retry(session, first, actor="test")
    assert records.claim(record, first) is None
    assert states(record) == ["SUPERSEDED", "QUEUED"]


def test_a_reading_that_ends_after_a_later_one_began_is_not_sent(record: Record) -> None:
    """The later report cannot name it, so it would stand beside it like the last word."""
    first = open_revision(record, 1)
    assert records.claim(record, first) is not None
    second = records.claim(record, open_revision(record, 2))
    assert second is not None
    assert second.predecessors == ()
    finish(record, first, 1)
    assert states(record) == ["SUPERSEDED", "RUNNING"]
    assert sent(record) == 0


def test_what_the_machine_lacked_is_not_held_against_the_job(record: Record) -> None:
    job_id = open_revision(record, 1)
    for _ in range(5):
        assert records.claim(record, job_id, max_attempts=2) is not None
        with record.write() as session:
            jobs.hand_back(session, job_id, records.WORKER, reason="disk full", delay_s=0, count=False)
            session.execute(update(Job).values(available_at=records.NOON))
    assert states(record) == ["QUEUED"]


def test_results_a_peer_has_taken_are_counted_apart(record: Record) -> None:
    job_id = records.finished_job(record, records.result(1, study=f"{records.STUDY}.1"), number=1)
    study = f"{records.STUDY}.1"
    with record.write() as session:
        assert deliveries.delivered_count(session, study, "pacs") == 0
        (due,) = deliveries.claim(session, job_id, "pacs", records.SENDER, lease_s=60)
        assert deliveries.held(session, job_id, "pacs", records.SENDER) == [due]
        assert deliveries.mark_sent(session, due.id, records.SENDER, replace(due.ref), "")
        assert deliveries.held(session, job_id, "pacs", records.SENDER) == []
        assert deliveries.delivered_count(session, study, "pacs") == 1
        assert deliveries.delivered_count(session, study, "another") == 0


def test_a_key_object_selection_goes_where_it_is_wanted_and_is_named_by_the_next(record: Record) -> None:
    first = open_revision(record, 1)
    assert records.claim(record, first) is not None
    report, flags = records.result(1), replace(records.result(2), kind="KO")
    outcome = records.outcome(report, flags, destinations=("pacs", "other"), flagged=("other",))
    with record.write() as session:
        jobs.finish(session, first, records.WORKER, outcome)
    with record.read() as session:
        rows = [(row["kind"], row["destination"]) for row in listing.deliveries(session)]
    assert sorted(rows) == [("KO", "other"), ("SR", "other"), ("SR", "pacs")]
    # A revision without findings has none; the chain goes on behind it.
    second = open_revision(record, 2)
    assert records.claim(record, second) is not None
    finish(record, second, 3)
    third = records.claim(record, open_revision(record, 3))
    assert third is not None
    assert (third.predecessors, third.replaced_flags) == ((records.result(3).ref,), (flags.ref,))
