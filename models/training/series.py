"""The network of a series while it is trained: one 2D network over all slices, and attention that pools them.

What :mod:`models.series` serves slice by slice, whole and differentiable. The arrays of both have the same names.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import keras
from keras import layers, ops

from models import backbones
from models.series import ATTENTION

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
