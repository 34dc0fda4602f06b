"""Where the elements of a DICOM dataset begin and end, without decoding any of them.

The walk is iterative and bounded (depth, number of elements), so that what a peer sends can neither exhaust the
stack nor keep the listener busy. Encoding rules: PS3.5 section 7 and annex A.4.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple

from pydicom.datadict import dictionary_VR

from node.dataset_source import LONG_VRS, UNKNOWN_SIZE, ForwardFile, HeaderError, RawDataset, truncated

UNDEFINED_LENGTH = 0xFFFFFFFF
PIXEL_TAGS = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})
"""Float, Double Float and plain Pixel Data."""

MOST_NESTED_SEQUENCES = 64
MOST_ELEMENTS = 2_000_000
"""An enhanced series of 2,000 frames has about 200,000; a million take about two seconds."""

# Those with a length of 16 bits (PS3.5 7.1.2): none holds items, none has an undefined length.
_PLAIN_VRS = frozenset(
    b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split(),
)
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD


class Element(NamedTuple):
    """One top-level element. ``vr`` is "" in implicit VR; ``length`` is as declared; ``end`` is past its last byte;
    ``value`` is there where it was to be kept and is not too long.
    """

    tag: int
    vr: str
    start: int
    value_start: int
    length: int
    end: int
    value: bytes | None = None


class _Frame(NamedTuple):
    """An open sequence or item. ``end`` is None where its length is undefined; items of ``fragments`` are values."""

    is_item: bool
    implicit_vr: bool
    end: int | None
    fragments: bool = False


_CLOSED = _Frame(False, False, -1)


def walk(
    dataset: RawDataset, stop_at_pixels: bool = False, keep: Mapping[int, int] = MappingProxyType({})
) -> Iterator[Element]:
    """Top-level elements in file order; sequences and fragments are stepped through to find their end.

    keep: tags whose values are wanted, and how many bytes of each at most.

    With ``stop_at_pixels`` the first element of `PIXEL_TAGS` is the last one given, and its value is not followed: its
    ``end`` is its ``value_start``.

    Raises:
        HeaderError: an element, item or fragment ends beyond the data, a delimiter is missing, or a limit is passed.
    """
    return _Walker(dataset, keep).elements(stop_at_pixels)


def first_item(dataset: RawDataset, sequence: Element, keep: Mapping[int, int]) -> dict[int, bytes]:
    """Values by tag of the first item of a sequence whose value was kept; {} where it has no item.

    Raises:
        HeaderError: as `walk`.
    """
    value = sequence.value or b""
    if len(value) < 8:
        return {}
    group, element, length = struct.unpack_from((">" if dataset.big_endian else "<") + "HHL", value)
    if group << 16 | element != _ITEM:
        return {}
    end = len(value) if length == UNDEFINED_LENGTH else min(8 + length, len(value))
    item = replace(dataset, file=io.BytesIO(value), start=8, size=end)
    return {inner.tag: inner.value for inner in walk(item, keep=keep) if inner.value is not None}


class _Walker:
    def __init__(self, dataset: RawDataset, keep: Mapping[int, int]) -> None:
        self._file = dataset.file
        self._keep = keep
        # The bytes of the element that is being followed, where they are wanted and not too many.
        self._kept: bytearray | None = None
        self._most_kept = 0
        self._size = dataset.size
        self._forward = dataset.size == UNKNOWN_SIZE
        self._position = dataset.start
        self._implicit = dataset.implicit_vr
        order = ">" if dataset.big_endian else "<"
        self._implicit_header = struct.Struct(order + "HHL")
        self._explicit_header = struct.Struct(order + "HH2sH")
        self._long = struct.Struct(order + "L")
        self._left = MOST_ELEMENTS

    def elements(self, stop_at_pixels: bool) -> Iterator[Element]:
        self._file.seek(self._position)
        while True:
            yield from self._plain_ahead()
            first = self._beginning()
            if not first:
                return
            start = self._position - 8
            tag, vr, length = self._header(first, self._implicit)
            value_start = self._position
            if tag in (_ITEM_END, _SEQUENCE_END):
                return
            if stop_at_pixels and tag in PIXEL_TAGS:
                yield Element(tag, vr.decode("ascii"), start, value_start, length, value_start)
                return
            if tag in self._keep:
                self._kept, self._most_kept = bytearray(), self._keep[tag]
            self._pass(tag, vr, length)
            value = None if self._kept is None else bytes(self._kept)
            self._kept = None
            yield Element(tag, vr.decode("ascii"), start, value_start, length, self._position, value)
            if not self._forward:
                # Whoever consumes the walk may have read from the same file.
                self._file.seek(self._position)

    def _plain_ahead(self) -> Iterator[Element]:
        """Plain elements that lie in the piece in hand as a whole, one after the other, without a call for each step.

        Most of a header is of these; at the first of another kind, or the first that may not be all there, the general
        way goes on.
        """
        if self._implicit or not isinstance(self._file, ForwardFile):
            return
        piece, offset = self._file.ahead()
        unpack, base = self._explicit_header.unpack_from, self._position - offset
        while offset + 8 <= len(piece) and self._left > 0:
            group, element, vr, length = unpack(piece, offset)
            tag = group << 16 | element
            value_start = offset + 8
            end = value_start + length
            if vr not in _PLAIN_VRS or group == 0xFFFE or tag in PIXEL_TAGS or end > len(piece):
                break
            self._left -= 1
            value = bytes(piece[value_start:end]) if length <= self._keep.get(tag, -1) else None
            start, offset = offset, end
            yield Element(tag, vr.decode("ascii"), base + start, base + value_start, length, base + end, value)
        self._position = base + offset
        self._file.seek(self._position)

    def _beginning(self) -> bytes:
        """The first eight bytes of a top-level element; b"" where there is none any more."""
        data = self._file.read(min(self._size - self._position, 8))
        if len(data) == 8:
            self._position += 8
            return data
        # Some writers pad files; zeros too short for an element are no loss.
        if any(data):
            raise HeaderError("truncated: the data ends inside an element's header")
        return b""

    def _header(self, first: bytes, implicit: bool) -> tuple[int, bytes, int]:
        self._left -= 1
        if self._left < 0:
            raise HeaderError(f"more than {MOST_ELEMENTS} elements")
        group, element, vr, length = self._explicit_header.unpack(first)
        tag = group << 16 | element
        if implicit or group == 0xFFFE or not (vr.isalpha() and vr.isupper()):
            # Some writers change to implicit VR inside explicit datasets.
            return tag, b"", self._implicit_header.unpack(first)[2]
        if vr in LONG_VRS:
            return tag, vr, self._long.unpack(self._take(4))[0]
        return tag, vr, length

    def _pass(self, tag: int, vr: bytes, length: int) -> None:
        """Move behind a top-level value; sequences are followed with a stack of our own instead of recursion."""
        opened = self._opened(tag, vr, length, self._implicit)
        if opened is None:
            self._skip(length)
            return
        stack = [opened]
        while stack:
            inner = self._step(stack[-1])
            if inner is _CLOSED:
                stack.pop()
            elif inner is not None:
                stack.append(inner)
                if len(stack) > 2 * MOST_NESTED_SEQUENCES:
                    raise HeaderError(f"sequences are nested deeper than {MOST_NESTED_SEQUENCES} levels")

    def _step(self, top: _Frame) -> _Frame | None:
        """Read one element or item: the frame it opens, `_CLOSED` where ``top`` ends, None for a value passed."""
        if top.end is not None and self._position >= top.end:
            if self._position > top.end:
                raise HeaderError("malformed: an item is longer than the sequence around it")
            return _CLOSED
        tag, vr, length = self._header(self._take(8), top.implicit_vr)
        if tag == (_ITEM_END if top.is_item else _SEQUENCE_END):
            return _CLOSED
        if not top.is_item:
            opened = self._opened_item(tag, length, top)
        else:
            opened = self._opened(tag, vr, length, top.implicit_vr)
        if opened is None:
            self._skip(length)
        return opened

    def _opened(self, tag: int, vr: bytes, length: int, implicit: bool) -> _Frame | None:
        """The frame an element opens where it is a sequence or has fragments; None for a plain value."""
        if length == UNDEFINED_LENGTH:
            if vr in (b"OB", b"OW") or tag in PIXEL_TAGS:
                return _Frame(False, True, None, fragments=True)
            # PS3.5 6.2.2: an undefined length of unknown VR holds items in implicit VR.
            return _Frame(False, implicit or vr in (b"UN", b""), None)
        if vr == b"SQ" or (vr == b"" and _is_sequence(tag)):
            return _Frame(False, implicit or vr == b"", self._within(length))
        return None

    def _opened_item(self, tag: int, length: int, top: _Frame) -> _Frame | None:
        if tag != _ITEM:
            raise HeaderError("malformed: a sequence holds something that is no item")
        if top.fragments:
            return None
        return _Frame(True, top.implicit_vr, None if length == UNDEFINED_LENGTH else self._within(length))

    def _within(self, length: int) -> int:
        end = self._position + length
        if end > self._size:
            raise truncated(end - self._size)
        return end

    def _take(self, count: int) -> bytes:
        data = self._file.read(count) if self._position + count <= self._size else b""
        if len(data) < count:
            raise HeaderError("truncated: the data ends inside an element's header")
        self._position += count
        if self._kept is not None:
            self._keep_more(data)
        return data

    def _skip(self, count: int) -> None:
        end = self._within(count)
        if self._kept is not None and len(self._kept) + count <= self._most_kept:
            data = self._file.read(count)
            if len(data) < count:
                raise truncated(count - len(data))
            self._keep_more(data)
        else:
            self._kept = None
            self._file.seek(end)
        self._position = end

    def _keep_more(self, data: bytes) -> None:
        if self._kept is not None and len(self._kept) + len(data) <= self._most_kept:
            self._kept += data
        else:
            self._kept = None


@lru_cache(maxsize=4096)
def _is_sequence(tag: int) -> bool:
    try:
        return dictionary_VR(tag) == "SQ"
    except KeyError:
        return False
