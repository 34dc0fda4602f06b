"""Calibration that validation parts of a few dozen patients can bear: shrunk, and only where it helps.

Scores are left alone, divided by a temperature (Guo et al., ICML 2017), or given a slope and an intercept (Platt 1999),
whichever cross-validation within the validation part supports; simpler ones first, as Vergouwe et al. (Stat Med 2017)
do when a model is updated on little data. The fits are drawn towards leaving the scores as they are, by Gaussian priors
on slope and intercept, and use Platt's smoothed targets, without which a separable part asks for infinite confidence.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.errors import DatasetError
from models.evaluation.metrics import Numbers, auroc, bootstrap, calibration_error
from models.manifest import Platt

NONE, TEMPERATURE, PLATT = "none", "temperature", "platt"
TEMPERATURE_PRECISION, SLOPE_PRECISION, INTERCEPT_PRECISION = 0.25, 1.0, 0.25
"""Of the priors: standard deviations 2 of the temperature's logarithm, 1 of the slope's, 2 of the intercept."""

FOLDS, REPEATS = 10, 4
_ENOUGH = 2000
"""From so many patients on, one repeat of the folds is steady."""

_RESAMPLES, _FEWEST = 400, 10
_STEPS, _LONGEST_STEP = 100, 1.0


@dataclass(frozen=True)
class Recalibrated:
    """values: what the bundle takes. record: what was compared, for the manifest."""

    values: Platt
    record: Mapping[str, Any]


@dataclass(frozen=True)
class RecalibratedClasses:
    """temperature: the divisor of all logits. record: as in Recalibrated."""

    temperature: float
    record: Mapping[str, Any]


def recalibrate(logits: Numbers, truth: Numbers, patients: NDArray[Any], seed: int = 0) -> Recalibrated:
    """One label's. logits, truth (0 or 1), patients: (n,).

    A temperature is taken where it lowers the cross-validated log loss, folds without a common patient; slope and
    intercept where they lower it by more than one standard error further.
    Raises DatasetError where the logits rank the label the wrong way round, and not by chance among so few patients.
    """
    z, t = logits.astype(np.float64), truth.astype(np.float64)
    if _surely_wrong(z, t, patients):
        raise DatasetError("validation data cannot be calibrated: higher logits do not mean the label there")
    fits: dict[str, Callable[[Numbers, Numbers], Platt]] = {
        NONE: lambda *_: Platt(slope=1.0, intercept=0.0),
        TEMPERATURE: fit_shrunk_temperature,
        PLATT: fit_shrunk_platt,
    }
    held_out = _held_out(patients, seed)

    def scores(method: str) -> list[Numbers]:
        return [_shifted(held, z, lambda inside: fits[method](z[inside], t[inside])) for held in held_out]

    by_method = {method: scores(method) for method in fits}
    losses = {method: np.mean([_log_loss(one, t) for one in found], axis=0) for method, found in by_method.items()}
    chosen = NONE
    if losses[TEMPERATURE].mean() < losses[NONE].mean():
        chosen = TEMPERATURE
    if _surely_lower(losses[PLATT], losses[chosen], patients):
        chosen = PLATT
    errors = {
        method: float(np.mean([calibration_error(t, _sigmoid(one)) for one in by_method[method]])) for method in fits
    }
    return Recalibrated(fits[chosen](z, t), _record(chosen, losses, errors, patients))


def recalibrate_classes(
    logits: Numbers, classes: NDArray[np.int64], patients: NDArray[Any], seed: int = 0
) -> RecalibratedClasses:
    """Of exclusive labels: one temperature where it lowers the cross-validated log loss, else 1.

    logits: (n, classes); classes: int (n,).
    """
    z = logits.astype(np.float64)
    held_out = _held_out(patients, seed)

    def fit(inside: NDArray[np.bool_]) -> Platt:
        return Platt(slope=1 / fit_temperature(z[inside], classes[inside]), intercept=0.0)

    by_method = {NONE: [z], TEMPERATURE: [_shifted(held, z, fit) for held in held_out]}
    losses = {
        m: np.mean([_log_loss_of_classes(one, classes) for one in found], axis=0) for m, found in by_method.items()
    }
    chosen = TEMPERATURE if losses[TEMPERATURE].mean() < losses[NONE].mean() else NONE
    errors = {m: float(np.mean([_error_of_top(one, classes) for one in found])) for m, found in by_method.items()}
    temperature = fit_temperature(z, classes) if chosen == TEMPERATURE else 1.0
    return RecalibratedClasses(temperature, _record(chosen, losses, errors, patients))


def fit_shrunk_temperature(logits: Numbers, truth: Numbers) -> Platt:
    """A slope alone, (n,) each. The prior's precision is TEMPERATURE_PRECISION."""
    return _newton(logits, truth, TEMPERATURE_PRECISION, None)


def fit_shrunk_platt(logits: Numbers, truth: Numbers) -> Platt:
    """Slope and intercept, (n,) each, with priors of SLOPE_PRECISION and INTERCEPT_PRECISION."""
    return _newton(logits, truth, SLOPE_PRECISION, INTERCEPT_PRECISION)


