"""Orders, notices and pledges, on both databases."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from sqlalchemy import select, update

from db import aside, audit, listing, notices, orders, outbox, pledges, worklist
from db.domain import NewOrder, more_urgent
from db.order_tables import Notice, Pledge, StudyOrder
from db.session import Record
from db.states import InstanceState, JobState, NoticeKind, NoticeState, OrderState
from db.studies import due_studies
from db.tables import Instance, Job, Outbox, Study
from db.types import utcnow
from tests.support.records import CR, STUDY, claim, image, load, queued_job, receive, settle

STAT = NewOrder("ris", "A-1", "RP-1", "ID-1", "Doe^Jane", "19700101", priority="stat", procedure="Chest PA")


def events(record: Record, name: str) -> list[str]:
    with record.read() as session:
        return [one.subject for one in audit.entries(session, audit.Wanted(events=(name,)))]


def wanted(record: Record) -> int:
    """A received study whose order is asked for; its row id."""
    receive(record, image(1, accession_number="A-1", patient_birth_date="19700101", study_date="20260301"))
    with record.write() as session:
        study_id = session.scalars(select(Study.id)).one()
        assert orders.want(session, study_id)
        assert not orders.want(session, study_id)
    return study_id


def state(record: Record) -> OrderState:
    with record.read() as session:
        return session.scalars(select(StudyOrder.state)).one()


def test_an_order_is_asked_for_by_one_process_at_a_time_with_what_the_image_says(record: Record) -> None:
    study_id = wanted(record)
    now = utcnow()
    with record.write() as session:
        assert orders.any_due(session, now)
        (asked,) = orders.claim_due(session, now, lease_s=60)
        assert not orders.any_due(session, now)
        assert orders.claim_due(session, now, lease_s=60) == []
    assert (asked.study_id, asked.study_instance_uid, asked.accession_number) == (study_id, STUDY, "A-1")
    assert (asked.patient_id, asked.patient_birth_date, asked.study_date) == ("ID-1", "19700101", "20260301")
    assert asked.attempts == 1
    with record.write() as session:
        orders.postpone(session, [study_id], now - timedelta(seconds=1), "the worklist is away")
        assert len(orders.claim_due(session, now, lease_s=60)) == 1
        orders.postpone(session, [study_id], None, "the worklist was away for a day")
        assert orders.claim_due(session, now + timedelta(days=2), lease_s=60) == []
    assert load(record).order is not None


def test_a_matched_order_pulls_queued_work_forward_once(record: Record) -> None:
    job_id = queued_job(record)
    with record.write() as session:
        study_id = session.scalars(select(Study.id)).one()
        orders.want(session, study_id)
        assert orders.settle(session, study_id, OrderState.ABSENT, reason="none", again_at=utcnow())
        assert not orders.settle(session, study_id, OrderState.ABSENT, reason="none yet", again_at=utcnow())
        assert orders.settle(session, study_id, OrderState.MATCHED, reason="", order=STAT)
        assert not orders.settle(session, study_id, OrderState.MATCHED, reason="", order=STAT)
    with record.read() as session:
        assert session.get_one(Job, job_id).priority == "stat"
        stat = select(Outbox.subject).where(Outbox.topic == outbox.TOPIC_INFER_STAT)
        assert session.scalars(stat).all() == [job_id]
        assert orders.of_studies(session, [study_id])[study_id].procedure == "Chest PA"
        assert orders.counts(session) == {"MATCHED": 1}
        view = orders.of_study(session, study_id)
    assert view is not None
    assert (view.state, view.priority) == (OrderState.MATCHED, "stat")
    assert events(record, "order_matched") == [STUDY]


def test_only_queued_work_is_pulled_forward_and_never_back(record: Record) -> None:
    at_work, queued = queued_job(record), queued_job(record, f"{STUDY}.2", 2)
    assert claim(record, at_work) is not None
    with record.write() as session:
        for study_id in session.scalars(select(Study.id)).all():
            for priority in ("urgent", "stat", "routine"):
                orders.pull_forward(session, study_id, priority)
    with record.read() as session:
        priorities = {job_id: session.get_one(Job, job_id).priority for job_id in (at_work, queued)}
        stat = session.scalars(select(Outbox.subject).where(Outbox.topic == outbox.TOPIC_INFER_STAT)).all()
    assert priorities == {at_work: "routine", queued: "stat"}
    assert stat == [queued]


def test_an_order_of_another_patient_parks_what_is_queued_and_is_not_shown(record: Record) -> None:
    job_id = queued_job(record)
    with record.write() as session:
        study_id = session.scalars(select(Study.id)).one()
        orders.want(session, study_id)
        assert orders.settle(session, study_id, OrderState.MISMATCHED, reason="another patient", order=STAT)
    with record.read() as session:
        job = session.get_one(Job, job_id)
        shown = orders.of_studies(session, [study_id])[study_id]
    assert job.state is JobState.PARKED
    assert job.reason.startswith("another patient")
    assert (shown.state, shown.procedure, shown.accession_number) == (OrderState.MISMATCHED, "", "")
    assert events(record, "order_mismatched") == [STUDY]
    with record.write() as session:
        assert orders.vouch(session, study_id)
        assert not orders.vouch(session, study_id)


def test_an_order_that_is_given_to_another_patient_stops_what_it_was_matched_with(record: Record) -> None:
    job_id = queued_job(record)
    with record.write() as session:
        study_id = session.scalars(select(Study.id)).one()
        orders.want(session, study_id)
        told = orders.tell(session, STAT)
        orders.settle(session, study_id, OrderState.MATCHED, reason="", order=STAT)
        assert orders.tell(session, replace(STAT, patient_id="ID-2")) == told
    with record.read() as session:
        assert session.get_one(Job, job_id).state is JobState.PARKED
    assert state(record) is OrderState.MISMATCHED
    assert events(record, "order_mismatched") == [STUDY]


def test_a_person_who_releases_an_image_vouches_for_its_study(record: Record) -> None:
    study_id = wanted(record)
    with record.write() as session:
        orders.settle(session, study_id, OrderState.MISMATCHED, reason="another patient", order=STAT)
    view = load(record)
    settle(record, view, quarantined=[(view.instances[0].id, "its order is another patient's")])
    with record.write() as session:
        assert session.scalars(select(Instance.state)).one() is InstanceState.QUARANTINED
        assert aside.release(session, image(1).sop_instance_uid, actor="anna")
    assert state(record) is OrderState.VOUCHED
    assert load(record).instances[0].state is InstanceState.RECEIVED


def test_an_order_told_again_replaces_what_was_told_and_reaches_who_waits_for_it(record: Record) -> None:
    study_id = wanted(record)
    with record.write() as session:
        orders.postpone(session, [study_id], None, "nobody asks")
        assert orders.known(session, "A-1") == []
        first = orders.tell(session, STAT)
        again = orders.store(session, NewOrder("ris", "A-1", "RP-1", "ID-1", priority="urgent"))
        assert first == again
        assert [one.priority for one in orders.known(session, "A-1")] == ["urgent"]
        assert orders.known(session, "") == []
        assert len(orders.claim_due(session, utcnow(), lease_s=60)) == 1
        corrected = orders.store(session, NewOrder("ris", "A-1", "RP-1", "ID-2"))
        assert (corrected, [one.patient_id for one in orders.known(session, "A-1")]) == (first, ["ID-2"])
        assert orders.store(session, NewOrder("hl7", "A-1", "RP-1", "ID-1")) != first
        nameless = {orders.store(session, NewOrder("ris", "", "", patient)) for patient in ("ID-1", "ID-2")}
        assert len(nameless) == 2
    assert more_urgent("routine", "stat") == "stat"
    assert more_urgent("urgent", "no such") == "urgent"


def test_orders_that_no_study_is_matched_with_are_forgotten_in_time(record: Record) -> None:
    study_id = wanted(record)
    with record.write() as session:
        orders.settle(session, study_id, OrderState.MATCHED, reason="", order=STAT)
        orders.store(session, NewOrder("ris", "A-2", "RP-2", "ID-2"))
        assert orders.unused(session, utcnow() - timedelta(days=1)) == []
        later = utcnow() + timedelta(days=1)
        (old,) = orders.unused(session, later)
        assert orders.forget(session, [old], utcnow() - timedelta(days=1)) == 0
        assert orders.forget(session, [old, old - 1], later) == 1
        assert len(orders.known(session, "A-1")) == 1


def test_a_notice_hastens_its_study_once_all_it_names_is_here(record: Record) -> None:
    first, second = image(1), image(2)
    receive(record, first)
    named = [first.sop_instance_uid, second.sop_instance_uid]
    with record.write() as session:
        session.execute(update(Study).values(check_at=utcnow() + timedelta(hours=1)))
        done = {"state": NoticeState.COMPLETED, "calling_ae": "RIS"}
        assert notices.record(session, NoticeKind.IAN, "7.1", [STUDY], instances=named, **done)
        assert not notices.record(session, NoticeKind.IAN, "7.1", [STUDY], instances=named, **done)
        assert len(due_studies(session, utcnow())) == 1
        assert notices.announced(session, STUDY) == ""
    receive(record, second)
    assert load(record).announced == "IAN"
    assert events(record, "notice_received") == [STUDY]
    with record.read() as session:
        assert notices.held_count(session, [*named, "9.9"]) == 2


def test_a_step_is_over_once_and_while_it_goes_on_no_other_notice_hastens_its_study(record: Record) -> None:
    receive(record, image(1))
    named = [image(1).sop_instance_uid]
    with record.write() as session:
        assert notices.change_step(session, "7.2", NoticeState.COMPLETED, named) is None
        notices.record(
            session, NoticeKind.MPPS, "7.2", [STUDY, "1.2.3"], state=NoticeState.IN_PROGRESS, calling_ae="CT"
        )
        notices.record(
            session, NoticeKind.IAN, "7.3", [STUDY], state=NoticeState.COMPLETED, instances=named, calling_ae="CT"
        )
        assert notices.announced(session, STUDY) == ""
        progress, completed = NoticeState.IN_PROGRESS, NoticeState.COMPLETED
        assert notices.change_step(session, "7.2", progress, named) is progress
        assert notices.change_step(session, "7.2", completed, ()) is progress
        assert notices.change_step(session, "7.2", NoticeState.DISCONTINUED, ()) is completed
        assert notices.announced(session, STUDY) == "IAN and MPPS"
        assert notices.announced(session, "1.2.3") == "MPPS"


def test_notices_on_studies_that_never_come_are_forgotten(record: Record) -> None:
    with record.write() as session:
        done = {"state": NoticeState.COMPLETED, "calling_ae": "RIS"}
        notices.record(session, NoticeKind.IAN, "7.1", ["1.1"], instances=["1.1.1"], **done)
        session.execute(update(Notice).values(changed_at=utcnow() - notices.KEPT - timedelta(seconds=1)))
        notices.record(session, NoticeKind.IAN, "7.2", ["1.2"], instances=["1.2.1"], **done)
        assert session.scalars(select(Notice.uid)).all() == ["7.2"]


def test_a_commitment_is_answered_until_the_peer_has_taken_it(record: Record) -> None:
    receive(record, image(1), image(2, patient_id="ID-2"))
    with record.write() as session:
        held = pledges.held(session, [image(1).sop_instance_uid, image(2).sop_instance_uid, "9.9"])
        # The other one is in quarantine.
        assert list(held) == [image(1).sop_instance_uid]
        answer = pledges.Answer("pacs", "7.7", ((CR, image(1).sop_instance_uid),), ((CR, "9.9", 0x0112),))
        pledges.promise(session, answer)
        now = utcnow()
        assert pledges.any_due(session, now)
        (due,) = pledges.claim_due(session, now, lease_s=60)
        assert (due.answer, due.attempts) == (answer, 1)
        assert pledges.claim_due(session, now, lease_s=60) == []
        pledges.postpone(session, due.id, now, "the peer is away")
        assert pledges.claim_due(session, now, lease_s=60)[0].attempts == 2
        assert pledges.told(session, due.id)
        assert not pledges.told(session, due.id)
        pledges.promise(session, answer)
        assert pledges.claim_due(session, utcnow(), lease_s=60)[0].attempts == 1
        assert pledges.give_up(session, due.id, "the peer was away for a day")
        assert pledges.claim_due(session, now + timedelta(days=1), lease_s=60) == []
        session.execute(update(Pledge).values(changed_at=now - pledges.KEPT - timedelta(seconds=1)))
        pledges.promise(session, pledges.Answer("pacs", "7.8"))
        assert session.scalars(select(Pledge.transaction_uid)).all() == ["7.8"]
    assert events(record, "commitment_asked") == ["7.7", "7.7", "7.8"]


def test_the_worklist_shows_a_matched_order_with_its_study(record: Record) -> None:
    study_id = wanted(record)
    with record.write() as session:
        orders.settle(session, study_id, OrderState.MATCHED, reason="ordered as stat", order=STAT)
    with record.read() as session:
        shown = worklist.study(session, STUDY)
        (row,) = listing.studies(session)
    assert (row["order"], row["order_reason"]) == ("MATCHED", "ordered as stat")
    assert shown is not None
    assert shown.order is not None
    assert (shown.order.accession_number, shown.order.priority, shown.order.procedure) == ("A-1", "stat", "Chest PA")
