"""The listener process: receives until told to stop."""

from __future__ import annotations

import gc
import hashlib
import threading
import time
from collections.abc import Callable

import structlog

from db.session import Record
from node import logs, scp, storage
from node.handlers import Handlers
from node.identity import owner_prefix
from node.settings import Settings

log = structlog.get_logger(__name__)


def run_listener(settings: Settings, record: Record, stop: threading.Event, ready: Callable[[], None]) -> None:
    """Serve C-ECHO, C-STORE and commitment reports until `stop` is set; `ready` is called once associations are taken.

    Raises ConfigError where the address cannot be bound or TLS files are wrong, StorageFull where the data folder
    cannot be used.
    """
    threading.excepthook = logs.tell_thread_failed
    name = listener_name(settings)
    incoming = storage.incoming_dir(settings.data_dir, name).resolve()
    storage.make_folders(settings.data_dir)
    left = storage.unfinished(settings.data_dir.resolve(), incoming, time.time())
    handlers = Handlers(settings, record, name)
    server = scp.start(settings, handlers)
    # Only now: had another listener this address, its files would be among them.
    if left:
        log.info("unfinished_removed", files=storage.remove(left))
    # What has been loaded stays: the collector need not look at it again with every thousandth object.
    gc.collect()
    gc.freeze()
    log.info("listening", ae_title=settings.ae_title, host=settings.dicom_host, port=settings.dicom_port)
    ready()
    stop.wait()
    server.stop()
    handlers.close()


def listener_name(settings: Settings) -> str:
    """The same for each run of one listener, another for every other one on the same data folder."""
    place = f"{owner_prefix(settings)}{settings.dicom_host}:{settings.dicom_port}"
    return f"listener-{hashlib.sha256(place.encode()).hexdigest()[:16]}"
