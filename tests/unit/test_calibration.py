from __future__ import annotations

import math

import pytest

from models.calibration import presence, probabilities, probability
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


def test_exclusive_labels_share_one_probability() -> None:
    bare = probabilities(None, ["a", "b", "c"], [2.0, 1.0, -1e4], exclusive=True)
    assert sum(bare) == pytest.approx(1.0)
    assert bare == pytest.approx((1 / (1 + math.exp(-1)), 1 / (1 + math.exp(1)), 0.0))
    cooled = Calibration(method="temperature", temperature=2.0)
    assert probabilities(cooled, ["a", "b"], [3.0, 1.0], exclusive=True)[0] == pytest.approx(1 / (1 + math.exp(-1)))


def test_a_temperature_divides_every_logit_of_labels_that_stand_alone() -> None:
    warmed = Calibration(method="temperature", temperature=0.5)
    assert probabilities(warmed, ["a", "b"], [1.0, -1.0]) == pytest.approx(
        (1 / (1 + math.exp(-2)), 1 / (1 + math.exp(2)))
    )


@pytest.mark.parametrize(
    "parameters",
    [
        {"method": "platt"},
        {"method": "platt", "temperature": 1.0},
        {"method": "temperature"},
        {"method": "temperature", "temperature": 0.0},
        {"method": "temperature", "temperature": 1.0, "labels": {"a": {"slope": 1.0, "intercept": 0.0}}},
    ],
)
def test_a_calibration_has_the_parameters_of_its_method(parameters: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="temperature"):
        Calibration.model_validate(parameters)
