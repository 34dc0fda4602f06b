"""Figures of a binary label, and their intervals by resampling patients.

Images of one patient are no independent evidence: the bootstrap draws patients, with all their images (Efron and
Tibshirani 1993, cluster bootstrap).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[Any]
Metric = Callable[[Numbers, Numbers], float]


@dataclass(frozen=True)
class Interval:
    """A figure with its 95 % percentile interval; NaN where the data cannot give it."""

    value: float
    low: float
    high: float


def auroc(labels: Numbers, scores: Numbers) -> float:
    """Area under the ROC curve by ranks, ties counted half (Hanley and McNeil 1982). NaN with one class only."""
    positive = labels > 0.5
    n_pos, n_neg = int(positive.sum()), int((~positive).sum())
    if not n_pos or not n_neg:
        return float("nan")
    order = np.argsort(scores, kind="mergesort")
    ranked = scores[order]
    first = np.searchsorted(ranked, ranked, side="left")
    last = np.searchsorted(ranked, ranked, side="right")
    ranks = np.empty(len(scores))
    ranks[order] = (first + last + 1) / 2
    return float((ranks[positive].sum() - n_pos * (n_pos + 1) / 2) / (n_pos * n_neg))


def average_precision(labels: Numbers, scores: Numbers) -> float:
    """Area under the precision-recall curve as a step function; tied scores enter together. NaN with one class only."""
    if (labels > 0.5).all() or not (labels > 0.5).any():
        return float("nan")
    order = np.argsort(-scores, kind="mergesort")
    hits = np.cumsum(labels[order] > 0.5)
    ends = np.r_[np.nonzero(np.diff(scores[order]))[0], len(scores) - 1]
    precision, recall = hits[ends] / (ends + 1), hits[ends] / hits[-1]
    return float(np.sum(precision * np.diff(np.r_[0.0, recall])))


def brier(labels: Numbers, probabilities: Numbers) -> float:
    """Mean squared error of the probabilities."""
    return float(np.mean((probabilities - labels) ** 2))


def calibration_error(labels: Numbers, probabilities: Numbers, bins: int = 15) -> float:
    """Expected calibration error over bins of equal mass."""
    order = np.argsort(probabilities, kind="mergesort")
    parts = [p for p in np.array_split(order, bins) if len(p)]
    gaps = [abs(probabilities[p].mean() - labels[p].mean()) * len(p) for p in parts]
    return float(np.sum(gaps) / len(labels))


@dataclass(frozen=True)
class Counts:
    """A confusion table at one threshold."""

    tp: int
    fp: int
    tn: int
    fn: int

    @property
    def sensitivity(self) -> float:
        return _ratio(self.tp, self.tp + self.fn)

    @property
    def specificity(self) -> float:
        return _ratio(self.tn, self.tn + self.fp)

    @property
    def precision(self) -> float:
        return _ratio(self.tp, self.tp + self.fp)

    @property
    def accuracy(self) -> float:
        return _ratio(self.tp + self.tn, self.tp + self.fp + self.tn + self.fn)

    @property
    def f1(self) -> float:
        return _ratio(2 * self.tp, 2 * self.tp + self.fp + self.fn)


def confusion(labels: Numbers, probabilities: Numbers, threshold: float) -> Counts:
    """At or above the threshold counts as positive."""
    said, truth = probabilities >= threshold, labels > 0.5
    return Counts(
        int((said & truth).sum()), int((said & ~truth).sum()), int((~said & ~truth).sum()), int((~said & truth).sum())
    )


def predictive_value(sensitivity: float, specificity: float, prevalence: float) -> float:
    """PPV where the disease is as common as `prevalence` (Bayes)."""
    true, false = sensitivity * prevalence, (1 - specificity) * (1 - prevalence)
    return _ratio(true, true + false)


def resamples_of_patients(patients: Numbers, resamples: int, seed: int = 0) -> Iterator[NDArray[np.intp]]:
    """Index arrays, each of as many patients as there are, drawn with replacement, all images of each."""
    random = np.random.default_rng(seed)
    _, inverse = np.unique(patients, return_inverse=True)
    members = [np.flatnonzero(inverse == patient) for patient in range(int(inverse.max()) + 1)]
    for _ in range(resamples):
        yield np.concatenate([members[i] for i in random.integers(0, len(members), len(members))])


def interval(value: float, resampled: Iterable[float]) -> Interval:
    """95 % percentile interval; resamples that gave NaN (one class only) are left out."""
    kept = [v for v in resampled if np.isfinite(v)]
    if not kept:
        return Interval(value, float("nan"), float("nan"))
    low, high = np.percentile(kept, [2.5, 97.5])
    return Interval(value, float(low), float(high))


def bootstrap(
    metric: Metric, labels: Numbers, scores: Numbers, patients: Numbers, *, resamples: int = 1000, seed: int = 0
) -> Interval:
    """The metric with a 95 % percentile interval over resampled patients."""
    draws = resamples_of_patients(patients, resamples, seed)
    return interval(metric(labels, scores), (metric(labels[chosen], scores[chosen]) for chosen in draws))


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")
