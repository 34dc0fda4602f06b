"""Jobs: one holder at a time, exactly one set of results, a bounded number of tries, nothing left lying."""

from __future__ import annotations

from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from sqlalchemy import select, update

from db import jobs
from db.domain import InstanceOutcome
from db.errors import LeaseLost
from db.session import Record
from db.states import DeliveryState, InstanceState, JobState, Scope
from db.tables import Audit, Delivery, Instance, Job, Outbox, Result
from db.types import utcnow
from tests.support.records import (
    CR,
    STUDY,
    WORKER,
    claim,
    finished_job,
    image,
    load,
    outcome,
    queued_job,
    race,
    receive,
    result,
    revision,
    settle,
)

OTHER = "host-b:worker-1"


def job(record: Record, job_id: str) -> Job:
    with record.read() as session:
        return session.get_one(Job, job_id)


def alter(record: Record, job_id: str, **values: Any) -> None:
    """Let time pass, or an older release have written it."""
    with record.write() as session:
        session.execute(update(Job).where(Job.id == job_id).values(**values))


def messages(record: Record) -> list[tuple[str, str]]:
    """What waits for the relay; taken away, as the relay would."""
    with record.write() as session:
        found = [(row.topic, row.subject) for row in session.scalars(select(Outbox).order_by(Outbox.id))]
        session.query(Outbox).delete()
    return found


def instance_states(record: Record) -> list[tuple[str, str]]:
    with record.read() as session:
        return [(i.state.value, i.reason) for i in session.scalars(select(Instance).order_by(Instance.id))]


def finish(record: Record, job_id: str, owner: str = WORKER, **changes: Any) -> None:
    results = changes.pop("results", (result(1),))
    with record.write() as session:
        jobs.finish(session, job_id, owner, outcome(*results, **changes))


def test_a_claim_brings_all_a_worker_needs(record: Record) -> None:
    receive(record, image(1), image(2))
    view = load(record)
    (number,) = settle(record, view, revision(view))
    with record.read() as session:
        job_id = session.scalars(select(Job.id)).one()
    before = utcnow()
    claimed = claim(record, job_id, lease_s=60)
    assert claimed is not None
    assert number == 1
    assert (claimed.id, claimed.study_instance_uid, claimed.route, claimed.model) == (job_id, STUDY, "chest", "cxr")
    assert (claimed.revision_number, claimed.scope, claimed.attempt) == (1, Scope.STUDY, 1)
    assert (claimed.priority, claimed.destinations, claimed.lease_owner) == ("routine", ("sender",), WORKER)
    assert claimed.identity == f"{STUDY}|chest||1|cxr"
    assert before + timedelta(seconds=60) <= claimed.lease_until <= utcnow() + timedelta(seconds=60)
    first, second = claimed.sources
    assert (first.path, second.path) == ("instances/1.dcm", "instances/2.dcm")
    assert (first.sop_class_uid, first.facts, first.calling_ae) == (CR, image().facts, "MODALITY")
    held = job(record, job_id)
    assert (held.state, held.attempts, held.lease_owner) == (JobState.RUNNING, 1, WORKER)
    assert held.started_at is not None
    with record.read() as session:
        assert jobs.attempts_of(session, job_id, WORKER) == 1
        assert jobs.attempts_of(session, job_id, OTHER) is None


def test_a_held_job_cannot_be_claimed_nor_an_unknown_one(record: Record) -> None:
    job_id = queued_job(record)
    assert claim(record, job_id) is not None
    assert claim(record, job_id, OTHER) is None
    assert claim(record, "no such job", OTHER) is None
    assert job(record, job_id).attempts == 1


def test_many_workers_and_one_job_give_one_holder(record: Record) -> None:
    job_id = queued_job(record)
    claims = race(6, lambda n: claim(record, job_id, f"host:worker-{n}"))
    (held,) = [one for one in claims if one is not None]
    assert job(record, job_id).lease_owner == held.lease_owner
    assert job(record, job_id).attempts == 1


def test_many_workers_and_one_dead_holder_give_one_successor(record: Record) -> None:
    job_id = queued_job(record)
    assert claim(record, job_id, "host:dead", lease_s=-1) is not None
    claims = race(6, lambda n: claim(record, job_id, f"host:worker-{n}"))
    assert len([one for one in claims if one is not None]) == 1
    assert job(record, job_id).attempts == 2


