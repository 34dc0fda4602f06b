"""A Redis server of the tests' own, on a free loopback port, with nothing kept on disk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis

from tests.support.processes import free_port, program, running


@contextmanager
def redis_server(folder: Path, *, port: int | None = None) -> Iterator[str]:
    """Run it with its files in `folder` and give its URL. A fixed `port` lets a test bring it back after an outage."""
    port = port or free_port()
    url = f"redis://127.0.0.1:{port}/0"
    options = {"port": str(port), "bind": "127.0.0.1", "save": "", "appendonly": "no", "dir": str(folder)}
    argv = [program("redis-server", "redis-server")]
    for name, value in options.items():
        argv += [f"--{name}", value]
    folder.mkdir(parents=True, exist_ok=True)
    with running(argv, lambda: _answers(url), log=folder / "redis.log"):
        yield url


def _answers(url: str) -> bool:
    client = redis.Redis.from_url(url)
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False
    finally:
        client.close()
