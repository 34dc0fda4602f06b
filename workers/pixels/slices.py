"""The slices of a series as the node's files tell of them. Their order is that of training (`models.slices`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from models.errors import SliceOrderError
from models.slices import SliceOrder, Vector, order_slices
from workers.pixels.errors import NoVolume

__all__ = ["SliceHeader", "SliceOrder", "sort_slices"]


@dataclass(frozen=True)
class SliceHeader:
    """One frame of one file. ``position`` in mm and ``orientation`` (row and column cosines): None where absent."""

    path: Path
    frame: int
    rows: int
    columns: int
    position: Vector | None
    orientation: tuple[Vector, Vector] | None
    instance_number: int | None = None
    spacing_mm: tuple[float, float] | None = None
    series_instance_uid: str = ""


def sort_slices(headers: Sequence[SliceHeader]) -> SliceOrder:
    """As `models.slices.order_slices`. Raises NoVolume: slices that make no volume, or of more than one series."""
    if len({header.series_instance_uid for header in headers}) > 1:
        raise NoVolume("slices of more than one series")
    try:
        return order_slices(headers)
    except SliceOrderError as error:
        raise NoVolume(str(error)) from error
