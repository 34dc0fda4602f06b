"""Series in space: order, gaps, what does not belong, and volumes of bounded size."""

from __future__ import annotations

import math
import random
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

from workers.pixels import (
    NoVolume,
    PixelError,
    SliceHeader,
    TruncatedPixels,
    open_volume,
    read_grey,
    read_slice_headers,
    sort_slices,
)

DATA = Path(__file__).parents[2].parent / "shared" / "data" / "dicom"
CHEST = sorted((DATA / "ct_chest" / "P001").glob("*.dcm"))
AXIAL = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
TILTED = ((1.0, 0.0, 0.0), (0.0, math.cos(0.3), math.sin(0.3)))
CORONAL = ((1.0, 0.0, 0.0), (0.0, 0.0, -1.0))


def stack(count: int, step_mm: float = 2.0) -> list[SliceHeader]:
    """Axial slices from feet to head, numbered from head to feet as many scanners do."""
    return [
        SliceHeader(Path(f"{i}.dcm"), 0, 64, 64, (0.0, 0.0, i * step_mm), AXIAL, instance_number=count - i)
        for i in range(count)
    ]


def shuffled(headers: list[SliceHeader]) -> list[SliceHeader]:
    mixed = list(headers)
    random.Random(1).shuffle(mixed)
    return mixed


def test_order_follows_position_not_instance_number() -> None:
    headers = shuffled(stack(9))
    order = sort_slices(headers)
    assert [headers[i].path.stem for i in order.indices] == [str(i) for i in range(9)]
    assert (order.by_position, order.spacing_mm, order.missing, order.notes) == (True, 2.0, 0, ())


def test_tilted_slices_are_measured_along_their_normal() -> None:
    normal = np.cross(*TILTED)
    headers = [
        replace(header, orientation=TILTED, position=(5.0, *(3.0 * i * normal[1:])))
        for i, header in enumerate(stack(5))
    ]
    order = sort_slices(headers)
    assert order.indices == (0, 1, 2, 3, 4)
    assert order.spacing_mm == pytest.approx(3.0)


def test_gaps_are_counted() -> None:
    headers = stack(10)
    order = sort_slices(shuffled([*headers[:3], *headers[4:6], *headers[8:]]))
    assert order.missing == 3
    assert order.notes == ("2 gaps between slices (up to 6.0 mm where 2.0 mm is usual): about 3 missing",)


def test_a_slice_at_the_same_place_is_left_out() -> None:
    headers = stack(4)
    order = sort_slices([*headers, replace(headers[2], instance_number=0)])
    assert order.indices == (0, 1, 4, 3)
    assert "same place" in order.notes[0]


def test_localizers_and_other_sizes_are_left_out() -> None:
    headers = stack(5)
    localizer = replace(headers[0], orientation=CORONAL)
    other = replace(headers[1], rows=32)
    order = sort_slices([localizer, *headers, other])
    assert order.indices == (1, 2, 3, 4, 5)
    assert "another size" in order.notes[0]
    assert "another orientation" in order.notes[1]


def test_without_positions_the_instance_number_has_to_do() -> None:
    headers = [replace(header, position=None) for header in stack(3)]
    order = sort_slices(headers)
    assert order.indices == (2, 1, 0)
    assert not order.by_position
    assert "ordered by instance number" in order.notes[0]
    order = sort_slices([replace(header, instance_number=None) for header in headers])
    assert order.indices == (0, 1, 2)
    assert "order as given" in order.notes[0]


def test_what_is_no_series() -> None:
    with pytest.raises(NoVolume, match="no slices"):
        sort_slices([])
    first, second = stack(2)
    with pytest.raises(NoVolume, match="more than one series"):
        sort_slices([first, replace(second, series_instance_uid="1.2")])
    with pytest.raises(NoVolume, match="parallel"):
        sort_slices([replace(first, orientation=(AXIAL[0], AXIAL[0]))])


def test_a_real_chest_is_sorted_and_a_missing_slice_noticed() -> None:
    mixed = list(CHEST)
    random.Random(3).shuffle(mixed)
    headers = read_slice_headers(mixed)
    order = sort_slices(headers)
    ordered = [headers[i].path for i in order.indices]
    # The files are numbered by ascending slice location.
    assert ordered in (CHEST, CHEST[::-1])
    assert (order.spacing_mm, order.missing) == (pytest.approx(2.0), 0)
    left_out = sort_slices([header for header in headers if header.path != CHEST[7]])
    assert left_out.missing == 1
    assert "1 gap" in left_out.notes[0]


def test_slices_of_a_real_chest_are_decoded_when_asked_for() -> None:
    paths = CHEST[5:9]
    volume = open_volume(paths[::-1])
    assert len(volume) == 4
    assert volume.order.spacing_mm == pytest.approx(2.0)
    for place, header in enumerate(volume.slices):
        image = volume.read(place)
        assert image.pixels.shape == (header.rows, header.columns) == (512, 512)
        np.testing.assert_array_equal(image.pixels, read_grey(header.path, frame=header.frame).pixels)
        assert image.pixels.min() < -900  # air, in Hounsfield units


def test_enhanced_multi_frame_is_a_volume_of_its_own() -> None:
    path = DATA / "fodicom" / "mr_brucker.dcm"
    volume = open_volume([path])
    assert [volume.read(place).pixels.shape for place in range(len(volume))] == [(128, 256)] * 4
    assert volume.order.spacing_mm == pytest.approx(1.0)
    assert all(header.position is not None for header in volume.slices)
    assert {header.frame for header in volume.slices} == {0, 1, 2, 3}


def test_the_reason_says_which_slice_is_broken(tmp_path: Path) -> None:
    for path in CHEST[:3]:
        shutil.copy(path, tmp_path)
    broken = tmp_path / CHEST[1].name
    dataset = dcmread(broken)
    dataset.NumberOfFrames = 3
    dataset.save_as(broken)
    with pytest.raises(TruncatedPixels, match=r"1 of 3 frames"):
        _read_all(sorted(tmp_path.iterdir()))
    raw = CHEST[1].read_bytes()
    start = raw.rindex(b"\xff\xd8")
    broken.write_bytes(raw[:start] + bytes(len(raw) - start - 8) + raw[-8:])
    with pytest.raises(Exception, match=r"slice 2 of 3: JPEG lossless stream could not be decoded"):
        _read_all(sorted(tmp_path.iterdir()))
    broken.write_bytes(b"no image")
    with pytest.raises(PixelError, match=r"image 2 of 3"):
        _read_all(sorted(tmp_path.iterdir()))


def _read_all(paths: list[Path]) -> None:
    volume = open_volume(paths)
    for place in range(len(volume)):
        volume.read(place)
