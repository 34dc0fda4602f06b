"""Pictures of stored files for a browser, as PNG. Runs in a process of its own that the web side starts."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import dcmread

from models.contracts import LinearWindow
from workers.drawn_size import WIDTH, drawn_size
from workers.pixels.errors import UnreadableHeader
from workers.pixels.grey import display_uint8, read_grey
from workers.pixels.limits import DEFAULT_LIMITS


def grey_png(file: BinaryIO, side: int, centre: float | None, width: float | None) -> bytes:
    """A received image.

    side: longest side in pixels; a smaller image keeps its size. centre, width: the window in modality units (PS3.3
    C.11.2.1.2); None takes the file's own.

    Raises:
        PixelError: the image cannot be shown; the message says why.
        OSError: the file cannot be read.
    """
    image = read_grey(file, limits=DEFAULT_LIMITS)
    if centre is not None and width is not None:
        image = replace(image, voi=LinearWindow(centre, width))
    return _png(display_uint8(image, side))


def map_png(file: BinaryIO, rows: int, columns: int) -> bytes:
    """The anatomy under its map out of this node's own Secondary Capture, without the bands of text.

    rows, columns: of the image it was drawn on; the result has its proportions, so that one lies on the other.

    Raises:
        UnreadableHeader: no Secondary Capture of this node, or of another image.
        OSError: the file cannot be read.
    """
    dataset = dcmread(file)
    height, width = int(dataset.Rows), int(dataset.Columns)
    if dataset.get("PhotometricInterpretation") != "RGB" or width != WIDTH or not rows or not columns:
        raise UnreadableHeader("no picture with a map")
    canvas = np.frombuffer(dataset.PixelData, np.uint8)[: height * width * 3].reshape(height, width, 3)
    shown_width, shown_height = drawn_size(rows, columns)
    band, rest = divmod(height - shown_height - shown_height % 2, 2)
    if band < 0 or rest:
        raise UnreadableHeader("the picture with the map is of another image")
    left = (width - shown_width) // 2
    return _png(canvas[band : band + shown_height, left : left + shown_width])


def _png(pixels: NDArray[np.uint8]) -> bytes:
    out = BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(out, "PNG", compress_level=1)
    return out.getvalue()
