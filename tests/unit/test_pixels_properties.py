"""Whatever a header says of its pixels, reading gives an image of that size or a reason, and takes little memory."""

from __future__ import annotations

import io
import struct
import tracemalloc
from typing import Any

import numpy as np
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.filewriter import write_file_meta_info

from models.contracts import GreyImage
from tests.support import hostile
from workers.pixels import Limits, PixelError, TooLarge, TruncatedPixels, UnreadableHeader, open_image, read_grey

FEW = settings(deadline=None, max_examples=400, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
LIMITS = Limits(max_frame_pixels=1 << 20, max_frames=100, max_decoded_bytes=8 << 20)
_MOST_BYTES = 32 << 20

# Where something turns over: signs, bytes, words, limits.
EDGES = (0, 1, 2, 7, 8, 12, 15, 16, 17, 31, 32, 33, 64, 100, 101, 255, 256, 1024, 1025, 32767, 32768, 65534, 65535)
WORD = st.one_of(st.sampled_from(EDGES), st.integers(0, 65535))
INTEGER_TEXT = st.one_of(
    st.integers(-(2**33), 2**33).map(str),
    st.text("0123456789+-. eE\\", max_size=12),
    st.sampled_from(("", "1", "1\\2")),
)
DECIMAL_TEXT = st.one_of(
    st.floats(allow_nan=False, width=32).map(lambda number: f"{number:.9g}"),
    st.sampled_from(("", "0", "-0", "1e999", "-1e999", "nan", "inf", "1\\2\\3", "x", "1e-320", "1\\1", "0\\-1")),
)
PLAIN = {
    "SamplesPerPixel": 1,
    "Rows": 16,
    "Columns": 16,
    "BitsAllocated": 16,
    "BitsStored": 12,
    "HighBit": 11,
    "PixelRepresentation": 0,
}
TEXTS = {
    "PhotometricInterpretation": st.sampled_from(("MONOCHROME1", "MONOCHROME2", "RGB", "", "PALETTE COLOR", "x" * 20)),
    "NumberOfFrames": INTEGER_TEXT,
    "InstanceNumber": INTEGER_TEXT,
    "PixelSpacing": DECIMAL_TEXT,
    "WindowCenter": DECIMAL_TEXT,
    "WindowWidth": DECIMAL_TEXT,
    "RescaleIntercept": DECIMAL_TEXT,
    "RescaleSlope": DECIMAL_TEXT,
}
# Without JPEG lossless: its decoder may end the process, this one here.
SYNTAXES = st.sampled_from(
    (
        hostile.EXPLICIT,
        hostile.BASELINE,
        hostile.JPEG_LS,
        hostile.JPEG_2000,
        hostile.RLE,
        "1.2.840.10008.1.2.2",
        "1.2.3",
    )
)


def file_of(values: dict[str, bytes], syntax: str, pixels: bytes) -> bytes:
    """A file of these raw values, in explicit VR little endian, whatever the syntax says, and what follows them."""
    file = io.BytesIO()
    write_file_meta_info(file, hostile.head(syntax).file_meta, enforce_standard=False)
    for keyword, value in sorted(values.items(), key=lambda item: tag_for_keyword(item[0]) or 0):
        tag = tag_for_keyword(keyword) or 0
        vr = dictionary_VR(tag).encode()
        file.write(struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr, len(value)) + value)
    return file.getvalue() + pixels


def image_or_error(file: io.BytesIO) -> GreyImage | PixelError:
    try:
        return read_grey(file, limits=LIMITS)
    except PixelError as error:
        return error


@st.composite
def headers(draw: Any) -> dict[str, bytes]:
    """Some values of a plain image changed: to others, to such of a wrong length, or to none at all."""
    values = {keyword: struct.pack("<H", value) for keyword, value in PLAIN.items()}
    values["PhotometricInterpretation"] = b"MONOCHROME2 "
    for keyword in draw(st.sets(st.sampled_from(sorted(PLAIN)), max_size=3)):
        word = struct.pack("<H", draw(WORD))
        values[keyword] = draw(st.sampled_from((word, word, word, word * 2, word[:1], b"")))
    for keyword in draw(st.sets(st.sampled_from(sorted(TEXTS)), max_size=3)):
        raw = draw(TEXTS[keyword]).encode("latin-1", "replace")
        values[keyword] = raw + b" " * (len(raw) % 2)
    for keyword in draw(st.sets(st.sampled_from(sorted(values)), max_size=1)):
        del values[keyword]
    return values


