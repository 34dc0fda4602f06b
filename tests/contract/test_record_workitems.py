"""Work items, their subscriptions and events, on both databases."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

from sqlalchemy import select, update

from db import (
    audit,
    leftovers,
    notices,
    workitem_queries,
    workitem_subscriptions,
    workitem_tidings,
    workitems,
)
from db import workitem_rules as rules
from db.dicom_json import Json, code, element, items, sequence, text
from db.session import Record
from db.states import WorkitemState as W
from db.tables import Job
from db.types import utcnow
from db.workitem_rules import EventType, UpsStatus
from db.workitem_tables import Workitem, WorkitemTiding
from tests.support.records import STUDY, image, load, queued_job, race, receive, revision, settle
from tests.support.workitems import ITEM, new

NODE, OTHER, LOCK = "RADNODE", "STATION", "2.25.1"
PERFORMED: Json = {
    rules.PERFORMED: sequence(
        [
            {
                rules.PERFORMED_STATION: sequence([code("S", "99TEST", "station")]),
                rules.PERFORMED_WORKITEM: sequence([code("110004", "DCM", "Computer Aided Detection")]),
                rules.STARTED_AT: element("DT", "20260301120000"),
                rules.ENDED_AT: element("DT", "20260301120100"),
                rules.OUTPUT: sequence(),
            }
        ]
    )
}


def create(record: Record, **changes: object) -> str:
    made = replace(new(ITEM), **changes)  # type: ignore[arg-type]
    with record.write() as session:
        assert workitems.create(session, made)
    return made.sop_instance_uid


def turn(record: Record, target: W, lock: str = LOCK, actor: str = OTHER) -> UpsStatus:
    with record.write() as session:
        return workitems.change_state(session, ITEM, target, lock, actor=actor, own=actor == NODE)


def change(record: Record, changes: Json, lock: str = LOCK) -> UpsStatus:
    with record.write() as session:
        return workitems.change(session, ITEM, changes, lock, actor=OTHER)


def cancel(record: Record, information: Json | None = None) -> UpsStatus:
    with record.write() as session:
        return workitems.request_cancel(
            session, ITEM, requesting_ae="MANAGER", own_ae=NODE, information=information or {}
        )


def seen(record: Record) -> workitems.WorkitemView:
    with record.read() as session:
        found = workitems.load(session, ITEM)
    assert found is not None
    return found


def events(record: Record, ae_title: str = "WATCHER") -> list[tuple[EventType, Json]]:
    """What one subscriber has been told or is to be told, in order."""
    with record.read() as session:
        rows = session.scalars(
            select(WorkitemTiding).where(WorkitemTiding.ae_title == ae_title).order_by(WorkitemTiding.id)
        )
        return [(EventType(row.event_type), row.information) for row in rows]


def states_told(record: Record, ae_title: str = "WATCHER") -> list[str]:
    return [text(told, rules.STATE) for kind, told in events(record, ae_title) if kind is EventType.STATE_REPORT]


def subscribe(record: Record, ae_title: str = "WATCHER", *, lock: bool = False) -> UpsStatus:
    with record.write() as session:
        return workitem_subscriptions.subscribe(session, ITEM, ae_title, lock=lock)


def test_an_item_is_created_once_and_read_as_it_was_pushed(record: Record) -> None:
    create(record)
    with record.write() as session:
        assert not workitems.create(session, replace(new(ITEM), study_instance_uid="1.9"))
        assert workitems.load(session, "1.2.3") is None
    found = seen(record)
    assert (found.state, found.study_instance_uid, found.version) == (W.SCHEDULED, STUDY, 1)
    assert text(found.data, "00100010") == "Doe^Jané"
    with record.read() as session:
        noted = [(one.event, one.actor, one.subject) for one in audit.entries(session, audit.Wanted())]
    assert noted == [("workitem_received", "MANAGER", STUDY)]


def test_whoever_claims_an_item_alone_changes_and_ends_it(record: Record) -> None:
    create(record)
    assert turn(record, W.COMPLETED) == UpsStatus.NOT_IN_PROGRESS
    assert turn(record, W.CANCELED) == UpsStatus.NOT_IN_PROGRESS
    assert turn(record, W.IN_PROGRESS, "") == UpsStatus.WRONG_TRANSACTION
    assert turn(record, W.IN_PROGRESS) == UpsStatus.SUCCESS
    assert turn(record, W.IN_PROGRESS, "2.25.2") == UpsStatus.WRONG_TRANSACTION
    assert turn(record, W.IN_PROGRESS) == UpsStatus.ALREADY_IN_PROGRESS
    assert turn(record, W.SCHEDULED) == UpsStatus.ONLY_CREATED_SCHEDULED
    assert turn(record, W.COMPLETED) == UpsStatus.FINAL_STATE_UNMET
    assert change(record, PERFORMED, "2.25.2") == UpsStatus.WRONG_TRANSACTION
    assert change(record, PERFORMED) == UpsStatus.SUCCESS
    assert turn(record, W.COMPLETED, "2.25.2") == UpsStatus.WRONG_TRANSACTION
    assert turn(record, W.COMPLETED) == UpsStatus.SUCCESS
    assert turn(record, W.COMPLETED) == UpsStatus.ALREADY_COMPLETED
    assert turn(record, W.CANCELED) == UpsStatus.ENDED
    assert change(record, PERFORMED) == UpsStatus.ENDED
    found = seen(record)
    assert (found.state, text(found.data, rules.STATE), found.performer) == (W.COMPLETED, "COMPLETED", OTHER)
    assert rules.TRANSACTION not in found.data or not text(found.data, rules.TRANSACTION)


def test_what_does_not_exist_is_named_so(record: Record) -> None:
    assert turn(record, W.IN_PROGRESS) == UpsStatus.NO_SUCH_WORKITEM
    assert change(record, {}) == UpsStatus.NO_SUCH_WORKITEM
    assert cancel(record) == UpsStatus.NO_SUCH_WORKITEM
    assert subscribe(record) == UpsStatus.NO_SUCH_WORKITEM
    with record.write() as session:
        assert workitem_subscriptions.unsubscribe(session, ITEM, "WATCHER") == UpsStatus.NO_SUCH_WORKITEM


def test_of_two_who_claim_an_item_at_once_one_gets_it(record: Record) -> None:
    create(record)
    got = race(2, lambda n: turn(record, W.IN_PROGRESS, f"2.25.{n}", f"STATION{n}"))
    assert sorted(got) == [UpsStatus.SUCCESS, UpsStatus.WRONG_TRANSACTION]
    winner = got.index(UpsStatus.SUCCESS)
    assert (seen(record).transaction_uid, seen(record).performer) == (f"2.25.{winner}", f"STATION{winner}")


def test_canceling_puts_in_what_the_final_state_asks_for(record: Record) -> None:
    create(record)
    turn(record, W.IN_PROGRESS)
    assert turn(record, W.CANCELED) == UpsStatus.SUCCESS
    assert turn(record, W.CANCELED) == UpsStatus.ALREADY_CANCELED
    assert turn(record, W.COMPLETED) == UpsStatus.ENDED
    assert rules.unmet(seen(record).data, W.CANCELED) == ()
    (progress,) = items(seen(record).data, rules.PROGRESS_INFORMATION)
    assert text(items(progress, rules.DISCONTINUATION)[0], "00080100") == "110513"


def test_what_nobody_has_begun_is_canceled_on_request_with_the_reason_given(record: Record) -> None:
    create(record)
    subscribe(record)
    assert cancel(record, {rules.CANCEL_REASON: element("LT", "ordered twice")}) == UpsStatus.SUCCESS
    assert states_told(record) == ["SCHEDULED", "IN PROGRESS", "CANCELED"]
    assert text(events(record)[-1][1], rules.CANCEL_REASON) == "ordered twice"
    assert cancel(record) == UpsStatus.ALREADY_CANCELED
    assert seen(record).state is W.CANCELED


def test_what_is_begun_is_finished_here_and_another_performer_is_told(record: Record) -> None:
    create(record)
    turn(record, W.IN_PROGRESS, actor=NODE)
    assert cancel(record) == UpsStatus.PERFORMER_DECLINES
    with record.write() as session:
        session.execute(update(Workitem).values(performer=OTHER))
    assert cancel(record) == UpsStatus.PERFORMER_UNREACHABLE
    subscribe(record, OTHER)
    assert cancel(record, {rules.CONTACT_NAME: element("LO", "Dr X")}) == UpsStatus.SUCCESS
    kind, told = events(record, OTHER)[-1]
    assert kind is EventType.CANCEL_REQUESTED
    assert (text(told, rules.REQUESTING_AE), text(told, rules.CONTACT_NAME)) == ("MANAGER", "Dr X")
    assert seen(record).state is W.IN_PROGRESS
    change(record, PERFORMED)
    turn(record, W.COMPLETED)
    assert cancel(record) == UpsStatus.CANNOT_CANCEL_COMPLETED


def test_each_change_is_told_as_the_event_that_it_is(record: Record) -> None:
    create(record)
    assert subscribe(record) == UpsStatus.SUCCESS
    turn(record, W.IN_PROGRESS)
    change(record, {rules.PROGRESS_INFORMATION: sequence([{rules.PROGRESS: element("DS", 40)}])})
    change(record, {rules.READINESS: element("CS", "UNAVAILABLE")})
    change(record, {rules.STATION_NAME: sequence([code("B", "99TEST", "b")])})
    change(record, {rules.LABEL: element("LO", "another")})
    kinds = [kind for kind, _ in events(record)]
    told = EventType
    assert kinds == [told.STATE_REPORT, told.STATE_REPORT, told.PROGRESS_REPORT, told.STATE_REPORT, told.ASSIGNED]
    assert text(events(record)[3][1], rules.READINESS) == "UNAVAILABLE"
    assert change(record, {rules.LABEL: element("LT", "x" * rules.MOST_CHARACTERS)}) == UpsStatus.RESOURCE_LIMITATION
    with record.write() as session:
        many = {rules.LABEL: element("LT", "x" * rules.MOST_CHARACTERS)}
        assert workitems.change(session, ITEM, many, LOCK, actor=NODE, own=True) == UpsStatus.SUCCESS
    with record.write() as session:
        workitems.explain(session, ITEM, "waits", looked_at=utcnow(), check_at=utcnow())
    assert seen(record).reason == "waits"


def test_a_global_subscription_is_to_what_comes_and_with_a_lock_to_what_is_there(record: Record) -> None:
    create(record)
    other = "1.2.840.77.2"
    with record.write() as session:
        workitem_subscriptions.subscribe_globally(session, "LATER", lock=False)
        workitem_subscriptions.subscribe_globally(session, "ALL", lock=True)
        wants = {rules.LABEL: element("LO", "Knee*")}
        workitem_subscriptions.subscribe_globally(session, "KNEES", lock=True, matching=wants)
    create(record, sop_instance_uid=other)
    told = {name: [kind for kind, _ in events(record, name)] for name in ("LATER", "ALL", "KNEES")}
    both = [EventType.STATE_REPORT, EventType.ASSIGNED]
    assert told == {"LATER": both, "ALL": [EventType.STATE_REPORT, *both], "KNEES": []}
    with record.write() as session:
        workitem_subscriptions.suspend(session, "LATER")
        workitem_subscriptions.unsubscribe_globally(session, "ALL")
        assert workitem_subscriptions.unsubscribe(session, ITEM, "LATER") == UpsStatus.SUCCESS
        row = session.scalars(select(Workitem.id).where(Workitem.sop_instance_uid == other)).one()
        assert workitem_subscriptions.subscribers(session, row) == ["LATER"]
        assert workitem_subscriptions.everybody(session) == ["KNEES", "LATER"]
        assert workitem_subscriptions.tell(session, row, other, EventType.PROGRESS_REPORT, {}) == 1
        third = replace(new("1.2.840.77.3"), study_instance_uid=STUDY)
        workitems.create(session, third)
        workitem_subscriptions.of_created(session, row, other, third.data)
    assert states_told(record, "LATER") == ["SCHEDULED"]
    assert states_told(record, "ALL") == ["SCHEDULED", "SCHEDULED"]


def test_a_subscribers_queue_is_told_in_order_by_one_process(record: Record) -> None:
    create(record)
    subscribe(record)
    turn(record, W.IN_PROGRESS)
    now = utcnow()
    with record.write() as session:
        assert not workitem_tidings.any_due(session, now, ["OTHER"])
        assert workitem_tidings.any_due(session, now, ["WATCHER"])
        (due,) = workitem_tidings.claim_due(session, now, ["WATCHER", "OTHER"], "a:events", lease_s=60)
        assert [text(one.information, rules.STATE) for one in due.tidings] == ["SCHEDULED", "IN PROGRESS"]
    turn(record, W.CANCELED)
    first, second = due.tidings
    with record.write() as session:
        assert workitem_tidings.told(session, first.id)
        assert not workitem_tidings.told(session, first.id)
        assert workitem_tidings.claim_due(session, utcnow(), ["WATCHER"], "b:events", lease_s=60) == [], (
            "the queue is leased"
        )
        workitem_tidings.postpone(session, [second.id], now - timedelta(seconds=1), "it is away")
        (again,) = workitem_tidings.claim_due(session, utcnow(), ["WATCHER"], "b:events", lease_s=60)
    assert [text(one.information, rules.STATE) for one in again.tidings] == ["IN PROGRESS", "CANCELED"]
    assert again.tidings[0].attempts == 2
    with record.write() as session:
        assert workitem_tidings.free(session, "a:events") == 0
        assert leftovers.free(session, "b:events") == 2
        assert workitem_tidings.any_due(session, utcnow(), ["WATCHER"])
        assert workitem_tidings.give_up(session, second.id, "it was away for a day")
        assert workitem_tidings.counts(session) == {"TOLD": 1, "GIVEN_UP": 1, "WAITING": 1}
        shown = workitem_tidings.of_item(session, ITEM)
        assert [(one["event"], one["state"]) for one in shown] == [
            ("STATE_REPORT", "TOLD"),
            ("STATE_REPORT", "GIVEN_UP"),
            ("STATE_REPORT", "WAITING"),
        ]
        assert workitem_tidings.forget(session, utcnow()) == 0
        assert not workitem_tidings.any_old(session, utcnow())
        assert workitem_tidings.any_old(session, utcnow() + 2 * workitem_tidings.KEPT)
        assert workitem_tidings.forget(session, utcnow() + 2 * workitem_tidings.KEPT) == 3
        workitem_tidings.announce(session, ITEM, EventType.PROGRESS_REPORT, {}, ["WATCHER"])
    assert len(events(record)) == 1


def test_an_item_hastens_what_is_queued_on_its_study_and_what_will_be(record: Record) -> None:
    job_id = queued_job(record)
    create(record, priority="stat")
    with record.read() as session:
        assert session.get_one(Job, job_id).priority == "stat"
    receive(record, image(2, "1.2.55", sop_instance_uid="1.2.55.1"))
    create(record, sop_instance_uid="1.2.840.77.2", study_instance_uid="1.2.55", priority="urgent")
    view = load(record, "1.2.55")
    settle(record, view, revision(view))
    with record.read() as session:
        assert sorted(session.scalars(select(Job.priority))) == ["stat", "urgent"]
    with record.write() as session:
        assert workitems.wake(session, "1.2.55") == "urgent"
        assert workitems.wake(session, "1.2.56") == ""


def test_an_item_made_more_urgent_hastens_what_is_queued(record: Record) -> None:
    job_id = queued_job(record)
    create(record)
    assert change(record, {rules.PRIORITY: element("CS", "HIGH")}, "") == UpsStatus.SUCCESS
    with record.read() as session:
        assert session.get_one(Job, job_id).priority == "stat"
    assert seen(record).priority == "stat"


def test_an_item_whose_images_are_here_says_that_the_study_is_done(record: Record) -> None:
    receive(record, image(1))
    create(record, instances=(image(1).sop_instance_uid,), ready=True)
    with record.read() as session:
        assert notices.announced(session, STUDY) == "WORKITEM"


def test_the_node_looks_at_what_nobody_has_claimed_and_what_it_has(record: Record) -> None:
    create(record)
    later = utcnow() + timedelta(seconds=1)

    def due() -> list[str]:
        with record.read() as session:
            return [one.sop_instance_uid for one in workitems.due(session, later, NODE)]

    assert due() == [ITEM]
    turn(record, W.IN_PROGRESS)
    assert due() == []
    with record.write() as session:
        session.execute(update(Workitem).values(performer=NODE))
    assert due() == [ITEM]
    turn(record, W.CANCELED)
    assert due() == []


QUERIES: list[tuple[Json, int]] = [
    ({}, 3),
    ({rules.STATE: element("CS", "SCHEDULED")}, 2),
    ({rules.STATE: element("CS", "SLEEPING")}, 0),
    ({rules.SOP_INSTANCE: element("UI", ITEM)}, 1),
    ({rules.STUDY: element("UI", STUDY)}, 3),
    ({rules.LABEL: element("LO", "Chest*")}, 3),
    ({rules.LABEL: element("LO", "Ch?st")}, 0),
    ({"00100010": element("PN", {"Alphabetic": "doe^*"})}, 3),
    ({"00404005": element("DT", "20260301-20260302")}, 3),
    ({"00404005": element("DT", "-20260228")}, 0),
    ({rules.WORKITEM_CODE: sequence([{"00080100": element("SH", "110004")}])}, 3),
    ({rules.WORKITEM_CODE: sequence([{"00080100": element("SH", "110005")}])}, 0),
    ({rules.WORKITEM_CODE: sequence([{"00080100": element("SH")}])}, 3),
]


def test_items_are_found_by_their_keys(record: Record) -> None:
    for number in (1, 2, 3):
        made = new(f"1.2.840.77.{number}")
        uid = {rules.SOP_INSTANCE: element("UI", made.sop_instance_uid)}
        create(record, sop_instance_uid=made.sop_instance_uid, data={**made.data, **uid})
    cancel(record)
    with record.read() as session:
        for query, answers in QUERIES:
            assert len(list(workitem_queries.find(session, query, limit=10))) == answers, query
            assert len(list(workitem_queries.find(session, query, limit=1))) == min(answers, 1)
        assert workitem_queries.counts(session) == {"SCHEDULED": 2, "CANCELED": 1}
        assert workitem_queries.open_count(session) == 2
        latest = workitem_queries.shown(session, states=(W.SCHEDULED,), limit=1)
    assert [one.sop_instance_uid for one in latest] == ["1.2.840.77.3"]


def test_what_has_ended_is_forgotten_in_time_unless_somebody_holds_it(
    record: Record, other_record: Callable[[], Record]
) -> None:
    create(record)
    subscribe(record, lock=True)
    cancel(record)
    later = utcnow() + timedelta(days=1)
    with other_record().write() as session:
        assert workitem_queries.forget(session, later, utcnow() - timedelta(days=1)) == 0
    subscribe(record, lock=False)
    with record.write() as session:
        assert workitem_queries.forget(session, utcnow() - timedelta(days=1), utcnow() - timedelta(days=2)) == 0
        assert not workitem_queries.any_over(session, utcnow() - timedelta(days=1), utcnow() - timedelta(days=2))
        assert workitem_queries.any_over(session, later, utcnow() - timedelta(days=1))
        assert workitem_queries.forget(session, later, utcnow() - timedelta(days=1)) == 1
        assert workitems.load(session, ITEM) is None


def test_a_study_that_is_deleted_takes_its_patient_out_of_its_items(record: Record) -> None:
    create(record)
    create(record, sop_instance_uid="1.2.840.77.2", study_instance_uid="1.2.55")
    with record.write() as session:
        workitem_queries.forget_patient(session, STUDY)
        other = workitems.load(session, "1.2.840.77.2")
    assert other is not None
    assert text(other.data, "00100020") == "ID-1"
    kept = seen(record).data
    assert [text(kept, tag) for tag in ("00100010", "00100020", "00100030")] == ["", "", ""]
    assert text(kept, rules.LABEL) == "Chest triage"
