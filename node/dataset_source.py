"""Finding the dataset in a DICOM file or in the bytes of a C-STORE, and in which encoding it is written.

Rules: PS3.10 section 7 (preamble, file meta information), PS3.5 section 10 and annex A (transfer syntaxes).
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from tempfile import SpooledTemporaryFile, TemporaryFile
from typing import IO, BinaryIO, Protocol

from db.errors import RefusedError

IMPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2"
EXPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2.1.99"
EXPLICIT_VR_BIG_ENDIAN = "1.2.840.10008.1.2.2"

MOST_INFLATED_BYTES = 512 << 20
UNKNOWN_SIZE = 1 << 63

LONG_VRS = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
"""VRs whose explicit header has a length of 32 bits (PS3.5 section 7.1.2)."""

_TRANSFER_SYNTAX_UID = 0x00020010
_MOST_META_BYTES = 1 << 20
_SPOOL_BYTES = 16 << 20
_CHUNK_BYTES = 1 << 16


_room: IO[bytes] | None = None
"""See `open_no_more_files`."""


def open_no_more_files() -> None:
    """From now on this process inflates into one file without a name, which is open, one data set at a time."""
    global _room  # noqa: PLW0603 - it holds for the process, as does what keeps it from opening files
    _room = TemporaryFile()  # noqa: SIM115 - open until the process ends


class HeaderError(RefusedError):
    """The bytes are no complete DICOM dataset; the same bytes will never be."""


class ByteSource(Protocol):
    """As much of a binary file as following a dataset needs."""

    def read(self, count: int, /) -> bytes:
        """``count`` bytes, or fewer at the end."""

    def seek(self, position: int, /) -> int:
        """Go on from there."""


class ForwardFile:
    """Bytes that come in pieces, read once from front to back; each piece need only be valid until the next is asked
    for.
    """

    def __init__(self, pieces: Iterable[bytes | memoryview]) -> None:
        self._pieces = iter(pieces)
        self._piece: bytes | memoryview = b""
        self._start = 0
        self._position = 0

    def read(self, count: int, /) -> bytes:
        """``count`` bytes, or fewer at the end."""
        offset = self._position - self._start
        end = offset + count
        if end > len(self._piece):
            parts = [bytes(self._piece[offset:])]
            have = len(parts[0])
            while have < count and (piece := next(self._pieces, b"")):
                parts.append(bytes(piece))
                have += len(piece)
            self._piece, self._start = b"".join(parts), self._position
            offset, end = 0, count
        data = bytes(self._piece[offset:end])
        self._position += len(data)
        return data

    def ahead(self) -> tuple[bytes | memoryview, int]:
        """The piece in hand, and where in it the next byte to be read lies."""
        return self._piece, self._position - self._start

    def seek(self, position: int, /) -> int:
        """Go on from there: anywhere ahead, or back within the piece in hand.

        Raises:
            HeaderError: the bytes end before.
        """
        if position < self._start:
            raise ValueError("what has been read is gone")
        while position > self._start + len(self._piece):
            piece = next(self._pieces, b"")
            if not piece:
                raise truncated(position - self._start - len(self._piece))
            self._start += len(self._piece)
            self._piece = piece
        self._position = position
        return position


@dataclass(frozen=True)
class RawDataset:
    """An open dataset: inflated, its encoding known. Offsets count from the start of ``file``.

    size: in bytes; `UNKNOWN_SIZE` where they are still coming.

    transfer_syntax: as the file meta information or the caller says; where neither does, the native syntax that the
    first element shows.
    """

    file: ByteSource
    start: int
    size: int
    transfer_syntax: str
    implicit_vr: bool
    big_endian: bool

    def read(self, start: int, length: int) -> bytes:
        """Exactly ``length`` bytes from ``start`` on.

        Raises:
            HeaderError: the data ends before.
        """
        if start + length > self.size:
            raise truncated(start + length - self.size)
        self.file.seek(start)
        return self.file.read(length)


def truncated(missing_bytes: int) -> HeaderError:
    return HeaderError(f"truncated: {missing_bytes} bytes are missing")


@contextmanager
def open_dataset(
    source: bytes | BinaryIO, transfer_syntax: str | None = None, max_inflate_bytes: int = MOST_INFLATED_BYTES
) -> Iterator[RawDataset]:
    """Open a DICOM file (with or without preamble and meta information) or the bare bytes of a C-STORE.

    Args:
        source: the bytes, or a seekable binary file, read from its beginning; it stays open.
        transfer_syntax: for a dataset without file meta information; None guesses it from the first element.
        max_inflate_bytes: a deflated dataset that grows beyond this is refused; it is inflated to disk, not memory.

    Raises:
        HeaderError: no DICOM, or a deflated dataset that is broken or too large.
    """
    file: IO[bytes] = io.BytesIO(source) if isinstance(source, bytes) else source
    size = file.seek(0, io.SEEK_END)
    start, from_meta = _after_meta(file, _after_preamble(file), size)
    syntax = from_meta or transfer_syntax or ""
    if syntax == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
        file.seek(start)
        with _room_to_inflate() as inflated:
            for piece in _inflated(file, max_inflate_bytes):
                inflated.write(piece)
            yield _recognise(inflated, 0, inflated.tell(), syntax)
    else:
        yield _recognise(file, start, size, syntax)


@contextmanager
def _room_to_inflate() -> Iterator[IO[bytes]]:
    """An empty file, whose bytes are thrown away afterwards."""
    if _room is None:
        with SpooledTemporaryFile(max_size=_SPOOL_BYTES) as spool:
            yield spool
        return
    try:
        yield _room
    finally:
        _room.seek(0)
        _room.truncate()


def open_stream(
    pieces: Iterable[bytes | memoryview], transfer_syntax: str, max_inflate_bytes: int = MOST_INFLATED_BYTES
) -> RawDataset:
    """The bare bytes of a C-STORE while they come; to be followed once, from front to back, in bounded memory.

    Raises:
        HeaderError: no dataset; a deflated one that is broken or too large shows while it is followed.
    """
    file = ForwardFile(pieces)
    if transfer_syntax == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
        file = ForwardFile(_inflated(file, max_inflate_bytes))
    return _recognise(file, 0, UNKNOWN_SIZE, transfer_syntax)


def data_set_start(file: IO[bytes], size: int) -> tuple[int, str]:
    """Where the data set of a DICOM file begins, and its Transfer Syntax UID ("" where none is given).

    Raises:
        HeaderError: the file meta information does not end.
    """
    return _after_meta(file, _after_preamble(file), size)


def _after_preamble(file: IO[bytes]) -> int:
    file.seek(128)
    return 132 if file.read(4) == b"DICM" else 0


def _after_meta(file: IO[bytes], start: int, size: int) -> tuple[int, str]:
    """Offset of the dataset and the Transfer Syntax UID ("" where none is given). Group 2 is explicit little endian."""
    syntax = ""
    position = start
    while position + 8 <= size:
        file.seek(position)
        group, element, vr, length = struct.unpack("<HH2sH", file.read(8))
        if group != 0x0002:
            break
        value_start = position + 8
        if vr in LONG_VRS:
            length = int.from_bytes(file.read(4), "little")
            value_start += 4
        if value_start + length > size or value_start + length - start > _MOST_META_BYTES:
            raise HeaderError("malformed: the file meta information does not end")
        if group << 16 | element == _TRANSFER_SYNTAX_UID:
            syntax = file.read(length).decode("ascii", "replace").strip("\0 ")
        position = value_start + length
    return position, syntax


def _recognise(file: ByteSource, start: int, size: int, syntax: str) -> RawDataset:
    """Trust the first element over the transfer syntax about explicit and implicit VR, as writers confuse them."""
    file.seek(start)
    first = file.read(6)
    if len(first) < 6:
        raise HeaderError("empty: there is no dataset")
    explicit = first[4:6].isalpha() and first[4:6].isupper()
    little, big = struct.unpack("<H", first[:2])[0], struct.unpack(">H", first[:2])[0]
    # Every composite instance begins with group 8 (or a stray command group 0); other small groups occur in samples.
    big_endian = syntax == EXPLICIT_VR_BIG_ENDIAN if syntax else big < little and explicit
    if not syntax and not _plausible_first_group(big if big_endian else little):
        raise HeaderError("not a DICOM dataset")
    if not syntax:
        syntax = EXPLICIT_VR_LITTLE_ENDIAN if explicit else IMPLICIT_VR_LITTLE_ENDIAN
        syntax = EXPLICIT_VR_BIG_ENDIAN if big_endian else syntax
    return RawDataset(file, start, size, syntax, implicit_vr=not explicit, big_endian=big_endian)


def _plausible_first_group(group: int) -> bool:
    return group <= 0x0028 or group == 0x300A


def _inflated(source: ByteSource, most_bytes: int) -> Iterator[bytes]:
    """What a raw deflate stream (PS3.5 A.5) holds, a megabyte at most at a time."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    given = 0
    while not inflater.eof:
        chunk = inflater.unconsumed_tail or source.read(_CHUNK_BYTES)
        if not chunk:
            raise HeaderError("truncated: the deflated dataset does not end")
        try:
            plain = inflater.decompress(chunk, 16 * _CHUNK_BYTES)
        except zlib.error as error:
            raise HeaderError("malformed: the deflated dataset cannot be inflated") from error
        given += len(plain)
        if given > most_bytes:
            raise HeaderError(f"too large: the deflated dataset is longer than {most_bytes} bytes when inflated")
        if plain:
            yield plain
