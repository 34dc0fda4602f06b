"""The report as highdicom builds and validates it, slowly: what `workers.results.sr` has to equal byte for byte."""

from __future__ import annotations

from collections.abc import Sequence

from highdicom.sr import (
    AlgorithmIdentification,
    CodeContentItem,
    CodedConcept,
    Comprehensive3DSR,
    ContainerContentItem,
    ContentSequence,
    DeviceObserverIdentifyingAttributes,
    FindingSite,
    GraphicTypeValues,
    ImageContentItem,
    ImageRegion,
    LanguageOfContentItemAndDescendants,
    Measurement,
    MeasurementsAndQualitativeEvaluations,
    ObserverContext,
    PlanarROIMeasurementsAndQualitativeEvaluations,
    QualitativeEvaluation,
    RelationshipTypeValues,
    SourceImageForMeasurementGroup,
    SourceImageForRegion,
    TextContentItem,
    TrackingIdentifier,
)
from highdicom.sr.value_types import ContentItem
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.sr.coding import Code
from pydicom.uid import UID, ExplicitVRLittleEndian

from db.domain import ResultRef
from models.contracts import Finding, Presence, Reading
from workers.results import SourceResult, codes, part_of
from workers.results.contents import Provenance, SeriesRead, grouped
from workers.results.provenance import DEVICE_MODEL, MANUFACTURER, encode, keep_raw, stamp
from workers.results.regions import Outline, whole_image
from workers.results.source import Source
from workers.results.sr import report_ref
from workers.results.subject import ACCESSION_NUMBER, Subject, put_raw, read_subject
from workers.results.texts import DISCLAIMER, fold
from workers.results.tree import Part, region_of

_CONTAINS = RelationshipTypeValues.CONTAINS


def build_reference(sources: Sequence[SourceResult], provenance: Provenance) -> bytes:
    """The file that the first of `workers.results.build_results` has to be."""
    parts = [part_of(source, provenance) for source in sources]
    subject = read_subject(sources[0].header)
    ref = report_ref(parts, provenance)
    document = Comprehensive3DSR(
        evidence=_evidence(parts),
        content=content_tree(parts, provenance, subject.holds_unicode),
        series_instance_uid=ref.series_instance_uid,
        series_number=9500,
        series_description="AI Results (UNVERIFIED)",
        sop_instance_uid=ref.sop_instance_uid,
        instance_number=1,
        manufacturer=MANUFACTURER,
        is_complete=all(part.result.reading is not None for part in parts),
        is_final=False,
        is_verified=False,
        requested_procedures=[_request(ref, subject)],
        previous_versions=[_document(p) for p in provenance.predecessors] or None,
        transfer_syntax_uid=ExplicitVRLittleEndian,
    )
    findings = [f for part in parts if part.result.reading is not None for f in part.result.reading.findings]
    schemes = codes.private_schemes([c for f in findings for c in (f.code, f.site) if c is not None])
    if schemes:
        document.CodingSchemeIdentificationSequence = Items(schemes)
    stamp(document, provenance, subject)
    subject.apply(document)
    return encode(document, provenance.ae_title)


def _evidence(parts: Sequence[Part]) -> list[Dataset]:
    sources = [
        ResultRef(s.sop_class_uid, s.sop_instance_uid, s.series_uid, s.study_uid) for p in parts for s, _ in p.images
    ]
    listed = [_document(ref) for ref in (*sources, *(ref for p in parts for ref in p.pictures.values()))]
    for keyword in ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID"):
        setattr(listed[0], keyword, "")
    listed[0].StudyDate = listed[0].StudyTime = None
    return listed


def _document(ref: ResultRef) -> Dataset:
    item = Dataset()
    item.SOPClassUID, item.SOPInstanceUID = UID(ref.sop_class_uid), UID(ref.sop_instance_uid)
    item.SeriesInstanceUID, item.StudyInstanceUID = UID(ref.series_instance_uid), UID(ref.study_instance_uid)
    return item


def _request(ref: ResultRef, subject: Subject) -> Dataset:
    item = Dataset()
    item.StudyInstanceUID = UID(ref.study_instance_uid)
    item.ReferencedStudySequence = item.RequestedProcedureCodeSequence = Items([])
    item.PlacerOrderNumberImagingServiceRequest = item.FillerOrderNumberImagingServiceRequest = ""
    item.RequestedProcedureID = item.RequestedProcedureDescription = ""
    put_raw(item, ACCESSION_NUMBER, "SH", subject.value(ACCESSION_NUMBER))
    keep_raw(item)
    return item


