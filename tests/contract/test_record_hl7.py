"""The queue of an HL7 destination, messages that came in, and changes of identity, on both databases."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import select, update

from db import deliveries, hl7_received, hl7_spool, identities, jobs, orders, queues
from db.domain import DueDelivery, NewOrder
from db.hl7_received import NewMessage
from db.hl7_tables import IdentityChange
from db.identities import Change, Identity, Reached
from db.order_tables import Order, StudyOrder
from db.session import Record
from db.states import OrderState
from db.tables import Audit, Delivery, Job, Outbox, Study
from db.types import utcnow
from tests.support.records import (
    SENDER,
    STUDY,
    WORKER,
    claim,
    image,
    job_ids,
    outcome,
    queued_job,
    race,
    receive,
    result,
)

OTHER = "host-b:sender-1"
MESSAGE = NewMessage("RIS^HOSP", "77", "d" * 64, "ORM^O01", "10.0.0.7")
ORDER = NewOrder(
    "hl7:RIS", "A-1", "RP-1", "ID-1", "Doe^Jane", priority="stat", placer_number="P-1", filler_number="F-1"
)


def told(record: Record, number: int = 1) -> str:
    """A job that is done and is to be told to the RIS."""
    job_id = queued_job(record, f"{STUDY}.{number}", number)
    assert claim(record, job_id) is not None
    report = result(number, study=f"{STUDY}.{number}")
    with record.write() as session:
        done = outcome(report, result(50 + number, "SC"), destinations=("pacs",), told=("ris",))
        jobs.finish(session, job_id, WORKER, done)
    return job_id


def take(record: Record, owner: str = SENDER, *, lease_s: float = 60.0) -> DueDelivery | None:
    with record.write() as session:
        return queues.claim_head(session, "ris", owner, lease_s=lease_s)


def announced(record: Record) -> list[str]:
    with record.write() as session:
        found = [row.subject for row in session.scalars(select(Outbox).order_by(Outbox.id))]
        session.query(Outbox).delete()
    return found


def test_only_reports_are_told_and_the_queue_is_announced(record: Record) -> None:
    job_id = told(record)
    with record.read() as session:
        queued = session.execute(select(Delivery.destination, Delivery.result_id).order_by(Delivery.id)).all()
        assert queues.waiting(session, "ris")[0] == 1
        assert queues.waiting(session, "lis") == (0, 0.0)
    assert [name for name, _ in queued] == ["pacs", "ris", "pacs"]
    assert f"{job_id}:ris" in announced(record)
    with record.write() as session:
        queues.announce(session, "ris")
        queues.announce(session, "lis")
    assert announced(record) == [f"{job_id}:ris"]


def test_the_head_is_one_senders_and_what_is_behind_it_waits(
    record: Record, other_record: Callable[[], Record]
) -> None:
    first, second = told(record, 1), told(record, 2)
    records = [record, *(other_record() for _ in range(3))]
    held = [due for due in race(4, lambda n: take(records[n], f"host:sender-{n}")) if due is not None]
    assert [due.job_id for due in held] == [first]
    assert take(record) is None
    owner = next(f"host:sender-{n}" for n in range(4) if _holds(record, f"host:sender-{n}"))
    with record.write() as session:
        assert not queues.head_due(session, "ris")
        later = utcnow() + timedelta(minutes=5)
        deliveries.postpone(session, held[0], owner, reason="AE", at=later)
        assert not queues.head_due(session, "ris")
    with record.write() as session:
        session.execute(update(Delivery).values(next_attempt_at=utcnow()))
        assert queues.head_due(session, "ris")
    due = take(record)
    assert due is not None
    assert (due.job_id, due.attempt) == (first, 2)
    with record.write() as session:
        assert queues.accepted(session, due, SENDER, "AA")
        assert not queues.accepted(session, due, SENDER, "AA")
    behind = take(record)
    assert behind is not None
    assert behind.job_id == second


def _holds(record: Record, owner: str) -> bool:
    with record.read() as session:
        return bool(queues.held(session, "ris", owner))


def test_a_sender_that_is_gone_leaves_the_head_to_another(record: Record) -> None:
    told(record)
    lost = take(record, lease_s=-1)
    due = take(record, OTHER)
    assert lost is not None
    assert due is not None
    assert (due.id, due.attempt) == (lost.id, 2)
    with record.write() as session:
        assert not hl7_spool.keep(session, lost, SENDER, "ORU^R01", control_id="A", body=b"late")
        assert hl7_spool.spooled(session, lost.id, "ORU^R01") is None
        assert not queues.accepted(session, lost, SENDER, "from the grave")


def test_what_is_withdrawn_holds_up_nobody(record: Record) -> None:
    told(record, 1)
    second = told(record, 2)
    due = take(record)
    assert due is not None
    with record.write() as session:
        assert not queues.withdraw(session, due, OTHER, "not mine")
        assert queues.withdraw(session, due, SENDER, "the settings keep it back")
        assert queues.waiting(session, "ris")[0] == 1
    behind = take(record)
    assert behind is not None
    assert behind.job_id == second


def test_a_queue_rests_as_a_whole(record: Record) -> None:
    job_id = told(record)
    announced(record)
    with record.write() as session:
        queues.rest(session, "ris", utcnow() + timedelta(minutes=1), "left alone")
        queues.rest(session, "lis", utcnow(), "nothing is there")
    assert take(record) is None
    assert announced(record) == [f"{job_id}:ris"]


def test_what_was_written_stays_and_is_answered_once(record: Record) -> None:
    told(record)
    due = take(record)
    assert due is not None
    with record.write() as session:
        hl7_spool.note_answer(session, due, SENDER, "ORU^R01", "AA", positive=True)
        assert hl7_spool.keep(session, due, SENDER, "ORU^R01", control_id="A", body=b"MSH|first")
        assert not hl7_spool.keep(session, due, SENDER, "ORU^R01", control_id="A", body=b"MSH|second")
    with record.write() as session:
        hl7_spool.note_answer(session, due, SENDER, "ORU^R01", "AE", positive=False)
    with record.read() as session:
        kept = hl7_spool.spooled(session, due.id, "ORU^R01")
        assert kept == hl7_spool.Spooled("A", b"MSH|first", acknowledged=False)
    with record.write() as session:
        hl7_spool.note_answer(session, due, SENDER, "ORU^R01", "AA", positive=True)
        hl7_spool.note_answer(session, due, SENDER, "ORU^R01", "AR", positive=False)
    with record.read() as session:
        (row,) = hl7_spool.messages(session)
        audited = session.scalars(select(Audit.subject).where(Audit.event == "message_sent")).all()
        assert hl7_spool.spooled(session, due.id, "ORU^R01") == hl7_spool.Spooled("A", b"", acknowledged=True)
    assert (row["answer"], row["control_id"], row["study_instance_uid"]) == ("AA", "A", f"{STUDY}.1")
    assert audited == ["A"]


def test_the_matter_of_a_message_is_the_job_and_its_order(record: Record) -> None:
    job_id = told(record)
    with record.write() as session:
        session.execute(update(Study).values(accession_number="A-1"))
        session.execute(update(Job).values(summary={"images": [{"analysed": True}]}))
        delivery_id = session.scalars(select(Delivery.id).where(Delivery.destination == "ris")).one()
        orders.tell(session, replace(ORDER, source="hl7:other", patient_id="ID-9", placer_number="P-9"))
        bare = hl7_spool.matter(session, delivery_id)
        orders.tell(session, ORDER)
        matter = hl7_spool.matter(session, delivery_id)
    assert (bare.placer_number, bare.filler_number) == ("", "")
    assert (matter.placer_number, matter.filler_number, matter.model) == ("P-1", "F-1", "cxr")
    assert matter.analysed
    assert matter.study_instance_uid == f"{STUDY}.1"
    assert job_ids(record) == [job_id]


def test_a_message_is_taken_once(record: Record) -> None:
    with record.write() as session:
        assert hl7_received.take(session, MESSAGE)
        hl7_received.note_outcome(session, MESSAGE, "1 orders kept")
        assert not hl7_received.take(session, MESSAGE)
        # A sender that counts up from one again sends other messages under ids it has used.
        assert hl7_received.take(session, NewMessage("RIS^HOSP", "77", "e" * 64, "ADT^A40", "10.0.0.7"))
        assert hl7_received.counts(session) == {"ORM^O01": 1, "ADT^A40": 1}
    with record.read() as session:
        newest, oldest = hl7_received.received(session)
    assert (newest["kind"], oldest["outcome"]) == ("ADT^A40", "1 orders kept")
    with record.write() as session:
        assert hl7_received.prune(session, utcnow() - timedelta(days=1)) == 0
        assert hl7_received.prune(session, utcnow() + timedelta(days=1)) == 2


def test_an_order_is_taken_back_unless_images_are_matched_with_it(record: Record) -> None:
    with record.write() as session:
        order_id = orders.tell(session, ORDER)
        assert not orders.withdraw(session, NewOrder("other", "A-1", "RP-1", "ID-1"))
        assert orders.withdraw(session, ORDER)
        order_id = orders.tell(session, ORDER)
    receive(record, image(1, accession_number="A-1"))
    with record.write() as session:
        study_id = session.scalars(select(Study.id)).one()
        orders.want(session, study_id)
        session.execute(update(StudyOrder).values(state=OrderState.MATCHED, order_id=order_id))
        assert not orders.withdraw(session, ORDER)
        (known,) = orders.known(session, "A-1")
    assert (known.placer_number, known.filler_number) == ("P-1", "F-1")


def merge(old: str = "ID-1", **new: str) -> Change:
    return Change(old, Identity(**{"patient_id": "ID-2", **new}), "merge", "ADT^HOSP", "88")


def test_a_merge_reaches_work_and_tells_of_what_is_finished(record: Record) -> None:
    told(record, 1)
    queued_job(record, f"{STUDY}.2", 2)
    receive(record, image(3, f"{STUDY}.3"), image(4, f"{STUDY}.4", patient_id="ID-7"))
    with record.write() as session:
        orders.tell(session, ORDER)
        assert identities.change(session, merge(name="Roe^Jane", issuer="HOSP")) == Reached(2, 1)
    with record.read() as session:
        studies = {row[0]: row[1] for row in session.execute(select(Study.study_instance_uid, Study.id))}
        heeded = {uid: identities.current(session, key) for uid, key in studies.items()}
        current = {uid: one and one.identity for uid, one in heeded.items()}
        assert {uid: identities.of_study(session, uid) for uid in studies} == heeded
        assert session.scalars(select(Order.patient_id)).one() == "ID-2"
        # What the images say stays on record.
        assert set(session.scalars(select(Study.patient_id))) == {"ID-1", "ID-7"}
        changes = identities.changes(session)
        audited = session.scalars(select(Audit).where(Audit.event == "patient_identity_changed")).all()
    now = Identity("ID-2", "HOSP", "Roe^Jane")
    assert current == {f"{STUDY}.1": now, f"{STUDY}.2": now, f"{STUDY}.3": now, f"{STUDY}.4": None}
    assert [(row["applied"], row["finished_results"]) for row in reversed(changes)] == [
        (False, 2),
        (True, 0),
        (True, 0),
    ]
    assert {row.subject for row in audited} == {f"{STUDY}.{n}" for n in (1, 2, 3)}
    assert "ID-1" not in str([row.detail for row in audited])


def test_merges_follow_one_another_and_an_update_reaches_whoever_was_merged(record: Record) -> None:
    receive(record, image(1))
    update_of = Change("ID-3", Identity("ID-3", name="Roe^Ann", sex="F"), "update", "ADT^HOSP", "90")
    with record.write() as session:
        study_id = session.scalars(select(Study.id)).one()
        assert identities.change(session, merge(birth_date="19700101")).applied == 1
        assert identities.change(session, merge("ID-2", patient_id="ID-3")).applied == 1
        assert identities.change(session, update_of).applied == 1
        # An address has changed: nothing that concerns us.
        assert identities.change(session, update_of).applied == 0
        heeded = identities.current(session, study_id)
        assert heeded is not None
        assert heeded.identity == Identity("ID-3", "", "Roe^Ann", "19700101", "F")
        identities.require_unchanged(session, STUDY, heeded)
        with pytest.raises(identities.IdentityChanged):
            identities.require_unchanged(session, STUDY, None)


def test_a_late_word_on_an_identifier_that_was_merged_away_does_not_bring_it_back(record: Record) -> None:
    receive(record, image(1))
    with record.write() as session:
        study_id = session.scalars(select(Study.id)).one()
        identities.change(session, merge())
        identities.change(session, merge("ID-2", patient_id="ID-3"))
        for late in ("ID-1", "ID-2"):
            news = Change(late, Identity(late, name="Roe^Ann"), "update", "ADT^HOSP", "91")
            assert identities.change(session, news) == Reached(0, 0)
        heeded = identities.current(session, study_id)
        assert heeded is not None
        assert heeded.identity == Identity("ID-3")
        # Undone, on the other hand, it is.
        assert identities.change(session, merge("ID-3", patient_id="ID-1")) == Reached(1, 0)


@pytest.mark.parametrize("waits", [True, False])
def test_an_order_fits_whoever_the_patient_is_today(record: Record, waits: bool) -> None:
    receive(record, image(1, accession_number="A-1", patient_birth_date="19700101"))
    with record.write() as session:
        study_id = session.scalars(select(Study.id)).one()
        orders.want(session, study_id)
        if waits:
            identities.change(session, merge(name="Roe^Jane"))
        (wanted,) = orders.claim_due(session, utcnow(), lease_s=60)
    expected = ("ID-2", "Roe^Jane") if waits else ("ID-1", "Doe^Jane")
    assert (wanted.patient_id, wanted.patient_name, wanted.patient_birth_date) == (*expected, "19700101")


def test_what_is_deleted_leaves_nothing_of_its_patient_here(record: Record) -> None:
    told(record)
    due = take(record)
    assert due is not None
    with record.write() as session:
        study_id = session.scalars(select(Study.id)).one()
        assert hl7_spool.keep(session, due, SENDER, "ORU^R01", control_id="A", body=b"MSH|PID-1")
        queued = Change("ID-1", Identity("ID-2", name="Roe^Jane"), "merge", "ADT^HOSP", "88")
        session.execute(update(Job).values(state="QUEUED"))
        assert identities.change(session, queued).applied == 1
        hl7_spool.forget(session, study_id)
        identities.forget(session, study_id)
        assert identities.current(session, study_id) is None
        (row,) = session.scalars(select(IdentityChange)).all()
        kept = hl7_spool.spooled(session, due.id, "ORU^R01")
    assert kept is not None
    assert kept.body == b""
    assert {row.superseded_patient_id, row.patient_id, row.patient_name} == {""}
