"""From a grey image to a model's input, step by step as the bundle's manifest says.

Training and serving share this one path: a bundle is trained through the very steps it is served with.
A step is a small frozen value with an ``apply``; the discriminated union :data:`Step` is the registry, and a name
that is not in it does not parse.

    >>> steps = parse_steps([{"step": "window"}, {"step": "invert"},
    ...                      {"step": "resize_pad", "rows": 224, "columns": 224},
    ...                      {"step": "channels"}, {"step": "scale", "convention": "efficientnet_lite"}])
    >>> apply(steps, grey_from_uint8(jpeg)).array.shape
    (224, 224, 3)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from models.contracts import BoolArray, FloatArray, GreyImage, LinearWindow, LookupTable, ModelInput, Placement
from models.conventions import CONVENTIONS
from models.errors import ManifestError, PreprocessError
from models.voi import foreground_window, percentile_window, window

SMALLEST_SIDE_PIXELS = 8
"""Fewer rows or columns than this cannot be a radiograph, and most resampling has no meaning on them."""

MOST_PADDING_FRACTION = 0.98
"""With less than 2 % of the image outside padding there is nothing to read."""

_RESAMPLING = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


@dataclass(frozen=True)
class Frame:
    """An image on its way through the steps.

    pixels: float32 (rows, columns), after ``channels`` (rows, columns, channels).
    valid: bool (rows, columns), False for padding; None means every pixel counts.
    inverted: low values still stand for white.
    windowed: pixels are in [0, 1].
    placement: where the source lies in ``pixels``.
    notes: what a reader of the result should know about the path taken.
    """

    pixels: FloatArray
    valid: BoolArray | None
    voi: LinearWindow | LookupTable | None
    inverted: bool
    spacing_mm: tuple[float, float] | None
    placement: Placement
    windowed: bool = False
    notes: tuple[str, ...] = ()

    def values(self) -> FloatArray:
        """The pixels that statistics may look at, float32 (n,) or (rows, columns)."""
        return self.pixels if self.valid is None else self.pixels[self.valid]


Range = Annotated[tuple[float, float], Field(strict=False)]


class _Step(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Window(_Step):
    """Contrast as in PS3.3 C.11.2: modality units to [0, 1]; padding becomes 0.

    ``file``: the window or LUT the file asks for first; where it has none, or one that leaves nothing of this image,
    the ``percentile`` rule. ``fixed``: ``center`` and ``width`` in modality units, as for Hounsfield windows.
    """

    step: Literal["window"] = "window"
    mode: Literal["file", "percentile", "fixed"] = "file"
    center: float | None = None
    width: float | None = Field(default=None, gt=0)
    function: Literal["LINEAR", "LINEAR_EXACT", "SIGMOID"] = "LINEAR"
    low_percentile: float = Field(default=0.5, ge=0, lt=50)
    high_percentile: float = Field(default=99.5, gt=50, le=100)

    @model_validator(mode="after")
    def _fixed_has_a_window(self) -> Window:
        if (self.mode == "fixed") != (self.center is not None and self.width is not None):
            raise ValueError("'center' and 'width' belong to mode 'fixed', and only to it")
        return self

    def apply(self, frame: Frame) -> Frame:
        """Returns ``frame`` with pixels in [0, 1]."""
        notes = frame.notes
        pixels = self._as_asked(frame)
        if pixels is None:
            if self.mode == "file":
                notes = (*notes, _no_file_window_note(frame))
            pixels = percentile_window(frame.pixels, frame.values(), self.low_percentile, self.high_percentile)
        return replace(frame, pixels=_padding_black(pixels, frame.valid), windowed=True, notes=notes)

    def _as_asked(self, frame: Frame) -> FloatArray | None:
        if self.center is not None and self.width is not None:
            return window(frame.pixels, LinearWindow(self.center, self.width, self.function))
        if self.mode == "percentile" or frame.voi is None:
            return None
        pixels = window(frame.pixels, frame.voi)
        return None if _is_uniform(pixels, frame.valid) else pixels


class Invert(_Step):
    """MONOCHROME1 (PS3.3 C.7.6.3.1.2) becomes MONOCHROME2; anything else passes untouched. Padding stays 0."""

    step: Literal["invert"] = "invert"

    def apply(self, frame: Frame) -> Frame:
        """Returns ``frame`` with high values white."""
        if not frame.inverted:
            return frame
        return replace(frame, pixels=_padding_black(np.float32(1) - frame.pixels, frame.valid), inverted=False)


class Crop(_Step):
    """Cut to the box around everything that is not padding, or to the central square."""

    step: Literal["crop"] = "crop"
    mode: Literal["valid", "centre_square"] = "valid"

    def apply(self, frame: Frame) -> Frame:
        """Returns a view on the cut; the placement tells where it came from."""
        top, left, rows, columns = self._box(frame)
        cut = np.s_[top : top + rows, left : left + columns]
        box = (float(top), float(left), float(rows), float(columns))
        whole = (0.0, 0.0, float(rows), float(columns))
        return replace(
            frame,
            pixels=frame.pixels[cut],
            valid=None if frame.valid is None else frame.valid[cut],
            placement=replace(frame.placement, source=box, target=whole, input_shape=(rows, columns)),
        )

    def _box(self, frame: Frame) -> tuple[int, int, int, int]:
        rows, columns = frame.pixels.shape
        if self.mode == "centre_square":
            side = min(rows, columns)
            return (rows - side) // 2, (columns - side) // 2, side, side
        if frame.valid is None:
            return 0, 0, rows, columns
        kept_rows = np.flatnonzero(frame.valid.any(axis=1))
        kept_columns = np.flatnonzero(frame.valid.any(axis=0))
        top, left = int(kept_rows[0]), int(kept_columns[0])
        height, width = int(kept_rows[-1]) - top + 1, int(kept_columns[-1]) - left + 1
        _refuse_small(height, width, "without its padding")
        return top, left, height, width


class Normalise(_Step):
    """Stretch the windowed image so that the two percentiles of its valid pixels become 0 and 1; the rest is clipped.

    Brings files that were windowed by different hands (8-bit exports, 12 to 16-bit originals) onto one contrast.
    foreground: the upper percentile is of what is brighter than the ground, as for MR, where air is most of the image.
    """

    step: Literal["normalise"] = "normalise"
    low_percentile: float = Field(default=1.0, ge=0, lt=50)
    high_percentile: float = Field(default=99.0, gt=50, le=100)
    foreground: bool = False

    def apply(self, frame: Frame) -> Frame:
        """Returns ``frame`` with pixels in [0, 1]."""
        stretch = foreground_window if self.foreground else percentile_window
        pixels = stretch(frame.pixels, frame.values(), self.low_percentile, self.high_percentile)
        return replace(frame, pixels=_padding_black(pixels, frame.valid))


class ResizePad(_Step):
    """Anti-aliased resize that keeps the aspect of the anatomy, centred on ``fill``.

    Where the file gives unequal row and column spacing, the aspect is that of millimetres, not of pixels.
    """

    step: Literal["resize_pad"] = "resize_pad"
    rows: int = Field(gt=0, le=4096)
    columns: int = Field(gt=0, le=4096)
    fill: float = Field(default=0.0, ge=0, le=1)
    resample: Literal["bilinear", "bicubic", "lanczos"] = "bilinear"

    def apply(self, frame: Frame) -> Frame:
        """Returns float32 (``rows``, ``columns``); the padding mask is used up."""
        height, width = self._drawn_size(frame)
        top, left = (self.rows - height) // 2, (self.columns - width) // 2
        drawn = Image.fromarray(np.ascontiguousarray(frame.pixels)).resize((width, height), _RESAMPLING[self.resample])
        canvas = np.full((self.rows, self.columns), self.fill, dtype=np.float32)
        # Bicubic and Lanczos overshoot at edges; what follows expects [0, 1].
        canvas[top : top + height, left : left + width] = np.clip(np.asarray(drawn, dtype=np.float32), 0, 1)
        target = (float(top), float(left), float(height), float(width))
        placement = replace(frame.placement, target=target, input_shape=(self.rows, self.columns))
        return replace(frame, pixels=canvas, valid=None, placement=placement)

    def _drawn_size(self, frame: Frame) -> tuple[int, int]:
        rows, columns = frame.pixels.shape
        row_mm, column_mm = frame.spacing_mm or (1.0, 1.0)
        height_mm, width_mm = rows * row_mm, columns * column_mm
        scale = min(self.rows / height_mm, self.columns / width_mm)
        height, width = round(height_mm * scale), round(width_mm * scale)
        if min(height, width) < 1:
            raise PreprocessError(f"image of {rows} x {columns} pixels is too narrow to be read")
        return height, width


class Channels(_Step):
    """Repeat the grey plane, as networks trained on colour photographs expect; or show a part of its range in each.

    ranges: for each channel what becomes its 0 and its 1, as fractions of the window; the rest is clipped. Three CT
    windows are one wide ``fixed`` window and their places in it.
    """

    step: Literal["channels"] = "channels"
    count: int = Field(default=3, ge=1, le=4)
    ranges: Annotated[tuple[Range, ...] | None, Field(strict=False)] = None

    @model_validator(mode="after")
    def _a_range_for_each(self) -> Channels:
        if self.ranges is not None and len(self.ranges) != self.count:
            raise ValueError(f"{len(self.ranges)} ranges for {self.count} channels")
        if any(not 0 <= low < high <= 1 for low, high in self.ranges or ()):
            raise ValueError("a range goes from a lower to a higher fraction, within 0 and 1")
        return self

    def stretch(self) -> tuple[FloatArray, FloatArray] | None:
        """What the plane is multiplied by and what is added for each channel, before it is clipped to [0, 1]."""
        if self.ranges is None:
            return None
        low, high = np.array(self.ranges, dtype=np.float64).T
        return (1 / (high - low)).astype(np.float32), (-low / (high - low)).astype(np.float32)

    def apply(self, frame: Frame) -> Frame:
        """Returns float32 (rows, columns, ``count``)."""
        pixels = np.repeat(frame.pixels[:, :, np.newaxis], self.count, axis=2)
        if (stretch := self.stretch()) is not None:
            pixels = np.clip(pixels * stretch[0] + stretch[1], 0, 1)
        return replace(frame, pixels=pixels)


class Scale(_Step):
    """From [0, 1] to the numbers that the backbone was trained on (Keras Applications ``preprocess_input``).

    unit: [0, 1]. zero_to_255: EfficientNet B/V2, MobileNetV3, ConvNeXt, which rescale inside.
    minus_one_to_one: ResNetV2, MobileNetV2, Inception, Xception. efficientnet_lite: (255 x - 127) / 128.
    torch: ImageNet mean and deviation (DenseNet). caffe: BGR minus the ImageNet mean (ResNet, VGG).
    """

    step: Literal["scale"] = "scale"
    convention: Literal["unit", "zero_to_255", "minus_one_to_one", "efficientnet_lite", "torch", "caffe"]

    def apply(self, frame: Frame) -> Frame:
        """Returns float32 (rows, columns, channels) in the convention's range."""
        multiply, add = CONVENTIONS[self.convention]
        channels = frame.pixels.shape[-1] if frame.pixels.ndim == 3 else 1
        if multiply.size not in (1, channels):
            raise PreprocessError(f"convention {self.convention!r} needs {multiply.size} channels, not {channels}")
        return replace(frame, pixels=frame.pixels * multiply + add)


