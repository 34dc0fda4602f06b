"""A PostgreSQL server of the tests' own: a temporary cluster on a Unix socket, reached by nobody else."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import psycopg

from tests.support.processes import program, running

PACKAGE = "postgresql"
SUPERUSER = "postgres"
# Speed before safety: the cluster is thrown away whatever happens to it.
_UNSAFE = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


@dataclass
class PostgresServer:
    """A running cluster. `socket_dir` holds its socket; there is no TCP port."""

    socket_dir: Path
    _numbers: Iterator[int]

    def url(self, database: str) -> str:
        """SQLAlchemy's URL of one of its databases."""
        return f"postgresql+psycopg://{SUPERUSER}@/{database}?host={self.socket_dir}"

    def new_database(self, template: str = "template1") -> str:
        """Create a database, by default an empty one, and return its name."""
        name = f"radnode_{next(self._numbers)}"
        with self.connect() as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}".encode())
        return name

    def drop_database(self, name: str) -> None:
        """Remove one that is done with; whoever is still connected is thrown out."""
        with self.connect() as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())

    def connect(self) -> psycopg.Connection[tuple[object, ...]]:
        """A connection beside the node's, to the maintenance database; autocommit."""
        return psycopg.connect(host=str(self.socket_dir), user=SUPERUSER, dbname="postgres", autocommit=True)


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """Make a cluster, run it, remove it."""
    with cluster() as server, running_cluster(server):
        yield server


@contextmanager
def cluster() -> Iterator[PostgresServer]:
    """Make a cluster and remove it at the end. As root it belongs to the user `postgres`: PostgreSQL refuses root."""
    user = _user()
    # Not pytest's folder: that one is closed to other users, and too deep for a socket's path.
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    try:
        if user is not None:
            shutil.chown(folder, user, user)
        options = ("--username", SUPERUSER, "--auth", "trust", "--encoding", "UTF8", "--no-locale", "--no-sync")
        subprocess.run(
            [program("initdb", PACKAGE), "--pgdata", str(folder / "data"), *options],
            check=True,
            capture_output=True,
            cwd=folder,
            user=user,
            group=user,
            extra_groups=None if user is None else [],
        )
        yield PostgresServer(folder, count(1))
    finally:
        shutil.rmtree(folder)
        folder.with_suffix(".log").unlink(missing_ok=True)


@contextmanager
def running_cluster(server: PostgresServer, *, crash: bool = False, durable: bool = False) -> Iterator[None]:
    """Run a cluster that was made, as often as a test likes.

    crash: end it as if the power had gone (SIGQUIT, its immediate shutdown), so that it must recover at the next start.
    durable: as it comes, with every commit synced; for measurements.
    """
    folder = server.socket_dir
    settings = {"max_connections": "120", "listen_addresses": "", "unix_socket_directories": str(folder)}
    settings |= {} if durable else _UNSAFE
    argv = [program("postgres", PACKAGE), "-D", str(folder / "data")]
    for name, value in settings.items():
        argv += ["-c", f"{name}={value}"]
    # SIGINT is its fast shutdown: open connections are ended, not waited for.
    stop_signal = signal.SIGQUIT if crash else signal.SIGINT
    with running(argv, lambda: _answers(server), log=folder.with_suffix(".log"), user=_user(), stop_signal=stop_signal):
        yield


def _user() -> str | None:
    return SUPERUSER if os.geteuid() == 0 else None


def _answers(server: PostgresServer) -> bool:
    try:
        server.connect().close()
    except psycopg.OperationalError:
        return False
    return True
