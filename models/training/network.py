"""The network of a plan while it is trained: built, partly frozen, and run over planes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from models import backbones
from models.contracts import FloatArray
from models.datasets.images import Tail
from models.datasets.planes import Planes
from models.errors import DatasetError
from models.series import ATTENTION, evenly
from models.training.plan import Network as NetworkPlan
from models.training.plan import Plan, StartWeights
from models.training.series import build_series

HEAD = frozenset({"pool", "dropout", "logits", ATTENTION})
_PREDICT_BATCH = 32

Batch = Callable[[NDArray[np.integer]], FloatArray]
"""Indices (n,) to planes float32 (n, rows, columns, slices) in [0, 1]; slices is 1 for single images."""


def build(plan: Plan, weights_folder: Path) -> keras.Model:
    """A fresh network; its last output is the logits. Raises as `models.backbones.build`."""
    side, outputs = plan.input.side, len(plan.bundle.labels)
    weights, sha256 = start_weights(plan.network, weights_folder)
    if plan.input.slices:
        return build_series(
            plan.network.backbone,
            (side, side, 3),
            plan.input.slices,
            outputs,
            dropout=plan.network.dropout,
            weights=weights,
            sha256=sha256,
        )
    model: keras.Model = backbones.build(
        plan.network.backbone,
        (side, side, 3),
        outputs,
        dropout=plan.network.dropout,
        weights=weights,
        sha256=sha256,
    )
    return model


def start_weights(network: NetworkPlan, folder: Path) -> tuple[Path | Literal["imagenet"] | None, str | None]:
    """What `models.backbones.build` takes as ``weights`` and ``sha256``."""
    if isinstance(network.weights, StartWeights):
        return folder / network.weights.path, network.weights.sha256
    return ("imagenet" if network.weights == "imagenet" else None), None


class Trained:
    """A model with the part of the preprocessing that follows augmentation."""

    def __init__(self, model: keras.Model, tail: Tail, slices: int) -> None:
        self.model, self.slices = model, slices
        self._multiply, self._add = tf.constant(tail.multiply), tf.constant(tail.add)
        self._stretch = None if tail.stretch is None else tuple(map(tf.constant, tail.stretch))
        self._infer = tf.function(self._outputs, reduce_retracing=True)

    def logits(self, planes: Any, *, training: bool) -> Any:
        """float32 (n, labels) of planes (n, rows, columns, slices) in [0, 1]."""
        return self.model(self._to_input(planes), training=training)[-1]

    def predict(self, batch: Batch, count: int) -> tuple[FloatArray, FloatArray]:
        """Logits float32 (count, labels) and pooled features float32 (count, channels) of samples 0 to count - 1."""
        parts = [self._infer(tf.constant(batch(indices))) for indices in _chunks(count)]
        logits, features = zip(*((one.numpy(), other.numpy()) for one, other in parts), strict=True)
        return np.concatenate(logits), np.concatenate(features)

    def freeze(self, unfreeze_from: str | float | None, *, train_batch_norm: bool) -> list[Any]:
        """Freeze all below a layer (its name, or a share of the depth; None: the whole body); the rest is trained.

        Returns the variables that training changes, statistics of batch norm among them. Raises DatasetError for a
        layer that the network does not have.
        """
        body = self.body_layers()
        first = _first_trained(body, unfreeze_from)
        changing: list[Any] = []
        for index, layer in enumerate(body):
            frozen_norm = isinstance(layer, keras.layers.BatchNormalization) and not train_batch_norm
            layer.trainable = index >= first and not frozen_norm
            changing += layer.variables if layer.trainable else []
        for layer in self.model.layers:
            if layer.name in HEAD:
                layer.trainable = True
                changing += layer.variables
        return [variable for variable in changing if "seed" not in variable.path]

    def body_layers(self) -> list[Any]:
        """Layers of the backbone in the order of its graph."""
        source = self.model.get_layer("body") if self.slices else self.model
        return [layer for layer in source.layers if layer.name not in HEAD]

    def _outputs(self, planes: Any) -> tuple[Any, Any]:
        features, *_, logits = self.model(self._to_input(planes), training=False)
        return logits, tf.reduce_mean(features, axis=range(1, len(features.shape) - 1))

    def _to_input(self, planes: Any) -> Any:
        grey = tf.transpose(planes, (0, 3, 1, 2))[..., tf.newaxis] if self.slices else planes
        if self._stretch is not None:
            grey = tf.clip_by_value(grey * self._stretch[0] + self._stretch[1], 0.0, 1.0)
        return grey * self._multiply + self._add


def batches_of(planes: Planes, slices: int) -> Batch:
    """How planes are read, single images or series."""
    if not slices:
        return lambda indices: planes.batch(indices)[..., np.newaxis]

    def read(indices: NDArray[np.integer]) -> FloatArray:
        stacks = [planes.stack(int(index)) for index in indices]
        return np.stack([np.moveaxis(stack[evenly(len(stack), slices)], 0, -1) for stack in stacks])

    return read


def _first_trained(body: Sequence[Any], unfreeze_from: str | float | None) -> int:
    if unfreeze_from is None:
        return len(body)
    if not isinstance(unfreeze_from, str):
        return round(len(body) * unfreeze_from)
    names = [layer.name for layer in body]
    if unfreeze_from not in names:
        raise DatasetError(f"the network has no layer {unfreeze_from!r} to unfreeze from; its last is {names[-1]!r}")
    return names.index(unfreeze_from)


def _chunks(count: int) -> Iterator[NDArray[np.int64]]:
    for start in range(0, count, _PREDICT_BATCH):
        yield np.arange(start, min(start + _PREDICT_BATCH, count))
