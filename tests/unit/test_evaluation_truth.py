"""What a label file says in the model's words: matched names, unknown labels counted, nothing guessed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.datasets.samples import Sample, SampleSet
from models.errors import DatasetError
from models.evaluation.truth import truth_of
from models.manifest import Manifest
from tests.support.bundles import document, hollow_bundle


def manifest(tmp_path: Path, *, exclusive: bool = False) -> Manifest:
    if not (tmp_path / "bundle").exists():
        hollow_bundle(tmp_path / "bundle")
    raw: dict[str, Any] = document(tmp_path / "bundle")
    if exclusive:
        raw |= {"exclusive": True, "calibration": {"method": "temperature", "temperature": 1.5}}
        raw["labels"][1] |= {"key": "normal", "display": "Normal"}
        raw["operating_points"][1]["label"] = "normal"
    return Manifest.model_validate_json(json.dumps(raw))


def sample_set(rows: list[dict[str, float]], *, exclusive: bool) -> SampleSet:
    labels = tuple(dict.fromkeys(name for row in rows for name in row))
    samples = tuple(
        Sample(f"{i}.png", str(i), "s", {name: row.get(name, 0.0) for name in labels}) for i, row in enumerate(rows)
    )
    return SampleSet("labels.csv", labels, exclusive, samples, ())


def classes(*names: str) -> SampleSet:
    return sample_set([{name: 1.0} for name in names], exclusive=True)


def test_unknown_classes_are_skipped_and_counted(tmp_path: Path) -> None:
    found = truth_of(manifest(tmp_path), classes("Pneumonia", "normal", "covid", "covid", "No Finding"))
    assert found.skipped == {"covid": 2}
    # The file never says anything of effusion, but normal images have none.
    np.testing.assert_array_equal(found.values, [[1, np.nan], [0, 0], [0, 0]])


def test_labels_are_matched_by_display_name_and_renamed(tmp_path: Path) -> None:
    found = truth_of(
        manifest(tmp_path),
        classes("Pleural effusion", "PNEU", "healthy"),
        negative=["healthy"],
        rename={"PNEU": "pneumonia"},
    )
    np.testing.assert_array_equal(found.values, [[0, 1], [1, 0], [0, 0]])
    with pytest.raises(DatasetError, match="cannot be renamed"):
        truth_of(manifest(tmp_path), classes("a", "normal"), rename={"b": "pneumonia"})


def test_several_labels_keep_what_is_unknown_unknown(tmp_path: Path) -> None:
    rows = [
        {"pneumonia": 1.0, "hernia": 1.0},
        {"pneumonia": 0.0, "hernia": 1.0},
        {"pneumonia": -1.0},
        {"no finding": 1.0},
    ]
    found = truth_of(manifest(tmp_path), sample_set(rows, exclusive=False))
    np.testing.assert_array_equal(found.values, [[1, np.nan], [0, np.nan], [0, 0]])
    assert sum(found.skipped.values()) == 1


def test_exclusive_models_take_images_of_exactly_one_of_their_classes(tmp_path: Path) -> None:
    found = truth_of(manifest(tmp_path, exclusive=True), classes("normal", "pneumonia", "covid"))
    np.testing.assert_array_equal(found.values, [[0, 1], [1, 0]])
    assert found.skipped == {"covid": 1}
    several = sample_set([{"normal": 1.0, "pneumonia": 1.0}, {"normal": 1.0}], exclusive=False)
    found = truth_of(manifest(tmp_path / "again", exclusive=True), several)
    assert len(found.samples) == 1
    assert sum(found.skipped.values()) == 1


def test_only_the_wanted_label_is_judged(tmp_path: Path) -> None:
    found = truth_of(manifest(tmp_path), classes("pneumonia", "effusion", "normal"), wanted=["effusion"])
    np.testing.assert_array_equal(found.values, [[np.nan, 0], [np.nan, 1], [np.nan, 0]])
    with pytest.raises(DatasetError, match="has no label hernia"):
        truth_of(manifest(tmp_path), classes("pneumonia", "normal"), wanted=["hernia"])


def test_a_file_of_strange_labels_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="none of the images"):
        truth_of(manifest(tmp_path), classes("cat", "dog"))


@pytest.mark.parametrize("name", ["no_pneumonia", "nonpneumonia", "NoPneumonia", "not pneumonia", "without-pneumonia"])
def test_a_negated_label_says_so_of_that_label_alone(tmp_path: Path, name: str) -> None:
    found = truth_of(manifest(tmp_path), classes("Pneumonia", name))
    np.testing.assert_array_equal(found.values, [[1, np.nan], [0, np.nan]])
    found = truth_of(manifest(tmp_path), sample_set([{"effusion": 1.0}, {name: 1.0, "effusion": 1.0}], exclusive=False))
    np.testing.assert_array_equal(found.values, [[np.nan, 1], [0, 1]])


def test_of_classes_the_normal_one_is_what_files_call_healthy(tmp_path: Path) -> None:
    found = truth_of(manifest(tmp_path, exclusive=True), classes("No Finding", "pneumonia", "no pneumonia"))
    np.testing.assert_array_equal(found.values, [[0, 1], [1, 0], [0, 1]])
