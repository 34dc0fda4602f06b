"""Weights: from which files they are taken, and from which not."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from models import backbones
from models.errors import ArchitectureError, BundleError, DigestError, RuntimeUnavailable
from tests.support.networks import enliven, images

pytestmark = pytest.mark.tensorflow

SMALL = "mobilenet_v3_small"
SHAPE = (32, 32, 3)
IMAGENET_STATISTICS = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225], 0)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def small() -> Any:
    model = backbones.build(SMALL, SHAPE, 3)
    enliven(model, images(32, "zero_to_255", count=4), seed=1)
    return model


@pytest.fixture(scope="module")
def theirs() -> Any:
    """Keras's own network, which knows nothing of ours."""
    import keras  # noqa: PLC0415 - slow

    model = keras.applications.MobileNetV3Small(include_top=False, weights=None, input_shape=SHAPE)
    enliven(model, images(32, "zero_to_255", count=4), seed=4)
    return model


def write_keras_file(path: Path, model: Any, rename: Callable[[str], str] = str) -> Path:
    """The layout of the files of Keras Applications: groups by layer, names in attributes."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [rename(layer.name).encode() for layer in model.layers]
        for layer in model.layers:
            group = file.create_group(rename(layer.name))
            weights = {f"{rename(layer.name)}/{_old(w)}:0": np.asarray(w.value) for w in layer.weights}
            group.attrs["weight_names"] = [name.encode() for name in weights]
            for name, array in weights.items():
                group.create_dataset(name, data=array)
    return path


def _old(weight: Any) -> str:
    kind = weight.path.rsplit("/", 1)[-1]
    return "depthwise_kernel" if kind == "kernel" and "depthwise" in weight.path else kind


def features(model: Any, batch: Any) -> Any:
    found = model(batch, training=False)
    return np.asarray(found[0] if isinstance(found, list | tuple) else found)


def test_a_body_starts_another_network_and_the_head_goes_along_where_it_fits(small: Any, tmp_path: Path) -> None:
    path = tmp_path / "run.npz"
    backbones.save_weights(small, path, dtype="float32")
    batch = images(32, "zero_to_255")
    same = backbones.build(SMALL, SHAPE, 3, weights=path, sha256=digest(path))
    wider = backbones.build(SMALL, SHAPE, 14, weights=path)
    expected = small(batch, training=False)
    np.testing.assert_array_equal(same(batch, training=False)[1], expected[1])
    np.testing.assert_array_equal(features(wider, batch), expected[0])
    assert wider(batch, training=False)[1].shape == (1, 14)
    with pytest.raises(ArchitectureError, match="does not fit"):
        backbones.load_weights(wider, path)


def test_another_digest_is_refused_and_nothing_is_taken(small: Any, tmp_path: Path) -> None:
    path = tmp_path / "run.npz"
    backbones.save_weights(small, path)
    other = backbones.build(SMALL, SHAPE, 3)
    before = np.asarray(other.get_layer("conv").kernel)
    with pytest.raises(DigestError, match="not opened"):
        backbones.load_weights(other, path, sha256="0" * 64)
    (tmp_path / "junk.npz").write_bytes(b"\x80\x04junk")
    with pytest.raises(DigestError):
        backbones.build(SMALL, SHAPE, 3, weights=tmp_path / "junk.npz", sha256=digest(path))
    np.testing.assert_array_equal(other.get_layer("conv").kernel, before)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut short", b"\x80\x04\x95 a pickle", b"\x93NUMPY\x01\x00"])
def test_what_is_no_npz_is_refused(small: Any, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(BundleError, match="no readable weights"):
        backbones.load_weights(small, tmp_path / "x.npz")


def test_files_that_cannot_be_weights_of_this_network(small: Any, tmp_path: Path) -> None:
    backbones.save_weights(small, tmp_path / "run.npz")
    with np.load(tmp_path / "run.npz") as stored:
        good = dict(stored)
    refused = {
        "objects": ({**good, "conv/kernel": np.array([{}], dtype=object)}, "no readable weights"),
        "strange": ({**good, "lambda/code": np.zeros(1, np.float32)}, "lambda/code"),
        "cut": ({key: array for key, array in good.items() if key != "conv/kernel"}, "conv/kernel"),
        "text": ({**good, "conv_bn/beta": np.array(["a"] * 16)}, "conv_bn/beta"),
        "nan": ({**good, "conv_bn/beta": np.full(16, np.nan, np.float16)}, "no finite numbers"),
    }
    for name, (arrays, message) in refused.items():
        np.savez(tmp_path / f"{name}.npz", **arrays)
        with pytest.raises(BundleError, match=message):
            backbones.load_weights(small, tmp_path / f"{name}.npz")
        with pytest.raises(BundleError, match=message):
            backbones.build(SMALL, SHAPE, 3, weights=tmp_path / f"{name}.npz")
    with pytest.raises(BundleError, match="no readable weights"):
        backbones.load_weights(small, tmp_path / "absent.npz")
    with pytest.raises(ArchitectureError, match="from_keras_weights"):
        backbones.build(SMALL, SHAPE, 3, weights=tmp_path / "vgg16_notop.h5")


def test_variances_beyond_half_precision_survive_shipping(tmp_path: Path) -> None:
    model = backbones.build(SMALL, SHAPE, 1)
    wide = np.full(16, 2.5e5, np.float32)
    model.get_layer("conv_bn").moving_variance.assign(wide)
    backbones.save_weights(model, tmp_path / "w.npz")
    backbones.load_weights(model, tmp_path / "w.npz")
    np.testing.assert_array_equal(model.get_layer("conv_bn").moving_variance, wide)


@pytest.mark.parametrize("old_names", [False, True])
def test_a_file_of_keras_gives_what_keras_reads_from_it(theirs: Any, tmp_path: Path, old_names: bool) -> None:
    def rename(name: str) -> str:
        return name.replace("_bn", "/BatchNorm").replace("conv", "Conv") if old_names else name

    path = write_keras_file(tmp_path / "small_notop.h5", theirs, rename)
    npz = tmp_path / "small.npz"
    sha256 = backbones.from_keras_weights(SMALL, path, digest(path), npz)
    assert sha256 == digest(npz)
    model = backbones.build(SMALL, SHAPE, 2, weights=npz, sha256=sha256)
    batch = images(32, "zero_to_255")
    np.testing.assert_allclose(features(model, batch), features(theirs, batch), rtol=1e-5, atol=1e-6)


def test_the_normalisation_of_efficientnet_with_imagenet_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keras adds a layer where the weights are ImageNet's; ours has the same numbers without it."""
    import keras  # noqa: PLC0415 - slow
    from keras.src.utils import file_utils  # noqa: PLC0415

    shape = (64, 64, 3)
    source = keras.applications.EfficientNetB0(include_top=False, weights=None, input_shape=shape)
    normalisation = next(layer for layer in source.layers if isinstance(layer, keras.layers.Normalization))
    normalisation.set_weights([np.asarray(one) for one in IMAGENET_STATISTICS])
    enliven(source, images(64, "zero_to_255", count=4), seed=6)
    path = write_keras_file(tmp_path / "efficientnetb0_notop.h5", source)
    monkeypatch.setattr(file_utils, "get_file", lambda *_args, **_kwargs: str(path))
    reference = keras.applications.EfficientNetB0(include_top=False, weights="imagenet", input_shape=shape)
    downloaded = backbones.build("efficientnet_b0", shape, 1, weights="imagenet")
    backbones.from_keras_weights("efficientnet_b0", path, digest(path), tmp_path / "b0.npz")
    converted = backbones.build("efficientnet_b0", shape, 1, weights=tmp_path / "b0.npz")
    batch = images(64, "zero_to_255")
    for ours in (downloaded, converted):
        # Up to here: further on a network of random weights makes much of a rounding.
        for layer in ("stem_conv_pad", "block3b_add"):
            expected, found = (
                np.asarray(keras.Model(one.input, one.get_layer(layer).output)(batch)) for one in (reference, ours)
            )
            assert np.abs(found - expected).max() < 5e-6 * np.abs(expected).max()
        for layer in ours.layers:
            if layer.weights and layer.name != "logits":
                stored = reference.get_layer(layer.name).get_weights()
                assert all(map(np.array_equal, layer.get_weights(), stored)), layer.name
    normalisation.set_weights([np.asarray(one) for one in ([0, 0, 0], [1, 1, 1], 0)])
    write_keras_file(path, source)
    with pytest.raises(ArchitectureError, match="another normalisation"):
        backbones.from_keras_weights("efficientnet_b0", path, digest(path), tmp_path / "b0.npz")


