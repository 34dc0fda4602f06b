"""What a decoder is granted, and what an image's size earns it beyond that. Pure; known at both ends."""

from __future__ import annotations

from dataclasses import dataclass

KEPT_BYTES = 64 << 20
"""Of the memory a decoder shares; that of a larger picture is given back at once."""

_BYTES_PER_PIXEL = 24
"""Stored values, the decoder's own 32-bit samples, float32, masks and the copy that goes out; 20 were seen."""
_SECONDS_PER_MEGAPIXEL = 1.0
"""JPEG 2000 takes 0.12 s for a million pixels of noise on a slow core."""


@dataclass(frozen=True)
class Terms:
    """processes: decoders kept by one worker. seconds: for one file, and one more for each million pixels.

    memory_bytes: what a decoder may take beyond its rest. Only an image whose size was found plausible and which cannot
    be decoded in that gets more.
    """

    processes: int = 2
    seconds: float = 10.0
    memory_bytes: int = 190 << 20

    def seconds_for(self, pixels: int) -> float:
        return self.seconds + _SECONDS_PER_MEGAPIXEL * pixels / 1e6

    @staticmethod
    def memory_for(pixels: int, encoded_bytes: int) -> int:
        return _BYTES_PER_PIXEL * pixels + 2 * encoded_bytes
