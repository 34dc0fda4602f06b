"""What passes between the models and the rest of the node.

Everything here is a frozen value: NumPy arrays and plain Python, no DICOM, no TensorFlow, so that the
processes that only write reports can import it in milliseconds.

Vocabulary: a *label* is what a model can say ("pneumonia"); a *finding* is what it said of one image; a
*reading* is all findings of one image with their explanations.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class CodedConcept:
    """A DICOM code triplet (PS3.3 section 8)."""

    value: str
    scheme: str
    meaning: str


class Presence(StrEnum):
    """What the model says of a label, after its operating point (DICOM CID 240)."""

    PRESENT = "present"
    ABSENT = "absent"
    UNDETERMINED = "undetermined"


class Priority(StrEnum):
    """How soon a person should look."""

    STAT = "stat"
    URGENT = "urgent"
    ROUTINE = "routine"


@dataclass(frozen=True)
class ModelIdentity:
    """Which model said it: enough to find the very same weights again.

    ``bundle_digest`` is the SHA-256 (hex) of the bundle's manifest, which itself lists the SHA-256 of every
    other file; ``weights_digest`` is that of the weights file alone.
    """

    id: str
    name: str
    version: str
    manufacturer: str
    bundle_digest: str
    weights_digest: str
    licence: str


@dataclass(frozen=True)
class LinearWindow:
    """VOI window in modality units (PS3.3 C.11.2.1.2); ``function`` is LINEAR, LINEAR_EXACT or SIGMOID."""

    center: float
    width: float
    function: str = "LINEAR"


@dataclass(frozen=True)
class LookupTable:
    """VOI LUT (PS3.3 C.11.2.1.1): ``values[i]`` for input ``first_mapped + i``, clamped at both ends.

    ``values`` is float32 of shape (entries,) with range [0, 2**bits - 1].
    """

    first_mapped: int
    values: FloatArray
    bits: int


@dataclass(frozen=True)
class GreyImage:
    """One greyscale frame before any model's preprocessing.

    pixels: float32 (rows, columns), modality units (after the modality LUT; Hounsfield for CT), origin top left.
    valid: bool (rows, columns), False where the file says padding; None means every pixel counts.
    voi: the window or LUT the file asks for first; None means the file has none.
    inverted: True for MONOCHROME1 (low values are white). Not yet applied to ``pixels``.
    spacing_mm: (row, column) spacing; None where the file has none.
    """

    pixels: FloatArray
    valid: BoolArray | None = None
    voi: LinearWindow | LookupTable | None = None
    inverted: bool = False
    spacing_mm: tuple[float, float] | None = None


@dataclass(frozen=True)
class Placement:
    """Where the source image lies inside the model's input, so that maps find their way back.

    The source region (top, left, height, width), in source pixels, was drawn at ``target`` (same order, in input
    pixels, fractions allowed) of an input of ``input_shape`` (rows, columns).
    """

    source_shape: tuple[int, int]
    source: tuple[float, float, float, float]
    target: tuple[float, float, float, float]
    input_shape: tuple[int, int]


@dataclass(frozen=True)
class ModelInput:
    """array: float32 (rows, columns, channels) in the range the backbone asks for."""

    array: FloatArray
    placement: Placement


@dataclass(frozen=True)
class Finding:
    """What the model says of one label.

    logit: raw output. probability: calibrated, in [0, 1]. threshold: the operating point, on the same scale as
    ``probability``. ``calibrated`` is False where the bundle has no calibration and the probability is a bare sigmoid
    or softmax.
    """

    key: str
    display: str
    code: CodedConcept
    site: CodedConcept | None
    logit: float
    probability: float
    threshold: float
    operating_point: str
    presence: Presence
    priority: Priority
    calibrated: bool


@dataclass(frozen=True)
class Explanation:
    """Grad-CAM of one label on the network's own grid.

    grid: float32 (h, w), non-negative, scaled so that its maximum is 1 (all zeros stay zeros).
    peak: the maximum before scaling, in logit units per cell.
    slice_index: of the slice it lies on, in the order of its series; 0 for single images.
    """

    label_key: str
    method: str
    grid: FloatArray
    peak: float
    placement: Placement
    slice_index: int = 0


@dataclass(frozen=True)
class SliceWeight:
    """A slice that was read: its place in the order of the series, from 0, and its share of the answer, in [0, 1]."""

    index: int
    weight: float


@dataclass(frozen=True)
class Reading:
    """All findings of one image, or one series, by one model; ``explanations`` only for labels above their operating
    point.

    slices: of a series, those that were read, in its order; their weights add up to 1. () for single images.
    compared: an earlier image of the patient was read beside it.
    """

    findings: tuple[Finding, ...]
    explanations: tuple[Explanation, ...] = ()
    notes: tuple[str, ...] = ()
    slices: tuple[SliceWeight, ...] = ()
    compared: bool = False


@dataclass(frozen=True)
class HeaderFacts:
    """What admission rules and routes may look at: plain strings from the header, never pixels.

    Strings are stripped; an absent attribute is "". ``age_years`` is None where unknown.
    """

    sop_class_uid: str = ""
    modality: str = ""
    body_part: str = ""
    view_position: str = ""
    photometric: str = ""
    study_description: str = ""
    series_description: str = ""
    protocol_name: str = ""
    image_type: tuple[str, ...] = ()
    manufacturer: str = ""
    rows: int = 0
    columns: int = 0
    frames: int = 1
    age_years: float | None = None
    sex: str = ""
    calling_ae: str = ""
    patient_orientation: tuple[str, ...] = ()
    extra: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class SeriesFacts:
    """What admission rules for a series look at: its slices in space.

    slices: how many there are, of one size and orientation. missing: slices that gaps have room for.
    by_position: ordered by their place in space. spacing_mm: usual distance of neighbours; None where unknown.
    """

    slices: int
    missing: int
    by_position: bool
    spacing_mm: float | None


@dataclass(frozen=True)
class Admission:
    """Whether a model may read an image. ``reason`` is for people: "lateral view (ViewPosition LL)"."""

    admitted: bool
    reason: str
