"""From a DICOM file to one grey image, and from that to a picture for people."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.contracts import GreyImage
from models.errors import PreprocessError
from models.voi import percentile_window, window
from node.dataset_source import HeaderError, open_dataset
from workers.drawn_size import drawn_size
from workers.pixels.attributes import ImageAttributes, read_attributes, spacing_mm
from workers.pixels.decode import FrameDecoder
from workers.pixels.errors import PixelError, TooLarge, UnreadableHeader
from workers.pixels.limits import DEFAULT_LIMITS, Limits, check_size
from workers.pixels.meaning import Room, modality_units, new_array, not_padding, value_of_interest

_SHOWN_PERCENTILES = (0.5, 99.5)


class OpenImage:
    """A file held open while one or several of its frames are read."""

    def __init__(self, attributes: ImageAttributes, decoder: FrameDecoder) -> None:
        self.attributes = attributes
        self._decoder = decoder

    def frame_bytes(self, index: int) -> int:
        """What a frame takes in the file, compressed or not. Raises TruncatedPixels where there is no such frame."""
        return self._decoder.frame_bytes(index)

    def frame(self, index: int, room: Room = new_array) -> GreyImage:
        """Decode one frame, counted from 0; ``room`` gives the array for its pixels.

        Raises:
            PixelError: the frame cannot be read; the message says why.
        """
        with _typed_errors():
            image = self.attributes
            stored = self._decoder.decode(index)
            pixels = modality_units(stored, image, index, room)
            if not np.isfinite(pixels).all():
                raise UnreadableHeader("pixel values are not finite")
            return GreyImage(
                pixels=pixels,
                valid=not_padding(stored, image),
                voi=value_of_interest(image, index),
                inverted=image.inverted,
                spacing_mm=spacing_mm(image.dataset, index),
            )


@contextmanager
def open_image(source: Path | BinaryIO, limits: Limits = DEFAULT_LIMITS) -> Iterator[OpenImage]:
    """Read a file's header, hold it against the limits and find its frames; no pixel is decoded yet.

    Raises:
        PixelError: what was found is no grey image within the limits.
        OSError: the path cannot be opened or read.
    """
    with _opened(source) as file, _opened_image(file, limits) as image:
        yield image


def read_grey(source: Path | BinaryIO, *, limits: Limits = DEFAULT_LIMITS, frame: int = 0) -> GreyImage:
    """Decode one frame of a DICOM file.

    Args:
        source: path, or seekable binary file, of a DICOM file with or without preamble and meta information.
        limits: what is refused before any memory is taken.
        frame: counted from 0.

    Returns:
        Modality units as float32 (rows, columns), finite; padding, window and inversion kept as data, not applied.

    Raises:
        PixelError: permanent; the message is a reason for people without anything that came as text from the file.
        OSError: the path cannot be opened or read.
    """
    with open_image(source, limits) as image:
        return image.frame(frame)


def display_uint8(image: GreyImage, max_side: int | None = None) -> NDArray[np.uint8]:
    """The picture a reader expects: windowed as the file asks, MONOCHROME1 turned round, padding black.

    Without a window, or with one that cannot be applied, the 0.5th to 99.5th percentiles of what is not padding.

    Args:
        max_side: a longer side is scaled down to it, aspect kept, anti-aliased; None keeps the size.

    Returns:
        uint8 (rows, columns), 0 black to 255 white; a uniform image without window is all black.
    """
    shown = _displayed(image)
    longest = max(shown.shape)
    if max_side is None or longest <= max_side:
        return shown
    rows, columns = (max(1, round(side * max_side / longest)) for side in shown.shape)
    resized = Image.fromarray(shown).resize((columns, rows), Image.Resampling.LANCZOS)
    return np.asarray(resized, dtype=np.uint8)


def drawn_uint8(image: GreyImage) -> NDArray[np.uint8]:
    """As `display_uint8`, no larger than a result shows it (`workers.drawn_size`).

    Scaled once, to the very size in which a map is laid over it: by whole numbers as the mean of what falls together,
    and the rest of the way by a filter that draws no light and dark seams along edges, as Lanczos does.
    """
    shown = _displayed(image)
    columns, rows = drawn_size(*shown.shape)
    if rows >= shown.shape[0]:
        return shown
    resized = Image.fromarray(shown).resize((columns, rows), Image.Resampling.HAMMING, reducing_gap=1.0)
    return np.asarray(resized, dtype=np.uint8)


def _displayed(image: GreyImage) -> NDArray[np.uint8]:
    shown = _windowed(image)
    if image.inverted:
        np.subtract(255, shown, out=shown)
    if image.valid is not None:
        shown[~image.valid] = 0
    return shown


def _windowed(image: GreyImage) -> NDArray[np.uint8]:
    try:
        unit = None if image.voi is None else window(image.pixels, image.voi)
    except PreprocessError:
        unit = None
    if unit is None:
        values = image.pixels if image.valid is None else image.pixels[image.valid]
        try:
            unit = percentile_window(image.pixels, values, *_SHOWN_PERCENTILES)
        except (PreprocessError, IndexError):
            # Uniform, or nothing but padding: no contrast to show, white after inversion would look like an image.
            return np.full(image.pixels.shape, 255 if image.inverted else 0, dtype=np.uint8)
    # In place: new memory is what a large picture waits for.
    unit *= np.float32(255)
    np.rint(unit, out=unit)
    return unit.astype(np.uint8)


@contextmanager
def _opened(source: Path | BinaryIO) -> Iterator[BinaryIO]:
    if isinstance(source, Path):
        with source.open("rb") as file:
            yield file
    else:
        yield source


@contextmanager
def _opened_image(file: BinaryIO, limits: Limits) -> Iterator[OpenImage]:
    with ExitStack() as stack:
        # Errors of opening are translated; those of the caller's block, which runs at the yield, are not ours.
        with _typed_errors():
            source = stack.enter_context(open_dataset(file, None, limits.max_inflated_bytes))
            attributes = read_attributes(source)
            check_size(attributes, limits)
            image = OpenImage(attributes, FrameDecoder(source, attributes))
        yield image


@contextmanager
def _typed_errors() -> Iterator[None]:
    """Whatever a hostile or broken file makes a library raise leaves as a `PixelError`; our own errors pass."""
    with warnings.catch_warnings():
        # pydicom warns with the offending value, which may be a patient's.
        warnings.simplefilter("ignore")
        try:
            yield
        except (PixelError, OSError):
            raise
        except HeaderError as error:
            raise UnreadableHeader(str(error)) from error
        except MemoryError as error:
            raise TooLarge("too large: not enough memory to read the image") from error
        except Exception as error:
            raise UnreadableHeader("the image's attributes cannot be read") from error
