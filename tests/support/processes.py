"""Real peers as child processes: find the program, start it, wait until it answers, stop it by its own pid."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest

T = TypeVar("T")
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 20.0
POLL_S = 0.02
FIRST_PORT = 10_000
"""Below are well-known ones."""


def program(name: str, package: str) -> str:
    """Absolute path of a peer's program; a test that lacks it fails and names the Debian package to install."""
    versioned = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), reverse=True)
    candidates = [*versioned, Path("/usr/sbin") / name]
    found = next((str(path) for path in candidates if path.exists()), None) or shutil.which(name)
    if found is None:
        pytest.fail(
            f"{name} is not installed; run `make peers`, or install the Debian package {package}", pytrace=False
        )
    return found


def free_port() -> int:
    """A TCP port on loopback for a server of this test: nobody has it now, and nobody else is given it.

    One the kernel chooses may be the local end of some client's connection before the server binds it, or while it is
    down: then the server never starts.
    """
    for port in _ports:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    pytest.fail("no port of those for servers is left")


def _server_ports() -> Iterator[int]:
    """Ports below those the kernel gives to clients, each once: every side of a parallel run (pytest-xdist) has its
    own, and two runs on one machine begin at different places.
    """
    below = max(int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0]), 2 * FIRST_PORT)
    side = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    ports = range(FIRST_PORT + side, below, int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))
    start = random.randrange(len(ports))
    return iter([*ports[start:], *ports[:start]])


_ports = _server_ports()


def listens(port: int) -> bool:
    """Whether something accepts connections on that loopback port."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def eventually(what: str, probe: Callable[[], T], *, timeout_s: float = 30.0, poll_s: float = POLL_S) -> T:
    """The first truthy value of `probe`; fails, naming `what`, when there is none within `timeout_s`.

    For other processes only, which offer no event to wait for.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        value = probe()
        if value:
            return value
        if time.monotonic() > deadline:
            pytest.fail(f"not within {timeout_s:g} s: {what}; last seen: {value!r}")
        time.sleep(poll_s)


@contextmanager
def running(
    argv: Sequence[str],
    ready: Callable[[], bool],
    *,
    log: Path,
    env: Mapping[str, str] | None = None,
    user: str | None = None,
    stop_signal: signal.Signals = signal.SIGTERM,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server until the block ends; both its outputs go to `log`.

    user: whom to become, for programs that refuse root. Should the test run be killed, the kernel ends the server too.
    """
    # setpriv execs the program, so the pid is the server's own.
    command = ["setpriv", "--pdeathsig", "KILL", "--", *argv]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=env,
            user=user,
            group=user,
            extra_groups=None if user is None else [],
        )
        try:
            _wait_ready(process, ready, argv[0], log)
            yield process
        finally:
            _stop(process, stop_signal)


def _wait_ready(process: subprocess.Popen[bytes], ready: Callable[[], bool], name: str, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not ready():
        if process.poll() is not None:
            pytest.fail(f"{name} ended with {process.returncode} while it started:\n{_tail(log)}", pytrace=False)
        if time.monotonic() > deadline:
            pytest.fail(f"{name} did not answer within {START_TIMEOUT_S:g} s:\n{_tail(log)}", pytrace=False)
        time.sleep(POLL_S)


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-4000:]


def _stop(process: subprocess.Popen[bytes], stop_signal: signal.Signals) -> None:
    if process.poll() is None:
        process.send_signal(stop_signal)
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
