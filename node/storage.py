"""Files below the data folder: durable before they are named, and named by the node alone.

What is adopted has survived a power cut once the call returns: the file is synced, renamed, and its folder synced.
"""

from __future__ import annotations

import hashlib
import os
import re
import uuid
from collections.abc import Iterable
from pathlib import Path

from db.errors import StorageFull
from node.settings import Settings

INCOMING = "incoming"
INSTANCES = "instances"
RESULTS = "results"
QUARANTINE = "quarantine"
PRIORS = "priors"
_STORED = frozenset({INSTANCES, RESULTS, QUARANTINE, PRIORS})

_ABANDONED_AFTER_S = 3600.0
_KIND = re.compile(r"[a-z]{1,32}")


def require_room(settings: Settings) -> None:
    """Raise StorageFull when less than `limits.min_free_bytes` is free, or the data folder cannot be used."""
    folder = settings.data_dir
    try:
        free = _free_bytes(folder)
    except OSError as error:
        raise StorageFull(f"the data folder {folder} cannot be used ({error.strerror}); check its disk") from error
    if free < settings.limits.min_free_bytes:
        raise StorageFull(
            f"{free} bytes are free below {folder}, less than limits.min_free_bytes = "
            f"{settings.limits.min_free_bytes}; make room"
        )


def _free_bytes(folder: Path) -> int:
    try:
        found = os.statvfs(folder)
    except FileNotFoundError:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def derived_path(kind: str, identity: str) -> Path:
    """A relative path for an object, from the SHA-256 of its identity: no character of it is a peer's.

    kind: one of the folder names above. Some 256 folders keep each of them small; more levels would cost more syncs.
    """
    if _KIND.fullmatch(kind) is None:
        raise ValueError("a kind of object is a short lower-case word")
    name = hashlib.sha256(identity.encode("utf-8", "surrogatepass")).hexdigest()
    return Path(kind) / name[:2] / f"{name}.dcm"


def adopt(data_dir: Path, temp: Path, relative: Path) -> Path:
    """Make a finished file durable at `relative` below the data folder; returns the absolute path.

    `temp` must lie on the same file system. What is already there is replaced at once or not at all. Raises
    StorageFull where the disk does not take it.
    """
    target = data_dir / relative
    try:
        _make_folders(data_dir, target.parent)
        _sync(temp)
        temp.replace(target)
        _sync(target.parent)
    except OSError as error:
        raise _not_durable(target, error) from error
    return target


def adopt_synced(data_dir: Path, temp: Path, relative: Path) -> None:
    """`adopt` for a file that is synced already. Raises StorageFull."""
    target = data_dir / relative
    folder = target.parent
    try:
        try:
            temp.replace(target)
        except FileNotFoundError:
            # The folder is not there, or the file is not: then the second try says so.
            _make_folders(data_dir, folder)
            temp.replace(target)
        _sync(folder)
    except OSError as error:
        raise _not_durable(target, error) from error


def _not_durable(path: Path, error: OSError) -> StorageFull:
    return StorageFull(f"{path} could not be made durable ({error.strerror}); check the disk")


def store_bytes(data_dir: Path, relative: Path, data: bytes) -> Path:
    """Write bytes durably at `relative` below the data folder. Raises StorageFull."""
    incoming = incoming_dir(data_dir)
    temp = incoming / f"{uuid.uuid4().hex}.tmp"
    try:
        temp.write_bytes(data)
    except OSError as error:
        temp.unlink(missing_ok=True)
        raise StorageFull(f"{temp} could not be written ({error.strerror}); check the disk") from error
    return adopt(data_dir, temp, relative)


def quarantine(data_dir: Path, temp: Path, identity: str) -> Path:
    """Set a file aside durably for a person; returns its path relative to the data folder.

    Where another thread has set the same file aside meanwhile, it is there, and that is all that was wanted.
    """
    relative = derived_path(QUARANTINE, identity)
    try:
        adopt(data_dir, temp, relative)
    except StorageFull as error:
        target = data_dir / relative
        if not isinstance(error.__cause__, FileNotFoundError) or not target.exists():
            raise
        _sync(target.parent)
    return relative


def incoming_dir(data_dir: Path, owner: str = "written") -> Path:
    """Where unfinished files of `owner` live; made when it is not there. Raises StorageFull."""
    folder = data_dir / INCOMING / owner
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise StorageFull(f"{folder} cannot be made ({error.strerror}); check the disk") from error
    return folder


def make_folders(data_dir: Path) -> None:
    """Make the folders of received images at once, so that no image pays for its own. Raises StorageFull."""
    parent = data_dir / INSTANCES
    try:
        _make_folders(data_dir, parent)
        for number in range(256):
            (parent / f"{number:02x}").mkdir(mode=0o700, exist_ok=True)
        _sync(parent)
    except OSError as error:
        raise _not_durable(parent, error) from error


def unfinished(data_dir: Path, own: Path, now: float) -> list[Path]:
    """What nobody will finish any more, and nobody was told Success for.

    own: the folder of a caller that has no file open in it. In the others live workers and other listeners write,
    wherever they run; there only what has not been written to for an hour counts. now: seconds since the epoch.
    """
    found = []
    for path in (data_dir / INCOMING).rglob("*"):
        try:
            if path.is_file() and (path.parent == own or now - path.stat().st_mtime > _ABANDONED_AFTER_S):
                found.append(path)
        except FileNotFoundError:
            # Finished by its owner between two looks.
            continue
    return found


def remove(files: Iterable[Path]) -> int:
    """Remove files, where they are still there; returns how many were given."""
    count = 0
    for file in files:
        file.unlink(missing_ok=True)
        count += 1
    return count


def sync_folder(folder: Path) -> None:
    """What was moved into it or out of it survives a power cut. Raises OSError."""
    _sync(folder)


def remove_stored(data_dir: Path, paths: Iterable[str]) -> int:
    """Remove stored files for good: gone once this returns, after a power cut too. Returns how many were there.

    paths: relative to the data folder, as the record has them. Raises StorageFull where the disk does not let one go.
    """
    count = 0
    folders: set[Path] = set()
    try:
        for relative in paths:
            target = data_dir / _of_a_kind(relative)
            if target.parent.is_dir():
                folders.add(target.parent)
                count += target.exists()
                target.unlink(missing_ok=True)
        for folder in sorted(folders):
            _sync(folder)
    except OSError as error:
        raise StorageFull(
            f"a stored file below {data_dir} cannot be removed ({error.strerror}); check the disk"
        ) from error
    return count


def _of_a_kind(relative: str) -> Path:
    path = Path(relative)
    if path.is_absolute() or ".." in path.parts or next(iter(path.parts), "") not in _STORED:
        raise ValueError("a stored file lies in one of the folders of stored files")
    return path


def _make_folders(data_dir: Path, folder: Path) -> None:
    """Like mkdir -p, but each new entry is synced: a folder lost in a power cut takes its files with it."""
    missing = []
    while folder != data_dir and not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for new in reversed(missing):
        new.mkdir(mode=0o700, exist_ok=True, parents=True)
        _sync(new.parent)


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
