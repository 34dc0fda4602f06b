"""The last layer in closed form: penalised logistic regression on pooled features."""

from __future__ import annotations

import numpy as np

from models.contracts import FloatArray
from models.errors import DatasetError
from models.evaluation.metrics import Numbers

_NEWTON_STEPS = 50
_SMALLEST_STEP = 1e-6


def fit_head(features: FloatArray, labels: Numbers, weights: Numbers, penalty: float) -> tuple[FloatArray, FloatArray]:
    """Kernel float32 (k, 1) and bias float32 (1,) that minimise the weighted log loss plus ``penalty / 2 * |w|^2``.

    features: (n, k); labels: 0 or 1 (n,); weights: (n,), mean 1. w is the kernel on standardised features, so that the
    penalty means the same for every channel; the bias goes free. Newton's method: the problem is convex, and with some
    hundred images the answer of a gradient descent would depend on when it was stopped.

    Raises DatasetError when there is one class only.
    """
    if len(np.unique(labels)) != 2:
        raise DatasetError("the training part holds one class only; nothing can be told apart")
    mean, deviation = features.mean(axis=0), features.std(axis=0) + 1e-6
    design = np.concatenate([(features - mean) / deviation, np.ones((len(features), 1))], axis=1).astype(np.float64)
    ridge = np.full(design.shape[1], penalty)
    ridge[-1] = 1e-9
    beta = np.zeros(design.shape[1])
    for _ in range(_NEWTON_STEPS):
        chance = 1 / (1 + np.exp(-np.clip(design @ beta, -30, 30)))
        gradient = design.T @ (weights * (chance - labels)) + ridge * beta
        hessian = (design * (weights * chance * (1 - chance))[:, np.newaxis]).T @ design + np.diag(ridge)
        step = np.linalg.solve(hessian, gradient)
        beta = beta - step
        if np.abs(step).max() < _SMALLEST_STEP:
            break
    kernel = beta[:-1] / deviation
    bias = beta[-1] - kernel @ mean
    return kernel[:, np.newaxis].astype(np.float32), np.array([bias], dtype=np.float32)
