"""A training run as one TOML file: which data, which network, how it learns, and what its bundle says of itself.

    >>> plan = read_plan(Path("chest.toml"))
    >>> plan.network.backbone, plan.training.finetune.epochs
    ('densenet121', 10)

Paths in the file are relative to the folder of the data, or for weights to that of the weights; both are the file's own
folder unless the command names others. Importing this module loads no TensorFlow.
"""

from __future__ import annotations

import tomllib
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import Field, ValidationError, model_validator

from models import backbones
from models.datasets import KINDS
from models.errors import DatasetError, ManifestError
from models.manifest import AdmissionRules, Change, Label, Part, SeriesRules
from models.preprocess import Steps, parse_steps
from models.training.recipe import Augment, Training

CHANNELS = 3
"""Of every backbone here: all were made for colour photographs."""

__all__ = ["AS_WRITTEN", "Changes", "DataSet", "Folders", "Plan", "loader_options", "read_plan"]


class DataSet(Part):
    """One of several sets of a plan. kind, options: as `models.datasets.read` takes them.

    folder: below the images' folder, where this set's images lie. source: of all its images, where its own names of
    sources are none, or those of another set too. labels: which of the bundle's it knows, all by default; of the others
    its images tell nothing (or, of classes, that they are none).
    """

    kind: str
    options: dict[str, Any] = Field(default_factory=dict)
    folder: str = ""
    source: str = ""
    labels: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _known(self) -> DataSet:
        if self.kind not in KINDS:
            raise ValueError(f"kind {self.kind} is none of {', '.join(sorted(KINDS))}")
        if "labels" in self.options or "images" in self.options:
            raise ValueError("labels are those of [[bundle.labels]], in that order, and images has its own key")
        return self


class Data(Part):
    """kind, options: of the one set, as in DataSet; or ``sets``, several of them. images: the images' folder.

    uncertain, smooth: what an uncertain label counts as (`models.datasets.targets`).
    most_bad: the fraction of images that may be missing or damaged; they are counted and left out.
    """

    kind: str = ""
    options: dict[str, Any] = Field(default_factory=dict)
    sets: tuple[DataSet, ...] = ()
    images: Path
    uncertain: Literal["ones", "zeros", "ignore", "smooth"] = "ignore"
    smooth: float = Field(default=0.7, ge=0, le=1)
    most_bad: float = Field(default=0.01, ge=0, le=1)

    @property
    def every_set(self) -> tuple[DataSet, ...]:
        return self.sets or (DataSet(kind=self.kind, options=self.options),)

    @model_validator(mode="after")
    def _one_way(self) -> Data:
        if bool(self.sets) == bool(self.kind or self.options):
            raise ValueError("give kind and options of one set, or [[data.sets]] with those of each")
        _ = self.every_set
        return self


class Split(Part):
    """Fractions of the patients. official: parts that the data set itself has stay as they are."""

    train: float = Field(default=0.7, gt=0, lt=1)
    validation: float = Field(default=0.15, gt=0, lt=1)
    test: float = Field(default=0.15, ge=0, lt=1)
    salt: str = "1"
    official: bool = True

    @property
    def fractions(self) -> dict[str, float]:
        return {"train": self.train, "validation": self.validation, "test": self.test}


CenterWidth = tuple[float, Annotated[float, Field(gt=0)]]


class Input(Part):
    """side: rows and columns, pixels. slices: of a series that are read together; 0 for single images.

    series: which series the bundle reads (`models.manifest.SeriesRules`); without it those of ``slices`` or more
    slices, none of them missing. Training leaves out those that the bundle would refuse, and says why.
    window, normalise, crop: parameters of these steps of :mod:`models.preprocess`; without ``normalise`` or ``crop``
    there is no such step. windows: three of them instead, (center, width) in modality units, one for each channel.
    """

    side: int = Field(ge=8, le=1024)
    slices: int = Field(default=0, ge=0, le=256)
    window: dict[str, Any] = Field(default_factory=lambda: {"mode": "file"})
    windows: tuple[CenterWidth, ...] = ()
    normalise: dict[str, Any] | None = None
    crop: dict[str, Any] | None = None
    resample: Literal["bilinear", "bicubic", "lanczos"] = "bilinear"
    series: SeriesRules | None = None

    @property
    def series_rules(self) -> SeriesRules | None:
        """None for single images."""
        return self.series or (SeriesRules(min_slices=self.slices) if self.slices else None)

    @model_validator(mode="after")
    def _more_than_one_slice(self) -> Input:
        if self.slices == 1:
            raise ValueError("slices is 0 for single images, or 2 and more")
        if self.series is not None and not self.slices:
            raise ValueError("series belongs to slices")
        return self

    @model_validator(mode="after")
    def _one_way_to_window(self) -> Input:
        if self.windows and len(self.windows) != CHANNELS:
            raise ValueError(f"windows are {CHANNELS}, one for each channel")
        if self.windows and (self.normalise is not None or "window" in self.model_fields_set):
            raise ValueError("windows take the place of window, and leave no units to normalise")
        return self

    @property
    def contrast(self) -> list[dict[str, Any]]:
        """The steps window and channels. Several windows are a wide one and their places in it."""
        if not self.windows:
            return [{"step": "window", **self.window}, {"step": "channels", "count": CHANNELS}]
        ends = [(center - width / 2, center + width / 2) for center, width in self.windows]
        low, high = min(low for low, _ in ends), max(high for _, high in ends)
        wide = {"mode": "fixed", "center": (low + high) / 2, "width": high - low, "function": "LINEAR_EXACT"}
        ranges = [[(one - low) / (high - low), (other - low) / (high - low)] for one, other in ends]
        return [{"step": "window", **wide}, {"step": "channels", "count": CHANNELS, "ranges": ranges}]


