"""The slices of a CT or MR series in anatomical order, by position and not by the order they were numbered in."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from models.datasets.loaders.dicom_headers import Header
from models.datasets.paths import shown
from models.datasets.samples import Problems

WIDEST_GAP = 1.5
"""Times the median distance of neighbours; more means that slices are missing."""

_PARALLEL = 1e-2


def ordered(slices: Sequence[Header], problems: Problems) -> list[Header]:
    """Along the normal of the first slice (PS3.3 C.7.6.2.1.1); by instance number where a position is missing.

    Gaps, slices at one place, and planes that are not parallel are noted.
    """
    by_number = sorted(slices, key=lambda one: (one.number is None, one.number or 0, one.file))
    where = shown(by_number[0].file)
    if len(slices) < 2:
        return by_number
    if not all(one.position and one.orientation for one in slices):
        problems.note(where, "series whose slices have no position were ordered by instance number")
        return by_number
    orientation = np.array([one.orientation for one in by_number])
    if np.abs(orientation - orientation[0]).max() > _PARALLEL:
        problems.note(where, "series whose slices are not parallel were ordered by instance number")
        return by_number
    normal = np.cross(orientation[0, :3], orientation[0, 3:])
    along = np.array([one.position for one in by_number]) @ normal
    order = np.argsort(along, kind="stable")
    gaps = np.diff(along[order])
    median = float(np.median(gaps))
    if median <= 0 or float(gaps.min()) < _PARALLEL * median:
        problems.note(where, "series have several slices at one place")
    elif float(gaps.max()) > WIDEST_GAP * median:
        problems.note(where, "series have gaps between their slices")
    return [by_number[index] for index in order]
