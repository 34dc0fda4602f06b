"""`model.json`: what a bundle says of itself, checked before anything else of the bundle is opened.

`manifest.schema.json` beside this file is the same as a JSON Schema, written by :func:`json_schema`.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from models.backbones import ARCHITECTURES
from models.contracts import Priority
from models.errors import BundleFileError, DigestError, ManifestError
from models.preprocess import Steps, check_order

MANIFEST = "model.json"


def _compiles(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"no valid regular expression: {error}") from error
    return pattern


def _inside(path: str) -> str:
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or "\\" in path or not pure.name:
        raise ValueError("a bundle's files lie inside the bundle")
    return path


Pattern = Annotated[str, AfterValidator(_compiles)]
Probability = Annotated[float, Field(ge=0, le=1)]
Side = Annotated[int, Field(ge=1)]


class Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Architecture(Part):
    """A network by name. A ``gap_dense`` head is explained in closed form, any other by its gradient.

    slices, pooling: for a series; so many slices go through the same network, and attention pools them.
    """

    name: str
    input_shape: tuple[Side, Side, Side]
    head: Literal["gap_dense", "other"]
    outputs: int = Field(ge=1)
    slices: Annotated[int, Field(ge=2)] | None = None
    pooling: Literal["attention"] | None = None

    @model_validator(mode="after")
    def _allowed(self) -> Architecture:
        if (self.slices is None) != (self.pooling is None):
            raise ValueError("slices and pooling come together")
        if self.slices is not None and self.head != "gap_dense":
            raise ValueError("slices are pooled before a gap_dense head, and no other")
        if self.name not in ARCHITECTURES:
            raise ValueError(f"architecture {self.name} is none of {', '.join(sorted(ARCHITECTURES))}")
        return self


class BundleFile(Part):
    path: Annotated[str, AfterValidator(_inside)]
    role: Literal["weights", "golden", "card", "notice", "report", "ood", "prior"]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Code(Part):
    value: str = Field(min_length=1, max_length=16)
    scheme: str = Field(min_length=1, max_length=16)
    meaning: str = Field(min_length=1, max_length=64)


class Label(Part):
    """One output. parent: the label that this one is a kind of; laterality: the side it is about, where it has one."""

    key: Annotated[str, Field(pattern=r"^[a-z0-9_]{1,32}$")]
    display: str = Field(min_length=1, max_length=48)
    code: Code
    site: Code | None = None
    laterality: Code | None = None
    parent: str | None = None
    code_verified: bool = False


class AdmissionRules(Part):
    """What the model was made for; see `models.admission`.

    max_pixel_spacing_mm: of Pixel Spacing, else Imager Pixel Spacing, between rows. An image that states no spacing,
    no thickness or no age is not refused for it.
    """

    sop_classes: tuple[str, ...]
    modalities: tuple[str, ...]
    body_parts: tuple[str, ...]
    body_part_pattern: Pattern
    views: tuple[str, ...]
    view_missing_pattern: Pattern
    reject_pattern: Pattern
    photometric: tuple[str, ...]
    min_rows: int = 1
    min_columns: int = 1
    max_frames: int = 1
    min_age_years: float | None = None
    max_pixel_spacing_mm: float | None = Field(default=None, gt=0)
    max_slice_thickness_mm: float | None = Field(default=None, gt=0)
    patient_positions_rejected: tuple[str, ...] = ()


class SeriesRules(Part):
    """Which series a model of slices reads, and how it chooses among their slices; see `models.series`.

    choice: even takes the architecture's number of slices evenly over the sorted series, its ends included.
    min_slices: of a series, after those of another size or orientation are left out.
    max_missing: the share of a series that gaps may have room for. max_spacing_mm: between neighbours.
    position_required: refuse slices that do not say where they lie, since gaps among them cannot be seen.
    """

    choice: Literal["even"] = "even"
    min_slices: int = Field(ge=1)
    max_missing: Probability = 0.0
    max_spacing_mm: float | None = Field(default=None, gt=0)
    position_required: bool = True


class PriorRules(Part):
    """Which earlier studies of the patient a model reads beside an image; see `models.comparison`. The file with role
    prior says how they weigh.

    max: studies to fetch, the latest first; the first image among them that the admission rules let pass is read.
    modality, body_part: any of these, of Modality and Body Part Examined; () takes any. within_days: before the day of
    the study.
    """

    max: int = Field(default=1, ge=1, le=5)
    modality: tuple[Annotated[str, Field(pattern=r"^[A-Z]{1,16}$")], ...] = ()
    body_part: tuple[Annotated[str, Field(pattern=r"^[A-Z0-9 _]{1,16}$")], ...] = ()
    within_days: int = Field(ge=1, le=36525)


class Platt(Part):
    slope: float = Field(gt=0)
    intercept: float


class Calibration(Part):
    """platt: slope and intercept of each label (Platt 1999). temperature: one divisor of all logits (Guo 2017)."""

    method: Literal["platt", "temperature"]
    labels: dict[str, Platt] = {}
    temperature: Annotated[float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _has_its_own_parameters(self) -> Calibration:
        given = (bool(self.labels), self.temperature is not None)
        if given != ((True, False) if self.method == "platt" else (False, True)):
            raise ValueError("platt needs labels and no temperature, temperature needs a temperature and no labels")
        return self


class Figure(Part):
    """A measured value with its 95 % interval."""

    value: float
    low: float
    high: float


class OperatingPoint(Part):
    label: str
    name: str
    threshold: Probability
    undetermined_low: Probability | None = None
    undetermined_high: Probability | None = None
    priority: Priority = Priority.ROUTINE
    sensitivity: Figure
    specificity: Figure

    @model_validator(mode="after")
    def _grey_band_ends_at_the_threshold(self) -> OperatingPoint:
        if self.undetermined_low is not None and self.undetermined_low > self.threshold:
            raise ValueError("undetermined_low lies above the threshold")
        if self.undetermined_high not in (None, self.threshold):
            raise ValueError("undetermined_high is the threshold, or is left out")
        return self


class ExplanationRules(Part):
    method: Literal["grad-cam"]
    grid: tuple[Side, Side]


class OutOfDistribution(Part):
    """When an image counts as unlike the training images; see `models.gate`. The arrays are the file with role ood.

    quantile: the share of held-out images of the training's own kind that lie within ``threshold``.
    """

    method: Literal["mahalanobis"]
    threshold: float = Field(gt=0)
    quantile: Probability


class Change(Part):
    """What one version changed."""

    version: Annotated[str, Field(pattern=r"^\d+\.\d+\.\d+$")]
    text: str = Field(min_length=1)


class Runtime(Part):
    cpu: Literal["litert", "keras"] = "litert"
    gpu: Literal["keras"] = "keras"


class Manifest(Part):
    """The whole of `model.json`. Unknown keys are refused.

    exclusive: exactly one label holds for an image, so that their probabilities add up to one (softmax).
    series: for models of slices, and only for them. priors: for models that compare with earlier studies.
    """

    schema_: Literal["radnode.bundle/1"] = Field(alias="schema")
    id: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,64}$")]
    name: str = Field(min_length=1, max_length=64)
    version: Annotated[str, Field(pattern=r"^\d+\.\d+\.\d+$")]
    manufacturer: str = Field(min_length=1, max_length=64)
    authors: tuple[Annotated[str, Field(min_length=1, max_length=128)], ...] = ()
    created: AwareDatetime
    licence: str
    intended_use: str
    regulatory_status: str
    limits: tuple[str, ...]
    contraindications: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    changelog: tuple[Change, ...] = ()
    architecture: Architecture
    files: tuple[BundleFile, ...]
    labels: tuple[Label, ...]
    exclusive: bool = False
    admission: AdmissionRules
    series: SeriesRules | None = None
    priors: PriorRules | None = None
    preprocessing: Steps
    calibration: Calibration | None
    operating_points: tuple[OperatingPoint, ...]
    ood: OutOfDistribution | None = None
    explanation: ExplanationRules
    runtime: Runtime = Runtime()
    training: dict[str, Any]
    evaluation: dict[str, Any]

    @model_validator(mode="after")
    def _fits_together(self) -> Manifest:
        keys = [label.key for label in self.labels]
        if len(keys) != self.architecture.outputs or len(set(keys)) != len(keys):
            raise ValueError("the labels must be distinct, and as many as the network has outputs")
        if any(
            label.parent is not None and (label.parent not in keys or label.parent == label.key)
            for label in self.labels
        ):
            raise ValueError("a label's parent is another label of the bundle")
        if sorted(point.label for point in self.operating_points) != sorted(keys):
            raise ValueError("every label needs exactly one operating point")
        if self.calibration is not None and self.calibration.method == "platt":
            if set(self.calibration.labels) != set(keys):
                raise ValueError("the calibration must name every label")
            if self.exclusive:
                raise ValueError("exclusive labels share one softmax, which a temperature calibrates, not platt")
        if self.exclusive and len(keys) < 2:
            raise ValueError("exclusive labels are at least two")
        if self.architecture.head == "other" and self.runtime.cpu != "keras":
            raise ValueError("a head that is not gap_dense needs the keras runtime, for its gradient")
        if (self.series is None) != (self.architecture.slices is None):
            raise ValueError("series belongs to an architecture with slices, and to no other")
        if self.priors is not None and (self.architecture.head != "gap_dense" or self.series is not None):
            raise ValueError("priors are weighed beside a gap_dense head of single images, and no other")
        return self

    @model_validator(mode="after")
    def _files_are_complete(self) -> Manifest:
        roles, paths = [entry.role for entry in self.files], [entry.path for entry in self.files]
        if roles.count("weights") != 1 or roles.count("golden") != 1:
            raise ValueError("the files must hold exactly one with role weights and one with role golden")
        if roles.count("ood") != (0 if self.ood is None else 1):
            raise ValueError("a file with role ood and the section ood come together, one each")
        if roles.count("prior") != (0 if self.priors is None else 1):
            raise ValueError("a file with role prior and the section priors come together, one each")
        if len(set(paths)) != len(paths) or MANIFEST in paths:
            raise ValueError(f"every file is listed once, and {MANIFEST} is not")
        return self

    @model_validator(mode="after")
    def _steps_end_in_the_input(self) -> Manifest:
        try:
            check_order(self.preprocessing)
        except ManifestError as error:
            raise ValueError(str(error)) from error
        drawn = next((step.rows, step.columns) for step in self.preprocessing if step.step == "resize_pad")
        channels = next(step.count for step in self.preprocessing if step.step == "channels")
        if (*drawn, channels) != self.architecture.input_shape:
            raise ValueError(f"preprocessing ends in {(*drawn, channels)}, not in the architecture's input_shape")
        return self

    def file(self, role: str) -> str:
        """The path of the first file with that role. Raises ManifestError when there is none."""
        for entry in self.files:
            if entry.role == role:
                return entry.path
        raise ManifestError(f"bundle {self.id} lists no file with role {role}")


def read_manifest(folder: Path) -> tuple[Manifest, str]:
    """The manifest of a bundle and its SHA-256 (hex). Raises ManifestError."""
    try:
        raw = (folder / MANIFEST).read_bytes()
    except OSError as error:
        raise ManifestError(f"bundle {folder.name} has no readable {MANIFEST}") from error
    return parse_manifest(raw, folder.name), hashlib.sha256(raw).hexdigest()


def parse_manifest(raw: bytes, name: str) -> Manifest:
    """The manifest in these bytes; ``name`` is what messages call the bundle. Raises ManifestError."""
    try:
        return Manifest.model_validate_json(raw)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or MANIFEST}: {e['msg']}" for e in error.errors())
        raise ManifestError(f"bundle {name}: {problems}") from error


def json_schema() -> str:
    """The manifest's JSON Schema (2020-12) as text, for editors and other tools."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema"} | Manifest.model_json_schema(by_alias=True)
    return json.dumps(schema, indent=2) + "\n"


def verify_files(folder: Path, manifest: Manifest) -> None:
    """Hold every file against its digest, and refuse files nobody listed. Raises BundleFileError or DigestError."""
    listed = {entry.path for entry in manifest.files} | {MANIFEST}
    present = {str(p.relative_to(folder).as_posix()) for p in folder.rglob("*") if p.is_symlink() or not p.is_dir()}
    if present - listed:
        raise BundleFileError(f"bundle {manifest.id} holds files its manifest does not list; install it again")
    for entry in manifest.files:
        path = folder / entry.path
        if path.is_symlink() or not path.is_file():
            raise BundleFileError(f"bundle {manifest.id} lacks {entry.path}, or it is no regular file")
        if digest_of(path) != entry.sha256:
            raise DigestError(f"bundle {manifest.id}: {entry.path} is not what it was; install the bundle again")


def digest_of(path: Path) -> str:
    """SHA-256 (hex) of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
