"""From logits on validation to calibration, operating points and figures; nothing here is chosen on the test part."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.calibration import probabilities
from models.contracts import FloatArray
from models.errors import DatasetError
from models.evaluation.metrics import (
    Interval,
    Numbers,
    auroc,
    average_precision,
    bootstrap,
    brier,
    calibration_error,
    confusion,
)
from models.manifest import Calibration
from models.training.calibrate import fit_platt
from models.training.feed import Examples
from models.training.plan import Operating

_GOLDEN_RATIO = (math.sqrt(5) - 1) / 2
_COOLEST, _HOTTEST = 0.05, 20.0


@dataclass(frozen=True)
class Point:
    """threshold; grey: start of the undetermined band below it, None without one."""

    threshold: float
    grey: float | None


def fit_temperature(logits: Numbers, classes: NDArray[np.int64]) -> float:
    """The divisor of all logits with the least log loss (Guo et al., ICML 2017), by golden section on its logarithm.

    logits: (n, classes); classes: int (n,).
    """

    def loss(log_temperature: float) -> float:
        scaled = logits.astype(np.float64) / math.exp(log_temperature)
        scaled = scaled - scaled.max(axis=1, keepdims=True)
        chosen = scaled[np.arange(len(classes)), classes]
        return float(np.mean(np.log(np.exp(scaled).sum(axis=1)) - chosen))

    low, high = math.log(_COOLEST), math.log(_HOTTEST)
    while high - low > 1e-6:
        width = _GOLDEN_RATIO * (high - low)
        left, right = high - width, low + width
        if loss(left) < loss(right):
            high = right
        else:
            low = left
    return math.exp((low + high) / 2)


def calibrate(logits: FloatArray, examples: Examples, labels: tuple[str, ...], *, exclusive: bool) -> Calibration:
    """One temperature for classes, Platt's slope and intercept for each other label.

    Probabilities are those of the part's own prevalence. Raises DatasetError where higher logits do not mean the label.
    """
    if exclusive:
        return Calibration(
            method="temperature", temperature=round(fit_temperature(logits, examples.values.argmax(axis=1)), 6)
        )
    found = {}
    for column, label in enumerate(labels):
        known = examples.mask[:, column] > 0
        try:
            platt = fit_platt(logits[known, column], examples.values[known, column], np.ones(int(known.sum())))
        except DatasetError as error:
            raise DatasetError(f"{label}: {error}; train it otherwise, or leave it out") from error
        found[label] = platt.model_copy(
            update={"slope": max(round(platt.slope, 6), 1e-6), "intercept": round(platt.intercept, 6)}
        )
    return Calibration(method="platt", labels=found)


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


def figures(
    examples: Examples,
    scores: Numbers,
    points: Mapping[str, Point],
    *,
    exclusive: bool,
    resamples: int = 1000,
) -> dict[str, Any]:
    """Figures of every label with 95 % intervals by resampling patients; null where the part cannot give one.

    points: in the order of the columns of ``scores`` (n, labels).

    Over all sources together, and for each source where there are several: a figure over sources credits the model for
    telling hospitals apart.
    """
    found = _part(examples, scores, points, np.ones(len(scores), bool), resamples=resamples, exclusive=exclusive)
    sources = np.unique(examples.sources)
    if len(sources) > 1:
        found["sources"] = {
            str(source): _part(
                examples, scores, points, examples.sources == source, resamples=resamples, exclusive=exclusive
            )
            for source in sources
        }
    return found | {"resamples": resamples, "interval": "95 % percentile, bootstrap over patients"}


def _part(
    examples: Examples,
    scores: Numbers,
    points: Mapping[str, Point],
    here: NDArray[np.bool_],
    *,
    resamples: int,
    exclusive: bool,
) -> dict[str, Any]:
    found: dict[str, Any] = {"images": int(here.sum()), "patients": len(np.unique(examples.patients[here]))}
    found["labels"] = {}
    for column, label in enumerate(points):
        known = here & (examples.mask[:, column] > 0)
        truth, chance = examples.values[known, column], scores[known, column]
        found["labels"][label] = {
            "images": int(known.sum()),
            "positive": int(truth.sum()),
            **_figures_of(truth, chance, examples.patients[known], points[label].threshold, resamples),
        }
    areas = [one["auroc"]["value"] for one in found["labels"].values()]
    finite = [area for area in areas if area is not None]
    found["mean_auroc"] = round(float(np.mean(finite)), 4) if finite else None
    if exclusive:
        right = (scores[here].argmax(axis=1) == examples.values[here].argmax(axis=1)).astype(np.float64)
        found["accuracy"] = _json(bootstrap(_mean, right, right, examples.patients[here], resamples=resamples))
    return found


def _figures_of(truth: Numbers, chance: Numbers, who: Numbers, threshold: float, resamples: int) -> dict[str, Any]:
    if not len(truth):
        return {"auroc": _json(Interval(math.nan, math.nan, math.nan))}
    metrics = {
        "auroc": auroc,
        "auprc": average_precision,
        "brier": brier,
        "ece": calibration_error,
        "sensitivity": lambda t, c: confusion(t, c, threshold).sensitivity,
        "specificity": lambda t, c: confusion(t, c, threshold).specificity,
        "accuracy": lambda t, c: confusion(t, c, threshold).accuracy,
    }
    return {name: _json(bootstrap(metric, truth, chance, who, resamples=resamples)) for name, metric in metrics.items()}


def _below(rising: Numbers, thresholds: Numbers) -> Numbers:
    """The share of ``rising`` below each threshold."""
    places: Numbers = np.asarray(np.searchsorted(rising, thresholds, side="left"))
    return places / len(rising)


def _mean(right: Numbers, _: Numbers) -> float:
    return float(right.mean())


def _json(figure: Interval) -> dict[str, float | None]:
    values = {"value": figure.value, "low": figure.low, "high": figure.high}
    return {key: round(value, 4) if math.isfinite(value) else None for key, value in values.items()}
