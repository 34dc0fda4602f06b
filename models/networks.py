"""A bundle's network in Keras. Imports Keras when called."""

from __future__ import annotations

from typing import Any

from models import backbones
from models.registry import Bundle
from models.series import ATTENTION


def network_of(bundle: Bundle) -> Any:
    """The network of single images, float32 (N, rows, columns, channels) to [features (N, h, w, K), logits].

    For a bundle of series it is what looks at each slice; the attention that pools them is `models.series`'.
    Raises BundleError where the weights do not fit the architecture.
    """
    architecture = bundle.manifest.architecture
    model = backbones.build(architecture.name, architecture.input_shape, architecture.outputs)
    apart = None if architecture.slices is None else f"{ATTENTION}/"
    backbones.load_weights(model, bundle.weights, apart=apart)
    return model
