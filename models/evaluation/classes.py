"""Figures of exclusive labels as one decision among classes, for many resamples at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.evaluation.binary import calibration_error
from models.evaluation.resampling import Counts, mean_of_known

NAMES = ("top1_accuracy", "mean_recall", "mean_f1", "kappa", "brier_of_classes", "ece_of_top1")


class Classes:
    """truth: (n,) class indices. probabilities: (n, k). Ties between classes go to the first."""

    def __init__(self, truth: NDArray[np.int64], probabilities: NDArray[np.float64]) -> None:
        self.count = probabilities.shape[1]
        self._said = probabilities.argmax(axis=1)
        cell = truth * self.count + self._said
        self._cells = np.zeros((len(truth), self.count**2))
        self._cells[np.arange(len(truth)), cell] = 1
        self._squares = ((probabilities - np.eye(self.count)[truth]) ** 2).sum(axis=1)
        top = probabilities.max(axis=1)
        self._order = np.argsort(top, kind="stable")
        self._top, self._right = top[self._order], (self._said == truth)[self._order].astype(np.float64)

    def confusion(self, counts: Counts) -> NDArray[np.float64]:
        """(r, k, k): true class by row, what was said by column."""
        return np.asarray((counts @ self._cells).reshape(len(counts), self.count, self.count))

    def figures(self, counts: Counts) -> dict[str, NDArray[np.float64]]:
        """counts: (r, n). Returns (r, 1) each. Classes without an image in a resample are left out of its means."""
        table = self.confusion(counts)
        right = np.einsum("rkk->rk", table)
        of_class, said = table.sum(axis=2), table.sum(axis=1)
        total = table.sum(axis=(1, 2))
        recall = _ratio(right, of_class)
        f1 = np.where(of_class > 0, _ratio(2 * right, of_class + said), np.nan)
        agreed, by_chance = right.sum(axis=1) / total, (of_class * said).sum(axis=1) / total**2
        found = {
            "top1_accuracy": agreed,
            "mean_recall": mean_of_known(recall, 1),
            "mean_f1": mean_of_known(f1, 1),
            "kappa": _ratio(agreed - by_chance, 1 - by_chance),
            "brier_of_classes": counts @ self._squares / total,
            "ece_of_top1": calibration_error(counts[:, self._order], self._top, self._right),
        }
        return {name: np.asarray(values)[:, np.newaxis] for name, values in found.items()}


def _ratio(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.divide(part, whole, out=np.full(np.shape(part), np.nan), where=whole > 0))
