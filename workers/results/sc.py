"""The overlay as Secondary Capture Image: what every viewer shows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from highdicom.sc import SCImage
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import UID, ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from db.domain import ResultRef
from models.contracts import CodedConcept, Explanation, Finding
from workers.results.contents import Provenance, ResultObject, SeriesRead
from workers.results.overlay import Caption, draw_overlay
from workers.results.provenance import DEVICE_MODEL, MANUFACTURER, code_item, encode, stamp
from workers.results.source import Source
from workers.results.subject import Subject
from workers.results.texts import DISCLAIMER, fold, long_string

KIND = "SC"
_SERIES_NUMBER = 9501
_SERIES_DESCRIPTION = "AI Grad-CAM (NOT FOR DIAGNOSIS)"
_CHEST_SITES = frozenset({"39607008", "3120008", "80891009"})  # lung, pleura, heart
_CHEST = frozenset({"CHEST", "THORAX", "LUNG", "HEART", "RIBCAGE", "RIB", "STERNUM", "MEDIASTINUM"})
_HEAD = frozenset({"HEAD", "BRAIN", "SKULL", "FACE", "HEADNECK", "SINUS", "NECK", "ORBIT", "EYE"})
_OTHER_UNPAIRED = frozenset(
    {"ABDOMEN", "PELVIS", "CSPINE", "TSPINE", "LSPINE", "SSPINE", "SPINE", "COCCYX", "SACRUM", "LIVER", "WHOLEBODY"}
)


def picture_ref(source: Source, finding: Finding, provenance: Provenance) -> ResultRef:
    """The overlay's identity: known before it is drawn."""
    return ResultRef(
        sop_class_uid=str(SecondaryCaptureImageStorage),
        sop_instance_uid=provenance.instance_uid(KIND, source.sop_instance_uid, finding.key),
        series_instance_uid=provenance.series_uid(KIND, source.study_uid),
        study_instance_uid=source.study_uid,
    )


@dataclass(frozen=True)
class Shown:
    """One finding with its map (``found``), and the source's picture and frame (from 1) it is drawn on.

    series: of which the source is the key slice; None for single images.
    """

    source: Source
    finding: Finding
    found: Explanation
    picture: NDArray[np.uint8]
    frame: int
    series: SeriesRead | None = None

    @property
    def place(self) -> str:
        """ "slice 57 of 148"; "" for single images."""
        return "" if self.series is None else f"slice {self.series.key} of {self.series.count}"


def build_picture(shown: Shown, number: int, provenance: Provenance, subject: Subject) -> ResultObject:
    """One label's overlay. ``number`` is its Instance Number."""
    source, finding = shown.source, shown.finding
    ref = picture_ref(source, finding, provenance)
    image = _image(ref, number, draw_overlay(shown.picture, shown.found, _caption(shown, provenance)))
    pixels = image.PixelData
    image.add_new(0x7FE00010, "OB", pixels)
    _describe(image, shown, provenance, subject)
    _refer(image, source, shown.frame)
    _place(image, source, finding.site)
    stamp(image, provenance, subject)
    image.DateOfSecondaryCapture, image.TimeOfSecondaryCapture = image.ContentDate, image.ContentTime
    subject.apply(image)
    return ResultObject(KIND, ref, str(ExplicitVRLittleEndian), encode(image, provenance.ae_title))


def warm_up() -> None:
    """Have highdicom read its tables of attributes: 0.4 s, which the first finding would wait for otherwise."""
    nothing = ResultRef(str(SecondaryCaptureImageStorage), "1.2", "1.2.3", "1.2.4")
    _image(nothing, 1, np.zeros((2, 2, 3), np.uint8))


def _image(ref: ResultRef, number: int, pixels: NDArray[np.uint8]) -> SCImage:
    return SCImage(
        pixel_array=pixels,
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        # Replaced by the source's own: highdicom takes none that is unknown.
        patient_orientation=("L", "F"),
        study_instance_uid=ref.study_instance_uid,
        series_instance_uid=ref.series_instance_uid,
        series_number=_SERIES_NUMBER,
        series_description=_SERIES_DESCRIPTION,
        sop_instance_uid=ref.sop_instance_uid,
        instance_number=number,
        manufacturer=MANUFACTURER,
        transfer_syntax_uid=ExplicitVRLittleEndian,
    )


