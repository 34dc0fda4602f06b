"""A series in its order in space, of which slices are decoded one at a time when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from models.contracts import GreyImage
from workers.pixels.attributes import ImageAttributes, Vector, orientation, position_mm, spacing_mm
from workers.pixels.errors import PixelError
from workers.pixels.grey import open_image, read_grey
from workers.pixels.limits import DEFAULT_LIMITS, Limits
from workers.pixels.slices import SliceHeader, SliceOrder, sort_slices


class SliceFacts(NamedTuple):
    """What a file says of one frame's place. Without the file's path: fields as those of `SliceHeader`."""

    rows: int
    columns: int
    position: Vector | None
    orientation: tuple[Vector, Vector] | None
    instance_number: int | None
    spacing_mm: tuple[float, float] | None
    series_instance_uid: str

    def at(self, path: Path, frame: int) -> SliceHeader:
        """Of that file and frame."""
        return SliceHeader(path=path, frame=frame, **self._asdict())


class SliceFiles(Protocol):
    """Where slices are read: in this process, or in others (`workers.sandbox`). Both raise PixelError and OSError."""

    def slice_headers(self, path: Path) -> list[SliceHeader]:
        """One header per frame of a file."""
        ...

    def grey(self, path: Path, frame: int = 0) -> GreyImage:
        """One frame, in modality units."""
        ...


@dataclass(frozen=True)
class Here:
    """Reads in this process: for files that are trusted, as those of training."""

    limits: Limits = DEFAULT_LIMITS

    def slice_headers(self, path: Path) -> list[SliceHeader]:
        with open_image(path, self.limits) as image:
            return [facts.at(path, frame) for frame, facts in enumerate(slice_facts(image.attributes))]

    def grey(self, path: Path, frame: int = 0) -> GreyImage:
        return read_grey(path, limits=self.limits, frame=frame)


@dataclass(frozen=True)
class Volume:
    """The slices of a series, ascending along their normal; none of them in memory.

    slices: in that order, without those that do not belong. order: what was left out, gaps, spacing.
    """

    slices: tuple[SliceHeader, ...]
    order: SliceOrder
    files: SliceFiles

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
            return self.files.grey(header.path, header.frame)
        except PixelError as error:
            raise type(error)(f"slice {place + 1} of {len(self)}: {error}") from error


_HERE = Here()


def read_slice_headers(paths: Sequence[Path], files: SliceFiles = _HERE) -> list[SliceHeader]:
    """One header per frame of every file, in the order given; no pixel is decoded.

    Raises:
        PixelError: a file is no grey image within the limits; the message says the how manieth.
        OSError: a file cannot be read.
    """
    headers: list[SliceHeader] = []
    for number, path in enumerate(paths, 1):
        try:
            headers.extend(files.slice_headers(path))
        except PixelError as error:
            raise type(error)(f"image {number} of {len(paths)}: {error}" if len(paths) > 1 else str(error)) from error
    return headers


def open_volume(paths: Sequence[Path], files: SliceFiles = _HERE) -> Volume:
    """Order single-frame slices of one series, or the frames of one enhanced file. Decodes nothing.

    Raises:
        PixelError: a header cannot be read, or the slices make no volume.
        OSError: a file cannot be read.
    """
    return volume_of(read_slice_headers(paths, files), files)


def volume_of(headers: Sequence[SliceHeader], files: SliceFiles = _HERE) -> Volume:
    """The same where the headers are known. Raises NoVolume: the slices make none."""
    order = sort_slices(headers)
    return Volume(tuple(headers[index] for index in order.indices), order, files)


def slice_facts(image: ImageAttributes) -> Iterator[SliceFacts]:
    """Of every frame, in the file's order."""
    for frame in range(image.frames):
        yield SliceFacts(
            rows=image.rows,
            columns=image.columns,
            position=position_mm(image.dataset, frame),
            orientation=orientation(image.dataset, frame),
            instance_number=image.instance_number,
            spacing_mm=spacing_mm(image.dataset, frame),
            series_instance_uid=image.series_instance_uid,
        )
