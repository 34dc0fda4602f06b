"""The Key Object Selection that flags images with findings: what a PACS without a report viewer can sort by."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from io import BytesIO

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.sequence import Sequence as Items
from pydicom.uid import UID, ExplicitVRLittleEndian, KeyObjectSelectionDocumentStorage

from db.domain import ResultRef
from db.errors import UnreadableError
from models.contracts import Presence, Priority
from workers.offers import SR_CLASSES
from workers.results import codes, items
from workers.results.contents import Provenance, ResultObject
from workers.results.provenance import code_item, encode, stamp
from workers.results.references import by_series, request_item
from workers.results.source import Source
from workers.results.subject import Subject, put_raw
from workers.results.texts import DISCLAIMER, fold
from workers.results.tree import Part, observer
from workers.results.uids import derive

KIND = "KO"
_SERIES_NUMBER = 9502
_SERIES_DESCRIPTION = "AI Flags (UNVERIFIED)"
_MOST_TEXT = 1024
_REPLACES = "Replaces key object selection"
_REPLACED = re.compile(rf"{_REPLACES} ([0-9.]+)\.(?!\d)")


def build_flags(
    parts: Sequence[Part], report: ResultRef, provenance: Provenance, subject: Subject
) -> ResultObject | None:
    """One selection of the images with positive findings, or of a series' key slice, of their overlays and of the
    report (PS3.3 A.35.4, PS3.16 TID 2010). None where there is no positive finding: nothing is flagged then.
    """
    flagged = [part for part in parts if _positives(part)]
    if not flagged:
        return None
    study_uid = report.study_instance_uid
    ref = ResultRef(
        sop_class_uid=str(KeyObjectSelectionDocumentStorage),
        sop_instance_uid=provenance.instance_uid(KIND, report.sop_instance_uid),
        series_instance_uid=provenance.series_uid(KIND, study_uid),
        study_instance_uid=study_uid,
    )
    pictures = [picture for part in flagged for picture in part.pictures.values()]
    document = _root(ref, [*(_named(part.source) for part in flagged), *pictures, report])
    document.ReferencedRequestSequence = Items([request_item(ref, subject)])
    content = items.sequence(_content(flagged, pictures, report, provenance, subject.holds_unicode))
    put_raw(document, items.CONTENT, "SQ", content)
    stamp(document, provenance, subject)
    subject.apply(document)
    return ResultObject(KIND, ref, str(ExplicitVRLittleEndian), encode(document, provenance.ae_title))


def naming_report(data: bytes, sr_sop_class_uid: str) -> tuple[bytes, ResultRef]:
    """The same selection for a destination that got the report under another SR class, hence under another UID.

    Raises:
        UnreadableError: ``data`` is no selection of ours.
    """
    document = _read(data)
    named = [item for item in _references(document) if item.ReferencedSOPClassUID in SR_CLASSES["auto"]]
    changed = [item for item in named if item.ReferencedSOPClassUID != sr_sop_class_uid]
    for item in changed:
        item.ReferencedSOPInstanceUID = derive("as class", str(item.ReferencedSOPInstanceUID), sr_sop_class_uid)
        item.ReferencedSOPClassUID = UID(sr_sop_class_uid)
    if changed:
        document.SOPInstanceUID = derive("naming class", str(document.SOPInstanceUID), sr_sop_class_uid)
        # The destination got the earlier selection in that way, too.
        for item in document.ContentSequence:
            if item.ValueType == "TEXT" and _REPLACED.search(item.TextValue):
                item.TextValue = _REPLACED.sub(
                    lambda found: f"{_REPLACES} {derive('naming class', found[1], sr_sop_class_uid)}.", item.TextValue
                )
        data = encode(document, str(document.file_meta.get("SourceApplicationEntityTitle", "")))
    return data, ResultRef(
        sop_class_uid=str(document.SOPClassUID),
        sop_instance_uid=str(document.SOPInstanceUID),
        series_instance_uid=str(document.SeriesInstanceUID),
        study_instance_uid=str(document.StudyInstanceUID),
    )


def _read(data: bytes) -> Dataset:
    try:
        document = dcmread(BytesIO(data))
    except (InvalidDicomError, EOFError) as error:
        raise UnreadableError("these bytes are no DICOM file") from error
    if document.get("SOPClassUID") != KeyObjectSelectionDocumentStorage or "ContentSequence" not in document:
        raise UnreadableError("this DICOM file is no key object selection")
    return document


def _references(document: Dataset) -> Iterator[Dataset]:
    """Every reference of a selection: those of its content, and those of its evidence."""
    for item in document.ContentSequence:
        yield from item.get("ReferencedSOPSequence") or ()
    for study in document.get("CurrentRequestedProcedureEvidenceSequence") or ():
        for series in study.ReferencedSeriesSequence:
            yield from series.ReferencedSOPSequence


def _positives(part: Part) -> list[str]:
    """The labels that are present in one source, as people call them, with the priority of those that hasten."""
    reading = part.result.reading
    found = [] if reading is None else [f for f in reading.findings if f.presence is Presence.PRESENT]
    return [f.display if f.priority is Priority.ROUTINE else f"{f.display} ({f.priority.value})" for f in found]


def _named(source: Source) -> ResultRef:
    return ResultRef(source.sop_class_uid, source.sop_instance_uid, source.series_uid, source.study_uid)


def _root(ref: ResultRef, evidence: Sequence[ResultRef]) -> Dataset:
    """The document without its content: PS3.3 C.17.6 and the root of C.17.3."""
    document = Dataset()
    document.SOPClassUID, document.SOPInstanceUID = UID(ref.sop_class_uid), UID(ref.sop_instance_uid)
    document.StudyInstanceUID, document.SeriesInstanceUID = UID(ref.study_instance_uid), UID(ref.series_instance_uid)
    document.Modality, document.SeriesNumber, document.InstanceNumber = KIND, _SERIES_NUMBER, 1
    document.SeriesDescription = _SERIES_DESCRIPTION
    document.ReferencedPerformedProcedureStepSequence = Items([])
    distinct = {one.sop_instance_uid: one for one in evidence}
    document.CurrentRequestedProcedureEvidenceSequence = Items(by_series(distinct.values()))
    document.ValueType, document.ContinuityOfContent = "CONTAINER", "SEPARATE"
    document.ConceptNameCodeSequence = Items([code_item(*codes.OF_INTEREST[:3])])
    template = Dataset()
    template.MappingResource, template.TemplateIdentifier = "DCMR", "2010"
    document.ContentTemplateSequence = Items([template])
    return document


def _content(
    flagged: Sequence[Part], pictures: Sequence[ResultRef], report: ResultRef, provenance: Provenance, unicode: bool
) -> list[bytes]:
    found = dict.fromkeys(name for part in flagged for name in _positives(part))
    model = provenance.model
    words = [DISCLAIMER, f"Flagged by {model.name}, version {model.version}: {', '.join(found)}."]
    # The object has no attribute of its own for what it replaces (PS3.3 A.35.4).
    words += [f"{_REPLACES} {one.sop_instance_uid}." for one in provenance.replaced_flags]
    sources = {part.source.sop_instance_uid: part for part in flagged}
    return [
        items.code(codes.LANGUAGE, codes.ENGLISH, items.MODIFIES),
        *observer(provenance, unicode),
        items.text(codes.KEY_OBJECT_DESCRIPTION, fold(" ".join(words), _MOST_TEXT, unicode)),
        *(
            items.image(None, part.source.sop_class_uid, part.source.sop_instance_uid, part.frames)
            for part in sources.values()
        ),
        *(items.image(None, one.sop_class_uid, one.sop_instance_uid) for one in pictures),
        items.composite(report.sop_class_uid, report.sop_instance_uid),
    ]
