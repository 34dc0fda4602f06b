"""Platt scaling and the choice of an operating point, both on validation data only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.errors import DatasetError
from models.evaluation.metrics import Numbers, confusion
from models.manifest import Platt

_NEWTON_STEPS = 50


def fit_platt(logits: Numbers, labels: Numbers, weights: Numbers) -> Platt:
    """Slope and intercept by weighted logistic regression with Platt's smoothed targets (Platt 1999, section 2.2).

    logits, labels (0 or 1), weights: (n,). Raises DatasetError when the logits rank the labels the wrong way round.
    """
    positives, negatives = float(labels.sum()), float((1 - labels).sum())
    targets = np.where(labels > 0.5, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    design = np.stack([logits, np.ones_like(logits)], axis=1).astype(np.float64)
    beta = np.zeros(2)
    for _ in range(_NEWTON_STEPS):
        chance = 1 / (1 + np.exp(-np.clip(design @ beta, -30, 30)))
        gradient = design.T @ (weights * (chance - targets))
        hessian = (design * (weights * chance * (1 - chance))[:, np.newaxis]).T @ design
        beta = beta - np.linalg.solve(hessian + 1e-9 * np.eye(2), gradient)
    if not np.isfinite(beta).all() or beta[0] <= 0:
        raise DatasetError("validation data cannot be calibrated: higher logits do not mean the label there")
    return Platt(slope=float(beta[0]), intercept=float(beta[1]))


def balanced_weights(sources: NDArray[np.str_], labels: Numbers) -> NDArray[np.float64]:
    """(n,) with mean 1: every source counts the same, and both labels within it."""
    weights = np.zeros(len(labels))
    cells = [(sources == source) & (labels == label) for source in np.unique(sources) for label in (0, 1)]
    for cell in cells:
        weights[cell] = len(labels) / (len(cells) * max(1, int(cell.sum())))
    return weights


@dataclass(frozen=True)
class Thresholds:
    """present: from here on the label is present. undetermined: start of the grey band below, None without one."""

    present: float
    undetermined: float | None


def choose_thresholds(
    labels: Numbers,
    probabilities: Numbers,
    sources: NDArray[np.str_],
    *,
    band_sensitivity: float,
    band_specificity: float,
) -> Thresholds:
    """Present where the mean over sources of Youden's J is highest; undetermined from where the mean sensitivity
    reaches ``band_sensitivity``, as long as the mean specificity there is at least ``band_specificity``."""
    grid = np.round(np.arange(0.02, 0.981, 0.005), 3)
    rates = np.array([_mean_rates(labels, probabilities, sources, float(threshold)) for threshold in grid])
    youden = rates.sum(axis=1)
    # The curve is a staircase; the middle of its top plateau is the steadiest choice.
    present = float(np.median(grid[youden >= youden.max() - 0.005]))
    reaches = (rates[:, 0] >= band_sensitivity) & (rates[:, 1] >= band_specificity)
    allowed = grid[reaches & (grid < present)]
    return Thresholds(round(present, 3), float(allowed.max()) if len(allowed) else None)


def _mean_rates(labels: Numbers, probabilities: Numbers, sources: NDArray[np.str_], threshold: float) -> list[float]:
    each = [confusion(labels[sources == s], probabilities[sources == s], threshold) for s in np.unique(sources)]
    return [float(np.mean([c.sensitivity for c in each])), float(np.mean([c.specificity for c in each]))]
