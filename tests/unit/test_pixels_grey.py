"""One image from one file: values, masks, windows, reasons."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset, FileMetaDataset, dcmread
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels.processing import apply_modality_lut
from pydicom.uid import UID

from models.contracts import LinearWindow, LookupTable
from workers.drawn_size import drawn_size
from workers.pixels import (
    ColourImage,
    NoPixels,
    PixelError,
    TruncatedPixels,
    UndecodablePixels,
    UnreadableHeader,
    display_uint8,
    drawn_uint8,
    read_grey,
)

DATA = Path(__file__).parents[2].parent / "shared" / "data" / "dicom"
EXPLICIT, BIG_ENDIAN, RLE = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.5"
REFUSED = {
    "fodicom/GH1146.dcm": TruncatedPixels,
    "fodicom/GH223.dcm": NoPixels,
    "fodicom/genFile.dcm": UndecodablePixels,
    "fodicom/multiframe.dcm": ColourImage,
    "pydicom/JPEG2000-embedded-sequence-delimiter.dcm": UndecodablePixels,
    "pydicom/MR_truncated.dcm": TruncatedPixels,
    "pydicom/README.txt": UnreadableHeader,
    "pydicom/liver_1frame.dcm": UndecodablePixels,
    "pydicom/reportsi.dcm": NoPixels,
    "pydicom_data/OT-PAL-8-face.dcm": ColourImage,
    "wg04/MR4_JPLY.dcm": UndecodablePixels,
}


def image_file(stored: np.ndarray[Any, Any], transfer_syntax: str = EXPLICIT, **attributes: Any) -> io.BytesIO:
    """A DICOM file around stored values; attributes override or add."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = UID(transfer_syntax)
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = UID("1.2.840.10008.5.1.4.1.1.2")
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = UID("1.2.3.4")
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = stored.shape[-2:]
    bits = stored.dtype.itemsize * 8
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = bits, bits, bits - 1
    dataset.PixelRepresentation = int(stored.dtype.kind == "i")
    order = ">" if transfer_syntax == BIG_ENDIAN else "<"
    dataset.PixelData = stored.astype(stored.dtype.newbyteorder(order)).tobytes()
    dataset["PixelData"].VR = "OW" if bits > 8 else "OB"
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer


def lut(first: int, entries: list[int], bits: int) -> Dataset:
    item = Dataset()
    item.add_new(0x00283002, "US", [len(entries), first, bits])
    item.add_new(0x00283006, "OW", np.array(entries, "<u2").tobytes())
    return item


def outcome(path: Path) -> str:
    """The name of the refusal's type, or "image"; any exception but `PixelError` passes."""
    try:
        image = read_grey(path)
    except PixelError as error:
        return type(error).__name__ if 5 < len(str(error)) < 120 else "no reason"
    sound = image.pixels.dtype == np.float32 and bool(np.isfinite(image.pixels).all())
    return "image" if sound and max(display_uint8(image, 64).shape) <= 64 else "unsound"


def test_every_real_file_is_an_image_or_has_a_reason() -> None:
    paths = sorted(p for p in DATA.rglob("*") if p.is_file() and p.name != "index.csv")
    outcomes = {path.relative_to(DATA).as_posix(): outcome(path) for path in paths}
    assert {name: outcomes[name] for name in REFUSED} == {name: error.__name__ for name, error in REFUSED.items()}
    assert list(outcomes.values()).count("image") == 177
    assert not {"no reason", "unsound"} & set(outcomes.values())


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
@pytest.mark.parametrize("folder", ["wg04", "cxr", "pydicom_data", "misc_barre"])
def test_real_images_have_the_values_pydicom_reads(folder: str) -> None:
    compared = 0
    for path in sorted((DATA / folder).glob("*.dcm")):
        reference = dcmread(path, force=True)
        if outcome(path) != "image" or "TransferSyntaxUID" not in reference.file_meta:
            continue
        frames = reference.pixel_array
        expected = apply_modality_lut(frames if frames.ndim == 2 else frames[0], reference)
        np.testing.assert_allclose(read_grey(path).pixels, expected, atol=1e-2)
        compared += 1
    assert compared >= 5


def test_reason_names_the_missing_bytes() -> None:
    with pytest.raises(TruncatedPixels, match=r"^pixel data shorter than the header says \(8130 of 8192 bytes\)$"):
        read_grey(DATA / "pydicom" / "MR_truncated.dcm")


