"""Augmentation on grey planes by Keras layers, and mixing of images (mixup, CutMix) with targets that may be unknown.

All slices of a series get the same draw: they are the channels of one image here.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from keras import layers

from models.training.recipe import Augment


class Augmentation:
    """Random changes of a batch. Its whole state is in ``variables``, so that a run can be taken up again exactly."""

    def __init__(self, plan: Augment, seed: int) -> None:
        self.plan = plan
        self.random = tf.random.Generator.from_seed(seed, alg="philox")
        self._layers = _layers(plan, seed)

    @property
    def variables(self) -> list[Any]:
        """State of every generator, in a fixed order."""
        return [self.random.state, *(variable.value for layer in self._layers for variable in layer.variables)]

    def __call__(self, planes: Any, values: Any, mask: Any) -> tuple[Any, Any, Any]:
        """planes: float32 (n, rows, columns, slices) in [0, 1]; values, mask: float32 (n, labels)."""
        for layer in self._layers:
            planes = layer(planes, training=True)
        if self.plan.gamma:
            exponent = self.random.uniform([tf.shape(planes)[0], 1, 1, 1], -self.plan.gamma, self.plan.gamma)
            # The gradient is not needed, but a zero to a power below one would still be exact.
            planes = tf.pow(tf.maximum(planes, 0.0), tf.exp(exponent))
        planes = tf.clip_by_value(planes, 0.0, 1.0)
        return self._mix(planes, values, mask)

    def _mix(self, planes: Any, values: Any, mask: Any) -> tuple[Any, Any, Any]:
        mixup, cutmix = self.plan.mixup, self.plan.cutmix
        if not mixup and not cutmix:
            return planes, values, mask
        count = tf.shape(planes)[0]
        partner = tf.argsort(self.random.uniform([count]))
        by_mixup = self.random.uniform([]) < (1.0 if not cutmix else 0.0 if not mixup else 0.5)
        kept = tf.where(by_mixup, self._beta(mixup or 1.0), self._beta(cutmix or 1.0))
        blended = kept * planes + (1 - kept) * tf.gather(planes, partner)
        patched, share = self._patch(planes, partner, kept)
        planes = tf.where(by_mixup, blended, patched)
        share = tf.where(by_mixup, kept, share)
        known = mask * tf.gather(mask, partner)
        mixed = share * values + (1 - share) * tf.gather(values, partner)
        # A target mixed with an unknown one is unknown.
        return planes, mixed * known, known

    def _beta(self, alpha: float) -> Any:
        # Of two gamma draws; tf.random.Generator has none, and stateless ones take a seed from it.
        seed = self.random.make_seeds(2)
        one = tf.random.stateless_gamma([], seed=seed[:, 0], alpha=alpha)
        other = tf.random.stateless_gamma([], seed=seed[:, 1], alpha=alpha)
        return one / tf.maximum(one + other, 1e-12)

    def _patch(self, planes: Any, partner: Any, kept: Any) -> tuple[Any, Any]:
        """CutMix (Yun et al., ICCV 2019): one rectangle of the partner, and the share of the own image that is left."""
        rows, columns = tf.shape(planes)[1], tf.shape(planes)[2]
        half = tf.sqrt(1 - kept) / 2
        centre = self.random.uniform([2])
        down, across = (
            tf.abs((tf.cast(tf.range(size), tf.float32) + 0.5) / tf.cast(size, tf.float32) - centre[axis]) < half
            for axis, size in enumerate((rows, columns))
        )
        inside = tf.cast(down[:, tf.newaxis] & across[tf.newaxis, :], tf.float32)
        patch = inside[tf.newaxis, ..., tf.newaxis]
        return planes * (1 - patch) + tf.gather(planes, partner) * patch, 1 - tf.reduce_mean(inside)


def _layers(plan: Augment, seed: int) -> list[Any]:
    fill = {"fill_mode": "constant", "fill_value": 0.0}
    unit = {"value_range": (0.0, 1.0)}
    made = []
    if plan.horizontal_flip or plan.vertical_flip:
        both = plan.horizontal_flip and plan.vertical_flip
        mode = "horizontal_and_vertical" if both else "horizontal" if plan.horizontal_flip else "vertical"
        made.append(layers.RandomFlip(mode, seed=seed + 1))
    if plan.rotation_degrees:
        made.append(layers.RandomRotation(plan.rotation_degrees / 360, seed=seed + 2, **fill))
    if plan.zoom:
        # Both directions on their own: public sets have squashed films to squares.
        made.append(layers.RandomZoom(plan.zoom, plan.zoom, seed=seed + 3, **fill))
    if plan.shift:
        made.append(layers.RandomTranslation(plan.shift, plan.shift, seed=seed + 4, **fill))
    if plan.contrast:
        made.append(layers.RandomContrast(plan.contrast, seed=seed + 5, **unit))
    if plan.brightness:
        made.append(layers.RandomBrightness(plan.brightness, seed=seed + 6, **unit))
    if plan.blur:
        made.append(layers.RandomGaussianBlur(plan.blur, seed=seed + 7, **unit))
    if plan.erase:
        made.append(layers.RandomErasing(plan.erase, scale=(0.01, 0.1), fill_value=0.5, seed=seed + 8, **unit))
    return made
