"""The order of a series' slices in space, and what is odd about it: the same for training, judging and the node. Pure.

PS3.3 C.7.6.2.1.1: Image Position (Patient) projected on the normal of Image Orientation (Patient). Instance numbers
are a fallback only: scanners count them in any direction and start anew for every reconstruction.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Protocol

from models.contracts import SeriesFacts
from models.errors import SliceOrderError

Vector = tuple[float, float, float]

_PARALLEL_COSINE = 0.999
"""Normals within 2.5 degrees are one orientation."""

_SAME_PLACE_MM = 0.01
_GAP_STEPS = 1.5
"""A step longer than this many usual ones has room for a missing slice."""


class Slice(Protocol):
    """One frame of one file. ``position`` in mm and ``orientation`` (row and column cosines): None where absent."""

    @property
    def frame(self) -> int: ...
    @property
    def rows(self) -> int: ...
    @property
    def columns(self) -> int: ...
    @property
    def position(self) -> Vector | None: ...
    @property
    def orientation(self) -> tuple[Vector, Vector] | None: ...
    @property
    def instance_number(self) -> int | None: ...


@dataclass(frozen=True)
class SliceOrder:
    """indices: which slices, in which order; what does not belong is left out.

    by_position: False where instance numbers or the given order had to do.
    spacing_mm: usual distance between neighbours; None where unknown.
    missing: slices that gaps have room for.
    notes: what a reader of the result should know, for people.
    """

    indices: tuple[int, ...]
    by_position: bool
    spacing_mm: float | None
    missing: int
    notes: tuple[str, ...]

    @property
    def facts(self) -> SeriesFacts:
        """What the rules of :func:`models.series.admit_series` look at."""
        return SeriesFacts(len(self.indices), self.missing, self.by_position, self.spacing_mm)


def order_slices(headers: Sequence[Slice]) -> SliceOrder:
    """Order slices of one series along their common normal, ascending (for axial ones from feet to head).

    Slices of another size or orientation than most are left out, of several in one place the first by instance number
    is kept; gaps are counted. Each is noted.

    Raises SliceOrderError: no slices, or an orientation that is none.
    """
    if not headers:
        raise SliceOrderError("no slices")
    notes: list[str] = []
    kept = _most_common(range(len(headers)), lambda i: (headers[i].rows, headers[i].columns), "size", notes)
    if any(headers[i].position is None or headers[i].orientation is None for i in kept):
        return _by_number(headers, kept, notes)
    normals = {i: _normal(headers[i]) for i in kept}
    kept = _most_common(kept, _direction_of(normals), "orientation", notes)
    normal = normals[kept[0]]
    places = {i: _dot(headers[i].position or (0.0, 0.0, 0.0), normal) for i in kept}
    ordered = sorted(kept, key=lambda i: (places[i], _number(headers[i])))
    ordered = _one_per_place(ordered, places, notes)
    spacing, missing = _steps([places[i] for i in ordered], notes)
    return SliceOrder(tuple(ordered), True, spacing, missing, tuple(notes))


def _by_number(headers: Sequence[Slice], kept: Sequence[int], notes: list[str]) -> SliceOrder:
    if all(headers[i].instance_number is not None for i in kept):
        notes.append("slices without position in space: ordered by instance number")
        kept = sorted(kept, key=lambda i: (_number(headers[i]), headers[i].frame))
    elif len(kept) > 1:
        notes.append("slices without position in space or instance number: order as given")
    return SliceOrder(tuple(kept), False, None, 0, tuple(notes))


def _most_common(indices: Sequence[int], key: Callable[[int], Hashable], what: str, notes: list[str]) -> list[int]:
    keys = {i: key(i) for i in indices}
    common, count = Counter(keys.values()).most_common(1)[0]
    if count < len(keys):
        notes.append(f"{len(keys) - count} of {len(keys)} slices left out: another {what} than the others")
    return [i for i in indices if keys[i] == common]


def _direction_of(normals: dict[int, Vector]) -> Callable[[int], Hashable]:
    """Name of the direction a slice faces: the first slice that faces the same way stands for all."""
    leaders: list[int] = []

    def direction(index: int) -> Hashable:
        for leader in leaders:
            if _dot(normals[leader], normals[index]) > _PARALLEL_COSINE:
                return leader
        leaders.append(index)
        return index

    return direction


def _one_per_place(ordered: list[int], places: dict[int, float], notes: list[str]) -> list[int]:
    kept = ordered[:1]
    for index in ordered[1:]:
        if places[index] - places[kept[-1]] > _SAME_PLACE_MM:
            kept.append(index)
    if len(kept) < len(ordered):
        notes.append(f"{len(ordered) - len(kept)} of {len(ordered)} slices left out: another one is at the same place")
    return kept


def _steps(places: list[float], notes: list[str]) -> tuple[float | None, int]:
    steps = [after - before for before, after in pairwise(places)]
    if not steps:
        return None, 0
    usual = median(steps)
    gaps = [step for step in steps if step > _GAP_STEPS * usual]
    missing = sum(max(1, round(gap / usual) - 1) for gap in gaps)
    if gaps:
        notes.append(
            f"{len(gaps)} gap{'s' if len(gaps) > 1 else ''} between slices (up to {max(gaps):.1f} mm where "
            f"{usual:.1f} mm is usual): about {missing} missing"
        )
    return usual, missing


def _normal(header: Slice) -> Vector:
    """Unit normal of a slice: row cosines x column cosines."""
    (a, b, c), (d, e, f) = header.orientation or ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
    cross = (b * f - c * e, c * d - a * f, a * e - b * d)
    length = math.hypot(*cross)
    if length < _SAME_PLACE_MM:
        raise SliceOrderError("rows and columns of a slice are parallel")
    return cross[0] / length, cross[1] / length, cross[2] / length


def _dot(a: Vector, b: Vector) -> float:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _number(header: Slice) -> int:
    return -1 if header.instance_number is None else header.instance_number
