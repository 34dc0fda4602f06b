"""Calibration on few patients: against scikit-learn where data are many, harmless where they are few."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from models.errors import DatasetError
from models.evaluation.metrics import Numbers
from models.training.recalibrate import recalibrate, recalibrate_classes


def sample(count: int, slope: float, intercept: float, seed: int = 0) -> tuple[Numbers, Numbers, Numbers]:
    random = np.random.default_rng(seed)
    logits = random.normal(0, 2, count)
    truth = (random.random(count) < 1 / (1 + np.exp(-(slope * logits + intercept)))).astype(float)
    return logits, truth, np.arange(count) // 2


def log_loss(logits: Numbers, truth: Numbers) -> float:
    return float(np.mean(np.logaddexp(0, logits) - truth * logits))


def test_many_images_give_platts_own_answer() -> None:
    logits, truth, patients = sample(4000, 0.5, -0.8)
    found = recalibrate(logits, truth, patients)
    reference = LogisticRegression(C=1e6).fit(logits[:, np.newaxis], truth)
    assert found.record["method"] == "platt"
    assert found.values.slope == pytest.approx(reference.coef_[0, 0], rel=0.02)
    assert found.values.intercept == pytest.approx(reference.intercept_[0], abs=0.02)
    error = found.record["cross_validated_ece"]
    assert error["platt"] < error["none"] / 3


def test_overconfidence_alone_takes_a_temperature() -> None:
    logits, truth, patients = sample(300, 1.0, 0.0)
    found = recalibrate(logits * 3, truth, patients)
    assert found.record["method"] == "temperature"
    assert found.values.slope == pytest.approx(1 / 3, rel=0.25)
    assert found.values.intercept == 0


def test_scores_that_mean_what_they_say_are_hardly_touched() -> None:
    away = [recalibrate(*sample(60, 1.0, 0.0, seed)) for seed in range(12)]
    assert sum(one.record["method"] == "none" for one in away) >= 4
    assert all(1 / 3 < one.values.slope < 3 and abs(one.values.intercept) < 1.5 for one in away)


def test_of_few_patients_it_makes_less_of_a_mess_than_platts_fit_unshrunk() -> None:
    """Mean log loss on new data over many draws of twenty-four images."""
    test, labels, _ = sample(4000, 1.0, 0.0, seed=99)
    ours, unshrunk = [], []
    for seed in range(40):
        logits, truth, patients = sample(24, 1.0, 0.0, seed)
        if not 4 <= truth.sum() <= 20:
            continue
        found = recalibrate(logits, truth, patients).values
        plain = LogisticRegression(C=1e6, max_iter=1000).fit(logits[:, np.newaxis], truth)
        ours.append(log_loss(found.slope * test + found.intercept, labels))
        unshrunk.append(log_loss(float(plain.coef_[0, 0]) * test + float(plain.intercept_[0]), labels))
    assert np.mean(ours) < np.mean(unshrunk)


def test_separable_data_promise_no_certainty() -> None:
    logits = np.r_[np.full(10, -1.0), np.full(10, 1.0)] + np.linspace(0, 0.1, 20)
    found = recalibrate(logits, (logits > 0).astype(float), np.arange(20))
    assert found.values.slope < 20


def test_a_model_that_is_wrong_way_round_is_refused() -> None:
    logits, truth, patients = sample(400, 1.0, 0.0)
    with pytest.raises(DatasetError, match="cannot be calibrated"):
        recalibrate(-logits, truth, patients)


def test_a_model_that_knows_nothing_yet_promises_nothing() -> None:
    random = np.random.default_rng(0)
    truth = np.tile([0.0, 1.0], 15)
    found = recalibrate(random.normal(0, 4, 30) - 0.5 * truth, truth, np.arange(30))
    assert found.values.slope < 0.5


def test_one_patient_proves_nothing_either_way() -> None:
    logits, truth, _ = sample(40, 1.0, 0.0)
    found = recalibrate(-logits, truth, np.zeros(40))
    assert (found.record["method"], found.values.slope, found.values.intercept) == ("none", 1.0, 0.0)
    classes = recalibrate_classes(np.stack([logits, -logits], axis=1), truth.astype(np.int64), np.zeros(40))
    assert classes.temperature == 1.0


def test_classes_take_the_temperature_that_undoes_overconfidence() -> None:
    random = np.random.default_rng(3)
    logits = random.normal(0, 1.5, (6000, 3))
    chance = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    classes = (chance.cumsum(axis=1) < random.uniform(size=(6000, 1))).sum(axis=1)
    people = np.arange(6000)
    assert recalibrate_classes(logits * 4, classes, people).temperature == pytest.approx(4, rel=0.06)
    calm = recalibrate_classes(logits[:40], classes[:40], people[:40])
    assert calm.record["method"] == "none" or calm.temperature == pytest.approx(1, abs=0.7)
