"""The figures' document: per source, never pooled, honest about small groups."""

from __future__ import annotations

import json

import numpy as np
import pytest

from models.contracts import Presence
from models.datasets.labels import LabelledImage
from models.evaluation.report import age_band, columns_of, report
from models.evaluation.scoring import Scored
from models.evaluation.shortcuts import source_from_features, source_from_score


def scored(source: str, n: int, *, shift: float = 0.0, view: str = "AP") -> list[Scored]:
    random = np.random.default_rng(n)
    found = []
    for index in range(n):
        positive = index % 2 == 0
        chance = float(np.clip(random.normal(0.6 if positive else 0.4, 0.1) + shift, 0, 1))
        row = LabelledImage(f"{source}{view}{index}.jpg", source, f"p{index // 2}", "x", view=view)
        found.append(Scored(row, positive, chance, chance, Presence.ABSENT))
    return found


def test_sources_are_reported_apart_and_averaged() -> None:
    document = report(scored("a", 60) + scored("b", 40, shift=0.4), 0.5, resamples=50)
    a, b = document["sources"]["a"], document["sources"]["b"]
    assert (a["images"], a["patients"], a["positive_images"]) == (60, 30, 30)
    assert b["specificity"]["value"] < a["specificity"]["value"]
    mean = document["mean_of_sources"]["auroc"]
    assert mean["value"] == pytest.approx((a["auroc"]["value"] + b["auroc"]["value"]) / 2, abs=1e-3)
    assert mean["low"] <= mean["value"] <= mean["high"]


def test_groups_that_are_too_small_are_left_out() -> None:
    document = report(
        scored("a", 60, view="AP") + scored("a", 24, view="PA") + scored("a", 6, view="L"), 0.5, resamples=9
    )
    assert set(document["sources"]["a"]["subgroups"]) == {"view=AP", "view=PA"}


@pytest.mark.parametrize(
    ("age", "band"), [("17", "under 18"), ("18.0", "18 to 59"), ("60", "60 and over"), ("1-5y", ""), ("", "")]
)
def test_ages_fall_into_bands(age: str, band: str) -> None:
    assert age_band(age) == band


def test_what_cannot_be_computed_is_null_and_the_document_is_json() -> None:
    only_positive = [s for s in scored("a", 10) if s.positive]
    document = report(only_positive, 0.5, resamples=5)
    assert document["sources"]["a"]["auroc"] == {"value": None, "low": None, "high": None}
    json.dumps(document, allow_nan=False)


def test_a_score_that_shifts_with_the_source_is_seen() -> None:
    same = source_from_score(columns_of(scored("a", 60) + scored("b", 60)))
    shifted = source_from_score(columns_of(scored("a", 60) + scored("b", 60, shift=0.4)))
    assert all(abs(value - 0.5) < 0.01 for value in same.values())
    assert all(abs(value - 0.5) > 0.45 for value in shifted.values())


def test_a_source_written_into_the_features_is_seen() -> None:
    random = np.random.default_rng(0)
    sources = np.array(["a", "b"] * 50)
    noise = random.normal(size=(100, 5)).astype(np.float32)
    marked = noise + 5 * (sources == "a")[:, None]
    assert source_from_features((marked[:50], sources[:50]), (marked[50:], sources[50:])) > 0.95
    assert abs(source_from_features((noise[:50], sources[:50]), (noise[50:], sources[50:])) - 0.5) < 0.25
