"""Bringing a database to this release's tables, and telling whether it is there."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from db.errors import ConfigError, RecordUnavailable
from db.session import Record, safe_url

# Any constant does, as long as every node uses the same: two of them must not migrate at once.
_POSTGRES_LOCK = 7061656


def alembic_config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    return config


def head() -> str:
    """The schema revision this release needs."""
    found = ScriptDirectory.from_config(alembic_config()).get_current_head()
    if found is None:
        raise ConfigError("the installation has no migrations; install radnode again")
    return found


def current(record: Record) -> str | None:
    """The schema revision the database is at, or None for an empty one."""
    try:
        with record.engine.connect() as connection:
            return MigrationContext.configure(connection).get_current_revision()
    except OperationalError as error:
        raise RecordUnavailable(
            f"the record at {safe_url(record.url)} cannot be opened; see `radnode doctor`"
        ) from error


def upgrade(record: Record) -> None:
    """Migrate to `head`. Safe to run from several nodes at once; each change is one transaction."""
    config = alembic_config()
    try:
        with record.engine.begin() as connection:
            if record.dialect == "postgresql":
                connection.execute(text(f"SELECT pg_advisory_xact_lock({_POSTGRES_LOCK})"))
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    except OperationalError as error:
        raise RecordUnavailable(
            f"the record at {safe_url(record.url)} cannot be migrated; see `radnode doctor`"
        ) from error


def require_current(record: Record) -> None:
    """Raise ConfigError unless the database has exactly this release's schema."""
    at = current(record)
    if at != head():
        raise ConfigError(
            f"the record is at schema {at or 'none'}, this release needs {head()}; run `radnode db upgrade`"
        )
