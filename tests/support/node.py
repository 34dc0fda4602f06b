"""A whole node as a user runs it: `radnode serve` in a process group of its own, on free loopback ports."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import psutil

from db import listing
from db.session import Record
from node.settings import load
from tests.support.processes import POLL_S, eventually, free_port

START_TIMEOUT_S = 180.0
"""The first start on a machine compiles the model, with TensorFlow."""

SETTLED_INSTANCES = {"STORED", "ANALYSED", "NOT_ANALYSED", "FAILED", "QUARANTINED", "REFUSED", "CONFLICT", "CONTEXT"}
SETTLED_JOBS = {"DONE", "NOT_ANALYSED", "PARKED", "SUPERSEDED"}
SETTLED_DELIVERIES = {"CONFIRMED", "UNCONFIRMED", "DEAD"}

Row = dict[str, Any]


@dataclass
class Node:
    """Settings and, while it runs, the process of one node."""

    folder: Path
    extra_toml: str = ""
    ae_title: str = "RADNODE"
    env: dict[str, str] = field(default_factory=dict)
    dicom_port: int = field(default_factory=free_port)
    web_port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.write_settings(self.extra_toml)

    @property
    def config(self) -> Path:
        return self.folder / "radnode.toml"

    @property
    def data_dir(self) -> Path:
        return self.folder / "data"

    @property
    def log(self) -> Path:
        return self.folder / "radnode.log"

    def write_settings(self, extra_toml: str) -> None:
        """Top-level keys first: `extra_toml` begins with tables."""
        self.config.write_text(
            f'data_dir = "{self.data_dir}"\nae_title = "{self.ae_title}"\ndicom_port = {self.dicom_port}\n'
            f'web_port = {self.web_port}\nlog_format = "json"\n{extra_toml}\n'
        )

    def start(self) -> None:
        """Start it and wait until it says that it is ready."""
        before = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as output:
            self.process = self.spawn("serve", output=output)

        def ready(node: Node) -> bool:
            assert node.process is not None
            assert node.process.poll() is None, "the node ended"
            return b'"event": "ready"' in node.log.read_bytes()[before:]

        self.wait("the node is ready", ready, timeout_s=START_TIMEOUT_S, poll_s=POLL_S)

    def spawn(self, *arguments: str, output: IO[bytes]) -> subprocess.Popen[bytes]:
        """A `radnode` command with this node's settings, as a service: in a process group of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "node.cli.main", *arguments, "--config", str(self.config)],
            env={**os.environ, **self.env},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def stop(self) -> int:
        """SIGTERM, as a service manager does; returns the exit status."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.terminate()
        status = self.process.wait(90)
        self.process = None
        return status

    def kill(self) -> None:
        """kill -9 of the whole process group: a power cut for the processes, though not for the disk."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(30)
        self.process = None

    def wait_for_exit(self, timeout_s: float) -> int:
        """Its exit status. Raises TimeoutError when it still runs after that long."""
        assert self.process is not None
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            raise TimeoutError(f"it still runs after {timeout_s:g} s") from error

    def run(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """A `radnode` command with this node's settings."""
        done = subprocess.run(
            [sys.executable, "-m", "node.cli.main", *arguments, "--config", str(self.config)],
            env={**os.environ, **self.env},
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        assert not check or done.returncode == 0, f"{arguments}: {done.stderr}\n{self.tail()}"
        return done

    def json(self, *arguments: str) -> Any:
        """What a command with --json prints, which must be one JSON document and nothing else."""
        return json.loads(self.run(*arguments, "--json").stdout)

    @contextmanager
    def record(self) -> Iterator[Record]:
        record = Record(load(self.config).record_url, pool_size=2)
        try:
            yield record
        finally:
            record.close()

    def instances(self) -> list[Row]:
        return self._list(listing.instances)

    def jobs(self) -> list[Row]:
        return self._list(listing.jobs)

    def deliveries(self) -> list[Row]:
        return self._list(listing.deliveries)

    def _list(self, what: Callable[..., list[Row]]) -> list[Row]:
        with self.record() as record, record.read() as session:
            return what(session)

    def wait(self, what: str, probe: Callable[[Node], Any], *, timeout_s: float = 60.0, poll_s: float = 0.1) -> Any:
        """`probe`'s first truthy value; the log's end is shown when there is none."""
        try:
            return eventually(what, lambda: probe(self), timeout_s=timeout_s, poll_s=poll_s)
        except BaseException:
            sys.stderr.write(f"--- log of the node ---\n{self.tail()}\n")
            raise

    def wait_settled(self, instances: int, *, timeout_s: float = 120.0) -> None:
        """Until at least so many instances are known, and everything has come to its end."""

        def settled(node: Node) -> bool:
            rows = node.instances()
            return (
                len(rows) >= instances
                and all(row["state"] in SETTLED_INSTANCES for row in rows)
                and all(row["state"] in SETTLED_JOBS for row in node.jobs())
                and all(row["state"] in SETTLED_DELIVERIES for row in node.deliveries())
            )

        self.wait(f"{instances} instances are settled", settled, timeout_s=timeout_s)

    def child(self, name: str) -> psutil.Process:
        """The process of one part: listener, keeper, web, worker."""
        assert self.process is not None
        for process in psutil.Process(self.process.pid).children():
            if name in process.cmdline()[:5]:
                return process
        raise AssertionError(f"no child {name}")

    def peak_bytes(self, name: str) -> int:
        """The most memory a part has had resident since it was started (VmHWM of proc(5))."""
        status = Path(f"/proc/{self.child(name).pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024

    def get(self, path: str) -> tuple[int, str]:
        """(status, body) of an HTTP GET on the web side."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.web_port}{path}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def tail(self, characters: int = 6000) -> str:
        return self.log.read_text(errors="replace")[-characters:] if self.log.exists() else ""


def peer_toml(name: str, ae_title: str, port: int, **options: Any) -> str:
    """A [peers.NAME] table."""
    lines = [f"[peers.{name}]", f'ae_title = "{ae_title}"', 'host = "127.0.0.1"', f"port = {port}"]
    return "\n".join([*lines, *(f"{key} = {json.dumps(value)}" for key, value in options.items())]) + "\n"


@contextmanager
def running_node(folder: Path, extra_toml: str = "", **options: Any) -> Iterator[Node]:
    """A node that is stopped, and by force if need be, at the end."""
    node = Node(folder, extra_toml, **options)
    try:
        node.start()
        yield node
    finally:
        if node.process is not None:
            group = node.process.pid
            try:
                node.stop()
            except subprocess.TimeoutExpired:
                os.killpg(group, signal.SIGKILL)
                raise


@contextmanager
def part(node: Node, name: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """One of its parts as a service of its own, stopped by SIGTERM at the end."""
    with (node.folder / f"{name}.log").open("wb") as output:
        process = node.spawn(name, *arguments, output=output)
        try:
            yield process
        finally:
            process.terminate()
            process.wait(60)
