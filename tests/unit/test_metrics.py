"""Figures against scikit-learn and against cases worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from models.evaluation import metrics
from models.evaluation.metrics import auroc, average_precision, bootstrap, confusion, predictive_value


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("decimals", [1, 8])
def test_ranking_figures_agree_with_scikit_learn(seed: int, decimals: int) -> None:
    random = np.random.default_rng(seed)
    labels = (random.random(200) < 0.3).astype(float)
    scores = np.round(random.random(200) + 0.3 * labels, decimals)
    assert auroc(labels, scores) == pytest.approx(roc_auc_score(labels, scores))
    assert average_precision(labels, scores) == pytest.approx(average_precision_score(labels, scores))
    chances = np.clip(scores, 0, 1)
    assert metrics.brier(labels, chances) == pytest.approx(brier_score_loss(labels, chances))


def test_auroc_by_hand() -> None:
    labels = np.array([1.0, 0, 1, 0])
    # Pairs: (0.9 > 0.5), (0.9 > 0.1), (0.5 = 0.5 counts half), (0.5 > 0.1).
    assert auroc(labels, np.array([0.9, 0.5, 0.5, 0.1])) == pytest.approx(3.5 / 4)


def test_one_class_gives_no_figure() -> None:
    assert math.isnan(auroc(np.ones(3), np.arange(3.0)))
    assert math.isnan(average_precision(np.zeros(3), np.arange(3.0)))


def test_confusion_counts_the_threshold_itself_as_positive() -> None:
    counts = confusion(np.array([1.0, 1, 0, 0, 0]), np.array([0.5, 0.4, 0.5, 0.1, 0.2]), 0.5)
    assert (counts.tp, counts.fn, counts.fp, counts.tn) == (1, 1, 1, 2)
    assert counts.sensitivity == pytest.approx(1 / 2)
    assert counts.specificity == pytest.approx(2 / 3)
    assert counts.precision == pytest.approx(1 / 2)
    assert counts.accuracy == pytest.approx(3 / 5)
    assert counts.f1 == pytest.approx(1 / 2)


def test_calibration_error_by_hand() -> None:
    labels = np.array([0.0, 0, 1, 1])
    assert metrics.calibration_error(labels, np.array([0.0, 0, 1, 1]), bins=2) == 0
    assert metrics.calibration_error(labels, np.array([0.2, 0.2, 0.7, 0.7]), bins=2) == pytest.approx(0.25)


def test_predictive_value_follows_bayes() -> None:
    assert predictive_value(0.9, 0.9, 0.1) == pytest.approx(0.5)
    assert predictive_value(0.9, 0.9, 0.5) == pytest.approx(0.9)


def test_many_images_of_one_patient_widen_the_interval() -> None:
    random = np.random.default_rng(0)
    labels = np.repeat((random.random(40) < 0.5).astype(float), 10)
    scores = np.repeat(random.random(40), 10) + 0.4 * labels
    by_patient = bootstrap(auroc, labels, scores, np.repeat(np.arange(40), 10), resamples=400)
    by_image = bootstrap(auroc, labels, scores, np.arange(400), resamples=400)
    assert by_patient.low <= by_patient.value <= by_patient.high
    assert by_patient.high - by_patient.low > 2 * (by_image.high - by_image.low)


def test_the_bootstrap_is_the_same_every_time() -> None:
    random = np.random.default_rng(1)
    labels, scores = (random.random(60) < 0.5).astype(float), random.random(60)
    first, again = (bootstrap(auroc, labels, scores, np.arange(60), resamples=50) for _ in range(2))
    assert first == again


def test_an_interval_without_data_is_no_number() -> None:
    found = bootstrap(auroc, np.ones(4), np.arange(4.0), np.arange(4), resamples=10)
    assert math.isnan(found.low)
    assert math.isnan(found.high)
