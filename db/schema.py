"""Bringing a database to this release's tables, and telling whether it is there.

Each process asks that at its start, and senders wait for the listener: Alembic, which takes a tenth of a second to load
and another to read the migrations, is only asked where there is something to do.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import inspect, text
from sqlalchemy.exc import OperationalError

from db.errors import ConfigError, RecordUnavailable
from db.session import Record, safe_url

if TYPE_CHECKING:
    from alembic.config import Config

_MIGRATIONS = Path(__file__).parent / "migrations"
# Any constant does, as long as every node uses the same: two of them must not migrate at once.
_POSTGRES_LOCK = 7061656


def alembic_config() -> Config:
    from alembic.config import Config  # noqa: PLC0415 - see above

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.set_main_option("path_separator", "os")
    return config


def head() -> str:
    """The schema revision this release needs: migrations are numbered, and their files named by the number."""
    numbers = [path.name.partition("_")[0] for path in (_MIGRATIONS / "versions").glob("[0-9]*_*.py")]
    if not numbers:
        raise ConfigError("the installation has no migrations; install radnode again")
    return max(numbers)


def current(record: Record) -> str | None:
    """The schema revision the database is at, or None for an empty one."""
    try:
        with record.engine.connect() as connection:
            if not inspect(connection).has_table("alembic_version"):
                return None
            revision: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
            return revision
    except OperationalError as error:
        raise RecordUnavailable(
            f"the record at {safe_url(record.url)} cannot be opened; see `radnode doctor`"
        ) from error


def upgrade(record: Record) -> None:
    """Migrate to `head`. Safe to run from several nodes at once; each change is one transaction."""
    if current(record) == head():
        return
    from alembic import command  # noqa: PLC0415 - see above

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
