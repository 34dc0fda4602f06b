"""From source image to model input and back: a mark's map lies over the mark."""

from __future__ import annotations

import numpy as np
import pytest

from models.contracts import Explanation, GreyImage, LinearWindow
from models.explain import map_to_source
from models.preprocess import apply, parse_steps

INPUT = 224
GRID = 28


def chain(*first: dict[str, object]) -> list[dict[str, object]]:
    return [
        *first,
        {"step": "window"},
        {"step": "invert"},
        {"step": "resize_pad", "rows": INPUT, "columns": INPUT},
        {"step": "channels"},
        {"step": "scale", "convention": "unit"},
    ]


@pytest.mark.parametrize("shape", [(400, 400), (640, 320), (300, 900), (333, 257)])
@pytest.mark.parametrize("first", [(), ({"step": "crop", "mode": "centre_square"},), ({"step": "crop"},)])
def test_a_bright_mark_is_found_where_it_was(shape: tuple[int, int], first: tuple[dict[str, object], ...]) -> None:
    rows, columns = shape
    pixels, valid = np.zeros(shape, np.float32), np.ones(shape, np.bool_)
    valid[:10], valid[:, :20] = False, False
    side = min(shape) // 8
    y, x = rows // 2 - 2 * side, columns // 2 + side
    pixels[y : y + side, x : x + side] = 1000
    made = apply(parse_steps(chain(*first)), GreyImage(pixels, valid, LinearWindow(500, 1000, "LINEAR_EXACT")))
    cell = INPUT // GRID
    grid = made.array[..., 0].reshape(GRID, cell, GRID, cell).mean(axis=(1, 3))

    drawn = map_to_source(Explanation("mark", "Grad-CAM", grid, 1.0, made.placement), rows, columns)

    assert drawn.shape == shape
    assert drawn.dtype == np.float32
    assert 0 <= drawn.min() <= drawn.max() <= 1
    weights = drawn / drawn.sum()
    found = (weights.sum(axis=1) @ np.arange(rows), weights.sum(axis=0) @ np.arange(columns))
    slack = max(shape) / GRID / 2
    np.testing.assert_allclose(found, (y + side / 2, x + side / 2), atol=slack)


def test_nothing_is_drawn_where_the_model_did_not_look() -> None:
    pixels = np.tile(np.linspace(0, 1, 400, dtype=np.float32), (200, 1))
    made = apply(parse_steps(chain({"step": "crop", "mode": "centre_square"})), GreyImage(pixels))
    drawn = map_to_source(Explanation("x", "Grad-CAM", np.ones((7, 7), np.float32), 1.0, made.placement), 200, 400)
    assert not drawn[:, :100].any()
    assert not drawn[:, 300:].any()
    assert np.all(drawn[:, 100:300] == 1)


def test_the_map_may_be_drawn_at_another_size_than_the_source() -> None:
    made = apply(parse_steps(chain()), GreyImage(np.eye(500, 250, dtype=np.float32)))
    found = Explanation("x", "Grad-CAM", np.eye(7, dtype=np.float32), 1.0, made.placement)
    large, small = map_to_source(found, 500, 250), map_to_source(found, 100, 50)
    np.testing.assert_allclose(small, large.reshape(100, 5, 50, 5).mean(axis=(1, 3)), atol=0.02)
