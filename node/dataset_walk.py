"""Where the elements of a DICOM dataset begin and end, without decoding any of them.

The walk is iterative and bounded (depth, number of elements), so that what a peer sends can neither exhaust the
stack nor keep the listener busy. Encoding rules: PS3.5 section 7 and annex A.4.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

from pydicom.datadict import dictionary_VR

from node.dataset_source import LONG_VRS, HeaderError, RawDataset, truncated

UNDEFINED_LENGTH = 0xFFFFFFFF
PIXEL_TAGS = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})
"""Float, Double Float and plain Pixel Data."""

MOST_NESTED_SEQUENCES = 64
MOST_ELEMENTS = 2_000_000
"""An enhanced series of 2,000 frames has about 200,000; a million take about two seconds."""

_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD


class Element(NamedTuple):
    """One top-level element. ``vr`` is "" in implicit VR; ``length`` is as declared; ``end`` is past its last byte."""

    tag: int
    vr: str
    start: int
    value_start: int
    length: int
    end: int


class _Frame(NamedTuple):
    """An open sequence or item. ``end`` is None where its length is undefined; items of ``fragments`` are values."""

    is_item: bool
    implicit_vr: bool
    end: int | None
    fragments: bool = False


_CLOSED = _Frame(False, False, -1)


def walk(dataset: RawDataset, stop_at_pixels: bool = False) -> Iterator[Element]:
    """Top-level elements in file order; sequences and fragments are stepped through to find their end.

    With ``stop_at_pixels`` the first element of `PIXEL_TAGS` is the last one given, and its value is not followed: its
    ``end`` is its ``value_start``.

    Raises:
        HeaderError: an element, item or fragment ends beyond the data, a delimiter is missing, or a limit is passed.
    """
    return _Walker(dataset).elements(stop_at_pixels)


def first_item(dataset: RawDataset, sequence: Element, most_bytes: int = 1 << 16) -> dict[int, bytes]:
    """Values by tag of a sequence's first item, those longer than ``most_bytes`` left out; {} where it has no item.

    Raises:
        HeaderError: as `walk`.
    """
    if sequence.end - sequence.value_start < 8:
        return {}
    order = ">" if dataset.big_endian else "<"
    group, element, length = struct.unpack(order + "HHL", dataset.read(sequence.value_start, 8))
    if group << 16 | element != _ITEM:
        return {}
    start = sequence.value_start + 8
    end = sequence.end if length == UNDEFINED_LENGTH else min(start + length, sequence.end)
    return {
        inner.tag: dataset.read(inner.value_start, inner.end - inner.value_start)
        for inner in walk(replace(dataset, start=start, size=end))
        if inner.end - inner.value_start <= most_bytes
    }


class _Walker:
    def __init__(self, dataset: RawDataset) -> None:
        self._file = dataset.file
        self._size = dataset.size
        self._position = dataset.start
        self._implicit = dataset.implicit_vr
        order = ">" if dataset.big_endian else "<"
        self._implicit_header = struct.Struct(order + "HHL")
        self._explicit_header = struct.Struct(order + "HH2sH")
        self._long = struct.Struct(order + "L")
        self._left = MOST_ELEMENTS

    def elements(self, stop_at_pixels: bool) -> Iterator[Element]:
        self._file.seek(self._position)
        while not self._at_end():
            start = self._position
            tag, vr, length = self._header(self._implicit)
            value_start = self._position
            if tag in (_ITEM_END, _SEQUENCE_END):
                return
            if stop_at_pixels and tag in PIXEL_TAGS:
                yield Element(tag, vr.decode("ascii"), start, value_start, length, value_start)
                return
            self._pass(tag, vr, length)
            yield Element(tag, vr.decode("ascii"), start, value_start, length, self._position)
            # Whoever consumes the walk may have read from the same file.
            self._file.seek(self._position)

    def _at_end(self) -> bool:
        left = self._size - self._position
        if left >= 8:
            return False
        # Some writers pad files; zeros too short for an element are no loss.
        if any(self._file.read(left)):
            raise HeaderError("truncated: the data ends inside an element's header")
        return True

    def _header(self, implicit: bool) -> tuple[int, bytes, int]:
        self._left -= 1
        if self._left < 0:
            raise HeaderError(f"more than {MOST_ELEMENTS} elements")
        data = self._take(8)
        group, element, vr, length = self._explicit_header.unpack(data)
        tag = group << 16 | element
        if implicit or group == 0xFFFE or not (vr.isalpha() and vr.isupper()):
            # Some writers change to implicit VR inside explicit datasets.
            return tag, b"", self._implicit_header.unpack(data)[2]
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
        tag, vr, length = self._header(top.implicit_vr)
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
        return data

    def _skip(self, count: int) -> None:
        self._position = self._within(count)
        self._file.seek(self._position)


@lru_cache(maxsize=4096)
def _is_sequence(tag: int) -> bool:
    try:
        return dictionary_VR(tag) == "SQ"
    except KeyError:
        return False
