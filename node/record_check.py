"""Holding the record against the data folder: which files are missing, damaged, or known to nobody."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from db import files
from db.errors import StorageFull
from db.files import NamedFile
from db.session import Record
from node import storage
from node.deletion import path_of_result
from node.digests import Algorithm, digest_of

KINDS = (storage.INSTANCES, storage.RESULTS, storage.QUARANTINE)
# An image has its name a moment before its row.
_YOUNG_S = 60.0


@dataclass
class Comparison:
    """missing: named by the record, not there. damaged: of another size or digest. orphans: there, and named by no row
    (paths relative to the data folder). going: files that are being deleted.
    """

    named: int = 0
    missing: list[NamedFile] = field(default_factory=list)
    damaged: list[NamedFile] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)
    going: int = 0


def compare(record: Record, data_dir: Path, *, digests: bool = False) -> Comparison:
    """Look at every file that the record names, and at every file there is. May run beside a node.

    digests: read each file and compute its digest. Raises RecordUnavailable, StorageFull.
    """
    found = Comparison()
    there = dict(_files(data_dir))
    known: set[str] = set()
    with record.read() as session:
        going = files.going_files(session)
        for named in files.named_files(session):
            found.named += 1
            known.add(named.path)
            if not (data_dir / named.path).is_file():
                found.missing.append(named)
            elif _differs(data_dir / named.path, named, digests):
                found.damaged.append(named)
        known.update(path_of_result(uid) for uid in files.sent_under_own_uid(session))
    found.going = len(going)
    young = time.time() - _YOUNG_S
    found.orphans = sorted(
        path for path, modified in there.items() if path not in known and path not in going and modified < young
    )
    return found


def _files(data_dir: Path) -> Iterator[tuple[str, float]]:
    """Stored files with when they were written, in seconds since the epoch."""
    for kind in KINDS:
        for path in (data_dir / kind).rglob("*"):
            try:
                if path.is_file():
                    yield path.relative_to(data_dir).as_posix(), path.stat().st_mtime
            except FileNotFoundError:
                # Deleted between two looks.
                continue


def _differs(path: Path, named: NamedFile, digests: bool) -> bool:
    try:
        if named.size_bytes and path.stat().st_size != named.size_bytes:
            return True
        if not digests:
            return False
        known: dict[Algorithm, str] = {"blake3": named.blake3, "sha256": named.sha256}
        whole = named.kind == "result"
        return any(digest and digest_of(path, algorithm, whole=whole) != digest for algorithm, digest in known.items())
    except OSError as error:
        raise StorageFull(f"{path} cannot be read ({error.strerror}); check the disk") from error
