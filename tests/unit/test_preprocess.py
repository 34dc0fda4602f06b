from __future__ import annotations

import numpy as np
import pytest

from models.contracts import GreyImage, LinearWindow, LookupTable
from models.errors import ManifestError, PreprocessError
from models.preprocess import Steps, apply, grey_from_uint8, parse_steps, prepare
from models.voi import foreground_window, window

CORE: list[dict[str, object]] = [
    {"step": "window"},
    {"step": "invert"},
    {"step": "resize_pad", "rows": 64, "columns": 64},
    {"step": "channels"},
    {"step": "scale", "convention": "unit"},
]


def steps(*, scale: str = "unit", extra: tuple[int, dict[str, object]] | None = None, **in_window: object) -> Steps:
    listed = [dict(step) for step in CORE]
    listed[0] |= in_window
    listed[-1]["convention"] = scale
    if extra is not None:
        listed.insert(*extra)
    return parse_steps(listed)


def gradient(rows: int = 64, columns: int = 64, top: float = 4095.0) -> np.ndarray:
    return np.tile(np.linspace(0, top, columns, dtype=np.float32), (rows, 1))


def test_eight_bit_image_passes_with_its_own_grey_levels() -> None:
    image = np.arange(64 * 64, dtype=np.uint32).reshape(64, 64).astype(np.uint8)
    made = apply(steps(), grey_from_uint8(image))
    assert made.array.shape == (64, 64, 3)
    assert made.array.dtype == np.float32
    np.testing.assert_allclose(made.array[..., 0], image / 255, atol=1e-6)
    np.testing.assert_array_equal(made.array[..., 0], made.array[..., 2])


@pytest.mark.parametrize(
    ("convention", "black", "white"),
    [
        ("unit", [0, 0, 0], [1, 1, 1]),
        ("zero_to_255", [0, 0, 0], [255, 255, 255]),
        ("minus_one_to_one", [-1, -1, -1], [1, 1, 1]),
        ("efficientnet_lite", [-127 / 128] * 3, [1, 1, 1]),
        ("torch", [-2.117904, -2.035714, -1.804444], [2.248908, 2.428571, 2.64]),
        ("caffe", [-103.939, -116.779, -123.68], [151.061, 138.221, 131.32]),
    ],
)
def test_each_backbone_gets_its_own_range(convention: str, black: list[float], white: list[float]) -> None:
    image = np.zeros((64, 64), dtype=np.uint8)
    image[:, 32:] = 255
    array = apply(steps(scale=convention), grey_from_uint8(image)).array
    np.testing.assert_allclose(array[0, 0], black, atol=1e-4)
    np.testing.assert_allclose(array[0, -1], white, atol=1e-4)


def test_monochrome1_equals_its_negative_as_monochrome2() -> None:
    pixels = gradient()
    straight = apply(steps(), GreyImage(pixels, voi=LinearWindow(2047.5, 4095, "LINEAR_EXACT")))
    negative = apply(steps(), GreyImage(4095 - pixels, voi=LinearWindow(2047.5, 4095, "LINEAR_EXACT"), inverted=True))
    np.testing.assert_allclose(straight.array, negative.array, atol=1e-6)


def test_linear_window_has_the_half_pixel_of_the_standard() -> None:
    # PS3.3 C.11.2.1.2.1: c=2048, w=4096 maps 0 to the minimum and 4095 to the maximum.
    made = window(np.array([-5, 0, 4095, 9000], dtype=np.float32), LinearWindow(2048, 4096))
    np.testing.assert_allclose(made, [0, 0, 1, 1], atol=1e-6)
    exact = window(np.array([0, 2048, 4096], dtype=np.float32), LinearWindow(2048, 4096, "LINEAR_EXACT"))
    np.testing.assert_allclose(exact, [0, 0.5, 1], atol=1e-6)


def test_window_of_width_one_is_a_step() -> None:
    made = window(np.array([99, 100, 101], dtype=np.float32), LinearWindow(100, 1))
    np.testing.assert_array_equal(made, [0, 1, 1])


def test_sigmoid_window_is_the_curve_of_the_standard_and_does_not_overflow() -> None:
    made = window(np.array([-1e30, 0, 100, 1e30], dtype=np.float32), LinearWindow(100, 200, "SIGMOID"))
    np.testing.assert_allclose(made, [0, 1 / (1 + np.exp(2)), 0.5, 1], atol=1e-6)


