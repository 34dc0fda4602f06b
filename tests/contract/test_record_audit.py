"""The audit trail: a chain nobody changes unseen, on both databases, with many writers and several sealers."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
from alembic import command
from sqlalchemy import select, text
from sqlalchemy.exc import IntegrityError, ProgrammingError

from db import audit, audit_chain, schema
from db.audit import Wanted
from db.audit_chain import Head, Verdict
from db.session import Record
from db.tables import Audit
from db.types import utcnow
from tests.support.postgres import PostgresServer
from tests.support.records import race

TABLES = ("audit", "audit_chain", "audit_unsealed", "audit_bases")


def write(record: Record, count: int, **detail: object) -> None:
    with record.write() as session:
        for number in range(count):
            audit.note(session, "login", actor="anna", subject=str(number), number=number, **detail)


def seal(record: Record) -> Head:
    while True:
        with record.write() as session:
            count, end = audit_chain.seal(session, limit=7)
        if not count:
            return end


def verify(record: Record, *anchors: Head) -> Verdict:
    with record.read() as session:
        return audit_chain.verify(session, anchors)


def tamper(record: Record, statement: str) -> None:
    """As somebody would who owns the database and switches its triggers off."""
    with record.engine.begin() as connection:
        if record.dialect == "postgresql":
            connection.execute(text("SET LOCAL session_replication_role = replica"))
            connection.execute(text(statement))
            return
        made = connection.execute(text("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'")).all()
        for name, _ in made:
            connection.exec_driver_sql(f"DROP TRIGGER {name}")
        connection.execute(text(statement))
        for _, sql in made:
            connection.exec_driver_sql(sql)


def test_rows_get_their_places_in_order(record: Record) -> None:
    write(record, 20)
    with record.read() as session:
        assert audit_chain.any_waiting(session)
        assert audit_chain.waiting(session) == 20
        assert audit_chain.head(session).position == 0
    end = seal(record)
    with record.read() as session:
        assert not audit_chain.any_waiting(session)
        assert audit_chain.head(session) == end
        rows = audit_chain.sealed(session, after=4, limit=10)
    assert [row.position for row in rows] == list(range(5, 15))
    assert [row.subject for row in rows] == [str(number) for number in range(4, 14)]
    verdict = verify(record, end)
    assert (verdict.rows, verdict.waiting, verdict.problem, verdict.head) == (20, 0, "", end)
    assert end.position == 20


def test_a_row_that_is_rolled_back_is_in_no_queue(record: Record) -> None:
    def fail_half_way() -> None:
        with record.write() as session:
            audit.note(session, "login", actor="anna")
            session.flush()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_half_way()
    assert seal(record).position == 0
    assert verify(record).problem == ""


def test_writers_and_sealers_at_once_leave_one_unbroken_chain(
    record: Record, other_record: Callable[[], Record]
) -> None:
    records = [record, *(other_record() for _ in range(3))]

    def work(number: int) -> None:
        for _ in range(15):
            if number < 2:
                write(records[number], 2)
            else:
                with records[number].write() as session:
                    audit_chain.seal(session)

    race(4, work)
    assert seal(record).position == 60
    verdict = verify(record)
    assert (verdict.rows, verdict.problem) == (60, "")


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("how", ["UPDATE {} SET {} = {}", "DELETE FROM {}"])
def test_the_database_itself_refuses_changes(record: Record, table: str, how: str) -> None:
    write(record, 3)
    seal(record)
    with record.write() as session:
        audit_chain.prune(session, before=utcnow() + timedelta(days=1), actor="test")
    write(record, 3)
    with record.write() as session:
        audit_chain.seal(session, limit=2)
    column = {"audit": "subject", "audit_unsealed": "audit_id"}.get(table, "position")
    with pytest.raises(IntegrityError, match="append-only"), record.write() as session:
        session.execute(text(how.format(table, column, column)))
    assert verify(record).problem == ""


@pytest.mark.parametrize(
    ("statement", "place", "problem"),
    [
        ("UPDATE audit SET actor = 'bert' WHERE subject = '3'", 4, "is not what was sealed"),
        ("UPDATE audit SET detail = '{}' WHERE subject = '0'", 1, "is not what was sealed"),
        ("DELETE FROM audit WHERE subject = '5'", 6, "is gone"),
        ("DELETE FROM audit_chain WHERE position = 2", 2, "is missing"),
        ("UPDATE audit_chain SET previous = digest WHERE position = 7", 7, "does not follow"),
        ("DELETE FROM audit_chain WHERE position = 9", 9, "rows were cut off"),
        ("INSERT INTO audit_bases SELECT 3, digest, CURRENT_TIMESTAMP FROM audit_chain WHERE position = 3", None, ""),
    ],
)
def test_what_is_changed_all_the_same_is_seen(record: Record, statement: str, place: int | None, problem: str) -> None:
    write(record, 9)
    end = seal(record)
    tamper(record, statement)
    verdict = verify(record, end)
    assert problem in verdict.problem
    assert verdict.problem
    if place is not None:
        assert verdict.position == place


def test_a_chain_that_is_computed_anew_as_a_whole_differs_from_its_anchor(record: Record) -> None:
    write(record, 5)
    end = seal(record)
    tamper(record, "UPDATE audit SET actor = 'bert' WHERE subject = '1'")
    tamper(record, "DELETE FROM audit_chain")
    tamper(record, "INSERT INTO audit_unsealed SELECT id FROM audit")
    assert seal(record).position == 5
    assert verify(record).problem == ""
    assert "made anew" in verify(record, end).problem


@pytest.mark.parametrize(
    ("statements", "problem"),
    [
        (["DELETE FROM audit WHERE subject = '1'"], "taken out before it had a place"),
        (["DELETE FROM audit_unsealed"], "does not wait for one"),
    ],
)
def test_rows_without_a_place_do_not_vanish_unseen(record: Record, statements: list[str], problem: str) -> None:
    write(record, 3)
    for statement in statements:
        tamper(record, statement)
    assert problem in verify(record).problem


def test_the_oldest_rows_may_go_and_the_rest_still_holds(record: Record) -> None:
    write(record, 8)
    early = seal(record)
    border = utcnow()
    write(record, 4)
    seal(record)
    with record.write() as session:
        assert audit_chain.prune(session, before=border, actor="retention", collector="far") == 0
        # So many at once, for the sake of whoever else has to write.
        assert audit_chain.prune(session, before=border, actor="retention", limit=5) == 5
        assert audit_chain.prune(session, before=border, actor="retention", limit=5) == 3
        assert audit_chain.prune(session, before=border, actor="retention") == 0
    end = seal(record)
    verdict = verify(record, early, end)
    assert (verdict.problem, verdict.begins_after, verdict.rows, end.position) == ("", 8, 6, 14)
    with record.read() as session:
        told = audit.latest(session, Wanted(events=("audit_pruned",)))
    assert told is not None
    assert told.detail == {"up_to": 8, "digest": early.digest, "rows": 3}


def test_entries_are_found_by_what_is_asked_for(record: Record) -> None:
    border = utcnow()
    write(record, 3)
    with record.write() as session:
        audit.note(session, "logout", actor="bert", subject="9", outcome="failure")
    seal(record)
    write(record, 1)
    asked = {
        "all": (Wanted(), ["0", "1", "2", "9", "0"]),
        "events": (Wanted(events=("logout",)), ["9"]),
        "actor": (Wanted(actor="bert"), ["9"]),
        "subject": (Wanted(subject="0"), ["0", "0"]),
        "outcome": (Wanted(outcome="failure"), ["9"]),
        "since": (Wanted(since=utcnow()), []),
        "until": (Wanted(until=border), []),
    }
    with record.read() as session:
        for name, (wanted, subjects) in asked.items():
            assert [one.subject for one in audit.entries(session, wanted)] == subjects, name
        (last,) = audit.entries(session, Wanted(), limit=1, newest=True)
        assert (last.position, last.digest) == (None, "")
        assert [one.position for one in audit.entries(session, Wanted(), limit=2)] == [1, 2]
        found = audit.latest(session, Wanted(actor="anna"))
        assert found is not None
        assert audit.latest(session, Wanted(actor="nobody")) is None
    assert found.id == last.id


def test_one_keeper_sends_to_a_collector_at_a_time(record: Record) -> None:
    with record.write() as session:
        assert audit_chain.cursor(session, "far") == 0
        assert audit_chain.take_cursor(session, "far", "a", lease_s=60) == 0
        assert audit_chain.take_cursor(session, "far", "b", lease_s=60) is None
        assert not audit_chain.advance_cursor(session, "far", "b", 5)
        assert audit_chain.advance_cursor(session, "far", "a", 5)
        assert not audit_chain.advance_cursor(session, "far", "a", 4), "it never goes back"
        audit_chain.leave_cursor(session, "far", "b")
        assert audit_chain.take_cursor(session, "far", "b", lease_s=60) is None
        audit_chain.leave_cursor(session, "far", "a")
        assert audit_chain.take_cursor(session, "far", "b", lease_s=-1) == 5
        assert audit_chain.take_cursor(session, "far", "a", lease_s=60) == 5
        assert audit_chain.take_cursor(session, "other", "b", lease_s=60) == 0


def test_the_rows_of_an_earlier_release_join_the_chain(empty_url: str) -> None:
    record = Record(empty_url)
    config = schema.alembic_config()
    with record.engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0002")
        for number in range(3):
            connection.execute(
                text(
                    "INSERT INTO audit (at, event, outcome, actor, subject, detail) VALUES "
                    "(:at, 'an_event_of_old', 'success', 'cli', :number, '{\"tries\": 2}')"
                ),
                {"at": "2026-03-01 12:00:00.123456+00:00" if "postgresql" in empty_url else
                 "2026-03-01 12:00:00.123456", "number": str(number)},
            )  # fmt: skip
    schema.upgrade(record)
    schema.require_current(record)
    write(record, 1)
    end = seal(record)
    assert end.position == 4
    assert verify(record, end).problem == ""
    tamper(record, "UPDATE audit SET detail = '{\"tries\": 3}' WHERE subject = '1'")
    assert verify(record).position == 2
    record.close()


_GRANTS = """
GRANT SELECT, INSERT ON audit, audit_chain, audit_unsealed, audit_bases TO node_role;
GRANT DELETE ON audit, audit_chain, audit_unsealed TO node_role;
GRANT SELECT, INSERT, UPDATE ON audit_cursors TO node_role;
GRANT USAGE ON SEQUENCE audit_id_seq TO node_role;
"""


def test_a_role_that_owns_nothing_can_do_all_that_is_needed_and_no_more(postgres: PostgresServer) -> None:
    record = Record(postgres.url(postgres.new_database()))
    schema.upgrade(record)
    with record.engine.begin() as connection:
        for statement in ("DROP ROLE IF EXISTS node_role", "CREATE ROLE node_role", *_GRANTS.strip().splitlines()):
            connection.execute(text(statement))
    with record.write() as session:
        session.execute(text("SET LOCAL ROLE node_role"))
        for number in range(3):
            audit.note(session, "login", actor="anna", subject=str(number))
        audit_chain.seal(session)
        assert audit_chain.prune(session, before=utcnow() + timedelta(days=1), actor="anna") == 3
        audit_chain.seal(session)
        assert audit_chain.take_cursor(session, "far", "a", lease_s=1) == 0
    for statement in ("ALTER TABLE audit DISABLE TRIGGER ALL", "UPDATE audit SET actor = 'bert'", "TRUNCATE audit"):
        with pytest.raises(ProgrammingError), record.write() as session:
            session.execute(text("SET LOCAL ROLE node_role;" + statement))
    assert verify(record).problem == ""
    with record.engine.begin() as connection:
        connection.execute(text("DROP OWNED BY node_role"))
        connection.execute(text("DROP ROLE node_role"))
    record.close()


def test_a_row_holds_what_was_noted_on_one_line_and_counts_its_images(record: Record) -> None:
    images = [("1.2.3", "1.1"), ("1.2.4", "1.2"), ("1.2.3", "1.3")]
    counted = audit.count_by_class(images)
    with record.write() as session:
        audit.note(session, "login", actor="an\nna", subject="4", sop_classes=counted)
    with record.read() as session:
        row = session.scalars(select(Audit)).one()
        held = audit.entry(row)
        assert held == audit.latest(session, Wanted())
    assert held.actor == audit.clean("an\nna") == "an\N{REPLACEMENT CHARACTER}na"
    assert held.detail["sop_classes"] == {
        "1.2.3": {"count": 2, "uids": ["1.1", "1.3"]},
        "1.2.4": {"count": 1, "uids": ["1.2"]},
    }


def test_many_images_are_counted_and_not_named() -> None:
    assert audit.count_by_class(("1.2.3", f"1.{number}") for number in range(500)) == {"1.2.3": {"count": 500}}
