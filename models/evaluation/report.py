"""From scores to the figures that a model is judged by: per source, with intervals, at a stated prevalence."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.datasets.labels import LabelledImage
from models.evaluation.metrics import (
    Counts,
    Interval,
    auroc,
    average_precision,
    brier,
    calibration_error,
    confusion,
    interval,
    predictive_value,
    resamples_of_patients,
)
from models.evaluation.scoring import Scored

PREVALENCES = (0.05, 0.2)
SMALLEST_GROUP = 20
"""Fewer images than this give intervals that say nothing, and may point at a person."""


@dataclass(frozen=True)
class Columns:
    """The same n images as arrays: labels 0/1, probabilities in [0, 1], patients and sources as strings."""

    labels: NDArray[np.float64]
    probabilities: NDArray[np.float64]
    patients: NDArray[np.str_]
    sources: NDArray[np.str_]

    def take(self, chosen: NDArray[Any]) -> Columns:
        """The same for an index or mask."""
        return Columns(self.labels[chosen], self.probabilities[chosen], self.patients[chosen], self.sources[chosen])


def columns_of(scored: Sequence[Scored]) -> Columns:
    """Arrays of a list of scores."""
    return Columns(
        labels=np.array([s.positive for s in scored], dtype=np.float64),
        probabilities=np.array([s.probability for s in scored], dtype=np.float64),
        patients=np.array([f"{s.row.source}|{s.row.patient}" for s in scored]),
        sources=np.array([s.row.source for s in scored]),
    )


def report(scored: Sequence[Scored], threshold: float, *, resamples: int = 1000, seed: int = 0) -> dict[str, Any]:
    """All figures as a JSON document: per source, their mean, and subgroups within each source.

    Figures are never pooled over sources: between sources everything differs, and a pooled AUROC would credit the model
    for telling hospitals apart.
    """
    by_source: dict[str, Any] = {}
    for source in sorted({s.row.source for s in scored}):
        members = [s for s in scored if s.row.source == source]
        by_source[source] = figures(columns_of(members), threshold, resamples=resamples, seed=seed)
        by_source[source]["subgroups"] = _subgroups(members, threshold, resamples=resamples, seed=seed)
    return {
        "threshold": threshold,
        "resamples": resamples,
        "interval": "95 % percentile, bootstrap over patients",
        "sources": by_source,
        "mean_of_sources": _mean_of_sources(columns_of(scored), threshold, resamples, seed) if scored else {},
    }


def figures(data: Columns, threshold: float, *, resamples: int = 1000, seed: int = 0) -> dict[str, Any]:
    """Counts and figures with intervals of images of one kind."""
    counts = confusion(data.labels, data.probabilities, threshold)
    return {
        "images": len(data.labels),
        "patients": len(np.unique(data.patients)),
        "positive_images": int(data.labels.sum()),
        "confusion": {"tp": counts.tp, "fp": counts.fp, "tn": counts.tn, "fn": counts.fn},
        **_with_intervals(data, lambda part: _figures_of(part, threshold), resamples, seed),
    }


def _figures_of(data: Columns, threshold: float) -> dict[str, float]:
    counts = confusion(data.labels, data.probabilities, threshold)
    return {
        "auroc": auroc(data.labels, data.probabilities),
        "auprc": average_precision(data.labels, data.probabilities),
        **_at_threshold(counts),
        "brier": brier(data.labels, data.probabilities),
        "ece": calibration_error(data.labels, data.probabilities),
    }


def _at_threshold(counts: Counts) -> dict[str, float]:
    values = {
        f"ppv_at_prevalence_{prevalence:g}": predictive_value(counts.sensitivity, counts.specificity, prevalence)
        for prevalence in PREVALENCES
    }
    return {"sensitivity": counts.sensitivity, "specificity": counts.specificity, **values}


def _mean_of_sources(data: Columns, threshold: float, resamples: int, seed: int) -> dict[str, Any]:
    def means(part: Columns) -> dict[str, float]:
        each = [_figures_of(part.take(part.sources == source), threshold) for source in np.unique(part.sources)]
        return {key: float(np.mean([one[key] for one in each])) for key in ("auroc", "sensitivity", "specificity")}

    return _with_intervals(data, means, resamples, seed)


def _with_intervals(
    data: Columns, figures_of: Callable[[Columns], dict[str, float]], resamples: int, seed: int
) -> dict[str, Any]:
    draws = [figures_of(data.take(chosen)) for chosen in resamples_of_patients(data.patients, resamples, seed)]
    return {key: as_json(interval(value, [draw[key] for draw in draws])) for key, value in figures_of(data).items()}


def as_json(figure: Interval) -> dict[str, float | None]:
    """JSON has no NaN: what the data cannot give is null."""
    values = {"value": figure.value, "low": figure.low, "high": figure.high}
    return {key: round(value, 4) if math.isfinite(value) else None for key, value in values.items()}


def age_band(age: str) -> str:
    """Years as text to a band; "" for what is no number."""
    try:
        years = float(age)
    except ValueError:
        return ""
    return "under 18" if years < 18 else "18 to 59" if years < 60 else "60 and over"


_ATTRIBUTES: Mapping[str, Callable[[LabelledImage], str]] = {
    "view": lambda row: row.view,
    "sex": lambda row: row.sex,
    "age": lambda row: age_band(row.age),
}


def _subgroups(members: Sequence[Scored], threshold: float, *, resamples: int, seed: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for attribute, value_of in _ATTRIBUTES.items():
        values = sorted({value_of(s.row) for s in members} - {""})
        for value in values if len(values) > 1 else ():
            group = [s for s in members if value_of(s.row) == value]
            if len(group) >= SMALLEST_GROUP:
                whole = figures(columns_of(group), threshold, resamples=resamples, seed=seed)
                keep = ("images", "patients", "positive_images", "auroc", "sensitivity", "specificity")
                found[f"{attribute}={value}"] = {key: whole[key] for key in keep}
    return found
