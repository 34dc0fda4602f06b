"""Temperature, thresholds and checkpoints: what a run decides at its end, and what it leaves behind on its way."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from models.errors import DatasetError, RuntimeUnavailable
from models.training import checkpoint
from models.training.checkpoint import State
from models.training.plan import Operating

pytestmark = pytest.mark.tensorflow

RANDOM = np.random.default_rng(3)


TRUTH = np.array([0, 0, 0, 0, 1, 0, 1, 1, 1, 1], np.float64)
SCORES = np.array([0.1, 0.15, 0.2, 0.3, 0.35, 0.4, 0.6, 0.7, 0.8, 0.9])


@pytest.mark.parametrize(
    ("rule", "threshold"),
    [
        (Operating(), 0.325),
        (Operating(rule="sensitivity", at_least=1.0), 0.325),
        (Operating(rule="specificity", at_least=1.0), 0.5),
        (Operating(rule="sensitivity", at_least=0.6), 0.5),
    ],
)
def test_thresholds_by_rule(rule: Operating, threshold: float) -> None:
    from models.training.judge import choose_point  # noqa: PLC0415

    point = choose_point(TRUTH, SCORES, rule)
    assert point.threshold == pytest.approx(threshold)
    assert point.grey is None


def test_the_grey_band_reaches_down_to_its_sensitivity() -> None:
    from models.training.judge import choose_point  # noqa: PLC0415

    point = choose_point(TRUTH, SCORES, Operating(rule="specificity", at_least=1.0, grey_sensitivity=0.95))
    assert point.threshold == pytest.approx(0.5)
    assert point.grey == pytest.approx(0.325)


def test_a_checkpoint_comes_back_as_it_went(tmp_path: Path) -> None:
    state = State("abc", phase=1, epoch=2, step=3, loss=0.1 + 0.2, best=math.pi, best_epoch=1, stale=1)
    arrays: checkpoint.Arrays = {
        "model/a": RANDOM.normal(size=(3, 2)).astype(np.float32),
        "random/0": np.array([2**63 - 1], np.int64),
    }
    checkpoint.save(tmp_path / "checkpoint.npz", state, arrays)
    found = checkpoint.load(tmp_path / "checkpoint.npz", "abc")
    assert found is not None
    assert found[0] == state
    assert {key: value.tolist() for key, value in found[1].items()} == {k: v.tolist() for k, v in arrays.items()}
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.npz"]


def test_another_runs_checkpoint_or_a_damaged_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.npz"
    assert checkpoint.load(path, "abc") is None
    checkpoint.save(path, State("abc"), {})
    with pytest.raises(DatasetError, match="another plan, other data or other versions"):
        checkpoint.load(path, "def")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DatasetError, match="is no checkpoint"):
        checkpoint.load(path, "abc")
    with pytest.raises(RuntimeUnavailable, match="cannot be written"):
        checkpoint.save(tmp_path / "none" / "checkpoint.npz", State("abc"), {})