def test_lookup_table_clamps_at_both_ends() -> None:
    lut = LookupTable(first_mapped=10, values=np.array([0, 100, 255], dtype=np.float32), bits=8)
    made = window(np.array([-3, 10, 11, 12, 999], dtype=np.float32), lut)
    np.testing.assert_allclose(made, [0, 0, 100 / 255, 1, 1], atol=1e-6)


@pytest.mark.parametrize(
    "voi",
    [
        LinearWindow(0, 0.5),
        LinearWindow(0, 0, "LINEAR_EXACT"),
        LinearWindow(0, -4, "SIGMOID"),
        LinearWindow(float("nan"), 10),
        LinearWindow(0, 10, "CUBIC"),
        LookupTable(0, np.array([], dtype=np.float32), 8),
    ],
)
def test_windows_the_standard_forbids_are_refused(voi: LinearWindow | LookupTable) -> None:
    with pytest.raises(PreprocessError):
        apply(steps(), GreyImage(gradient(), voi=voi))


def test_fixed_window_outweighs_the_file() -> None:
    image = GreyImage(gradient(top=100) - 50, voi=LinearWindow(0, 10))
    array = apply(steps(mode="fixed", center=0.0, width=100.0, function="LINEAR_EXACT"), image).array
    np.testing.assert_allclose(array[..., 0], (image.pixels + 50) / 100, atol=1e-6)


@pytest.mark.parametrize("voi", [None, LinearWindow(90000, 10)])
def test_missing_or_useless_window_falls_back_and_says_so(voi: LinearWindow | None) -> None:
    made = prepare(steps(), GreyImage(gradient(), voi=voi))
    assert made.input.array.min() == 0
    assert made.input.array.max() == 1
    assert len(made.notes) == 1


def test_padding_counts_in_no_statistic_and_becomes_black() -> None:
    pixels = gradient()
    valid = np.ones(pixels.shape, dtype=np.bool_)
    valid[:, :8] = False
    spoilt = pixels.copy()
    spoilt[:, :8] = -30000
    array = apply(steps(), GreyImage(spoilt, valid=valid, inverted=True)).array[..., 0]
    assert np.all(array[:, :8] == 0)
    assert array[0, 8] == pytest.approx(1)
    assert array[0, -1] == pytest.approx(0)


def test_padding_may_hold_anything_even_nan() -> None:
    pixels, valid = gradient(), np.ones((64, 64), dtype=np.bool_)
    pixels[0], valid[0] = np.nan, False
    assert np.isfinite(apply(steps(), GreyImage(pixels, valid=valid)).array).all()


def test_aspect_is_kept_and_the_rest_is_filled() -> None:
    made = apply(steps(), GreyImage(np.full((200, 100), 5, np.float32) + gradient(200, 100)))
    assert made.placement.target == (0.0, 16.0, 64.0, 32.0)
    assert np.all(made.array[:, :16] == 0)
    assert np.all(made.array[:, 48:] == 0)


def test_unequal_spacing_keeps_the_aspect_of_millimetres() -> None:
    made = apply(steps(), GreyImage(gradient(100, 100), spacing_mm=(0.2, 0.1)))
    assert made.placement.target == (0.0, 16.0, 64.0, 32.0)


def test_resize_is_antialiased() -> None:
    board = np.indices((512, 512)).sum(axis=0) % 2
    array = apply(steps(), grey_from_uint8((board * 255).astype(np.uint8))).array
    np.testing.assert_allclose(array, 0.5, atol=0.02)


def test_crop_to_what_is_not_padding_says_where_it_came_from() -> None:
    pixels, valid = gradient(100, 100), np.zeros((100, 100), dtype=np.bool_)
    valid[20:60, 30:70] = True
    made = apply(steps(extra=(0, {"step": "crop", "mode": "valid"})), GreyImage(pixels, valid=valid))
    assert made.placement.source == (20.0, 30.0, 40.0, 40.0)
    assert made.placement.target == (0.0, 0.0, 64.0, 64.0)


def test_normalise_brings_two_exports_onto_one_contrast() -> None:
    chain = steps(extra=(2, {"step": "normalise", "low_percentile": 0.0, "high_percentile": 100.0}))
    wide = LinearWindow(2047.5, 8190, "LINEAR_EXACT")
    full = LinearWindow(2047.5, 4095, "LINEAR_EXACT")
    one = apply(chain, GreyImage(gradient(), voi=wide)).array
    np.testing.assert_allclose(one, apply(chain, GreyImage(gradient(), voi=full)).array, atol=1e-5)


