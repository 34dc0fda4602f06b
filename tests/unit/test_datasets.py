"""Label files: the real one loads, and each way of being wrong is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.datasets.images import load_planes, read_grey, split_steps
from models.datasets.labels import LabelledImage, read_labels
from models.errors import DatasetError, ManifestError
from models.preprocess import apply, grey_from_uint8, parse_steps
from models.recipes import cxr_pneumonia
from models.recipes.cxr_pneumonia import one_patient, select, split_rows

REAL = Path(__file__).parents[3] / "shared" / "data" / "cxr" / "labels.csv"
HEADER = "file,source,patient,label,licence\n"

needs_data = pytest.mark.skipif(not REAL.is_file(), reason="the shared data is not beside this checkout")


def written(folder: Path, text: str) -> Path:
    path = folder / "labels.csv"
    path.write_text(text, encoding="utf-8")
    return path


@needs_data
def test_the_real_file_loads() -> None:
    rows = read_labels(REAL)
    assert len(rows) == 2579
    assert {row.label for row in rows} == {"normal", "pneumonia", "covid"}
    assert all((REAL.parent / row.file).is_file() for row in rows)


@needs_data
def test_the_recipe_takes_only_frontal_images_that_may_teach_shipped_weights() -> None:
    chosen = select(read_labels(REAL))
    assert {row.source for row in chosen} == {"kermany224", "nih_cxr14"}
    assert {row.label for row in chosen} == {"normal", "pneumonia"}
    assert {row.view for row in chosen} == {"AP", "PA"}
    assert not [row for row in chosen if "NC" in row.licence.replace("NIH CC", "") or "ND" in row.licence]


@needs_data
def test_patients_of_the_demo_are_in_the_test_part() -> None:
    split = split_rows(select(read_labels(REAL)))
    shown = {row.patient for row in split.test if row.file in cxr_pneumonia.DEMO_FILES}
    assert len(shown) == len(cxr_pneumonia.DEMO_FILES)
    assert not shown & {row.patient for row in split.train}


def test_the_same_number_under_bacteria_and_virus_is_one_patient() -> None:
    assert one_patient("kermany224:person44_bacteria") == one_patient("kermany224:person44_virus")
    assert one_patient("nih_cxr14:00001720") == "nih_cxr14:00001720"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,source,label\na.jpg,s,normal\n", "lacks the columns patient"),
        (HEADER + "a.jpg,s,p,normal,\n,s,p,normal,\n", "line 3: file is empty"),
        (HEADER + "a.jpg,s,,normal,\n", "line 2: patient is empty"),
        (HEADER + "../a.jpg,s,p,normal,\n", "line 2: the file lies outside"),
        (HEADER + "/a.jpg,s,p,normal,\n", "line 2: the file lies outside"),
        (HEADER + "a.jpg,s,p,normal,\na.jpg,s,p,normal,\n", "a.jpg occurs twice"),
        ("", "lacks the columns file"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        read_labels(written(tmp_path, text))


def test_absent_and_unreadable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="there is no label file"):
        read_labels(tmp_path / "none.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(DatasetError, match="no readable CSV"):
        read_labels(tmp_path / "binary.csv")


def test_pictures_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"a\.jpg is missing"):
        read_grey(tmp_path / "a.jpg")
    (tmp_path / "b.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture")
    with pytest.raises(DatasetError, match=r"b\.jpg is no readable picture"):
        read_grey(tmp_path / "b.jpg")


def test_training_and_serving_see_the_same_numbers(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (90, 70)).astype(np.uint8)
    Image.fromarray(picture).save(tmp_path / "a.png")
    steps = parse_steps(cxr_pneumonia.Settings(side=64).preprocessing)
    plane_steps, tail = split_steps(steps)
    planes = load_planes([LabelledImage("a.png", "s", "p", "normal")], tmp_path, plane_steps)
    assert planes.shape == (1, 64, 64)
    trained_on = planes[0][..., np.newaxis].astype(np.float32) * tail.multiply + tail.add
    served = apply(steps, grey_from_uint8(picture)).array
    # Half precision near 1 has steps of 2**-11; the scale doubles them.
    np.testing.assert_allclose(trained_on, served, atol=1e-3)


def test_steps_without_a_tail_are_refused() -> None:
    steps = parse_steps(cxr_pneumonia.Settings().preprocessing)
    with pytest.raises(ManifestError, match="'channels', 'scale'"):
        split_steps(steps[:-1])
