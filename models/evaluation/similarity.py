"""How alike two maps are: by rank, and by structure."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.contracts import FloatArray

_RADIUS, _SIGMA = 5, 1.5
_K1, _K2 = 0.01, 0.03


def rank_correlation(first: FloatArray, second: FloatArray) -> float:
    """Spearman's, ties at their mean rank; 0 where one is constant and says nothing of the other."""
    ranks = []
    for values in (first.ravel(), second.ravel()):
        ordered = np.sort(values)
        ranks.append((np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")) / 2)
    if np.ptp(ranks[0]) == 0 or np.ptp(ranks[1]) == 0:
        return 0.0
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def structural_similarity(first: FloatArray, second: FloatArray) -> float:
    """Mean SSIM (Wang et al. 2004: Gaussian window of 11 x 11, sigma 1.5) of two planes in [0, 1], in [-1, 1].

    Both float (rows, columns), of 11 and more each.
    """
    x, y = first.astype(np.float64), second.astype(np.float64)
    mean_x, mean_y = _blurred(x), _blurred(y)
    var_x, var_y = _blurred(x * x) - mean_x**2, _blurred(y * y) - mean_y**2
    both = _blurred(x * y) - mean_x * mean_y
    c1, c2 = _K1**2, _K2**2
    alike = (2 * mean_x * mean_y + c1) * (2 * both + c2)
    return float(np.mean(alike / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))))


def _blurred(plane: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where the whole window fits."""
    window = np.exp(-(np.arange(-_RADIUS, _RADIUS + 1) ** 2) / (2 * _SIGMA**2))
    window /= window.sum()
    for axis in (0, 1):
        plane = np.lib.stride_tricks.sliding_window_view(plane, len(window), axis=axis) @ window
    return plane