@pytest.mark.parametrize(
    "image",
    [
        GreyImage(np.full((64, 64), 7, np.float32)),
        GreyImage(np.full((64, 64), np.nan, np.float32)),
        GreyImage(np.where(np.eye(64) > 0, np.inf, 1).astype(np.float32)),
        GreyImage(gradient(1, 2000)),
        GreyImage(np.zeros((0, 64), np.float32)),
        GreyImage(gradient(10, 4000)),
        GreyImage(np.zeros((2, 64, 64), np.float32)),
        GreyImage(gradient(), valid=np.zeros((64, 64), np.bool_)),
        GreyImage(gradient(), valid=np.ones((32, 32), np.bool_)),
    ],
    ids=["uniform", "nan", "inf", "one row", "empty", "sliver", "two frames", "all padding", "wrong mask"],
)
def test_what_cannot_be_read_is_refused(image: GreyImage) -> None:
    with pytest.raises(PreprocessError):
        apply(steps(), image)


@pytest.mark.parametrize("margin", [2, 40])
def test_of_the_foreground_it_does_not_matter_how_much_air_there_is(margin: int) -> None:
    random = np.random.default_rng(7)
    head = random.uniform(300, 900, (40, 40)).astype(np.float32)
    whole = random.uniform(0, 20, (40 + 2 * margin, 40 + 2 * margin)).astype(np.float32)
    whole[margin:-margin, margin:-margin] = head
    side = len(whole)
    listed = [
        {"step": "window", "mode": "fixed", "center": 500.0, "width": 1000.0, "function": "LINEAR_EXACT"},
        {"step": "invert"},
        {"step": "normalise", "foreground": True},
        {"step": "resize_pad", "rows": side, "columns": side},
        *CORE[3:],
    ]
    stretched = apply(parse_steps(listed), GreyImage(whole)).array[margin:-margin, margin:-margin, 0]
    np.testing.assert_allclose(stretched, np.clip(head / np.percentile(head, 99), 0, 1), atol=0.01)


def test_normalising_by_the_foreground_of_an_even_image_is_the_plain_one() -> None:
    pixels = np.full((32, 32), 5, np.float32)
    pixels[4, 4] = 9
    assert foreground_window(pixels, pixels, 1, 99).max() == 1
    with pytest.raises(PreprocessError, match="uniform"):
        foreground_window(np.ones((9, 9), np.float32), np.ones((9, 9), np.float32), 1, 99)


def test_each_channel_shows_its_own_range() -> None:
    listed = [
        {"step": "window", "mode": "fixed", "center": 0.0, "width": 2000.0, "function": "LINEAR_EXACT"},
        {"step": "invert"},
        {"step": "resize_pad", "rows": 16, "columns": 16},
        {"step": "channels", "ranges": [[0, 0.5], [0.25, 0.75], [0, 1]]},
        {"step": "scale", "convention": "unit"},
    ]
    hounsfield = np.repeat(np.linspace(-1200, 1200, 16, dtype=np.float32)[:, np.newaxis], 16, axis=1)
    found = apply(parse_steps(listed), GreyImage(hounsfield)).array
    for channel, (low, high) in enumerate([(-1000, 0), (-500, 500), (-1000, 1000)]):
        expected = np.clip((hounsfield - low) / (high - low), 0, 1)
        np.testing.assert_allclose(found[..., channel], expected, atol=1e-6)


def test_the_source_is_left_as_it_was() -> None:
    pixels = gradient()
    before = pixels.copy()
    apply(steps(), GreyImage(pixels, voi=LinearWindow(10, 100), inverted=True))
    np.testing.assert_array_equal(pixels, before)


@pytest.mark.parametrize(
    "listed",
    [
        [],
        CORE[1:],
        [CORE[0], CORE[2], CORE[3], CORE[4]],
        [CORE[1], CORE[0], *CORE[2:]],
        [*CORE, {"step": "crop"}],
        [{"step": "normalise"}, *CORE],
        [{"step": "lambda"}, *CORE],
        [{"step": "window", "gamma": 2}, *CORE[1:]],
        [{"step": "window", "mode": "fixed"}, *CORE[1:]],
        [*CORE[:3], {"step": "channels", "ranges": [[0, 1], [0, 1]]}, CORE[4]],
        [*CORE[:3], {"step": "channels", "ranges": [[0, 1], [0, 1], [0.5, 0.5]]}, CORE[4]],
        [*CORE[:3], {"step": "channels", "ranges": [[0, 1], [0, 1], [0.5, 1.5]]}, CORE[4]],
    ],
)
def test_steps_that_would_give_wrong_numbers_do_not_parse(listed: list[dict[str, object]]) -> None:
    with pytest.raises(ManifestError):
        parse_steps(listed)
