"""A data set on its way to the disk: a DICOM file that grows with the bytes as they come (PS3.10 section 7)."""

from __future__ import annotations

import os
import struct
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from blake3 import blake3
from pynetdicom import PYNETDICOM_IMPLEMENTATION_UID, PYNETDICOM_IMPLEMENTATION_VERSION

from db.errors import StorageFull
from node import storage
from node.settings import Settings

_START_EVERY_BYTES = 1 << 18
# A long data set is weighed against the free disk again after so many bytes.
_LOOK_EVERY_BYTES = 64 << 20
# Not every system has it.
_ADVISE: Callable[[int, int, int, int], None] | None = getattr(os, "posix_fadvise", None)


class IncomingFile:
    """A temporary file with preamble, meta information and what is written to it; gone at the end of the ``with``
    block unless it was moved away.

    size: of the data set, in bytes. Raises StorageFull wherever the disk does not take it.
    """

    def __init__(self, folder: Path, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> None:
        self.path = folder / f"{uuid.uuid4().hex}.dcm"
        self.size = 0
        self._on_its_way = 0
        self._moved = False
        self._blake3 = blake3()
        try:
            self._fd = _create(self.path)
        except OSError as error:
            raise StorageFull(f"its data set could not be written ({error.strerror}); check the disk") from error
        self._open = True
        meta = _meta(sop_class_uid, sop_instance_uid, transfer_syntax_uid)
        self._meta_size = len(meta)
        self._put(meta)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._close()
        if not self._moved:
            self.path.unlink(missing_ok=True)

    @property
    def blake3(self) -> str:
        """Of the data set's bytes so far, in hexadecimal digits: as hard to forge as SHA-256, at a fifth the cost."""
        return self._blake3.hexdigest()

    @property
    def file_size(self) -> int:
        """In bytes, meta information included."""
        return self.size + self._meta_size

    def write(self, data: bytes | memoryview) -> None:
        """Append to the data set."""
        self._put(data)
        self._blake3.update(data)
        self.size += len(data)
        if self.size - self._on_its_way >= _START_EVERY_BYTES:
            self._start_writing()

    def sync(self) -> None:
        """Close it; on return its bytes survive a power cut."""
        try:
            os.fsync(self._fd)
        except OSError as error:
            raise StorageFull(f"its data set could not be synced ({error.strerror}); check the disk") from error
        self._close()

    def moved(self) -> None:
        """Nothing is left at its path to be removed."""
        self._moved = True

    def _start_writing(self) -> None:
        """Have the system begin with what is dirty, so that the last sync finds little to wait for.

        Linux starts writing on this advice; the pages stay in memory for the worker until they are clean and wanted
        elsewhere. A hint: whether it is heard is nobody's business.
        """
        if _ADVISE is not None:
            with suppress(OSError):
                _ADVISE(self._fd, self._on_its_way, self.size - self._on_its_way, os.POSIX_FADV_DONTNEED)
        self._on_its_way = self.size

    def _put(self, data: bytes | memoryview) -> None:
        try:
            written = os.write(self._fd, data)
            while written < len(data):
                written += os.write(self._fd, data[written:])
        except OSError as error:
            raise StorageFull(f"its data set could not be written ({error.strerror}); check the disk") from error

    def _close(self) -> None:
        if self._open:
            self._open = False
            os.close(self._fd)


def written(settings: Settings, file: IncomingFile, pieces: Iterable[memoryview]) -> Iterator[memoryview]:
    """The pieces, each in the file before it is handed on. Raises StorageFull, also where room gets short meanwhile."""
    look_at = _LOOK_EVERY_BYTES
    for piece in pieces:
        file.write(piece)
        if file.size > look_at:
            storage.require_room(settings)
            look_at += _LOOK_EVERY_BYTES
        yield piece


def _create(path: Path) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    try:
        return os.open(path, flags, 0o600)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        return os.open(path, flags, 0o600)


def _meta(sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> bytes:
    """Preamble, prefix and file meta information; in explicit VR little endian."""
    elements = b"".join(
        (
            struct.pack("<HH2s2xL", 0x0002, 0x0001, b"OB", 2) + b"\x00\x01",
            _element(0x0002, b"UI", sop_class_uid),
            _element(0x0003, b"UI", sop_instance_uid),
            _element(0x0010, b"UI", transfer_syntax_uid),
            _element(0x0012, b"UI", str(PYNETDICOM_IMPLEMENTATION_UID)),
            _element(0x0013, b"SH", PYNETDICOM_IMPLEMENTATION_VERSION),
        )
    )
    return bytes(128) + b"DICM" + struct.pack("<HH2sHL", 0x0002, 0x0000, b"UL", 4, len(elements)) + elements


def _element(number: int, vr: bytes, text: str) -> bytes:
    value = text.encode("ascii")
    value += (b"\0" if vr == b"UI" else b" ") * (len(value) % 2)
    return struct.pack("<HH2sH", 0x0002, number, vr, len(value)) + value
