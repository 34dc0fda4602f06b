from __future__ import annotations

from datetime import UTC, datetime
from io import BytesIO

import pytest
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset

from db.errors import UnreadableError
from db.identities import Correction, Identity
from tests.support.result_samples import analysed, header, provenance
from workers.results import build_results
from workers.results.source import read_source
from workers.results.subject import Subject, corrected, put_raw, read_subject

NAME, PATIENT_ID, SEX, BIRTH = 0x00100010, 0x00100020, 0x00100040, 0x00100030


def as_read(made: Dataset, raw: dict[int, tuple[str, bytes]], character_set: bytes | None = None) -> Dataset:
    """The header as a file reader gives it: nothing decoded yet; ``raw`` are bytes no writer would write."""
    plain = DicomBytesIO()
    dcmwrite(plain, made, implicit_vr=False, little_endian=True, enforce_file_format=False)
    read = read_dataset(BytesIO(plain.getvalue()), False, True)
    for tag, (vr, value) in raw.items():
        put_raw(read, tag, vr, value)
    if character_set is not None:
        put_raw(read, 0x00080005, "CS", character_set)
    return read


@pytest.mark.parametrize(
    ("declared", "name", "kept_set"),
    [
        (b"ISO_IR 100", "Müller^Jörg ".encode("latin-1"), ("ISO_IR 100",)),
        (b"ISO_IR 192", "Ωmega^Ä".encode(), ("ISO_IR 192",)),
        (b"\\ISO 2022 IR 87 ", b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B", ("", "ISO 2022 IR 87")),
        (b"GB18030 ", "王^小东".encode("gb18030"), ("GB18030",)),
        (None, "Müller^J".encode(), ("ISO_IR 192",)),
        (None, "Müller^J ".encode("latin-1"), ("ISO_IR 100",)),
        (b"ISO_IR 192", "Müller^J ".encode("latin-1"), ("ISO_IR 100",)),
        (b"MADE UP ", "Müller^J".encode(), ("ISO_IR 192",)),
        (b"MADE UP ", b"Doe^John", ()),
    ],
)
def test_names_keep_their_bytes_in_a_character_set_that_holds_them(
    declared: bytes | None, name: bytes, kept_set: tuple[str, ...]
) -> None:
    name += b" " * (len(name) % 2)
    subject = read_subject(as_read(header(PatientName=None), {NAME: ("PN", name)}, declared))
    assert subject.character_set == kept_set
    assert subject.value(NAME) == name


def test_written_objects_hold_the_very_bytes() -> None:
    name = b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B"
    name += b" " * (len(name) % 2)
    made = as_read(header(), {NAME: ("PN", name), PATIENT_ID: ("LO", b"  7 ")}, b"\\ISO 2022 IR 87 ")
    for result in build_results([analysed(made, ["pneumonia"])], provenance()):
        assert result.data.count(name) == 1
        read = dcmread(BytesIO(result.data))
        assert read.get_item(PATIENT_ID).value == b"  7 "
        assert list(read.SpecificCharacterSet) == ["", "ISO 2022 IR 87"]


def test_the_accession_number_is_the_same_in_the_request() -> None:
    made = header(SpecificCharacterSet="ISO_IR 192", AccessionNumber="Ä-1")
    report = dcmread(BytesIO(build_results([analysed(made)], provenance())[0].data))
    assert report.AccessionNumber == report.ReferencedRequestSequence[0].AccessionNumber == "Ä-1"


@pytest.mark.parametrize(
    ("tag", "vr", "value"),
    [
        (SEX, "CS", b"W "),
        (SEX, "CS", b"male"),
        (BIRTH, "DA", b"1970.01.02"),
        (BIRTH, "DA", b"19701341"),
        (PATIENT_ID, "LO", b"1" * 66),
        (PATIENT_ID, "LO", b"A\\B "),
        (PATIENT_ID, "LO", b"A\x07B "),
        (NAME, "PN", b"A^B^C^D^E^F "),
        (0x00080030, "TM", b"256199"),
        (0x00080050, "SH", b"ACCESSION-NUMBER-TOO-LONG "),
        (0x00200010, "SH", b"\x00\x00"),
    ],
)
def test_an_illegal_value_becomes_empty_and_never_another(tag: int, vr: str, value: bytes) -> None:
    subject = read_subject(as_read(header(), {tag: (vr, value)}))
    assert subject.value(tag) == b""
    assert tag in {known for known, _, _ in subject.values}


def test_what_is_missing_is_empty_and_what_is_private_stays_behind() -> None:
    made = header(PatientID=None, StudyID=None, PatientSex=None, AccessionNumber=None)
    made.private_block(0x0011, "ACME", create=True).add_new(1, "LO", "private words")
    for result in build_results([analysed(made, ["pneumonia"])], provenance()):
        read = dcmread(BytesIO(result.data))
        assert (read.PatientID, read.StudyID, read.PatientSex, read.AccessionNumber) == ("", "", "", "")
        assert b"private words" not in result.data
        assert not [element.tag for element in read if element.tag.is_private]


def test_null_padding_of_a_text_is_made_legal() -> None:
    assert read_subject(as_read(header(), {PATIENT_ID: ("LO", b"P-1\0")})).value(PATIENT_ID) == b"P-1 "


def test_times_are_on_the_clock_of_the_source_where_it_names_one() -> None:
    moment = datetime(2026, 3, 4, 22, 0, tzinfo=UTC)
    assert read_subject(header(TimezoneOffsetFromUTC="+0530")).local(moment).isoformat() == "2026-03-05T03:30:00+05:30"
    assert read_subject(header(TimezoneOffsetFromUTC="9999")).local(moment) == moment


def test_orientation_is_copied_or_derived() -> None:
    assert read_source(header()).orientation == ("L", "F")
    axial = header(PatientOrientation=None, ImageOrientationPatient=[1, 0, 0, 0, 0.98, -0.2])
    assert read_source(axial).orientation == ("L", "PF")
    assert read_source(header(PatientOrientation=["X", "Y"])).orientation == ()


def test_big_endian_sizes_are_read() -> None:
    made = header(NumberOfFrames=3, SOPClassUID="1.2.840.10008.5.1.4.1.1.2.1")
    plain = DicomBytesIO()
    made.set_original_encoding(False, False, "iso8859")
    dcmwrite(plain, made, implicit_vr=False, little_endian=False, enforce_file_format=False)
    source = read_source(read_dataset(BytesIO(plain.getvalue()), False, False))
    assert (source.rows, source.columns, source.frames) == (250, 205, 3)


def test_a_single_frame_class_has_one_frame_whatever_it_says() -> None:
    assert read_source(header(NumberOfFrames=7)).frames == 1


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID"])
def test_a_source_that_cannot_be_referred_to_is_refused_without_its_values(keyword: str) -> None:
    with pytest.raises(UnreadableError, match="no usable") as caught:
        read_source(header(**{keyword: None}))
    assert "Doe" not in str(caught.value)


CHANGED_AT = datetime(2026, 3, 1, 12, tzinfo=UTC)


def corrected_header(made: Dataset, **identity: str) -> tuple[Dataset, Subject]:
    """What results get of a header whose patient's identity was changed since."""
    correction = Correction(Identity(**{"patient_id": "", **identity}), CHANGED_AT, "ADT^HOSP", 1)
    subject = corrected(read_subject(made), correction)
    result = Dataset()
    subject.apply(result)
    return result, subject


def test_a_changed_identity_takes_the_place_of_the_images_and_tells_theirs() -> None:
    made = as_read(header(), {NAME: ("PN", "Müller^Eva".encode("latin-1"))}, b"ISO_IR 100")
    result, _ = corrected_header(made, patient_id="ID-2", name="山田^太郎")
    assert (result.PatientID, str(result.PatientName)) == ("ID-2", "山田^太郎")
    assert result.SpecificCharacterSet == "ISO_IR 192"
    (original,) = result.OriginalAttributesSequence
    (before,) = original.ModifiedAttributesSequence
    assert bytes(before.get_item("PatientName").value).decode() == "Müller^Eva "
    assert original.AttributeModificationDateTime == "20260301120000+0000"


def test_a_change_that_changes_nothing_here_is_not_told_of() -> None:
    made = header()
    result, subject = corrected_header(made, patient_id=str(made.PatientID), name=str(made.PatientName))
    assert subject == read_subject(made)
    assert "OriginalAttributesSequence" not in result


@pytest.mark.parametrize("patient_id", ["a\\b", "9" * 65])
def test_an_identity_that_dicom_cannot_hold_is_not_cut_to_fit(patient_id: str) -> None:
    with pytest.raises(UnreadableError):
        corrected_header(header(), patient_id=patient_id)
