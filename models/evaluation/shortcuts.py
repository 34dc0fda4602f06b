"""Does the source give the label away? Two checks that belong beside every figure from more than one source."""

from __future__ import annotations

from typing import Any

import numpy as np

from models.contracts import FloatArray
from models.evaluation.metrics import Numbers, auroc
from models.evaluation.report import Columns


def source_from_score(data: Columns) -> dict[str, float]:
    """AUROC of telling the two sources apart by the model's score alone, per label; 0.5 is what we want.

    Empty unless there are exactly two sources.
    """
    sources = np.unique(data.sources)
    if len(sources) != 2:
        return {}
    found = {}
    for value, name in ((0, "negative images"), (1, "positive images")):
        here = data.labels == value
        first = (data.sources[here] == sources[0]).astype(np.float64)
        found[name] = round(auroc(first, data.probabilities[here]), 4)
    return found


def linear_probe(training: FloatArray, targets: Numbers, held_out: FloatArray, penalty: float = 10.0) -> Numbers:
    """Scores (m,) of a ridge classifier on features (n, k), (m, k); targets 0 or 1, (n,)."""
    mean, deviation = training.mean(axis=0), training.std(axis=0) + 1e-6
    seen = ((training - mean) / deviation).astype(np.float64)
    new = ((held_out - mean) / deviation).astype(np.float64)
    centred = targets - targets.mean()
    weights: Numbers = np.linalg.solve(seen.T @ seen + penalty * np.eye(seen.shape[1]), seen.T @ centred)
    scores: Numbers = new @ weights
    return scores


def source_from_features(training: tuple[FloatArray, Any], held_out: tuple[FloatArray, Any]) -> float:
    """AUROC on held-out images of a linear probe that tells the first source (by name) from the others.

    Each pair is features (n, k) and sources (n,). Near 1 means: the network could use the source; only sampling that
    leaves source and label independent, and figures within each source, keep that from counting as skill.
    """
    first = min(training[1])
    scores = linear_probe(training[0], (training[1] == first).astype(np.float64), held_out[0])
    return round(auroc((held_out[1] == first).astype(np.float64), scores), 4)
