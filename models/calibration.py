"""From logits to probabilities to what is said: scaling and operating points, as the bundle froze them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from models.contracts import Presence
from models.manifest import Calibration, OperatingPoint


def probabilities(
    calibration: Calibration | None, labels: Sequence[str], logits: Sequence[float], *, exclusive: bool = False
) -> tuple[float, ...]:
    """Calibrated probabilities in [0, 1], one per label; ``exclusive`` ones add up to 1."""
    if not exclusive:
        return tuple(probability(calibration, label, logit) for label, logit in zip(labels, logits, strict=True))
    temperature = 1.0 if calibration is None or calibration.temperature is None else calibration.temperature
    # The largest exponent is 0, so that none overflows and the sum is at least 1.
    highest = max(logits)
    weights = [math.exp((logit - highest) / temperature) for logit in logits]
    return tuple(weight / sum(weights) for weight in weights)


def probability(calibration: Calibration | None, label: str, logit: float) -> float:
    """Calibrated probability in [0, 1] of a label that excludes no other; a bare sigmoid without calibration."""
    if calibration is not None and calibration.temperature is not None:
        logit = logit / calibration.temperature
    elif calibration is not None:
        platt = calibration.labels[label]
        logit = platt.slope * logit + platt.intercept
    if logit >= 0:
        return 1 / (1 + math.exp(-logit))
    # The same value, written so that a strongly negative logit cannot overflow.
    return math.exp(logit) / (1 + math.exp(logit))


def presence(point: OperatingPoint, value: float) -> Presence:
    """At or above the threshold is present; the grey band below it, where the bundle has one, is undetermined."""
    if value >= point.threshold:
        return Presence.PRESENT
    if point.undetermined_low is not None and value >= point.undetermined_low:
        return Presence.UNDETERMINED
    return Presence.ABSENT