Step = Annotated[Window | Invert | Crop | Normalise | ResizePad | Channels | Scale, Field(discriminator="step")]
Steps = tuple[Step, ...]

_STEPS: TypeAdapter[Steps] = TypeAdapter(Steps)


def parse_steps(raw: Sequence[Mapping[str, object]]) -> Steps:
    """Read the manifest's ``preprocessing`` list.

    Raises:
        ManifestError: an unknown step, parameter or value, or an order that cannot work.
    """
    try:
        steps = _STEPS.validate_python(tuple(dict(entry) for entry in raw))
    except ValidationError as error:
        raise ManifestError(f"preprocessing: {error}") from error
    check_order(steps)
    return steps


def check_order(steps: Steps) -> None:
    """Refuse a list of steps that would give wrong numbers in silence.

    Raises:
        ManifestError: not ``window, invert, (crop | normalise)*, resize_pad, channels, scale``; crop may come first.
    """
    names = [step.step for step in steps]
    core = [name for name in names if name not in ("crop", "normalise")]
    expected = ["window", "invert", "resize_pad", "channels", "scale"]
    if core != expected:
        raise ManifestError(f"preprocessing: the steps are {core}; they must be {expected}, in this order")
    window_at, resize_at = names.index("window"), names.index("resize_pad")
    if "crop" in names[resize_at:] or "normalise" in names[:window_at] + names[resize_at:]:
        raise ManifestError("preprocessing: crop comes before resize_pad, normalise between window and resize_pad")
    if names.count("crop") > 1:
        raise ManifestError("preprocessing: more than one crop")


