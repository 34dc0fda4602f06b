"""A series of slices read as one: a shared 2D network over the slices, and attention that says which of them count.

Gated attention pooling (Ilse, Tomczak, Welling, ICML 2018) over the slices' pooled features. A logit is then a sum over
all cells of all slices, each weighted by its slice's attention, so that the maps have the same closed form as a single
image's: relu(sum over channels of weight x feature) / cells, times the attention.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np
from keras import layers, ops

from models import backbones
from models.contracts import FloatArray
from models.explain import closed_form_maps

ATTENTION = "attention"
WIDTH = 64
"""Hidden units of the attention; some hundred series teach no wider one."""


class GatedAttention(layers.Layer):  # type: ignore[misc]  # Keras has no types
    """Weights of the slices, float32 (N, slices), that add up to 1."""

    def __init__(self, width: int = WIDTH, **options: Any) -> None:
        super().__init__(**options)
        self.width = width

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        channels = input_shape[-1]
        self.content = self.add_weight(name="content", shape=(channels, self.width), initializer="glorot_uniform")
        self.gate = self.add_weight(name="gate", shape=(channels, self.width), initializer="glorot_uniform")
        self.score = self.add_weight(name="score", shape=(self.width, 1), initializer="glorot_uniform")

    def call(self, pooled: Any) -> Any:
        """pooled: float32 (N, slices, channels)."""
        hidden = ops.tanh(ops.matmul(pooled, self.content)) * ops.sigmoid(ops.matmul(pooled, self.gate))
        return ops.softmax(ops.squeeze(ops.matmul(hidden, self.score), axis=-1), axis=-1)


def build_series(
    name: str,
    input_shape: tuple[int, int, int],
    slices: int,
    outputs: int,
    *,
    dropout: float,
    weights: Path | Literal["imagenet"] | None = None,
    sha256: str | None = None,
) -> keras.Model:
    """A model from float32 (N, slices, rows, columns, 3) to (features (N, slices, h, w, K), attention, logits).

    Its body's layers are those of `models.backbones.build`, under the same names. Raises as that does.
    """
    single = backbones.build(name, input_shape, outputs, dropout=dropout, weights=weights, sha256=sha256)
    body = keras.Model(single.inputs, single.outputs[0], name="body")
    series = layers.Input((slices, *input_shape), name="series")
    features = body(ops.reshape(series, (-1, *input_shape)))
    _, rows, columns, channels = features.shape
    features = ops.reshape(features, (-1, slices, rows, columns, channels))
    pooled = ops.mean(features, axis=(2, 3))
    attention = GatedAttention(name=ATTENTION, dtype="float32")(pooled)
    mean = ops.sum(pooled * ops.expand_dims(attention, -1), axis=1)
    mean = layers.Dropout(dropout, name="dropout")(mean)
    logits = layers.Dense(outputs, dtype="float32", name="logits")(mean)
    return keras.Model(series, [features, attention, logits], name=f"{name}_series")


def slice_maps(features: FloatArray, attention: FloatArray, head: FloatArray) -> FloatArray:
    """float32 (labels, slices, h, w), >= 0, in logit units per cell and comparable between the slices of a series.

    features: float32 (slices, h, w, channels). attention: float32 (slices,). head: float32 (channels, labels).
    """
    maps = [weight * closed_form_maps(one, head) for one, weight in zip(features, attention, strict=True)]
    return np.stack(maps, axis=1)


def evenly(count: int, slices: int) -> list[int]:
    """Which of ``count`` slices are read: evenly spread, ends included; some twice where there are too few."""
    return [round(place) for place in np.linspace(0, count - 1, slices)]
