"""The report's bytes are those of the builder that checks every item against the templates."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import EnhancedCTImageStorage, MultiFrameGrayscaleByteSecondaryCaptureImageStorage

from db.domain import ResultRef
from models.contracts import CodedConcept, Presence
from tests.support.highdicom_report import build_reference
from tests.support.result_samples import LUNG, analysed, explained, finding, header, provenance, refused, series
from workers.results import SeriesRead, SliceRead, SourceResult, build_results
from workers.results.contents import Provenance

PREDECESSORS = (
    ResultRef("1.2.840.10008.5.1.4.1.1.88.34", "2.25.1", "2.25.2", "1.2.3.4.3"),
    ResultRef("1.2.840.10008.5.1.4.1.1.88.34", "2.25.3", "2.25.2", "1.2.3.4.3"),
    ResultRef("1.2.840.10008.5.1.4.1.1.88.34", "2.25.4", "2.25.5", "1.2.3.4.4"),
)


def assert_equal(sources: list[SourceResult], made_by: Provenance | None = None) -> None:
    made_by = made_by or provenance()
    # Whoever builds reads values, and pydicom keeps those it has read: each gets a copy of its own.
    ours = build_results(deepcopy(sources), made_by)[0].data
    assert ours == build_reference(deepcopy(sources), made_by)


def labelled(count: int, present: int, made: Dataset | None = None) -> SourceResult:
    """A reading of `count` labels, the first `present` of which are positive and have a map."""
    source = analysed(made or header(), ["pneumonia"])
    findings, maps = [], []
    for number in range(count):
        presence = (Presence.UNDETERMINED, Presence.ABSENT)[number % 2] if number >= present else Presence.PRESENT
        concept = CodedConcept(str(10**number), "SCT", f"Label {number}")
        findings.append(replace(finding("pneumonia", presence), key=f"k{number}", display=f"L{number}", code=concept))
        grid = np.random.default_rng(number).random((7 + number % 4, 7)) ** 3
        maps.append(explained(f"k{number}", 250, 205, grid))
    reading = replace(source.reading, findings=tuple(findings), explanations=tuple(maps[:present]))
    return replace(source, reading=reading)


@pytest.mark.parametrize(("count", "present"), [(0, 0), (1, 0), (1, 1), (3, 2), (14, 0), (14, 5), (14, 14)])
def test_any_number_of_labels_and_findings(count: int, present: int) -> None:
    assert_equal([labelled(count, present)])


def several_frames() -> list[SourceResult]:
    many = header(SOPClassUID=MultiFrameGrayscaleByteSecondaryCaptureImageStorage, NumberOfFrames=8)
    return [analysed(many, ["pneumonia"], frame=5)]


def frames_of_a_series() -> list[SourceResult]:
    one = header(SOPClassUID=EnhancedCTImageStorage, NumberOfFrames=12, Modality="CT")
    read = tuple(SliceRead(one, place + 1, place + 1, 0.25) for place in (0, 4, 7, 11))
    return [replace(analysed(one, ["pneumonia"], frame=5), series=SeriesRead(12, 5, read))]


def other(**changes: Any) -> Dataset:
    return header(SOPInstanceUID="1.2.3.4.9", **changes)


CASES: dict[str, list[SourceResult]] = {
    "refused": [refused(header())],
    "mixed": [analysed(header(), ["pneumonia", "pleural_thickening"], ["nodule"]), refused(other())],
    "two read": [analysed(header(), (), ["nodule"]), analysed(other(), ["cardiomegaly"])],
    "one image twice": [analysed(header(), ["pneumonia"]), analysed(header())],
    "frames": several_frames(),
    "frames of a series": frames_of_a_series(),
    "series": [series([header(SOPInstanceUID=f"1.2.3.5.{n}", Modality="MR") for n in range(4)], ["nodule"])],
    "series refused": [replace(refused(header(Modality="CT"), "slices are missing"), series=SeriesRead(9))],
    "nothing of a patient": [
        analysed(header(PatientName=None, PatientID=None, StudyDate=None, AccessionNumber=None), ["pneumonia"])
    ],
    "utf-8": [analysed(header(SpecificCharacterSet="ISO_IR 192", PatientName="Müller^Jürgen"), ["pneumonia"])],
    "latin": [analysed(header(SpecificCharacterSet="ISO_IR 100", PatientName="Müller^Jürgen"), ["pneumonia"])],
    "kanji": [analysed(header(SpecificCharacterSet=["", "ISO 2022 IR 87"], PatientName="Yamada=山田=やまだ"))],
    "shift-jis": [analysed(header(SpecificCharacterSet="ISO_IR 13", PatientName="Yamada"), ["pneumonia"])],
    "clock": [analysed(header(TimezoneOffsetFromUTC="+0530", PatientAge="056Y"), ["pneumonia"])],
}


@pytest.mark.parametrize("name", CASES)
def test_every_kind_of_source_and_outcome(name: str) -> None:
    assert_equal(CASES[name])


def test_a_revision_names_its_predecessors_of_both_studies() -> None:
    assert_equal([analysed(header(), ["pneumonia"])], provenance(predecessors=PREDECESSORS))


def test_the_outline_of_a_large_image_may_need_a_long_length() -> None:
    ragged = np.random.default_rng(3).random((128, 128))
    source = analysed(header(), ["pneumonia"])
    maps = (explained("pneumonia", 250, 205, ragged),)
    assert_equal([replace(source, reading=replace(source.reading, explanations=maps))])


# Control characters, both separators, quotes, accents, other scripts and directions, and what takes two UTF-16 units.
WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=90) | st.sampled_from(
    [
        "",
        "\\",
        "a\\b^c=d",
        "\x00",
        "\x1b$B",
        "  ",
        "é" * 64,
        "肺炎" * 40,
        "\u202egnp.exe",
        "\U0001f9ec" * 65,
        "~\\~",
        "\r\n\t",
    ]
)
VALUES = st.from_regex(r"[A-Za-z0-9.\-:/]{1,40}", fullmatch=True) | st.just("urn:lex:us:federal:codified.regulation:1")

CHARSETS = st.sampled_from(["ISO_IR 192", "", "GB18030"])


@settings(max_examples=25, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(
    words=st.lists(WORDS, min_size=8, max_size=8), value=VALUES, charset=st.sampled_from(["ISO_IR 192", "", "GB18030"])
)
def test_hostile_words_give_the_same_bytes(words: list[str], value: str, charset: str) -> None:
    made_by = provenance(identity=words[0])
    model = replace(made_by.model, id="m", name=words[1], version=words[2], manufacturer=words[3])
    made_by = replace(made_by, model=model, ae_title=words[4], software_version="1.0")
    source = analysed(header(SpecificCharacterSet=charset), ["pneumonia"])
    odd = replace(
        finding("pneumonia", Presence.PRESENT),
        display=words[5],
        code=CodedConcept(value, "SCT", words[6]),
        site=replace(LUNG, meaning=words[7]),
        operating_point=words[0],
        probability=1 / (len(value) + 2),
    )
    reading = replace(source.reading, findings=(odd,), notes=tuple(words[:2]))
    assert_equal([replace(source, reading=reading), refused(other(), words[3])], made_by)