def test_a_lease_that_ran_out_passes_on_and_the_first_holder_writes_nothing(record: Record) -> None:
    job_id = queued_job(record)
    first = claim(record, job_id, lease_s=-1)
    second = claim(record, job_id, OTHER)
    assert first is not None
    assert second is not None
    assert (second.identity, second.attempt) == (first.identity, 2)
    with record.write() as session, pytest.raises(LeaseLost, match="thrown away"):
        jobs.heartbeat(session, job_id, WORKER, lease_s=60)
    with pytest.raises(LeaseLost, match="thrown away"):
        finish(record, job_id, WORKER)
    with record.write() as session:
        jobs.park(session, job_id, WORKER, reason="from the grave")
        jobs.hand_back(session, job_id, WORKER, reason="from the grave", delay_s=0)
    with record.read() as session:
        assert session.scalars(select(Result)).all() == []
    assert (job(record, job_id).state, job(record, job_id).lease_owner) == (JobState.RUNNING, OTHER)
    finish(record, job_id, OTHER)
    assert job(record, job_id).state is JobState.DONE


def test_a_sign_of_life_keeps_the_lease(record: Record) -> None:
    job_id = queued_job(record)
    claim(record, job_id, lease_s=-1)
    with record.write() as session:
        jobs.heartbeat(session, job_id, WORKER, lease_s=60)
    assert claim(record, job_id, OTHER) is None
    lease = job(record, job_id).lease_until
    assert lease is not None
    assert lease > utcnow()


def test_finishing_writes_results_and_deliveries_together(record: Record) -> None:
    job_id = queued_job(record)
    claim(record, job_id)
    messages(record)
    seen = load(record).instances[0].id
    finish(
        record,
        job_id,
        results=(result(1, "SR"), result(2, "SC")),
        destinations=("pacs", "ris"),
        instances=(InstanceOutcome(seen, InstanceState.ANALYSED, "pneumonia 0.25"),),
    )
    done = job(record, job_id)
    assert (done.state, done.reason, done.lease_owner, done.lease_until) == (JobState.DONE, "analysed", "", None)
    assert (done.model_version, done.model_digest, done.summary) == ("1.0.0", "m" * 64, {"pneumonia": 0.25})
    assert done.finished_at is not None
    with record.read() as session:
        results = session.scalars(select(Result).order_by(Result.id)).all()
        deliveries = session.scalars(select(Delivery).order_by(Delivery.id)).all()
        noted = session.scalars(select(Audit.event).order_by(Audit.id)).all()
    assert [(r.kind, r.sop_instance_uid, r.path, r.size_bytes) for r in results] == [
        ("SR", result(1).ref.sop_instance_uid, "results/1.dcm", 500),
        ("SC", result(2).ref.sop_instance_uid, "results/2.dcm", 500),
    ]
    assert [(d.result_id, d.destination, d.state) for d in deliveries] == [
        (r.id, name, DeliveryState.PENDING) for r in results for name in ("pacs", "ris")
    ]
    assert messages(record) == [("deliver", f"{job_id}:pacs"), ("deliver", f"{job_id}:ris")]
    assert noted[-1] == "job_finished"
    assert instance_states(record) == [("ANALYSED", "pneumonia 0.25")]
    assert claim(record, job_id, OTHER) is None


def test_finishing_twice_is_losing_the_lease(record: Record) -> None:
    job_id = finished_job(record)
    with pytest.raises(LeaseLost):
        finish(record, job_id, results=(result(8),))
    with record.read() as session:
        assert len(session.scalars(select(Result)).all()) == 1


def test_a_refusal_is_a_result_without_objects(record: Record) -> None:
    job_id = queued_job(record)
    claim(record, job_id)
    messages(record)
    seen = load(record).instances[0].id
    why = InstanceOutcome(seen, InstanceState.NOT_ANALYSED, "lateral view")
    finish(record, job_id, results=(), analysed=False, reason="lateral view", instances=(why,))
    assert (job(record, job_id).state, job(record, job_id).reason) == (JobState.NOT_ANALYSED, "lateral view")
    assert instance_states(record) == [("NOT_ANALYSED", "lateral view")]
    assert messages(record) == []


