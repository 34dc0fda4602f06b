"""The two phases of transfer learning."""

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
from models.evaluation.metrics import auroc
from models.training.batches import Augmenter, draw_probabilities
from models.training.config import TrainingConfig

log = structlog.get_logger(__name__)
HEAD = "logits"
_PREDICT_BATCH = 64


@dataclass(frozen=True)
class Examples:
    """images: float16 (n, rows, columns), grey in [0, 1]. labels: float32 (n,), 0 or 1. sources: str (n,)."""

    images: NDArray[np.float16]
    labels: FloatArray
    sources: NDArray[np.str_]


@dataclass
class History:
    """What happened, epoch by epoch: validation AUROC per source, their mean ("score"), loss and seconds."""

    epochs: list[dict[str, float]] = field(default_factory=list)
    kept_epoch: int = -1


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


def train(network: Network, training: Examples, validation: Examples, config: TrainingConfig) -> History:
    """Train in place; on return the model holds averaged weights (see ``TrainingConfig.keep``).

    An epoch's score is the mean over sources of the validation AUROC: a gain on the larger source cannot hide a loss on
    the smaller.
    """
    tf.keras.utils.set_random_seed(config.seed)
    for layer in network.model.layers:
        # Frozen statistics: batches here are too small and too mixed to estimate better ones than ImageNet's.
        if isinstance(layer, tf.keras.layers.BatchNormalization):
            layer.trainable = False
    _fit_head(network, training, config)
    return _fine_tune(network, training, validation, config)


def set_mean_weights(target: Any, models: Sequence[Any]) -> None:
    """Give ``target`` the mean of all models' weights (Wortsman et al., ICML 2022).

    Works only for models that were fine-tuned from one start and stayed in one valley: judge the result before use.
    """
    for held, *variables in zip(target.weights, *(model.weights for model in models), strict=True):
        if np.issubdtype(np.dtype(held.dtype), np.floating):
            held.assign(np.mean([variable.numpy() for variable in variables], axis=0))


def mean_auroc(network: Network, validation: Examples) -> float:
    """Mean over sources of the AUROC of the first output."""
    return float(np.mean(list(_auroc_per_source(network, validation).values())))


def _auroc_per_source(network: Network, validation: Examples) -> dict[str, float]:
    logits = network.logits(validation.images)[:, 0]
    found = {}
    for source in np.unique(validation.sources):
        here = validation.sources == source
        found[f"auroc_{source}"] = auroc(validation.labels[here], logits[here])
    return found


def _fit_head(network: Network, training: Examples, config: TrainingConfig) -> None:
    """Logistic regression on pooled features; fine-tuning from a random head would tear the body apart first."""
    pooled = network.pooled(training.images)
    head = tf.keras.Sequential([tf.keras.layers.Input((pooled.shape[1],)), tf.keras.layers.Dense(1)])
    head.compile(
        tf.keras.optimizers.Adam(config.head_learning_rate), tf.keras.losses.BinaryCrossentropy(from_logits=True)
    )
    weights = draw_probabilities(training.sources, training.labels, config.source_power) * len(pooled)
    head.fit(pooled, training.labels, sample_weight=weights, batch_size=128, epochs=config.head_epochs, verbose=0)
    network.model.get_layer(HEAD).set_weights(head.get_weights())


def _fine_tune(network: Network, training: Examples, validation: Examples, config: TrainingConfig) -> History:
    variables = network.model.trainable_variables
    optimizer = tf.keras.optimizers.AdamW(config.learning_rate, weight_decay=config.weight_decay, global_clipnorm=1.0)
    optimizer.build(variables)
    step = _train_step(network, optimizer, config)
    chance = draw_probabilities(training.sources, training.labels, config.source_power)
    random = np.random.default_rng(config.seed)
    steps = math.ceil(len(training.images) / config.batch_size)
    average = [variable.numpy() for variable in variables]
    kept, best_score, history, done = average, -math.inf, History(), 0
    for epoch in range(config.epochs):
        started, losses = time.monotonic(), []
        for _ in range(steps):
            optimizer.learning_rate.assign(learning_rate(done, steps * config.epochs, config))
            chosen = random.choice(len(chance), config.batch_size, p=chance)
            planes = tf.constant(training.images[chosen][..., np.newaxis].astype(np.float32))
            losses.append(float(step(planes, tf.constant(training.labels[chosen][:, np.newaxis]))))
            done += 1
            _follow(average, variables, config.ema_decay, done)
        figures = _judge(network, average, validation)
        figures |= {"loss": float(np.mean(losses)), "seconds": time.monotonic() - started}
        history.epochs.append(figures)
        log.info("epoch", number=epoch, **{key: round(value, 4) for key, value in figures.items()})
        if config.keep == "last" or figures["score"] > best_score:
            best_score, history.kept_epoch = figures["score"], epoch
            kept = [value.copy() for value in average]
    _assign(variables, kept)
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


def _judge(network: Network, average: list[Any], validation: Examples) -> dict[str, float]:
    variables = network.model.trainable_variables
    live = [variable.numpy() for variable in variables]
    _assign(variables, average)
    figures = _auroc_per_source(network, validation)
    _assign(variables, live)
    return {**figures, "score": float(np.mean(list(figures.values())))}


def _assign(variables: Sequence[Any], values: Sequence[Any]) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
