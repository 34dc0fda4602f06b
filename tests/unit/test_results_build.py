from __future__ import annotations

import dataclasses
from datetime import datetime
from io import BytesIO

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from db.domain import ResultRef
from db.errors import UnreadableError
from models.contracts import CodedConcept
from node.identity import MANUFACTURER
from tests.support.result_samples import analysed, finding, header, provenance, reading, refused
from workers.results import SourceResult, as_sop_class, build_results, readable_html, sr_fallbacks
from workers.results.codes import private_schemes
from workers.results.texts import fold
from workers.results.uids import derive


def lateral() -> Dataset:
    return header(SOPInstanceUID="1.2.3.4.9", ViewPosition="LL")


def read(data: bytes) -> Dataset:
    return dcmread(BytesIO(data))


def comments(report: Dataset) -> list[str]:
    return [item.TextValue for item in report.ContentSequence[-1].ContentSequence if item.ValueType == "TEXT"]


def summary(report: Dataset) -> str:
    return str(report.ContentSequence[-1].ContentSequence[0].ConceptCodeSequence[0].CodeValue)


def groups(report: Dataset) -> list[Dataset]:
    return list(report.ContentSequence[-2].get("ContentSequence") or [])


def test_equal_inputs_give_equal_bytes() -> None:
    def build() -> list[bytes]:
        sources = [analysed(header(), ["pneumonia", "effusion"], ["nodule"]), refused(lateral())]
        return [result.data for result in build_results(sources, provenance())]

    assert build() == build()


@pytest.mark.parametrize(
    "other",
    [
        provenance(identity="job-2"),
        provenance(digest="99" * 32),
        dataclasses.replace(provenance(), config_digest="77" * 32),
    ],
    ids=["job", "model", "settings"],
)
def test_another_job_model_or_setting_gives_other_instances(other: object) -> None:
    sources = [analysed(header(), ["pneumonia"])]
    first = {result.ref.sop_instance_uid for result in build_results(sources, provenance())}
    second = {result.ref.sop_instance_uid for result in build_results(sources, other)}
    assert len(first) == len(second) == 2
    assert not first & second


def test_series_are_one_per_kind_and_model_and_never_the_source_s() -> None:
    sources = [analysed(header(), ["pneumonia", "effusion"])]
    report, *pictures = build_results(sources, provenance())
    again = build_results(sources, provenance(identity="job-2"))
    assert report.ref.series_instance_uid == again[0].ref.series_instance_uid
    assert len({picture.ref.series_instance_uid for picture in pictures}) == 1
    series = {report.ref.series_instance_uid, pictures[0].ref.series_instance_uid, "1.2.3.4.2"}
    assert len(series) == 3
    assert [read(result.data).SeriesNumber for result in (report, *pictures)] == [9500, 9501, 9501]


def test_parts_of_a_uid_cannot_run_into_each_other() -> None:
    assert derive("a", "bc") != derive("ab", "c")
    assert len(derive("a")) <= 64


def test_what_an_object_says_of_itself_is_what_its_reference_says() -> None:
    for result in build_results([analysed(header(), ["pneumonia"])], provenance()):
        made = read(result.data)
        said = ResultRef(made.SOPClassUID, made.SOPInstanceUID, made.SeriesInstanceUID, made.StudyInstanceUID)
        assert said == result.ref
        assert made.file_meta.TransferSyntaxUID == result.transfer_syntax_uid == "1.2.840.10008.1.2.1"
        assert made.file_meta.MediaStorageSOPInstanceUID == result.ref.sop_instance_uid


def test_the_listener_knows_its_own_results() -> None:
    for result in build_results([analysed(header(), ["pneumonia"])], provenance()):
        assert read(result.data).Manufacturer == MANUFACTURER


def test_every_date_is_the_job_s() -> None:
    for result in build_results([analysed(header(), ["pneumonia"])], provenance()):
        made = read(result.data)
        assert (made.ContentDate, made.ContentTime) == ("20260304", "050607.890000")
        assert (made.InstanceCreationDate, made.InstanceCreationTime) == ("20260304", "050607.890000")


@pytest.mark.parametrize(
    ("sources", "code", "flag"),
    [
        ([analysed(header())], "111241", "COMPLETE"),
        ([analysed(header(), ["pneumonia"])], "111242", "COMPLETE"),
        ([analysed(header()), refused(lateral())], "111243", "PARTIAL"),
        ([analysed(header(), ["pneumonia"]), refused(lateral())], "111244", "PARTIAL"),
        ([refused(lateral())], "111245", "PARTIAL"),
    ],
)
def test_the_summary_says_how_the_run_went(sources: list[SourceResult], code: str, flag: str) -> None:
    report = read(build_results(sources, provenance())[0].data)
    assert (summary(report), report.CompletionFlag) == (code, flag)
    assert (report.VerificationFlag, report.PreliminaryFlag) == ("UNVERIFIED", "PRELIMINARY")


