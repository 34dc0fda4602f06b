"""Boxes, masks and what maps are compared by; which part of a split is judged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from models.contracts import ModelInput, Placement
from models.datasets.samples import Box, Sample, SampleSet
from models.errors import DatasetError
from models.evaluation.boxes import with_boxes
from models.evaluation.explanations import agreement, blur, drawn_shape, mask_of, mean_with_interval
from models.evaluation.figures import Rules
from models.evaluation.judging import Attention, age_band, border_of
from models.evaluation.parts import choose_part, read_parts
from models.evaluation.similarity import rank_correlation, structural_similarity
from models.preprocess import grey_from_uint8


def test_boxes_are_drawn_where_they_lie() -> None:
    mask = mask_of([Box("x", 512, 256, 256, 128)], (1024, 1024))
    assert mask.shape == (256, 256)
    rows, columns = np.nonzero(mask)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (64, 95, 128, 191)


def test_boxes_of_a_larger_original_are_scaled() -> None:
    np.testing.assert_array_equal(
        mask_of([Box("x", 512, 256, 256, 128)], (512, 512), boxes_side=1024),
        mask_of([Box("x", 512, 256, 256, 128)], (1024, 1024)),
    )


def test_a_map_upon_the_box_agrees_with_it() -> None:
    mask = np.zeros((20, 30), dtype=bool)
    mask[5:10, 5:15] = True
    assert agreement(mask.astype(np.float32), mask) == (1, 1, 1)
    elsewhere = np.zeros((20, 30), dtype=np.float32)
    elsewhere[15:, 20:] = 1
    assert agreement(elsewhere, mask) == (0, 0, 0)
    assert agreement(np.zeros((20, 30), np.float32), mask) == (0, 0, 0)
    half = mask.copy()
    half[5:10, 10:15] = False
    assert agreement(half.astype(np.float32), mask) == (1, pytest.approx(0.5), 1)


def test_a_map_without_preference_scores_the_boxes_area() -> None:
    mask = np.zeros((40, 40), dtype=bool)
    mask[:10] = True
    _, overlap, inside = agreement(np.ones((40, 40), np.float32), mask)
    assert (overlap, inside) == (pytest.approx(0.25), pytest.approx(0.25))


def test_a_cells_map_is_drawn_at_its_place_in_the_source() -> None:
    maps = np.zeros((2, 4, 4), np.float32)
    maps[1, 0, 3] = 2.0
    placement = Placement((100, 200), (0, 0, 100, 200), (16, 0, 32, 64), (64, 64))
    found = Attention(ModelInput(np.zeros((64, 64, 3), np.float32), placement), np.zeros(2, np.float32), maps)
    drawn = found.drawn(1, *drawn_shape((100, 200)))
    assert drawn.shape == (128, 256)
    assert not found.drawn(0, 128, 256).any()
    # The wide image lies in the middle rows of the square input; the cell above them is padding.
    maps[1] = 0
    maps[1, 1, 3] = 2.0
    row, column = np.unravel_index(found.drawn(1, 128, 256).argmax(), (128, 256))
    assert row < 64
    assert column > 192


@pytest.mark.parametrize("decimals", [1, 6])
def test_rank_correlation_is_scipys(decimals: int) -> None:
    random = np.random.default_rng(0)
    first = np.round(random.random((7, 7)), decimals).astype(np.float32)
    second = np.round(first + random.random((7, 7)), decimals).astype(np.float32)
    assert rank_correlation(first, second) == pytest.approx(spearmanr(first.ravel(), second.ravel()).statistic)
    assert rank_correlation(first, np.zeros((7, 7), np.float32)) == 0


def test_structural_similarity_is_wangs() -> None:
    random = np.random.default_rng(7)
    first, second = random.random((2, 24, 19), dtype=np.float32)
    away = np.mgrid[-5:6, -5:6]
    window = np.exp(-(away**2).sum(axis=0) / (2 * 1.5**2))
    window /= window.sum()
    values = []
    for row in range(24 - 10):
        for column in range(19 - 10):
            x, y = (plane[row : row + 11, column : column + 11].astype(float) for plane in (first, second))
            mean_x, mean_y = (window * x).sum(), (window * y).sum()
            spread = (window * (x - mean_x) ** 2).sum() + (window * (y - mean_y) ** 2).sum()
            both = (window * (x - mean_x) * (y - mean_y)).sum()
            luminance = (2 * mean_x * mean_y + 1e-4) / (mean_x**2 + mean_y**2 + 1e-4)
            values.append(luminance * (2 * both + 9e-4) / (spread + 9e-4))
    assert structural_similarity(first, second) == pytest.approx(np.mean(values), abs=1e-9)
    assert structural_similarity(first, first) == pytest.approx(1)


def test_blurring_takes_detail_and_leaves_brightness() -> None:
    array = np.random.default_rng(0).random((64, 48, 3)).astype(np.float32)
    blurred = blur(array)
    assert blurred.shape == array.shape
    assert blurred.std() < 0.3 * array.std()
    assert blurred.mean() == pytest.approx(array.mean(), abs=0.02)


def test_a_mean_has_an_interval_over_patients() -> None:
    found = mean_with_interval(np.array([0.0, 1, 1, 0, 1, 1]), np.array(list("aabbcc")), Rules(resamples=200))
    assert found.value == pytest.approx(4 / 6)
    assert found.low < found.value < found.high


def test_the_border_is_the_frame_and_follows_the_photometric_interpretation() -> None:
    picture = np.zeros((64, 64), np.uint8)
    picture[20:40, 20:40] = 255
    assert border_of(grey_from_uint8(picture)).max() == 0
    picture[:4] = 255
    assert border_of(grey_from_uint8(picture)).max() == 1
    assert len(border_of(grey_from_uint8(picture))) == 32 * 32 - 26 * 26


@pytest.mark.parametrize(
    ("years", "band"), [(None, ""), (0.5, "under 18"), (18, "18 to 39"), (59.9, "40 to 59"), (60, "60 and over")]
)
def test_ages_have_bands(years: float | None, band: str) -> None:
    assert age_band(years) == band


SAMPLES = tuple(Sample(f"{name}.png", name, "s", {"x": 1.0}) for name in "abc")


def test_boxes_find_their_image_with_or_without_folder_and_suffix(tmp_path: Path) -> None:
    table = tmp_path / "boxes.csv"
    table.write_text("Image Index,Finding Label,Bbox [x,y,w,h],,,\na.png,Mass,1,2,3,4,,,\nb.jpg,Mass,5,6,7,8,,,\n")
    a, b, c = with_boxes(SAMPLES, table)
    assert [(box.label, box.x, box.height) for box in a.boxes] == [("Mass", 1, 4)]
    assert [box.width for box in b.boxes] == [7]
    assert c.boxes == ()


def test_boxes_of_a_series_keep_their_slice(tmp_path: Path) -> None:
    table = tmp_path / "boxes.csv"
    table.write_text("Image Index,Finding Label,x,y,w,h\n1/b.dcm,Mass,1,2,3,4\nc,Mass,5,6,7,8\n")
    series = Sample("1/a.dcm", "p", "s", {"x": 1.0}, files=("1/a.dcm", "1/b.dcm", "1/c.dcm"))
    other = Sample("2/b.dcm", "q", "s", {"x": 1.0}, files=("2/b.dcm", "2/d.dcm"))
    first, second = with_boxes([series, other], table)
    assert [(box.file, box.x) for box in first.boxes] == [("1/b.dcm", 1), ("1/c.dcm", 5)]
    assert second.boxes == ()
    table.write_text("Image Index,Finding Label,x,y,w,h\nb.dcm,Mass,1,2,3,4\n")
    with pytest.raises(DatasetError, match=r"2 images are called 'b\.dcm'; name their folders"):
        with_boxes([series, other], table)


@pytest.mark.parametrize(
    ("row", "message"),
    [("a.png,Mass,1,2,x,4", "line 2"), ("a.png,Mass,1,2,0,4", "empty"), ("z.png,Mass,1,2,3,4", "none")],
)
def test_tables_that_are_no_boxes_are_refused(tmp_path: Path, row: str, message: str) -> None:
    table = tmp_path / "boxes.csv"
    table.write_text(f"Image Index,Finding Label,x,y,w,h\n{row}\n")
    with pytest.raises(DatasetError, match=message):
        with_boxes(SAMPLES, table)


def whole(split: str = "") -> SampleSet:
    samples = tuple(
        Sample(s.file, s.patient, s.source, s.targets, split=split if s.file == "a.png" else "") for s in SAMPLES
    )
    return SampleSet("labels.csv", ("x",), False, samples, ())


def test_the_test_part_is_judged_where_there_is_a_split(tmp_path: Path) -> None:
    assert choose_part(whole(), None, None) == whole()
    assert [s.file for s in choose_part(whole("test"), None, None).samples] == ["a.png"]
    table = tmp_path / "split.csv"
    table.write_text("file,split\na.png,train\nb.png,test\nc.png,test\n")
    assert [s.file for s in choose_part(whole(), read_parts(table), None).samples] == ["b.png", "c.png"]
    assert [s.file for s in choose_part(whole(), read_parts(table), "train").samples] == ["a.png"]
    listed = tmp_path / "list.txt"
    listed.write_text("a.png\n\nc.png\n")
    assert [s.file for s in choose_part(whole(), read_parts(listed), None).samples] == ["a.png", "c.png"]


@pytest.mark.parametrize(("text", "message"), [("a.png,dev", "none of"), ("a.png,test\na.png,train", "two parts")])
def test_a_split_that_contradicts_itself_is_refused(tmp_path: Path, text: str, message: str) -> None:
    table = tmp_path / "split.csv"
    table.write_text(f"file,split\n{text}\n")
    with pytest.raises(DatasetError, match=message):
        read_parts(table)


def test_a_part_that_is_empty_is_an_error() -> None:
    with pytest.raises(DatasetError, match="no image is in the part"):
        choose_part(whole(), None, "validation")
