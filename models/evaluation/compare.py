"""Two models on the same images: is the difference larger than chance among patients would make it?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.errors import DatasetError
from models.evaluation.figures import Rules, as_json, draws_of, rounded, sizes
from models.evaluation.judging import Judged
from models.evaluation.resampling import Draws, mean_of_draws

COMPARED = ("auroc", "auprc", "sensitivity", "specificity", "balanced_accuracy", "f1", "brier", "ece")
_Column = NDArray[np.float64]


@dataclass(frozen=True)
class DeLong:
    """Areas of the two models, their difference (first minus second), its standard error and two-sided p."""

    first: float
    second: float
    difference: float
    error: float
    p: float


def delong(truth: _Column, first: _Column, second: _Column, patients: NDArray[Any]) -> DeLong:
    """Difference of two correlated AUROCs (DeLong 1988), clustered by patient (Obuchowski 1997).

    With one image a patient it is DeLong's test. NaN throughout with one class, NaN error and p with one patient only.
    """
    ill, well = truth == 1, truth == 0
    m, n = int(ill.sum()), int(well.sum())
    if not m or not n:
        return DeLong(*[float("nan")] * 5)
    by_ill, by_well = zip(*(_placements(scores, ill, well) for scores in (first, second)), strict=True)
    areas = [float(one.mean()) for one in by_ill]
    # Components of the difference: a positive image's mean rank among the negative ones, and the reverse.
    difference = areas[0] - areas[1]
    of_ill = _per_patient(by_ill[0] - by_ill[1] - difference, patients[ill], patients)
    of_well = _per_patient(by_well[0] - by_well[1] - difference, patients[well], patients)
    i10, i01, both = len(np.unique(patients[ill])), len(np.unique(patients[well])), len(np.unique(patients))
    if min(i10, i01) < 2:
        return DeLong(areas[0], areas[1], difference, float("nan"), float("nan"))
    variance = float((of_ill @ of_ill) * i10 / (i10 - 1) / m**2 + (of_well @ of_well) * i01 / (i01 - 1) / n**2)
    variance += float(2 * (of_ill @ of_well) * both / (both - 1) / (m * n))
    error = math.sqrt(max(variance, 0.0))
    # Models that rank alike differ by nothing, and nothing is no finding.
    p = math.erfc(abs(difference) / error / math.sqrt(2)) if error > 0 else 1.0 if abs(difference) < 1e-12 else 0.0
    return DeLong(areas[0], areas[1], difference, error, p)


def _placements(scores: _Column, ill: NDArray[np.bool_], well: NDArray[np.bool_]) -> tuple[_Column, _Column]:
    """For each positive image the share of negative ones below it, ties half; for each negative one those above."""
    of_ill, of_well = np.sort(scores[ill]), np.sort(scores[well])
    below = np.searchsorted(of_well, scores[ill], "left") + np.searchsorted(of_well, scores[ill], "right")
    above = np.searchsorted(of_ill, scores[well], "left") + np.searchsorted(of_ill, scores[well], "right")
    return below / (2 * len(of_well)), 1 - above / (2 * len(of_ill))


def _per_patient(values: _Column, of_value: NDArray[Any], patients: NDArray[Any]) -> _Column:
    everyone = np.unique(patients)
    sums = np.bincount(np.searchsorted(everyone, of_value), weights=values, minlength=len(everyone))
    return sums.astype(np.float64)


def compare(first: Judged, second: Judged, rules: Rules) -> dict[str, Any]:
    """Differences, first minus second, per source, label and their means, on images that both have judged.

    Raises DatasetError when the two have no label or no image in common.
    """
    a, b = _in_common(first, second)
    names = [str(source) for source in np.unique(a.sources)]
    found: dict[str, Any] = {**sizes(a), "labels": list(a.labels), "figures": list(COMPARED), "sources": {}}
    differences = []
    for stream, source in enumerate(names):
        here = a.sources == source
        one, other = a.take(here), b.take(here)
        # Equal rules draw equal patients for both, resample by resample; that is what makes the comparison paired.
        seeded = Rules(rules.resamples, rules.seed + 7919 * stream, rules.prevalences, rules.rates)
        difference = _minus(draws_of(one, seeded), draws_of(other, seeded))
        differences.append(difference)
        found["sources"][source] = {**_as_json(difference, a.labels), "delong": _delongs(one, other)}
    found["mean_of_sources"] = _as_json(mean_of_draws(differences), a.labels)
    return found


def _in_common(first: Judged, second: Judged) -> tuple[Judged, Judged]:
    labels = [label for label in first.labels if label in second.labels]
    places = {sample.file: index for index, sample in enumerate(second.samples)}
    mine = [index for index, sample in enumerate(first.samples) if sample.file in places]
    if not labels or not mine:
        raise DatasetError("the two models cannot be compared: they have no label, or no judged image, in common")
    theirs = [places[first.samples[index].file] for index in mine]
    return (
        _columns(first.take(np.array(mine)), labels),
        _columns(second.take(np.array(theirs)), labels),
    )


def _columns(data: Judged, labels: list[str]) -> Judged:
    index = [data.labels.index(label) for label in labels]
    return Judged(
        tuple(labels),
        False,
        data.thresholds[index],
        data.samples,
        data.truth[:, index],
        data.logits[:, index],
        data.probabilities[:, index],
        data.patients,
        data.sources,
        data.groups,
        data.features,
        data.borders,
    )


def _minus(one: Draws, other: Draws) -> Draws:
    return Draws(
        {name: one.value[name] - other.value[name] for name in COMPARED},
        {name: one.draws[name] - other.draws[name] for name in COMPARED},
    )


def _as_json(difference: Draws, labels: tuple[str, ...]) -> dict[str, Any]:
    macro = difference.mean_of_columns()
    return {
        **{name: {**as_json(macro.interval(name)), "p": _p(macro.draws[name][:, 0])} for name in COMPARED},
        "labels": {
            label: {
                name: {**as_json(difference.interval(name, i)), "p": _p(difference.draws[name][:, i])}
                for name in COMPARED
            }
            for i, label in enumerate(labels)
        },
    }


def _p(draws: _Column) -> float | None:
    """Two-sided, from where zero lies among the resamples; never below what their number can show."""
    kept = draws[np.isfinite(draws)]
    if not len(kept):
        return None
    tail = min(int((kept <= 0).sum()), int((kept >= 0).sum()))
    return rounded(min(1.0, 2 * (tail + 1) / (len(kept) + 1)))


def _delongs(one: Judged, other: Judged) -> dict[str, Any]:
    found = {}
    for i, label in enumerate(one.labels):
        test = delong(one.truth[:, i], one.probabilities[:, i], other.probabilities[:, i], one.patients)
        found[label] = {key: rounded(getattr(test, key), 6) for key in ("first", "second", "difference", "error", "p")}
    return found
