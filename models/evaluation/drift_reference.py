"""What a bundle's scores and inputs were like when it was made, for whoever watches for drift where it reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS = 10


def drift_reference(chances: Mapping[str, NDArray[np.float64]], views: Iterable[str]) -> dict[str, Any]:
    """``evaluation.reference`` of a manifest.

    chances: probabilities in [0, 1] by label, each by a network that did not know the patient. views: ViewPosition of
    the same images; unknown ones ("") are left out.
    """
    edges = np.linspace(0, 1, BINS + 1)
    return {
        "scores": {
            label: {
                "edges": [round(float(edge), 6) for edge in edges],
                "counts": np.histogram(values, edges)[0].tolist(),
            }
            for label, values in chances.items()
        },
        "inputs": {"view_position": dict(sorted(Counter(view for view in views if view).items()))},
    }
