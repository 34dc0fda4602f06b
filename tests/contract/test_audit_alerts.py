"""A flood of attempts that are turned away is on record whole, in few rows."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

from sqlalchemy import event, func, select, text

from db import audit
from db.audit import Entry, Wanted
from db.session import Record
from db.tables import Refusal
from db.types import utcnow
from node.audit.alerts import MOST_ADDRESSES, ROWS_EACH, SEVERAL, Alerts
from node.intake import Arrival, Receiver
from node.settings import Settings
from node.statuses import Status
from tests.support.processes import eventually


def rows(record: Record) -> list[Entry]:
    with record.read() as session:
        return list(audit.entries(session, Wanted(events=("association_rejected", "handshake_failed"))))


def attempts(record: Record) -> int:
    return sum(row.detail["attempts"] for row in rows(record))


def test_a_thousand_attempts_are_a_few_rows_and_all_of_them_told(record: Record) -> None:
    alerts = Alerts(record)
    with ThreadPoolExecutor(8) as peers:
        list(peers.map(lambda n: alerts.note("association_rejected", f"AE{n}", "10.0.0.1", "unknown"), range(1000)))
    assert len(rows(record)) == ROWS_EACH
    alerts.close()
    assert (len(rows(record)), attempts(record)) == (ROWS_EACH + 1, 1000)
    last = rows(record)[-1]
    assert (last.actor, last.detail["attempts"]) == (SEVERAL, 1000 - ROWS_EACH)
    assert (last.outcome, last.detail["address"], last.detail["reason"]) == ("failure", "10.0.0.1", "unknown")


def test_kinds_and_addresses_are_told_apart_up_to_a_number(record: Record) -> None:
    alerts = Alerts(record)
    for number in range(MOST_ADDRESSES + 50):
        alerts.note("handshake_failed", "x", f"10.0.0.{number}", "no certificate")
    alerts.note("association_rejected", "x", "10.0.0.1", "unknown")
    alerts.close()
    found = rows(record)
    assert attempts(record) == MOST_ADDRESSES + 51
    assert len(found) <= MOST_ADDRESSES + ROWS_EACH + 2
    assert found[-1].detail["address"] == ""


def test_the_window_ends_by_itself_and_the_next_attempts_have_rows_again(record: Record) -> None:
    alerts = Alerts(record, window_s=0.3)
    for _ in range(20):
        alerts.note("handshake_failed", "x", "10.0.0.1", "no certificate")
    eventually("all are told", lambda: attempts(record) == 20)
    before = len(rows(record))
    alerts.note("handshake_failed", "x", "10.0.0.1", "no certificate")
    assert [row.detail["attempts"] for row in rows(record)[before:]] == [1]
    alerts.close()


def test_what_the_record_did_not_take_is_told_when_it_is_back(record: Record) -> None:
    alerts = Alerts(record)
    rename(record, "audit", "audit_away")
    for _ in range(7):
        alerts.note("association_rejected", "x", "10.0.0.1", "unknown")
    rename(record, "audit_away", "audit")
    assert rows(record) == []
    alerts.close()
    assert attempts(record) == 7


def test_what_the_record_refuses_after_the_window_is_told_at_the_end_of_the_next(record: Record) -> None:
    alerts = Alerts(record, window_s=0.1)

    @event.listens_for(record.engine, "before_cursor_execute")
    def slow(*_: object) -> None:
        time.sleep(0.4)

    rename(record, "audit", "audit_away")
    alerts.note("association_rejected", "x", "10.0.0.1", "unknown")
    event.remove(record.engine, "before_cursor_execute", slow)
    rename(record, "audit_away", "audit")
    eventually("it is told", lambda: attempts(record) == 1)
    alerts.close()


def test_refused_images_are_a_few_rows_and_all_of_them_told(settings: Settings, record: Record) -> None:
    alerts = Alerts(record)
    receiver = Receiver(settings, record, "listener", alerts)
    for uid in [f"1.2.{number}" for number in range(50)] + ["1.2.0"] * 3:
        wrong = Arrival("1.2.840.1", uid, "1.2.840.2", "1.2.840.10008.1.2.1", "CT", "RADNODE", "10.0.0.1", utcnow())
        assert receiver.take(wrong, []) == Status.CLASS_NOT_SUPPORTED
    alerts.close()
    with record.read() as session:
        told = list(audit.entries(session, Wanted(events=("instance_refused",))))
        refused = session.scalar(select(func.count()).select_from(Refusal))
    assert [row.subject for row in told] == [*(f"1.2.{number}" for number in range(ROWS_EACH)), ""]
    assert [row.detail["attempts"] for row in told] == [1] * ROWS_EACH + [50 - ROWS_EACH]
    assert (told[-1].actor, told[-1].outcome, told[-1].detail["address"]) == ("CT", "failure", "10.0.0.1")
    # Each has its row there, and the same one again only counts up.
    assert refused == 50


def rename(record: Record, table: str, name: str) -> None:
    with record.engine.begin() as connection:
        connection.execute(text(f"ALTER TABLE {table} RENAME TO {name}"))
