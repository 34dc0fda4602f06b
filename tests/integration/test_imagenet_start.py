"""The backbone with its ImageNet weights sees a cat in the picture of a cat."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models import backbones
from models.errors import BundleError

pytestmark = pytest.mark.tensorflow

WEIGHTS = Path(__file__).parents[3] / "shared" / "data" / "weights"
IMAGENET = WEIGHTS / "efficientnet_lite0_imagenet_keras_layout_fp16.npz"
needs_weights = pytest.mark.skipif(not IMAGENET.is_file(), reason="the ImageNet weights are not beside this checkout")


@needs_weights
def test_a_cat_is_a_cat() -> None:
    from models.backbones.efficientnet_lite import load_imagenet  # noqa: PLC0415 - imports Keras

    model = backbones.build("efficientnet_lite0", (224, 224, 3), 1000)
    load_imagenet(model, IMAGENET)
    with np.load(IMAGENET) as arrays:
        head = [arrays[name].astype(np.float32) for name in ("_fc.weight", "_fc.bias")]
    model.get_layer("logits").set_weights(head)
    with Image.open(WEIGHTS / "cat_720p.jpg") as picture:
        side = min(picture.size)
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        square = picture.convert("RGB").crop((left, top, left + side, top + side)).resize((224, 224))
    image = (np.asarray(square, dtype=np.float32) - 127) / 128
    features, logits = model(image[np.newaxis], training=False)
    # Line 0 of the label file is "background", which this network has not.
    names = (WEIGHTS / "imagenet_labels.txt").read_text().splitlines()
    best = names[int(np.argmax(logits[0])) + 1]
    assert "cat" in best.lower() or "lynx" in best.lower(), best
    assert features.shape == (1, 7, 7, 1280)


def test_weights_survive_saving(tmp_path: Path) -> None:
    model = backbones.build("efficientnet_lite0", (64, 64, 3), 2)
    backbones.save_weights(model, tmp_path / "w.npz")
    other = backbones.build("efficientnet_lite0", (64, 64, 3), 2)
    backbones.load_weights(other, tmp_path / "w.npz")
    image = np.random.default_rng(0).uniform(-1, 1, (1, 64, 64, 3)).astype(np.float32)
    np.testing.assert_allclose(model(image, training=False)[1], other(image, training=False)[1], atol=2e-3)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    backbones.save_weights(backbones.build("efficientnet_lite0", (64, 64, 3), 2), tmp_path / "w.npz")
    with pytest.raises(BundleError, match="does not fit"):
        backbones.load_weights(backbones.build("efficientnet_lite0", (64, 64, 3), 1), tmp_path / "w.npz")
    with pytest.raises(BundleError, match="is none of"):
        backbones.build("resnet_of_a_stranger", (64, 64, 3), 1)
    (tmp_path / "x.npz").write_bytes(b"no arrays")
    with pytest.raises(BundleError, match="no readable weights"):
        backbones.load_weights(backbones.build("efficientnet_lite0", (64, 64, 3), 1), tmp_path / "x.npz")


@needs_weights
def test_levels_are_the_averages_of_three_depths_of_the_whole_network() -> None:
    import keras  # noqa: PLC0415 - slow

    whole = backbones.build("efficientnet_lite0", (64, 64, 3), 1, weights=IMAGENET)
    levels = backbones.build("efficientnet_lite0_levels", (64, 64, 3), 1, weights=IMAGENET)
    depths = keras.Model(whole.input, [whole.get_layer(f"block{block}_add").output for block in (7, 10, 13)])
    picture = np.random.default_rng(4).uniform(-1, 1, (1, 64, 64, 3)).astype(np.float32)
    expected = np.concatenate([np.asarray(one).mean(axis=(1, 2)) for one in depths(picture, training=False)], axis=1)
    found = np.asarray(levels(picture, training=False)[0]).mean(axis=(1, 2))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
