"""One record suite, two databases: every test of the record runs on SQLite and on a real PostgreSQL."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from db import schema
from db.session import Record
from db.tables import Base
from node.settings import Peer, Settings, Work
from tests.support.jobs import Preloaded
from tests.support.postgres import PostgresServer, postgres_server
from workers.loaded import Loaded
from workers.pipeline import Worker
from workers.sandbox import Decoders, Terms

DIALECTS = ("sqlite", "postgresql")


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server


@pytest.fixture(scope="session")
def decoders() -> Iterator[Decoders]:
    """Kept warm for the whole run, as a worker keeps them."""
    kept = Decoders(Terms(processes=1))
    yield kept
    kept.close()


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sqlite") / "template.db"
    record = Record(f"sqlite:///{path}")
    schema.upgrade(record)
    record.close()
    return path


@pytest.fixture(scope="session")
def migrated_postgres(postgres: PostgresServer) -> str:
    url = postgres.url(postgres.new_database())
    record = Record(url)
    schema.upgrade(record)
    record.close()
    return url


@pytest.fixture(params=DIALECTS)
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a database without a table."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'empty.db'}"
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    name = server.new_database()
    yield server.url(name)
    server.drop_database(name)


@pytest.fixture(params=DIALECTS)
def record_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a database of the test's own with this release's tables, empty."""
    if request.param == "sqlite":
        path = tmp_path / "record.db"
        shutil.copy(request.getfixturevalue("migrated_sqlite"), path)
        yield f"sqlite:///{path}"
        return
    url: str = request.getfixturevalue("migrated_postgres")
    engine = create_engine(url)
    # Emptying the tables takes a tenth of the time of a new database.
    with engine.begin() as connection:
        # The audit's triggers refuse it, to everybody but a superuser who switches triggers off.
        connection.execute(text("SET LOCAL session_replication_role = replica"))
        connection.execute(text(f"TRUNCATE {', '.join(Base.metadata.tables)} RESTART IDENTITY"))
    engine.dispose()
    yield url


@pytest.fixture
def record(record_url: str) -> Iterator[Record]:
    opened = Record(record_url)
    yield opened
    opened.close()


@pytest.fixture
def other_record(record_url: str) -> Iterator[Callable[[], Record]]:
    """More ways into the same database, as other processes would have them."""
    opened: list[Record] = []

    def open_another() -> Record:
        opened.append(Record(record_url))
        return opened[-1]

    yield open_another
    for one in opened:
        one.close()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A node whose only peer is the sender."""
    peers = {"pacs": Peer(ae_title="MODALITY", host="127.0.0.1")}
    return Settings(data_dir=tmp_path / "data", peers=peers, work=Work(max_attempts=2))


@pytest.fixture
def worker(settings: Settings, record: Record, loaded: Loaded, decoders: Decoders) -> Worker:
    """Has the model that the test's own module calls `loaded`."""
    return Worker(settings, record, Preloaded(settings, loaded), decoders, "host:infer:1")
