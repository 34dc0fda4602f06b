"""Prior studies: asked for, waited for in bounded time, settled once, held apart, let go; on both databases."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from sqlalchemy import select, update

from db import deletions, identities, leftovers, listing, priors, retention
from db.domain import ClaimedJob
from db.prior_tables import PriorMove, PriorRequest
from db.priors import PriorFile, Wish
from db.session import Record
from db.states import JobState, PriorState
from db.tables import Audit, Job, Outbox, Study
from db.types import utcnow
from node.retention import Housekeeper
from node.settings import Settings
from node.settings_priors import Priors as PriorSettings
from tests.support import records

WISH = Wish(1, ("CR", "DX"), ("CHEST",), 365)


def claimed(record: Record, number: int = 1, study: str = records.STUDY) -> ClaimedJob:
    job = records.claim(record, records.queued_job(record, study, number))
    assert job is not None
    return job


def ask(record: Record, job: ClaimedJob, wish: Wish = WISH, wait_s: float = 60.0) -> priors.Answer:
    with record.write() as session:
        answer = priors.ask(session, job, wish, wait_s=wait_s)
        if answer.state is PriorState.WANTED:
            priors.wait(session, job, answer)
    return answer


def due(record: Record, lease_s: float = 60.0) -> priors.DuePriors:
    with record.write() as session:
        found = priors.claim_due(session, utcnow(), lease_s=lease_s)
    assert found is not None
    return found


def image(number: int = 1, study: str = "9.8.7") -> PriorFile:
    return PriorFile(
        study_instance_uid=study,
        series_instance_uid=f"{study}.1",
        sop_instance_uid=f"{study}.1.{number}",
        sop_class_uid="1.2.840.10008.5.1.4.1.1.1",
        study_date="20260101",
        path=f"priors/00/{number}.dcm",
        size_bytes=100,
        blake3="a" * 64,
        facts={"modality": "CR"},
    )


def settle(record: Record, request_id: int, state: PriorState, *images: PriorFile, reason: str = "said") -> bool:
    with record.write() as session:
        return priors.settle(session, request_id, state, reason=reason, images=images)


def events(record: Record) -> list[tuple[str, str]]:
    with record.read() as session:
        rows = session.execute(select(Audit.event, Audit.outcome).where(Audit.event.startswith("priors")))
        return [(event, outcome) for event, outcome in rows]


def job_row(record: Record, job_id: str) -> tuple[JobState, str, bool]:
    with record.read() as session:
        job = session.get_one(Job, job_id)
        return job.state, job.reason, job.available_at <= utcnow()


def test_a_job_waits_until_its_priors_are_here_and_then_has_them(record: Record) -> None:
    job = claimed(record)
    answer = ask(record, job)
    assert (answer.state, answer.images) == (PriorState.WANTED, ())
    assert job_row(record, job.id) == (JobState.QUEUED, priors.WAITING, False)
    with record.read() as session:
        assert priors.any_due(session, utcnow())
    request = due(record)
    assert (request.wish, request.study_instance_uid, request.attempts) == (WISH, records.STUDY, 1)
    assert request.sample
    assert settle(record, request.id, PriorState.FOUND, image(1), image(2))
    assert job_row(record, job.id)[2]
    with record.read() as session:
        assert session.scalars(select(Outbox.subject).where(Outbox.available_at <= utcnow())).all().count(job.id) >= 1
    again = records.claim(record, job.id)
    assert again is not None
    # Its attempt was not held against it.
    assert again.attempt == 1
    answer = ask(record, again)
    assert (answer.state, [one.sop_instance_uid for one in answer.images]) == (
        PriorState.FOUND,
        ["9.8.7.1.1", "9.8.7.1.2"],
    )
    assert answer.images == (image(1), image(2))
    assert events(record) == [("priors_fetched", "success")]
    with record.read() as session:
        study_id = session.scalars(select(Study.id)).one()
        assert priors.of_study(session, study_id) == [(PriorState.FOUND, "said")]
        assert priors.counts(session) == {"FOUND": 1}


def test_two_jobs_of_a_study_ask_once_and_different_wishes_each_for_itself(record: Record) -> None:
    first, second = claimed(record), claimed(record, 2)
    ask(record, first)
    ask(record, second)
    ask(record, second, replace(WISH, most=2))
    with record.read() as session:
        assert len(session.scalars(select(PriorRequest.id)).all()) == 2
    assert settle(record, due(record).id, PriorState.ABSENT)
    assert job_row(record, first.id)[2]
    assert job_row(record, second.id)[2]


def test_a_question_is_one_keepers_until_its_lease_ends(record: Record) -> None:
    ask(record, claimed(record))
    assert due(record, lease_s=-1.0).attempts == 1
    assert due(record).attempts == 2
    with record.write() as session:
        assert priors.claim_due(session, utcnow(), lease_s=60) is None

    def claim(_: int) -> bool:
        with record.write() as session:
            return priors.claim_due(session, utcnow(), lease_s=60) is not None

    with record.write() as session:
        priors.postpone(session, 1, utcnow(), reason="the peer is away")
    assert records.race(4, claim).count(True) == 1


def test_when_the_wait_is_over_the_work_goes_on_without_and_what_comes_later_goes_nowhere(record: Record) -> None:
    job = claimed(record)
    ask(record, job, wait_s=0.0)
    answer = ask(record, job, wait_s=0.0)
    assert (answer.state, answer.reason) == (PriorState.FAILED, priors.NOT_IN_TIME)
    with record.read() as session:
        request_id = session.scalars(select(PriorRequest.id)).one()
    assert not settle(record, request_id, PriorState.FOUND, image())
    assert ask(record, job).images == ()
    assert events(record) == [("priors_absent", "warning")]


def test_the_reason_of_the_last_try_is_told_with_the_end_of_the_wait(record: Record) -> None:
    job = claimed(record)
    ask(record, job)
    request = due(record)
    with record.write() as session:
        priors.postpone(session, request.id, utcnow() + timedelta(seconds=5), reason="the peer is away")
        session.execute(update(PriorRequest).values(wait_until=utcnow()))
    assert ask(record, job).reason == f"{priors.NOT_IN_TIME}: the peer is away"


def test_an_answer_counts_for_what_comes_soon_and_is_asked_for_anew_later(record: Record) -> None:
    job = claimed(record)
    ask(record, job)
    assert settle(record, due(record).id, PriorState.REFUSED, reason="another patient")
    assert ask(record, job).state is PriorState.REFUSED
    with record.write() as session:
        session.execute(update(PriorRequest).values(changed_at=utcnow() - timedelta(hours=1)))
    assert ask(record, job).state is PriorState.WANTED
    assert events(record) == [("priors_refused", "warning")]


def test_what_a_peer_is_asked_to_send_is_known_in_time_too_late_and_never(record: Record) -> None:
    ask(record, claimed(record))
    request, now = due(record), utcnow()
    with record.write() as session:
        priors.expect(session, request.id, "9.8.7", now + timedelta(seconds=30))
    with record.read() as session:
        assert priors.expected(session, "9.8.7", now) == [request.id]
        assert priors.expected(session, "9.8.6", now) is None
        assert priors.expected(session, "9.8.7", now + timedelta(seconds=31)) == []
        assert priors.expected(session, "9.8.7", now + timedelta(hours=1)) is None
    with record.write() as session:
        assert priors.hold(session, request.id, image(1), most=2)
        assert not priors.hold(session, request.id, image(1), most=2)
        assert priors.hold(session, request.id, image(2), most=2)
        assert not priors.hold(session, request.id, image(3), most=2)
        assert priors.is_held(session, request.id, image(1).path)
        assert not priors.is_held(session, request.id, "priors/00/9.dcm")
    with record.write() as session:
        assert priors.take_held(session, request.id, "9.8.6") == ()
        assert priors.take_held(session, request.id, "9.8.7") == (image(1), image(2))
        assert priors.take_held(session, request.id) == ()
        priors.expect(session, request.id, "9.8.7", now)
    assert settle(record, request.id, PriorState.FOUND, image(1))
    with record.write() as session:
        # Nobody waits any more.
        assert not priors.hold(session, request.id, image(3), most=9)
        assert session.scalars(select(PriorMove.closes_at)).one() <= utcnow()


def test_what_a_peer_was_asked_to_send_long_ago_is_forgotten(record: Record) -> None:
    ask(record, claimed(record))
    request = due(record)
    with record.write() as session:
        priors.expect(session, request.id, "9.8.7", utcnow() - timedelta(hours=1))
        priors.expect(session, request.id, "9.8.6", utcnow())
        assert session.scalars(select(PriorMove.study_instance_uid)).all() == ["9.8.6"]


def test_priors_are_no_images_of_the_node_and_go_when_their_studys_work_has_ended(record: Record) -> None:
    job = claimed(record)
    ask(record, job)
    assert settle(record, due(record).id, PriorState.FOUND, image(1), image(2))
    later = utcnow() + timedelta(hours=2)
    with record.read() as session:
        assert len(listing.instances(session)) == 1
        assert retention.is_named(session, image(1).path, image(1).sop_instance_uid)
        assert retention.is_prior(session, image(1).path, image(1).sop_instance_uid)
        assert not retention.is_named(session, "priors/00/9.dcm", image(1).sop_instance_uid)
        assert priors.due_gone(session, later, limit=10) == []
        (request_id,) = session.scalars(select(PriorRequest.id)).all()
    with record.write() as session:
        session.execute(update(Job).values(state=JobState.DONE, finished_at=utcnow()))
    with record.read() as session:
        assert priors.due_gone(session, utcnow() - timedelta(hours=1), limit=10) == []
        assert priors.due_gone(session, later, limit=10) == [request_id]
    with record.write() as session:
        assert deletions.begin_priors(session, request_id, actor="retention", reason="done")
        assert not deletions.begin_priors(session, request_id, actor="retention", reason="done")
        going = deletions.claim(session, "keeper", lease_s=60)
        assert going is not None
        assert (going.paths, going.size_bytes) == ((image(1).path, image(2).path), 200)
        assert deletions.finish(session, going.id, "keeper")
        assert session.scalars(select(PriorRequest.state)).one() is PriorState.GONE
        assert session.scalars(select(Study.state)).one().value == "COMPLETE"
    # Read again a week later, they are fetched again.
    assert ask(record, job).state is PriorState.WANTED


def test_a_study_that_is_deleted_takes_its_priors_with_it(record: Record) -> None:
    job, other = claimed(record), claimed(record, 2, "5.5.5")
    ask(record, job)
    ask(record, other)
    first, second = sorted((due(record), due(record)), key=lambda one: one.id)
    assert settle(record, first.id, PriorState.FOUND, image(1))
    with record.write() as session:
        priors.expect(session, first.id, "9.8.7", utcnow())
        priors.expect(session, second.id, "9.8.6", utcnow() + timedelta(seconds=60))
    with record.write() as session:
        deletions.begin_study(session, records.STUDY, path_of=str, actor="admin", reason="asked", force=True)
        going = deletions.claim(session, "keeper", lease_s=60)
    assert going is not None
    assert image(1).path in going.paths
    with record.write() as session:
        study_id = session.scalars(select(Study.id).where(Study.study_instance_uid == "5.5.5")).one()
        assert priors.forget(session, study_id) == ([], [], 0)
        # What is still sent comes too late; it is no image of the node's all the same.
        assert priors.expected(session, "9.8.7", utcnow()) == []
        assert priors.expected(session, "9.8.6", utcnow()) == []
    assert not settle(record, second.id, PriorState.FOUND, image(2))


def test_the_patient_as_known_today_is_told_with_the_question(record: Record) -> None:
    ask(record, claimed(record))
    with record.write() as session:
        study = session.scalars(select(Study)).one()
        told = identities.Change(study.patient_id, identities.Identity("NEW", name="Roe^Jane"), "merge", "ADT", "1")
        identities.change(session, told)
    found = due(record)
    assert found.correction is not None
    assert found.correction.identity.patient_id == "NEW"


def test_taking_out_names_what_goes(record: Record) -> None:
    ask(record, claimed(record))
    request = due(record)
    assert settle(record, request.id, PriorState.FOUND, image(1))
    with record.write() as session:
        named, paths, size = priors.take_out(session, [request.id])
    assert (named, paths, size) == ([(image(1).sop_class_uid, image(1).sop_instance_uid)], [image(1).path], 100)


def test_a_clock_that_is_set_back_does_not_make_a_study_wait_for_longer(record: Record) -> None:
    ask(record, claimed(record))
    hour = timedelta(hours=1)
    earlier = utcnow() - hour
    with record.write() as session:
        leftovers.pull_back(session, earlier, hour)
        request = session.scalars(select(PriorRequest)).one()
        assert request.wait_until <= earlier + timedelta(seconds=61)
        assert request.next_attempt_at <= earlier + timedelta(seconds=1)


def test_their_files_go_with_their_rows_and_not_before(record: Record, tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, priors=PriorSettings(keep_hours=1.0))
    file = tmp_path / image(1).path
    file.parent.mkdir(parents=True)
    file.write_bytes(b"an image")
    ask(record, claimed(record))
    assert settle(record, due(record).id, PriorState.FOUND, image(1))
    keeper = Housekeeper(settings, record, "keeper:1", free_bytes=lambda _: 1 << 50)
    with record.write() as session:
        session.execute(update(Job).values(state=JobState.DONE, finished_at=utcnow()))
    keeper.run_once()
    assert file.exists()
    low = Housekeeper(settings, record, "keeper:1", free_bytes=lambda _: 0)
    low.run_once()
    assert not file.exists()
    with record.read() as session:
        assert priors.counts(session) == {"GONE": 1}
        assert not retention.is_named(session, image(1).path, image(1).sop_instance_uid)
