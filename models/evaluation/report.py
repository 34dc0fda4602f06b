"""What a set of scored images says about a binary label: overall, per source, per subgroup."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from models.evaluation.metrics import (
    Interval,
    Numbers,
    auroc,
    average_precision,
    bootstrap,
    brier,
    calibration_error,
    confusion,
    predictive_value,
)

SMALLEST_SUBGROUP = 20
STATED_PREVALENCES = (0.02, 0.10)


@dataclass(frozen=True)
class Scored:
    """labels: 0 or 1 (n,). probabilities: calibrated (n,). patients, sources, views, sexes: str (n,)."""

    labels: Numbers
    probabilities: Numbers
    patients: Numbers
    sources: Numbers
    views: Numbers
    sexes: Numbers

    def where(self, mask: Numbers) -> Scored:
        return Scored(*(getattr(self, name)[mask] for name in self.__dataclass_fields__))


def figures(scored: Scored, threshold: float, *, resamples: int = 1000) -> dict[str, Any]:
    """Every figure of one group with its patient-level 95 % interval; JSON-able, NaN as None."""

    def at(name: str) -> Callable[[Numbers, Numbers], float]:
        return lambda labels, p: float(getattr(confusion(labels, p, threshold), name))

    metrics: dict[str, Callable[[Numbers, Numbers], float]] = {
        "auroc": auroc,
        "auprc": average_precision,
        **{name: at(name) for name in ("sensitivity", "specificity", "precision", "accuracy", "f1")},
        "brier": brier,
        "ece": calibration_error,
    }
    found: dict[str, Any] = {
        name: _plain(bootstrap(metric, scored.labels, scored.probabilities, scored.patients, resamples=resamples))
        for name, metric in metrics.items()
    }
    counts = confusion(scored.labels, scored.probabilities, threshold)
    found["ppv_at_prevalence"] = {
        f"{p:.2f}": _number(predictive_value(counts.sensitivity, counts.specificity, p)) for p in STATED_PREVALENCES
    }
    found["counts"] = asdict(counts)
    return {
        "images": len(scored.labels),
        "patients": len(np.unique(scored.patients)),
        "positive": int((scored.labels > 0.5).sum()),
        **found,
    }


def report(scored: Scored, threshold: float, *, resamples: int = 1000) -> dict[str, Any]:
    """Figures overall, per source, and the AUROC of subgroups large enough to mean something."""
    return {
        "threshold": threshold,
        "overall": figures(scored, threshold, resamples=resamples),
        "sources": {
            str(s): figures(scored.where(scored.sources == s), threshold, resamples=resamples)
            for s in np.unique(scored.sources)
        },
        "subgroups": _subgroups(scored, resamples),
    }


def _subgroups(scored: Scored, resamples: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, values in (("view", scored.views), ("sex", scored.sexes)):
        for source in np.unique(scored.sources):
            for value in np.unique(values[scored.sources == source]):
                group = scored.where((scored.sources == source) & (values == value))
                if value and len(group.labels) >= SMALLEST_SUBGROUP:
                    interval = bootstrap(auroc, group.labels, group.probabilities, group.patients, resamples=resamples)
                    found[f"{source}, {name} {value}"] = {"images": len(group.labels), "auroc": _plain(interval)}
    return found


def threshold_for_sensitivity(labels: Numbers, probabilities: Numbers, sensitivity: float) -> float:
    """The highest threshold that still finds the wanted share of the positives."""
    positives = np.sort(probabilities[labels > 0.5])
    missed = int(np.floor((1 - sensitivity) * len(positives)))
    return float(positives[missed])


def fit_platt(labels: Numbers, logits: Numbers, steps: int = 100) -> tuple[float, float]:
    """Slope and intercept of Platt's sigmoid (1999) by Newton's method, with his smoothed targets."""
    positives, negatives = float((labels > 0.5).sum()), float((labels <= 0.5).sum())
    target = np.where(labels > 0.5, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    design = np.stack([logits, np.ones_like(logits)], axis=1).astype(np.float64)
    weights = np.array([1.0, 0.0])
    for _ in range(steps):
        p = 1 / (1 + np.exp(-design @ weights))
        gradient = design.T @ (p - target)
        hessian = design.T @ (design * (p * (1 - p))[:, None]) + 1e-9 * np.eye(2)
        weights = weights - np.linalg.solve(hessian, gradient)
    return float(weights[0]), float(weights[1])


def _plain(interval: Interval) -> dict[str, float | None]:
    return {key: _number(value) for key, value in asdict(interval).items()}


def _number(value: float) -> float | None:
    return round(value, 4) if np.isfinite(value) else None


def names(values: Sequence[str]) -> Numbers:
    """Strings as an array, also when there are none."""
    return np.array(list(values), dtype=np.str_)
