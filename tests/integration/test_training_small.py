"""The real recipe on a handful of small pictures: data in, a bundle out that serves and can be measured."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from models.errors import DatasetError
from models.evaluation.cli import app as evaluate_app
from models.recipes import Paths
from models.registry import Bundle, load_bundle
from models.runner import check_golden, load_runner
from models.training.config import TrainingConfig

pytestmark = pytest.mark.tensorflow

WEIGHTS = Path(__file__).parents[3] / "shared" / "data" / "weights"
SIDE = 64
PATIENTS = 10
CONFIG = TrainingConfig(batch_size=14, epochs=2, warmup_steps=2, ema_decay=0.5, head_penalty=1.0)


def draw_set(folder: Path) -> None:
    """Bright lungs are ill, dark ones are not; two sources, two labels, one image a patient."""
    random = np.random.default_rng(5)
    lines = ["file,source,patient,label,licence,view,sex,age"]
    for source in ("kermany224", "nih_cxr14"):
        for label in ("normal", "pneumonia"):
            for number in range(PATIENTS):
                name = f"{source}_{label}_{number}.png"
                picture = random.integers(60, 120, (80, 72))
                picture[20:60, 12:60] = random.integers(150, 255) if label == "pneumonia" else random.integers(0, 50)
                Image.fromarray(picture.astype(np.uint8)).save(folder / name)
                lines.append(f"{name},{source},{source}:{label}{number},{label},CC BY 4.0,AP,,")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Paths:
    if not WEIGHTS.is_dir():
        pytest.skip("the ImageNet weights are not beside this checkout")
    from models.recipes.cxr_pneumonia import Settings, make  # noqa: PLC0415 - imports TensorFlow

    root = tmp_path_factory.mktemp("small")
    paths = Paths(data=root / "data", weights=WEIGHTS, out=root / "bundles" / "cxr-pneumonia", runs=root / "runs")
    paths.data.mkdir()
    draw_set(paths.data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RADNODE_MODEL_CACHE", str(root / "cache"))
        make(paths, Settings(side=SIDE, config=CONFIG, seeds=(1, 2), folds=2))
    return paths


@pytest.fixture
def bundle(made: Paths, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    monkeypatch.setenv("RADNODE_MODEL_CACHE", str(made.out.parents[1] / "cache"))
    return load_bundle(made.out)


def test_the_bundle_is_whole_and_answers_its_own_test_vectors(bundle: Bundle) -> None:
    assert check_golden(bundle, load_runner(bundle, "cpu")) <= 1e-3
    assert {entry.role for entry in bundle.manifest.files} == {"weights", "golden", "card", "notice"}


def test_it_learned_the_difference(bundle: Bundle) -> None:
    sources = bundle.manifest.evaluation["test"]["sources"]
    assert {source: found["auroc"]["value"] for source, found in sources.items()} == {"kermany224": 1, "nih_cxr14": 1}


def test_the_record_tells_how_it_was_made(made: Paths, bundle: Bundle) -> None:
    split = bundle.manifest.training["split"]
    assert len(split["sha256"]) == 64
    assert sum(split[part]["nih_cxr14"]["patients"] for part in ("train", "test")) == 2 * PATIENTS
    assert split["sha256"] in (made.out / "MODEL_CARD.md").read_text()
    history = json.loads((made.runs / "final-seed1" / "history.json").read_text())
    assert len(history["epochs"]) == 2


def test_training_images_are_judged_by_networks_that_did_not_know_the_patient(made: Paths, bundle: Bundle) -> None:
    split, validated = bundle.manifest.training["split"], bundle.manifest.evaluation["cross_validation"]["sources"]
    for source in ("kermany224", "nih_cxr14"):
        assert validated[source]["images"] == split["train"][source]["normal"] + split["train"][source]["pneumonia"]
    files = [json.loads((made.runs / run / "run.json").read_text())["files"] for run in ("fold0-seed1", "fold1-seed1")]
    assert len({*files, json.loads((made.runs / "final-seed1" / "run.json").read_text())["files"]}) == 3


def test_a_second_call_takes_up_finished_runs_and_gives_the_same_weights(made: Paths, bundle: Bundle) -> None:
    from models.recipes.cxr_pneumonia import Settings, make  # noqa: PLC0415 - imports TensorFlow

    stamps = {path: path.stat().st_mtime_ns for path in made.runs.glob("*/run.json")}
    again = replace(made, out=made.out.with_name("again"))
    make(again, Settings(side=SIDE, config=CONFIG, seeds=(1, 2), folds=2))
    assert load_bundle(again.out).identity.weights_digest == bundle.identity.weights_digest
    assert stamps == {path: path.stat().st_mtime_ns for path in made.runs.glob("*/run.json")}


def test_evaluate_counts_what_it_leaves_out(made: Paths, bundle: Bundle, tmp_path: Path) -> None:
    lines = (made.data / "labels.csv").read_text().splitlines()
    (made.data / "broken.png").write_bytes(b"no picture")
    labels = tmp_path / "labels.csv"
    labels.write_text(
        "\n".join([*lines, "broken.png,x,x:1,normal,,AP,,", "none.png,x,x:2,normal,,AP,,", "c.png,x,x:3,covid,,,,"])
    )
    done = CliRunner().invoke(
        evaluate_app,
        [str(bundle.folder), "--labels", str(labels), "--images", str(made.data), "--resamples", "20", "--json"],
    )
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["images"] == 4 * PATIENTS
    assert document["skipped"] == {"covid": 1}
    assert [entry["file"] for entry in document["unreadable"]] == ["broken.png", "none.png"]
    assert document["sources"]["nih_cxr14"]["auroc"]["low"] > 0.9


def test_evaluate_says_what_is_missing(made: Paths, bundle: Bundle, tmp_path: Path) -> None:
    arguments = [str(bundle.folder), "--labels", str(tmp_path / "no.csv"), "--images", str(made.data)]
    done = CliRunner().invoke(evaluate_app, arguments)
    assert done.exit_code == 1
    assert "there is no label file" in done.stderr


def test_data_without_usable_rows_leaves_the_old_bundle_alone(made: Paths, bundle: Bundle, tmp_path: Path) -> None:
    from models.recipes.cxr_pneumonia import make  # noqa: PLC0415 - imports TensorFlow

    (tmp_path / "labels.csv").write_text("file,source,patient,label\na.png,elsewhere,p,normal\n")
    with pytest.raises(DatasetError, match="no frontal image"):
        make(Paths(data=tmp_path, weights=WEIGHTS, out=made.out, runs=tmp_path / "runs"))
    assert load_bundle(made.out).identity == bundle.identity
