"""The shipped plan for lung nodules runs from an LIDC-like table of crops to a bundle; nothing clinical is learnt."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from models.registry import load_bundle
from models.training.cli import app
from tests.support.nodules import draw_nodules
from tests.support.shared import shared_data

pytestmark = [pytest.mark.tensorflow, pytest.mark.timeout(300)]

SMALL = (
    "input.side = 32",
    # Three patients: each is a part.
    "split = { train = 0.34, validation = 0.33, test = 0.33, salt = 'drawn' }",
    "training.batch = 8",
    "training.head.epochs = 6",
    "training.finetune = { epochs = 4, learning_rate = 1e-3, unfreeze_from = 0.5 }",
)


def test_crops_of_nodules_become_a_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RADNODE_MODEL_CACHE", str(tmp_path / "cache"))
    chests = shared_data() / "dicom" / "ct_chest"
    slices = {folder.name: sorted(folder.glob("*.dcm"))[:3] for folder in sorted(chests.iterdir())}
    count = draw_nodules(slices, tmp_path / "lidc", each=24)
    arguments = ["lung-nodule", "--data", str(tmp_path / "lidc"), "--weights", str(shared_data() / "weights")]
    arguments += ["--out", str(tmp_path / "run"), *(part for one in SMALL for part in ("--set", one))]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    bundle = load_bundle(tmp_path / "run" / "bundles" / "lung-nodule")
    assert [label.key for label in bundle.manifest.labels] == ["malignant"]
    split = json.loads((tmp_path / "run" / "split.json").read_text())
    parts = [next(iter(split[part].values())) for part in ("train", "validation", "test")]
    assert [part["patients"] for part in parts] == [1, 1, 1]
    assert sum(part["images"] for part in parts) == count
