"""One frame's stored values, by permissively licensed decoders only.

The decoders are native code: they see a stream only after its size has been held against the header, and whatever they
raise becomes an `UndecodablePixels` with a reason of our own, for their texts may repeat what the file contains.
"""

from __future__ import annotations

import logging
import warnings
from typing import Any, NamedTuple

import gdcm
import numpy as np
from numpy.typing import NDArray
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders.base import get_decoder

from node.dataset_source import RawDataset
from workers.pixels.attributes import ImageAttributes
from workers.pixels.codestream import StreamSize, jpeg2000_size, jpeg_size
from workers.pixels.errors import TooLarge, TruncatedPixels, UndecodablePixels
from workers.pixels.fragments import Frames, encoded_bytes, find_frames, read_frame

# pydicom logs the values it finds wrong, which may be a patient's, and whatever a decoder raised.
logging.getLogger("pydicom").setLevel(logging.CRITICAL)
# GDCM writes what it finds wrong in a file to the process's standard error.
gdcm.Trace.WarningOff()
gdcm.Trace.ErrorOff()
gdcm.Trace.DebugOff()

_STREAM_SLACK_BYTES = 4 << 20
"""No lossless coder needs twice the plain size; tables and ICC profiles need some room in small images."""

_LARGE_PIXELS, _LEAST_BYTES_PER_PIXEL = 16 << 20, 1 / 20
"""JPEG-LS and JPEG 2000 can say "all the same" in a few bytes for a whole image. Small images may; of a large one, a
mammogram or a whole spine, compression at 1 : 40 would leave this much, and lossless compression six times as much."""


class _Codec(NamedTuple):
    """plugins: names of pydicom decoder plugins, tried in this order.

    most_pixels_per_byte: what one byte of the stream can stand for by its standard; None where there is no bound.
    """

    name: str
    family: str
    plugins: tuple[str, ...]
    most_pixels_per_byte: int | None = None


# Each difference of a pixel has a code of one bit at the least (ISO/IEC 10918-1 H.1.2.1), and so has each block of
# 8 x 8 coefficients (F.1.2.1).
_LOSSLESS_PIXELS, _DCT_PIXELS = 8, 8 * 64
# Two bytes make a run of 128 (PS3.5 G.3.1); images with several segments have less.
_RLE_PIXELS = 64

_JPEG_LOSSLESS = _Codec("JPEG lossless", "jpeg", ("gdcm",), _LOSSLESS_PIXELS)
_JPEG_LS = _Codec("JPEG-LS", "jpeg", ("pyjpegls",))
_JPEG_2000 = _Codec("JPEG 2000", "jpeg2000", ("pylibjpeg", "pillow"))
_HTJ2K = _Codec("HTJ2K", "jpeg2000", ("pylibjpeg",))
_CODECS = {
    "1.2.840.10008.1.2.4.50": _Codec("JPEG baseline", "jpeg", ("pillow",), _DCT_PIXELS),
    "1.2.840.10008.1.2.4.51": _Codec("JPEG extended", "jpeg", ("pillow",), _DCT_PIXELS),
    "1.2.840.10008.1.2.4.57": _JPEG_LOSSLESS,
    "1.2.840.10008.1.2.4.70": _JPEG_LOSSLESS,
    "1.2.840.10008.1.2.4.80": _JPEG_LS,
    "1.2.840.10008.1.2.4.81": _JPEG_LS,
    "1.2.840.10008.1.2.4.90": _JPEG_2000,
    "1.2.840.10008.1.2.4.91": _JPEG_2000,
    "1.2.840.10008.1.2.4.201": _HTJ2K,
    "1.2.840.10008.1.2.4.202": _HTJ2K,
    "1.2.840.10008.1.2.4.203": _HTJ2K,
    "1.2.840.10008.1.2.5": _Codec("RLE", "rle", ("pylibjpeg", "pydicom"), _RLE_PIXELS),
}


class FrameDecoder:
    """Decodes single frames of one open file; the fragments of compressed files are found once."""

    def __init__(self, source: RawDataset, image: ImageAttributes) -> None:
        """
        Raises:
            TruncatedPixels, UndecodablePixels: the compressed frames cannot be found, or no decoder knows them.
        """
        self._source = source
        self._image = image
        self._frames: Frames = ()
        if image.encapsulated:
            self._codec = _codec(image.transfer_syntax)
            self._frames = find_frames(source, image)

    def frame_bytes(self, frame: int) -> int:
        """Length of a frame in the file. Raises TruncatedPixels where there is no such frame."""
        self._require(frame)
        if self._image.encapsulated:
            return encoded_bytes(self._frames[frame])
        return self._image.rows * self._image.columns * self._image.bits_allocated // 8

    def decode(self, frame: int) -> NDArray[Any]:
        """Stored values of a frame: integers (signed as the header says) or floats, (rows, columns).

        Raises:
            TruncatedPixels: the file has no such frame.
            TooLarge, UndecodablePixels: as they say.
        """
        self._require(frame)
        try:
            return self._compressed(frame) if self._image.encapsulated else self._native(frame)
        except MemoryError as error:
            raise TooLarge("too large: not enough memory to decode the image") from error

    def _require(self, frame: int) -> None:
        if not 0 <= frame < self._image.frames:
            raise TruncatedPixels(f"there is no frame {frame + 1}, the image has {self._image.frames}")

    def _native(self, frame: int) -> NDArray[Any]:
        image = self._image
        item_bytes = image.bits_allocated // 8
        count = image.rows * image.columns
        start = image.pixel_start + frame * count * item_bytes
        if item_bytes == 1 and image.ow and image.big_endian:
            plain = self._bytes_of_swapped_words(start, count)
        else:
            plain = self._source.read(start, count * item_bytes)
        kind = "f" if image.floating else "i" if image.signed else "u"
        stored = np.frombuffer(plain, f"{'>' if image.big_endian else '<'}{kind}{item_bytes}")
        stored = stored.reshape(image.rows, image.columns).astype(stored.dtype.newbyteorder("="))
        return stored if image.floating else _without_unused_bits(stored, image)

    def _bytes_of_swapped_words(self, start: int, count: int) -> bytes:
        """Bytes written as big endian 16-bit words stand in pairs the wrong way round (PS3.5 section 8.2)."""
        before = (start - self._image.pixel_start) % 2
        padded = before + count + (before + count) % 2
        words = np.frombuffer(self._source.read(start - before, padded), "u2")
        return words.byteswap().tobytes()[before : before + count]

    def _compressed(self, frame: int) -> NDArray[Any]:
        image, codec = self._image, self._codec
        _check_length(encoded_bytes(self._frames[frame]), codec, image)
        stream = read_frame(self._source, self._frames[frame])
        _check_stream(stream, codec, image)
        wrapped = encapsulate([stream], has_bot=False)
        for plugin in _installed(codec, image.transfer_syntax):
            stored = _decode_by(plugin, wrapped, image)
            if stored is not None:
                return stored
        raise UndecodablePixels(f"{codec.name} stream could not be decoded")


