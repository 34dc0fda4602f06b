"""DICOM files that are to do harm: each claims, nests or repeats more than it holds. Made here, small on disk."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from openjpeg.utils import encode_array
from pydicom import Dataset, FileMetaDataset, dcmread
from pydicom.dataset import validate_file_meta
from pydicom.encaps import generate_frames
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import UID, ComputedRadiographyImageStorage, generate_uid

EXPLICIT, DEFLATED = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99"
BASELINE, LOSSLESS, JPEG_LS = "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.80"
JPEG_2000, RLE = "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.5"

_ITEM, _ITEM_END, _SEQUENCE_END = b"\xfe\xff\x00\xe0", b"\xfe\xff\x0d\xe0", b"\xfe\xff\xdd\xe0"
_UNDEFINED = b"\xff\xff\xff\xff"

Hole = tuple[bytes, int]
"""Bytes, and how many zeros follow that take no room on the disk."""


def head(syntax: str, rows: int = 64, columns: int = 64, **changes: Any) -> Dataset:
    """A frontal chest radiograph but for its pixels; of 16 bits, with 8-bit JPEG of 8."""
    bits = 8 if syntax == BASELINE else 16
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = generate_uid(), generate_uid()
    dataset.Modality, dataset.BodyPartExamined, dataset.ViewPosition = "CR", "CHEST", "PA"
    dataset.PatientID, dataset.PatientAge = "HOSTILE", "040Y"
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = rows, columns
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = bits, bits, bits - 1
    dataset.PixelRepresentation = 0
    for keyword, value in changes.items():
        setattr(dataset, keyword, value)
    return dataset


def write(path: Path, dataset: Dataset, *parts: bytes | Hole) -> Path:
    """A file of the elements of a data set, then of these parts as they are; a deflated one of the parts only."""
    with path.open("wb") as file:
        file.write(bytes(128) + b"DICM")
        validate_file_meta(dataset.file_meta)
        write_file_meta_info(file, dataset.file_meta)
        if dataset.file_meta.TransferSyntaxUID != DEFLATED:
            file.write(elements(dataset))
        for part in parts:
            data, hole = part if isinstance(part, tuple) else (part, 0)
            file.write(data)
            file.truncate(file.seek(hole, 1))
    return path


def elements(dataset: Dataset) -> bytes:
    """As explicit little endian, without anything around them."""
    buffer = BytesIO()
    plain = Dataset(dataset)
    plain.save_as(buffer, implicit_vr=False, little_endian=True)
    return buffer.getvalue()


def native(length: int, hole: int) -> Hole:
    return b"\xe0\x7f\x10\x00OW\0\0" + struct.pack("<L", length), hole


def fragments(*streams: bytes, table: bytes = b"", end: bool = True) -> bytes:
    items = [_ITEM + struct.pack("<L", len(one)) + one for one in (table, *streams)]
    return b"\xe0\x7f\x10\x00OB\0\0" + _UNDEFINED + b"".join(items) + (_SEQUENCE_END + bytes(4) if end else b"")


def jpeg(rows: int, columns: int, *, marker: int = 0xC0, bits: int = 8, body: bytes = bytes(64)) -> bytes:
    """Frame and scan header of a JPEG or JPEG-LS stream, and a body that is none."""
    frame = struct.pack(">BHHB3B", bits, rows, columns, 1, 1, 0x11, 0)
    scan = b"\x01\x01\x00\x00\x00\x00"
    return b"".join(
        (
            b"\xff\xd8",
            bytes((0xFF, marker)) + struct.pack(">H", 2 + len(frame)) + frame,
            b"\xff\xda" + struct.pack(">H", 2 + len(scan)) + scan,
            body + b"\xff\xd9",
        )
    )


def jpeg_2000(rows: int, columns: int, *, tile: int = 0, components: int = 1, body: bytes = bytes(64)) -> bytes:
    """A real codestream of 64 x 64 pixels whose SIZ segment announces another size. tile: side in pixels; 0 is all."""
    stream = encode_array(np.zeros((64, 64), "u2"))
    at = stream.index(b"\xff\x51") + 2
    length = struct.unpack_from(">H", stream, at)[0]
    size = struct.pack(">4L", columns, rows, 0, 0) + struct.pack(">4L", tile or columns, tile or rows, 0, 0)
    said = struct.pack(">H", 38 + 3 * components) + bytes(2) + size + struct.pack(">H", components)
    return stream[:at] + said + b"\x0f\x01\x01" * components + stream[at + length :] + body


def rle(segments: int = 2, body: bytes = b"\x81\x00" * 64) -> bytes:
    offsets = [64 + place * (len(body) // 2) for place in range(segments)]
    return struct.pack(f"<{1 + segments}L", segments, *offsets).ljust(64, b"\0") + body


def nested(depth: int) -> bytes:
    """A private sequence in a sequence in a sequence …"""
    opened = b"\x09\x00\x10\x10SQ\0\0" + _UNDEFINED + _ITEM + _UNDEFINED
    return opened * depth + (_ITEM_END + bytes(4) + _SEQUENCE_END + bytes(4)) * depth


def many_items(count: int) -> bytes:
    """Per-frame Functional Groups Sequence with that many items, each with a sequence of its own."""
    plane = b"\x20\x00\x13\x91SQ\0\0" + struct.pack("<L", 8) + _ITEM + bytes(4)
    item = _ITEM + struct.pack("<L", len(plane)) + plane
    return b"\x00\x52\x30\x92SQ\0\0" + struct.pack("<L", count * len(item)) + item * count


def deflate_bomb(inflated: int) -> bytes:
    deflater = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    zeros = bytes(1 << 20)

    def pieces() -> Iterator[bytes]:
        yield deflater.compress(elements(head(DEFLATED)) + b"\x29\x00\x10\x10OB\0\0" + struct.pack("<L", inflated))
        for _ in range(inflated >> 20):
            yield deflater.compress(zeros)
        yield deflater.flush()

    return b"".join(pieces())


Maker = Callable[[Path], Path]

_MOST = 65535
_LARGE = 5700  # within the limit for one frame, 32 million pixels
_TOO_LARGE = 8000


def _file(syntax: str, *parts: bytes | Hole, **changes: Any) -> Maker:
    return lambda path: write(path, head(syntax, **changes), *parts)


def _square(side: int) -> dict[str, int]:
    return {"rows": side, "columns": side}


BOMBS: dict[str, Maker] = {
    "native, 65535 squared": _file(EXPLICIT, native(8192, 8192), **_square(_MOST)),
    "native, two thousand million frames": _file(EXPLICIT, native(8192, 8192), NumberOfFrames=2_000_000_000),
    "native, 20,000 frames that are not there": _file(EXPLICIT, native(8192, 8192), NumberOfFrames=20_000),
    "native, 8000 squared, all of them there": _file(
        EXPLICIT, native(2 * _TOO_LARGE**2, 2 * _TOO_LARGE**2), **_square(_TOO_LARGE)
    ),
    "RLE, 8000 squared, plausible": _file(
        RLE, (fragments(rle(), end=False)[:-136], 2 * _TOO_LARGE**2), **_square(_TOO_LARGE)
    ),
    "JPEG, 65535 squared": _file(BASELINE, fragments(jpeg(_MOST, _MOST)), **_square(_MOST)),
    "JPEG, 65535 squared under a small header": _file(BASELINE, fragments(jpeg(_MOST, _MOST))),
    "JPEG, 5700 squared in 90 bytes": _file(BASELINE, fragments(jpeg(_LARGE, _LARGE)), **_square(_LARGE)),
    "JPEG lossless, 5700 squared in 90 bytes": _file(
        LOSSLESS, fragments(jpeg(_LARGE, _LARGE, marker=0xC3, bits=16)), **_square(_LARGE)
    ),
    "JPEG-LS, 65535 squared under a small header": _file(JPEG_LS, fragments(jpeg(_MOST, _MOST, marker=0xF7, bits=16))),
    "JPEG-LS, 5700 squared in 90 bytes": _file(
        JPEG_LS, fragments(jpeg(_LARGE, _LARGE, marker=0xF7, bits=16)), **_square(_LARGE)
    ),
    "JPEG 2000, 65535 squared": _file(JPEG_2000, fragments(jpeg_2000(_MOST, _MOST)), **_square(_MOST)),
    "JPEG 2000, 5700 squared in 200 bytes": _file(JPEG_2000, fragments(jpeg_2000(_LARGE, _LARGE)), **_square(_LARGE)),
    "JPEG 2000, 4000 squared in 200 bytes": _file(JPEG_2000, fragments(jpeg_2000(4000, 4000)), **_square(4000)),
    "JPEG 2000, a tile for each of 65,025 pixels": _file(
        JPEG_2000, fragments(jpeg_2000(255, 255, tile=1)), **_square(255)
    ),
    "JPEG 2000, 16,384 components": _file(JPEG_2000, fragments(jpeg_2000(64, 64, components=16384))),
    "RLE, 65535 squared": _file(RLE, fragments(rle()), **_square(_MOST)),
    "RLE, 5700 squared in 192 bytes": _file(RLE, fragments(rle()), **_square(_LARGE)),
    "RLE, 15 segments": _file(RLE, fragments(rle(15))),
    "a million fragments": _file(JPEG_2000, fragments(*[b""] * 1_000_000), NumberOfFrames=20_000),
    "an offset table of 900 MB": _file(
        JPEG_2000,
        (b"\xe0\x7f\x10\x00OB\0\0" + _UNDEFINED + _ITEM + struct.pack("<L", 900 << 20), 900 << 20),
        (_ITEM + struct.pack("<L", 4) + b"\xff\x4f\xff\x51") * 3 + _SEQUENCE_END + bytes(4),
        NumberOfFrames=2,
    ),
    "a fragment of 900 MB for 64 squared": _file(
        JPEG_2000,
        (
            b"\xe0\x7f\x10\x00OB\0\0" + _UNDEFINED + _ITEM + bytes(4) + _ITEM + struct.pack("<L", 900 << 20),
            900 << 20,
        ),
        _SEQUENCE_END + bytes(4),
    ),
    "a fragment that does not end": _file(JPEG_2000, fragments(jpeg_2000(64, 64), end=False)[:-40]),
    "frames that are not there": _file(JPEG_2000, fragments(jpeg_2000(64, 64)), NumberOfFrames=20_000),
    "20,000 nested sequences": _file(EXPLICIT, nested(20_000), native(8192, 8192)),
    "a deflated gigabyte": _file(DEFLATED, deflate_bomb(1 << 30)),
}
"""All of them are refused, by whatever looks first."""

slow = _file(EXPLICIT, many_items(80_000), native(8192, 8192))
"""A good image whose functional groups take many seconds to read."""

greedy = _file(
    EXPLICIT,
    (b"\xe0\x7f\x01\x00OV\0\0" + struct.pack("<L", 60 << 20), 60 << 20),
    native(131_072, 131_072),
    **_square(256),
)
"""An offset table of 60 MB, held several times while it is read."""


def deadly(path: Path, healthy: Path, **changes: Any) -> Path:
    """A radiograph in JPEG lossless under another JFIF version than 1: GDCM ends its process by abort(3) over it.

    healthy: a file of one frame in JPEG lossless with a JFIF header, whose pixels it has.
    """
    source = dcmread(healthy)
    (stream,) = generate_frames(source.PixelData, number_of_frames=1)
    at = stream.index(b"JFIF\0") + 5
    made = head(LOSSLESS, source.Rows, source.Columns, **changes)
    return write(path, made, fragments(stream[:at] + b"\0" + stream[at + 1 :]))
