"""How much a reading depends on what hospitals do differently: windows, photometric interpretation, collimation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from models.contracts import GreyImage, LinearWindow
from models.datasets.labels import LabelledImage
from models.evaluation.metrics import auroc
from models.evaluation.report import Columns, columns_of
from models.evaluation.scoring import Change, score_images
from models.registry import Bundle
from models.runner import Runner


def _windowed(center: float, width: float) -> Change:
    return lambda image: replace(image, voi=LinearWindow(center, width, "LINEAR_EXACT"))


def _gamma(exponent: float) -> Change:
    return lambda image: replace(image, pixels=(255 * (image.pixels / 255) ** exponent).astype(np.float32))


def _monochrome1(image: GreyImage) -> GreyImage:
    return replace(image, pixels=np.float32(255) - image.pixels, inverted=True)


def _twelve_bits(image: GreyImage) -> GreyImage:
    return replace(image, pixels=image.pixels * np.float32(16), voi=LinearWindow(2048, 4096, "LINEAR"))


def _black_border(image: GreyImage) -> GreyImage:
    rows, columns = image.pixels.shape
    return replace(image, pixels=np.pad(image.pixels, ((rows // 20,) * 2, (columns // 10,) * 2)))


CHANGES: Mapping[str, Change] = {
    "MONOCHROME1": _monochrome1,
    "12 bits, full window": _twelve_bits,
    "no window in the file": lambda image: replace(image, voi=None),
    "window 20 % narrower": _windowed(127.5, 204),
    "window 25 % wider": _windowed(127.5, 319),
    "window 10 % darker": _windowed(153, 255),
    "window 10 % brighter": _windowed(102, 255),
    "gamma 0.8": _gamma(0.8),
    "gamma 1.25": _gamma(1.25),
    "black border of 5 and 10 %": _black_border,
}
"""Changes of an 8-bit image as :func:`models.preprocess.grey_from_uint8` wraps it."""


def sensitivity_to_changes(
    bundle: Bundle, runner: Runner, rows: Sequence[LabelledImage], folder: Path, *, label: str
) -> dict[str, Any]:
    """Per change: AUROC per source, and the mean absolute difference in probability to the unchanged image."""
    plain = columns_of(score_images(bundle, runner, rows, folder, label=label).scored)
    found: dict[str, Any] = {"as it is": {"auroc": _per_source(plain), "mean_absolute_difference": 0.0}}
    for name, change in CHANGES.items():
        changed = columns_of(score_images(bundle, runner, rows, folder, label=label, change=change).scored)
        difference = float(np.abs(changed.probabilities - plain.probabilities).mean())
        found[name] = {"auroc": _per_source(changed), "mean_absolute_difference": round(difference, 4)}
    return found


def _per_source(data: Columns) -> dict[str, float]:
    return {
        str(source): round(auroc(data.labels[here], data.probabilities[here]), 4)
        for source in np.unique(data.sources)
        for here in [data.sources == source]
    }
