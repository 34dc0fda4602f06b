"""The content tree of a report: PS3.16 TID 1500 with Measurement Groups of TID 1410 and 1501.

A negative is never a Finding, since simple displays list every Finding as one; labels the model denies stand only in
the group of all labels. Groups with findings come first, since viewers open the first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from highdicom.sr import (
    AlgorithmIdentification,
    CodeContentItem,
    CodedConcept,
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
from pydicom.sr.coding import Code

from db.domain import ResultRef
from models.contracts import Finding, Presence, Reading
from workers.results import codes
from workers.results.contents import Provenance, SeriesRead, SourceResult, explanation_of, grouped
from workers.results.provenance import DEVICE_MODEL, MANUFACTURER
from workers.results.regions import Outline, attention_outline, whole_image
from workers.results.source import Source
from workers.results.texts import DISCLAIMER, fold

_CONTAINS = RelationshipTypeValues.CONTAINS
_ALL_LABELS = "AI classification (all labels)"
_MOST_TEXT = 1024
_RANKED_SLICES = 5


@dataclass(frozen=True)
class Evidence:
    """A file that was read as part of a series, and the frames of it (from 1) that were looked at."""

    source: Source
    frames: tuple[int, ...]


@dataclass(frozen=True)
class Part:
    """One source with what became of it; ``pictures`` are the overlays by label key.

    evidence: of a series, the files that were read; the source is its key slice.
    """

    source: Source
    result: SourceResult
    pictures: Mapping[str, ResultRef]
    evidence: tuple[Evidence, ...] = ()

    @property
    def images(self) -> tuple[tuple[Source, list[int] | None], ...]:
        """Every file that was read, with the frames a reference to it names; None where it has one only."""
        if not self.evidence:
            return ((self.source, self.frames),)
        return tuple((one.source, list(one.frames) if one.source.frames > 1 else None) for one in self.evidence)

    @property
    def subject_uid(self) -> str:
        """UID of what was read: of the image, or of the series."""
        return self.source.sop_instance_uid if self.result.series is None else self.source.series_uid

    @property
    def subject(self) -> str:
        """What was read, for people: "SOP Instance UID 1.2.3"."""
        return f"{'SOP' if self.result.series is None else 'Series'} Instance UID {self.subject_uid}"

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the source."""
        if self.result.reading is not None and self.result.reading.explanations:
            return self.result.reading.explanations[0].placement.source_shape
        return self.source.rows, self.source.columns

    @property
    def frames(self) -> list[int] | None:
        """The frames meant by a reference; None where the source has one only."""
        return [self.result.frame] if self.source.frames > 1 else None


def empty_tree() -> ContainerContentItem:
    """The root container alone."""
    root = ContainerContentItem(codes.REPORT, is_content_continuous=False, template_id="1500")
    root.ContentSequence = ContentSequence()
    return root


def content_tree(parts: Sequence[Part], provenance: Provenance, unicode: bool) -> ContainerContentItem:
    """The root container of a report about all sources of a job."""
    root = empty_tree()
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
        referenced_region=_region(finding, part, reading),
    )
    picture = part.pictures.get(finding.key)
    if picture is not None:
        group[0].ContentSequence.append(
            ImageContentItem(
                codes.VISUAL_EXPLANATION, picture.sop_class_uid, picture.sop_instance_uid, relationship_type=_CONTAINS
            )
        )
    return group


def _region(finding: Finding, part: Part, reading: Reading) -> ImageRegion:
    rows, columns = part.shape
    found = explanation_of(reading, finding)
    outline = None if found is None else attention_outline(found, rows, columns)
    return _image_region(part, whole_image(rows, columns) if outline is None else outline)


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
            uid=provenance.tracking_uid(part.subject_uid, ""), identifier=_ALL_LABELS
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
    items.extend(TextContentItem(codes.COMMENT, fold(c, _MOST_TEXT, unicode), _CONTAINS) for c in comments)
    return _container(codes.QUALITATIVE_EVALUATIONS, items)


def _slices(part: Part, series: SeriesRead) -> list[str]:
    """Which slices were looked at, and which of them the answer rests on most."""
    frame = f", frame {part.result.frame}" if part.source.frames > 1 else ""
    ranked = sorted(series.slices, key=lambda one: -one.weight)[:_RANKED_SLICES]
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
