from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from models.contracts import Placement
from models.explain import closed_form_maps, explanation, gradient_maps
from models.runner import gradient_forward, linear_forward


def random_head() -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(11)
    return draw.normal(size=(7, 5, 16)).astype(np.float32), draw.normal(size=(16, 3)).astype(np.float32)


def test_for_a_pooled_linear_head_the_closed_form_is_the_gradient_form() -> None:
    features, head = random_head()
    gradients = np.broadcast_to(head.T[:, np.newaxis, np.newaxis] / 35, (3, 7, 5, 16)).astype(np.float32)
    np.testing.assert_allclose(closed_form_maps(features, head), gradient_maps(features, gradients), atol=1e-5)


def test_cells_of_an_all_positive_map_add_up_to_the_logit() -> None:
    features, head = (np.abs(part) for part in random_head())
    logits = features.mean(axis=(0, 1)) @ head
    np.testing.assert_allclose(closed_form_maps(features, head).sum(axis=(1, 2)), logits, rtol=1e-5)


def test_a_map_is_scaled_to_one_and_keeps_its_peak() -> None:
    place = Placement((10, 10), (0, 0, 10, 10), (0, 0, 10, 10), (10, 10))
    made = explanation("pneumonia", np.array([[0.5, 2.0]], np.float32), place)
    assert made.peak == 2.0
    np.testing.assert_array_equal(made.grid, np.array([[0.25, 1.0]], np.float32))
    empty = explanation("pneumonia", np.zeros((2, 2), np.float32), place)
    assert empty.peak == 0
    assert not empty.grid.any()


def test_what_the_listener_and_the_writers_import_loads_no_runtime() -> None:
    code = (
        "import sys, models.contracts, models.manifest, models.registry, models.admission, models.reading, models.cli\n"
        "assert not {'tensorflow', 'keras', 'ai_edge_litert'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.tensorflow
@pytest.mark.parametrize("hidden", [0, 8], ids=["linear head", "two-layer head"])
def test_maps_are_those_of_a_gradient_tape_over_the_whole_network(hidden: int) -> None:
    keras = pytest.importorskip("keras")
    tf = pytest.importorskip("tensorflow")
    layers = keras.layers

    keras.utils.set_random_seed(5)
    image = layers.Input((32, 32, 3))
    features = layers.Conv2D(12, 3, 4, "same", activation="relu")(image)
    pooled = layers.GlobalAveragePooling2D()(features)
    if hidden:
        pooled = layers.Dense(hidden, activation="tanh")(pooled)
    model = keras.Model(image, [features, layers.Dense(3)(pooled)])
    batch = np.random.default_rng(2).normal(size=(2, 32, 32, 3)).astype(np.float32)

    expected = []
    for label in range(3):
        with tf.GradientTape() as tape:
            found, logits = model(batch, training=False)
            score = logits[:, label]
        weights = tf.reduce_mean(tape.gradient(score, found), axis=(1, 2), keepdims=True)
        expected.append(tf.nn.relu(tf.reduce_sum(weights * found, axis=-1)).numpy())

    found, logits, gradients = (part.numpy() for part in gradient_forward(tf, model)(batch))
    np.testing.assert_allclose(logits, linear_forward(tf, model)(batch)[1].numpy(), atol=1e-5)
    for i in range(2):
        wanted = np.stack([one[i] for one in expected])
        np.testing.assert_allclose(gradient_maps(found[i], gradients[i]), wanted, atol=1e-5)
        if not hidden:
            head = model.layers[-1].kernel.numpy()
            np.testing.assert_allclose(closed_form_maps(found[i], head), wanted, atol=1e-5)
