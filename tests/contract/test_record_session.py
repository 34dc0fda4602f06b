"""Transactions, failures and migrations of the record."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, select, text, update
from sqlalchemy.exc import IntegrityError, StatementError

from db import audit, intake, listing, schema
from db.errors import ConfigError, RecordUnavailable
from db.session import Record, safe_url
from db.tables import Audit, Base, Study
from db.types import utcnow
from tests.support.postgres import PostgresServer
from tests.support.records import image, race, receive

ROOT = Path(__file__).parents[2]


def test_migrations_lead_from_nothing_to_exactly_the_tables(empty_url: str) -> None:
    record = Record(empty_url)
    assert schema.current(record) is None
    with pytest.raises(ConfigError, match="at schema none"):
        schema.require_current(record)
    schema.upgrade(record)
    schema.require_current(record)
    assert schema.current(record) == schema.head()
    assert ScriptDirectory.from_config(schema.alembic_config()).get_heads() == [schema.head()]
    with record.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert context.get_current_revision() == schema.head()
        assert compare_metadata(context, Base.metadata) == []
    schema.upgrade(record)
    assert schema.current(record) == schema.head()
    record.close()


def test_migrations_lead_back_to_nothing(empty_url: str) -> None:
    record = Record(empty_url)
    schema.upgrade(record)
    config = schema.alembic_config()
    with record.engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
    with record.engine.connect() as connection:
        assert inspect(connection).get_table_names() == ["alembic_version"]
    schema.upgrade(record)
    schema.require_current(record)
    record.close()


def test_nodes_that_start_together_migrate_once(empty_url: str) -> None:
    script = "import sys; from db import schema; from db.session import Record; schema.upgrade(Record(sys.argv[1]))"
    started = [
        subprocess.Popen([sys.executable, "-c", script, empty_url], cwd=ROOT, stderr=subprocess.PIPE) for _ in range(3)
    ]
    errors = [process.communicate(timeout=60)[1].decode() for process in started]
    assert [process.returncode for process in started] == [0, 0, 0], errors
    record = Record(empty_url)
    schema.require_current(record)
    record.close()


def test_a_transaction_is_written_whole_or_not_at_all(record: Record) -> None:
    def fail_half_way() -> None:
        with record.write() as session:
            intake.record_instance(session, image())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_half_way()
    with record.read() as session:
        assert listing.counts(session) == {"studies": {}, "instances": {}, "jobs": {}, "deliveries": {}, "orders": {}}


def test_a_broken_constraint_is_no_outage(record: Record) -> None:
    receive(record, image())
    with pytest.raises(IntegrityError), record.write() as session:
        session.execute(update(Study).values(study_instance_uid=None))


def test_readers_do_not_wait_for_a_writer(record: Record) -> None:
    receive(record, image())
    with record.write() as writer:
        intake.record_instance(writer, image(2))
        with record.read() as reader:
            assert listing.counts(reader)["instances"] == {"RECEIVED": 1}
    record.ping()


def test_writers_take_turns(record: Record) -> None:
    def write(number: int) -> None:
        for k in range(10):
            with record.write() as session:
                audit.note(session, "job_retried", actor=f"thread {number}", subject=str(k))

    race(4, write)
    with record.read() as session:
        noted = session.execute(select(Audit.actor, Audit.subject)).all()
    assert sorted(map(tuple, noted)) == [(f"thread {n}", str(k)) for n in range(4) for k in range(10)]


def test_every_connection_in_use_is_an_outage_not_a_crash(record_url: str) -> None:
    record = Record(record_url, pool_size=1)
    record.engine.pool._timeout = 0.2  # type: ignore[attr-defined]
    with record.read(), record.read(), pytest.raises(RecordUnavailable, match="in use"), record.read():
        pytest.fail("there was a third connection")
    record.ping()
    record.close()


def test_moments_come_back_aware_and_in_utc(record: Record) -> None:
    tokyo = timezone(timedelta(hours=9))
    receive(record, image(received_at=datetime(2026, 3, 1, 1, 30, 0, 123456, tzinfo=tokyo)))
    with record.read() as session:
        stored = session.scalars(select(Study.first_received_at)).one()
    assert stored == datetime(2026, 2, 28, 16, 30, 0, 123456, tzinfo=UTC)
    assert stored.tzinfo is UTC


def test_moments_without_a_zone_are_refused(record: Record) -> None:
    with pytest.raises(StatementError, match="must carry its zone"):
        receive(record, image(received_at=datetime(2026, 3, 1)))  # noqa: DTZ001
    assert utcnow().tzinfo is UTC


def test_moments_compare_in_the_database(record: Record) -> None:
    receive(record, image(received_at=utcnow()))
    later = utcnow() + timedelta(microseconds=1)
    with record.read() as session:
        assert session.scalars(select(Study.id).where(Study.last_received_at < later)).all() != []
        assert session.scalars(select(Study.id).where(Study.last_received_at > later)).all() == []


def test_not_a_number_never_reaches_the_record(record: Record) -> None:
    with pytest.raises((StatementError, ValueError), match="JSON"):
        receive(record, image(facts={"age_years": float("nan")}))


def test_the_audit_keeps_what_happened(record: Record) -> None:
    with record.write() as session:
        audit.note(session, "model_installed", actor="cli", subject="cxr", outcome="failure", version="1.0", tries=2)
    with record.read() as session:
        (row,) = session.scalars(select(Audit))
    assert (row.event, row.actor, row.subject, row.outcome) == ("model_installed", "cli", "cxr", "failure")
    assert row.detail == {"version": "1.0", "tries": 2}
    assert utcnow() - row.at < timedelta(minutes=1)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg://someone:secret@127.0.0.1:1/radnode",
        "postgresql://127.0.0.1:1/radnode?user=someone&password=secret",
        "sqlite:////proc/no/such/place.db",
    ],
)
def test_a_record_that_cannot_be_reached_says_so_without_its_password(url: str) -> None:
    if url.startswith("sqlite"):
        with pytest.raises(RecordUnavailable, match="/proc/no/such"):
            Record(url)
        return
    record = Record(url)
    attempts: tuple[Callable[[], object], ...] = (
        record.ping,
        lambda: schema.current(record),
        lambda: schema.upgrade(record),
    )
    for attempt in attempts:
        with pytest.raises(RecordUnavailable, match="radnode") as caught:
            attempt()
        assert "secret" not in str(caught.value)
    assert "secret" not in safe_url(url)
    record.close()


@pytest.mark.parametrize("url", ["nonsense", "mysql://localhost/radnode", ""])
def test_other_databases_are_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="database_url"):
        Record(url)


def test_sqlite_is_durable_and_keeps_references(tmp_path: Path) -> None:
    record = Record(f"sqlite:///{tmp_path / 'new' / 'folder' / 'radnode.db'}")
    with record.read() as session:
        found = {
            name: session.scalar(text(f"PRAGMA {name}")) for name in ("journal_mode", "synchronous", "foreign_keys")
        }
    assert found == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}
    assert record.dialect == "sqlite"
    record.close()


def test_a_lost_connection_is_an_outage_and_the_next_try_works(postgres: PostgresServer) -> None:
    record = Record(postgres.url(postgres.new_database()))

    def lose_it() -> None:
        with record.write() as session, postgres.connect() as other:
            pid = session.scalar(text("SELECT pg_backend_pid()"))
            assert other.execute("SELECT pg_terminate_backend(%s, 10000)", (pid,)).fetchone() == (True,)
            session.scalar(text("SELECT 1"))

    with pytest.raises(RecordUnavailable, match="did not answer"):
        lose_it()
    record.ping()
    record.close()
