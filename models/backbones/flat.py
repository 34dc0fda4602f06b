"""A network of ``keras.applications`` made flat, with names that stay, and with the head all backbones share.

Keras numbers layers without a name through the life of the process (``activation_17``), so that the same network built
twice has other names; the copy made here counts from zero. Weights and training recipes go by these names.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import keras
from keras import layers

from models.backbones.catalogue import Family

HEAD = "logits"
_POOLING = (
    layers.AveragePooling2D,
    layers.GlobalAveragePooling2D,
    layers.GlobalMaxPooling2D,
    layers.MaxPooling2D,
)


def build(family: Family, name: str, input_shape: tuple[int, int, int], outputs: int, dropout: float) -> keras.Model:
    """The network with its head; outputs (feature map, logits), weights random."""
    source = application(family, name, input_shape, weights=None)
    image = layers.Input(input_shape, name="image")
    names = stable_names(source)

    def copied(layer: Any) -> Any:
        if not isinstance(layer, layers.Layer):
            return layer  # plain arithmetic between layers, which has no weights
        replacement = family.substitute(layer, names[layer.name]) if family.substitute else None
        return replacement or type(layer).from_config({**layer.get_config(), "name": names[layer.name]})

    body = keras.models.clone_model(source, input_tensors=image, clone_function=copied)
    return with_head(image, last_map(body), outputs, dropout, name)


def application(family: Family, name: str, input_shape: tuple[int, int, int], weights: str | None) -> keras.Model:
    """Keras's own network without its top."""
    make = getattr(keras.applications, family.variants[name].application)
    return make(include_top=False, weights=weights, input_shape=input_shape)


def with_head(image: Any, features: Any, outputs: int, dropout: float, name: str) -> keras.Model:
    """Global average pooling, dropout and one linear layer, all float32 whatever the body computes in."""
    if keras.backend.standardize_dtype(features.dtype) != "float32":
        features = layers.Identity(dtype="float32", name="features")(features)
    pooled = layers.GlobalAveragePooling2D(dtype="float32", name="pool")(features)
    pooled = layers.Dropout(dropout, dtype="float32", name="dropout")(pooled)
    logits = layers.Dense(outputs, dtype="float32", name=HEAD)(pooled)
    return keras.Model(image, [features, logits], name=name)


def last_map(body: keras.Model) -> Any:
    """The last tensor (N, h, w, K) that no pooling has made. Layers are in the order of the graph."""
    return next(
        layer.output
        for layer in reversed(body.layers)
        if len(layer.output.shape) == 4 and not isinstance(layer, _POOLING)
    )


def stable_names(model: keras.Model) -> dict[str, str]:
    """Name of a layer to the name it has in every copy: its own, or for one that Keras numbered a count from zero."""
    counts: Counter[str] = Counter()
    names: dict[str, str] = {}
    for layer in model.layers:
        base = re.sub(r"_\d+$", "", layer.name)
        if base.replace("_", "") != type(layer).__name__.lower():
            names[layer.name] = layer.name
            continue
        names[layer.name] = f"{base}_{counts[base]}" if counts[base] else base
        counts[base] += 1
    return names
