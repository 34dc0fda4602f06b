"""Every figure of one binary label, for many resamples at once.

Scores are sorted once; a resample is a row of counts (how often each image occurs), so that cumulative sums along the
row are its ROC curve. Equal to computing each figure on the repeated images, which the tests hold it to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.evaluation.resampling import Counts

Column = NDArray[np.float64]
PREVALENCES = (0.05, 0.2)
GIVEN_RATES = (0.9, 0.95)
BINS = 15
_SLACK = 1e-9
"""Rates at a given rate compare products of fractions, whose last bit is not to be relied on."""


@dataclass(frozen=True)
class Ranked:
    """One label's images with a known truth, in ascending order of score.

    index: (m,), their places among all images. positive, scores: (m,). ends: (g,), counted from the highest score, the
    last image of every group of equal scores. threshold: the operating point. above: how many images reach it.
    """

    index: NDArray[np.intp]
    positive: Column
    scores: Column
    ends: NDArray[np.intp]
    threshold: float
    above: int


def rank(truth: Column, scores: Column, threshold: float) -> Ranked:
    """truth: (n,) of 1, 0 and NaN (left out). scores: (n,) probabilities."""
    known = np.flatnonzero(np.isfinite(truth))
    index = known[np.argsort(scores[known], kind="stable")]
    falling = scores[index][::-1]
    ends = np.r_[np.flatnonzero(np.diff(falling)), len(falling) - 1] if len(falling) else np.zeros(0, np.intp)
    above = int(np.count_nonzero(falling >= threshold))
    return Ranked(index, truth[index], scores[index], ends, threshold, above)


def figures(
    ranked: Ranked,
    counts: Counts,
    *,
    prevalences: Sequence[float] = PREVALENCES,
    rates: Sequence[float] = GIVEN_RATES,
) -> dict[str, Column]:
    """counts: (r, n) over all images. Returns (r,) each; NaN where a resample has not what the figure needs."""
    rising = counts[:, ranked.index]
    if not rising.shape[1]:
        return dict.fromkeys(names(prevalences, rates), np.full(len(counts), np.nan))
    falling = rising[:, ::-1]
    true = np.cumsum(falling * ranked.positive[::-1], axis=1)
    false = np.cumsum(falling, axis=1) - true
    positives, negatives = true[:, -1], false[:, -1]
    at = ranked.above - 1
    tp = true[:, at] if ranked.above else np.zeros(len(counts))
    fp = false[:, at] if ranked.above else np.zeros(len(counts))
    if len(ranked.ends) < true.shape[1]:
        true, false = true[:, ranked.ends], false[:, ranked.ends]
    found = {
        "auroc": _auroc(true, false),
        "auprc": _average_precision(true, false),
        **at_threshold(tp, fp, positives, negatives, prevalences),
    }
    for rate in rates:
        found[f"sensitivity_at_specificity_{rate:g}"] = _sensitivity_at(true, false, rate)
        found[f"specificity_at_sensitivity_{rate:g}"] = _specificity_at(true, false, rate)
    total = positives + negatives
    found["brier"] = _ratio(rising @ (ranked.scores - ranked.positive) ** 2, total)
    found["ece"] = calibration_error(rising, ranked.scores, ranked.positive)
    return found


def names(prevalences: Sequence[float] = PREVALENCES, rates: Sequence[float] = GIVEN_RATES) -> tuple[str, ...]:
    """What :func:`figures` returns, in its order."""
    zero = np.zeros(1)
    given = [f"{one}_at_{other}_{rate:g}" for rate in rates for one, other in _BOTH_WAYS]
    return ("auroc", "auprc", *at_threshold(zero, zero, zero, zero, prevalences), *given, "brier", "ece")


_BOTH_WAYS = (("sensitivity", "specificity"), ("specificity", "sensitivity"))


def at_threshold(
    tp: Column, fp: Column, positives: Column, negatives: Column, prevalences: Sequence[float] = PREVALENCES
) -> dict[str, Column]:
    """The figures of confusion tables, (r,) each."""
    sensitivity, specificity = _ratio(tp, positives), _ratio(negatives - fp, negatives)
    found = {
        "sensitivity": sensitivity,
        "specificity": specificity,
        "accuracy": _ratio(tp + negatives - fp, positives + negatives),
        "balanced_accuracy": (sensitivity + specificity) / 2,
        "precision": _ratio(tp, tp + fp),
        "recall": sensitivity,
        "f1": _ratio(2 * tp, tp + fp + positives),
    }
    for prevalence in prevalences:
        # Bayes: what the rates would mean where the disease is that common.
        ill, well = sensitivity * prevalence, specificity * (1 - prevalence)
        found[f"ppv_at_prevalence_{prevalence:g}"] = _ratio(ill, ill + (1 - specificity) * (1 - prevalence))
        found[f"npv_at_prevalence_{prevalence:g}"] = _ratio(well, well + (1 - sensitivity) * prevalence)
    return found


def calibration_error(rising: Counts, scores: Column, truth: Column, bins: int = BINS) -> Column:
    """Expected calibration error over bins of equal mass (Naeini 2015; Nixon 2019), (r,).

    rising: counts (r, m) in ascending order of ``scores`` (m,). An image that lies across the border of two bins counts
    in both, as its repetitions would.
    """
    mass, gap = np.cumsum(rising, axis=1), np.cumsum(rising * (scores - truth), axis=1)
    each = scores - truth
    found = np.full(len(rising), np.nan)
    for row, (masses, gaps) in enumerate(zip(mass, gap, strict=True)):
        total = round(masses[-1])
        if not total:
            continue
        whole, more = divmod(total, bins)
        borders = np.cumsum([whole + 1] * more + [whole] * (bins - more))
        at = np.minimum(np.searchsorted(masses, borders), len(masses) - 1)
        upto = gaps[at] - (masses[at] - borders) * each[at]
        found[row] = np.abs(np.diff(upto, prepend=0.0)).sum() / total
    return found


def _auroc(true: Counts, false: Counts) -> Column:
    """By trapezes, that is with ties counted half (Hanley and McNeil 1982)."""
    area = true[:, 0] * false[:, 0] / 2
    area = area + np.einsum("ij,ij->i", np.diff(false, axis=1), true[:, 1:] + true[:, :-1]) / 2
    return _ratio(area, true[:, -1] * false[:, -1])


def _average_precision(true: Counts, false: Counts) -> Column:
    """Area under the precision-recall curve as a step function; tied scores enter together. NaN with one class only."""
    said = true + false
    precision = np.divide(true, said, out=np.zeros_like(true), where=said > 0)
    area = _ratio(np.einsum("ij,ij->i", precision, np.diff(true, axis=1, prepend=0.0)), true[:, -1])
    return np.where(false[:, -1] > 0, area, np.nan)


def _sensitivity_at(true: Counts, false: Counts, specificity: float) -> Column:
    """The highest sensitivity among thresholds of at least that specificity; 0 where none but "never" has it."""
    allowed = (1 - specificity) * false[:, -1:] + _SLACK
    reached = (false <= allowed).sum(axis=1)
    rows = np.arange(len(true))
    hits = np.where(reached > 0, true[rows, np.maximum(reached - 1, 0)], 0.0)
    return np.where(false[:, -1] > 0, _ratio(hits, true[:, -1]), np.nan)


def _specificity_at(true: Counts, false: Counts, sensitivity: float) -> Column:
    """The highest specificity among thresholds of at least that sensitivity."""
    short = (true < sensitivity * true[:, -1:] - _SLACK).sum(axis=1)
    negatives = false[:, -1]
    found = _ratio(negatives - false[np.arange(len(true)), short], negatives)
    return np.where(true[:, -1] > 0, found, np.nan)


def _ratio(part: Column, whole: Column) -> Column:
    return np.asarray(np.divide(part, whole, out=np.full(np.shape(part), np.nan), where=whole > 0))
