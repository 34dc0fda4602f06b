"""A flood of attempts that are turned away is on record whole, in few rows."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

from sqlalchemy import event, text

from db import audit
from db.audit import Entry, Wanted
from db.session import Record
from node.audit.alerts import MOST_ADDRESSES, ROWS_EACH, SEVERAL, Alerts
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


def rename(record: Record, table: str, name: str) -> None:
    with record.engine.begin() as connection:
        connection.execute(text(f"ALTER TABLE {table} RENAME TO {name}"))
