"""Where the compressed frames lie in encapsulated pixel data (PS3.5 annex A.4)."""

from __future__ import annotations

import struct
from typing import NamedTuple

from node.dataset_source import RawDataset
from workers.pixels.attributes import ImageAttributes
from workers.pixels.errors import TooLarge, TruncatedPixels, UndecodablePixels

_ITEM, _SEQUENCE_END = (0xFFFE, 0xE000), (0xFFFE, 0xE0DD)
_MOST_FRAGMENTS = 1 << 17
# A JPEG and JPEG-LS stream begins with SOI, a JPEG 2000 codestream with SOC, a JP2 box with its length.
_STREAM_STARTS = (b"\xff\xd8", b"\xff\x4f", b"\x00\x00\x00\x0cjP  ")


class Fragment(NamedTuple):
    """start: offset of the item's tag. value_start, length: its value."""

    start: int
    value_start: int
    length: int


Frames = tuple[tuple[Fragment, ...], ...]


def find_frames(source: RawDataset, image: ImageAttributes) -> Frames:
    """The fragments of every frame.

    Raises:
        TooLarge: more fragments than the frames of any image have.
        TruncatedPixels: fewer frames than the header says, or a fragment that does not end.
        UndecodablePixels: the fragments cannot be told apart into frames.
    """
    table, *fragments = _fragments(source, image)
    if len(fragments) == image.frames:
        return tuple((fragment,) for fragment in fragments)
    if image.frames == 1:
        return (tuple(fragments),)
    if len(fragments) < image.frames:
        raise TruncatedPixels(f"pixel data holds {len(fragments)} of {image.frames} frames")
    starts = _starts_by_table(source, table, fragments, image.frames) or _starts_by_stream(source, fragments)
    if len(starts) != image.frames:
        raise UndecodablePixels("the frames of the compressed pixel data cannot be told apart")
    ends = (*starts[1:], len(fragments))
    return tuple(tuple(fragments[start:end]) for start, end in zip(starts, ends, strict=True))


def encoded_bytes(fragments: tuple[Fragment, ...]) -> int:
    """Length of the compressed stream of one frame."""
    return sum(fragment.length for fragment in fragments)


def read_frame(source: RawDataset, fragments: tuple[Fragment, ...]) -> bytes:
    """The compressed stream of one frame."""
    return b"".join(source.read(fragment.value_start, fragment.length) for fragment in fragments)


def _fragments(source: RawDataset, image: ImageAttributes) -> list[Fragment]:
    """The offset table's item and all fragments; a missing delimiter at the end is forgiven, a cut fragment is not."""
    found: list[Fragment] = []
    position, end = image.pixel_start, image.pixel_start + image.pixel_bytes
    while position + 8 <= end:
        group, element, length = struct.unpack("<HHL", source.read(position, 8))
        if (group, element) == _SEQUENCE_END:
            break
        if (group, element) != _ITEM:
            raise UndecodablePixels("pixel data is not in fragments although its transfer syntax is compressed")
        if position + 8 + length > end:
            raise TruncatedPixels(f"pixel data ends inside a fragment ({end - position - 8} of {length} bytes)")
        if len(found) > _MOST_FRAGMENTS:
            raise TooLarge(f"too large: more than {_MOST_FRAGMENTS} fragments of compressed pixels")
        found.append(Fragment(position, position + 8, length))
        position += 8 + length
    if len(found) < 2:
        raise TruncatedPixels("pixel data holds no frame")
    return found


def _starts_by_table(source: RawDataset, table: Fragment, fragments: list[Fragment], frames: int) -> list[int]:
    """Indices of the fragments that the Basic Offset Table points at.

    [] where it is empty, of another length than the frames need (it may claim any) or points elsewhere.
    """
    if table.length != 4 * frames:
        return []
    offsets = struct.unpack(f"<{frames}L", source.read(table.value_start, table.length))
    index = {fragment.start - fragments[0].start: i for i, fragment in enumerate(fragments)}
    starts = [index.get(offset, -1) for offset in offsets]
    return starts if starts[:1] == [0] and starts == sorted(set(starts)) else []


def _starts_by_stream(source: RawDataset, fragments: list[Fragment]) -> list[int]:
    heads = (source.read(f.value_start, min(f.length, 8)) for f in fragments)
    return [i for i, head in enumerate(heads) if head.startswith(_STREAM_STARTS)]
