"""From folders of CT series to a bundle that is installed, judged, and reads a study: every step by its own command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from typer.testing import CliRunner

from models.evaluation.cli import app as evaluate_app
from models.registry import load_bundle
from models.runner import SeriesRunner, check_golden, load_runner
from models.training.cli import app as train_app
from models.training.general import Progress, default_folders, run_plan
from node.settings import Settings, Work
from tests.support.plans import written
from tests.support.series import draw_series, plan_change
from tests.support.shared import shared_data
from workers.analyze import analyze_files
from workers.models_cli import app as models_app

pytestmark = [pytest.mark.tensorflow, pytest.mark.timeout(600)]

START = "efficientnet_lite0_imagenet_keras_layout_fp16.npz"
START_SHA256 = "18cc7b09bf91d5b2a3f721235e181906989d84663cb2548b62204c9b2e4290e5"
CT = {
    "sop_classes": ["1.2.840.10008.5.1.4.1.1.2"],
    "modalities": ["CT"],
    "views": [],
    "view_missing_pattern": "",
    "min_rows": 16,
    "min_columns": 16,
}
COVID = {"key": "covid", "display": "COVID-19", "code": {"value": "1", "scheme": "99TEST", "meaning": "COVID-19"}}


class Killed(Exception):
    """Stands for a process that ends in the middle of a step."""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plan beside its series. In a network of random weights the signal dies out: it starts from real ones."""
    folder = draw_series(tmp_path_factory.mktemp("ct"), patients=16)
    start = {"path": str(shared_data() / "weights" / START), "sha256": START_SHA256}
    change: dict[str, Any] = plan_change() | {
        "network": {"weights": start},
        "training": {
            "batch": 4,
            "head": {"epochs": 4, "learning_rate": 3e-2},
            "finetune": {"epochs": 1, "learning_rate": 1e-3, "unfreeze_from": 0.9},
        },
        "bundle": {"labels": [COVID], "admission": CT},
    }
    return written(folder, change)


@pytest.fixture(scope="module")
def bundle_folder(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run")
    done = CliRunner().invoke(train_app, [str(config), "--out", str(out)])
    assert done.exit_code == 0, done.output
    return out / "bundles" / "small"


@pytest.fixture(autouse=True)
def _node(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RADNODE_MODEL_CACHE", str(tmp_path_factory.getbasetemp() / "series-cache"))
    monkeypatch.setenv("RADNODE_DATA_DIR", str(tmp_path / "data"))


def models(*arguments: str | Path) -> Any:
    done = CliRunner().invoke(models_app, [*map(str, arguments), "--json"])
    assert done.exit_code == 0, (done.output, done.exception)
    return json.loads(done.stdout)


def test_the_bundle_says_which_series_it_reads_and_answers_its_vectors(bundle_folder: Path) -> None:
    bundle = load_bundle(bundle_folder)
    assert bundle.manifest.architecture.slices == 4
    assert bundle.manifest.series is not None
    assert (bundle.manifest.series.min_slices, bundle.manifest.series.max_missing) == (4, 0.0)
    runner = load_runner(bundle, "cpu")
    assert isinstance(runner, SeriesRunner)
    assert check_golden(bundle, runner) <= 1e-3


def test_it_is_packed_installed_verified_and_activated(bundle_folder: Path, tmp_path: Path) -> None:
    models("pack", bundle_folder, "--out", tmp_path / "small.zip")
    assert models("install", tmp_path / "small.zip", "--allow-unsigned")["state"] == "validated"
    models("activate", "small", "1.0.0")
    assert models("verify", "small")["verified"] is True


def test_series_are_judged_as_they_are_served(config: Path, bundle_folder: Path, tmp_path: Path) -> None:
    table = config.parent / "patients.csv"
    # Of six slices the first, third, fourth and last are read; the second is not.
    rows = ["p01-1-021.dcm,covid,10,12,20,24", "p03-1-014.dcm,covid,10,12,20,24"]
    (tmp_path / "boxes.csv").write_text("\n".join(["image,finding,x,y,width,height", *rows]) + "\n")
    done = CliRunner().invoke(
        evaluate_app,
        [
            str(bundle_folder), "--labels", str(table), "--images", str(config.parent), "--kind", "dicom-folder",
            "--option", f"folder={config.parent}", "--option", "join=patient", "--option", "label_column=covid",
            "--negative", "0", "--rename", "1=covid", "--html", str(tmp_path / "page.html"), "--json",
            "--boxes", str(tmp_path / "boxes.csv"), "--explain", "1",
        ],
    )  # fmt: skip
    assert done.exit_code == 0, (done.output, done.exception)
    found = json.loads(done.stdout)
    assert (found["images"], found["unreadable"]) == (16, [])
    (source,) = found["sources"].values()
    assert source["labels"]["covid"]["auroc"]["value"] > 0.9
    assert "<html" in (tmp_path / "page.html").read_text()
    maps = found["explanations"]
    located = maps["localisation"]
    assert (located["pairs"], located["on_slices_not_read"], located["unreadable"]) == (1, 1, 0)
    # One quarter of one of four slices.
    assert located["all"]["pointing_game"]["box_area"]["value"] == pytest.approx(1 / 16, abs=0.01)
    assert maps["deletion_and_insertion"]["images"] == maps["weight_randomisation"]["images"] == 1
    assert maps["weight_randomisation"]["layers"][0]["layer"] == "logits"


def test_analyze_reads_each_series_of_a_folder(config: Path, bundle_folder: Path, tmp_path: Path) -> None:
    settings = Settings(work=Work(model_dirs=(bundle_folder.parent,)))
    files = sorted([*config.parent.glob("p01-*.dcm"), *config.parent.glob("p02-*.dcm")])
    steps: list[int] = []
    made = analyze_files(settings, [*files, config], tmp_path / "out", "small", lambda: steps.append(1))
    assert len(steps) == len(files) + 1
    ill, well, none = made["files"]
    assert [entry["outcome"] for entry in (ill, well, none)] == ["analysed", "analysed", "refused"]
    assert (len(ill["files"]), ill["series_slices"], [one["slice"] for one in ill["slices"]]) == (6, 6, [1, 3, 4, 6])
    key = max(ill["slices"], key=lambda one: one["weight"])
    assert (ill["key_slice"], ill["sop_instance_uid"]) == (key["slice"], key["sop_instance_uid"])
    assert [finding["presence"] for finding in ill["findings"] + well["findings"]] == ["present", "absent"]
    pictures = [one for one in ill["results"] if one["kind"] == "SC"]
    shown = dcmread(tmp_path / "out" / pictures[0]["file"], stop_before_pixels=True)
    assert shown.SourceImageSequence[0].ReferencedSOPInstanceUID == key["sop_instance_uid"]
    assert analyze_files(settings, files, tmp_path / "out", "small", lambda: None)["files"][0] == ill


def test_a_killed_run_goes_on_to_the_same_weights(config: Path, bundle_folder: Path, tmp_path: Path) -> None:
    seen: list[int] = []

    def step(phase: str, done: int, every: int, loss: float) -> None:
        seen.append(done)
        if len(seen) == 5:
            raise Killed

    folders = default_folders(config, None, None)
    with pytest.raises(Killed):
        run_plan(config, tmp_path / "run", folders, progress=Progress(step=step))
    again = run_plan(config, tmp_path / "run", folders)
    with np.load(again / "weights.npz") as one, np.load(bundle_folder / "weights.npz") as other:
        assert set(one.files) == set(other.files)
        assert all(np.array_equal(one[name], other[name]) for name in one.files)
