"""One step of training: some batches' gradients, summed on every device, then one update."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from models.errors import DatasetError, RuntimeUnavailable
from models.training.augmentation import Augmentation
from models.training.losses import LossFunction
from models.training.network import Trained
from models.training.recipe import Optimiser, Training

_HALF_PRECISION_SCALE = 1024.0
"""Keeps small gradients of half precision above its smallest number; a step that overflows changes nothing."""


def strategy_for(training: Training) -> tf.distribute.Strategy:
    """All GPUs where there are several, else the default device. Raises RuntimeUnavailable, DatasetError."""
    gpus = tf.config.list_logical_devices("GPU")
    if training.mixed_precision and not gpus:
        raise RuntimeUnavailable("mixed_precision needs a GPU, and TensorFlow sees none; leave it out")
    if len(gpus) < 2:
        return tf.distribute.get_strategy()
    if training.batch % len(gpus):
        raise DatasetError(f"batch ({training.batch}) must be a multiple of the {len(gpus)} GPUs")
    return tf.distribute.MirroredStrategy()


def build_optimiser(plan: Optimiser, variables: Sequence[Any]) -> Any:
    """With its slots made, so that a checkpoint can fill them. Weight decay spares biases and norms."""
    if plan.name == "sgd":
        made = keras.optimizers.SGD(1.0, momentum=plan.momentum, weight_decay=plan.weight_decay or None)
    elif plan.name == "adam":
        made = keras.optimizers.Adam(1.0)
    else:
        made = keras.optimizers.AdamW(1.0, weight_decay=plan.weight_decay)
    spared = [variable for variable in variables if len(variable.shape) < 2]
    if plan.name != "adam" and spared:
        made.exclude_from_weight_decay(var_list=spared)
    made.build(variables)
    return made


class Stepper:
    """Built once for each phase: the variables that are trained must not change afterwards."""

    def __init__(
        self,
        network: Trained,
        *,
        optimiser: Any,
        loss: LossFunction,
        augmentation: Augmentation,
        training: Training,
        strategy: tf.distribute.Strategy,
    ) -> None:
        self._network, self._optimiser, self._loss = network, optimiser, loss
        self._augmentation, self._strategy = augmentation, strategy
        self._batches, self._batch = training.accumulate, training.batch
        self._clip = training.optimiser.clip
        self._scale = _HALF_PRECISION_SCALE if training.mixed_precision else 1.0
        self._variables = network.model.trainable_variables
        self._step = tf.function(self._whole_step, reduce_retracing=True)

    def __call__(self, planes: Any, values: Any, mask: Any, *, rate: float, deferred: bool) -> float:
        """One update; the mean loss of its images. planes: (accumulate * batch, rows, columns, slices)."""
        self._optimiser.learning_rate.assign(rate)
        return float(self._step(planes, values, mask, tf.constant(float(deferred))))

    def _whole_step(self, planes: Any, values: Any, mask: Any, deferred: Any) -> Any:
        mixed = self._augmentation(planes, values, mask)
        parts = [tf.reshape(one, (self._batches, self._batch, *one.shape[1:])) for one in mixed]
        losses = self._strategy.run(self._on_a_device, args=(*parts, deferred))
        # Every device has already added up all of them.
        return self._strategy.experimental_local_results(losses)[0]

    def _on_a_device(self, planes: Any, values: Any, mask: Any, deferred: Any) -> Any:
        context = tf.distribute.get_replica_context()
        replicas = self._strategy.num_replicas_in_sync
        share = self._batch // replicas
        mine = context.replica_id_in_sync_group * share
        images, targets, known = (one[:, mine : mine + share] for one in (planes, values, mask))
        gradients, loss, terms = self._accumulated(images, targets, known, deferred)
        reduced = context.all_reduce(tf.distribute.ReduceOp.SUM, [*gradients, loss, terms])
        *gradients, loss, terms = reduced
        terms = tf.maximum(terms, 1.0)
        gradients = [gradient / (terms * self._scale) for gradient in gradients]
        if self._scale != 1.0:
            sound = tf.reduce_all([tf.reduce_all(tf.math.is_finite(gradient)) for gradient in gradients])
            gradients = [tf.where(sound, gradient, tf.zeros_like(gradient)) for gradient in gradients]
        if self._clip:
            gradients, _ = tf.clip_by_global_norm(gradients, self._clip)
        # Keras adds up over the devices once more.
        gradients = [gradient / replicas for gradient in gradients]
        self._optimiser.apply_gradients(zip(gradients, self._variables, strict=True))
        return loss / terms

    def _accumulated(self, planes: Any, values: Any, mask: Any, deferred: Any) -> tuple[list[Any], Any, Any]:
        """Sums over the batches, one after another: only one batch's activations are held at a time."""
        trained = [variable.value for variable in self._variables]

        def add(index: Any, *sums: Any) -> tuple[Any, ...]:
            *gradients, loss, terms = sums
            with tf.GradientTape() as tape:
                logits = self._network.logits(planes[index], training=True)
                part, number = self._loss(logits, values[index], mask[index], deferred)
                scaled = part * self._scale
            new = tape.gradient(scaled, trained, unconnected_gradients=tf.UnconnectedGradients.ZERO)
            added = [old + tf.convert_to_tensor(one) for old, one in zip(gradients, new, strict=True)]
            return (index + 1, *added, loss + part, terms + number)

        start = [tf.zeros(variable.shape, tf.float32) for variable in trained]
        state = (tf.constant(0), *start, tf.constant(0.0), tf.constant(0.0))
        if self._batches == 1:
            _, *sums = add(*state)
        else:
            _, *sums = tf.while_loop(lambda index, *_: index < self._batches, add, state, parallel_iterations=1)
        *gradients, loss, terms = sums
        return gradients, loss, terms


class Average:
    """Running average of variables; early on it follows closely, so that the start is soon forgotten."""

    def __init__(self, variables: Sequence[Any], decay: float) -> None:
        self.live = [variable.value for variable in variables]
        self.values = [tf.Variable(variable, trainable=False) for variable in self.live]
        self._decay = decay
        self._follow = tf.function(self._move)

    def follow(self, done: int) -> None:
        """After ``done`` updates."""
        self._follow(tf.constant(1 - min(self._decay, (1 + done) / (10 + done)), tf.float32))

    def _move(self, pace: Any) -> None:
        for average, variable in zip(self.values, self.live, strict=True):
            average.assign_add(pace * (tf.cast(variable, tf.float32) - average))

    def swap(self) -> None:
        """The network gets the average, the average what the network had; a second call undoes the first."""
        for average, variable in zip(self.values, self.live, strict=True):
            held = variable.numpy()
            variable.assign(average.numpy())
            average.assign(held)
