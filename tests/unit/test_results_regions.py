from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from models.contracts import Explanation, Placement
from tests.support.result_samples import explained
from workers.results.colours import COLOURS, OPACITY
from workers.results.overlay import Caption, draw_overlay
from workers.results.regions import attention_outline, whole_image
from workers.results.sc import in_words


def disc(rows: int, columns: int, centre: tuple[float, float], radius: float) -> np.ndarray:
    y, x = np.mgrid[0:rows, 0:columns]
    return np.clip(1 - np.hypot(y - centre[0], x - centre[1]) / (2 * radius), 0, 1)


def area(line: np.ndarray) -> float:
    x, y = line[:-1, 0].astype(float), line[:-1, 1].astype(float)
    return abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) / 2


def test_the_outline_of_a_cone_at_half_height_is_its_circle() -> None:
    line = attention_outline(explained("p", 1000, 1000, disc(50, 50, (20, 30), 10)), 1000, 1000)
    assert line is not None
    # Grid cell 30 has its middle at 610 of 1000 pixels; half height lies 10 cells, 200 pixels, from there.
    radii = np.hypot(line[:, 0] - 610, line[:, 1] - 410)
    np.testing.assert_allclose(radii, 200, atol=12)
    assert area(line) == pytest.approx(np.pi * 200**2, rel=0.05)


def test_of_two_regions_the_larger_is_taken() -> None:
    both = np.maximum(disc(60, 60, (15, 15), 9), disc(60, 60, (45, 45), 4))
    line = attention_outline(explained("p", 600, 600, both), 600, 600)
    assert line is not None
    assert line.max() < 300


def test_an_empty_map_has_no_outline() -> None:
    assert attention_outline(explained("p", 100, 80, np.zeros((7, 7))), 100, 80) is None


def test_a_region_lies_where_the_map_was_placed() -> None:
    grid = np.ones((7, 7), np.float32)
    # Only the right half of the source was read.
    placed = Placement((400, 800), (0, 400, 400, 400), (0, 0, 224, 224), (224, 224))
    line = attention_outline(Explanation("p", "Grad-CAM", grid, 1.0, placed), 400, 800)
    assert line is not None
    assert line[:, 0].min() == pytest.approx(400, abs=7)
    assert line[:, 0].max() == 800


@settings(max_examples=60, deadline=None)
@given(
    grid=arrays.arrays(np.float32, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.floats(0, 1, width=32)),
    rows=st.integers(1, 3000),
    columns=st.integers(1, 3000),
)
def test_every_outline_is_closed_and_within_the_image(grid: np.ndarray, rows: int, columns: int) -> None:
    placed = Placement((rows, columns), (0, 0, rows, columns), (0, 0, 224, 224), (224, 224))
    peak = float(grid.max())
    line = attention_outline(Explanation("p", "m", grid / peak if peak > 0 else grid, peak, placed), rows, columns)
    if line is None:
        line = whole_image(rows, columns)
    assert len(line) >= 4
    np.testing.assert_array_equal(line[0], line[-1])
    assert line.min() >= 0
    assert (line <= [columns, rows]).all()


def test_lightness_rises_evenly_with_the_value() -> None:
    grey = COLOURS @ np.array([0.2126, 0.7152, 0.0722])
    assert (np.diff(grey) >= -0.5).all()
    assert OPACITY[0] == 0
    assert (np.diff(OPACITY.astype(int)) >= 0).all()
    assert OPACITY.max() < 160


@pytest.mark.parametrize(
    ("rows", "columns"), [(224, 224), (2500, 2048), (2001, 300), (300, 2001), (1, 1), (5000, 3), (3, 5000)]
)
def test_pictures_are_as_wide_as_said_and_of_even_height(rows: int, columns: int) -> None:
    drawn = draw_overlay(np.full((rows, columns), 90, np.uint8), explained("p", rows, columns), Caption("a", "b", "c"))
    assert drawn.dtype == np.uint8
    assert drawn.shape[1:] == (1024, 3)
    assert drawn.shape[0] % 2 == 0
    assert drawn.shape[0] <= 1800


def test_anatomy_is_untouched_where_the_model_did_not_look_and_by_any_text() -> None:
    plain = np.full((500, 1024), 90, np.uint8)
    grid = np.zeros((8, 8))
    grid[4, 1] = 1
    caption = Caption("long name " * 30, "score " * 60, "model " * 60)
    drawn = draw_overlay(plain, explained("p", 500, 1024, grid), caption)
    anatomy = drawn[104:-104]
    assert anatomy.shape[0] == 500
    assert (anatomy[:, 512:] == 90).all()
    assert (anatomy[281, 192] != 90).any()
    assert (drawn[:104] == [255, 186, 66]).all(axis=2).any()


@pytest.mark.parametrize(
    ("probability", "words"),
    [(0.5, "0.50"), (0.9949, "> 0.99"), (1.0, "> 0.99"), (0.99, "0.99"), (0.0, "< 0.01"), (0.0049, "< 0.01")],
)
def test_a_picture_never_claims_certainty(probability: float, words: str) -> None:
    assert in_words(probability) == words