def content_tree(parts: Sequence[Part], provenance: Provenance, unicode: bool) -> ContainerContentItem:
    """The root container of a report about all sources of a job."""
    root = ContainerContentItem(codes.REPORT, is_content_continuous=False, template_id="1500")
    children = ContentSequence()
    children.extend(LanguageOfContentItemAndDescendants(CodedConcept.from_code(codes.ENGLISH)))
    children.extend(_observer(provenance, unicode))
    children.append(
        CodeContentItem(
            codes.PROCEDURE_REPORTED, codes.procedure(parts[0].source.modality), RelationshipTypeValues.HAS_CONCEPT_MOD
        )
    )
    children.append(_library(parts))
    children.append(_measurements(parts, provenance, unicode))
    children.append(_evaluations(parts, unicode))
    root.ContentSequence = children
    return root


def _container(name: Code, children: Sequence[ContentItem]) -> ContainerContentItem:
    container = ContainerContentItem(name, is_content_continuous=False, relationship_type=_CONTAINS)
    if children:
        container.ContentSequence = ContentSequence(children)
    return container


def _observer(provenance: Provenance, unicode: bool) -> ObserverContext:
    name = fold(provenance.ae_title, 64, unicode)
    device = DeviceObserverIdentifyingAttributes(
        uid=provenance.device_uid,
        name=name,
        manufacturer_name=MANUFACTURER,
        model_name=DEVICE_MODEL,
        serial_number=name,
    )
    return ObserverContext(CodedConcept.from_code(codes.DEVICE), device)


def _library(parts: Sequence[Part]) -> ContainerContentItem:
    images = [_image(*image) for part in parts for image in part.images]
    return _container(codes.IMAGE_LIBRARY, [_container(codes.IMAGE_LIBRARY_GROUP, images)])


def _image(source: Source, frames: list[int] | None) -> ImageContentItem:
    return ImageContentItem(
        codes.SOURCE,
        source.sop_class_uid,
        source.sop_instance_uid,
        referenced_frame_numbers=frames,
        relationship_type=_CONTAINS,
    )


def _measurements(parts: Sequence[Part], provenance: Provenance, unicode: bool) -> ContainerContentItem:
    read = [(part, part.result.reading) for part in parts if part.result.reading is not None]
    container = _container(codes.IMAGING_MEASUREMENTS, [])
    groups = ContentSequence()
    ranked = [(f, part, reading) for part, reading in read for f in grouped(reading)]
    for finding, part, reading in sorted(ranked, key=lambda entry: entry[0].presence is not Presence.PRESENT):
        groups.extend(_finding_group(finding, part, reading, provenance, unicode))
    # PixelMed, the judge of IHE's profile, wants a region in every group of a report where one group has one.
    bounded = bool(groups)
    for part, reading in read:
        groups.extend(_label_group(part, reading, provenance, unicode, bounded))
    if groups:
        container.ContentSequence = groups
    return container


def _finding_group(
    finding: Finding, part: Part, reading: Reading, provenance: Provenance, unicode: bool
) -> PlanarROIMeasurementsAndQualitativeEvaluations:
    label, presence = codes.code_of(finding.code, unicode), codes.PRESENCE[finding.presence]
    identifier = f"{fold(finding.display, 64, unicode)} [{presence.meaning}]"
    calibrated = "yes" if finding.calibrated else "no"
    group = PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(
            uid=provenance.tracking_uid(part.subject_uid, finding.key), identifier=identifier
        ),
        finding_type=label,
        finding_sites=[] if finding.site is None else [FindingSite(codes.code_of(finding.site, unicode))],
        algorithm_id=_algorithm(
            provenance,
            unicode,
            f"threshold={finding.threshold:.3f}",
            f"operating-point={finding.operating_point}",
            f"output=sigmoid; calibrated={calibrated}",
        ),
        measurements=[Measurement(codes.PROBABILITY, value=round(finding.probability, 6), unit=codes.NO_UNITS)],
        qualitative_evaluations=[QualitativeEvaluation(label, presence)],
        geometric_purpose=codes.BOUNDED_BY,
        referenced_region=_image_region(part, region_of(finding, part, reading)),
    )
    picture = part.pictures.get(finding.key)
    if picture is not None:
        group[0].ContentSequence.append(
            ImageContentItem(
                codes.VISUAL_EXPLANATION, picture.sop_class_uid, picture.sop_instance_uid, relationship_type=_CONTAINS
            )
        )
    return group


