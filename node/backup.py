"""A copy of the record and of every file it names, of one moment, while the node runs.

Files do not change once they are there, so a second backup into the same folder copies only what is new. The record
comes first and its files after it: what a deletion takes away in between is found missing, and the record is copied
again, which no longer names it.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import structlog
from sqlalchemy.exc import SQLAlchemyError

from db import audit, files, schema
from db.errors import ConfigError, RetriableError, StorageFull
from db.files import NamedFile
from db.session import Record
from node.deletion import path_of_result
from node.record_check import KINDS
from node.settings import Settings

log = structlog.get_logger(__name__)

RECORD = "radnode.db"
MARK = "radnode-backup"
_TRIES = 3
# What a node makes anew, or what belongs to running processes.
_LEFT_OUT = {*KINDS, "incoming", "removing", "broker", "alive", "bells", "radnode.pid", "radnode.lock"}


@dataclass
class Copied:
    """files, size_bytes: copied now. kept: there already. missing: named by the record and not in the data folder."""

    record: str = ""
    schema: str = ""
    files: int = 0
    size_bytes: int = 0
    kept: int = 0
    removed: int = 0
    missing: list[NamedFile] = field(default_factory=list)


def back_up(settings: Settings, record: Record, target: Path, *, actor: str) -> Copied:
    """Copy into `target`, which is a new folder or holds an earlier backup; afterwards it holds this moment.

    The audit names the actor, who takes all patients' data with it. Of PostgreSQL only the files are copied: dump it
    first, with pg_dump. Raises ConfigError, StorageFull, RecordUnavailable.
    """
    _claim(settings, target)
    _note(record, target, actor)
    try:
        # The audit's anchors among them, before the record: what they tell of must be in it.
        _copy_rest(settings.data_dir, target)
        for _ in range(_TRIES):
            copied = _copy(settings, record, target)
            if not copied.missing:
                break
        # All of it at once: syncing file by file takes an hour for what this does in a minute.
        os.sync()
    except (OSError, shutil.Error) as error:
        kind = getattr(error, "strerror", None) or type(error).__name__
        raise StorageFull(f"the backup cannot be written to {target} ({kind}); check its disk") from error
    return copied


def _claim(settings: Settings, target: Path) -> None:
    if target.resolve().is_relative_to(settings.data_dir.resolve()):
        raise ConfigError(f"{target} lies in the data folder; name one elsewhere, best on another disk")
    try:
        target.mkdir(parents=True, exist_ok=True, mode=0o700)
        known = {MARK, RECORD, "radnode.dump"}
        if not (target / MARK).exists() and {path.name for path in target.iterdir()} - known:
            raise ConfigError(f"{target} holds other things than a backup; name a new folder")
        (target / MARK).touch()
    except OSError as error:
        raise StorageFull(f"{target} cannot be used ({error.strerror}); check its disk") from error


def _note(record: Record, target: Path, actor: str) -> None:
    """First, for what is copied is out even if the rest fails. A full disk is no time to go without a backup."""
    try:
        with record.write() as session:
            audit.note(session, "study_exported", actor=actor, destination=str(target.absolute()), studies="all")
    except (RetriableError, SQLAlchemyError) as error:
        log.error("export_not_recorded", cause=type(error).__name__)


def _copy(settings: Settings, record: Record, target: Path) -> Copied:
    copied = Copied(schema=schema.current(record) or "")
    if record.dialect == "sqlite":
        copied.record = RECORD
        snapshot = _copy_record(Path(str(record.url.database)), target)
        try:
            _copy_files(snapshot, settings.data_dir, target, copied)
        finally:
            snapshot.close()
            for name in (f"{RECORD}-wal", f"{RECORD}-shm"):
                (target / name).unlink(missing_ok=True)
    else:
        _copy_files(record, settings.data_dir, target, copied)
    return copied


def _copy_record(source: Path, target: Path) -> Record:
    """A whole database of one moment, whatever is written meanwhile."""
    partial = target / f"{RECORD}.partial"
    partial.unlink(missing_ok=True)
    # Its own rights, whatever those of the folder: an empty file is written into.
    partial.touch(mode=0o600)
    connection = sqlite3.connect(source, isolation_level=None)
    try:
        connection.execute("VACUUM INTO ?", (str(partial),))
    except sqlite3.Error as error:
        raise StorageFull(
            f"the record could not be copied to {partial} ({type(error).__name__}); see its disk"
        ) from error
    finally:
        connection.close()
    partial.replace(target / RECORD)
    return Record(f"sqlite:///{(target / RECORD).resolve()}")


def _copy_files(record: Record, data_dir: Path, target: Path, copied: Copied) -> None:
    named: set[str] = set()
    with record.read() as session:
        for one in files.named_files(session):
            named.add(one.path)
            _copy_one(data_dir, target, one, copied)
        others = {path_of_result(uid) for uid in files.sent_under_own_uid(session)}
    for path in sorted(others - named):
        # Made again from the report itself where it is not there.
        if (data_dir / path).is_file():
            _copy_one(data_dir, target, NamedFile("result", "", path, 0, ""), copied)
    for kept in _stored(target):
        relative = kept.relative_to(target).as_posix()
        if relative not in named and relative not in others:
            kept.unlink()
            copied.removed += 1


def _copy_one(data_dir: Path, target: Path, one: NamedFile, copied: Copied) -> None:
    source, goal = data_dir / one.path, target / one.path
    try:
        size = source.stat().st_size
        if goal.is_file() and goal.stat().st_size == size:
            copied.kept += 1
            return
        goal.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        partial = goal.with_suffix(".partial")
        shutil.copy2(source, partial)
        partial.replace(goal)
    except FileNotFoundError:
        copied.missing.append(one)
        return
    copied.files += 1
    copied.size_bytes += size


def _stored(folder: Path) -> Iterator[Path]:
    for kind in KINDS:
        yield from (path for path in sorted((folder / kind).rglob("*")) if path.is_file())


def _copy_rest(data_dir: Path, target: Path) -> None:
    """Installed models, trusted keys, anchors: whatever else lies in the data folder."""
    if not data_dir.is_dir():
        return
    for path in sorted(data_dir.iterdir()):
        if path.name in _LEFT_OUT or path.name.startswith(RECORD):
            continue
        if path.is_dir():
            shutil.copytree(path, target / path.name, dirs_exist_ok=True)
        elif path.is_file():
            shutil.copy2(path, target / path.name)
