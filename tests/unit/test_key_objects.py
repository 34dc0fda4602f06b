"""The key object selection as whoever receives it reads it."""

from __future__ import annotations

import dataclasses
from io import BytesIO

import pytest
from highdicom.ko import KeyObjectSelectionDocument
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import EnhancedCTImageStorage

from db.errors import UnreadableError
from models.contracts import Priority
from tests.support.result_samples import analysed, header, provenance, refused, series
from workers.offers import ENHANCED_SR, KEY_OBJECTS
from workers.results import ResultObject, SourceResult, as_sop_class, build_results, naming_report


def built(*sources: SourceResult, **changes: object) -> tuple[ResultObject, ...]:
    return build_results(list(sources), dataclasses.replace(provenance(), **changes), flags=True)  # type: ignore[arg-type]


def read(result: ResultObject | bytes) -> Dataset:
    return dcmread(BytesIO(result if isinstance(result, bytes) else result.data))


def named(document: Dataset) -> list[str]:
    """What its content refers to, in its order."""
    return [
        str(item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID)
        for item in document.ContentSequence
        if item.ValueType in ("IMAGE", "COMPOSITE")
    ]


def evidence(document: Dataset) -> set[str]:
    return {
        str(one.ReferencedSOPInstanceUID)
        for study in document.CurrentRequestedProcedureEvidenceSequence
        for found in study.ReferencedSeriesSequence
        for one in found.ReferencedSOPSequence
    }


def description(document: Dataset) -> str:
    return next(str(item.TextValue) for item in document.ContentSequence if item.ValueType == "TEXT"
                and item.ConceptNameCodeSequence[0].CodeValue == "113012")  # fmt: skip


def second(**changes: object) -> Dataset:
    return header(SOPInstanceUID="1.2.3.4.9", **changes)


def test_it_names_images_with_findings_their_pictures_and_the_report_and_nothing_else() -> None:
    report, *pictures, flags = built(
        analysed(header(), ["pneumonia", "effusion"], ["nodule"]),
        analysed(second(), (), ["nodule"]),
        refused(header(SOPInstanceUID="1.2.3.4.8")),
    )
    document = read(flags)
    wanted = ["1.2.3.4.1", *(one.ref.sop_instance_uid for one in pictures), report.ref.sop_instance_uid]
    assert named(document) == wanted
    assert evidence(document) == set(wanted)
    assert (flags.kind, flags.ref.sop_class_uid) == ("KO", KEY_OBJECTS)
    assert (document.Modality, document.SeriesNumber, document.StudyInstanceUID) == ("KO", 9502, "1.2.3.4.3")
    assert document.ConceptNameCodeSequence[0].CodeValue == "113000"
    assert (document.PatientID, document.AccessionNumber) == ("P-1", "A1")
    assert "not verified by a physician. Not for clinical use." in description(document)
    assert "Pneumonia, Pleural effusion" in description(document)
    assert "Nodule" not in description(document)


def test_what_is_urgent_is_said_to_be() -> None:
    made = analysed(header(), ["pneumonia", "effusion"])
    assert made.reading is not None
    found = [
        dataclasses.replace(one, priority=Priority.STAT) if one.key == "pneumonia" else one
        for one in made.reading.findings
    ]
    urgent = dataclasses.replace(made, reading=dataclasses.replace(made.reading, findings=tuple(found)))
    *_, flags = built(urgent)
    assert "Pneumonia (stat), Pleural effusion" in description(read(flags))


def test_an_independent_reader_takes_it_for_a_selection() -> None:
    report, picture, flags = built(analysed(header(), ["pneumonia"]))
    document = KeyObjectSelectionDocument.from_dataset(read(flags))
    resolved = document.resolve_reference(report.ref.sop_instance_uid)
    assert resolved == ("1.2.3.4.3", report.ref.series_instance_uid, report.ref.sop_instance_uid)
    titles = document.content.get_observer_contexts()
    assert len(titles) == 1
    assert len(document.content.get_references()) == 3
    assert document.resolve_reference(picture.ref.sop_instance_uid)[1] == picture.ref.series_instance_uid