def fit_temperature(logits: Numbers, classes: NDArray[np.int64]) -> float:
    """The divisor of all logits with the least penalised log loss, by golden section on its logarithm.

    logits: (n, classes); classes: int (n,).
    """
    ratio = (math.sqrt(5) - 1) / 2

    def loss(log_temperature: float) -> float:
        scaled = logits.astype(np.float64) / math.exp(log_temperature)
        return float(_log_loss_of_classes(scaled, classes).sum()) + TEMPERATURE_PRECISION / 2 * log_temperature**2

    low, high = math.log(0.05), math.log(20.0)
    while high - low > 1e-6:
        width = ratio * (high - low)
        left, right = high - width, low + width
        if loss(left) < loss(right):
            high = right
        else:
            low = left
    return math.exp((low + high) / 2)


def _newton(logits: Numbers, truth: Numbers, slope_precision: float, intercept_precision: float | None) -> Platt:
    """On (log slope, intercept), so that no slope is negative; no intercept without ``intercept_precision``."""
    z = logits.astype(np.float64)
    positives, negatives = float(truth.sum()), float((1 - truth).sum())
    targets = np.where(truth > 0.5, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    place = np.zeros(2)
    held = np.array([1.0, 0.0 if intercept_precision is None else 1.0])
    precision = np.array([slope_precision, intercept_precision or 1.0])
    for _ in range(_STEPS):
        tilted = np.exp(place[0]) * z
        chance = _sigmoid(tilted + place[1])
        away, weight = chance - targets, chance * (1 - chance)
        gradient = np.array([away @ tilted, away.sum()]) * held + precision * place
        curvature = np.array([[weight @ tilted**2, weight @ tilted], [weight @ tilted, weight.sum()]])
        # The loss is not convex in the logarithm; without the part that may be negative every step goes down.
        upward = np.array([max(0.0, float(away @ tilted)), 0.0])
        curvature = curvature * np.outer(held, held) + np.diag(precision + upward)
        step = np.linalg.solve(curvature, gradient)
        step *= min(1.0, _LONGEST_STEP / (float(np.abs(step).max()) + 1e-12))
        place = place - step
        if float(np.abs(step).max()) < 1e-9:
            break
    return Platt(slope=float(np.exp(place[0])), intercept=float(place[1]))


def _held_out(patients: NDArray[Any], seed: int) -> list[NDArray[np.int64]]:
    """For every repeat each image's fold."""
    people, of_image = np.unique(patients, return_inverse=True)
    random = np.random.default_rng(seed)
    folds, repeats = min(FOLDS, len(people)), REPEATS if len(people) < _ENOUGH else 1
    return [(random.permutation(len(people)) % folds)[of_image] for _ in range(repeats)]


def _surely_wrong(logits: Numbers, truth: Numbers, patients: NDArray[Any]) -> bool:
    enough = len(np.unique(patients)) >= _FEWEST
    return enough and bootstrap(auroc, truth, logits, patients, resamples=_RESAMPLES).high < 0.5


def _shifted(held: NDArray[np.int64], logits: Numbers, fit: Callable[[NDArray[np.bool_]], Platt]) -> Numbers:
    """Every logit as the fit on the other folds has it."""
    found = np.empty_like(logits)
    for fold in np.unique(held):
        outside = held == fold
        values = fit(~outside)
        found[outside] = values.slope * logits[outside] + values.intercept
    return found


def _surely_lower(one: Numbers, other: Numbers, patients: NDArray[Any]) -> bool:
    """By more than the standard error of the difference, a patient's images taken together."""
    people, of_image = np.unique(patients, return_inverse=True)
    gains = np.bincount(of_image, weights=other - one, minlength=len(people))
    return bool(gains.sum() > gains.std() * math.sqrt(len(people)))


def _log_loss(logits: Numbers, truth: Numbers) -> Numbers:
    found: Numbers = np.logaddexp(0.0, logits) - truth * logits
    return found


def _log_loss_of_classes(logits: Numbers, classes: NDArray[np.int64]) -> Numbers:
    shifted = logits - logits.max(axis=1, keepdims=True)
    found: Numbers = np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(classes)), classes]
    return found


def _error_of_top(logits: Numbers, classes: NDArray[np.int64]) -> float:
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    top = weights.max(axis=1) / weights.sum(axis=1)
    return calibration_error((logits.argmax(axis=1) == classes).astype(np.float64), top)


def _sigmoid(logits: Numbers) -> Numbers:
    found: Numbers = 1 / (1 + np.exp(-np.clip(logits, -500, 500)))
    return found


def _record(
    chosen: str, losses: Mapping[str, Numbers], errors: Mapping[str, float], patients: NDArray[Any]
) -> dict[str, Any]:
    return {
        "method": chosen,
        "images": len(patients),
        "patients": len(np.unique(patients)),
        "cross_validated_log_loss": {method: round(float(loss.mean()), 4) for method, loss in losses.items()},
        "cross_validated_ece": {method: round(error, 4) for method, error in errors.items()},
    }
