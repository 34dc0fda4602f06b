"""Files below the data folder that the record does not name, and has not for a long time.

They come of images that were made durable and could not be recorded, so that their sender was told to try again and
did not. A folder at each look, so that a look costs little however many files there are.

A record that is younger than a file is not the one that file belongs to: an empty database that somebody has named by
mistake lets nothing go.

The same image may come again in the very moment in which its old file is removed, and be recorded under the same name.
So a file is first moved aside, looked at again, and put back where it is another than the one that was judged.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import structlog
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info

from db import audit, retention
from db.errors import StorageFull
from db.session import Record
from node import storage
from node.commitment import MALFORMED
from node.settings import Settings

log = structlog.get_logger(__name__)

_ASIDE = "removing"
_KINDS = (storage.INSTANCES, storage.RESULTS, storage.QUARANTINE, storage.PRIORS)


class Orphans:
    """Looks at one folder after the other, for as long as it is asked to."""

    def __init__(self, settings: Settings, record: Record) -> None:
        self.settings = settings
        self.record = record
        self._folders: Iterator[Path] = iter(())

    def look_at_next(self, before: datetime) -> int:
        """Remove what lies in the next folder, was written before that moment and has no row; returns how many files.

        Raises RecordUnavailable, StorageFull.
        """
        folder = next(self._folders, None)
        try:
            self._put_back(before)
            if folder is None:
                self._folders = iter(sorted(_folders(self.settings.data_dir)))
                return 0
            old = _old_files(folder, self._begins(before), before)
            gone = [uids for path in old if (uids := self._remove(path, before)) is not None]
            if gone:
                storage.sync_folder(folder)
        except OSError as error:
            raise StorageFull(
                f"files below {self.settings.data_dir} cannot be looked at ({error.strerror}); check the disk"
            ) from error
        if gone:
            with self.record.write() as session:
                audit.note(
                    session,
                    "instances_deleted",
                    actor="retention",
                    what="orphans",
                    reason="the record does not name them",
                    files=len(gone),
                    sop_classes=audit.count_by_class(gone),
                )
            log.warning("orphans_removed", files=len(gone))
        return len(gone)

    def _begins(self, before: datetime) -> datetime:
        with self.record.read() as session:
            return retention.first_received(session) or before

    def _remove(self, path: Path, before: datetime) -> tuple[str, str] | None:
        """The SOP class and instance of a file that was removed; None for one that stays."""
        uids = _uids(path)
        if uids is None or self._named(path, uids[1]):
            return None
        aside = self._aside() / path.name
        try:
            path.rename(aside)
            if aside.stat().st_mtime >= before.timestamp() or self._settled(path, uids[1]):
                _back(aside, path)
                return None
            aside.unlink()
        except FileNotFoundError:
            # Another keeper was at the same folder.
            return None
        return uids

    def _put_back(self, before: datetime) -> None:
        """What a killed process had moved aside. A young file stays: its row may be about to be written."""
        folder = self.settings.data_dir / _ASIDE
        if not folder.is_dir():
            return
        for aside in sorted(folder.iterdir()):
            uids = _uids(aside)
            if uids is None:
                continue
            places = [self.settings.data_dir / kind / aside.name[:2] / aside.name for kind in _KINDS]
            named = next((path for path in places if self._named(path, uids[1])), None)
            # Where it is not there any more its owner lives, and has done the same.
            with suppress(FileNotFoundError):
                if named is not None:
                    _back(aside, named)
                elif aside.stat().st_mtime < before.timestamp():
                    aside.unlink()

    def _settled(self, path: Path, sop_instance_uid: str) -> bool:
        """`_named`, once whoever is writing has ended: a clock that is wrong makes a file old that has just come.

        SQLite has one writer at a time; on PostgreSQL a row in the middle of its commit is not seen.
        """
        relative = path.relative_to(self.settings.data_dir).as_posix()
        with self.record.write() as session:
            return retention.is_named(session, relative, sop_instance_uid)

    def _named(self, path: Path, sop_instance_uid: str) -> bool:
        relative = path.relative_to(self.settings.data_dir).as_posix()
        with self.record.read() as session:
            return retention.is_named(session, relative, sop_instance_uid)

    def _aside(self) -> Path:
        folder = self.settings.data_dir / _ASIDE
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder


def _back(aside: Path, path: Path) -> None:
    # Where there is one it has come again meanwhile: the same bytes.
    with suppress(FileExistsError):
        os.link(aside, path)
    storage.sync_folder(path.parent)
    aside.unlink()


def _folders(data_dir: Path) -> list[Path]:
    return [path for kind in _KINDS for path in (data_dir / kind).glob("*") if path.is_dir()]


def _old_files(folder: Path, since: datetime, before: datetime) -> list[Path]:
    """What was written between the two moments."""
    begins, ends, found = since.timestamp(), before.timestamp(), []
    for entry in os.scandir(folder):
        try:
            if entry.is_file() and begins <= entry.stat().st_mtime < ends:
                found.append(Path(entry.path))
        except FileNotFoundError:
            # Deleted between two looks.
            continue
    return sorted(found)


def _uids(path: Path) -> tuple[str, str] | None:
    """SOP class and instance of a file by its meta information, which this node wrote; None where it cannot be read."""
    try:
        meta = read_file_meta_info(path)
        return str(meta.MediaStorageSOPClassUID), str(meta.MediaStorageSOPInstanceUID)
    except FileNotFoundError:
        return None
    except (*MALFORMED, InvalidDicomError, EOFError):
        # It may be one that the record names, damaged: nobody but a person removes it.
        log.warning("stored_file_unreadable", file=path.name)
        return None
