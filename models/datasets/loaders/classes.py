"""Rows whose labels stand in one cell, as most label files have them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from models.datasets import values
from models.datasets.paths import shown
from models.datasets.samples import Draft, Problems, Sample, SharedTargets
from models.errors import DatasetError

MOST_CLASSES = 1000
"""More distinct classes than this means that a column of names or numbers was taken for the labels."""


@dataclass(frozen=True)
class Classed:
    """A sample that is still without targets, and the labels that hold for it."""

    sample: Sample
    labels: frozenset[str]


NO_TARGETS: Mapping[str, float] = {}


def names_in(cell: str, separator: str) -> frozenset[str]:
    """The names in a cell; "" as separator takes it whole."""
    if not separator:
        return frozenset((cell,))
    return frozenset(name for name in (part.strip() for part in cell.split(separator)) if name)


def draft_of(name: str, rows: list[Classed], problems: Problems, seen: int, *, exclusive: bool) -> Draft:
    """Targets for all rows: the labels are those that occur, sorted.

    Raises DatasetError when there are more than MOST_CLASSES.
    """
    labels = sorted(frozenset().union(*(row.labels for row in rows)))
    if len(labels) > MOST_CLASSES:
        raise DatasetError(f"{name}: {len(labels)} different labels ({shown(labels[0])}, ...); is it the right column?")
    shared = SharedTargets(labels)
    for row in rows:
        # The samples are this module's own until they are handed over.
        object.__setattr__(row.sample, "targets", shared.of_positive(row.labels))
    return Draft(name, tuple(labels), exclusive, [row.sample for row in rows], problems, seen)


def age_of(text: str, where: str, problems: Problems) -> float | None:
    """Years or None; what is wrong with the text is noted."""
    years, wrong = values.age(text)
    if wrong:
        problems.note(where, wrong)
    return years
