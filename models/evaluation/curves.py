"""Points of ROC, precision-recall and reliability curves, thinned for drawing."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.evaluation import binary
from models.evaluation.figures import rounded
from models.evaluation.judging import Judged

MOST_POINTS = 200


def curves_by_source(data: Judged) -> dict[str, Any]:
    """source to label to curves; labels with one class only have no ROC and no precision-recall curve there."""
    found: dict[str, Any] = {}
    for source in np.unique(data.sources):
        part = data.take(data.sources == source)
        found[str(source)] = {
            label: curves_of(part.truth[:, i], part.probabilities[:, i], float(part.thresholds[i]))
            for i, label in enumerate(part.labels)
        }
    return found


def curves_of(truth: NDArray[np.float64], scores: NDArray[np.float64], threshold: float) -> dict[str, Any]:
    """roc: [false positive rate, sensitivity]; precision_recall: [recall, precision]; at: both at the operating point;
    reliability: bins of equal mass with the mean probability, the share of positive images and its 95 % interval."""
    ranked = binary.rank(truth, scores, threshold)
    found: dict[str, Any] = {"reliability": reliability(ranked)}
    positive = ranked.positive[::-1]
    ill, well = float(positive.sum()), float((1 - positive).sum())
    if not ill or not well:
        return found | {"roc": [], "precision_recall": [], "at": None}
    true, false = np.cumsum(positive)[ranked.ends], np.cumsum(1 - positive)[ranked.ends]
    found["roc"] = _pairs(np.r_[0, false / well], np.r_[0, true / ill])
    found["precision_recall"] = _pairs(true / ill, true / (true + false))
    tp, fp = float(positive[: ranked.above].sum()), float((1 - positive[: ranked.above]).sum())
    found["at"] = {
        "sensitivity": rounded(tp / ill),
        "false_positive_rate": rounded(fp / well),
        "precision": rounded(tp / (tp + fp)) if tp + fp else None,
    }
    return found


def _pairs(x: NDArray[np.float64], y: NDArray[np.float64]) -> list[list[float]]:
    if len(x) > MOST_POINTS:
        kept = np.unique(np.linspace(0, len(x) - 1, MOST_POINTS).round().astype(int))
        x, y = x[kept], y[kept]
    return [[round(float(a), 4), round(float(b), 4)] for a, b in zip(x, y, strict=True)]


def reliability(ranked: binary.Ranked, bins: int = binary.BINS) -> list[dict[str, Any]]:
    """Of the bins that hold any image."""
    found = []
    for part in np.array_split(np.arange(len(ranked.scores)), bins):
        if not len(part):
            continue
        share, count = float(ranked.positive[part].mean()), len(part)
        low, high = wilson(share, count)
        found.append(
            {
                "probability": rounded(ranked.scores[part].mean()),
                "observed": rounded(share),
                "low": rounded(low),
                "high": rounded(high),
                "images": count,
            }
        )
    return found


def wilson(share: float, count: int, z: float = 1.959964) -> tuple[float, float]:
    """95 % interval of a proportion (Wilson 1927), which stays inside [0, 1] also for few images."""
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2)) / (1 + z**2 / count)
    return max(0.0, middle - half), min(1.0, middle + half)
