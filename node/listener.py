"""The listener process: receives until told to stop."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable

import structlog

from db.session import Record
from node import scp, storage
from node.handlers import Handlers
from node.settings import Settings

log = structlog.get_logger(__name__)


def run_listener(settings: Settings, record: Record, stop: threading.Event, ready: Callable[[], None]) -> None:
    """Serve C-ECHO, C-STORE and commitment reports until `stop` is set; `ready` is called once associations are taken.

    Raises ConfigError where the address cannot be bound or TLS files are wrong, StorageFull where the data folder
    cannot be used.
    """
    removed = storage.clean_incoming(settings.data_dir)
    if removed:
        log.info("unfinished_removed", files=removed)
    # pynetdicom writes data sets as they come to a named temporary file: on the data folder's own file system, so
    # that taking them is a rename.
    tempfile.tempdir = str(storage.incoming_dir(settings.data_dir).resolve())
    server = scp.start(settings, Handlers(settings, record))
    log.info("listening", ae_title=settings.ae_title, host=settings.dicom_host, port=settings.dicom_port)
    ready()
    stop.wait()
    scp.stop(server)