def test_nothing_analysed_says_why_and_finds_nothing() -> None:
    (only,) = build_results([refused(lateral())], provenance())
    report = read(only.data)
    assert groups(report) == []
    assert "not analysed: lateral view (ViewPosition LL); SOP Instance UID 1.2.3.4.9" in comments(report)


def test_a_negative_is_never_a_finding_and_positives_come_first() -> None:
    other = header(SOPInstanceUID="1.2.3.4.8")
    sources = [analysed(header(), (), ["nodule"]), analysed(other, ["cardiomegaly"])]
    listed = []
    for group in groups(read(build_results(sources, provenance())[0].data)):
        found = [i.ConceptCodeSequence[0].CodeMeaning for i in group.ContentSequence if i.ValueType == "CODE"]
        names = [i.ConceptNameCodeSequence[0].CodeMeaning for i in group.ContentSequence]
        listed.append((group.ContentSequence[0].TextValue, "Finding" in names, "Absent" in found))
    assert listed == [
        ("Cardiomegaly [Present]", True, False),
        ("Nodule of lung [Undetermined]", True, False),
        ("AI classification (all labels)", False, True),
        ("AI classification (all labels)", False, True),
    ]


def test_a_revision_names_what_it_supersedes() -> None:
    before = ResultRef("1.2.840.10008.5.1.4.1.1.88.34", "2.25.1", "2.25.2", "1.2.3.4.3")
    report = read(build_results([analysed(header())], provenance(predecessors=(before,)))[0].data)
    (study,) = report.PredecessorDocumentsSequence
    assert study.StudyInstanceUID == "1.2.3.4.3"
    assert study.ReferencedSeriesSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID == "2.25.1"


def test_under_an_older_class_it_names_the_predecessor_that_the_destination_got() -> None:
    first = build_results([analysed(header())], provenance())[0]
    second = build_results([analysed(header())], provenance("job-2", predecessors=(first.ref,)))[0]
    for sop_class in sr_fallbacks()[1:]:
        _, sent = as_sop_class(first.data, sop_class)
        data, _ = as_sop_class(second.data, sop_class)
        (study,) = read(data).PredecessorDocumentsSequence
        (named,) = study.ReferencedSeriesSequence[0].ReferencedSOPSequence
        assert named.ReferencedSOPInstanceUID == sent.sop_instance_uid
        assert named.ReferencedSOPClassUID == sop_class


def test_every_instance_the_tree_names_is_listed_as_evidence_and_no_other() -> None:
    sources = [analysed(header(), ["pneumonia", "effusion"]), refused(lateral())]
    results = build_results(sources, provenance())
    report = read(results[0].data)

    def named(items: list[Dataset]) -> set[str]:
        here = {r.ReferencedSOPInstanceUID for item in items for r in item.get("ReferencedSOPSequence") or []}
        return here.union(*(named(item.get("ContentSequence") or []) for item in items))

    listed = {
        instance.ReferencedSOPInstanceUID
        for study in report.CurrentRequestedProcedureEvidenceSequence
        for series in study.ReferencedSeriesSequence
        for instance in series.ReferencedSOPSequence
    }
    pictures = {result.ref.sop_instance_uid for result in results[1:]}
    assert named(report.ContentSequence) == listed == {"1.2.3.4.1", "1.2.3.4.9", *pictures}


def test_private_label_codes_are_introduced() -> None:
    report = read(build_results([analysed(header(), ["pleural_thickening"])], provenance())[0].data)
    assert report.CodingSchemeIdentificationSequence[0].CodingSchemeDesignator == "99NODE"
    assert private_schemes([CodedConcept("1", "SCT", "One")]) == []


def test_frames_are_named_where_there_are_several() -> None:
    many = header(SOPClassUID="1.2.840.10008.5.1.4.1.1.2.1", NumberOfFrames=8)
    report, picture = build_results([analysed(many, ["pneumonia"], frame=5)], provenance())
    library = read(report.data).ContentSequence[-3].ContentSequence[0].ContentSequence[0]
    assert library.ReferencedSOPSequence[0].ReferencedFrameNumber == 5
    assert read(picture.data).SourceImageSequence[0].ReferencedFrameNumber == 5