def _caption(shown: Shown, provenance: Provenance) -> Caption:
    finding, model = shown.finding, provenance.model
    how = "calibrated" if finding.calibrated else "not calibrated"
    at = f"operating point {finding.threshold:.2f} ({finding.operating_point})"
    return Caption(
        label=finding.display,
        score=f"Probability {in_words(finding.probability)} ({how}), {at}",
        model=f"{f'{shown.place.capitalize()}. ' if shown.place else ''}{model.name}, version {model.version}",
    )


def in_words(probability: float) -> str:
    """Two decimals, but never the certainty of 0.00 or 1.00."""
    if probability > 0.99:
        return "> 0.99"
    return "< 0.01" if probability < 0.01 else f"{probability:.2f}"


def _describe(image: Dataset, shown: Shown, provenance: Provenance, subject: Subject) -> None:
    place = "" if shown.series is None else f" on {shown.place}, which weighs {shown.series.key_weight:.2f} of 1"
    model, unicode = provenance.model, subject.holds_unicode
    image.ConversionType = "WSD"
    image.BurnedInAnnotation = "YES"
    image.SecondaryCaptureDeviceManufacturer = MANUFACTURER
    image.SecondaryCaptureDeviceManufacturerModelName = DEVICE_MODEL
    image.SecondaryCaptureDeviceSoftwareVersions = long_string(provenance.software_version, unicode)
    image.DerivationDescription = fold(
        f"Grad-CAM of {shown.finding.display}{place} by {model.name} version {model.version}; "
        f"weights-sha256={model.weights_digest}",
        1024,
        unicode,
    )
    image.DerivationCodeSequence = Sequence([code_item("130403", "DCM", "Gradient-weighted class activation")])
    image.ImageComments = DISCLAIMER


def _refer(image: Dataset, source: Source, frame: int) -> None:
    origin = _reference(source, frame)
    origin.PurposeOfReferenceCodeSequence = Sequence(
        [code_item("121322", "DCM", "Source image for image processing operation")]
    )
    # Scaled and set into a margin: no pixel is where it was, so no mark may be carried from one to the other.
    origin.SpatialLocationsPreserved = "NO"
    image.SourceImageSequence = Sequence([origin])
    series = Dataset()
    series.SeriesInstanceUID = UID(source.series_uid)
    series.ReferencedInstanceSequence = Sequence([_reference(source, frame)])
    image.ReferencedSeriesSequence = Sequence([series])
    if source.is_lossy:
        image.LossyImageCompression = "01"
        if source.lossy_ratios and len(source.lossy_ratios) == len(source.lossy_methods):
            image.LossyImageCompressionRatio = list(source.lossy_ratios)
            image.LossyImageCompressionMethod = list(source.lossy_methods)


def _reference(source: Source, frame: int) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = UID(source.sop_class_uid)
    item.ReferencedSOPInstanceUID = UID(source.sop_instance_uid)
    if source.frames > 1:
        item.ReferencedFrameNumber = frame
    return item


def _place(image: Dataset, source: Source, site: CodedConcept | None) -> None:
    """Orientation and body part. A body part that comes in pairs needs a side (PS3.3 C.7.3.1, Type 2C)."""
    image.PatientOrientation = list(source.orientation) or None
    if source.body_part in _CHEST or (not source.body_part and site is not None and site.value in _CHEST_SITES):
        image.BodyPartExamined, image.RecognizableVisualFeatures = "CHEST", "NO"
    elif source.body_part in _HEAD:
        image.BodyPartExamined, image.RecognizableVisualFeatures = source.body_part, "YES"
    elif source.body_part in _OTHER_UNPAIRED:
        image.BodyPartExamined, image.RecognizableVisualFeatures = source.body_part, "NO"
    else:
        image.Laterality = source.laterality
        if source.body_part:
            image.BodyPartExamined = source.body_part