@pytest.mark.parametrize(
    ("before", "said", "after"),
    [
        ("ROUTED", "ANALYSED", "ANALYSED"),
        ("ROUTED", "NOT_ANALYSED", "NOT_ANALYSED"),
        ("NOT_ANALYSED", "ANALYSED", "ANALYSED"),
        ("NOT_ANALYSED", "NOT_ANALYSED", "NOT_ANALYSED"),
        ("FAILED", "ANALYSED", "ANALYSED"),
        ("FAILED", "NOT_ANALYSED", "NOT_ANALYSED"),
        ("ANALYSED", "NOT_ANALYSED", "ANALYSED"),
        ("ANALYSED", "ANALYSED", "ANALYSED"),
        ("QUARANTINED", "ANALYSED", "QUARANTINED"),
        ("RECEIVED", "ANALYSED", "RECEIVED"),
    ],
)
def test_what_one_model_could_read_stays_analysed(record: Record, before: str, said: str, after: str) -> None:
    job_id = queued_job(record)
    claim(record, job_id)
    seen = load(record).instances[0].id
    with record.write() as session:
        session.execute(update(Instance).values(state=InstanceState(before), reason="before"))
    finish(record, job_id, instances=(InstanceOutcome(seen, InstanceState(said), "now"),))
    ((state, reason),) = instance_states(record)
    assert state == after
    assert reason == ("before" if before in {"ANALYSED", "QUARANTINED", "RECEIVED"} else "now")


def test_a_job_handed_back_waits_and_comes_again(record: Record) -> None:
    job_id = queued_job(record, priority="stat")
    claim(record, job_id)
    messages(record)
    with record.write() as session:
        jobs.hand_back(session, job_id, WORKER, reason="the disk is full", delay_s=300)
    waiting = job(record, job_id)
    assert (waiting.state, waiting.reason, waiting.lease_owner) == (JobState.QUEUED, "the disk is full", "")
    assert waiting.available_at > utcnow() + timedelta(seconds=290)
    assert claim(record, job_id, OTHER) is None
    with record.read() as session:
        (row,) = session.scalars(select(Outbox))
    assert (row.topic, row.subject, row.available_at) == ("infer.stat", job_id, waiting.available_at)
    alter(record, job_id, available_at=utcnow())
    again = claim(record, job_id, OTHER)
    assert again is not None
    assert again.attempt == 2


def cut_short(record: Record, job_id: str) -> bool:
    with record.read() as session:
        return jobs.was_cut_short(session, job_id)


def test_only_a_try_that_came_to_no_end_counts_as_cut_short(record: Record) -> None:
    job_id = queued_job(record)
    assert not cut_short(record, job_id)
    for count in (False, True):
        assert claim(record, job_id) is not None
        with record.write() as session:
            jobs.hand_back(session, job_id, WORKER, reason="", delay_s=0, count=count)
        assert cut_short(record, job_id) is count
    assert not cut_short(record, "no-such-job")
    assert not cut_short(record, finished_job(record, number=2))


def test_a_study_that_kills_workers_is_parked_in_the_end(record: Record) -> None:
    job_id = queued_job(record)
    for attempt in (1, 2, 3):
        held = claim(record, job_id, f"host:worker-{attempt}", lease_s=-1, max_attempts=3)
        assert held is not None
        assert held.attempt == attempt
    assert claim(record, job_id, OTHER, max_attempts=3) is None
    parked = job(record, job_id)
    assert (parked.state, parked.attempts, parked.lease_owner) == (JobState.PARKED, 3, "")
    assert "tried 3 times" in parked.reason
    assert parked.finished_at is not None
    assert instance_states(record) == [("FAILED", "its job is parked")]
    with record.read() as session:
        assert jobs.parked(session) == [job_id]
        assert session.scalars(select(Audit.event).order_by(Audit.id.desc())).first() == "job_parked"


def test_a_job_handed_back_too_often_is_parked(record: Record) -> None:
    job_id = queued_job(record)
    for _ in range(2):
        assert claim(record, job_id, max_attempts=2) is not None
        with record.write() as session:
            jobs.hand_back(session, job_id, WORKER, reason="again", delay_s=-1)
    assert claim(record, job_id, max_attempts=2) is None
    assert job(record, job_id).state is JobState.PARKED


def test_a_parked_job_waits_for_a_person_and_starts_anew(record: Record) -> None:
    job_id = queued_job(record)
    claim(record, job_id)
    with record.write() as session:
        jobs.park(session, job_id, WORKER, reason="the model is gone")
    assert (job(record, job_id).state, job(record, job_id).reason) == (JobState.PARKED, "the model is gone")
    assert instance_states(record) == [("FAILED", "its job is parked: the model is gone")]
    assert claim(record, job_id, OTHER) is None
    messages(record)
    with record.write() as session:
        assert jobs.retry(session, job_id, actor="cli")
        assert not jobs.retry(session, job_id, actor="cli")
        assert not jobs.retry(session, "no such job", actor="cli")
        assert jobs.parked(session) == []
    assert messages(record) == [("infer", job_id)]
    queued = job(record, job_id)
    assert (queued.state, queued.attempts, queued.finished_at) == (JobState.QUEUED, 0, None)
    again = claim(record, job_id)
    assert again is not None
    assert again.attempt == 1


