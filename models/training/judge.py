"""From logits on validation to calibration and operating points; nothing here is chosen on the test part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.calibration import probabilities
from models.contracts import FloatArray
from models.errors import DatasetError
from models.evaluation.figures import as_json
from models.evaluation.metrics import Metric, Numbers, bootstrap, confusion
from models.manifest import Calibration
from models.training.feed import Examples
from models.training.plan import Operating
from models.training.recalibrate import recalibrate, recalibrate_classes


@dataclass(frozen=True)
class Point:
    """threshold; grey: start of the undetermined band below it, None without one."""

    threshold: float
    grey: float | None


@dataclass(frozen=True)
class Calibrated:
    """calibration: what the bundle takes. record: by label (or "classes") how it was chosen, see `recalibrate`."""

    calibration: Calibration
    record: Mapping[str, Any]


def calibrate(logits: FloatArray, examples: Examples, labels: tuple[str, ...], *, exclusive: bool) -> Calibrated:
    """One temperature for classes, slope and intercept for each other label, as far as cross-validation supports them.

    Probabilities are those of the part's own prevalence. Raises DatasetError where higher logits do not mean the label.
    """
    if exclusive:
        found = recalibrate_classes(logits, examples.values.argmax(axis=1), examples.patients)
        calibration = Calibration(method="temperature", temperature=round(found.temperature, 6))
        return Calibrated(calibration, {"classes": found.record})
    values, record = {}, {}
    for column, label in enumerate(labels):
        known = examples.mask[:, column] > 0
        # Uncertain labels may count as a share; a probability is held against what is more likely.
        truth = (examples.values[known, column] > 0.5).astype(np.float64)
        try:
            one = recalibrate(logits[known, column], truth, examples.patients[known])
        except DatasetError as error:
            raise DatasetError(f"{label}: {error}; train it otherwise, or leave it out") from error
        values[label] = one.values.model_copy(
            update={"slope": max(round(one.values.slope, 6), 1e-6), "intercept": round(one.values.intercept, 6)}
        )
        record[label] = one.record
    return Calibrated(Calibration(method="platt", labels=values), record)


def chances(logits: FloatArray, calibration: Calibration, labels: tuple[str, ...], *, exclusive: bool) -> Numbers:
    """Calibrated probabilities float64 (n, labels), by the very function that serves."""
    rows = [probabilities(calibration, labels, [float(x) for x in row], exclusive=exclusive) for row in logits]
    return np.array(rows, dtype=np.float64)


def choose_point(truth: Numbers, scores: Numbers, rule: Operating) -> Point:
    """The threshold of one label by ``rule``, between two neighbouring scores.

    truth: 0 or 1 (n,), both occur; scores: probabilities (n,).
    """
    candidates: Numbers = np.unique(scores)
    middles = np.r_[candidates[0] / 2, (candidates[1:] + candidates[:-1]) / 2, (candidates[-1] + 1) / 2]
    positive, negative = np.sort(scores[truth > 0.5]), np.sort(scores[truth <= 0.5])
    worth: Numbers
    sensitivity = 1 - _below(positive, middles)
    specificity = _below(negative, middles)
    if rule.rule == "sensitivity":
        worth = np.where(sensitivity >= rule.at_least, specificity, -1)
    elif rule.rule == "specificity":
        worth = np.where(specificity >= rule.at_least, sensitivity, -1)
    else:
        worth = sensitivity + specificity
    # Of equals the one that loses least of the other rate, and of those the more sensitive.
    best = worth >= worth.max() - 1e-9
    youden = np.where(best, sensitivity + specificity, -1)
    threshold = float(middles[np.argmax(youden >= youden.max() - 1e-9)])
    reaching = middles[(sensitivity >= rule.grey_sensitivity) & (middles < threshold)]
    grey = float(reaching.max()) if rule.grey_sensitivity and len(reaching) else None
    return Point(round(threshold, 6), None if grey is None else round(grey, 6))


def rates(truth: Numbers, scores: Numbers, patients: Numbers, threshold: float) -> dict[str, Any]:
    """Sensitivity and specificity at a threshold, with 95 % intervals over patients; all (n,)."""
    metrics: dict[str, Metric] = {
        "sensitivity": lambda t, s: confusion(t, s, threshold).sensitivity,
        "specificity": lambda t, s: confusion(t, s, threshold).specificity,
    }
    return {name: as_json(bootstrap(metric, truth, scores, patients)) for name, metric in metrics.items()}


def _below(rising: Numbers, thresholds: Numbers) -> Numbers:
    """The share of ``rising`` below each threshold."""
    places: Numbers = np.asarray(np.searchsorted(rising, thresholds, side="left"))
    return places / len(rising)
