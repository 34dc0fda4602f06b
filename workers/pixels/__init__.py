"""From DICOM files to arrays: the one path that training and serving share up to a model's preprocessing."""

from workers.pixels.errors import (
    ColourImage,
    NoPixels,
    NoVolume,
    PixelError,
    Poison,
    TooLarge,
    TruncatedPixels,
    UndecodablePixels,
    UnreadableHeader,
)
from workers.pixels.grey import OpenImage, display_uint8, drawn_uint8, open_image, read_grey
from workers.pixels.limits import DEFAULT_LIMITS, Limits
from workers.pixels.slices import SliceHeader, SliceOrder, sort_slices
from workers.pixels.volume import Here, SliceFiles, Volume, open_volume, read_slice_headers, volume_of

__all__ = [
    "DEFAULT_LIMITS",
    "ColourImage",
    "Here",
    "Limits",
    "NoPixels",
    "NoVolume",
    "OpenImage",
    "PixelError",
    "Poison",
    "SliceFiles",
    "SliceHeader",
    "SliceOrder",
    "TooLarge",
    "TruncatedPixels",
    "UndecodablePixels",
    "UnreadableHeader",
    "Volume",
    "display_uint8",
    "drawn_uint8",
    "open_image",
    "open_volume",
    "read_grey",
    "read_slice_headers",
    "sort_slices",
    "volume_of",
]
