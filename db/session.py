"""Engine and transactions: SQLite (WAL, synchronous FULL) or PostgreSQL, by URL.

A transaction that writes takes SQLite's write lock at once (BEGIN IMMEDIATE): a reader that later upgrades would
fail with SQLITE_BUSY however long it is willing to wait.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, create_engine, event, make_url, text
from sqlalchemy.engine import URL, Engine
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session

from db.errors import ConfigError, RecordUnavailable

BUSY_TIMEOUT_S = 30.0


class Record:
    """The one way into the database.

    url: SQLAlchemy URL (``sqlite:////var/lib/radnode/radnode.db``, ``postgresql+psycopg://…``). The engine belongs to
    the process that made it: never carry a Record over a fork.
    """

    def __init__(self, url: str, *, pool_size: int = 20) -> None:
        self.url = _parse(url)
        self.engine = _engine(self.url, pool_size)

    @property
    def dialect(self) -> str:
        return self.engine.dialect.name

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A transaction that commits at the end, or rolls back on any exception.

        Raises RecordUnavailable where the database cannot be reached, is locked too long or has no room.
        """
        with self._session(read_only=False) as session:
            yield session

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A transaction for reading; takes no write lock."""
        with self._session(read_only=True) as session:
            yield session

    @contextmanager
    def write_rows(self) -> Iterator[Connection]:
        """`write` without a session: SQLAlchemy Core, for the few paths where each tenth of a millisecond counts."""
        with self._named_errors(), self.engine.begin() as connection:
            yield connection

    @contextmanager
    def _session(self, *, read_only: bool) -> Iterator[Session]:
        with (
            self._named_errors(),
            Session(self.engine, expire_on_commit=False) as session,
            session.begin(),
        ):
            session.connection(execution_options={"radnode_read_only": read_only})
            yield session

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except OperationalError as error:
            raise RecordUnavailable(_unavailable(self.url, error)) from error
        except PoolTimeout as error:
            raise RecordUnavailable(
                f"every connection to the record at {safe_url(self.url)} is in use; fewer associations or workers "
                "at once need fewer"
            ) from error
        except DBAPIError as error:
            if error.connection_invalidated:
                raise RecordUnavailable(_unavailable(self.url, error)) from error
            raise

    def ping(self) -> None:
        """Raise RecordUnavailable unless the database answers."""
        with self.read() as session:
            session.execute(text("SELECT 1"))

    def close(self) -> None:
        self.engine.dispose()


def _unavailable(url: URL, error: DBAPIError) -> str:
    # The driver's text can quote bound values, hence only its class.
    kind = type(error.orig).__name__ if error.orig is not None else type(error).__name__
    return f"the record at {safe_url(url)} did not answer ({kind}); check that it runs, its disk and its credentials"


def safe_url(url: URL | str) -> str:
    """The URL without its passwords, for logs and `doctor`."""
    parsed = _parse(url) if isinstance(url, str) else url
    return parsed.difference_update_query(("password", "sslpassword", "passfile")).render_as_string()


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise ConfigError("database_url is no database URL; use sqlite:///file or postgresql+psycopg://…") from error
    backend = parsed.get_backend_name()
    if backend not in {"sqlite", "postgresql"}:
        raise ConfigError(f"database_url names {backend}; SQLite and PostgreSQL are supported")
    return parsed.set(drivername="postgresql+psycopg") if backend == "postgresql" else parsed


def _engine(url: URL, pool_size: int) -> Engine:
    if url.get_backend_name() == "postgresql":
        return create_engine(
            url,
            pool_size=pool_size,
            max_overflow=pool_size,
            pool_pre_ping=True,
            json_serializer=_json,
            hide_parameters=True,
        )
    if url.database:
        folder = Path(url.database).parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RecordUnavailable(f"the record's folder {folder} cannot be made ({error.strerror})") from error
    engine = create_engine(
        url,
        pool_size=pool_size,
        max_overflow=pool_size,
        connect_args={"timeout": BUSY_TIMEOUT_S},
        json_serializer=_json,
        # An error's text would quote patients.
        hide_parameters=True,
    )
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _json(value: Any) -> str:
    # NaN is no JSON: PostgreSQL would refuse it, SQLite hand it on to readers that cannot parse it.
    return json.dumps(value, allow_nan=False)


def _prepare_sqlite(connection: sqlite3.Connection, _record: Any) -> None:
    # The driver's own transaction handling begins too late for BEGIN IMMEDIATE.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    read_only = connection.get_execution_options().get("radnode_read_only", False)
    connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")
