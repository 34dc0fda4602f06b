"""Weight randomisation (Adebayo et al., NeurIPS 2018): a map that stays the same when the network forgets what it
learned shows the image, not the network. Imports TensorFlow when called.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from models import backbones, explain
from models.backbones.weights import weights_of
from models.contracts import FloatArray
from models.datasets.pixels import Images
from models.errors import RuntimeUnavailable
from models.evaluation.explanations import mean_of, on_input, shown_maps
from models.evaluation.judging import Judged, shown
from models.evaluation.similarity import rank_correlation, structural_similarity
from models.networks import network_of
from models.registry import Bundle
from models.runner import Runner, gradient_forward

DRAWN = (64, 64)
"""Grids of seven cells have no structure to compare; maps are, as people see them: drawn larger."""

_BATCH = 8


def weight_randomisation(
    bundle: Bundle, runner: Runner, data: Judged, images: Images, *, most: int, seed: int = 0
) -> dict[str, Any]:
    """Cascading: layer by layer from the logits down, each takes fresh weights of its own initial distribution and
    keeps them while the next ones follow; after each, the maps are compared with those of the trained network.

    A layer is a convolution or dense layer with its normalisation, whose statistics become those of the fresh weights
    on these images, as in a network that begins to be trained: with others all maps would soon be empty, and the test
    passed by any. correlation: Spearman's of the maps' cells; good
    maps fall to about 0. ssim: of the maps drawn on DRAWN, each scaled to its maximum; random maps on the same grid
    have what ``random_map`` says. flat: share of maps without any positive cell, which are like nothing (0) by rank.
    Of a series the maps are those that a report shows: of the slice that weighs most in the trained network.
    Raises RuntimeUnavailable where TensorFlow is not installed.
    """
    pairs = shown_maps(data, most, seed)
    if not pairs:
        return {}
    inputs = np.stack([shown(bundle, runner, data.samples[index], images)[1].input.array for index, _ in pairs])
    labels = [label for _, label in pairs]
    model, forward, layers = _networks(bundle, seed)
    trained = _maps(forward, inputs, labels)
    found = []
    settling = _Settling(model)
    for name, variables in layers:
        for variable, fresh in variables:
            variable.assign(fresh)
        settling.settle({variable.path.rpartition("/")[0] for variable, _ in variables}, inputs[:_BATCH])
        found.append({"layer": name, **_likeness(trained, _maps(forward, inputs, labels))})
    random = np.random.default_rng(seed)
    noise = [random.random(one.shape, dtype=np.float32) for one in trained]
    return {"images": len(pairs), "layers": found, "random_map": _likeness(trained, noise)}


Layer = tuple[str, list[tuple[Any, Any]]]
"""Its name, and the trained network's variables with fresh values for each."""


class _Settling:
    """Statistics of a network's batch normalisations: all stay as they are, until they are to follow the images."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._norms = {layer.name: layer for layer in model.layers if hasattr(layer, "moving_variance")}
        for layer in self._norms.values():
            # Keras runs a frozen normalisation in inference mode also where the rest is being trained.
            layer.trainable = False

    def settle(self, names: set[str], images: FloatArray) -> None:
        """Those named, and those of before, take the statistics of ``images``, float32 (n, rows, columns, channels)."""
        fresh = [layer for name, layer in self._norms.items() if name in names]
        for layer in fresh:
            layer.trainable, layer.momentum = True, 0.0
        if fresh:
            self._model(images, training=True)


def _networks(bundle: Bundle, seed: int) -> tuple[Any, Any, list[Layer]]:
    """The trained network, the same as a function, and its layers from the logits down."""
    try:
        import keras  # noqa: PLC0415 - run-time only
        import tensorflow as tf  # noqa: PLC0415 - run-time only
    except ImportError as error:
        raise RuntimeUnavailable(
            "weight randomisation needs TensorFlow; install radnode[cpu] or radnode[gpu]"
        ) from error
    architecture = bundle.manifest.architecture
    keras.utils.set_random_seed(seed)
    fresh = backbones.build(architecture.name, architecture.input_shape, architecture.outputs)
    model = network_of(bundle)
    return model, gradient_forward(tf, model), _from_the_head_down(weights_of(model), weights_of(fresh))


def _from_the_head_down(trained: Mapping[str, Any], fresh: Mapping[str, Any]) -> list[Layer]:
    found: list[Layer] = []
    waiting: list[tuple[Any, Any]] = []
    for name, paths in reversed(_by_layer(trained)):
        waiting += [(trained[path], np.asarray(fresh[path].value)) for path in paths]
        # A normalisation goes with the layer whose output it scales, which stands below it.
        if any("kernel" in path.rpartition("/")[2] for path in paths):
            found.append((name, waiting))
            waiting = []
    return [*found, ("the rest", waiting)] if waiting else found


def _by_layer(weights: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    layers: dict[str, list[str]] = {}
    for path in weights:
        layers.setdefault(path.rpartition("/")[0], []).append(path)
    return list(layers.items())


def _likeness(trained: Sequence[FloatArray], others: Sequence[FloatArray]) -> dict[str, Any]:
    pairs = list(zip(trained, others, strict=True))
    return {
        "correlation": mean_of([rank_correlation(one, other) for one, other in pairs]),
        "ssim": mean_of([structural_similarity(_drawn(one), _drawn(other)) for one, other in pairs]),
        "flat": mean_of([float(other.max() <= 0) for other in others]),
    }


def _drawn(grid: FloatArray) -> FloatArray:
    top = float(grid.max())
    scaled = grid / top if top > 0 else np.zeros_like(grid)
    return np.clip(on_input(scaled, DRAWN), 0, 1)


def _maps(forward: Any, inputs: FloatArray, labels: Sequence[int]) -> list[FloatArray]:
    found = []
    for start in range(0, len(inputs), _BATCH):
        features, _, gradients = (part.numpy() for part in forward(inputs[start : start + _BATCH]))
        for index, label in enumerate(labels[start : start + _BATCH]):
            # Fresh weights may let numbers grow beyond bounds; such a map is like nothing, and no error.
            maps = explain.gradient_maps(features[index], gradients[index])[label]
            found.append(np.nan_to_num(maps, nan=0, posinf=0, neginf=0))
    return found
