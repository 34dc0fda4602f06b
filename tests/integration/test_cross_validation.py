"""`radnode train --folds`: each patient is held out once, and a broken cross-validation goes on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from models.training.cli import app
from tests.support.plans import draw_set, written
from tests.support.shared import shared_data

pytestmark = [pytest.mark.tensorflow, pytest.mark.timeout(300)]

START = "efficientnet_lite0_imagenet_keras_layout_fp16.npz"
START_SHA256 = "18cc7b09bf91d5b2a3f721235e181906989d84663cb2548b62204c9b2e4290e5"


def test_every_patient_is_held_out_once_and_finished_folds_are_not_trained_again(tmp_path: Path) -> None:
    draw_set(tmp_path)
    start = {"path": str(shared_data() / "weights" / START), "sha256": START_SHA256}
    config = written(tmp_path, {"network": {"weights": start}, "training": {"head": {"epochs": 6}}})
    arguments = [str(config), "--out", str(tmp_path / "run"), "--folds", "2"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "run" / "cross_validation.json").read_text())
    assert (found["folds"], found["images"], found["patients"]) == (2, 32, 32)
    label = found["labels"]["pneumonia"]
    assert (label["images"], label["positive"], len(label["auroc_by_fold"])) == (32, 16, 2)
    # The pictures differ in brightness alone; heads that learnt nothing would rank them at a half.
    assert label["auroc"]["low"] > 0.8
    tested = [json.loads((tmp_path / "run" / f"fold-{n}" / "split.json").read_text()) for n in (1, 2)]
    assert [fold["test"]["drawn"]["patients"] for fold in tested] == [16, 16]
    assert tested[0]["sha256"] != tested[1]["sha256"]

    before = (tmp_path / "run" / "fold-1" / "checkpoint.npz").stat().st_mtime_ns
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 0, again.output
    assert (tmp_path / "run" / "fold-1" / "checkpoint.npz").stat().st_mtime_ns == before
    assert json.loads((tmp_path / "run" / "cross_validation.json").read_text()) == found
    with np.load(tmp_path / "run" / "fold-2" / "weights.npz") as weights:
        assert weights.files


def test_more_folds_than_patients_are_refused(tmp_path: Path) -> None:
    draw_set(tmp_path, patients=4)
    config = written(tmp_path, {})
    done = CliRunner().invoke(app, [str(config), "--out", str(tmp_path / "run"), "--folds", "9"])
    assert done.exit_code == 1
    assert "8 patients cannot be dealt into 9 folds" in done.output
