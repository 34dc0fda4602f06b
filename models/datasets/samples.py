"""What every label file becomes: samples with targets by label key, and what could not be used."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from models.contracts import SeriesFacts

POSITIVE, NEGATIVE, UNCERTAIN, UNKNOWN = 1.0, 0.0, -1.0, float("nan")
"""The four values of a target. What an uncertain one counts as is a policy of :mod:`models.datasets.targets`."""

PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class Box:
    """Where a finding lies: upper left corner, width and height in pixels of the source image.

    file: of the slice, in a series; empty where there is only one image.
    """

    label: str
    x: float
    y: float
    width: float
    height: float
    file: str = ""


@dataclass(frozen=True)
class Sample:
    """One image, or one series of slices, with its labels.

    file: relative to the images' folder, with forward slashes; ``archive.npz#train/12`` is an image in a NumPy archive.
    patient: as the data set numbers them; the same number in two sources is not the same person.
    targets: label key to POSITIVE, NEGATIVE, UNCERTAIN or UNKNOWN (nan). Samples may share one mapping.
    files: the ordered slices of a series (CT, MR); ``file`` is then the first. Empty for a single image.
    series: what a bundle's rules for series look at; None for a single image.
    split: "train", "validation" or "test" where the data set has an official split, else "".
    age_years: None where unknown.
    """

    file: str
    patient: str
    source: str
    targets: Mapping[str, float]
    files: tuple[str, ...] = ()
    series: SeriesFacts | None = None
    split: str = ""
    view: str = ""
    sex: str = ""
    age_years: float | None = None
    device: str = ""
    licence: str = ""
    boxes: tuple[Box, ...] = ()

    @property
    def every_file(self) -> tuple[str, ...]:
        """The slices of a series, else the one file."""
        return self.files or (self.file,)

    @property
    def as_series(self) -> SeriesFacts:
        """A single image is a series of one."""
        return self.series or SeriesFacts(len(self.every_file), 0, by_position=True, spacing_mm=None)


@dataclass(frozen=True)
class Problem:
    """Something a person should know about a data set; no text in it comes from a patient's data.

    where: file and line, or file and image; the first place when ``count`` is more than 1.
    left_out: the row or image is not among the samples. Only these count against ``max_bad_fraction``.
    """

    where: str
    what: str
    count: int = 1
    left_out: bool = False


@dataclass(frozen=True)
class SampleSet:
    """Samples of one data set.

    exclusive: exactly one label is positive in each sample (multi-class, softmax); else any number (multi-label).
    """

    name: str
    labels: tuple[str, ...]
    exclusive: bool
    samples: tuple[Sample, ...]
    problems: tuple[Problem, ...]


class Problems:
    """Collects problems while a file is read: what is left out one by one, remarks once with their count."""

    def __init__(self) -> None:
        self._left_out: list[Problem] = []
        self._notes: dict[str, tuple[str, int]] = {}

    def leave_out(self, where: str, what: str) -> None:
        """A row or image that will not be among the samples."""
        self._left_out.append(Problem(where, what, left_out=True))

    def note(self, where: str, what: str, count: int = 1) -> None:
        """A remark; equal ones are counted and the first place is kept."""
        first, so_far = self._notes.get(what, (where, 0))
        self._notes[what] = (first, so_far + count)

    @property
    def left_out(self) -> list[Problem]:
        """What was left out so far."""
        return self._left_out

    def all(self) -> tuple[Problem, ...]:
        """What was left out, then the remarks."""
        return (*self._left_out, *(Problem(where, what, count) for what, (where, count) in self._notes.items()))


@dataclass
class Draft:
    """What a loader hands over before the checks that all data sets share.

    seen: rows or images looked at, the denominator of ``max_bad_fraction``.
    """

    name: str
    labels: tuple[str, ...]
    exclusive: bool
    samples: list[Sample]
    problems: Problems
    seen: int


class SharedTargets:
    """One mapping for all samples with the same positive labels: a hundred thousand rows have few patterns."""

    def __init__(self, labels: Iterable[str]) -> None:
        self.labels = tuple(labels)
        self._made: dict[tuple[float, ...], Mapping[str, float]] = {}
        self._of_positive: dict[frozenset[str], Mapping[str, float]] = {}

    def of_values(self, values: Iterable[float]) -> Mapping[str, float]:
        """Targets in the order of the labels."""
        # nan is not equal to itself and would make every key a new one.
        given = tuple(UNKNOWN if value != value else value for value in values)  # noqa: PLR0124
        if given not in self._made:
            self._made[given] = MappingProxyType(dict(zip(self.labels, given, strict=True)))
        return self._made[given]

    def of_positive(self, positive: frozenset[str]) -> Mapping[str, float]:
        """Targets with 1 for the labels named and 0 for the others."""
        if positive not in self._of_positive:
            values = (POSITIVE if label in positive else NEGATIVE for label in self.labels)
            self._of_positive[positive] = self.of_values(values)
        return self._of_positive[positive]
