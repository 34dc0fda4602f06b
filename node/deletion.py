"""Carrying deletions out: what the record says is going is removed, and then closed."""

from __future__ import annotations

import time
from itertools import islice

import structlog

from db import deletions
from db.deletions import Going
from db.errors import RetriableError, StorageFull
from db.session import Record
from node import storage
from node.settings import Settings

log = structlog.get_logger(__name__)

# A deletion is given to another only long after its holder has stopped to touch files.
LEASE_S = 600.0
_WORK_S = 200.0
_AGAIN_S = 60.0
_AT_ONCE = 200


def path_of_result(sop_instance_uid: str) -> str:
    """Where the object of that UID lies that this node made."""
    return storage.derived_path(storage.RESULTS, sop_instance_uid).as_posix()


def carry_out(settings: Settings, record: Record, owner: str) -> int:
    """Go on with every deletion that nobody is at; returns how many came to their end. Raises RecordUnavailable.

    One whose files cannot be removed waits, and holds up no other.
    """
    done = 0
    while True:
        with record.read() as session:
            if not deletions.any_open(session):
                return done
        with record.write() as session:
            going = deletions.claim(session, owner, lease_s=LEASE_S)
        if going is None:
            return done
        done += _carry_out(settings, record, owner, going)


def _carry_out(settings: Settings, record: Record, owner: str, going: Going) -> bool:
    try:
        count = _remove(settings, going)
    except RetriableError as error:
        log.error("deletion_postponed", deletion=going.id, reason=str(error))
        with record.write() as session:
            deletions.postpone(session, going.id, owner, wait_s=_AGAIN_S)
        return False
    with record.write() as session:
        finished = deletions.finish(session, going.id, owner)
    if finished:
        log.info(
            "files_deleted",
            what=going.scope.value,
            study_instance_uid=going.study_instance_uid,
            files=count,
            bytes=going.size_bytes,
        )
    return finished


def _remove(settings: Settings, going: Going) -> int:
    """Removes files for as long as nobody else can have the deletion. Raises StorageFull."""
    if not settings.data_dir.is_dir():
        raise StorageFull(f"the data folder {settings.data_dir} is not there; mount it")
    until = time.monotonic() + _WORK_S
    # By folder, each of which is synced for every batch that has files in it: receiving waits for the same disk.
    paths, count = iter(sorted(going.paths)), 0
    while batch := list(islice(paths, _AT_ONCE)):
        if time.monotonic() > until:
            raise StorageFull(f"removing {len(going.paths)} files took more than {_WORK_S:.0f} s; it goes on later")
        count += storage.remove_stored(settings.data_dir, batch)
    return count