def test_a_parked_job_lets_analysed_images_be(record: Record) -> None:
    job_id = queued_job(record)
    claim(record, job_id)
    with record.write() as session:
        session.execute(update(Instance).values(state=InstanceState.ANALYSED, reason="by another model"))
        jobs.park(session, job_id, WORKER, reason="the model is gone")
    assert instance_states(record) == [("ANALYSED", "by another model")]


def sweep(record: Record, now: datetime, **options: int) -> list[str]:
    messages(record)
    with record.write() as session:
        count = jobs.sweep(session, now, **options)
    subjects = [subject for _, subject in messages(record)]
    assert len(subjects) == count
    return subjects


def test_a_lost_message_is_said_again_ever_more_rarely(record: Record) -> None:
    job_id = queued_job(record)
    start = utcnow()
    said = [0] + [seconds for seconds in range(0, 3600, 30) if sweep(record, start + timedelta(seconds=seconds + 1))]
    gaps = [later - earlier for earlier, later in pairwise(said)]
    expected = [60, 60, 120, 240, 480, 900, 900]
    assert all(wait <= gap <= wait + 30 for gap, wait in zip(gaps, expected, strict=True)), gaps
    assert job(record, job_id).announcements == len(gaps)


def test_saying_it_again_never_ends_in_an_overflow(record: Record) -> None:
    job_id = queued_job(record)
    alter(record, job_id, announcements=100_000)
    assert sweep(record, utcnow() + timedelta(days=400)) == [job_id]
    waits = [jobs.reannounce_after_s(count) for count in (0, 1, 3, 4, 5, 2**31)]
    assert waits == [60, 120, 480, 900, 900, 900]


def test_a_dead_workers_job_is_announced_once(record: Record) -> None:
    job_id = queued_job(record)
    now = utcnow()
    alter(record, job_id, announced_at=now - timedelta(seconds=10))
    claim(record, job_id, lease_s=-1)
    assert sweep(record, now) == [job_id]
    assert sweep(record, now + timedelta(seconds=1)) == []


def test_held_finished_and_waiting_jobs_are_left_alone(record: Record) -> None:
    held = queued_job(record, "5.1", 11)
    claim(record, held)
    finished_job(record, number=2)
    waiting = queued_job(record, "5.3", 13)
    claim(record, waiting)
    with record.write() as session:
        jobs.hand_back(session, waiting, WORKER, reason="later", delay_s=3600)
    assert sweep(record, utcnow()) == []


def test_a_sweep_is_bounded_and_takes_the_oldest(record: Record) -> None:
    ids = [queued_job(record, f"5.{n}", n) for n in range(1, 5)]
    now = utcnow()
    for age, job_id in enumerate(ids):
        alter(record, job_id, announced_at=now - timedelta(hours=2 + age))
    assert sweep(record, now, limit=3) == [ids[3], ids[2], ids[1]]
    assert sweep(record, now, limit=3) == [ids[0]]


def test_after_a_crash_of_the_node_its_jobs_are_free_at_once(record: Record) -> None:
    mine = queued_job(record, "5.1", 11)
    claim(record, mine, "host_a:worker-1", lease_s=3600)
    other = queued_job(record, "5.2", 12)
    claim(record, other, "hostXa:worker-1", lease_s=3600)
    waiting = queued_job(record, "5.3", 13, priority="stat")
    messages(record)
    with record.write() as session:
        # The underscore is a wildcard of LIKE and must not be one here.
        assert jobs.release(session, "host_a:") == 1
    assert sorted(messages(record)) == sorted([("infer", mine), ("infer.stat", waiting)])
    assert job(record, other).state is JobState.RUNNING
    freed = job(record, mine)
    assert (freed.state, freed.reason, freed.lease_owner) == (JobState.QUEUED, "its worker stopped", "")
    assert claim(record, mine, OTHER) is not None
    with pytest.raises(LeaseLost):
        finish(record, mine, "host_a:worker-1")
