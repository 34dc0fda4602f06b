"""Every network of the allow-list keeps the same promises, whichever family it is of.

The deep members of a family differ from the shallow ones by repeats only, and take long to build twice: of those in
DEEP `make test` checks the layout, on one network that is never run, and `make soak` the rest.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models import backbones
from models.compile import compiled
from models.explain import closed_form_maps, gradient_maps
from models.preprocess import apply, grey_from_uint8, parse_steps
from models.registry import load_bundle
from models.runner import LiteRtRunner
from tests.support import bundles
from tests.support.networks import enliven, images

pytestmark = pytest.mark.tensorflow

SIDE = 64
OUTPUTS = 2

# Name: parameters in millions as the papers and Keras's own table give them, and whether the 1000 outputs of ImageNet
# are among them; channels of the map; its layer.
KNOWN: dict[str, tuple[float, bool, int, str]] = {
    "efficientnet_lite0": (4.7, True, 1280, "top_activation"),
    # The first fourteen blocks of the former.
    "efficientnet_lite0_levels": (1.906, False, 384, "levels"),
    "resnet50": (25.6, True, 2048, "conv5_block3_out"),
    "resnet101": (44.7, True, 2048, "conv5_block3_out"),
    "resnet152": (60.4, True, 2048, "conv5_block3_out"),
    "resnet50v2": (25.6, True, 2048, "post_relu"),
    "resnet101v2": (44.7, True, 2048, "post_relu"),
    "resnet152v2": (60.4, True, 2048, "post_relu"),
    "vgg16": (14.7, False, 512, "block5_conv3"),
    "vgg19": (20.0, False, 512, "block5_conv4"),
    "densenet121": (8.1, True, 1024, "relu"),
    "densenet169": (14.3, True, 1664, "relu"),
    "densenet201": (20.2, True, 1920, "relu"),
    "mobilenet_v2": (3.5, True, 1280, "out_relu"),
    "mobilenet_v3_small": (0.94, False, 576, "activation_17"),
    "mobilenet_v3_large": (3.0, False, 960, "activation_19"),
    "efficientnet_b0": (5.3, True, 1280, "top_activation"),
    "efficientnet_b1": (7.9, True, 1280, "top_activation"),
    "efficientnet_b2": (9.2, True, 1408, "top_activation"),
    "efficientnet_b3": (12.3, True, 1536, "top_activation"),
    "efficientnet_b4": (19.5, True, 1792, "top_activation"),
    "efficientnet_b5": (30.6, True, 2048, "top_activation"),
    "efficientnet_b6": (43.3, True, 2304, "top_activation"),
    "efficientnet_b7": (66.7, True, 2560, "top_activation"),
    "efficientnet_v2_b0": (7.2, True, 1280, "top_activation"),
    "efficientnet_v2_b1": (8.2, True, 1280, "top_activation"),
    "efficientnet_v2_b2": (10.2, True, 1408, "top_activation"),
    "efficientnet_v2_b3": (14.5, True, 1536, "top_activation"),
    "efficientnet_v2_s": (21.6, True, 1280, "top_activation"),
    "efficientnet_v2_m": (54.4, True, 1280, "top_activation"),
    "efficientnet_v2_l": (119.0, True, 1280, "top_activation"),
}
DEEP = {
    *("resnet101", "resnet152", "resnet101v2", "resnet152v2", "vgg19", "densenet169", "densenet201"),
    *(f"efficientnet_b{number}" for number in range(1, 8)),
    *(f"efficientnet_v2_{size}" for size in ("b1", "b2", "b3", "s", "m", "l")),
}
RUN = [
    *(name for name in KNOWN if name not in DEEP),
    *(pytest.param(name, marks=pytest.mark.soak) for name in sorted(DEEP)),
]
CONVERTED = [
    # The one with the most kinds of layers of those that are meant for CPUs.
    "efficientnet_b0",
    *(pytest.param(name, marks=pytest.mark.soak) for name in ("resnet50", "densenet121", "mobilenet_v2")),
]

PREPROCESS = {family.name: family.keras_module for family in backbones.FAMILIES}


@dataclass(frozen=True)
class Net:
    name: str
    model: Any
    batch: Any


@pytest.fixture(scope="module", params=RUN)
def net(request: pytest.FixtureRequest) -> Iterator[Net]:
    """Built once for all its tests; its weights are seeded."""
    import keras  # noqa: PLC0415 - slow

    name = request.param
    keras.utils.set_random_seed(11)
    model = backbones.build(name, (SIDE, SIDE, 3), OUTPUTS)
    batch = images(SIDE, backbones.info(name).convention, count=4)
    enliven(model, batch, seed=2)
    yield Net(name, model, batch[:2])
    del model
    gc.collect()


def check_layout(name: str, model: Any) -> None:
    """What can be said of a network without running it."""
    import keras  # noqa: PLC0415 - slow

    millions, with_top, channels, layer = KNOWN[name]
    cells = SIDE // (16 if name.startswith("vgg") else 32)
    features, logits = model.outputs
    assert features.shape == (None, cells, cells, channels)
    assert logits.shape == (None, OUTPUTS)
    assert model.get_layer("logits").compute_dtype == "float32"
    assert model.get_layer(layer).output is features
    assert model.get_layer("pool").input is features
    assert not [one.name for one in model.layers if isinstance(one, keras.Model)]
    body = model.count_params() - (channels + 1) * OUTPUTS
    expected = millions * 1e6 - (channels + 1) * 1000 * with_top
    assert body == pytest.approx(expected, abs=0.051e6 + 0.001 * expected)


def test_every_name_is_known_here() -> None:
    assert set(KNOWN) == set(backbones.ARCHITECTURES)
    assert set(KNOWN) >= DEEP


def test_the_layout(net: Net) -> None:
    check_layout(net.name, net.model)


@pytest.mark.parametrize("name", sorted(DEEP))
def test_the_layout_of_the_deep_ones(name: str) -> None:
    check_layout(name, backbones.build(name, (SIDE, SIDE, 3), OUTPUTS))
    gc.collect()


def test_finite_numbers_that_differ_between_images(net: Net) -> None:
    features, logits = net.model(net.batch, training=False)
    assert features.dtype == logits.dtype == np.float32
    assert np.isfinite(features).all()
    assert np.isfinite(logits).all()
    assert float(np.abs(logits[0] - logits[1]).max()) > 1e-2 * float(np.abs(logits).max())


def test_weights_go_from_one_build_into_the_next(net: Net, tmp_path: Path) -> None:
    expected = np.asarray(net.model(net.batch, training=False)[1])
    backbones.save_weights(net.model, tmp_path / "full.npz", dtype="float32")
    backbones.save_weights(net.model, tmp_path / "half.npz")
    other = backbones.build(net.name, (SIDE, SIDE, 3), OUTPUTS)
    assert [layer.name for layer in other.layers] == [layer.name for layer in net.model.layers]
    assert np.abs(np.asarray(other(net.batch, training=False)[1]) - expected).max() > 1e-3 * np.abs(expected).max()
    backbones.load_weights(other, tmp_path / "full.npz")
    np.testing.assert_allclose(np.asarray(other(net.batch, training=False)[1]), expected, rtol=1e-6)
    backbones.load_weights(other, tmp_path / "half.npz")
    # Held array by array: a network of random weights makes much of a rounding.
    for ours, theirs in zip(other.weights, net.model.weights, strict=True):
        rounded = np.asarray(theirs.value).astype(np.float16).astype(np.float32)
        np.testing.assert_array_equal(ours, np.where(np.isinf(rounded), theirs, rounded).astype(np.float32))
    assert (tmp_path / "half.npz").stat().st_size < 0.55 * (tmp_path / "full.npz").stat().st_size


def test_the_closed_form_is_grad_cam(net: Net) -> None:
    import tensorflow as tf  # noqa: PLC0415 - slow

    head = net.model.get_layer("logits")
    kernel = np.asarray(head.kernel)
    # Opposite labels: whatever the features, one of the two maps is not empty.
    kernel[:, 1] = -kernel[:, 0]
    head.kernel.assign(kernel)
    with tf.GradientTape(persistent=True) as tape:
        features, logits = net.model(tf.constant(net.batch), training=False)
        answers = [logits[:, label] for label in range(OUTPUTS)]
    gradients = np.stack([np.asarray(tape.gradient(answer, features))[0] for answer in answers])
    by_tape = gradient_maps(np.asarray(features)[0], gradients)
    closed = closed_form_maps(np.asarray(features)[0], kernel)
    assert closed.max() > 0
    assert np.abs(closed - by_tape).max() <= 1e-5 * closed.max()


@pytest.mark.parametrize("name", sorted(name for name in KNOWN if not name.startswith("efficientnet_lite")))
def test_preprocessing_is_that_of_keras(name: str) -> None:
    info = backbones.info(name)
    ramp = np.tile(np.arange(256, dtype=np.uint8), (64, 1))
    steps = [
        {"step": "window"},
        {"step": "invert"},
        {"step": "resize_pad", "rows": 64, "columns": 256},
        {"step": "channels"},
        {"step": "scale", "convention": info.convention},
    ]
    ours = apply(parse_steps(steps), grey_from_uint8(ramp)).array
    module = import_module(f"keras.applications.{PREPROCESS[info.family]}")
    theirs = module.preprocess_input(np.repeat(ramp[..., np.newaxis], 3, axis=2).astype(np.float32))
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= 1e-6 * np.ptp(theirs)


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("efficientnet_b0", -0.485 / 0.229, (1 - 0.485) / 0.229),
        ("efficientnet_v2_b0", -0.485 / 0.229, (1 - 0.485) / 0.229),
        ("efficientnet_v2_s", -1.0, 255 / 128 - 1),
        ("mobilenet_v3_small", -1.0, 1.0),
    ],
)
def test_what_is_rescaled_inside(name: str, low: float, high: float) -> None:
    import keras  # noqa: PLC0415 - slow

    model = backbones.build(name, (32, 32, 3), 1)
    inside = (keras.layers.Rescaling, keras.layers.Normalization)
    last = [layer for layer in model.layers if isinstance(layer, inside)][-1]
    rescaled = keras.Model(model.input, last.output)
    for grey, expected in ((0.0, low), (255.0, high)):
        assert float(rescaled(np.full((1, 32, 32, 3), grey, np.float32))[0, 0, 0, 0]) == pytest.approx(expected, 1e-5)


@pytest.mark.parametrize("name", CONVERTED)
def test_litert_gives_the_same(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RADNODE_MODEL_CACHE", str(tmp_path / "cache"))
    folder = bundles.hollow_bundle(tmp_path / "store" / "test-model")
    model = backbones.build(name, (SIDE, SIDE, 3), OUTPUTS)
    batch = images(SIDE, backbones.info(name).convention, count=2)
    enliven(model, batch, seed=3)
    backbones.save_weights(model, folder / "weights.npz")
    backbones.load_weights(model, folder / "weights.npz")
    manifest = bundles.document(folder)
    manifest["architecture"]["name"] = name
    manifest["preprocessing"][-1]["convention"] = backbones.info(name).convention
    bundle = load_bundle(bundles.write_manifest(folder, manifest))
    features, logits = (np.asarray(output) for output in model(batch, training=False))
    assert compiled(bundle).stat().st_size > 0
    got = LiteRtRunner(bundle, threads=2).run(batch)
    assert np.abs(got.logits - logits).max() < 1e-3 * max(1.0, np.abs(logits).max())
    assert np.abs(got.features - features).max() < 1e-3 * np.abs(features).max()
    assert got.logits.shape == (2, OUTPUTS)