def test_files_of_keras_that_are_refused(theirs: Any, tmp_path: Path) -> None:
    path, npz = write_keras_file(tmp_path / "a.h5", theirs), tmp_path / "a.npz"

    def convert(name: str = SMALL, sha256: str | None = None) -> None:
        backbones.from_keras_weights(name, path, sha256 or digest(path), npz)

    with pytest.raises(DigestError):
        convert(sha256="0" * 64)
    with pytest.raises(ArchitectureError, match="which mobilenet_v3_large has not"):
        convert("mobilenet_v3_large")
    with h5py.File(path, "a") as file:
        file["conv/conv"].move("kernel:0", "kept")
        file["conv/conv"]["kernel:0"] = h5py.ExternalLink("/etc/passwd", "/")
    with pytest.raises(BundleError, match="no weights file"):
        convert()
    with h5py.File(path, "a") as file:
        del file["conv/conv/kernel:0"]
        file["conv/conv"].create_dataset("kernel:0", (3, 3, 3, 16), "f4", external=[("/dev/zero", 0, 1728)])
    with pytest.raises(BundleError, match="no weights file"):
        convert()
    write_keras_file(path, theirs)
    with h5py.File(path, "a") as file:
        file.attrs["layer_names"] = [b"conv", b"predictions"]
        file.create_group("predictions").attrs["weight_names"] = [b"kernel:0"]
        file["predictions/kernel:0"] = np.zeros((4, 4), np.float32)
    with pytest.raises(ArchitectureError, match="predictions/kernel, which mobilenet_v3_small has not"):
        convert()
    path.write_bytes(b"no HDF5")
    with pytest.raises(BundleError, match="no weights file"):
        convert()
    assert not npz.exists()


def test_without_internet_the_error_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from keras.src.backend import config  # noqa: PLC0415 - slow

    monkeypatch.setattr(config, "_KERAS_DIR", str(tmp_path))
    # A port nobody listens at stands for the missing route, so that the test loads nothing where there is one.
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    started = time.monotonic()
    with pytest.raises(RuntimeUnavailable, match=r"ImageNet weights of mobilenet_v2 .*from_keras_weights.*sha256"):
        backbones.build("mobilenet_v2", SHAPE, 1, weights="imagenet")
    assert time.monotonic() - started < 20
    with pytest.raises(ArchitectureError, match="give the path"):
        backbones.build("efficientnet_lite0", SHAPE, 1, weights="imagenet")


def test_mixed_precision_leaves_both_outputs_whole() -> None:
    import keras  # noqa: PLC0415 - slow

    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        model = backbones.build(SMALL, SHAPE, 2)
    finally:
        keras.mixed_precision.set_global_policy("float32")
    found, logits = model(images(32, "zero_to_255"), training=False)
    assert found.dtype == logits.dtype == "float32"
    assert model.get_layer("conv").compute_dtype == "float16"
