"""The label files that data sets are published with: their counts, their speed, and images out of them."""

from __future__ import annotations

import importlib
import time
import tomllib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from models.datasets import SampleSet, read
from models.datasets.images import split_steps
from models.datasets.pixels import GROUP, Images
from models.datasets.planes import load
from models.datasets.splits import split
from models.datasets.targets import class_counts, matrix
from models.preprocess import parse_steps
from tests.support.shared import shared_data, shared_dicom
from workers.pixels import read_grey

LONGEST_SECONDS = 3.0
FRACTIONS = {"train": 0.7, "validation": 0.1, "test": 0.2}
STEPS = parse_steps(
    [
        {"step": "window"},
        {"step": "invert"},
        {"step": "resize_pad", "rows": 64, "columns": 64},
        {"step": "channels"},
        {"step": "scale", "convention": "unit"},
    ]
)


@pytest.fixture(scope="module")
def chestxray14() -> SampleSet:
    return read("chestxray14", {"file": shared_data() / "labels" / "nih_Data_Entry_2017_v2020.csv.gz"})


def patients(found: SampleSet) -> int:
    return len({(s.source, s.patient) for s in found.samples})


def classes(found: SampleSet) -> dict[str, int]:
    return dict(Counter(label for s in found.samples for label, value in s.targets.items() if value == 1))


def test_chestxray14_has_the_published_counts(chestxray14: SampleSet) -> None:
    assert len(chestxray14.samples) == 112_120
    assert patients(chestxray14) == 30_805
    counts = class_counts(chestxray14.samples, chestxray14.labels)
    found = dict(zip(counts.labels, counts.positive.tolist(), strict=True))
    assert found["Infiltration"] == 19_894
    assert found["Hernia"] == 227
    assert sum(not any(s.targets.values()) for s in chestxray14.samples) == 60_361
    assert chestxray14.problems == ()


def test_a_hundred_thousand_rows_take_no_time() -> None:
    # Processor time: other programs of this machine are none of the loader's doing.
    begun = time.process_time()
    found = read("chestxray14", {"file": shared_data() / "labels" / "nih_Data_Entry_2017_v2020.csv.gz"})
    assert time.process_time() - begun < LONGEST_SECONDS
    assert len(found.samples) > 100_000


def test_chestxray14_splits_by_patient_with_every_finding_in_every_part(chestxray14: SampleSet) -> None:
    drawn = split(chestxray14.samples, FRACTIONS, "chestxray14")
    parts = (drawn.train, drawn.validation, drawn.test)
    people = [{s.patient for s in part} for part in parts]
    assert sum(map(len, people)) == len(set().union(*people)) == 30_805
    assert [len(found) / 30_805 for found in people] == pytest.approx([0.7, 0.1, 0.2], abs=0.001)
    overall = matrix(chestxray14.samples, chestxray14.labels).values.mean(axis=0)
    for part in parts:
        np.testing.assert_allclose(matrix(part, chestxray14.labels).values.mean(axis=0), overall, rtol=0.4)
    assert drawn.problems == ()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("covidx9A_test.txt", {"COVID-19": 200, "normal": 100, "pneumonia": 100}),
        ("covidx9B_test.txt", {"positive": 200, "negative": 200}),
    ],
)
def test_covidx_9_test_lists(name: str, expected: dict[str, int]) -> None:
    found = read("covidx", {"test": shared_data() / "labels" / name})
    assert classes(found) == expected
    assert {s.split for s in found.samples} == {"test"}
    assert {s.source for s in found.samples} == {"ricord", "rsna"}
    assert found.problems == ()


def test_rsna_stage_2_has_the_published_counts() -> None:
    found = read("rsna-pneumonia", {"file": shared_data() / "labels" / "rsna_stage_2_train_labels.csv.zip"})
    assert len(found.samples) == 26_684
    assert classes(found) == {"pneumonia": 6_012}
    assert sum(len(s.boxes) for s in found.samples) == 9_555


def test_pneumoniamnist_keeps_its_parts_and_becomes_planes(tmp_path: Path) -> None:
    folder = shared_data() / "medmnist"
    found = read("medmnist", {"file": folder / "pneumoniamnist.npz"})
    assert Counter(s.split for s in found.samples) == {"train": 4_708, "validation": 524, "test": 624}
    drawn = split(found.samples, FRACTIONS, "x")
    assert (len(drawn.train), len(drawn.validation), len(drawn.test)) == (4_708, 524, 624)
    plane_steps, _ = split_steps(STEPS)
    made = load(drawn.test[:50], Images(folder), plane_steps, tmp_path)
    assert made.batch([0, 49]).shape == (2, 64, 64)
    assert made.problems == ()


@pytest.mark.parametrize(
    ("name", "expected", "people"),
    [
        ("cxr", {"pneumonia": 1_164, "normal": 1_074, "covid": 341}, 1_949),
        ("ct2d", {"noncovid": 276, "covid": 240}, 233),
        ("mr2d", {"tumour": 94, "no_tumour": 52}, 146),
    ],
)
def test_labels_csv_with_its_images(name: str, expected: dict[str, int], people: int) -> None:
    folder = shared_data() / name
    found = read("labels-csv", {"file": folder / "labels.csv", "images": folder})
    assert classes(found) == expected
    assert patients(found) == people
    assert not any(problem.left_out for problem in found.problems)
    drawn = split(found.samples, FRACTIONS, "x")
    assert drawn.problems == ()


def test_a_real_table_of_named_columns() -> None:
    columns = {"file": "filename", "patient": "patientid", "label": "finding", "sex": "sex", "age": "age"}
    found = read("csv", {"file": shared_data() / "labels" / "ieee8023_metadata.csv", "columns": columns})
    assert len(found.samples) == 758
    assert "COVID-19" in found.labels


def test_series_of_real_ct_and_their_planes(tmp_path: Path) -> None:
    folder = shared_dicom() / "ct_chest"
    found = read("dicom-folder", {"folder": folder})
    assert len(found.samples) == 3
    assert sum(len(s.files) for s in found.samples) == sum(path.is_file() for path in folder.rglob("*.dcm"))
    plane_steps, _ = split_steps(STEPS)
    made = load(found.samples[:1], Images(folder, read_grey), plane_steps, tmp_path)
    assert made.stack(0).shape == (len(found.samples[0].files), 64, 64)


def test_the_reader_offered_under_the_entry_point_is_there() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))["project"]
    module, _, name = project["entry-points"][GROUP]["dicom"].partition(":")
    assert getattr(importlib.import_module(module), name) is read_grey


def test_a_folder_of_odd_files_is_read_to_its_end() -> None:
    found = read("dicom-folder", {"folder": shared_dicom(), "max_bad_fraction": 0.3})
    assert len(found.samples) > 50
    assert all(problem.where and problem.what for problem in found.problems)
    assert any(problem.left_out for problem in found.problems)
