"""Calibration and thresholds against scikit-learn and against plain cases."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from models.errors import DatasetError
from models.training.calibrate import balanced_weights, choose_thresholds, fit_platt


def sample(n: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    logits = random.normal(0, 3, n)
    labels = (random.random(n) < 1 / (1 + np.exp(-(0.5 * logits - 0.8)))).astype(float)
    return logits, labels


def test_platt_finds_the_slope_that_made_the_data() -> None:
    logits, labels = sample()
    platt = fit_platt(logits, labels, np.ones(len(labels)))
    reference = LogisticRegression(C=1e6).fit(logits[:, None], labels)
    assert platt.slope == pytest.approx(reference.coef_[0, 0], rel=0.01)
    assert platt.intercept == pytest.approx(reference.intercept_[0], abs=0.01)


def test_perfectly_separated_data_stays_finite() -> None:
    platt = fit_platt(np.array([-2.0, -1, 1, 2]), np.array([0.0, 0, 1, 1]), np.ones(4))
    assert 0 < platt.slope < 100


def test_a_model_that_is_wrong_way_round_is_refused() -> None:
    logits, labels = sample()
    with pytest.raises(DatasetError, match="cannot be calibrated"):
        fit_platt(-logits, labels, np.ones(len(labels)))


def test_weights_let_every_source_and_label_count_the_same() -> None:
    sources = np.array(["a"] * 9 + ["b"] * 3)
    labels = np.array([1.0] * 8 + [0] + [1, 0, 0])
    weights = balanced_weights(sources, labels)
    sums = [weights[(sources == s) & (labels == v)].sum() for s in "ab" for v in (0, 1)]
    assert sums == pytest.approx([3, 3, 3, 3])


def test_the_threshold_lies_between_the_classes_and_the_band_below_it() -> None:
    random = np.random.default_rng(1)
    labels = np.repeat([0.0, 1.0], 500)
    chances = np.clip(np.where(labels > 0, random.normal(0.7, 0.15, 1000), random.normal(0.3, 0.15, 1000)), 0, 1)
    sources = np.tile(["a", "b"], 500)
    found = choose_thresholds(labels, chances, sources, band_sensitivity=0.97, band_specificity=0.5)
    assert 0.4 < found.present < 0.6
    assert found.undetermined is not None
    assert found.undetermined < found.present
    assert (chances[labels > 0] >= found.undetermined).mean() >= 0.96


def test_there_is_no_band_where_the_threshold_is_sensitive_enough() -> None:
    labels = np.repeat([0.0, 1.0], 10)
    chances = np.where(labels > 0, 0.9, 0.1)
    found = choose_thresholds(labels, chances, np.repeat("a", 20), band_sensitivity=1.1, band_specificity=0.5)
    assert found.undetermined is None
