"""A series in its order in space, of which slices are decoded one at a time when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from models.contracts import GreyImage
from workers.pixels.attributes import orientation, position_mm, spacing_mm
from workers.pixels.errors import PixelError
from workers.pixels.grey import open_image, read_grey
from workers.pixels.limits import DEFAULT_LIMITS, Limits
from workers.pixels.slices import SliceHeader, SliceOrder, sort_slices


@dataclass(frozen=True)
class Volume:
    """The slices of a series, ascending along their normal; none of them in memory.

    slices: in that order, without those that do not belong. order: what was left out, gaps, spacing.
    """

    slices: tuple[SliceHeader, ...]
    order: SliceOrder
    limits: Limits

    def __len__(self) -> int:
        return len(self.slices)

    def read(self, place: int) -> GreyImage:
        """Decode one slice, counted from 0, in modality units.

        Raises:
            PixelError: it cannot be read; the message says which slice, and why.
            OSError: its file cannot be read.
        """
        header = self.slices[place]
        try:
            return read_grey(header.path, limits=self.limits, frame=header.frame)
        except PixelError as error:
            raise type(error)(f"slice {place + 1} of {len(self)}: {error}") from error


def read_slice_headers(paths: Sequence[Path], limits: Limits = DEFAULT_LIMITS) -> list[SliceHeader]:
    """One header per frame of every file, in the order given; no pixel is decoded.

    Raises:
        PixelError: a file is no grey image within the limits; the message says the how manieth.
        OSError: a file cannot be read.
    """
    headers: list[SliceHeader] = []
    for number, path in enumerate(paths, 1):
        try:
            headers.extend(_headers(path, limits))
        except PixelError as error:
            raise type(error)(f"image {number} of {len(paths)}: {error}" if len(paths) > 1 else str(error)) from error
    return headers


def open_volume(paths: Sequence[Path], limits: Limits = DEFAULT_LIMITS) -> Volume:
    """Order single-frame slices of one series, or the frames of one enhanced file. Decodes nothing.

    Raises:
        PixelError: a header cannot be read, or the slices make no volume.
        OSError: a file cannot be read.
    """
    headers = read_slice_headers(paths, limits)
    order = sort_slices(headers)
    return Volume(tuple(headers[index] for index in order.indices), order, limits)


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
