"""Transfer learning: head, upper blocks, head again."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import structlog
import tensorflow as tf
from numpy.typing import NDArray

from models.contracts import FloatArray
from models.datasets.images import Tail
from models.training.batches import Augmenter, draw_probabilities
from models.training.config import TrainingConfig
from models.training.head import fit_head

log = structlog.get_logger(__name__)
HEAD = "logits"
_PREDICT_BATCH = 64


@dataclass(frozen=True)
class Examples:
    """images: float16 (n, rows, columns), grey in [0, 1]. labels: float32 (n,), 0 or 1. sources: str (n,)."""

    images: NDArray[np.float16]
    labels: FloatArray
    sources: NDArray[np.str_]

    def take(self, chosen: Sequence[int]) -> Examples:
        """The examples at these indices."""
        index = np.asarray(chosen, dtype=np.intp)
        return Examples(self.images[index], self.labels[index], self.sources[index])


@dataclass
class History:
    """Loss and seconds, epoch by epoch."""

    epochs: list[dict[str, float]] = field(default_factory=list)


class Network:
    """A backbone of :mod:`models.backbones` with the part of the preprocessing that follows augmentation."""

    def __init__(self, model: Any, tail: Tail) -> None:
        self.model = model
        self._multiply, self._add = tf.constant(tail.multiply), tf.constant(tail.add)
        self._infer = tf.function(lambda planes: model(self.to_input(planes), training=False), reduce_retracing=True)

    def to_input(self, planes: Any) -> Any:
        """Grey planes (n, rows, columns, 1) in [0, 1] to (n, rows, columns, channels) in the backbone's range."""
        return planes * self._multiply + self._add

    def logits(self, images: NDArray[np.float16]) -> FloatArray:
        """float32 (n, outputs) of grey planes (n, rows, columns)."""
        return np.concatenate([logits.numpy() for _, logits in self._run(images)])

    def pooled(self, images: NDArray[np.float16]) -> FloatArray:
        """Mean of the feature map, float32 (n, channels)."""
        return np.concatenate([features.numpy().mean(axis=(1, 2)) for features, _ in self._run(images)])

    def _run(self, images: NDArray[np.float16]) -> Any:
        for start in range(0, len(images), _PREDICT_BATCH):
            planes = images[start : start + _PREDICT_BATCH, ..., np.newaxis].astype(np.float32)
            yield self._infer(tf.constant(planes))


def train(network: Network, training: Examples, config: TrainingConfig) -> History:
    """Train in place; on return the model holds averaged weights and a head fitted to them.

    The number of epochs is fixed, and nothing is stopped or chosen by how it does on other images: how many epochs, and
    at what rate, is for cross-validation to say.
    """
    tf.keras.utils.set_random_seed(config.seed)
    _freeze(network.model, config.frozen_through)
    refit_head(network, training, config)
    history = _fine_tune(network, training, config)
    refit_head(network, training, config)
    return history


def refit_head(network: Network, training: Examples, config: TrainingConfig) -> None:
    """Fit the linear layer to the body as it is, on the images without augmentation.

    Before fine-tuning: from a random head the first steps would tear the body apart. After it: the head that grew along
    with the body is fitted to few images more closely than a penalised one.
    """
    pooled = network.pooled(training.images)
    fitted = fit_head(pooled, training.labels, head_weights(training, config), config.head_penalty)
    network.model.get_layer(HEAD).set_weights(fitted)


def head_weights(training: Examples, config: TrainingConfig) -> NDArray[np.float64]:
    """(n,) with mean 1: the head weighs images as often as fine-tuning draws them."""
    return draw_probabilities(training.sources, training.labels, config.source_power) * len(training.images)


def set_mean_weights(target: Any, models: Sequence[Any]) -> None:
    """Give ``target`` the mean of all models' weights (Wortsman et al., ICML 2022).

    Works only for models that were fine-tuned from one start and stayed in one valley: judge the result before use.
    """
    for held, *variables in zip(target.weights, *(model.weights for model in models), strict=True):
        if np.issubdtype(np.dtype(held.dtype), np.floating):
            held.assign(np.mean([variable.numpy() for variable in variables], axis=0))


def _freeze(model: Any, through: str) -> None:
    """Raises ValueError (from Keras) for a layer the model has not."""
    last = model.layers.index(model.get_layer(through)) if through else -1
    for index, layer in enumerate(model.layers):
        # Frozen statistics: batches here are too small and too mixed to estimate better ones than ImageNet's.
        if index <= last or isinstance(layer, tf.keras.layers.BatchNormalization):
            layer.trainable = False


def _fine_tune(network: Network, training: Examples, config: TrainingConfig) -> History:
    variables = network.model.trainable_variables
    optimizer = tf.keras.optimizers.AdamW(config.learning_rate, weight_decay=config.weight_decay, global_clipnorm=1.0)
    optimizer.build(variables)
    step = _train_step(network, optimizer, config)
    chance = draw_probabilities(training.sources, training.labels, config.source_power)
    random = np.random.default_rng(config.seed)
    steps = math.ceil(len(training.images) / config.batch_size)
    average = [variable.numpy() for variable in variables]
    history, done = History(), 0
    for epoch in range(config.epochs):
        started, losses = time.monotonic(), []
        for _ in range(steps):
            optimizer.learning_rate.assign(learning_rate(done, steps * config.epochs, config))
            chosen = random.choice(len(chance), config.batch_size, p=chance)
            planes = tf.constant(training.images[chosen][..., np.newaxis].astype(np.float32))
            losses.append(float(step(planes, tf.constant(training.labels[chosen][:, np.newaxis]))))
            done += 1
            _follow(average, variables, config.ema_decay, done)
        figures = {"loss": round(float(np.mean(losses)), 4), "seconds": round(time.monotonic() - started, 1)}
        history.epochs.append(figures)
        log.info("epoch", number=epoch, **figures)
    for variable, value in zip(variables, average, strict=True):
        variable.assign(value)
    return history


def _train_step(network: Network, optimizer: Any, config: TrainingConfig) -> Any:
    augment = Augmenter(config)
    loss_of = tf.keras.losses.BinaryCrossentropy(from_logits=True, label_smoothing=config.label_smoothing)
    model = network.model

    @tf.function  # type: ignore[untyped-decorator]
    def step(planes: Any, labels: Any) -> Any:
        images = network.to_input(augment(planes))
        with tf.GradientTape() as tape:
            _, logits = model(images, training=True)
            loss = loss_of(labels, logits)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return loss

    return step


def learning_rate(done: int, total: int, config: TrainingConfig) -> float:
    """Linear warm-up over ``config.warmup_steps``, then a cosine that reaches zero at ``total`` steps."""
    warmup = min(config.warmup_steps, total // 2)
    if done < warmup:
        return config.learning_rate * (done + 1) / warmup
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * (done - warmup) / (total - warmup)))


def _follow(average: list[Any], variables: Sequence[Any], decay: float, done: int) -> None:
    """Move the running average; early on it follows closely, so that the start is soon forgotten."""
    decay = min(decay, (1 + done) / (10 + done))
    for index, variable in enumerate(variables):
        average[index] += (1 - decay) * (variable.numpy() - average[index])
