"""How much may be read, decided from the header alone, before any memory is taken."""

from __future__ import annotations

import math
from dataclasses import dataclass

from workers.pixels.attributes import ImageAttributes
from workers.pixels.errors import TooLarge, TruncatedPixels, UnreadableHeader


@dataclass(frozen=True)
class Limits:
    """Upper bounds for one file.

    max_frame_pixels: rows x columns; the largest mammograms and whole spines have 30 million.
    max_frames: of one file.
    max_decoded_bytes: of one file's frames together, as stored values.
    max_encoded_bytes: of one file's compressed pixel data.
    max_inflated_bytes: of a deflated dataset.
    """

    max_frame_pixels: int = 32 << 20
    max_frames: int = 20_000
    max_decoded_bytes: int = 4 << 30
    max_encoded_bytes: int = 1 << 30
    max_inflated_bytes: int = 512 << 20


DEFAULT_LIMITS = Limits()


def check_size(image: ImageAttributes, limits: Limits) -> None:
    """Hold what the header claims against the limits and, for native pixels, against the bytes that are there.

    Raises:
        TooLarge: a limit is passed.
        TruncatedPixels: native pixels with fewer bytes than rows x columns x frames x bits ask for.
        UnreadableHeader: no rows, columns or frames at all.
    """
    if image.rows < 1 or image.columns < 1 or image.frames < 1:
        raise UnreadableHeader(f"an image of {image.rows} rows, {image.columns} columns and {image.frames} frames")
    if image.rows * image.columns > limits.max_frame_pixels:
        raise TooLarge(f"too large: {image.rows} x {image.columns} pixels, the limit is {limits.max_frame_pixels}")
    if image.frames > limits.max_frames:
        raise TooLarge(f"too large: {image.frames} frames, the limit is {limits.max_frames}")
    expected = math.ceil(image.rows * image.columns * image.frames * image.bits_allocated / 8)
    if expected > limits.max_decoded_bytes:
        raise TooLarge(f"too large: {expected} bytes of pixels, the limit is {limits.max_decoded_bytes}")
    if not image.encapsulated:
        if image.pixel_bytes < expected:
            raise TruncatedPixels(f"pixel data shorter than the header says ({image.pixel_bytes} of {expected} bytes)")
    elif image.pixel_bytes > limits.max_encoded_bytes:
        raise TooLarge(f"too large: {image.pixel_bytes} compressed bytes, the limit is {limits.max_encoded_bytes}")
