"""Patients drawn with replacement, as counts: how often each image occurs in each resample.

A figure that takes counts needs its data sorted once for all resamples, which is what makes a thousand of them quick.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.evaluation.metrics import Interval

Counts = NDArray[np.float64]
"""(resamples, images): how often an image occurs; ones for the data as they are."""

Named = Mapping[str, NDArray[np.float64]]
"""Figures by name, (resamples, columns) each; a column is a label, or the one of a figure over all labels."""

_MOST_CELLS = 2_000_000
"""Of one chunk of counts: sixteen megabytes, which the caches of a server still hold."""


@dataclass(frozen=True)
class Draws:
    """value: figures of the data as they are, (columns,). draws: those of each resample, (resamples, columns)."""

    value: Named
    draws: Named

    def interval(self, name: str, column: int = 0) -> Interval:
        """The figure with its 95 % percentile interval; resamples that cannot give it (one class only) are left out."""
        kept = self.draws[name][:, column]
        kept = kept[np.isfinite(kept)]
        value = float(self.value[name][column])
        if not len(kept) or not np.isfinite(value):
            return Interval(value, float("nan"), float("nan"))
        low, high = np.percentile(kept, [2.5, 97.5])
        return Interval(value, float(low), float(high))

    def mean_of_columns(self) -> Draws:
        """One column: the mean over those that have a value (macro average)."""
        return Draws(_means(self.value, -1), _means(self.draws, -1))


def _means(named: Named, axis: int) -> Named:
    return {name: mean_of_known(values, axis)[..., np.newaxis] for name, values in named.items()}


def mean_of_known(values: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """The mean of what is no NaN along an axis; NaN where nothing is, without NumPy's warning."""
    known = np.isfinite(values)
    count = known.sum(axis=axis)
    total = np.where(known, values, 0).sum(axis=axis)
    return np.asarray(np.divide(total, count, out=np.full(np.shape(total), np.nan), where=count > 0))


def mean_of_draws(parts: list[Draws]) -> Draws:
    """Over independent groups (sources), resample by resample. Of each figure only the groups that have it count: a
    source with ill patients alone has a sensitivity, and no AUROC."""
    names = parts[0].value
    value, draws = {}, {}
    for name in names:
        values = np.stack([part.value[name] for part in parts])
        known = np.isfinite(values)
        count = known.sum(axis=0)
        drawn = np.stack([part.draws[name] for part in parts])
        # A resample that lost the figure of one of these groups is none of the mean's.
        totals = (np.where(known, values, 0).sum(axis=0), np.where(known[:, np.newaxis], drawn, 0).sum(axis=0))
        value[name], draws[name] = (_over(total, count) for total in totals)
    return Draws(value, draws)


def _over(total: NDArray[np.float64], count: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.asarray(np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0))


def counts_of_patients(patients: NDArray[Any], resamples: int, seed: int) -> Iterator[Counts]:
    """Chunks of counts, `resamples` rows in all: as many patients as there are, drawn with replacement, each with all
    images. The same arguments give the same counts, on which paired comparisons rely."""
    random = np.random.default_rng(seed)
    _, of_image = np.unique(patients, return_inverse=True)
    people = int(of_image.max()) + 1
    rows = max(1, min(resamples, _MOST_CELLS // len(patients)))
    for start in range(0, resamples, rows):
        drawn = [
            np.bincount(random.integers(0, people, people), minlength=people)
            for _ in range(min(rows, resamples - start))
        ]
        yield np.stack(drawn).astype(np.float64)[:, of_image]


def bootstrap_draws(
    figures_of: Callable[[Counts], Named], patients: NDArray[Any], *, resamples: int, seed: int = 0
) -> Draws:
    """Value and draws of figures that take counts."""
    value = figures_of(np.ones((1, len(patients))))
    parts = [figures_of(counts) for counts in counts_of_patients(patients, resamples, seed)]
    return Draws(
        {name: values[0] for name, values in value.items()},
        {name: np.concatenate([part[name] for part in parts]) for name in value},
    )
