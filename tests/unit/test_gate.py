"""The gate: what is unlike the training images is not read, and the distance is the one the covariance says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models.contracts import GreyImage
from models.errors import ArchitectureError, BundleFileError, DatasetError, ManifestError, NotInDistribution
from models.gate import FittedGate, fit_gate, gate_of, pooled, require_fit, write_gate
from models.reading import read_image
from models.registry import Bundle, load_bundle
from models.runner import Forward
from tests.support import bundles

CHANNELS = 1280


def features(count: int, channels: int = 32, seed: int = 0, shift: float = 0.0) -> np.ndarray:
    """Correlated normal features, as pooled activations are."""
    chance = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).normal(size=(channels, channels)) / np.sqrt(channels)
    return np.asarray(chance.normal(size=(count, channels)) @ mixing + shift, dtype=np.float32)


def test_with_every_direction_kept_but_one_the_distance_is_the_covariances_own() -> None:
    given = features(2000, channels=6)
    gate = fit_gate(given, features(200, channels=6, seed=1), components=5).gate
    centred = given.astype(np.float64) - given.mean(axis=0, dtype=np.float64)
    inverse = np.linalg.inv(centred.T @ centred / (len(given) - 1))
    exact = np.sqrt(np.einsum("ni,ij,nj->n", centred, inverse, centred))
    np.testing.assert_allclose(gate.scores(given), exact, rtol=2e-3)


@pytest.mark.parametrize("held_out", [True, False])
def test_the_threshold_lets_the_stated_share_of_new_images_pass(held_out: bool) -> None:
    fitted = fit_gate(features(600), features(600, seed=1) if held_out else None, quantile=0.95)
    passed = (fitted.gate.scores(features(4000, seed=2)) <= fitted.threshold).mean()
    assert passed == pytest.approx(0.95, abs=0.025)
    assert (fitted.gate.scores(features(200, seed=3, shift=3.0)) > fitted.threshold).all()


def test_fewer_images_than_channels_still_tell_what_is_foreign() -> None:
    fitted = fit_gate(features(100, channels=400), quantile=0.99)
    assert (fitted.gate.scores(features(300, channels=400, seed=1)) <= fitted.threshold).mean() > 0.93
    assert (fitted.gate.scores(features(50, channels=400, seed=2, shift=3.0)) > fitted.threshold).all()


def test_too_few_images_and_values_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(DatasetError, match="40 images"):
        fit_gate(features(39))
    broken = features(60)
    broken[3, 3] = np.nan
    with pytest.raises(DatasetError, match="no numbers"):
        fit_gate(broken)


class Network:
    """A runner whose feature map is the one given."""

    head = np.zeros((CHANNELS, 2), np.float32)

    def __init__(self, level: float, channels: int = CHANNELS) -> None:
        self.level, self.channels = level, channels

    def run(self, batch: np.ndarray) -> Forward:
        noise = features(1, self.channels, seed=5)[0]
        grid = np.tile(noise + np.float32(self.level), (1, 2, 2, 1))
        return Forward(np.zeros((1, 2), np.float32), grid.astype(np.float32))


@pytest.fixture(scope="module")
def fitted() -> FittedGate:
    return fit_gate(features(200, CHANNELS))


def gated(folder: Path, fitted: FittedGate) -> Path:
    bundles.hollow_bundle(folder)
    write_gate(folder / "ood.npz", fitted.gate)
    manifest = bundles.document(folder)
    manifest["files"].append({"path": "ood.npz", "role": "ood", "sha256": bundles.sha256(folder / "ood.npz")})
    return bundles.write_manifest(folder, manifest | {"ood": fitted.section()})


@pytest.fixture
def bundle(tmp_path: Path, fitted: FittedGate) -> Bundle:
    return load_bundle(gated(tmp_path / "gated", fitted))


def test_a_foreign_image_is_refused_with_its_distance_and_a_familiar_one_is_read(bundle: Bundle) -> None:
    image = GreyImage(np.random.default_rng(0).random((300, 200), dtype=np.float32))
    assert len(read_image(bundle, Network(0.0), image).findings) == 2
    with pytest.raises(NotInDistribution, match=r"unlike the images the model was made for \(distance \d+\.\d, at"):
        read_image(bundle, Network(3.0), image)


def test_pooling_is_the_mean_over_the_cells() -> None:
    grid = np.arange(2 * 2 * 2 * 3, dtype=np.float32).reshape(2, 2, 2, 3)
    np.testing.assert_array_equal(pooled(grid)[0], grid[0].reshape(4, 3).mean(axis=0))


def test_a_gate_survives_its_file_and_must_fit_the_network(bundle: Bundle, fitted: FittedGate) -> None:
    read = gate_of(bundle)
    assert read is not None
    np.testing.assert_allclose(read.scores(features(9, CHANNELS)), fitted.gate.scores(features(9, CHANNELS)), rtol=1e-5)
    require_fit(bundle, np.zeros((1, 2, 2, CHANNELS), np.float32))
    with pytest.raises(ArchitectureError, match="1280 channels"):
        require_fit(bundle, np.zeros((1, 2, 2, 64), np.float32))


@pytest.mark.parametrize(
    "arrays",
    [
        {"mean": np.zeros(4)},
        {"mean": np.zeros(4), "basis": np.zeros((3, 2)), "spread": np.ones(2), "rest": np.float32(1)},
        {"mean": np.zeros(4), "basis": np.zeros((4, 2)), "spread": np.zeros(2), "rest": np.float32(1)},
        {"mean": np.full(4, np.nan), "basis": np.zeros((4, 2)), "spread": np.ones(2), "rest": np.float32(1)},
    ],
)
def test_a_malformed_gate_is_no_open_gate(tmp_path: Path, fitted: FittedGate, arrays: dict[str, np.ndarray]) -> None:
    folder = gated(tmp_path / "malformed", fitted)
    np.savez(folder / "ood.npz", **arrays)  # type: ignore[arg-type]
    manifest = bundles.document(folder)
    manifest["files"].append({"path": "ood.npz", "role": "ood", "sha256": bundles.sha256(folder / "ood.npz")})
    bundles.write_manifest(folder, manifest | {"ood": fitted.section()})
    with pytest.raises(BundleFileError, match=r"ood\.npz"):
        gate_of(load_bundle(folder))


def test_file_and_section_come_together(tmp_path: Path, fitted: FittedGate) -> None:
    folder = gated(tmp_path / "half", fitted)
    without_file = bundles.document(folder) | {"ood": fitted.section()}
    with pytest.raises(ManifestError, match="come together"):
        load_bundle(bundles.write_manifest(folder, without_file))
    assert gate_of(load_bundle(bundles.hollow_bundle(tmp_path / "none"))) is None