class StartWeights(Part):
    """An npz of `models.backbones.save_weights` or `from_keras_weights`."""

    path: Path
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Network(Part):
    """dropout: the fraction of pooled features dropped in training."""

    backbone: str
    weights: Literal["none", "imagenet"] | StartWeights = "none"
    dropout: float = Field(default=0.2, ge=0, lt=1)

    @model_validator(mode="after")
    def _on_the_list(self) -> Network:
        if self.backbone not in backbones.ARCHITECTURES:
            raise ValueError(f"backbone {self.backbone} is none of {', '.join(sorted(backbones.ARCHITECTURES))}")
        return self


class Operating(Part):
    """Where a label's threshold lies on the validation part.

    youden: where sensitivity + specificity is highest. sensitivity, specificity: the best of the other where this one
    is ``at_least``. grey_sensitivity: undetermined reaches down to where the sensitivity is this; 0 for no grey band.
    """

    rule: Literal["youden", "sensitivity", "specificity"] = "youden"
    at_least: float = Field(default=0.9, gt=0, le=1)
    grey_sensitivity: float = Field(default=0.0, ge=0, lt=1)


class BundlePlan(Part):
    """What the bundle says of itself. gate_quantile: of the gate against unlike images; 0 for no gate."""

    id: str = Field(pattern=r"^[a-z0-9-]{1,64}$")
    name: str = Field(min_length=1, max_length=64)
    version: str = Field(default="1.0.0", pattern=r"^\d+\.\d+\.\d+$")
    manufacturer: str = Field(min_length=1, max_length=64)
    authors: tuple[str, ...] = ()
    licence: str
    notice: str = Field(min_length=1)
    intended_use: str
    regulatory_status: str = "not a medical device; research use"
    limits: tuple[str, ...] = Field(min_length=1)
    contraindications: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    changelog: tuple[Change, ...] = ()
    labels: tuple[Label, ...] = Field(min_length=1)
    urgent: tuple[str, ...] = ()
    operating: Operating = Operating()
    gate_quantile: float = Field(default=0.0, ge=0, lt=1)
    admission: AdmissionRules

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(label.key for label in self.labels)

    @model_validator(mode="after")
    def _urgent_are_labels(self) -> BundlePlan:
        if odd := sorted(set(self.urgent) - set(self.keys)):
            raise ValueError(f"urgent names {', '.join(odd)}, which are no labels")
        if len(set(self.keys)) != len(self.keys):
            raise ValueError("two labels have the same key")
        return self


class Plan(Part):
    """The whole file. Unknown keys are refused."""

    data: Data
    split: Split = Split()
    input: Input
    network: Network
    training: Training
    augment: Augment = Augment()
    bundle: BundlePlan

    @property
    def steps(self) -> Steps:
        """Preprocessing as the bundle will have it; its scale is the backbone's own. Raises ManifestError."""
        steps: list[dict[str, Any]] = [{"step": "crop", **self.input.crop}] if self.input.crop is not None else []
        window, channels = self.input.contrast
        steps += [window, {"step": "invert"}]
        if self.input.normalise is not None:
            steps.append({"step": "normalise", **self.input.normalise})
        side = self.input.side
        steps += [
            {"step": "resize_pad", "rows": side, "columns": side, "resample": self.input.resample},
            channels,
            {"step": "scale", "convention": backbones.info(self.network.backbone).convention},
        ]
        return parse_steps(steps)

    @model_validator(mode="after")
    def _fits(self) -> Plan:
        try:
            _ = self.steps
        except ManifestError as error:
            raise ValueError(str(error)) from error
        if odd := sorted({label for one in self.data.sets for label in one.labels} - set(self.bundle.keys)):
            raise ValueError(f"a set has {', '.join(odd)}, which the bundle does not")
        smallest = backbones.info(self.network.backbone).smallest_side
        if self.input.side < smallest:
            raise ValueError(f"{self.network.backbone} takes no less than {smallest} rows and columns")
        return self