NATIVE = st.integers(0, 3000).map(lambda length: b"\xe0\x7f\x10\x00OW\0\0" + struct.pack("<L", length) + bytes(length))
LYING = st.tuples(st.sampled_from((0, 1, 511, 512, 2**31, 2**32 - 2, 2**32 - 1)), st.binary(max_size=600)).map(
    lambda lie: b"\xe0\x7f\x10\x00OW\0\0" + struct.pack("<L", lie[0]) + lie[1]
)
ENCAPSULATED = st.builds(
    lambda streams, table, end, cut: hostile.fragments(*streams, table=table, end=end)[: -cut or None],
    st.lists(
        st.one_of(
            st.binary(max_size=200),
            st.tuples(WORD, WORD).map(lambda size: hostile.jpeg(*size)),
            st.tuples(WORD, WORD).map(lambda size: hostile.jpeg(*size, marker=0xF7, bits=16)),
            st.integers(0, 15).map(hostile.rle),
            st.sampled_from(
                (hostile.jpeg_2000(16, 16), hostile.jpeg_2000(65535, 65535), hostile.jpeg_2000(16, 16, tile=1))
            ),
        ),
        max_size=4,
    ),
    st.binary(max_size=20),
    st.booleans(),
    st.integers(0, 40),
)


@FEW
@given(values=headers(), syntax=SYNTAXES, pixels=st.one_of(NATIVE, LYING, ENCAPSULATED), frame=st.integers(-1, 3))
def test_an_image_of_the_announced_size_or_a_reason(
    values: dict[str, bytes], syntax: str, pixels: bytes, frame: int
) -> None:
    raw = file_of(values, syntax, pixels)
    tracemalloc.start()
    try:
        with open_image(io.BytesIO(raw), LIMITS) as opened:
            announced = opened.attributes
            image = opened.frame(frame)
    except PixelError as error:
        reason = str(error)
        assert reason.isascii()
        assert reason.isprintable()
        return
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < _MOST_BYTES
    assert image.pixels.shape == (announced.rows, announced.columns)
    assert image.pixels.dtype == np.float32
    assert np.isfinite(image.pixels).all()
    assert image.valid is None or image.valid.shape == image.pixels.shape
    assert image.spacing_mm is None or min(image.spacing_mm) > 0
    assert 0 <= frame < announced.frames


@FEW
@given(
    rows=WORD,
    columns=WORD,
    frames=st.one_of(st.integers(-2, 3), st.integers(-(2**31), 2**31 - 1)),
    bits=st.sampled_from((8, 16, 32)),
    held=st.integers(0, 4096),
)
@example(rows=65535, columns=65535, frames=1, bits=16, held=512)
@example(rows=16, columns=16, frames=2**31 - 1, bits=16, held=512)
@example(rows=1, columns=1, frames=1, bits=8, held=1)
def test_native_pixels_are_read_exactly_where_they_are_all_there(
    rows: int, columns: int, frames: int, bits: int, held: int
) -> None:
    """Rows x Columns x Frames x bytes, against the limits and against what the file holds, before any is taken."""
    values = {keyword: struct.pack("<H", value) for keyword, value in PLAIN.items()}
    values |= {"Rows": struct.pack("<H", rows), "Columns": struct.pack("<H", columns)}
    values |= {
        "BitsAllocated": struct.pack("<H", bits),
        "BitsStored": struct.pack("<H", 8),
        "HighBit": struct.pack("<H", 7),
    }
    values["PhotometricInterpretation"] = b"MONOCHROME2 "
    values["NumberOfFrames"] = str(frames).encode()
    pixels = b"\xe0\x7f\x10\x00OW\0\0" + struct.pack("<L", held) + bytes(held)
    file = io.BytesIO(file_of(values, hostile.EXPLICIT, pixels))
    needed = rows * columns * frames * bits // 8
    expected: type[PixelError] | None = None
    if min(rows, columns, frames) < 1:
        expected = UnreadableHeader
    elif rows * columns > LIMITS.max_frame_pixels or frames > LIMITS.max_frames or needed > LIMITS.max_decoded_bytes:
        expected = TooLarge
    elif needed > held:
        expected = TruncatedPixels
    found = image_or_error(file)
    if isinstance(found, PixelError):
        assert type(found) is expected
    else:
        assert expected is None
        assert found.pixels.shape == (rows, columns)


@FEW
@given(
    flips=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=8),
    cut=st.integers(0, 700),
)
def test_no_damage_to_a_file_gives_anything_else(flips: list[tuple[int, int]], cut: int) -> None:
    values = {keyword: struct.pack("<H", value) for keyword, value in PLAIN.items()}
    values["PhotometricInterpretation"] = b"MONOCHROME2 "
    raw = bytearray(file_of(values, hostile.EXPLICIT, b"\xe0\x7f\x10\x00OW\0\0" + struct.pack("<L", 512) + bytes(512)))
    for place, byte in flips:
        raw[place % len(raw)] = byte
    found = image_or_error(io.BytesIO(bytes(raw[: len(raw) - cut])))
    assert str(found).isascii() if isinstance(found, PixelError) else np.isfinite(found.pixels).all()
