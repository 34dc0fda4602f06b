"""From logits to probabilities to what is said: Platt scaling and operating points, as the bundle froze them."""

from __future__ import annotations

import math

from models.contracts import Presence
from models.manifest import Calibration, OperatingPoint


def probability(calibration: Calibration | None, label: str, logit: float) -> float:
    """Calibrated probability in [0, 1] (Platt 1999); a bare sigmoid where the bundle has no calibration."""
    if calibration is not None:
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
