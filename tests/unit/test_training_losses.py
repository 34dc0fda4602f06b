"""Losses against NumPy written out plainly, and the masks that take unknown targets out of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from models.errors import DatasetError
from models.training.recipe import LossPlan

pytestmark = pytest.mark.tensorflow

RANDOM = np.random.default_rng(4)
LOGITS = RANDOM.normal(0, 2, (12, 3)).astype(np.float32)
VALUES = RANDOM.integers(0, 2, (12, 3)).astype(np.float32)
MASK = RANDOM.integers(0, 2, (12, 3)).astype(np.float32)
CLASSES = np.eye(3, dtype=np.float32)[RANDOM.integers(0, 3, 12)]
POSITIVE, NEGATIVE = np.array([10.0, 40.0, 160.0]), np.array([190.0, 160.0, 40.0])
Array = NDArray[Any]


def measured(
    values: Array, mask: Array, *, exclusive: bool = False, deferred: float = 0.0, **plan: Any
) -> tuple[float, float]:
    from models.training.losses import Counts, build_loss  # noqa: PLC0415 - imports TensorFlow

    loss = build_loss(LossPlan(**plan), Counts(POSITIVE, NEGATIVE), exclusive=exclusive)
    total, terms = loss(LOGITS, values, mask, np.float32(deferred))
    return float(total), float(terms)


def sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x.astype(np.float64))))


def cross_entropy(values: Array, logits: Array) -> Array:
    chance = sigmoid(logits)
    return np.asarray(-(values * np.log(chance) + (1 - values) * np.log(1 - chance)))


def log_softmax(logits: Array) -> Array:
    logits = logits.astype(np.float64)
    return np.asarray(logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)))


def test_binary_cross_entropy_counts_known_targets_only() -> None:
    total, terms = measured(VALUES, MASK, name="bce")
    assert total == pytest.approx((cross_entropy(VALUES, LOGITS) * MASK).sum(), rel=1e-5)
    assert terms == MASK.sum()
    other = np.where(MASK > 0, VALUES, 1 - VALUES)
    assert measured(other, MASK, name="bce") == (total, terms)


def test_smoothed_targets() -> None:
    smoothed = VALUES * 0.9 + 0.05
    total, _ = measured(VALUES, MASK, name="bce", label_smoothing=0.1)
    assert total == pytest.approx((cross_entropy(smoothed, LOGITS) * MASK).sum(), rel=1e-5)


def test_weighted_cross_entropy_lifts_positives_by_the_root_of_the_odds() -> None:
    weight = np.where(VALUES > 0, np.sqrt(NEGATIVE / POSITIVE), 1)
    total, _ = measured(VALUES, MASK, name="weighted-bce")
    assert total == pytest.approx((weight * cross_entropy(VALUES, LOGITS) * MASK).sum(), rel=1e-5)


def test_focal_loss() -> None:
    right = np.where(VALUES > 0, sigmoid(LOGITS), 1 - sigmoid(LOGITS))
    total, _ = measured(VALUES, MASK, name="focal", gamma=1.5)
    assert total == pytest.approx(((1 - right) ** 1.5 * -np.log(right) * MASK).sum(), rel=1e-4)


def test_focal_loss_without_gamma_is_cross_entropy() -> None:
    assert measured(VALUES, MASK, name="focal", gamma=0.0) == pytest.approx(measured(VALUES, MASK, name="bce"))


def test_asymmetric_loss() -> None:
    chance = sigmoid(LOGITS)
    shifted = np.maximum(chance - 0.05, 0)
    positive = VALUES * (1 - chance) ** 1.0 * np.log(chance)
    negative = (1 - VALUES) * shifted**4 * np.log(1 - shifted)
    total, _ = measured(VALUES, MASK, name="asymmetric", gamma_positive=1.0)
    assert total == pytest.approx(-((positive + negative) * MASK).sum(), rel=1e-4)


@pytest.mark.parametrize("deferred", [0.0, 1.0])
def test_ldam_moves_the_rarer_side_further_and_weighs_it_later(deferred: float) -> None:
    numbers = np.stack([POSITIVE, NEGATIVE])
    margins = numbers**-0.25 / (numbers**-0.25).max(axis=0)
    effective = (1 - 0.9999) / (1 - 0.9999**numbers)
    effective = effective / effective.mean(axis=0)
    moved = np.where(VALUES > 0, LOGITS - margins[0], LOGITS + margins[1])
    weights = np.where(VALUES > 0, effective[0], effective[1]) if deferred else np.ones_like(VALUES)
    total, _ = measured(VALUES, MASK, deferred=deferred, name="ldam-drw")
    assert total == pytest.approx((weights * cross_entropy(VALUES, moved) * MASK).sum(), rel=1e-4)


def test_softmax_takes_an_image_only_when_all_of_it_is_known() -> None:
    known = np.ones_like(MASK)
    known[3, 1] = 0
    smoothed = CLASSES * 0.9 + 0.1 / 3
    each = -(smoothed * log_softmax(LOGITS)).sum(axis=1)
    total, terms = measured(CLASSES, known, exclusive=True, name="softmax-ce", label_smoothing=0.1)
    assert total == pytest.approx(each.sum() - each[3], rel=1e-5)
    assert terms == 11


def test_focal_loss_of_classes() -> None:
    logs = (CLASSES * log_softmax(LOGITS)).sum(axis=1)
    total, _ = measured(CLASSES, np.ones_like(MASK), exclusive=True, name="focal")
    assert total == pytest.approx(-((1 - np.exp(logs)) ** 2 * logs).sum(), rel=1e-4)


@pytest.mark.parametrize("deferred", [0.0, 1.0])
def test_ldam_of_classes(deferred: float) -> None:
    margins = POSITIVE**-0.25 / (POSITIVE**-0.25).max()
    effective = (1 - 0.9999) / (1 - 0.9999**POSITIVE)
    effective = effective / effective.mean()
    each = -(CLASSES * log_softmax(LOGITS - CLASSES * margins)).sum(axis=1)
    weights = (CLASSES * effective).sum(axis=1) if deferred else 1
    total, _ = measured(CLASSES, np.ones_like(MASK), exclusive=True, deferred=deferred, name="ldam-drw")
    assert total == pytest.approx((weights * each).sum(), rel=1e-4)


@pytest.mark.parametrize(("name", "exclusive"), [("bce", True), ("asymmetric", True), ("softmax-ce", False)])
def test_a_loss_for_other_labels_is_refused(name: str, exclusive: bool) -> None:
    with pytest.raises(DatasetError, match=name):
        measured(VALUES, MASK, exclusive=exclusive, name=name)


def test_a_label_of_one_kind_is_refused() -> None:
    from models.training.losses import counts_of  # noqa: PLC0415 - imports TensorFlow

    assert counts_of(VALUES, np.ones_like(MASK)).positive.tolist() == VALUES.sum(axis=0).tolist()
    with pytest.raises(DatasetError, match="only positive or only negative"):
        counts_of(np.ones((4, 1), np.float32), np.ones((4, 1), np.float32))