@dataclass(frozen=True)
class Folders:
    """data: what [data] is relative to. weights: what [network.weights] is relative to."""

    data: Path
    weights: Path


@dataclass(frozen=True)
class Changes:
    """To a plan for one run. settings: "table.key = value" each, in TOML. leave_out: labels by their key."""

    settings: tuple[str, ...] = ()
    leave_out: tuple[str, ...] = ()

    @property
    def comment(self) -> str:
        """For the run's copy of the plan, so that the copy and these lines repeat the run; "" without a change."""
        lines = [f"set: {one}" for one in self.settings] + [f"without label: {one}" for one in self.leave_out]
        return "".join(f"# changed for this run, {line}\n" for line in lines)


AS_WRITTEN = Changes()


def read_plan(path: Path, changes: Changes = AS_WRITTEN) -> tuple[Plan, str]:
    """The plan in a file, changed, and the file's own text. Raises DatasetError naming every fault."""
    try:
        text = path.read_text(encoding="utf-8")
        raw = tomllib.loads(text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise DatasetError(f"{path.name} is no readable TOML file: {error}") from error
    for setting in changes.settings:
        raw = _over(raw, _parsed(setting))
    if changes.leave_out:
        raw = _without(raw, changes.leave_out)
    try:
        return Plan.model_validate(raw), text + changes.comment
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'plan'}: {e['msg']}" for e in error.errors())
        raise DatasetError(f"{path.name}: {faults}") from error


def _parsed(setting: str) -> dict[str, Any]:
    try:
        return tomllib.loads(setting)
    except tomllib.TOMLDecodeError as error:
        raise DatasetError(f"{setting!r} is no setting as TOML writes it, as in training.batch = 8: {error}") from error


def _over(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in change.items():
        held = merged.get(key)
        merged[key] = _over(held, value) if isinstance(held, dict) and isinstance(value, dict) else value
    return merged


def _without(raw: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    """What is no table or list where one belongs is left as it is, for the plan's own check to name."""
    bundle = raw.get("bundle", {})
    if not isinstance(bundle, dict):
        return dict(raw)
    labels = [label for label in _list(bundle, "labels") if isinstance(label, dict)]
    if odd := sorted(set(keys) - {str(label.get("key")) for label in labels}):
        raise DatasetError(f"{', '.join(odd)} cannot be left out: the plan has no such label")
    bundle = {**bundle, "labels": [label for label in labels if label.get("key") not in keys]}
    if urgent := _list(bundle, "urgent"):
        bundle["urgent"] = [key for key in urgent if key not in keys]
    data = raw.get("data")
    if isinstance(data, dict) and isinstance(data.get("sets"), list):
        data = {**data, "sets": [_set_without(one, keys) if isinstance(one, dict) else one for one in data["sets"]]}
        return {**raw, "data": data, "bundle": bundle}
    return {**raw, "bundle": bundle}


def _set_without(one: Mapping[str, Any], keys: Sequence[str]) -> Mapping[str, Any]:
    kept = [key for key in _list(one, "labels") if key not in keys]
    # No labels would mean all of them: a set that tells of nothing else stays, and the plan refuses it.
    return {**one, "labels": kept} if kept else one


def _list(table: Mapping[str, Any], key: str) -> list[Any]:
    found = table.get(key)
    return found if isinstance(found, list) else []


def loader_options(plan: Plan, folder: Path, one: DataSet) -> dict[str, Any]:
    """Options for `models.datasets.read` of one of the plan's sets: paths below ``folder``, labels and images from the
    plan."""
    known = import_module(KINDS[one.kind]).Options.model_fields
    options = {
        name: _below(folder, value) if name in known and _is_path(known[name].annotation) else value
        for name, value in one.options.items()
    }
    labels = one.labels or plan.bundle.keys
    return {**options, "labels": list(labels), "images": folder / plan.data.images / one.folder}


def _below(folder: Path, value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: folder / str(one) for key, one in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [folder / str(one) for one in value]
    return folder / str(value)


def _is_path(annotation: Any) -> bool:
    if annotation is Path:
        return True
    union = isinstance(annotation, types.UnionType) or get_origin(annotation) is not None
    return union and any(_is_path(inner) for inner in get_args(annotation))
