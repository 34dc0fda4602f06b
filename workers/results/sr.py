"""The structured report: Comprehensive 3D SR, and the same content under the two older classes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from io import BytesIO

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.sequence import Sequence as Items
from pydicom.uid import (
    UID,
    Comprehensive3DSRStorage,
    ExplicitVRLittleEndian,
)

from db.domain import ResultRef
from db.errors import UnreadableError
from workers.offers import SR_CLASSES
from workers.results import codes, items
from workers.results.contents import Provenance, ResultObject
from workers.results.provenance import code_item, encode, stamp
from workers.results.references import by_series, request_item
from workers.results.source import Source
from workers.results.subject import Subject, put_raw
from workers.results.tree import Part, content_tree, priors_of
from workers.results.uids import derive

KIND = "SR"
_SERIES_NUMBER = 9500
_SERIES_DESCRIPTION = "AI Results (UNVERIFIED)"
_FALLBACKS = SR_CLASSES["auto"]


def report_ref(parts: Sequence[Part], provenance: Provenance) -> ResultRef:
    """The report's identity: known before it is written."""
    study_uid = parts[0].source.study_uid
    sources = "\\".join(part.subject_uid for part in parts)
    return ResultRef(
        sop_class_uid=str(Comprehensive3DSRStorage),
        sop_instance_uid=provenance.instance_uid(KIND, sources),
        series_instance_uid=provenance.series_uid(KIND, study_uid),
        study_instance_uid=study_uid,
    )


def build_report(parts: Sequence[Part], provenance: Provenance, subject: Subject) -> ResultObject:
    """One report about all sources of a job."""
    ref = report_ref(parts, provenance)
    refused = any(part.result.reading is None for part in parts)
    document = _root(ref, parts, complete=not refused)
    document.ReferencedRequestSequence = Items([request_item(ref, subject)])
    if provenance.predecessors:
        document.PredecessorDocumentsSequence = Items(by_series(provenance.predecessors))
    content = items.sequence(content_tree(parts, provenance, subject.holds_unicode))
    put_raw(document, items.CONTENT, "SQ", content)
    _name_private_schemes(document, parts)
    stamp(document, provenance, subject)
    subject.apply(document)
    data = encode(document, provenance.ae_title)
    return ResultObject(KIND, ref, str(ExplicitVRLittleEndian), data)


def as_sop_class(data: bytes, sop_class_uid: str) -> tuple[bytes, ResultRef]:
    """The same report under another SR class, for a destination that does not take the first.

    It is another instance, whose UID derives from the original's and the class.

    Raises:
        UnreadableError: ``data`` is no SR of ours. ValueError: ``sop_class_uid`` is none of :func:`sr_fallbacks`.
    """
    if sop_class_uid not in _FALLBACKS:
        raise ValueError(f"{sop_class_uid} is no class of report that this node writes")
    dataset = read_report(data)
    if dataset.SOPClassUID != sop_class_uid:
        _relabel(dataset, "SOPInstanceUID", "SOPClassUID", sop_class_uid)
        for reference in _predecessors(dataset):
            # The destination got the earlier report under that class, too.
            _relabel(reference, "ReferencedSOPInstanceUID", "ReferencedSOPClassUID", sop_class_uid)
        data = encode(dataset, str(dataset.file_meta.get("SourceApplicationEntityTitle", "")))
    return data, ResultRef(
        sop_class_uid=sop_class_uid,
        sop_instance_uid=str(dataset.SOPInstanceUID),
        series_instance_uid=str(dataset.SeriesInstanceUID),
        study_instance_uid=str(dataset.StudyInstanceUID),
    )


def _relabel(item: Dataset, instance: str, sop_class: str, sop_class_uid: str) -> None:
    setattr(item, instance, derive("as class", str(item[instance].value), sop_class_uid))
    setattr(item, sop_class, UID(sop_class_uid))


def _predecessors(report: Dataset) -> Iterator[Dataset]:
    for study in report.get("PredecessorDocumentsSequence") or ():
        for series in study.ReferencedSeriesSequence:
            yield from series.ReferencedSOPSequence


def sr_fallbacks() -> tuple[str, ...]:
    """SOP classes of a report, best first."""
    return _FALLBACKS


def read_report(data: bytes) -> Dataset:
    """Parse a report.

    Raises:
        UnreadableError: no DICOM file, or none with a content tree.
    """
    try:
        dataset = dcmread(BytesIO(data))
    except (InvalidDicomError, EOFError) as error:
        raise UnreadableError("these bytes are no DICOM file") from error
    if "ContentSequence" not in dataset or dataset.get("Modality") != KIND:
        raise UnreadableError("this DICOM file is no structured report")
    return dataset


def _root(ref: ResultRef, parts: Sequence[Part], *, complete: bool) -> Dataset:
    """The document without its content: PS3.3 A.35.13, C.17.2 and the root of C.17.3."""
    document = Dataset()
    document.SOPClassUID, document.SOPInstanceUID = UID(ref.sop_class_uid), UID(ref.sop_instance_uid)
    document.StudyInstanceUID, document.SeriesInstanceUID = UID(ref.study_instance_uid), UID(ref.series_instance_uid)
    document.Modality, document.SeriesNumber, document.InstanceNumber = KIND, _SERIES_NUMBER, 1
    document.SeriesDescription = _SERIES_DESCRIPTION
    document.ReferencedPerformedProcedureStepSequence = document.PerformedProcedureCodeSequence = Items([])
    document.CurrentRequestedProcedureEvidenceSequence = Items(by_series(_evidence(parts)))
    earlier = priors_of(parts)
    if earlier:
        # Of another study than the one that was ordered (PS3.3 C.17.2).
        document.PertinentOtherEvidenceSequence = Items(by_series(_ref(one) for one in earlier))
    document.CompletionFlag = "COMPLETE" if complete else "PARTIAL"
    document.VerificationFlag, document.PreliminaryFlag = "UNVERIFIED", "PRELIMINARY"
    document.ValueType, document.ContinuityOfContent = "CONTAINER", "SEPARATE"
    document.ConceptNameCodeSequence = Items([code_item(*codes.REPORT[:3])])
    template = Dataset()
    template.MappingResource, template.TemplateIdentifier = "DCMR", "1500"
    document.ContentTemplateSequence = Items([template])
    return document


def _evidence(parts: Sequence[Part]) -> list[ResultRef]:
    """The sources and their overlays, without repeats."""
    sources = [_ref(source) for p in parts for source, _ in p.images]
    pictures = [ref for p in parts for ref in p.pictures.values()]
    return list({ref.sop_instance_uid: ref for ref in reversed([*sources, *pictures])}.values())[::-1]


def _ref(source: Source) -> ResultRef:
    return ResultRef(source.sop_class_uid, source.sop_instance_uid, source.series_uid, source.study_uid)


def _name_private_schemes(document: Dataset, parts: Sequence[Part]) -> None:
    findings = [f for p in parts if p.result.reading is not None for f in p.result.reading.findings]
    concepts = [c for f in findings for c in (f.code, f.site) if c is not None]
    schemes = codes.private_schemes(concepts)
    if schemes:
        document.CodingSchemeIdentificationSequence = Items(schemes)