def _image_region(part: Part, outline: Outline) -> ImageRegion:
    return ImageRegion(
        GraphicTypeValues.POLYLINE,
        outline,
        SourceImageForRegion(
            part.source.sop_class_uid, part.source.sop_instance_uid, referenced_frame_numbers=part.frames
        ),
    )


def _label_group(
    part: Part, reading: Reading, provenance: Provenance, unicode: bool, bounded: bool
) -> MeasurementsAndQualitativeEvaluations:
    # Validators take a group with a site or a number for one with a region, so this one has neither.
    group = MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(
            uid=provenance.tracking_uid(part.subject_uid, ""), identifier="AI classification (all labels)"
        ),
        algorithm_id=_algorithm(provenance, unicode),
        qualitative_evaluations=[
            QualitativeEvaluation(codes.code_of(f.code, unicode), codes.PRESENCE[f.presence]) for f in reading.findings
        ],
        source_images=[
            SourceImageForMeasurementGroup(
                source.sop_class_uid, source.sop_instance_uid, referenced_frame_numbers=frames
            )
            for source, frames in part.images
        ],
    )
    if bounded:
        group[0].ContentSequence.append(_image_region(part, whole_image(*part.shape)))
    return group


def _algorithm(provenance: Provenance, unicode: bool, *parameters: str) -> AlgorithmIdentification:
    model = provenance.model
    return AlgorithmIdentification(
        name=fold(model.name, 64, unicode),
        version=fold(model.version, 64, unicode),
        manufacturer=fold(model.manufacturer, 64, unicode),
        parameters=[
            f"weights-sha256={model.weights_digest}",
            f"bundle-sha256={model.bundle_digest}",
            *(fold(parameter, 64, unicode) for parameter in parameters),
        ],
        family=codes.ARTIFICIAL_INTELLIGENCE,
    )


def _evaluations(parts: Sequence[Part], unicode: bool) -> ContainerContentItem:
    readings = [part.result.reading for part in parts if part.result.reading is not None]
    verdict = codes.summary(len(readings), len(parts) - len(readings), any(grouped(r) for r in readings))
    comments = [DISCLAIMER]
    for part in parts:
        if part.result.reading is None:
            comments.append(f"not analysed: {part.result.reason or 'no reason given'}; {part.subject}")
            continue
        comments.append(f"scores of {part.subject}: {_scores(part.result.reading)}")
        if part.result.series is not None:
            comments.extend(_slices(part, part.result.series))
        comments.extend(f"note on {part.subject}: {note}" for note in part.result.reading.notes)
    items: list[ContentItem] = [CodeContentItem(codes.SUMMARY, verdict, _CONTAINS)]
    items.extend(TextContentItem(codes.COMMENT, fold(c, 1024, unicode), _CONTAINS) for c in comments)
    return _container(codes.QUALITATIVE_EVALUATIONS, items)


def _slices(part: Part, series: SeriesRead) -> list[str]:
    """Which slices were looked at, and which of them the answer rests on most."""
    frame = f", frame {part.result.frame}" if part.source.frames > 1 else ""
    ranked = sorted(series.slices, key=lambda one: -one.weight)[:5]
    weights = ", ".join(f"slice {one.number} {one.weight:.2f}" for one in ranked)
    numbers = " ".join(str(one.number) for one in series.slices)
    key = (
        f"key slice, which regions and pictures show: slice {series.key} of {series.count} (weight "
        f"{series.key_weight:.2f}), SOP Instance UID {part.source.sop_instance_uid}{frame}"
    )
    read = (
        f"{len(series.slices)} of the {series.count} slices of {part.subject} were read, evenly spread; heaviest: "
        f"{weights}; all, counted along their normal: {numbers}"
    )
    return [key, read]


def _scores(reading: Reading) -> str:
    return "; ".join(
        f"{f.code.value}|{f.code.scheme}|{f.code.meaning}={f.probability:.4f}/thr={f.threshold:.3f}"
        for f in reading.findings
    )
