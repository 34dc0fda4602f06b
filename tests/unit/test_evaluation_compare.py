"""Paired differences, DeLong's test, and whether the source gives the label away."""

from __future__ import annotations

import math

import numpy as np
import pytest

from models.errors import DatasetError
from models.evaluation.compare import compare, delong
from models.evaluation.figures import Rules
from models.evaluation.judging import Judged
from models.evaluation.metrics import auroc, resamples_of_patients
from models.evaluation.sources import probe, source_test
from tests.unit.test_evaluation_figures import data_of


def scores(seed: int, skill: float, truth: np.ndarray) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=len(truth)) + skill * truth


def by_definition(truth: np.ndarray, first: np.ndarray, second: np.ndarray) -> float:
    """DeLong's variance of the difference from all pairs, as the paper writes it."""
    ill, well = truth == 1, truth == 0
    rows, columns = [], []
    for one in (first, second):
        pairs = (one[ill][:, None] > one[well]) + 0.5 * (one[ill][:, None] == one[well])
        rows.append(pairs.mean(axis=1))
        columns.append(pairs.mean(axis=0))
    covariance = np.cov(rows) / ill.sum() + np.cov(columns) / well.sum()
    return float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])


@pytest.mark.parametrize("decimals", [1, 9])
def test_delong_is_that_of_the_paper_where_every_patient_has_one_image(decimals: int) -> None:
    truth = (np.random.default_rng(0).random(150) < 0.4).astype(float)
    first, second = np.round(scores(1, 1.2, truth), decimals), np.round(scores(2, 0.6, truth), decimals)
    found = delong(truth, first, second, np.arange(150))
    assert found.first == pytest.approx(auroc(truth, first))
    assert found.second == pytest.approx(auroc(truth, second))
    assert found.error**2 == pytest.approx(by_definition(truth, first, second))
    assert found.p == pytest.approx(math.erfc(abs(found.difference) / found.error / math.sqrt(2)))


def test_clustered_delong_agrees_with_resampling_patients() -> None:
    random = np.random.default_rng(3)
    patients = np.repeat(np.arange(120), 4)
    truth = np.where(random.random(480) < 0.8, np.repeat(random.random(120) < 0.5, 4), random.random(480) < 0.5) * 1.0
    person = np.repeat(random.normal(size=120), 4)
    first, second = truth + person + 0.3 * random.normal(size=480), 0.5 * truth + random.normal(size=480)
    draws = [auroc(truth[i], first[i]) - auroc(truth[i], second[i]) for i in resamples_of_patients(patients, 800)]
    assert delong(truth, first, second, patients).error == pytest.approx(np.std(draws), rel=0.15)
    assert delong(truth, first, second, np.arange(480)).error < 0.9 * np.std(draws)


def test_a_model_differs_from_itself_by_nothing() -> None:
    truth = np.tile([1.0, 0, 0], 20)
    one = scores(1, 1, truth)
    same = delong(truth, one, one, np.arange(60))
    assert (same.difference, same.error, same.p) == (0, 0, 1)
    assert math.isnan(delong(np.ones(5), one[:5], one[:5], np.arange(5)).difference)


def judged(seed: int, skill: float) -> Judged:
    truth = (np.random.default_rng(0).random((240, 2)) < 0.4).astype(float)
    noise = np.random.default_rng(seed).normal(size=(240, 2))
    return data_of(truth, 1 / (1 + np.exp(-(skill * (2 * truth - 1) + noise))), sources=2)


def test_the_better_model_is_seen_to_be_better() -> None:
    found = compare(judged(1, 2.0), judged(2, 0.4), Rules(resamples=200))
    assert found["images"] == 240
    for part in (*found["sources"].values(), found["mean_of_sources"]):
        assert part["auroc"]["low"] > 0
        assert part["auroc"]["p"] < 0.02
        assert part["brier"]["high"] < 0
    test = found["sources"]["s0"]["delong"]["l1"]
    difference = found["sources"]["s0"]["labels"]["l1"]["auroc"]["value"]
    assert test["difference"] == pytest.approx(difference, abs=1e-4)


def test_equal_models_show_no_difference() -> None:
    found = compare(judged(1, 1.0), judged(1, 1.0), Rules(resamples=50))
    assert found["mean_of_sources"]["auroc"] == {"value": 0, "low": 0, "high": 0, "p": 1}


def test_only_images_that_both_judged_are_compared() -> None:
    whole = judged(1, 2.0)
    some = judged(2, 2.0).take(np.arange(30, 200))
    assert compare(whole, some, Rules(resamples=5))["images"] == 170
    with pytest.raises(DatasetError, match="in common"):
        compare(whole.take(np.arange(20)), some, Rules(resamples=5))


def with_source(border: float, *, share: tuple[float, float]) -> Judged:
    random = np.random.default_rng(4)
    plain = data_of(np.zeros((400, 1)), random.random((400, 1)), sources=2)
    second = (plain.sources == "s1").astype(float)
    truth = (random.random(400) < np.where(second > 0, share[1], share[0])).astype(float)[:, None]
    borders = random.normal(size=(400, 8)).astype(np.float32) + np.float32(border) * second[:, None].astype(np.float32)
    features = random.normal(size=(400, 8)).astype(np.float32)
    return Judged(**{**vars(plain), "truth": truth, "borders": borders, "features": features})


def test_a_source_written_on_the_border_that_tells_the_label_is_called_out() -> None:
    found = source_test(with_source(3.0, share=(0.1, 0.9)))
    assert found["from_border"]["all images"] > 0.95
    assert found["from_border"]["negative images"] > 0.9
    assert found["label_from_source"]["l0"] > 0.85
    assert abs(found["from_features"]["negative images"] - 0.5) < 0.15
    assert "Only those within a source stand" in found["verdict"]


def test_a_source_that_tells_nothing_of_the_label_is_said_to() -> None:
    found = source_test(with_source(3.0, share=(0.5, 0.5)))
    assert found["label_from_source"]["l0"] < 0.6
    assert "tells little of the label" in found["verdict"]


def test_one_source_has_nothing_to_be_told_from() -> None:
    assert source_test(data_of(np.ones((40, 1)), np.ones((40, 1)))) == {}
    few = probe(np.zeros((4, 2), np.float32), np.array(["a", "b"] * 2), np.arange(4))
    assert math.isnan(few)
