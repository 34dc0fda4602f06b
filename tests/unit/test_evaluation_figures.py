"""Every figure against scikit-learn, on the data and on resamples; properties that hold for any data."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from models.datasets.samples import Sample
from models.evaluation import binary
from models.evaluation.binary import rank
from models.evaluation.classes import Classes
from models.evaluation.curves import curves_of, wilson
from models.evaluation.figures import Rules, draws_of, figures_by_source
from models.evaluation.judging import Judged
from models.evaluation.metrics import calibration_error
from models.evaluation.resampling import counts_of_patients

ROWS = st.lists(
    st.tuples(st.booleans(), st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0]), st.integers(0, 3)),
    min_size=4,
    max_size=60,
)


def data_of(
    truth: np.ndarray, probabilities: np.ndarray, *, threshold: float = 0.5, exclusive: bool = False, sources: int = 1
) -> Judged:
    n, labels = truth.shape
    source = np.array([f"s{i % sources}" for i in range(n)])
    return Judged(
        labels=tuple(f"l{i}" for i in range(labels)),
        exclusive=exclusive,
        thresholds=np.full(labels, threshold),
        samples=tuple(Sample(f"{i}.png", str(i), source[i], {}) for i in range(n)),
        truth=truth.astype(float),
        logits=probabilities,
        probabilities=probabilities,
        patients=np.array([f"{source[i]}|{i // (2 * sources)}" for i in range(n)]),
        sources=source,
        groups={"sex": np.array(["F" if i % 3 else "M" for i in range(n)])},
        features=np.zeros((n, 1), np.float32),
        borders=np.zeros((n, 1), np.float32),
    )


def one(truth: np.ndarray, scores: np.ndarray, counts: np.ndarray, threshold: float = 0.5) -> dict[str, float]:
    found = binary.figures(rank(truth, scores, threshold), counts[np.newaxis])
    return {name: float(values[0]) for name, values in found.items()}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("decimals", [1, 9])
def test_every_figure_is_scikit_learns_with_counts_as_weights(seed: int, decimals: int) -> None:
    random = np.random.default_rng(seed)
    truth = (random.random(300) < 0.3).astype(float)
    scores = np.round(np.clip(random.random(300) * 0.7 + 0.3 * truth, 0, 1), decimals)
    counts = random.integers(0, 4, 300).astype(float)
    found, said = one(truth, scores, counts), scores >= 0.5
    assert found["auroc"] == pytest.approx(sk.roc_auc_score(truth, scores, sample_weight=counts))
    assert found["auprc"] == pytest.approx(sk.average_precision_score(truth, scores, sample_weight=counts))
    assert found["brier"] == pytest.approx(sk.brier_score_loss(truth, scores, sample_weight=counts))
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(truth, said, sample_weight=counts))
    assert found["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(truth, said, sample_weight=counts))
    assert found["precision"] == pytest.approx(sk.precision_score(truth, said, sample_weight=counts))
    assert found["recall"] == pytest.approx(sk.recall_score(truth, said, sample_weight=counts))
    assert found["f1"] == pytest.approx(sk.f1_score(truth, said, sample_weight=counts))
    assert found["specificity"] == pytest.approx(sk.recall_score(1 - truth, ~said, sample_weight=counts))
    false, true, _ = sk.roc_curve(truth, scores, sample_weight=counts, drop_intermediate=False)
    assert found["sensitivity_at_specificity_0.9"] == pytest.approx(true[false <= 0.1 + 1e-9].max())
    assert found["specificity_at_sensitivity_0.95"] == pytest.approx(1 - false[true >= 0.95 - 1e-9].min())


@given(ROWS)
@settings(deadline=None)
def test_counts_are_repetitions(rows: list[tuple[bool, float, int]]) -> None:
    truth, scores, counts = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    if not counts.sum():
        counts[0] = 1
    again = np.repeat(np.arange(len(truth)), counts.astype(int))
    weighted = one(truth, scores, counts)
    repeated = one(truth[again], scores[again], np.ones(len(again)))
    for name, value in weighted.items():
        assert value == pytest.approx(repeated[name], nan_ok=True), name


@given(ROWS)
@settings(deadline=None)
def test_figures_stay_within_their_bounds(rows: list[tuple[bool, float, int]]) -> None:
    truth, scores, _ = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    found = one(truth, scores, np.ones(len(truth)))
    for name, value in found.items():
        assert np.isnan(value) or -1e-9 <= value <= 1 + 1e-9, name
    mirrored = one(1 - truth, 1 - scores, np.ones(len(truth)))
    assert found["auroc"] == pytest.approx(mirrored["auroc"], nan_ok=True)
    assert found["brier"] == pytest.approx(mirrored["brier"])
    order = np.random.default_rng(0).permutation(len(truth))
    shuffled = one(truth[order], scores[order], np.ones(len(truth)))
    assert found["auroc"] == pytest.approx(shuffled["auroc"], nan_ok=True)


def test_the_calibration_error_is_the_plain_one() -> None:
    random = np.random.default_rng(2)
    scores, truth = random.random(233), (random.random(233) < 0.4).astype(float)
    assert one(truth, scores, np.ones(233))["ece"] == pytest.approx(calibration_error(truth, scores))


def test_unknown_truth_is_left_out() -> None:
    truth, scores = np.array([1.0, 0, np.nan, 1, 0]), np.array([0.9, 0.1, 0.0, 0.8, 0.2])
    known = np.isfinite(truth)
    assert one(truth, scores, np.ones(5)) == one(truth[known], scores[known], np.ones(4))
    assert all(np.isnan(value) for value in one(np.full(5, np.nan), scores, np.ones(5)).values())


def test_predictive_values_follow_bayes() -> None:
    truth = np.repeat([1.0, 0.0], 100)
    scores = np.r_[np.repeat([0.9, 0.1], [90, 10]), np.repeat([0.9, 0.1], [20, 80])]
    found = one(truth, scores, np.ones(200))
    assert found["ppv_at_prevalence_0.05"] == pytest.approx(0.9 * 0.05 / (0.9 * 0.05 + 0.2 * 0.95))
    assert found["npv_at_prevalence_0.05"] == pytest.approx(0.8 * 0.95 / (0.8 * 0.95 + 0.1 * 0.05))


@pytest.mark.parametrize("seed", range(3))
def test_classes_are_scikit_learns(seed: int) -> None:
    random = np.random.default_rng(seed)
    truth = random.integers(0, 4, 200)
    chances = random.dirichlet(np.ones(4), 200)
    counts = random.integers(0, 3, 200).astype(float)
    classes = Classes(truth, chances)
    found = {name: values[0, 0] for name, values in classes.figures(counts[np.newaxis]).items()}
    said = chances.argmax(axis=1)
    np.testing.assert_allclose(
        classes.confusion(counts[np.newaxis])[0], sk.confusion_matrix(truth, said, sample_weight=counts)
    )
    assert found["top1_accuracy"] == pytest.approx(sk.accuracy_score(truth, said, sample_weight=counts))
    assert found["mean_recall"] == pytest.approx(sk.balanced_accuracy_score(truth, said, sample_weight=counts))
    assert found["mean_f1"] == pytest.approx(sk.f1_score(truth, said, sample_weight=counts, average="macro"))
    assert found["kappa"] == pytest.approx(sk.cohen_kappa_score(truth, said, sample_weight=counts))
    squares = ((chances - np.eye(4)[truth]) ** 2).sum(axis=1)
    assert found["brier_of_classes"] == pytest.approx(np.average(squares, weights=counts))


def test_patients_come_with_all_their_images() -> None:
    patients = np.array(["b", "a", "b", "c", "a", "b"])
    counts = np.concatenate(list(counts_of_patients(patients, 50, seed=1)))
    assert counts.shape == (50, 6)
    for same in ([0, 2, 5], [1, 4]):
        assert (counts[:, same] == counts[:, same[:1]]).all()
    assert (counts[:, [0, 1, 3]].sum(axis=1) == 3).all()
    np.testing.assert_array_equal(counts, np.concatenate(list(counts_of_patients(patients, 50, seed=1))))


def test_sources_are_apart_and_their_mean_weighs_them_the_same() -> None:
    random = np.random.default_rng(0)
    truth = (random.random((300, 2)) < 0.4).astype(float)
    data = data_of(truth, np.clip(0.5 * truth + 0.7 * random.random((300, 2)), 0, 1), sources=3)
    found = figures_by_source(data, Rules(resamples=60))
    values = [found["sources"][f"s{i}"]["auroc"]["value"] for i in range(3)]
    mean = found["mean_of_sources"]["auroc"]
    assert mean["value"] == pytest.approx(np.mean(values), abs=1e-3)
    assert mean["low"] < mean["value"] < mean["high"]
    source = found["sources"]["s0"]
    by_label = [source["labels"][label]["auroc"]["value"] for label in ("l0", "l1")]
    assert source["auroc"]["value"] == pytest.approx(np.mean(by_label), abs=1e-3)
    assert source["labels"]["l0"]["positive_images"] == int(truth[::3, 0].sum())


def test_a_source_of_one_class_lacks_figures_and_spoils_no_mean() -> None:
    random = np.random.default_rng(3)
    truth = (random.random(240) < 0.5).astype(float)
    data = data_of(
        truth[:, np.newaxis], np.clip(0.4 * truth + 0.6 * random.random(240), 0, 1)[:, np.newaxis], sources=3
    )
    ill = data.take((data.sources != "s2") | (data.truth[:, 0] == 1))
    found = figures_by_source(ill, Rules(resamples=50))
    areas = [found["sources"][source]["labels"]["l0"]["auroc"]["value"] for source in ("s0", "s1", "s2")]
    assert areas[2] is None
    assert found["sources"]["s2"]["labels"]["l0"]["sensitivity"]["value"] is not None
    mean = found["mean_of_sources"]["labels"]["l0"]["auroc"]
    assert mean["value"] == pytest.approx(np.mean(areas[:2]), abs=1e-4)
    assert mean["low"] < mean["value"] < mean["high"]
    assert [(one["source"], one["label"]) for one in found["not_computed"]] == [("s2", "l0")]
    whole = found["all_images"]["labels"]["l0"]
    assert whole["images"] == len(ill.truth)
    assert whole["auroc"]["value"] == pytest.approx(
        sk.roc_auc_score(ill.truth[:, 0], ill.probabilities[:, 0]), abs=1e-4
    )


def test_small_groups_are_named_without_a_number() -> None:
    random = np.random.default_rng(0)
    truth = (random.random((45, 1)) < 0.5).astype(float)
    source = figures_by_source(data_of(truth, random.random((45, 1))), Rules(resamples=5))["sources"]["s0"]
    assert set(source["subgroups"]) == {"sex=F"}
    assert source["suppressed"] == ["sex=M"]


def test_exclusive_models_have_a_confusion_of_classes() -> None:
    chances = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.6, 0.3, 0.1], [0.1, 0.1, 0.8]] * 6)
    truth = np.eye(3)[[0, 1, 2, 2] * 6]
    source = figures_by_source(data_of(truth, chances, exclusive=True), Rules(resamples=20))["sources"]["s0"]
    assert source["classes"]["confusion"] == [[6, 0, 0], [0, 6, 0], [6, 0, 6]]
    assert source["classes"]["top1_accuracy"]["value"] == 0.75


def test_the_point_on_the_curve_is_that_of_the_threshold() -> None:
    truth, scores = np.array([1.0, 1, 1, 0, 0, 0]), np.array([0.9, 0.6, 0.2, 0.7, 0.1, 0.1])
    found = curves_of(truth, scores, 0.5)
    assert found["at"] == {
        "sensitivity": pytest.approx(2 / 3, abs=1e-4),
        "false_positive_rate": pytest.approx(1 / 3, abs=1e-4),
        "precision": pytest.approx(2 / 3, abs=1e-4),
    }
    assert found["roc"][0] == [0, 0]
    assert found["roc"][-1] == [1, 1]
    assert sum(entry["images"] for entry in found["reliability"]) == 6


@given(st.floats(0, 1), st.integers(1, 500))
def test_a_proportions_interval_holds_it(share: float, count: int) -> None:
    low, high = wilson(share, count)
    assert 0 <= low <= share + 1e-9
    assert share - 1e-9 <= high <= 1


def test_a_thousand_resamples_of_a_large_test_set_take_seconds() -> None:
    random = np.random.default_rng(0)
    truth = (random.random((10_000, 2)) < 0.1).astype(float)
    data = data_of(truth, np.clip(0.3 * truth + 0.7 * random.random((10_000, 2)), 0, 1))
    start = time.process_time()
    draws_of(data, Rules(resamples=1000))
    # Fourteen labels within a minute, with room for a busy machine.
    assert time.process_time() - start < 2 / 14 * 60 * 1.5
