"""The receivers that are compared, each as a context: this node's listener, Orthanc, DCMTK's storescp, pynetdicom's."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from db import schema
from db.session import Record
from tests.support.listening import running
from tests.support.orthanc import orthanc
from tests.support.processes import free_port, listens, program
from tests.support.processes import running as process

PDU_BYTES = "131072"
# Neither DCMTK nor Debian's Orthanc switches Nagle's algorithm off by itself: 45 ms an image.
ENVIRONMENT = {**os.environ, "TCP_NODELAY": "1"}


@dataclass(frozen=True)
class Server:
    port: int
    pid: int


Receiver = Callable[[Path], AbstractContextManager[Server]]


@contextmanager
def _node(folder: Path) -> Iterator[Server]:
    (folder / "data").mkdir(parents=True)
    # As `radnode db upgrade` does it: what that needs is not in the listener's memory.
    record = Record(f"sqlite:///{folder / 'data' / 'radnode.db'}")
    schema.upgrade(record)
    record.close()
    with running(folder, os.environ.get("BENCH_TOML", "")) as listener:
        yield Server(listener.port, listener.process.pid)


@contextmanager
def _orthanc(folder: Path) -> Iterator[Server]:
    with orthanc(folder, options={"MaximumPduLength": int(PDU_BYTES), "LimitFindResults": 0}) as server:
        yield Server(server.dicom_port, _listening(server.dicom_port))


@contextmanager
def _storescp(folder: Path) -> Iterator[Server]:
    port = free_port()
    folder.mkdir(parents=True)
    argv = [program("storescp", "dcmtk"), "--fork", "+B", "-pdu", PDU_BYTES, "-od", str(folder), "+xa", str(port)]
    with process(argv, lambda: listens(port), log=folder.with_suffix(".log"), env=ENVIRONMENT) as server:
        yield Server(port, server.pid)


@contextmanager
def _pynetdicom(folder: Path) -> Iterator[Server]:
    port = free_port()
    folder.mkdir(parents=True)
    argv = [sys.executable, "-m", "pynetdicom", "storescp", str(port), "-od", str(folder), "--max-pdu", PDU_BYTES, "-q"]
    with process(argv, lambda: listens(port), log=folder.with_suffix(".log"), env=ENVIRONMENT) as server:
        yield Server(port, server.pid)


RECEIVERS: dict[str, Receiver] = {
    "radnode": _node,
    "Orthanc": _orthanc,
    "storescp": _storescp,
    "pynetdicom": _pynetdicom,
}


def _listening(port: int) -> int:
    connections = psutil.net_connections("tcp")
    return next(c.pid for c in connections if c.laddr and c.laddr.port == port and c.pid is not None)
