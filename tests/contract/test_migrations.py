"""Every schema that was ever released, with data in it, comes up to this one's, and the data with it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Column, Connection, MetaData, Table, insert, select, text, types

from db import audit_chain, schema
from db.session import Record
from db.tables import Base

REVISIONS = [one.revision for one in ScriptDirectory.from_config(schema.alembic_config()).walk_revisions()][::-1]
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
# Filled by a trigger.
BY_TRIGGER = {"audit_unsealed"}
_VALUES: tuple[tuple[type[types.TypeEngine[Any]], Any], ...] = (
    (types.Boolean, True),
    (types.Integer, 1),
    (types.Float, 0.5),
    (types.JSON, {"a": [1, "ä"]}),
    (types.LargeBinary, b"\0\1"),
)

Rows = dict[str, dict[str, Any]]


def upgrade_to(record: Record, revision: str) -> None:
    config = schema.alembic_config()
    with record.engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


def reflected(connection: Connection) -> MetaData:
    found = MetaData()
    found.reflect(connection)
    return found


def value_of(table: Table, column: Column[Any]) -> Any:
    """Something of the column's type; the same for a key and for what refers to it."""
    if column.foreign_keys:
        (key,) = column.foreign_keys
        return None if key.column.table is table else value_of(key.column.table, key.column)
    known = Base.metadata.tables[table.name].columns.get(column.name)
    if known is not None and isinstance(known.type, types.Enum):
        return known.type.enums[-1]
    if isinstance(column.type, types.DateTime):
        return NOON if getattr(column.type, "timezone", False) else NOON.replace(tzinfo=None)
    for kind, value in _VALUES:
        if isinstance(column.type, kind):
            return value
    return "1"


def fill(connection: Connection, found: MetaData, filled: set[str]) -> Rows:
    """A row in each table that has none, each column with a value."""
    rows: Rows = {}
    for table in found.sorted_tables:
        if table.name in BY_TRIGGER | filled | {"alembic_version"}:
            continue
        rows[table.name] = {column.name: value_of(table, column) for column in table.columns}
        connection.execute(insert(table).values(**rows[table.name]))
    return rows


@pytest.fixture
def empty_record(empty_url: str) -> Iterator[Record]:
    record = Record(empty_url)
    yield record
    record.close()


def assert_this_release_with(record: Record, before: Rows) -> None:
    """The schema is this release's to the last column, the rows are what they were, and this release reads them."""
    schema.require_current(record)
    with record.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []
        now = reflected(connection)
        for name, row in before.items():
            columns = [column for column in now.tables[name].columns if column.name in row]
            (stored,) = connection.execute(select(*columns)).mappings().all()
            assert dict(stored) == {column.name: row[column.name] for column in columns}, name
        if record.dialect == "sqlite":
            assert connection.execute(text("PRAGMA foreign_key_check")).all() == []
    with record.read() as session:
        for mapper in Base.registry.mappers:
            session.scalars(select(mapper.class_)).all()


@pytest.mark.parametrize("revision", REVISIONS)
def test_a_released_schema_with_data_comes_up_to_this_one(tmp_path: Path, revision: str) -> None:
    record = Record(f"sqlite:///{tmp_path / 'old.db'}")
    upgrade_to(record, revision)
    with record.engine.begin() as connection:
        before = fill(connection, reflected(connection), set())
    assert {"studies", "instances", "jobs", "results", "deliveries", "audit"} <= set(before)
    schema.upgrade(record)
    assert_this_release_with(record, before)
    record.close()


def test_data_of_each_release_goes_through_all_that_came_after_it(empty_record: Record) -> None:
    before: Rows = {}
    for revision in REVISIONS:
        upgrade_to(empty_record, revision)
        with empty_record.engine.begin() as connection:
            before |= fill(connection, reflected(connection), set(before))
    assert_this_release_with(empty_record, before)
    assert set(before) == set(Base.metadata.tables) - BY_TRIGGER


def test_what_was_noted_before_there_was_a_chain_gets_its_place(empty_record: Record) -> None:
    upgrade_to(empty_record, "0002")
    with empty_record.engine.begin() as connection:
        fill(connection, reflected(connection), set())
    schema.upgrade(empty_record)
    with empty_record.write() as session:
        assert audit_chain.seal(session)[0] == 1
    with empty_record.read() as session:
        verdict = audit_chain.verify(session)
    assert (verdict.rows, verdict.problem) == (1, "")
