"""Samples' labels as arrays for a loss: targets, and a mask for what is not known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from models.contracts import FloatArray
from models.datasets.paths import shown
from models.datasets.samples import NEGATIVE, POSITIVE, UNCERTAIN, Sample
from models.errors import DatasetError

Uncertain = Literal["ones", "zeros", "ignore", "smooth"]
"""What -1 counts as (Pham et al., 1911.06475): positive, negative, nothing, or ``smooth``, a number between."""

SMOOTH = 0.7
"""The middle of the range 0.55 to 0.85 that Pham et al. draw from for uncertain labels taken as positive."""


@dataclass(frozen=True)
class Targets:
    """values, mask: float32 (n, labels). Mask 0 takes a label of an image out of the loss; its value is then 0."""

    labels: tuple[str, ...]
    values: FloatArray
    mask: FloatArray


@dataclass(frozen=True)
class ClassCounts:
    """Samples of a label in a set: int64 (labels,) each. An uncertain one counts as nothing but that."""

    labels: tuple[str, ...]
    positive: NDArray[np.int64]
    negative: NDArray[np.int64]
    uncertain: NDArray[np.int64]
    unknown: NDArray[np.int64]


def raw(samples: Sequence[Sample], labels: Sequence[str]) -> FloatArray:
    """The targets as they are, float32 (n, labels) of 1, 0, -1 and nan.

    Raises DatasetError for a label that the samples do not have, or a value that is none of the four.
    """
    if not labels:
        raise DatasetError("there are no labels to make targets of")
    # Samples share their mappings; a row is made once for each.
    made: dict[int, int] = {}
    rows: list[list[float]] = []
    index = np.empty(len(samples), dtype=np.int64)
    for at, sample in enumerate(samples):
        key = id(sample.targets)
        if key not in made:
            made[key] = len(rows)
            rows.append(_row(sample.targets, labels))
        index[at] = made[key]
    table = np.asarray(rows, dtype=np.float32).reshape(len(rows), len(labels))
    if not np.isin(table[~np.isnan(table)], (POSITIVE, NEGATIVE, UNCERTAIN)).all():
        raise DatasetError("a target is none of 1, 0, -1 and nan")
    return table[index]


def matrix(
    samples: Sequence[Sample], labels: Sequence[str], uncertain: Uncertain = "ignore", smooth: float = SMOOTH
) -> Targets:
    """Targets and mask under a policy for uncertain labels. Unknown ones are always masked.

    Raises DatasetError as :func:`raw`, for another policy, and for ``smooth`` outside [0, 1].
    """
    replacement = {"ones": POSITIVE, "zeros": NEGATIVE, "ignore": NEGATIVE, "smooth": smooth}
    if uncertain not in replacement:
        raise DatasetError(f"uncertain labels are one of {', '.join(replacement)}, not {shown(str(uncertain))}")
    if not 0 <= smooth <= 1:
        raise DatasetError(f"smooth is a target between 0 and 1, not {smooth:g}")
    values = raw(samples, labels)
    doubtful, unknown = values == UNCERTAIN, np.isnan(values)
    masked = unknown | doubtful if uncertain == "ignore" else unknown
    values[doubtful] = replacement[uncertain]
    values[masked] = 0
    return Targets(tuple(labels), values, (~masked).astype(np.float32))


def class_indices(samples: Sequence[Sample], labels: Sequence[str]) -> NDArray[np.int64]:
    """The class of each sample of an exclusive set, int64 (n,). Raises DatasetError unless each has exactly one."""
    values = raw(samples, labels)
    wrong = int(
        np.count_nonzero(
            ((values == POSITIVE).sum(axis=1) != 1) | ((values == NEGATIVE).sum(axis=1) != len(labels) - 1)
        )
    )
    if wrong:
        raise DatasetError(f"{wrong} samples do not have exactly one of the classes {', '.join(map(shown, labels))}")
    classes: NDArray[np.int64] = values.argmax(axis=1).astype(np.int64)
    return classes


def class_counts(samples: Sequence[Sample], labels: Sequence[str]) -> ClassCounts:
    """How many samples are what. Raises DatasetError as :func:`raw`."""
    values = raw(samples, labels)
    positive, negative, doubtful = (
        np.count_nonzero(values == value, axis=0).astype(np.int64) for value in (POSITIVE, NEGATIVE, UNCERTAIN)
    )
    unknown = np.count_nonzero(np.isnan(values), axis=0).astype(np.int64)
    return ClassCounts(tuple(labels), positive, negative, doubtful, unknown)


def positive_weights(targets: Targets, power: float = 0.5) -> FloatArray:
    """What a positive sample weighs against a negative one, float32 (labels,): (negatives / positives) ** power.

    The square root lifts rare findings without letting few images decide; any weight asks for calibration afterwards.
    Raises DatasetError for a label without positives or without negatives.
    """
    positive = (targets.values * targets.mask).sum(axis=0, dtype=np.float64)
    negative = targets.mask.sum(axis=0, dtype=np.float64) - positive
    _refuse_empty(targets.labels, positive, "positive")
    _refuse_empty(targets.labels, negative, "negative")
    return np.asarray((negative / positive) ** power, dtype=np.float32)


def class_weights(indices: NDArray[np.int64], labels: Sequence[str], power: float = 0.5) -> FloatArray:
    """What a sample of each class weighs, float32 (classes,): (n / (classes * count)) ** power.

    Raises DatasetError for a class without samples.
    """
    count = np.bincount(indices, minlength=len(labels)).astype(np.float64)
    _refuse_empty(labels, count, "positive")
    return np.asarray((len(indices) / (len(labels) * count)) ** power, dtype=np.float32)


def _row(targets: Mapping[str, float], labels: Sequence[str]) -> list[float]:
    try:
        return [targets[label] for label in labels]
    except KeyError as error:
        has = ", ".join(map(shown, targets))
        raise DatasetError(f"samples have no label {shown(str(error.args[0]))}; they have {has or 'none'}") from error


def _refuse_empty(labels: Sequence[str], count: NDArray[np.float64], what: str) -> None:
    empty = [shown(label) for label, number in zip(labels, count, strict=True) if number <= 0]
    if empty:
        raise DatasetError(f"no sample is {what} for {', '.join(empty)}")