@pytest.mark.parametrize(
    "source", [analysed(header()), analysed(header(), (), ["nodule"]), refused(header())], ids=["no", "grey", "refused"]
)
def test_without_a_positive_finding_there_is_none(source: SourceResult) -> None:
    assert [result.kind for result in built(source)] == ["SR"]


def test_nobody_who_does_not_want_it_gets_it() -> None:
    kinds = [result.kind for result in build_results([analysed(header(), ["pneumonia"])], provenance())]
    assert kinds == ["SR", "SC"]


def test_of_a_series_the_key_slice_is_named_and_of_frames_the_frame() -> None:
    slices = [header(SOPInstanceUID=f"1.2.3.5.{n}", Modality="CT") for n in range(4)]
    *_, flags = built(series(slices, ["nodule"], key=2))
    assert named(read(flags))[0] == "1.2.3.5.2"
    frames = header(SOPClassUID=EnhancedCTImageStorage, NumberOfFrames=12)
    *_, flags = built(analysed(frames, ["nodule"], frame=5))
    first = next(item for item in read(flags).ContentSequence if item.ValueType == "IMAGE")
    assert first.ReferencedSOPSequence[0].ReferencedFrameNumber == 5


def test_a_rerun_gives_the_same_bytes_and_a_new_revision_another_object_that_says_what_it_replaces() -> None:
    def flags(**changes: object) -> ResultObject:
        return built(analysed(header(), ["pneumonia"]), **changes)[-1]

    first = flags()
    assert first == flags()
    later = flags(identity="job-2", replaced_flags=(first.ref,))
    assert later.ref.sop_instance_uid != first.ref.sop_instance_uid
    assert later.ref.series_instance_uid == first.ref.series_instance_uid
    assert f"Replaces key object selection {first.ref.sop_instance_uid}." in description(read(later))


def test_where_the_report_goes_out_under_another_class_the_selection_names_that_one() -> None:
    report, _, flags = built(analysed(header(), ["pneumonia"]))
    _, relabelled = as_sop_class(report.data, ENHANCED_SR)
    data, ref = naming_report(flags.data, ENHANCED_SR)
    document = read(data)
    assert ref.sop_instance_uid == document.SOPInstanceUID != flags.ref.sop_instance_uid
    assert named(document)[-1] == relabelled.sop_instance_uid
    assert relabelled.sop_instance_uid in evidence(document)
    assert report.ref.sop_instance_uid not in evidence(document)
    assert naming_report(flags.data, ENHANCED_SR) == (data, ref)
    assert naming_report(flags.data, report.ref.sop_class_uid) == (flags.data, flags.ref)


def test_what_it_replaces_was_named_that_way_too() -> None:
    source = analysed(header(SpecificCharacterSet="ISO_IR 192", PatientName="Müller^Eva"), ["pneumonia"])
    *_, first = built(source)
    *_, later = built(source, identity="job-2", replaced_flags=(first.ref,))
    _, sent = naming_report(first.data, ENHANCED_SR)
    data, _ = naming_report(later.data, ENHANCED_SR)
    document = read(data)
    assert description(document).endswith(f"Replaces key object selection {sent.sop_instance_uid}.")
    assert description(document).startswith(description(read(later)).partition("Replaces")[0])
    assert document.PatientName == "Müller^Eva"
    assert KeyObjectSelectionDocument.from_dataset(document).SOPInstanceUID == document.SOPInstanceUID


def test_what_is_no_selection_is_refused() -> None:
    report, *_ = built(analysed(header(), ["pneumonia"]))
    for data in (report.data, b"no DICOM at all"):
        with pytest.raises(UnreadableError):
            naming_report(data, ENHANCED_SR)
