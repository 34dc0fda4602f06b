"""The attributes that pixels depend on, read from the header and, for enhanced images, the functional groups.

PS3.3 C.7.6.3 (Image Pixel), C.7.6.2 (Image Plane), C.7.6.16 (Multi-frame Functional Groups).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from pydicom import Dataset
from pydicom.dataelem import RawDataElement
from pydicom.filereader import read_dataset
from pydicom.uid import UID

from node.dataset_source import RawDataset
from node.dataset_walk import PIXEL_TAGS, Element, walk
from workers.pixels.errors import ColourImage, NoPixels, TooLarge, UndecodablePixels, UnreadableHeader

_TOP_LEVEL_TAGS = frozenset(
    {
        0x0020000E,  # Series Instance UID
        0x00200013,  # Instance Number
        0x00200032,  # Image Position (Patient)
        0x00200037,  # Image Orientation (Patient)
        0x00181164,  # Imager Pixel Spacing
        0x00280002,  # Samples per Pixel
        0x00280004,  # Photometric Interpretation
        0x00280008,  # Number of Frames
        0x00280010,  # Rows
        0x00280011,  # Columns
        0x00280030,  # Pixel Spacing
        0x00280100,  # Bits Allocated
        0x00280101,  # Bits Stored
        0x00280102,  # High Bit
        0x00280103,  # Pixel Representation
        0x00280120,  # Pixel Padding Value
        0x00280121,  # Pixel Padding Range Limit
        0x00281050,  # Window Center
        0x00281051,  # Window Width
        0x00281052,  # Rescale Intercept
        0x00281053,  # Rescale Slope
        0x00281056,  # VOI LUT Function
        0x00283000,  # Modality LUT Sequence
        0x00283010,  # VOI LUT Sequence
        0x52009229,  # Shared Functional Groups Sequence
        0x52009230,  # Per-frame Functional Groups Sequence
        0x7FE00001,  # Extended Offset Table
    }
)
_MOST_ATTRIBUTE_BYTES = 64 << 20
_GREY = ("MONOCHROME1", "MONOCHROME2")

Vector = tuple[float, float, float]


@dataclass(frozen=True)
class ImageAttributes:
    """One file's image, before any pixel is read.

    dataset: the attributes asked for, sequences included; what pixel values mean is read from it later.
    pixel_start: offset of the pixel data's value, or of its first item where ``encapsulated``.
    pixel_bytes: bytes from there to the end of the value or, where that is undefined, of the file.
    ow: 8-bit pixels were written as 16-bit words (matters in big endian only).
    """

    dataset: Dataset
    transfer_syntax: str
    big_endian: bool
    encapsulated: bool
    pixel_start: int
    pixel_bytes: int
    floating: bool
    ow: bool
    rows: int
    columns: int
    frames: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool
    inverted: bool
    instance_number: int | None
    series_instance_uid: str


def read_attributes(source: RawDataset) -> ImageAttributes:
    """Read everything before the pixels, refuse what is no grey image.

    Raises:
        NoPixels, ColourImage, UndecodablePixels, UnreadableHeader, TooLarge.
        node.dataset_source.HeaderError: the dataset cannot be followed up to its pixels.
    """
    dataset, pixels = _collect(source)
    if pixels is None:
        raise NoPixels("no pixel data")
    encapsulated = _is_encapsulated(source.transfer_syntax)
    left = max(0, source.size - pixels.value_start)
    undefined = pixels.length == 0xFFFFFFFF
    if undefined and not encapsulated:
        raise UnreadableHeader("compressed pixel data under an uncompressed transfer syntax")
    _refuse_colour(dataset)
    floating = pixels.tag != 0x7FE00010
    bits_allocated = _bits_allocated(dataset, floating)
    bits_stored = bits_allocated if floating else integer(dataset, "BitsStored", bits_allocated)
    high_bit = integer(dataset, "HighBit", bits_stored - 1)
    if not (1 <= bits_stored <= bits_allocated and bits_stored - 1 <= high_bit < bits_allocated):
        raise UnreadableHeader(f"{bits_stored} bits stored with high bit {high_bit} in {bits_allocated} bits allocated")
    return ImageAttributes(
        dataset=dataset,
        transfer_syntax=source.transfer_syntax,
        big_endian=source.big_endian,
        encapsulated=encapsulated,
        pixel_start=pixels.value_start,
        pixel_bytes=left if undefined else min(pixels.length, left),
        floating=floating,
        ow=pixels.vr == "OW",
        rows=integer(dataset, "Rows", 0),
        columns=integer(dataset, "Columns", 0),
        frames=integer(dataset, "NumberOfFrames", 1),
        bits_allocated=bits_allocated,
        bits_stored=bits_stored,
        high_bit=high_bit,
        signed=integer(dataset, "PixelRepresentation", 0) == 1,
        inverted=str(dataset.get("PhotometricInterpretation")).strip() == "MONOCHROME1",
        instance_number=integer(dataset, "InstanceNumber", -1) if "InstanceNumber" in dataset else None,
        series_instance_uid=str(dataset.get("SeriesInstanceUID", "")),
    )


def frame_groups(dataset: Dataset, frame: int, group: str) -> Dataset | None:
    """First item of a functional group's macro for a frame: its own, else the shared one, else None (C.7.6.16)."""
    per_frame: Sequence[Dataset] = dataset.get("PerFrameFunctionalGroupsSequence") or ()
    shared: Sequence[Dataset] = dataset.get("SharedFunctionalGroupsSequence") or ()
    for owner in (*per_frame[frame : frame + 1], *shared[:1]):
        macro: Sequence[Dataset] = owner.get(group) or ()
        if macro:
            return macro[0]
    return None