def test_rescale_and_spacing() -> None:
    stored = np.array([[0, 1], [2, 1000]], "u2")
    image = read_grey(image_file(stored, RescaleSlope="2", RescaleIntercept="-1024", PixelSpacing=["0.5", "0.25"]))
    np.testing.assert_array_equal(image.pixels, [[-1024, -1022], [-1020, 976]])
    assert image.spacing_mm == (0.5, 0.25)
    assert image.valid is None
    assert image.voi is None


@pytest.mark.parametrize("transfer_syntax", [EXPLICIT, BIG_ENDIAN])
def test_signed_values_below_the_high_bit(transfer_syntax: str) -> None:
    # 12 bits signed in the upper part of 16, an overlay in the lowest bit.
    wanted = np.array([[-2048, -1], [0, 2047]])
    stored = ((wanted << 4) | 1).astype("i2")
    image = read_grey(image_file(stored, transfer_syntax, BitsStored=12, HighBit=15))
    np.testing.assert_array_equal(image.pixels, wanted)


def test_unused_high_bits_are_ignored() -> None:
    stored = np.array([[0xF001, 0x0002], [0x8FFF, 0x1000]], "u2")
    image = read_grey(image_file(stored, BitsStored=12, HighBit=11))
    np.testing.assert_array_equal(image.pixels, [[1, 2], [0xFFF, 0]])


def test_bytes_in_swapped_words() -> None:
    stored = np.arange(15, dtype="u1").reshape(3, 5)
    file = image_file(stored, BIG_ENDIAN, PixelData=np.append(stored, 0).astype("u1").view("u2").byteswap().tobytes())
    dataset = dcmread(io.BytesIO(file.getvalue()))
    dataset["PixelData"].VR = "OW"
    swapped = io.BytesIO()
    dataset.save_as(swapped)
    np.testing.assert_array_equal(read_grey(swapped).pixels, stored)


def test_padding_is_masked_in_stored_values() -> None:
    stored = np.array([[-2000, -1990], [-1500, 40]], "i2")
    attributes: dict[str, Any] = {"PixelPaddingValue": -2000, "RescaleSlope": "1", "RescaleIntercept": "100"}
    image = read_grey(image_file(stored, **attributes))
    assert image.valid is not None
    np.testing.assert_array_equal(image.valid, [[False, True], [True, True]])
    image = read_grey(image_file(stored, **attributes, PixelPaddingRangeLimit=-1600))
    assert image.valid is not None
    np.testing.assert_array_equal(image.valid, [[False, False], [True, True]])
    assert display_uint8(image)[0, 0] == 0


def test_modality_lut_sequence() -> None:
    stored = np.array([[9, 10], [11, 99]], "u2")
    image = read_grey(image_file(stored, ModalityLUTSequence=[lut(10, [100, 200, 300], 16)]))
    np.testing.assert_array_equal(image.pixels, [[100, 100], [200, 300]])


def test_the_first_usable_window_is_kept_as_data() -> None:
    stored = np.array([[0, 100], [200, 300]], "u2")
    image = read_grey(image_file(stored, WindowCenter=["50", "150"], WindowWidth=["0", "100"]))
    assert image.voi == LinearWindow(150.0, 100.0, "LINEAR")
    image = read_grey(image_file(stored, WindowCenter="5", WindowWidth="0.5", VOILUTFunction="SIGMOID"))
    assert image.voi == LinearWindow(5.0, 0.5, "SIGMOID")


def test_voi_lut_sequence_goes_before_windows() -> None:
    stored = np.array([[0, 1], [2, 3]], "u2")
    image = read_grey(image_file(stored, VOILUTSequence=[lut(1, [0, 128, 255], 8)], WindowCenter="1", WindowWidth="2"))
    assert isinstance(image.voi, LookupTable)
    assert (image.voi.first_mapped, image.voi.bits) == (1, 8)
    np.testing.assert_array_equal(display_uint8(image), [[0, 0], [128, 255]])


def test_monochrome1_is_flagged_and_shown_turned_round() -> None:
    stored = np.array([[0, 255]], "u1")
    image = read_grey(
        image_file(stored, PhotometricInterpretation="MONOCHROME1", WindowCenter="128", WindowWidth="256")
    )
    assert image.inverted
    np.testing.assert_array_equal(image.pixels, stored)
    np.testing.assert_array_equal(display_uint8(image), [[255, 0]])


