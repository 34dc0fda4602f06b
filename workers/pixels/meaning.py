"""What stored values mean: modality LUT, padding, value-of-interest windows and look-up tables.

PS3.3 C.11.1 (Modality LUT), C.7.5.1.1.2 (Pixel Padding), C.11.2 (VOI LUT), C.7.6.16.2.9/10 (functional groups).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.dataelem import RawDataElement

from models.contracts import BoolArray, FloatArray, LinearWindow, LookupTable
from workers.pixels.attributes import ImageAttributes, frame_groups, numbers, stored_integers
from workers.pixels.errors import UnreadableHeader

Stored = NDArray[Any]
Room = Callable[[tuple[int, int]], FloatArray]
"""Gives a float32 array of that many rows and columns, to be overwritten."""

_STRIP_ROWS = 256
_PADDING_VALUE, _PADDING_LIMIT = 0x00280120, 0x00280121
_LUT_DESCRIPTOR, _LUT_DATA = 0x00283002, 0x00283006


def new_array(shape: tuple[int, int]) -> FloatArray:
    """Of values that are to be overwritten."""
    return np.empty(shape, np.float32)


def modality_units(stored: Stored, image: ImageAttributes, frame: int, room: Room = new_array) -> FloatArray:
    """Apply the modality LUT or the rescale of a frame.

    Args:
        stored: integers or floats (rows, columns), as decoded.
        room: gives the array for the result.

    Returns:
        float32 (rows, columns), the whole of what ``room`` gave.

    Raises:
        UnreadableHeader: a slope of zero, or a table that cannot be applied.
    """
    table = _lookup(image.dataset.get("ModalityLUTSequence"), image)
    if table is not None and not image.floating:
        looked_up = room(stored.shape)
        # In strips: indices take eight bytes a pixel.
        for start in range(0, stored.shape[0], _STRIP_ROWS):
            strip = slice(start, start + _STRIP_ROWS)
            index = np.clip(stored[strip].astype(np.int64) - table.first_mapped, 0, table.values.size - 1)
            looked_up[strip] = table.values[index]
        return looked_up
    owner = frame_groups(image.dataset, frame, "PixelValueTransformationSequence") or image.dataset
    slope = (*numbers(owner, "RescaleSlope"), 1.0)[0]
    intercept = (*numbers(owner, "RescaleIntercept"), 0.0)[0]
    if slope == 0:
        raise UnreadableHeader("RescaleSlope is zero")
    units = room(stored.shape)
    units[:] = stored
    with np.errstate(over="ignore", invalid="ignore"):
        if slope != 1:
            units *= np.float32(slope)
        if intercept != 0:
            units += np.float32(intercept)
    return units


def not_padding(stored: Stored, image: ImageAttributes) -> BoolArray | None:
    """False where the file says padding, before the modality LUT; None where it says nothing or no pixel has it."""
    values = stored_integers(image.dataset, _PADDING_VALUE, image.signed, image.big_endian)
    if not values or image.floating:
        return None
    limits = stored_integers(image.dataset, _PADDING_LIMIT, image.signed, image.big_endian) or values
    low, high = sorted((values[0], limits[0]))
    valid: BoolArray = (stored < low) | (stored > high)
    return None if valid.all() else valid


def value_of_interest(image: ImageAttributes, frame: int) -> LinearWindow | LookupTable | None:
    """The first VOI LUT or, where there is none, the first usable window; None where the file has neither.

    PS3.3 C.11.2.1 leaves the choice between the two to the reader; a LUT is the more exact rendering.
    """
    table = _lookup(image.dataset.get("VOILUTSequence"), image)
    if table is not None:
        return table
    owner = frame_groups(image.dataset, frame, "FrameVOILUTSequence") or image.dataset
    function = str(owner.get("VOILUTFunction") or "LINEAR").strip()
    if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        function = "LINEAR"
    for center, width in zip(numbers(owner, "WindowCenter"), numbers(owner, "WindowWidth"), strict=False):
        if width >= 1 or (width > 0 and function != "LINEAR"):
            return LinearWindow(center, width, function)
    return None


def _lookup(sequence: Any, image: ImageAttributes) -> LookupTable | None:
    """First item of a Modality or VOI LUT Sequence (C.11.1.1.1): entries, first value mapped, bits of an entry."""
    if not sequence:
        return None
    item: Dataset = sequence[0]
    descriptor = stored_integers(item, _LUT_DESCRIPTOR, False, image.big_endian)
    if len(descriptor) != 3:
        raise UnreadableHeader("LUT Descriptor does not have three values")
    entries, first, bits = descriptor
    entries = entries or 1 << 16
    if image.signed and first >= 1 << 15:
        first -= 1 << 16
    if not 1 <= bits <= 16:
        raise UnreadableHeader(f"look-up table with {bits} bits per entry")
    return LookupTable(first, _table(item, entries, image.big_endian), _bits_used(item, entries, bits, image))


def _table(item: Dataset, entries: int, big_endian: bool) -> FloatArray:
    raw = _raw_table(item)
    # Eight-bit entries may be packed one per byte, whatever the VR says.
    dtype = np.dtype("u1") if entries <= len(raw) < 2 * entries else np.dtype(">u2" if big_endian else "<u2")
    if len(raw) < entries * dtype.itemsize:
        raise UnreadableHeader(f"look-up table with {len(raw)} bytes for {entries} entries")
    values: FloatArray = np.frombuffer(raw, dtype, entries).astype(np.float32)
    return values


def _raw_table(item: Dataset) -> bytes:
    element: object = item.get_item(_LUT_DATA)
    return element.value or b"" if isinstance(element, RawDataElement) else b""


def _bits_used(item: Dataset, entries: int, bits: int, image: ImageAttributes) -> int:
    """Some writers say 8 or 16 bits and mean another depth; the largest entry must fit."""
    largest = int(_table(item, entries, image.big_endian).max())
    return max(bits, math.ceil(math.log2(largest + 1))) if largest else bits
