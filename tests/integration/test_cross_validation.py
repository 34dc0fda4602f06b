"""`radnode train --folds`: each patient is held out once, and a broken cross-validation goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from models.training.cli import app
from tests.support.plans import draw_set, written
from tests.support.shared import shared_data

pytestmark = [pytest.mark.tensorflow, pytest.mark.timeout(300)]

START = "efficientnet_lite0_imagenet_keras_layout_fp16.npz"
START_SHA256 = "18cc7b09bf91d5b2a3f721235e181906989d84663cb2548b62204c9b2e4290e5"

HEAD_ALONE = {"head": {"epochs": 1}, "finetune": {"epochs": 0}, "refit_penalty": 10.0}
TWO_MEMBERS = {"head": {"epochs": 0}, "finetune": {"epochs": 1}, "refit_penalty": 10.0, "members": 2}


def arrays(path: Path, prefix: str) -> dict[str, Any]:
    with np.load(path) as stored:
        return {key.removeprefix(prefix): stored[key] for key in stored.files if key.startswith(prefix)}


def test_every_patient_is_held_out_once_and_finished_folds_are_not_trained_again(tmp_path: Path) -> None:
    draw_set(tmp_path)
    start = {"path": str(shared_data() / "weights" / START), "sha256": START_SHA256}
    config = written(tmp_path, {"network": {"weights": start}, "training": HEAD_ALONE})
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


def test_the_body_of_several_members_is_their_mean(tmp_path: Path) -> None:
    draw_set(tmp_path)
    config = written(tmp_path, {"training": TWO_MEMBERS, "split": {"train": 0.5, "validation": 0.5, "test": 0}})
    done = CliRunner().invoke(app, [str(config), "--out", str(tmp_path / "run")])
    assert done.exit_code == 0, done.output
    mean, *members = (
        arrays(tmp_path / "run" / name, prefix)
        for name, prefix in (
            ("weights.npz", ""),
            ("member-1/checkpoint.npz", "model/"),
            ("member-2/checkpoint.npz", "model/"),
        )
    )
    moved = [key for key in mean if not np.array_equal(members[0][key], members[1][key])]
    assert [key for key in moved if not key.startswith("logits")]
    for key in mean:
        if not key.startswith("logits"):
            assert np.allclose(mean[key], (members[0][key] + members[1][key]) / 2, atol=1e-6), key


def test_more_folds_than_patients_are_refused(tmp_path: Path) -> None:
    draw_set(tmp_path, patients=4)
    config = written(tmp_path, {})
    done = CliRunner().invoke(app, [str(config), "--out", str(tmp_path / "run"), "--folds", "9"])
    assert done.exit_code == 1
    assert "8 patients cannot be dealt into 9 folds" in done.output