def _codec(transfer_syntax: str) -> _Codec:
    codec = _CODECS.get(transfer_syntax)
    if codec is None:
        raise UndecodablePixels("no decoder for this transfer syntax")
    if not _installed(codec, transfer_syntax):
        raise UndecodablePixels(f"no decoder for {codec.name} is installed")
    return codec


def _installed(codec: _Codec, transfer_syntax: str) -> tuple[str, ...]:
    available = get_decoder(transfer_syntax).available_plugins
    return tuple(plugin for plugin in codec.plugins if plugin in available)


def _check_length(stream_bytes: int, codec: _Codec, image: ImageAttributes) -> None:
    """Refuse a stream that is too long, or too short, for the image it claims to hold, before it is read."""
    pixels = image.rows * image.columns
    plain_bytes = pixels * image.bits_allocated // 8
    if stream_bytes > 2 * plain_bytes + _STREAM_SLACK_BYTES:
        raise TooLarge(f"too large: {stream_bytes} compressed bytes for {plain_bytes} bytes of image")
    if codec.most_pixels_per_byte is not None and pixels > stream_bytes * codec.most_pixels_per_byte:
        raise TruncatedPixels(f"{codec.name} stream of {stream_bytes} bytes cannot hold {pixels} pixels")
    if pixels > _LARGE_PIXELS and stream_bytes < pixels * _LEAST_BYTES_PER_PIXEL:
        raise TooLarge(f"too large: {pixels} pixels out of {stream_bytes} bytes of {codec.name}")


def _check_stream(stream: bytes, codec: _Codec, image: ImageAttributes) -> None:
    """Refuse a stream whose own size is not the header's."""
    if codec.family == "rle":
        segments = int.from_bytes(stream[:4], "little")
        if segments != image.bits_allocated // 8:
            raise UndecodablePixels(f"RLE stream has {segments} segments for {image.bits_allocated} bits")
        return
    size: StreamSize | None = (jpeg_size if codec.family == "jpeg" else jpeg2000_size)(stream)
    if size is None:
        raise UndecodablePixels(f"{codec.name} stream could not be decoded")
    if (size.rows, size.columns) != (image.rows, image.columns):
        raise UndecodablePixels(
            f"{codec.name} stream holds {size.rows} x {size.columns} pixels, the header says "
            f"{image.rows} x {image.columns}"
        )
    if size.components != 1:
        raise UndecodablePixels(f"{codec.name} stream has {size.components} components, the header says 1")
    if codec.name == "JPEG extended" and size.precision_bits > 8:
        raise UndecodablePixels(f"JPEG extended stream of {size.precision_bits} bits: no permissive decoder reads it")


def _decode_by(plugin: str, wrapped: bytes, image: ImageAttributes) -> NDArray[Any] | None:
    """One plugin's result, None where it fails: another may be more lenient."""
    options: dict[str, Any] = {
        "rows": image.rows,
        "columns": image.columns,
        "samples_per_pixel": 1,
        "bits_allocated": image.bits_allocated,
        "bits_stored": image.bits_stored,
        "pixel_representation": int(image.signed),
        "photometric_interpretation": "MONOCHROME1" if image.inverted else "MONOCHROME2",
        "number_of_frames": 1,
        "pixel_keyword": "PixelData",
    }
    try:
        with warnings.catch_warnings():
            # Warnings of decoders repeat what the file says.
            warnings.simplefilter("ignore")
            stored, _ = get_decoder(image.transfer_syntax).as_array(
                wrapped, index=0, raw=True, decoding_plugin=plugin, **options
            )
    except (MemoryError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # noqa: BLE001 - decoders raise anything, those in Rust what is no Exception; see the caller
        return None
    return stored if stored.shape == (image.rows, image.columns) else None


def _without_unused_bits(stored: NDArray[Any], image: ImageAttributes) -> NDArray[Any]:
    """Keep Bits Stored below High Bit, extend the sign: the rest may hold overlays or anything (PS3.5 8.1.1)."""
    up = image.bits_allocated - 1 - image.high_bit
    down = image.bits_allocated - image.bits_stored
    if down == 0:
        return stored
    if up:
        np.left_shift(stored, up, out=stored)
    np.right_shift(stored, down, out=stored)
    return stored
