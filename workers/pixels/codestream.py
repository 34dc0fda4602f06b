"""What a compressed stream says of itself, read before a decoder takes memory for it.

A decoder believes the stream, not the DICOM header: a stream of 64 kB may announce 65,535 x 65,535 pixels.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

_JPEG_SIZE_MARKERS = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}
_JPEG_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD9)})


class StreamSize(NamedTuple):
    rows: int
    columns: int
    components: int
    precision_bits: int


def jpeg_size(stream: bytes) -> StreamSize | None:
    """Size in the frame header of a JPEG (ISO/IEC 10918-1 B.2.2) or JPEG-LS stream; None where there is none."""
    position = 2
    if stream[:2] != b"\xff\xd8":
        return None
    while position + 10 <= len(stream):
        if stream[position] != 0xFF:
            return None
        marker = stream[position + 1]
        if marker == 0xFF or marker in _JPEG_WITHOUT_LENGTH:
            position += 1 if marker == 0xFF else 2
            continue
        if marker in _JPEG_SIZE_MARKERS:
            precision, rows, columns, components = struct.unpack_from(">BHHB", stream, position + 4)
            return StreamSize(rows, columns, components, precision)
        position += 2 + int(struct.unpack_from(">H", stream, position + 2)[0])
    return None


def jpeg2000_size(stream: bytes) -> StreamSize | None:
    """Size in the SIZ marker segment (ISO/IEC 15444-1 A.5.1), also inside JP2 boxes; None where there is none."""
    start = _codestream_start(stream)
    if stream[start : start + 4] != b"\xff\x4f\xff\x51" or len(stream) < start + 43:
        return None
    x_end, y_end, x_start, y_start = struct.unpack_from(">4L", stream, start + 8)
    components, depth = struct.unpack_from(">HB", stream, start + 40)
    return StreamSize(y_end - y_start, x_end - x_start, components, (depth & 0x7F) + 1)


def _codestream_start(stream: bytes) -> int:
    """Offset of the codestream: 0, or behind the header of the jp2c box."""
    if not stream.startswith(b"\x00\x00\x00\x0cjP  "):
        return 0
    position = 0
    while position + 8 <= len(stream):
        length, kind = struct.unpack_from(">L4s", stream, position)
        if kind == b"jp2c":
            return position + 8
        if length < 8:
            break
        position += length
    return 0