def test_a_body_part_in_pairs_has_a_side_or_says_it_is_unknown() -> None:
    sides = {}
    for side in ("L", "X", None):
        made = header(BodyPartExamined="KNEE", Laterality=side) if side else header(BodyPartExamined="KNEE")
        sides[side] = read(build_results([analysed(made, ["pneumonia"])], provenance())[1].data).Laterality
    assert sides == {"L": "L", "X": "", None: ""}
    chest = read(build_results([analysed(header(Laterality="L"), ["pneumonia"])], provenance())[1].data)
    assert "Laterality" not in chest
    assert (chest.BodyPartExamined, chest.RecognizableVisualFeatures) == ("CHEST", "NO")


def test_no_name_or_id_is_drawn_or_described() -> None:
    one = build_results([analysed(header(), ["pneumonia"])], provenance())[1]
    other = build_results([analysed(header(PatientName="Else^Someone", PatientID="Q-9"), ["pneumonia"])], provenance())[
        1
    ]
    assert read(one.data).PixelData == read(other.data).PixelData
    assert one.data.count(b"Doe^Jane") == 1


def test_hostile_words_of_a_model_or_a_reason_stay_words() -> None:
    odd = dataclasses.replace(
        finding("pneumonia", analysed(header()).reading.findings[0].presence), display="B\u00fc\u00df\x00\u202ex"
    )
    said = dataclasses.replace(reading(250, 205), findings=(odd,), notes=("note\x1b[31m",))
    sources = [SourceResult(header(), said), refused(lateral(), "<script>alert(1)</script> & \u202e")]
    report = build_results(sources, provenance())[0]
    assert "<script>alert(1)</script> &" in comments(read(report.data))[-1]
    page = readable_html(report.data)
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp;" in page


@pytest.mark.parametrize(
    ("text", "unicode", "wanted"),
    [
        ("Ärzte \u2013 \u201cx\u201d\u2026", False, 'Arzte - "x"...'),
        ("Ärzte", True, "Ärzte"),
        ("\x00\x1b", False, "unknown"),
        ("a" * 99, True, "a" * 64),
        ("肺炎", False, "??"),
    ],
)
def test_words_are_made_to_fit(text: str, unicode: bool, wanted: str) -> None:
    assert fold(text, 64, unicode) == wanted


def test_the_older_classes_hold_the_same_content() -> None:
    report = build_results([analysed(header(), ["pneumonia"])], provenance())[0]
    best, *older = sr_fallbacks()
    assert as_sop_class(report.data, best) == (report.data, report.ref)
    uids = {report.ref.sop_instance_uid}
    for sop_class in older:
        data, ref = as_sop_class(report.data, sop_class)
        made = read(data)
        assert (made.SOPClassUID, made.file_meta.MediaStorageSOPClassUID) == (sop_class, sop_class)
        assert made.ContentSequence == read(report.data).ContentSequence
        uids.add(ref.sop_instance_uid)
    assert len(uids) == 3
    with pytest.raises(ValueError, match="no class of report"):
        as_sop_class(report.data, "1.2.840.10008.5.1.4.1.1.7")


def test_bytes_that_are_no_report_are_refused() -> None:
    picture = build_results([analysed(header(), ["pneumonia"])], provenance())[1]
    for data, why in ((picture.data, "no structured report"), (b"words", "no DICOM file")):
        with pytest.raises(UnreadableError, match=why):
            as_sop_class(data, sr_fallbacks()[1])
        with pytest.raises(UnreadableError, match=why):
            readable_html(data)


def test_the_page_tells_the_findings_and_the_warning() -> None:
    report = build_results([analysed(header(), ["pneumonia"]), refused(lateral())], provenance())[0]
    page = readable_html(report.data)
    assert "<td>Pneumonia [Present]</td><td>Pneumonia</td><td>Present</td><td>0.871</td>" in page
    assert "not analysed: lateral view" in page
    assert "Not for clinical use" in page
    assert '<html lang="en">' in page


def test_misuse_is_named() -> None:
    with pytest.raises(ValueError, match="at least one source"):
        build_results([], provenance())
    naive = dataclasses.replace(provenance(), created_at=datetime(2026, 1, 1))  # noqa: DTZ001
    with pytest.raises(ValueError, match="time zone"):
        build_results([analysed(header())], naive)
    with pytest.raises(ValueError, match="no picture"):
        build_results([dataclasses.replace(analysed(header(), ["pneumonia"]), picture=None)], provenance())
    with pytest.raises(UnreadableError, match="several studies"):
        build_results([analysed(header()), refused(header(StudyInstanceUID="1.2.9"))], provenance())
    with pytest.raises(UnreadableError, match="no rows and columns"):
        build_results([SourceResult(header(Rows=None), reading(9, 9))], provenance())
