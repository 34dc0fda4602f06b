"""`radnode serve`: the node on one machine, as a handful of processes.

The listener, the keeper (sweeper, relay, upkeep), the web side and, where no broker is configured, an embedded broker
and the workers are separate processes, so that a decoder that dies takes nothing else with it. Each is a command of its
own, so that a hospital can run them on different machines; nothing is passed between them but settings and the record.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import structlog

from db import deliveries, jobs, schema
from db.errors import ConfigError
from db.session import Record
from node.audit import activity
from node.broker import start_broker
from node.identity import owner_prefix
from node.processes import Child, stop_all, supervise
from node.settings import Settings

log = structlog.get_logger(__name__)

# Workers get the time to finish what they hold.
STOP_GRACE_S = {"listener": 10.0, "hl7": 10.0, "worker": 30.0, "keeper": 10.0, "web": 5.0}


def serve(settings: Settings, config_file: Path | None) -> None:
    """Run the node until SIGTERM or SIGINT. Raises ConfigError when another node uses the data folder,
    BrokerUnavailable where the embedded broker cannot be started.
    """
    stopping = _Stop()
    with _data_folder(settings):
        _prepare_record(settings)
        with activity.on_record(settings, "node"):
            children = _children(settings, config_file)
            # Senders wait for the listener: it is on its way while the broker starts, and the others come after it.
            children[0].start()
            broker = None
            try:
                broker = start_broker(settings) if settings.embedded_broker else None
                supervise([*([broker] if broker else []), *children], stopping, lambda: _announce(settings))
            finally:
                _stop(children, broker)


def command(name: str, config_file: Path | None) -> list[str]:
    """The argv of another command of this installation."""
    argv = [sys.executable, "-P", "-m", "node.cli.main", *name.split()]
    return [*argv, "--config", str(config_file)] if config_file else argv


def _children(settings: Settings, config_file: Path | None) -> list[Child]:
    listener = Child("listener", command("listener", config_file), reports_ready=True)
    children = [listener]
    for name in ("keeper", "web"):
        children.append(Child(name, command(name, config_file), reports_ready=True, after=listener))
    if settings.hl7.listener.enabled:
        children.append(Child("hl7", command("hl7 listen", config_file), reports_ready=True, after=listener))
    if settings.embedded_broker:
        # With a broker of its own the node is alone on this machine; a hospital starts `radnode worker` where its GPUs
        # are.
        children.append(Child("worker", command("worker", config_file), after=listener))
    return children


def _announce(settings: Settings) -> None:
    log.info(
        "ready",
        dicom=f"{settings.ae_title}@{settings.dicom_host}:{settings.dicom_port}",
        web=settings.web.url(settings.web_host, settings.web_port),
        data_dir=str(settings.data_dir),
    )


def _stop(children: list[Child], broker: Child | None) -> None:
    stop_all([(child, STOP_GRACE_S[child.name]) for child in children])
    # Last: the others still talk to it while they end.
    if broker is not None:
        broker.stop(5.0)
    log.info("stopped")


class _Stop:
    """True once SIGTERM or SIGINT has come."""

    def __init__(self) -> None:
        self.set = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.set = True

    def __call__(self) -> bool:
        return self.set


@contextmanager
def _data_folder(settings: Settings) -> Iterator[None]:
    """Own the data folder: two nodes in one would hand each other's work back."""
    settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (settings.data_dir / "radnode.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                f"another node uses {settings.data_dir}; stop it, or set RADNODE_DATA_DIR to another folder"
            ) from error
        pid_file = settings.data_dir / "radnode.pid"
        pid_file.write_text(f"{os.getpid()}\n")
        try:
            yield
        finally:
            pid_file.unlink(missing_ok=True)


def _prepare_record(settings: Settings) -> None:
    """Bring the record to this release, and free what the processes of an earlier run held when they were killed."""
    record = Record(settings.record_url)
    try:
        schema.upgrade(record)
        if settings.embedded_broker:
            # Only then all workers of this place were children of the run before, and are gone with it.
            _release(settings, record)
    finally:
        record.close()


def _release(settings: Settings, record: Record) -> None:
    prefix = owner_prefix(settings)
    with record.write() as session:
        freed = jobs.release(session, prefix)
        sends = deliveries.release(session, prefix)
    if freed or sends:
        log.info("released_after_restart", jobs=freed, deliveries=sends)
