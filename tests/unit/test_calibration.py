from __future__ import annotations

import math

import pytest

from models.calibration import presence, probability
from models.contracts import Presence
from models.manifest import Calibration, Figure, OperatingPoint, Platt

RATE = Figure(value=0.9, low=0.8, high=0.95)


def test_platt_scaling_is_slope_and_intercept_before_the_sigmoid() -> None:
    calibration = Calibration(method="platt", labels={"pneumonia": Platt(slope=2.0, intercept=-1.0)})
    assert probability(calibration, "pneumonia", 1.5) == pytest.approx(1 / (1 + math.exp(-2.0)))


@pytest.mark.parametrize(("logit", "expected"), [(0.0, 0.5), (-1e4, 0.0), (1e4, 1.0), (-3.0, 0.04742587)])
def test_without_calibration_a_bare_sigmoid_that_never_overflows(logit: float, expected: float) -> None:
    assert probability(None, "pneumonia", logit) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0.39, Presence.ABSENT),
        (0.4, Presence.UNDETERMINED),
        (0.499, Presence.UNDETERMINED),
        (0.5, Presence.PRESENT),
        (1.0, Presence.PRESENT),
    ],
)
def test_the_operating_point_decides_what_is_said(value: float, said: Presence) -> None:
    point = OperatingPoint(
        label="pneumonia", name="x", threshold=0.5, undetermined_low=0.4, sensitivity=RATE, specificity=RATE
    )
    assert presence(point, value) is said


def test_without_a_grey_band_there_are_two_answers() -> None:
    point = OperatingPoint(label="pneumonia", name="x", threshold=0.5, sensitivity=RATE, specificity=RATE)
    assert presence(point, 0.499) is Presence.ABSENT
