"""The two phases of transfer learning, and the choice of the best epoch by validation."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import structlog
import tensorflow as tf
from numpy.typing import NDArray

from models.evaluation.metrics import auroc
from models.training.batches import Augmenter, draw_probabilities
from models.training.config import TrainingConfig

log = structlog.get_logger(__name__)
HEAD = "logits"


@dataclass(frozen=True)
class Examples:
    """images: float16 (n, rows, columns), grey in [0, 1]. labels: float32 (n,). sources: str (n,)."""

    images: NDArray[np.float16]
    labels: NDArray[np.float32]
    sources: NDArray[np.str_]


@dataclass
class History:
    """What happened, epoch by epoch."""

    epochs: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = -1
    best_score: float = -math.inf


ToInput = Callable[[Any], Any]
"""Grey planes (N, rows, columns, 1) in [0, 1] to the backbone's input (N, rows, columns, 3)."""


def train(
    model: Any, to_input: ToInput, training: Examples, validation: Examples, config: TrainingConfig
) -> History:
    """Train in place; on return the model holds the averaged weights of the best epoch.

    The score is the mean over sources of the validation AUROC: a gain on the larger source cannot hide a loss on
    the smaller.
    """
    tf.keras.utils.set_random_seed(config.seed)
    for layer in model.layers:
        # Frozen statistics: batches here are too small and too mixed to estimate better ones than ImageNet's.
        if isinstance(layer, tf.keras.layers.BatchNormalization):
            layer.trainable = False
    _fit_head(model, to_input, training, config)
    return _fine_tune(model, to_input, training, validation, config)


def predict(model: Any, to_input: ToInput, images: NDArray[np.float16], batch: int = 64) -> NDArray[np.float32]:
    """Logits, float32 (n, outputs)."""
    return np.concatenate([_forward(model, to_input, images[i : i + batch])[1] for i in range(0, len(images), batch)])


def _forward(model: Any, to_input: ToInput, images: NDArray[np.float16]) -> tuple[Any, Any]:
    planes = tf.constant(images[..., None].astype(np.float32))
    features, logits = _infer(model)(to_input(planes))
    return features.numpy(), logits.numpy()


_COMPILED: dict[int, Any] = {}


def _infer(model: Any) -> Any:
    if id(model) not in _COMPILED:
        _COMPILED[id(model)] = tf.function(lambda x: model(x, training=False), reduce_retracing=True)
    return _COMPILED[id(model)]


def _fit_head(model: Any, to_input: ToInput, training: Examples, config: TrainingConfig) -> None:
    """Logistic regression on pooled features; fine-tuning from a random head would tear the body apart first."""
    pooled = np.concatenate(
        [
            _forward(model, to_input, training.images[i : i + 64])[0].mean(axis=(1, 2))
            for i in range(0, len(training.images), 64)
        ]
    )
    head = tf.keras.Sequential([tf.keras.layers.Input((pooled.shape[1],)), tf.keras.layers.Dense(1)])
    head.compile(
        tf.keras.optimizers.Adam(config.head_learning_rate), tf.keras.losses.BinaryCrossentropy(from_logits=True)
    )
    weights = draw_probabilities(training.sources, training.labels, config.source_power) * len(pooled)
    head.fit(pooled, training.labels, sample_weight=weights, batch_size=128, epochs=config.head_epochs, verbose=0)
    model.get_layer(HEAD).set_weights(head.get_weights())


def _fine_tune(
    model: Any, to_input: ToInput, training: Examples, validation: Examples, config: TrainingConfig
) -> History:
    steps = math.ceil(len(training.images) / config.batch_size)
    total = steps * config.epochs
    optimizer = tf.keras.optimizers.AdamW(config.learning_rate, weight_decay=config.weight_decay, global_clipnorm=1.0)
    optimizer.build(model.trainable_variables)
    step = _train_step(model, to_input, optimizer, config)
    chance = draw_probabilities(training.sources, training.labels, config.source_power)
    random = np.random.default_rng(config.seed)
    average = [v.numpy() for v in model.trainable_variables]
    best, history, done = average, History(), 0
    for epoch in range(config.epochs):
        started, losses = time.monotonic(), []
        for _ in range(steps):
            optimizer.learning_rate.assign(_rate(done, total, config))
            chosen = random.choice(len(chance), config.batch_size, p=chance)
            planes = tf.constant(training.images[chosen][..., None].astype(np.float32))
            losses.append(float(step(planes, tf.constant(training.labels[chosen][:, None]))))
            done += 1
            decay = min(config.ema_decay, (1 + done) / (10 + done))
            for held, variable in zip(average, model.trainable_variables, strict=True):
                held *= decay
                held += (1 - decay) * variable.numpy()
        figures = _judge(model, to_input, average, validation)
        figures |= {"loss": float(np.mean(losses)), "seconds": time.monotonic() - started}
        history.epochs.append(figures)
        log.info("epoch", number=epoch, **{k: round(v, 4) for k, v in figures.items()})
        if figures["score"] > history.best_score:
            history.best_score, history.best_epoch = figures["score"], epoch
            best = [value.copy() for value in average]
    _assign(model, best)
    return history


def _train_step(model: Any, to_input: ToInput, optimizer: Any, config: TrainingConfig) -> Any:
    augment = Augmenter(config)
    loss_of = tf.keras.losses.BinaryCrossentropy(from_logits=True, label_smoothing=config.label_smoothing)

    @tf.function  # type: ignore[misc]
    def step(planes: Any, labels: Any) -> Any:
        images = to_input(augment(planes))
        with tf.GradientTape() as tape:
            _, logits = model(images, training=True)
            loss = loss_of(labels, logits)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return loss

    return step


def _rate(done: int, total: int, config: TrainingConfig) -> float:
    """Linear warm-up, then a cosine to zero."""
    if done < config.warmup_steps:
        return config.learning_rate * (done + 1) / config.warmup_steps
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * (done - config.warmup_steps) / total))


def _judge(model: Any, to_input: ToInput, average: list[Any], validation: Examples) -> dict[str, float]:
    live = [v.numpy() for v in model.trainable_variables]
    _assign(model, average)
    logits = predict(model, to_input, validation.images)[:, 0]
    _assign(model, live)
    figures = {
        f"auroc_{source}": auroc(validation.labels[here], logits[here])
        for source in np.unique(validation.sources)
        for here in [validation.sources == source]
    }
    return {**figures, "score": float(np.mean(list(figures.values())))}


def _assign(model: Any, values: list[Any]) -> None:
    for variable, value in zip(model.trainable_variables, values, strict=True):
        variable.assign(value)
