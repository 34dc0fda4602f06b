"""The closed-form head against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from models.errors import DatasetError
from models.training.head import fit_head


def sample(n: int = 300, k: int = 12) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(4)
    features = (random.normal(size=(n, k)) * random.uniform(0.1, 5, k) + random.normal(size=k)).astype(np.float32)
    labels = (features[:, 0] / features[:, 0].std() + random.normal(size=n) > 0.3).astype(np.float32)
    return features, labels, random.uniform(0.5, 1.5, n)


@pytest.mark.parametrize("penalty", [1.0, 100.0])
def test_it_is_the_penalised_optimum(penalty: float) -> None:
    features, labels, weights = sample()
    scaler = StandardScaler().fit(features)
    reference = LogisticRegression(C=1 / penalty, max_iter=1000, tol=1e-8)
    reference.fit(scaler.transform(features), labels, sample_weight=weights)
    kernel, bias = fit_head(features, labels, weights, penalty)
    expected = reference.decision_function(scaler.transform(features))
    np.testing.assert_allclose(features @ kernel[:, 0] + bias[0], expected, atol=2e-3)
    assert (kernel.shape, bias.shape) == ((12, 1), (1,))


def test_a_channel_that_never_changes_does_no_harm() -> None:
    features, labels, weights = sample()
    features[:, 3] = 1.5
    kernel, bias = fit_head(features, labels, weights, 10.0)
    assert np.isfinite(kernel).all()
    assert np.isfinite(bias).all()


def test_one_class_is_refused() -> None:
    features, labels, weights = sample()
    with pytest.raises(DatasetError, match="one class"):
        fit_head(features, np.ones_like(labels), weights, 10.0)
