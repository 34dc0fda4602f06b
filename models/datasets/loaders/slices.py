"""The slices of a CT or MR series in anatomical order, as a node orders them, and what a node would think of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from models.contracts import SeriesFacts
from models.datasets.loaders.dicom_headers import Header
from models.datasets.paths import shown
from models.datasets.samples import Problems
from models.errors import SliceOrderError
from models.slices import Vector, order_slices


@dataclass(frozen=True)
class _Place:
    """A header as `models.slices` takes it."""

    rows: int
    columns: int
    position: Vector | None
    orientation: tuple[Vector, Vector] | None
    instance_number: int | None
    frame: int = 0


def ordered(slices: Sequence[Header], problems: Problems) -> tuple[list[Header], SeriesFacts | None]:
    """Along their normal, without what a node leaves out, and the facts that its rules look at.

    Slices left aside, gaps and missing positions are noted. A series without any order is left out: no slice, no facts.
    """
    by_number = sorted(slices, key=lambda one: (one.number is None, one.number or 0, one.file))
    where = shown(by_number[0].file)
    try:
        order = order_slices([_place(one) for one in by_number])
    except SliceOrderError as error:
        for one in by_number:
            problems.leave_out(shown(one.file), f"the slices of its series make no volume: {error}")
        return [], None
    if aside := len(by_number) - len(order.indices):
        problems.note(
            where, "slices of another size or orientation, or at the place of another one, were left aside", aside
        )
    if not order.by_position and len(order.indices) > 1:
        problems.note(where, "series whose slices have no position were ordered by instance number")
    if order.missing:
        problems.note(where, "series have gaps between their slices")
    return [by_number[index] for index in order.indices], order.facts


def _place(header: Header) -> _Place:
    return _Place(
        header.rows,
        header.columns,
        _vector(header.position) if header.position else None,
        (_vector(header.orientation[:3]), _vector(header.orientation[3:])) if header.orientation else None,
        header.number,
    )


def _vector(numbers: Sequence[float]) -> Vector:
    x, y, z = numbers
    return x, y, z
