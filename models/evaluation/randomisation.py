"""Weight randomisation (Adebayo 2018): a map that stays the same when the network forgets what it learned shows the
image, not the network. Imports TensorFlow when called.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from models import backbones, explain
from models.backbones.weights import weights_of
from models.contracts import FloatArray
from models.datasets.pixels import Images
from models.errors import RuntimeUnavailable
from models.evaluation.explanations import mean_of, rank_correlation, shown_maps
from models.evaluation.judging import Judged, image_of
from models.preprocess import apply
from models.registry import Bundle
from models.runner import gradient_forward

STAGES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""How much of the body is shuffled, from its end; at 0 the head alone is."""


def weight_randomisation(bundle: Bundle, data: Judged, images: Images, *, most: int, seed: int = 0) -> dict[str, Any]:
    """Rank correlation of maps with those of the trained network while its layers are shuffled from the head down.

    Each array's values are permuted, which destroys what was learned and keeps their distribution, so that the network
    stays alive. Good maps fall to about 0. Raises RuntimeUnavailable where TensorFlow is not installed.
    """
    pairs = shown_maps(data, most, seed)
    if not pairs:
        return {}
    steps = bundle.manifest.preprocessing
    inputs = np.stack([apply(steps, image_of(data.samples[index], images)).array for index, _ in pairs])
    labels = [label for _, label in pairs]
    architecture = bundle.manifest.architecture
    forward_of = gradient_forward(
        _tensorflow(), model := backbones.build(architecture.name, architecture.input_shape, architecture.outputs)
    )
    backbones.load_weights(model, bundle.weights)
    trained = _maps(forward_of, inputs, labels)
    random = np.random.default_rng(seed)
    layers = _from_the_head_down(model)
    body, found, done = len(layers) - 1, [], 0
    for stage in STAGES:
        upto = 1 + round(stage * body)
        for variables in layers[done:upto]:
            for variable in variables:
                variable.assign(_shuffled(np.asarray(variable.value), random))
        done = upto
        now = _maps(forward_of, inputs, labels)
        values = [rank_correlation(one, other) for one, other in zip(trained, now, strict=True)]
        found.append({"layers": upto, "of": len(layers), "correlation": mean_of(values)})
    return {"images": len(pairs), "stages": found}


def _tensorflow() -> Any:
    try:
        import tensorflow as tf  # noqa: PLC0415 - run-time only
    except ImportError as error:
        raise RuntimeUnavailable(
            "weight randomisation needs TensorFlow; install radnode[cpu] or radnode[gpu]"
        ) from error
    return tf


def _from_the_head_down(model: Any) -> list[list[Any]]:
    layers: dict[str, list[Any]] = {}
    for path, variable in weights_of(model).items():
        layers.setdefault(path.rpartition("/")[0], []).append(variable)
    return list(reversed(layers.values()))


def _shuffled(values: NDArray[Any], random: np.random.Generator) -> NDArray[Any]:
    return random.permutation(values.ravel()).reshape(values.shape)


def _maps(forward: Any, inputs: FloatArray, labels: list[int]) -> list[FloatArray]:
    found = []
    for one, label in zip(inputs, labels, strict=True):
        features, _, gradients = (part.numpy() for part in forward(one[np.newaxis]))
        found.append(explain.gradient_maps(features[0], gradients[0])[label])
    return found