def spacing_mm(dataset: Dataset, frame: int) -> tuple[float, float] | None:
    """(row, column) spacing: Pixel Measures, Pixel Spacing, Imager Pixel Spacing, in that order; None if absent."""
    measures = frame_groups(dataset, frame, "PixelMeasuresSequence")
    for owner, keyword in ((measures, "PixelSpacing"), (dataset, "PixelSpacing"), (dataset, "ImagerPixelSpacing")):
        values = () if owner is None else numbers(owner, keyword)
        if len(values) == 2 and min(values) > 0:
            return values[0], values[1]
    return None


def position_mm(dataset: Dataset, frame: int) -> Vector | None:
    """Image Position (Patient) of a frame: centre of its first pixel, in mm, patient coordinates (C.7.6.2.1.1)."""
    macro = frame_groups(dataset, frame, "PlanePositionSequence")
    values = numbers(dataset if macro is None else macro, "ImagePositionPatient")
    return (values[0], values[1], values[2]) if len(values) == 3 else None


def orientation(dataset: Dataset, frame: int) -> tuple[Vector, Vector] | None:
    """Direction cosines of a frame's rows and columns (C.7.6.2.1.1); None where absent or of no length."""
    macro = frame_groups(dataset, frame, "PlaneOrientationSequence")
    values = numbers(dataset if macro is None else macro, "ImageOrientationPatient")
    if len(values) != 6:
        return None
    row, column = (values[0], values[1], values[2]), (values[3], values[4], values[5])
    if not (0.9 < math.hypot(*row) < 1.1 and 0.9 < math.hypot(*column) < 1.1):
        return None
    return row, column


def integer(dataset: Dataset, keyword: str, default: int) -> int:
    """An attribute's only value as an integer; ``default`` where it is absent or empty."""
    value: Any = dataset.get(keyword)
    if value is None or value == "":
        return default
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise UnreadableHeader(f"{keyword} is no number") from error


def numbers(dataset: Dataset, keyword: str) -> tuple[float, ...]:
    """An attribute's values as finite floats; () where it is absent, empty or not all of that."""
    value: Any = dataset.get(keyword)
    if value is None or value == "":
        return ()
    values = [value] if isinstance(value, str | int | float) else list(value)
    try:
        floats = tuple(float(v) for v in values)
    except (TypeError, ValueError):
        return ()
    return floats if all(map(math.isfinite, floats)) else ()


def stored_integers(dataset: Dataset, tag: int, signed: bool, big_endian: bool) -> tuple[int, ...]:
    """Values of an attribute whose VR is US or SS depending on Pixel Representation, from its raw bytes.

    Writers often give the wrong one of the two, or implicit VR leaves it open; the bytes are right in either case.
    """
    element: object = dataset.get_item(tag)
    if not isinstance(element, RawDataElement) or not element.value:
        return ()
    count = len(element.value) // 2
    return struct.unpack(f"{'>' if big_endian else '<'}{count}{'h' if signed else 'H'}", element.value[: 2 * count])


def _collect(source: RawDataset) -> tuple[Dataset, Element | None]:
    """The wanted elements as a dataset of their own, and where the pixel data is."""
    kept: list[bytes] = []
    total = 0
    pixels: Element | None = None
    for element in walk(source, stop_at_pixels=True):
        if element.tag in PIXEL_TAGS:
            pixels = element
        elif element.tag in _TOP_LEVEL_TAGS:
            total += element.end - element.start
            if total > _MOST_ATTRIBUTE_BYTES:
                raise TooLarge(f"too large: more than {_MOST_ATTRIBUTE_BYTES} bytes of header")
            kept.append(source.read(element.start, element.end - element.start))
    return read_dataset(BytesIO(b"".join(kept)), source.implicit_vr, not source.big_endian), pixels


def _is_encapsulated(transfer_syntax: str) -> bool:
    uid = UID(transfer_syntax)
    try:
        return uid.is_encapsulated
    except ValueError as error:
        raise UndecodablePixels("unknown transfer syntax") from error


def _refuse_colour(dataset: Dataset) -> None:
    photometric = str(dataset.get("PhotometricInterpretation") or "").strip()
    if integer(dataset, "SamplesPerPixel", 1) != 1 or (photometric and photometric not in _GREY):
        raise ColourImage("colour image")
    if not photometric:
        raise UnreadableHeader("PhotometricInterpretation is missing")


def _bits_allocated(dataset: Dataset, floating: bool) -> int:
    bits = integer(dataset, "BitsAllocated", 0)
    if bits == 1:
        raise UndecodablePixels("1-bit image (a segmentation or bitmap, not a grey image)")
    if bits not in ((32, 64) if floating else (8, 16, 32)):
        raise UnreadableHeader(f"{bits} bits allocated")
    return bits
