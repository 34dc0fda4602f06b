"""The runtimes give the same numbers, and a bundle that does not is not used."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from models.cli import app
from models.compile import target_of
from models.contracts import GreyImage, Presence
from models.errors import GoldenError, NoReadingError, RuntimeUnavailable
from models.preprocess import apply, grey_from_uint8
from models.reading import read_image
from models.registry import Bundle, load_bundle
from models.runner import GOLDEN_TOLERANCE, Forward, KerasRunner, LiteRtRunner, check_golden, load_runner
from tests.support import bundles

pytestmark = pytest.mark.tensorflow


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return load_bundle(bundles.working_bundle(tmp_path_factory.mktemp("runner") / "store" / "test-model"))


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    # One cache for the module: compiling is what takes the time.
    monkeypatch.setenv("RADNODE_MODEL_CACHE", str(tmp_path_factory.getbasetemp() / "model-cache"))


def image() -> GreyImage:
    return GreyImage(np.random.default_rng(0).random((300, 200), dtype=np.float32))


def test_litert_and_keras_agree(bundle: Bundle) -> None:
    batch = np.random.default_rng(1).uniform(-1, 1, (3, bundles.SIDE, bundles.SIDE, 3)).astype(np.float32)
    lite, full = load_runner(bundle, "cpu").run(batch), KerasRunner(bundle).run(batch)
    assert lite.features.shape == (3, 2, 2, 1280)
    np.testing.assert_allclose(lite.logits, full.logits, atol=1e-4)
    np.testing.assert_allclose(lite.features, full.features, atol=1e-3)


def test_an_image_becomes_findings_with_maps_for_what_is_present(bundle: Bundle) -> None:
    reading = read_image(bundle, load_runner(bundle, "cpu"), image())
    assert [finding.key for finding in reading.findings] == ["pneumonia", "effusion"]
    present = [finding.key for finding in reading.findings if finding.presence is Presence.PRESENT]
    assert [found.label_key for found in reading.explanations] == present
    assert reading.notes == ("The file has no window; contrast set from the image's own values.",)


def test_a_network_that_gives_no_number_gives_no_reading(bundle: Bundle) -> None:
    class Broken:
        head = np.zeros((1280, 2), np.float32)

        def run(self, batch: np.ndarray) -> Forward:
            return Forward(np.full((1, 2), np.nan, np.float32), np.zeros((1, 2, 2, 1280), np.float32))

    with pytest.raises(NoReadingError):
        read_image(bundle, Broken(), image())


def test_other_answers_than_the_golden_ones_are_refused(bundle: Bundle, tmp_path: Path) -> None:
    folder = bundles.working_bundle(tmp_path / "other")
    with np.load(folder / "golden.npz") as golden:
        inputs, logits = golden["inputs"], golden["logits"]
    np.savez(folder / "golden.npz", inputs=inputs, logits=logits + 0.01)
    bundles.write_manifest(folder, bundles.document(folder))
    with pytest.raises(GoldenError):
        load_runner(load_bundle(folder), "cpu")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda array: array, ""),
        (lambda array: array + np.float16(0.01), "differently"),
        (lambda array: array[:-1], "differently"),
        (lambda array: np.full_like(array, np.nan), "differently"),
    ],
)
def test_a_picture_that_is_prepared_differently_is_refused(
    bundle: Bundle, tmp_path: Path, change: Any, said: str
) -> None:
    folder = Path(shutil.copytree(bundle.weights.parent, tmp_path / "prepared"))
    raw = np.random.default_rng(2).integers(0, 256, (90, 70)).astype(np.uint8)
    steps = load_bundle(folder).manifest.preprocessing
    with np.load(folder / "golden.npz") as golden:
        arrays = {name: golden[name] for name in golden.files}
    arrays |= {"raw": raw, "raw_input": change(apply(steps, grey_from_uint8(raw)).array.astype(np.float16))}
    np.savez(folder / "golden.npz", **arrays)
    bundles.write_manifest(folder, bundles.document(folder))
    if not said:
        load_runner(load_bundle(folder), "cpu")
        return
    with pytest.raises(GoldenError, match=said):
        load_runner(load_bundle(folder), "cpu")


@pytest.mark.parametrize(
    ("largest", "off", "fits"), [(0.5, 9e-4, True), (0.5, 2e-3, False), (80, 0.05, True), (80, 0.2, False)]
)
def test_what_counts_as_equal_grows_with_the_logits(
    bundle: Bundle, tmp_path: Path, largest: float, off: float, fits: bool
) -> None:
    """Of a network whose logits are large, rounding alone is more than a thousandth."""
    folder = bundles.hollow_bundle(tmp_path / "large")
    inputs = np.zeros((1, bundles.SIDE, bundles.SIDE, 3), np.float32)
    np.savez(folder / "golden.npz", inputs=inputs, logits=np.array([[largest, 0.1]], np.float32))
    bundles.write_manifest(folder, bundles.document(folder))

    class Answers:
        head = None

        def run(self, batch: np.ndarray) -> Forward:
            said = np.array([[largest, 0.1 + off]], np.float32)
            return Forward(said, np.zeros((1, 2, 2, 1280), np.float32))

    changed = load_bundle(folder)
    if fits:
        assert check_golden(changed, Answers()) <= GOLDEN_TOLERANCE
    else:
        with pytest.raises(GoldenError, match="off"):
            check_golden(changed, Answers())


def test_a_damaged_cache_is_removed_and_made_again(bundle: Bundle) -> None:
    load_runner(bundle, "cpu")
    target_of(bundle).write_bytes(b"not a model")
    with pytest.raises(RuntimeUnavailable):
        LiteRtRunner(bundle)
    load_runner(bundle, "cpu")


def test_a_gpu_that_is_not_there_is_not_replaced_in_silence(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(RuntimeUnavailable, match="GPU"):
        load_runner(bundle, "gpu")


def test_verify_runs_the_test_vectors(bundle: Bundle) -> None:
    done = CliRunner().invoke(app, ["verify", "test-model", "--json", "--models-dir", str(bundle.folder.parent)])
    assert json.loads(done.stdout)["verified"] is True
    assert done.exit_code == 0
