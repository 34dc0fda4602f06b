"""Losses of logits against targets of which some are not known.

All take float32 (n, labels): logits, values in [0, 1] (mixed or smoothed ones between) and mask, 0 where a target is
unknown, and give (sum of the losses, number of terms): the caller divides, since with gradient accumulation the number
belongs to the whole step and not to the part of it that is on the device.

A class (exclusive labels) is one term per image: an image counts only if all its targets are known.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from models.contracts import FloatArray
from models.errors import DatasetError
from models.training.recipe import LossPlan

LossFunction = Callable[[Any, Any, Any, Any], tuple[Any, Any]]
"""(logits, values, mask, deferred) to (sum, terms). deferred: scalar 0 or 1, whether re-weighting has begun."""

_EFFECTIVE = 0.9999
_MULTI_LABEL, _CLASSES = ("bce", "weighted-bce", "asymmetric"), ("softmax-ce",)


@dataclass(frozen=True)
class Counts:
    """Of the training part: float (labels,), positives and known negatives."""

    positive: NDArray[np.float64]
    negative: NDArray[np.float64]


def counts_of(values: FloatArray, mask: FloatArray) -> Counts:
    """values, mask: float32 (n, labels). Raises DatasetError for a label with one kind only."""
    positive = (values * mask).sum(axis=0, dtype=np.float64)
    negative = mask.sum(axis=0, dtype=np.float64) - positive
    if not (positive > 0).all() or not (negative > 0).all():
        raise DatasetError("a label has only positive or only negative samples in training; nothing can be learnt")
    return Counts(positive, negative)


def build_loss(plan: LossPlan, counts: Counts, *, exclusive: bool) -> LossFunction:
    """The loss of a plan. Raises DatasetError for one that is not for such labels."""
    if exclusive and plan.name in _MULTI_LABEL:
        raise DatasetError(f"loss {plan.name} is for labels that may hold together; for classes take softmax-ce")
    if not exclusive and plan.name in _CLASSES:
        raise DatasetError(f"loss {plan.name} is for classes; for labels that may hold together take bce")
    if exclusive:
        return _of_classes(plan, counts)
    return _of_labels(plan, counts)


def _of_labels(plan: LossPlan, counts: Counts) -> LossFunction:
    weight = tf.constant((counts.negative / counts.positive) ** plan.positive_power, tf.float32)

    def bce(logits: Any, values: Any, _: Any) -> Any:
        return tf.nn.sigmoid_cross_entropy_with_logits(_smooth(values, plan.label_smoothing), logits)

    def weighted(logits: Any, values: Any, _: Any) -> Any:
        return tf.nn.weighted_cross_entropy_with_logits(_smooth(values, plan.label_smoothing), logits, weight)

    def focal(logits: Any, values: Any, _: Any) -> Any:
        """Lin et al., ICCV 2017, without alpha."""
        values = _smooth(values, plan.label_smoothing)
        chance = tf.sigmoid(logits)
        missed = values * (1 - chance) + (1 - values) * chance
        return missed**plan.gamma * tf.nn.sigmoid_cross_entropy_with_logits(values, logits)

    def asymmetric(logits: Any, values: Any, _: Any) -> Any:
        """Ridnik et al., ICCV 2021: easy negatives fade, and below ``clip`` they are nothing."""
        chance = tf.sigmoid(logits)
        shifted = tf.maximum(chance - plan.clip, 0.0)
        positive = values * (1 - chance) ** plan.gamma_positive * tf.math.log_sigmoid(logits)
        negative = (1 - values) * shifted**plan.gamma_negative * tf.math.log1p(-tf.minimum(shifted, 1 - 1e-7))
        return -(positive + negative)

    # Cao et al., NeurIPS 2019, for each label as two classes: the rarer side gets the wider margin.
    margins = _margins(np.stack([counts.positive, counts.negative]), plan.margin)
    effective = _effective(np.stack([counts.positive, counts.negative]))
    effective = effective / effective.mean(axis=0)

    def ldam(logits: Any, values: Any, deferred: Any) -> Any:
        moved = logits - values * margins[0] + (1 - values) * margins[1]
        weights = values * effective[0] + (1 - values) * effective[1]
        weights = deferred * weights + (1 - deferred)
        return weights * tf.nn.sigmoid_cross_entropy_with_logits(values, moved)

    chosen = {"bce": bce, "weighted-bce": weighted, "focal": focal, "asymmetric": asymmetric, "ldam-drw": ldam}
    each = chosen[plan.name]

    def loss(logits: Any, values: Any, mask: Any, deferred: Any) -> tuple[Any, Any]:
        return tf.reduce_sum(each(logits, values, deferred) * mask), tf.reduce_sum(mask)

    return loss


def _of_classes(plan: LossPlan, counts: Counts) -> LossFunction:
    margins = _margins(counts.positive, plan.margin)
    effective = _effective(counts.positive)
    effective = effective / effective.mean()

    def softmax(logits: Any, values: Any, _: Any) -> Any:
        share = plan.label_smoothing / values.shape[-1]
        return tf.nn.softmax_cross_entropy_with_logits(values * (1 - plan.label_smoothing) + share, logits)

    def focal(logits: Any, values: Any, _: Any) -> Any:
        share = plan.label_smoothing / values.shape[-1]
        values = values * (1 - plan.label_smoothing) + share
        logs = tf.nn.log_softmax(logits)
        return -tf.reduce_sum(values * (1 - tf.exp(logs)) ** plan.gamma * logs, axis=-1)

    def ldam(logits: Any, values: Any, deferred: Any) -> Any:
        weights = deferred * tf.reduce_sum(values * effective, axis=-1) + (1 - deferred)
        return weights * tf.nn.softmax_cross_entropy_with_logits(values, logits - values * margins)

    each = {"softmax-ce": softmax, "focal": focal, "ldam-drw": ldam}[plan.name]

    def loss(logits: Any, values: Any, mask: Any, deferred: Any) -> tuple[Any, Any]:
        known = tf.reduce_min(mask, axis=-1)
        return tf.reduce_sum(each(logits, values, deferred) * known), tf.reduce_sum(known)

    return loss


def _smooth(values: Any, amount: float) -> Any:
    return values * (1 - amount) + amount / 2


def _margins(numbers: NDArray[np.float64], widest: float) -> FloatArray:
    margins = numbers**-0.25
    return np.asarray(widest * margins / margins.max(axis=0), dtype=np.float32)


def _effective(numbers: NDArray[np.float64]) -> FloatArray:
    """Weights by the effective number of samples (Cui et al., CVPR 2019)."""
    return np.asarray((1 - _EFFECTIVE) / (1 - _EFFECTIVE**numbers), dtype=np.float32)
