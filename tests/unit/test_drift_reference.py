"""What a bundle says of the scores and inputs it was made with."""

from __future__ import annotations

import numpy as np

from models.evaluation.drift_reference import drift_reference
from node.web.drift import input_drifts, score_drifts

CHANCES = np.concatenate([np.full(60, 0.05), np.full(40, 0.95), [0.0, 1.0]])
VIEWS = ["AP"] * 60 + ["PA"] * 40 + ["", ""]


def jobs(chances: np.ndarray) -> list[dict[str, object]]:
    return [{"images": [{"findings": [{"label": "ill", "probability": float(one)}]}]} for one in chances]


def test_a_node_holds_its_own_readings_against_it() -> None:
    reference = drift_reference({"ill": CHANCES}, VIEWS)
    assert reference["scores"]["ill"]["counts"] == [61, 0, 0, 0, 0, 0, 0, 0, 0, 41]
    (same,) = score_drifts(reference, jobs(CHANCES))
    (other,) = score_drifts(reference, jobs(np.full(100, 0.55)))
    assert (same.verdict, other.verdict) == ("stable", "much")
    (views,) = input_drifts(reference, [{"view_position": view} for view in VIEWS[:100]])
    assert (views.reference_count, views.verdict) == (100, "stable")
