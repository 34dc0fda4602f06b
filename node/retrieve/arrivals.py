"""Images that a peer sends to the listener because this node asked it to by C-MOVE: of priors, they are set apart.

They are known by the move originator of their C-STORE, which is this node (or the peer itself: some archives name
themselves), and by their study, which is on record as asked for. They never become images of this node's: nothing
routes them, and no model reads them by themselves.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import structlog

from db import priors
from db.errors import StorageFull
from db.session import Record
from db.types import utcnow
from node import storage
from node.header import Header
from node.incoming import IncomingFile
from node.retrieve.keeping import prior_file
from node.settings import Settings
from node.statuses import Status

log = structlog.get_logger(__name__)


def take_prior(settings: Settings, record: Record, header: Header, file: IncomingFile) -> Status | None:
    """Hold an image for those who wait for its study; the status to answer, or None where it is no prior.

    One that comes too late is refused and goes nowhere. Raises StorageFull, RecordUnavailable.
    """
    with record.read() as session:
        requests = priors.expected(session, header.study_instance_uid, utcnow())
    if requests is None:
        return None
    if not requests:
        log.warning("prior_came_too_late", sop_instance_uid=header.sop_instance_uid)
        return Status.PROCESSING_FAILURE
    # Here its writing ends. Held for several it is a file for each, as they go at different times.
    file.sync()
    kept = [
        _hold(settings, record, header, file, request_id, last=request_id == requests[-1]) for request_id in requests
    ]
    if not any(kept):
        log.warning("prior_not_held", sop_instance_uid=header.sop_instance_uid)
        return Status.PROCESSING_FAILURE
    log.info("prior_received", sop_instance_uid=header.sop_instance_uid, requests=sum(kept))
    return Status.SUCCESS


def _hold(
    settings: Settings, record: Record, header: Header, file: IncomingFile, request_id: int, *, last: bool
) -> bool:
    """False where nobody waits for it any more, or the request has as many as it may have."""
    identity = f"{request_id}:move:{header.sop_instance_uid}:{file.blake3}"
    relative = storage.derived_path(storage.PRIORS, identity)
    storage.adopt(settings.data_dir, file.path if last else _copy(file.path, request_id), relative)
    if last:
        file.moved()
    held = prior_file(header, relative.as_posix(), file.file_size, file.blake3)
    with record.write() as session:
        kept = priors.hold(session, request_id, held, most=settings.priors.max_images)
        named = kept or priors.is_held(session, request_id, held.path)
    if not named:
        storage.remove_stored(settings.data_dir, [held.path])
    return named


def _copy(path: Path, request_id: int) -> Path:
    target = path.with_suffix(f".{request_id}")
    try:
        shutil.copyfile(path, target)
    except OSError as error:
        target.unlink(missing_ok=True)
        raise StorageFull(f"{target} could not be written ({error.strerror}); check the disk") from error
    return target