def test_frames_have_their_own_functional_groups() -> None:
    def groups(slope: float, center: float) -> Dataset:
        transformation, voi, item = Dataset(), Dataset(), Dataset()
        transformation.RescaleSlope, transformation.RescaleIntercept = slope, 0
        voi.WindowCenter, voi.WindowWidth = center, 10
        item.PixelValueTransformationSequence, item.FrameVOILUTSequence = [transformation], [voi]
        return item

    measures, shared = Dataset(), Dataset()
    measures.PixelSpacing = ["2", "3"]
    shared.PixelMeasuresSequence = [measures]
    stored = np.stack([np.full((2, 2), 5), np.full((2, 2), 7)]).astype("u2")
    file = image_file(
        stored,
        NumberOfFrames=2,
        SharedFunctionalGroupsSequence=[shared],
        PerFrameFunctionalGroupsSequence=[groups(1, 40), groups(10, 50)],
    )
    second = read_grey(file, frame=1)
    np.testing.assert_array_equal(second.pixels, np.full((2, 2), 70))
    assert second.voi == LinearWindow(50.0, 10.0, "LINEAR")
    assert second.spacing_mm == (2.0, 3.0)
    with pytest.raises(TruncatedPixels, match="no frame 3"):
        read_grey(file, frame=2)


@pytest.mark.parametrize("per_frame", [1, 3])
@pytest.mark.parametrize("has_table", [True, False])
def test_compressed_frames_in_several_fragments(per_frame: int, has_table: bool) -> None:
    source = dcmread(DATA / "misc_barre" / "XA-MONO2-8-12x-catheter.dcm")
    expected = source.pixel_array
    streams = list(generate_frames(source.PixelData, number_of_frames=12))
    source.PixelData = encapsulate(streams, fragments_per_frame=per_frame, has_bot=has_table)
    buffer = io.BytesIO()
    source.save_as(buffer)
    for frame in (0, 5, 11):
        np.testing.assert_array_equal(read_grey(buffer, frame=frame).pixels, expected[frame])


def test_display_keeps_aspect_and_falls_back_without_window() -> None:
    ramp = np.tile(np.arange(400, dtype="u2"), (100, 1))
    shown = display_uint8(read_grey(image_file(ramp)), max_side=100)
    assert shown.dtype == np.uint8
    assert shown.shape == (25, 100)
    assert shown[10, 0] < 5
    assert shown[10, -1] > 250
    uniform = read_grey(image_file(np.full((4, 4), 9, "u2"), PhotometricInterpretation="MONOCHROME1"))
    assert not display_uint8(uniform).any()


def test_what_a_result_shows_has_its_size_at_once_and_no_seams() -> None:
    step = np.full((2500, 2048), 100, "u2")
    step[:, 1024:] = 200
    shown = drawn_uint8(read_grey(image_file(step, WindowCenter="150", WindowWidth="400")))
    assert shown.shape[::-1] == drawn_size(2500, 2048)
    dark, light = int(shown[0, 0]), int(shown[0, -1])
    assert 0 < dark < light < 255
    assert (shown.min(), shown.max()) == (dark, light)
    small = read_grey(image_file(step[:300, 900:1100]))
    np.testing.assert_array_equal(drawn_uint8(small), display_uint8(small))


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"RescaleSlope": "0", "RescaleIntercept": "1"}, "RescaleSlope is zero"),
        ({"BitsStored": 20}, "bits stored"),
        ({"HighBit": 3, "BitsStored": 12}, "high bit"),
        ({"BitsAllocated": 12, "BitsStored": 12}, "12 bits allocated"),
        ({"Rows": 0}, "0 rows"),
        ({"ModalityLUTSequence": [lut(0, [1], 16), Dataset()][1:]}, "LUT Descriptor"),
        ({"RescaleSlope": "1e38", "RescaleIntercept": "1"}, "not finite"),
    ],
)
def test_contradictory_headers_are_refused(attributes: dict[str, Any], reason: str) -> None:
    with pytest.raises(UnreadableHeader, match=reason):
        read_grey(image_file(np.full((4, 4), 60000, "u2"), **attributes))


def test_a_missing_file_is_no_matter_of_pixels(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_grey(tmp_path / "gone.dcm")
