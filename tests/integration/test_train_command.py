"""`radnode train` on small data: killed and taken up again, classes, and every command of the guide."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from typer.testing import CliRunner

from models.contracts import Presence
from models.datasets.images import read_grey
from models.evaluation.cli import app as evaluate_app
from models.preprocess import grey_from_uint8
from models.reading import read_image
from models.registry import load_bundle
from models.runner import check_golden, load_runner
from models.training.cli import app
from tests.support.plans import draw_set
from tests.support.plans import written as written_plan
from tests.support.shared import shared_data

pytestmark = [pytest.mark.tensorflow, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "training.md"
DRIVER = """
import sys
from pathlib import Path
from models.training.general import Progress, default_folders, run_plan
def say(phase, done, every, loss):
    print(phase, done, every, flush=True)
config = Path(sys.argv[1])
run_plan(config, Path(sys.argv[2]), default_folders(config, None, None), progress=Progress(step=say))
"""
START = "efficientnet_lite0_imagenet_keras_layout_fp16.npz"
START_SHA256 = "18cc7b09bf91d5b2a3f721235e181906989d84663cb2548b62204c9b2e4290e5"
ONE_THREAD = {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}


def written(folder: Path, change: dict[str, Any]) -> Path:
    """A plan that starts from real weights: random ones need more epochs than a test has."""
    start = {"path": str(shared_data() / "weights" / START), "sha256": START_SHA256}
    network = {"weights": start} | change.get("network", {})
    return written_plan(folder, change | {"network": network})


def driver(config: Path, out: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(config), str(out)],
        cwd=ROOT,
        env={**os.environ, **ONE_THREAD},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def finished(config: Path, out: Path) -> list[str]:
    with driver(config, out) as process:
        assert process.stdout is not None
        lines = process.stdout.read().splitlines()
    assert process.returncode == 0
    return lines


def arrays(path: Path) -> dict[str, Any]:
    with np.load(path) as stored:
        return {key: stored[key] for key in stored.files}


def test_a_run_killed_twice_ends_in_the_very_weights_of_one_that_was_not(tmp_path: Path) -> None:
    draw_set(tmp_path)
    config = written(tmp_path, {"training": {"early_stopping": {"patience": 5}, "accumulate": 2, "batch": 2}})
    whole = finished(config, tmp_path / "whole")
    # Past a checkpoint and in the middle of an epoch, once in either phase.
    for last in ("head 3 ", "finetune 7 "):
        with driver(config, tmp_path / "broken") as process:
            assert process.stdout is not None
            assert any(line.startswith(last) for line in process.stdout)
            process.kill()
        assert process.returncode == -9
    rest = finished(config, tmp_path / "broken")
    assert 0 < len(rest) < len(whole)
    one, other = (arrays(tmp_path / run / "weights.npz") for run in ("whole", "broken"))
    assert set(one) == set(other)
    assert [key for key in one if not np.array_equal(one[key], other[key])] == []
    assert (tmp_path / "whole" / "history.jsonl").read_text() == (tmp_path / "broken" / "history.jsonl").read_text()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RADNODE_MODEL_CACHE", str(tmp_path / "cache"))


def trained(config: Path, out: Path) -> Path:
    done = CliRunner().invoke(app, [str(config), "--out", str(out)])
    assert done.exit_code == 0, done.output
    (bundle,) = (out / "bundles").iterdir()
    return bundle


@pytest.mark.usefixtures("cache")
def test_classes_become_a_bundle_that_serves(tmp_path: Path) -> None:
    labels = ("normal", "pneumonia", "covid")
    draw_set(tmp_path, labels)
    code = {"value": "1", "scheme": "99TEST", "meaning": "Test"}
    config = written(
        tmp_path,
        {
            "data": {"options": {"exclusive": True}},
            "training": {
                "head": {"epochs": 0},
                "finetune": {"epochs": 12, "learning_rate": 3e-3, "unfreeze_from": 0.0},
                "loss": {"name": "softmax-ce"},
                "batch_norm": "trained",
                "ema": 0.0,
                "batch": 12,
            },
            "augment": {"mixup": 0, "cutmix": 0, "erase": 0, "contrast": 0, "brightness": 0, "gamma": 0},
            "bundle": {
                "labels": [{"key": key, "display": key, "code": code} for key in labels],
                "urgent": ["covid"],
            },
        },
    )
    folder = trained(config, tmp_path / "run")
    bundle = load_bundle(folder)
    runner = load_runner(bundle, "cpu")
    assert check_golden(bundle, runner) <= 1e-3
    assert bundle.manifest.exclusive
    assert bundle.manifest.calibration is not None
    assert bundle.manifest.calibration.method == "temperature"
    assert {p.label: p.priority.value for p in bundle.manifest.operating_points}["covid"] == "urgent"
    reading = read_image(bundle, runner, grey_from_uint8(read_grey(tmp_path / "covid_0.png")))
    assert sum(finding.probability for finding in reading.findings) == pytest.approx(1)
    assert any(finding.presence is Presence.PRESENT for finding in reading.findings)
    run = tmp_path / "run"
    evaluation = json.loads((run / "evaluation.json").read_text())
    assert evaluation["schema"] == "radnode.evaluation/1"
    assert evaluation["bundle_digest"] == bundle.identity.bundle_digest
    assert evaluation["all_images"]["classes"]["top1_accuracy"]["value"] is not None
    assert evaluation["images"] == sum(one["images"] for one in bundle.manifest.training["split"]["test"].values())
    assert [entry.path for entry in bundle.manifest.files if entry.role == "report"] == [
        "evaluation.json",
        "report.html",
    ]
    assert "data:image" not in (folder / "report.html").read_text()
    assert "Calibration" in (run / "MODEL_CARD.md").read_text()
    assert bundle.manifest.evaluation["calibration"]["classes"]["patients"] > 0
    assert bundle.manifest.evaluation["test"]["sources"]["drawn"]["images"] == evaluation["images"]
    assert json.loads((run / "split.json").read_text())["sha256"] in (folder / "MODEL_CARD.md").read_text()
    assert (run / "config.toml").read_text() == config.read_text()
    assert len((run / "history.jsonl").read_text().splitlines()) == 12
    timings = [json.loads(line) for line in (run / "timings.jsonl").read_text().splitlines()]
    assert [(one["phase"], one["epoch"]) for one in timings] == [("finetune", number) for number in range(12)]
    assert all(one["seconds"] > 0 for one in timings)
    # The same figures once more, by the command, on the run's own test part.
    judged = [str(folder), "--labels", str(tmp_path / "labels.csv"), "--images", str(tmp_path), "--json"]
    again = CliRunner().invoke(evaluate_app, [*judged, "--split-file", str(run / "split.csv")])
    assert again.exit_code == 0, again.output
    assert json.loads(again.stdout)["sources"] == evaluation["sources"]
    assert list((run / "tensorboard").glob("events*"))
    assert "packages" in json.loads((run / "environment.json").read_text())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"training": {"loss": {"name": "softmax-ce"}}}, "is for classes"),
        ({"training": {"finetune": {"unfreeze_from": "block99"}}}, "no layer 'block99'"),
        ({"data": {"options": {"file": "none.csv"}}}, "none.csv"),
        ({"network": {"weights": {"path": "labels.csv", "sha256": "0" * 64}}}, "SHA-256"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    draw_set(tmp_path)
    done = CliRunner().invoke(app, [str(written(tmp_path, change)), "--out", str(tmp_path / "run")])
    assert done.exit_code == 1
    assert said in done.stderr
    assert "Traceback" not in done.output


def test_validation_without_a_label_is_told_before_training(tmp_path: Path) -> None:
    draw_set(tmp_path, patients=16)
    lines = (tmp_path / "labels.csv").read_text().splitlines()
    kept = [line for line in lines if "pneumonia" not in line or "pneumonia_0.png" in line]
    (tmp_path / "labels.csv").write_text("\n".join(kept) + "\n")
    done = CliRunner().invoke(app, [str(written(tmp_path, {})), "--out", str(tmp_path / "run")])
    assert done.exit_code == 1
    assert "both are needed to calibrate it" in done.stderr
    assert not (tmp_path / "run" / "checkpoint.npz").exists()


def test_too_few_images_for_a_gate_are_told_before_training(tmp_path: Path) -> None:
    draw_set(tmp_path)
    config = written(tmp_path, {"bundle": {"gate_quantile": 0.95}})
    done = CliRunner().invoke(app, [str(config), "--out", str(tmp_path / "run")])
    assert done.exit_code == 1
    assert "a gate needs 40 images" in done.stderr
    assert not (tmp_path / "run" / "checkpoint.npz").exists()


def test_a_folder_with_another_run_is_left_alone(tmp_path: Path) -> None:
    draw_set(tmp_path)
    out = tmp_path / "run"
    trained(written(tmp_path, {"training": {"head": {"epochs": 1}, "finetune": {"epochs": 0}}}), out)
    before = (out / "checkpoint.npz").read_bytes()
    done = CliRunner().invoke(app, [str(written(tmp_path, {})), "--out", str(out)])
    assert done.exit_code == 1
    assert "choose another folder" in done.stderr
    assert (out / "checkpoint.npz").read_bytes() == before


def test_a_name_that_is_no_plan_is_refused(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["cxr-pneumonia", "--out", str(tmp_path)])
    assert done.exit_code == 2
    assert "needs --data and --weights" in done.stderr
    assert CliRunner().invoke(app, ["chest", "--out", str(tmp_path)]).exit_code == 2


def list_a_nodule(folder: Path) -> None:
    """A place in a real chest as a table of annotations has it; no nodule is there."""
    (folder / "lidc-dicom").symlink_to(shared_data() / "dicom" / "ct_chest")
    header = dcmread(next((shared_data() / "dicom" / "ct_chest").rglob("*.dcm")), stop_before_pixels=True)
    place = np.array(header.ImagePositionPatient) + 200 * np.array([*map(float, header.PixelSpacing), 0])
    row = ",".join([header.SeriesInstanceUID, *map(str, place), "4", "5", "", "3"])
    columns = "seriesuid,coordX,coordY,coordZ,reader1,reader2,reader3,reader4"
    (folder / "annotations.csv").write_text(f"{columns}\n{row}\n")


def test_every_command_of_the_guide_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = GUIDE.read_text(encoding="utf-8")
    (plan,) = re.findall(r"^```toml plan\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    (tmp_path / "brain.toml").write_text(plan)
    (tmp_path / "pictures").symlink_to(shared_data() / "mr2d")
    (tmp_path / "weights").symlink_to(shared_data() / "weights")
    list_a_nodule(tmp_path)
    blocks = re.findall(r"^```([^\n]*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    lines = [line for language, block in blocks if not language for line in block.splitlines()]
    commands = [line.partition("  #")[0] for line in lines if line.startswith(("radnode ", "python "))]
    assert [shlex.split(command)[1] for command in commands].count("train") >= 1
    assert {"models verify", "models pack", "evaluate runs/brain/bundles/brain-mr"} <= {
        " ".join(shlex.split(command)[1:3]) for command in commands
    }
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "RADNODE_MODEL_CACHE": str(tmp_path / "cache"),
        "RADNODE_DATA_DIR": str(tmp_path / "node"),
    }
    for command in commands:
        program, *arguments = shlex.split(command)
        done = subprocess.run(
            [sys.executable, *(["-m", "node.cli.main"] if program == "radnode" else []), *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        if arguments[0] == "train" and "--folds" not in arguments:
            assert "samples of 'no_tumour' count as negative for every label" in done.stderr
        if arguments[0] == "evaluate":
            (source,) = json.loads(done.stdout)["sources"].values()
            assert 0 < source["auroc"]["low"] <= source["auroc"]["value"] <= source["auroc"]["high"] <= 1
    assert len((tmp_path / "lidc" / "nodules.csv").read_text().splitlines()) == 2
    figures = json.loads((tmp_path / "runs" / "brain" / "evaluation.json").read_text())["all_images"]["labels"][
        "tumour"
    ]
    assert figures["auroc"]["value"] > 0.7
    assert figures["auroc"]["low"] < figures["auroc"]["value"]