@dataclass(frozen=True)
class Prepared:
    """A model's input, and what its readers should know about how it came about."""

    input: ModelInput
    notes: tuple[str, ...]


def prepare(steps: Steps, image: GreyImage) -> Prepared:
    """Run ``steps`` over one image.

    Raises:
        PreprocessError: the image is empty, too small, uniform, all padding, has values that are no numbers, or has a
            window that cannot be applied.
    """
    frame = _admit_pixels(image)
    for step in steps:
        frame = step.apply(frame)
    if frame.pixels.ndim == 2:
        frame = replace(frame, pixels=frame.pixels[:, :, np.newaxis])
    array = np.ascontiguousarray(frame.pixels, dtype=np.float32)
    return Prepared(ModelInput(array, frame.placement), frame.notes)


def apply(steps: Steps, image: GreyImage) -> ModelInput:
    """:func:`prepare` without its notes: float32 (rows, columns, channels) and its placement."""
    return prepare(steps, image).input


def grey_from_uint8(array: NDArray[np.uint8], spacing_mm: tuple[float, float] | None = None) -> GreyImage:
    """Wrap an 8-bit image (rows, columns), already windowed as JPEG and PNG exports are: 0 is black, 255 white."""
    if array.dtype != np.uint8 or array.ndim != 2:
        raise PreprocessError(f"expected uint8 (rows, columns), got {array.dtype} with {array.ndim} dimensions")
    identity = LinearWindow(center=127.5, width=255.0, function="LINEAR_EXACT")
    return GreyImage(pixels=array.astype(np.float32), voi=identity, spacing_mm=spacing_mm)


