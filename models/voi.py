"""Values of interest: windows and look-up tables of PS3.3 C.11.2, and a rule for files that bring neither."""

from __future__ import annotations

import math

import numpy as np

from models.contracts import FloatArray, LinearWindow, LookupTable
from models.errors import PreprocessError

_MOST_SAMPLES = 1 << 18
"""Percentiles of a quarter of a million pixels, evenly spaced, are those of all of them to well under a grey level."""


def window(pixels: FloatArray, voi: LinearWindow | LookupTable) -> FloatArray:
    """Apply what the file asks for.

    Args:
        pixels: float32, any shape, modality units.
        voi: window or LUT.

    Returns:
        float32 in [0, 1], new array.

    Raises:
        PreprocessError: a width that PS3.3 C.11.2.1.2 forbids, an unknown function, an empty LUT.
    """
    if isinstance(voi, LookupTable):
        return _look_up(pixels, voi)
    _refuse_bad_window(voi)
    if voi.function == "SIGMOID":
        return _sigmoid(pixels, voi)
    if voi.function == "LINEAR_EXACT":
        return _ramp(pixels, voi.center - voi.width / 2, voi.width)
    if voi.width == 1:
        return (pixels > np.float32(voi.center - 0.5)).astype(np.float32)
    return _ramp(pixels, voi.center - 0.5 - (voi.width - 1) / 2, voi.width - 1)


def percentile_window(pixels: FloatArray, values: FloatArray, low: float, high: float) -> FloatArray:
    """Stretch between two percentiles of ``values`` (which may be a part of ``pixels``), clip to [0, 1].

    Raises:
        PreprocessError: both percentiles fall on one value, also after widening to minimum and maximum.
    """
    bottom, top = np.percentile(_sampled(values), [low, high])
    if bottom == top:
        # A small object on an even ground: the percentiles see only the ground.
        bottom, top = values.min(), values.max()
    if bottom == top:
        raise PreprocessError("image is uniform; there is nothing to read")
    return _ramp(pixels, float(bottom), float(top) - float(bottom))


def foreground_window(pixels: FloatArray, values: FloatArray, low: float, high: float) -> FloatArray:
    """:func:`percentile_window` whose upper percentile is that of the foreground alone: of what is brighter than Otsu's
    threshold (1979). How much air surrounds a head changes nothing then.

    Raises as that does.
    """
    sampled = _sampled(values)
    bottom, foreground = float(np.percentile(sampled, low)), sampled[sampled > _otsu(sampled)]
    top = float(np.percentile(foreground, high)) if foreground.size else bottom
    return _ramp(pixels, bottom, top - bottom) if top > bottom else percentile_window(pixels, values, low, high)


def _otsu(values: FloatArray) -> float:
    """The threshold between two classes of grey whose means lie furthest apart, weighed by their sizes."""
    counts, edges = np.histogram(values, bins=256)
    below, total = np.cumsum(counts)[:-1], float(values.size)
    sums = np.cumsum(counts * (edges[:-1] + edges[1:]) / 2)
    spread = (sums[-1] * below - sums[:-1] * total) ** 2 / np.maximum(below * (total - below), 1)
    return float(edges[int(spread.argmax()) + 1])


def _sampled(values: FloatArray) -> FloatArray:
    stride = values.size / _MOST_SAMPLES
    if stride <= 1:
        return values
    if values.ndim == 1:
        return values[:: math.ceil(stride)]
    side = math.ceil(math.sqrt(stride))
    return values[::side, ::side]


def _ramp(pixels: FloatArray, start: float, length: float) -> FloatArray:
    # Subtract first: start / length may dwarf the pixels' own precision.
    ramp = pixels - np.float32(start)
    ramp *= np.float32(1 / length)
    np.clip(ramp, 0, 1, out=ramp)
    return ramp


def _sigmoid(pixels: FloatArray, voi: LinearWindow) -> FloatArray:
    # Beyond +-30 the curve is 0 or 1 in float32; the clip keeps exp from overflowing.
    curve = pixels - np.float32(voi.center)
    curve *= np.float32(-4 / voi.width)
    np.clip(curve, -30, 30, out=curve)
    np.exp(curve, out=curve)
    curve += np.float32(1)
    np.reciprocal(curve, out=curve)
    return curve


def _look_up(pixels: FloatArray, lut: LookupTable) -> FloatArray:
    if lut.values.size == 0 or not 1 <= lut.bits <= 16:
        raise PreprocessError(f"VOI LUT with {lut.values.size} entries of {lut.bits} bits cannot be applied")
    index = np.clip(np.rint(pixels) - lut.first_mapped, 0, lut.values.size - 1).astype(np.intp)
    scaled = np.clip(lut.values * np.float32(1 / (2**lut.bits - 1)), 0, 1).astype(np.float32)
    looked_up: FloatArray = scaled[index]
    return looked_up


def _refuse_bad_window(voi: LinearWindow) -> None:
    if voi.function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        raise PreprocessError(f"VOI LUT function {voi.function[:16]!r} is not one of PS3.3 C.11.2.1.2")
    allowed = voi.width >= 1 if voi.function == "LINEAR" else voi.width > 0
    if not (allowed and math.isfinite(voi.width) and math.isfinite(voi.center)):
        raise PreprocessError(f"{voi.function} window of center {voi.center:g} and width {voi.width:g} is not allowed")
