"""Deliveries: each object once to each destination, until it is proved, buried, or a person says again."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select, update

from db import circuits, deliveries, jobs
from db.domain import DueDelivery, ResultRef
from db.session import Record
from db.states import DeliveryState
from db.tables import Audit, Circuit, Delivery, Instance, Outbox
from db.types import utcnow
from tests.support.records import EXPLICIT, SENDER, STUDY, finished_job, image, race, receive, result

OTHER = "host-b:sender-1"
ENHANCED_SR = "1.2.840.10008.5.1.4.1.1.88.22"


def claim(
    record: Record, job_id: str, destination: str = "pacs", owner: str = SENDER, *, lease_s: float = 60.0
) -> list[DueDelivery]:
    with record.write() as session:
        return deliveries.claim(session, job_id, destination, owner, lease_s=lease_s)


def rows(record: Record) -> list[Delivery]:
    with record.read() as session:
        return list(session.scalars(select(Delivery).order_by(Delivery.id)))


def states(record: Record) -> list[str]:
    return [row.state.value for row in rows(record)]


def alter(record: Record, **values: Any) -> None:
    with record.write() as session:
        session.execute(update(Delivery).values(**values))


def messages(record: Record) -> list[tuple[str, datetime]]:
    """What waits for the relay; taken away, as the relay would."""
    with record.write() as session:
        found = [(row.subject, row.available_at) for row in session.scalars(select(Outbox).order_by(Outbox.id))]
        session.query(Outbox).delete()
    return found


def send(record: Record, *due: DueDelivery, owner: str = SENDER) -> list[bool]:
    with record.write() as session:
        return [deliveries.mark_sent(session, one.id, owner, one.ref, "Success") for one in due]


def bury(record: Record, job_id: str, destination: str = "pacs") -> None:
    for due in claim(record, job_id, destination):
        with record.write() as session:
            deliveries.bury(session, due, SENDER, reason="refused: SOP class not supported")


def test_what_is_due_for_one_destination_is_claimed_together(record: Record) -> None:
    job_id = finished_job(record, result(1, "SR"), result(2, "SC"), destinations=("pacs", "ris"))
    first, second = claim(record, job_id)
    assert (first.ref, second.ref) == (result(1, "SR").ref, result(2, "SC").ref)
    assert (first.job_id, first.destination, first.path, first.attempt) == (job_id, "pacs", "results/1.dcm", 1)
    assert first.transfer_syntax_uid == EXPLICIT
    assert [(r.destination, r.state, r.lease_owner) for r in rows(record)] == [
        ("pacs", "SENDING", SENDER),
        ("ris", "PENDING", ""),
        ("pacs", "SENDING", SENDER),
        ("ris", "PENDING", ""),
    ]
    assert claim(record, job_id, owner=OTHER) == []
    assert claim(record, "no such job") == []


def test_senders_at_once_never_hold_the_same_object(record: Record) -> None:
    job_id = finished_job(record, *(result(n) for n in range(1, 6)))
    held = race(4, lambda n: [due.id for due in claim(record, job_id, owner=f"host:sender-{n}")])
    ids = [i for each in held for i in each]
    assert len(ids) == len(set(ids)) == 5
    assert {row.attempts for row in rows(record)} == {1}


def test_a_dead_senders_objects_are_sent_by_another_one(record: Record) -> None:
    job_id = finished_job(record)
    (lost,) = claim(record, job_id, lease_s=-1)
    (due,) = claim(record, job_id, owner=OTHER)
    assert (due.id, due.attempt) == (lost.id, 2)
    assert send(record, lost) == [False]
    with record.write() as session:
        deliveries.postpone(session, lost, SENDER, reason="from the grave", at=utcnow())
        deliveries.bury(session, lost, SENDER, reason="from the grave")
    assert states(record) == ["SENDING"]
    assert send(record, due, owner=OTHER) == [True]


def test_what_the_peer_took_is_remembered_under_its_own_uid(record: Record) -> None:
    job_id = finished_job(record)
    (due,) = claim(record, job_id)
    taken = ResultRef(ENHANCED_SR, "1.9.9", due.ref.series_instance_uid, due.ref.study_instance_uid)
    with record.write() as session:
        assert deliveries.mark_sent(session, due.id, SENDER, taken, "sent as Enhanced SR")
        assert not deliveries.mark_sent(session, due.id, SENDER, taken, "twice")
        assert deliveries.unproved(session, "pacs", [due.id, 4711]) == [(due.id, taken)]
        assert deliveries.unproved(session, "ris", [due.id]) == []
    (row,) = rows(record)
    assert (row.state, row.reason, row.lease_owner, row.lease_until) == ("SENT", "sent as Enhanced SR", "", None)
    assert row.sent_at is not None
    assert row.confirmed_at is None
    receive(record, image(9, sop_instance_uid="1.9.9"))
    with record.read() as session:
        assert session.scalar(select(Instance.own_result).where(Instance.sop_instance_uid == "1.9.9")) is True


def test_a_failure_waits_for_its_time(record: Record) -> None:
    job_id = finished_job(record)
    messages(record)
    (due,) = claim(record, job_id)
    later = utcnow() + timedelta(minutes=5)
    with record.write() as session:
        deliveries.postpone(session, due, SENDER, reason="connection refused", at=later)
    (row,) = rows(record)
    assert (row.state, row.reason, row.attempts, row.next_attempt_at) == ("PENDING", "connection refused", 1, later)
    assert messages(record) == [(f"{job_id}:pacs", later)]
    assert claim(record, job_id) == []
    alter(record, next_attempt_at=utcnow())
    (again,) = claim(record, job_id)
    assert again.attempt == 2
    with record.write() as session:
        deliveries.postpone(session, again, SENDER, reason="circuit open", at=later, count=False)
    assert rows(record)[0].attempts == 1


def test_a_dead_letter_waits_for_a_person_and_is_forgiven(record: Record) -> None:
    first = finished_job(record, result(1), destinations=("pacs", "ris"), number=1)
    second = finished_job(record, result(2), destinations=("pacs",), number=2)
    for job_id, destination in ((first, "pacs"), (first, "ris"), (second, "pacs")):
        bury(record, job_id, destination)
    assert states(record) == ["DEAD"] * 3
    with record.read() as session:
        events = session.execute(select(Audit.event, Audit.outcome, Audit.detail).order_by(Audit.id)).all()
    dead = next(e for e in events if e.event == "delivery_dead")
    assert dead.outcome == "failure"
    assert (dead.detail["study"], dead.detail["destination"]) == (STUDY, "pacs")
    assert claim(record, first) == []
    messages(record)
    with record.write() as session:
        circuits.note_failure(session, "pacs", threshold=1, open_s=600)
        assert deliveries.retry(session, actor="cli", destination="pacs", job_id=second) == 1
        assert circuits.open_until(session, "pacs") is None
        assert deliveries.retry(session, actor="cli", destination="nowhere") == 0
    assert [subject for subject, _ in messages(record)] == [f"{second}:pacs"]
    assert states(record) == ["DEAD", "DEAD", "PENDING"]
    (due,) = claim(record, second)
    assert due.attempt == 1
    with record.write() as session:
        assert deliveries.retry(session, actor="cli") == 2
    assert sorted(subject for subject, _ in messages(record)) == [f"{first}:pacs", f"{first}:ris"]


def test_a_proof_confirms_and_its_absence_is_said(record: Record) -> None:
    job_id = finished_job(record, *(result(n) for n in range(1, 5)))
    sent = claim(record, job_id)
    send(record, *sent[:3])
    ids = [due.id for due in sent]
    with record.write() as session:
        assert deliveries.leave_unconfirmed(session, ids[1:], "the peer offers no proof") == 2
        assert deliveries.confirm(session, [ids[0]], "read back by C-FIND") == 1
        assert deliveries.confirm(session, ids[:2], "storage commitment") == 1
        assert deliveries.confirm(session, ids, "again") == 1
    found = [(row.state.value, row.reason, row.confirmed_at is not None) for row in rows(record)]
    assert found == [
        ("CONFIRMED", "read back by C-FIND", True),
        ("CONFIRMED", "storage commitment", True),
        ("CONFIRMED", "again", True),
        ("SENDING", "", False),
    ]


def test_what_the_peer_does_not_hold_is_sent_again(record: Record) -> None:
    job_id = finished_job(record)
    (due,) = claim(record, job_id)
    at = utcnow()
    with record.write() as session:
        assert not deliveries.send_again(session, due.id, "too early", at=at)
        assert not deliveries.send_again(session, 4711, "unknown", at=at)
    send(record, due)
    messages(record)
    with record.write() as session:
        assert deliveries.send_again(session, due.id, "the peer does not find it", at=at)
    assert messages(record) == [(f"{job_id}:pacs", at)]
    (again,) = claim(record, job_id)
    assert (again.id, again.attempt) == (due.id, 2)


def sweep(record: Record, now: datetime, **options: int) -> list[str]:
    messages(record)
    with record.write() as session:
        count = deliveries.sweep(session, now, grace_s=30, **options)
    subjects = [subject for subject, _ in messages(record)]
    assert len(subjects) == count
    return sorted(subjects)


def test_overdue_deliveries_are_announced_again(record: Record) -> None:
    job_id = finished_job(record, result(1), result(2), destinations=("pacs", "ris"))
    now = utcnow()
    assert sweep(record, now) == []
    assert sweep(record, now + timedelta(seconds=40)) == [f"{job_id}:pacs", f"{job_id}:ris"]
    assert sweep(record, now + timedelta(seconds=50)) == []
    alter(record, next_attempt_at=now)
    claim(record, job_id, lease_s=60)
    assert sweep(record, now + timedelta(seconds=40)) == [f"{job_id}:ris"]
    assert f"{job_id}:pacs" in sweep(record, now + timedelta(seconds=70))


def test_a_sweep_is_bounded(record: Record) -> None:
    finished_job(record, destinations=("a", "b", "c", "d"))
    now = utcnow() + timedelta(seconds=40)
    assert [len(sweep(record, now, limit=3)), len(sweep(record, now, limit=3))] == [3, 1]


def test_after_a_crash_of_the_node_its_objects_are_due_at_once(record: Record) -> None:
    mine = finished_job(record, result(1), number=1)
    other = finished_job(record, result(2), number=2)
    claim(record, mine, owner="host_a:sender", lease_s=3600)
    claim(record, other, owner="hostXa:sender", lease_s=3600)
    messages(record)
    with record.write() as session:
        # The underscore is a wildcard of LIKE and must not be one here.
        assert deliveries.release(session, "host_a:") == 1
    assert [subject for subject, _ in messages(record)] == [f"{mine}:pacs"]
    assert [(row.state.value, row.reason) for row in rows(record)] == [
        ("PENDING", "its sender stopped"),
        ("SENDING", ""),
    ]
    assert len(claim(record, mine, owner=OTHER)) == 1


def asked(record: Record, *results: int, deadline_s: float = 3600.0) -> tuple[str, list[DueDelivery]]:
    """Deliveries that are sent and whose commitment is asked for, under transaction 7.7."""
    job_id = finished_job(record, *(result(n) for n in results))
    due = claim(record, job_id)
    send(record, *due)
    deadline = utcnow() + timedelta(seconds=deadline_s)
    with record.write() as session:
        deliveries.ask_commitment(session, "7.7", "pacs", [d.id for d in due], deadline_at=deadline)
    messages(record)
    return job_id, due


def report(record: Record, committed: list[int], failed: dict[int, int], transaction: str = "7.7") -> bool:
    with record.write() as session:
        return deliveries.apply_commitment(
            session,
            transaction,
            [result(n).ref.sop_instance_uid for n in committed],
            {result(n).ref.sop_instance_uid: reason for n, reason in failed.items()},
            retry_at=utcnow(),
        )


def test_a_commitment_report_confirms_and_sends_again(record: Record) -> None:
    job_id, due = asked(record, 1, 2, 3)
    assert report(record, [1, 99], {2: 0x0112})
    assert states(record) == ["CONFIRMED", "PENDING", "SENT"]
    assert rows(record)[0].reason == "storage commitment"
    assert "0x0112" in rows(record)[1].reason
    assert [subject for subject, _ in messages(record)] == [f"{job_id}:pacs"]
    assert report(record, [1, 3], {2: 0x0112}), "the same report again, and a later one, change only what they may"
    assert states(record) == ["CONFIRMED", "PENDING", "CONFIRMED"]
    assert [d.id for d in claim(record, job_id)] == [due[1].id]


def test_a_report_nobody_asked_for_changes_nothing(record: Record) -> None:
    asked(record, 1)
    assert not report(record, [1], {}, transaction="6.6")
    assert states(record) == ["SENT"]


def test_a_commitment_is_waited_for_until_its_deadline(record: Record) -> None:
    _, (due,) = asked(record, 1, deadline_s=60)
    now = utcnow()
    horizon = now + timedelta(seconds=1)
    with record.write() as session:
        assert deliveries.awaiting_proof(session, "pacs", horizon) == []
        assert deliveries.destinations_awaiting_proof(session, horizon) == []
        assert deliveries.expire_commitments(session, now) == 0
        assert not deliveries.any_expired(session, now)
        assert deliveries.any_expired(session, now + timedelta(seconds=61))
        assert deliveries.expire_commitments(session, now + timedelta(seconds=61)) == 1
        assert deliveries.expire_commitments(session, now + timedelta(seconds=61)) == 0
        assert deliveries.destinations_awaiting_proof(session, horizon) == ["pacs"]
        waiting = deliveries.awaiting_proof(session, "pacs", horizon)
    assert [i for i, _ in waiting] == [due.id]
    assert report(record, [1], {}), "a late report still counts"
    assert states(record) == ["CONFIRMED"]
    with record.read() as session:
        assert deliveries.awaiting_proof(session, "pacs", horizon) == []


def test_a_request_that_did_not_get_through_is_withdrawn(record: Record) -> None:
    _, (due,) = asked(record, 1)
    with record.write() as session:
        deliveries.withdraw_commitment(session, "7.7")
        assert [i for i, _ in deliveries.awaiting_proof(session, "pacs", utcnow())] == [due.id]
        assert deliveries.awaiting_proof(session, "pacs", utcnow() - timedelta(hours=1)) == []
    assert not report(record, [1], {})


def test_the_proof_that_waits_longest_is_looked_for_first(record: Record) -> None:
    first = finished_job(record, result(1), result(2), destinations=("pacs", "ris"))
    for name in ("ris", "pacs"):
        for due in claim(record, first, name):
            send(record, due)
    with record.read() as session:
        assert deliveries.destinations_awaiting_proof(session, utcnow()) == ["pacs", "ris"]
        found = deliveries.awaiting_proof(session, "pacs", utcnow())
        limited = deliveries.awaiting_proof(session, "pacs", utcnow(), limit=1)
    moments = [at for _, at in found]
    assert len(found) == 2
    assert moments == sorted(moments)
    assert limited == found[:1]


def fail(record: Record, times: int = 1, *, threshold: int = 3, open_s: float = 60.0) -> None:
    for _ in range(times):
        with record.write() as session:
            circuits.note_failure(session, "pacs", threshold=threshold, open_s=open_s)


def open_until(record: Record) -> datetime | None:
    with record.write() as session:
        return circuits.open_until(session, "pacs")


def test_failures_in_a_row_open_the_circuit(record: Record) -> None:
    assert open_until(record) is None
    fail(record, 2)
    assert open_until(record) is None
    with record.read() as session:
        assert circuits.open_circuits(session) == []
    fail(record)
    until = open_until(record)
    assert until is not None
    assert utcnow() + timedelta(seconds=50) < until
    with record.write() as session:
        assert circuits.open_circuits(session) == ["pacs"]
        assert circuits.open_until(session, "ris") is None
        circuits.note_success(session, "pacs")
        assert circuits.open_circuits(session) == []
    fail(record, 2)
    assert open_until(record) is None, "a success starts the count anew"


def test_an_open_circuit_lets_one_trial_through(record: Record) -> None:
    fail(record, 3, open_s=-1)
    answers = race(5, lambda _: open_until(record))
    assert len([a for a in answers if a is None]) == 1
    assert all(a is None or a > utcnow() for a in answers)
    fail(record, 1, threshold=100, open_s=600)
    until = open_until(record)
    assert until is not None, "a failed trial opens it again at once"
    assert until > utcnow() + timedelta(seconds=500)


def test_a_trial_that_never_came_back_is_followed_by_another(record: Record) -> None:
    fail(record, 3, open_s=-1)
    assert open_until(record) is None
    assert open_until(record) is not None
    with record.write() as session:
        session.execute(update(Circuit).values(open_until=utcnow() - timedelta(seconds=1)))
    assert open_until(record) is None


def test_failures_noted_at_once_are_all_counted(record: Record) -> None:
    race(6, lambda _: fail(record, 2, threshold=100))
    with record.read() as session:
        assert session.scalars(select(Circuit.failures)).one() == 12


@pytest.mark.parametrize("state", sorted(set(DeliveryState) - {DeliveryState.PENDING}))
def test_only_what_is_due_is_claimed(record: Record, state: DeliveryState) -> None:
    job_id = finished_job(record)
    alter(record, state=state, lease_until=utcnow() + timedelta(hours=1))
    assert claim(record, job_id) == []
    assert states(record) == [state.value]
    with record.read() as session:
        assert jobs.parked(session) == []
