"""A series as one array, read slice by slice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np

from models.contracts import BoolArray, FloatArray, GreyImage, LinearWindow, LookupTable
from workers.pixels.attributes import orientation, position_mm, spacing_mm
from workers.pixels.errors import PixelError, TooLarge
from workers.pixels.grey import open_image
from workers.pixels.limits import DEFAULT_LIMITS, Limits
from workers.pixels.slices import SliceHeader, SliceOrder, sort_slices


@dataclass(frozen=True)
class Volume:
    """A stack of slices in modality units.

    voxels: float32 (slices, rows, columns), ascending along the normal of the slices.
    valid: bool, same shape, False where a file says padding; None where none does.
    slice_spacing_mm, pixel_spacing_mm: between slices; (row, column). None where unknown.
    voi, inverted: of the middle slice.
    sources: the file and frame of every slice.
    missing: slices that gaps have room for.
    notes: what is odd about the series, for people.
    """

    voxels: FloatArray
    valid: BoolArray | None
    slice_spacing_mm: float | None
    pixel_spacing_mm: tuple[float, float] | None
    voi: LinearWindow | LookupTable | None
    inverted: bool
    sources: tuple[tuple[Path, int], ...]
    missing: int
    notes: tuple[str, ...]


def read_slice_headers(paths: Sequence[Path], limits: Limits = DEFAULT_LIMITS) -> list[SliceHeader]:
    """One header per frame of every file, in the order given; no pixel is decoded.

    Raises:
        PixelError: a file is no grey image within the limits.
        OSError: a file cannot be read.
    """
    return [header for path in paths for header in _headers(path, limits)]


def read_volume(paths: Sequence[Path], limits: Limits = DEFAULT_LIMITS) -> Volume:
    """Read single-frame slices of one series, or one enhanced multi-frame file, as a volume.

    Holds the volume and one decoded slice in memory, never more.

    Raises:
        PixelError: a slice cannot be read (the message says which), the slices make no volume, or it is too large.
        OSError: a file cannot be read.
    """
    headers = read_slice_headers(paths, limits)
    order = sort_slices(headers)
    chosen = [headers[i] for i in order.indices]
    first = chosen[0]
    shape = (len(chosen), first.rows, first.columns)
    if 4 * shape[0] * shape[1] * shape[2] > limits.max_volume_bytes:
        raise TooLarge(f"too large: {shape[0]} slices of {shape[1]} x {shape[2]} pixels")
    try:
        return _stack(chosen, order, shape, limits)
    except MemoryError as error:
        raise TooLarge("too large: not enough memory for the volume") from error


def _headers(path: Path, limits: Limits) -> Iterator[SliceHeader]:
    with open_image(path, limits) as image:
        attributes = image.attributes
        for frame in range(attributes.frames):
            yield SliceHeader(
                path=path,
                frame=frame,
                rows=attributes.rows,
                columns=attributes.columns,
                position=position_mm(attributes.dataset, frame),
                orientation=orientation(attributes.dataset, frame),
                instance_number=attributes.instance_number,
                spacing_mm=spacing_mm(attributes.dataset, frame),
                series_instance_uid=attributes.series_instance_uid,
            )


def _stack(chosen: list[SliceHeader], order: SliceOrder, shape: tuple[int, int, int], limits: Limits) -> Volume:
    voxels = np.empty(shape, np.float32)
    valid: BoolArray | None = None
    middle: GreyImage | None = None
    for index, image in enumerate(_images(chosen, limits)):
        voxels[index] = image.pixels
        if image.valid is not None:
            valid = np.ones(shape, np.bool_) if valid is None else valid
            valid[index] = image.valid
        if index == len(chosen) // 2:
            middle = image
    return Volume(
        voxels=voxels,
        valid=valid,
        slice_spacing_mm=order.spacing_mm,
        pixel_spacing_mm=chosen[0].spacing_mm,
        voi=None if middle is None else middle.voi,
        inverted=middle is not None and middle.inverted,
        sources=tuple((header.path, header.frame) for header in chosen),
        missing=order.missing,
        notes=order.notes,
    )


def _images(chosen: list[SliceHeader], limits: Limits) -> Iterator[GreyImage]:
    """Decode in order; a multi-frame file is opened once for all its neighbouring frames."""
    number = 0
    for path, slices in groupby(chosen, key=lambda header: header.path):
        with open_image(path, limits) as image:
            for header in slices:
                number += 1
                try:
                    yield image.frame(header.frame)
                except PixelError as error:
                    raise type(error)(f"slice {number} of {len(chosen)}: {error}") from error
