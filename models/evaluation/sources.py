"""Does the source give the label away? The test that belongs beside every figure from more than one source."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.contracts import FloatArray
from models.evaluation.figures import SMALLEST_GROUP, rounded
from models.evaluation.judging import Judged
from models.evaluation.metrics import auroc
from models.evaluation.shortcuts import linear_probe

FOLDS = 5
STRONG, WEAK = 0.9, 0.65
TELLING = 0.6
"""Sorting by source alone is that good a detector: enough to show in a pooled figure."""


def source_test(data: Judged, seed: int = 0) -> dict[str, Any]:
    """What can be told of the source, and what the source tells of the labels. Empty with one source.

    from_features, from_border: AUROC, mean over the sources each against the others, of a linear probe on the network's
    pooled features and on the outermost pixels alone, judged on patients the probe has not seen; on all images and on
    images that are negative for every label, where disease cannot help. label_from_source: AUROC per label of the
    source's own share of positive images as the only score: what merely sorting by source would give.
    """
    names, counts = np.unique(data.sources, return_counts=True)
    kept = data.take(np.isin(data.sources, names[counts >= SMALLEST_GROUP]))
    if len(np.unique(kept.sources)) < 2:
        return {}
    negative = kept.take(np.nan_to_num(kept.truth, nan=0).max(axis=1) == 0) if not kept.exclusive else kept
    found: dict[str, Any] = {"sources": [str(name) for name in np.unique(kept.sources)]}
    for name, values in (("from_features", "features"), ("from_border", "borders")):
        found[name] = {"all images": rounded(probe(getattr(kept, values), kept.sources, kept.patients, seed))}
        if not kept.exclusive:
            value = probe(getattr(negative, values), negative.sources, negative.patients, seed)
            found[name]["negative images"] = rounded(value)
    found["label_from_source"] = {label: rounded(_by_source(kept, i)) for i, label in enumerate(kept.labels)}
    found["verdict"] = verdict(found)
    return found


def verdict(found: dict[str, Any]) -> str:
    """In words."""
    visible = max(v for v in (*found["from_features"].values(), *found["from_border"].values(), 0.5) if v is not None)
    told = max((v for v in found["label_from_source"].values() if v is not None), default=0.5)
    seen = "plainly" if visible >= STRONG else "partly" if visible >= WEAK else "hardly"
    if told >= TELLING and visible >= WEAK:
        return (
            f"The source can {seen} be told from the image, and the source tells the label (AUROC {told:.2f} without "
            "looking at any image): figures over several sources count that as skill. Only those within a source stand."
        )
    return (
        f"The source can {seen} be told from the image, but tells little of the label here (AUROC {told:.2f}). Compare "
        "figures within each source all the same."
    )


def probe(features: FloatArray, sources: NDArray[Any], patients: NDArray[Any], seed: int = 0) -> float:
    """Mean one-against-rest AUROC of out-of-fold scores, folds without a common patient; NaN where it cannot be had."""
    people, of_image = np.unique(patients, return_inverse=True)
    names = np.unique(sources)
    if len(people) < 2 * FOLDS or len(names) < 2:
        return float("nan")
    fold_of = np.random.default_rng(seed).permutation(len(people))[of_image] % FOLDS
    areas = []
    for name in names[: 1 if len(names) == 2 else None]:
        target = (sources == name).astype(np.float64)
        scores = np.zeros(len(target))
        for fold in range(FOLDS):
            out = fold_of == fold
            scores[out] = linear_probe(features[~out], target[~out], features[out]) + target[~out].mean()
        areas.append(auroc(target, scores))
    return float(np.mean(areas))


def _by_source(data: Judged, label: int) -> float:
    known = np.isfinite(data.truth[:, label])
    truth, sources = data.truth[known, label], data.sources[known]
    share = {name: truth[sources == name].mean() for name in np.unique(sources)}
    return auroc(truth, np.array([share[source] for source in sources]))