def _admit_pixels(image: GreyImage) -> Frame:
    """Everything that can be said against an image before any step looks at it."""
    if image.pixels.ndim != 2:
        raise PreprocessError(f"expected one grey frame (rows, columns), got {image.pixels.ndim} dimensions")
    rows, columns = image.pixels.shape
    _refuse_small(rows, columns, "")
    pixels, valid = image.pixels.astype(np.float32, copy=False), image.valid
    if valid is not None:
        pixels, valid = _without_padding(pixels, valid)
    inside = pixels if valid is None else pixels[valid]
    low, high = float(inside.min()), float(inside.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise PreprocessError("image has pixel values that are no finite numbers")
    if low == high:
        raise PreprocessError(f"image is uniform (every pixel is {low:g}); there is nothing to read")
    whole = (0.0, 0.0, float(rows), float(columns))
    placement = Placement(source_shape=(rows, columns), source=whole, target=whole, input_shape=(rows, columns))
    return Frame(pixels, valid, image.voi, image.inverted, _usable_spacing(image.spacing_mm), placement)


def _without_padding(pixels: FloatArray, valid: BoolArray) -> tuple[FloatArray, BoolArray | None]:
    if valid.shape != pixels.shape:
        raise PreprocessError(f"padding mask {valid.shape} does not fit the image {pixels.shape}")
    kept = int(np.count_nonzero(valid))
    if kept == valid.size:
        return pixels, None
    if kept < (1 - MOST_PADDING_FRACTION) * valid.size:
        raise PreprocessError(f"image is almost all padding ({kept} of {valid.size} pixels are not)")
    return np.where(valid, pixels, np.float32(0)), valid


def _usable_spacing(spacing_mm: tuple[float, float] | None) -> tuple[float, float] | None:
    if spacing_mm is None or not all(math.isfinite(side) and side > 0 for side in spacing_mm):
        return None
    return spacing_mm


def _refuse_small(rows: int, columns: int, when: str) -> None:
    if min(rows, columns) < SMALLEST_SIDE_PIXELS:
        raise PreprocessError(f"image of {rows} x {columns} pixels {when}".rstrip() + " is too small to be read")


def _padding_black(pixels: FloatArray, valid: BoolArray | None) -> FloatArray:
    return pixels if valid is None else np.where(valid, pixels, np.float32(0))


def _is_uniform(pixels: FloatArray, valid: BoolArray | None) -> bool:
    inside = pixels if valid is None else pixels[valid]
    return bool(inside.min() == inside.max())


def _no_file_window_note(frame: Frame) -> str:
    why = "has no window" if frame.voi is None else "has a window that shows nothing of it"
    return f"The file {why}; contrast set from the image's own values."
